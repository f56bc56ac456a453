//! The chaos runner: one seed gives one schedule of writers, kills, stops, restarts, cut and stalled connections and
//! endpoint answers of every class. Then the faults stop, everything must converge, and an oracle that knows nothing of
//! the daemon's tables checks that the promise was kept.
//!
//! ```text
//!   make chaos SEED=7 MINUTES=30        cargo test --features chaos --test chaos -- --seed 7 --minutes 30
//!   … --mutation TwoFolders             a build that is wrong on purpose: must end with 1
//!   … --mutations yes                   each of them in turn: ends with 0 if every one was noticed
//! ```

#![allow(clippy::print_stdout, reason = "a runner says what it does")]
#![allow(unreachable_pub, reason = "a program of several files")]

#[path = "../support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "each user needs another part")]
mod support;

mod endpoint;
mod epoch;
mod oracle;
mod shop;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use items_listen::chaos::{Mutation, POINTS};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use epoch::Kind;
use world::World;

/// What the command line says.
struct Arguments {
    seed: u64,
    minutes: f64,
    mutation: Option<String>,
    /// All of them, each of which must be noticed.
    mutations: bool,
    /// Only epochs of this kind.
    only: Option<Kind>,
    /// Whether everything must have been hit.
    coverage: bool,
}

fn arguments() -> Result<Option<Arguments>, String> {
    let mut arguments = Arguments { seed: 1, minutes: 1.0, mutation: None, mutations: false, only: None, coverage: true };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        // What `cargo test` gives to every test binary.
        if name == "--nocapture" || name == "--quiet" {
            continue;
        }
        let value = given.next().ok_or_else(|| format!("{name} wants a value"))?;
        let wrong = |what: &str| format!("{name} {value}: {what} is wanted");
        match name.as_str() {
            "--seed" => arguments.seed = value.parse().map_err(|_| wrong("a whole number"))?,
            "--minutes" => arguments.minutes = value.parse().map_err(|_| wrong("a number"))?,
            "--mutation" => {
                let known = Mutation::ALL.iter().any(|mutation| format!("{mutation:?}") == value);
                if !known {
                    return Err(wrong(&format!("one of {:?}", Mutation::ALL)));
                }
                arguments.mutation = Some(value);
            }
            "--only" => {
                let kind = Kind::ALL.into_iter().find(|kind| format!("{kind:?}").eq_ignore_ascii_case(&value));
                arguments.only = Some(kind.ok_or_else(|| wrong(&format!("one of {:?}", Kind::ALL)))?);
            }
            "--mutations" => arguments.mutations = value == "yes",
            "--coverage" => arguments.coverage = value == "yes",
            _ => return Err(format!("{name}: known are --seed, --minutes, --mutation, --mutations, --only, --coverage")),
        }
    }
    Ok(Some(arguments))
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("chaos: {what}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    if arguments.mutations {
        return runtime.block_on(mutations(&arguments));
    }
    runtime.block_on(run(&arguments))
}

/// In what epoch a mutation shows itself soonest.
fn shows_in(mutation: Mutation) -> Kind {
    match mutation {
        Mutation::ListenAfterFold | Mutation::ArmWithoutLastFold => Kind::Quiet,
        Mutation::TwoFolders => Kind::Recounts,
        Mutation::BornUnleased => Kind::Slow,
        _ => Kind::Faults,
    }
}

/// So many epochs a mutation may survive.
const SURVIVES_MAX: u64 = 6;

/// Runs every build that is wrong on purpose: a runner that does not notice one is no runner.
async fn mutations(arguments: &Arguments) -> ExitCode {
    let mut survivors = Vec::new();
    for mutation in Mutation::ALL {
        let started = Instant::now();
        let mut noticed = None;
        for epoch in 0..SURVIVES_MAX {
            let mut random = StdRng::seed_from_u64(arguments.seed + epoch);
            let mut world = World::new(Some(format!("{mutation:?}")), &mut random).await;
            noticed = epoch::run(&mut world, shows_in(mutation), &mut random).await.into_iter().next();
            if noticed.is_some() {
                break;
            }
        }
        let took = started.elapsed().as_secs();
        match noticed {
            Some(violation) => println!("chaos: {mutation:?} was noticed after {took} s: {violation:.200}"),
            None => {
                println!("chaos: {mutation:?} was NOT noticed in {SURVIVES_MAX} epochs, {took} s");
                survivors.push(mutation);
            }
        }
    }
    if survivors.is_empty() {
        println!("chaos: every build that is wrong on purpose was noticed: {}", Mutation::ALL.len());
        return ExitCode::SUCCESS;
    }
    ExitCode::from(1)
}

async fn run(arguments: &Arguments) -> ExitCode {
    let Arguments { seed, minutes, .. } = arguments;
    println!(
        "chaos: seed {seed}, {minutes} minutes{}",
        arguments.mutation.as_deref().map_or(String::new(), |name| format!(", {name}"))
    );
    let mut random = StdRng::seed_from_u64(*seed);
    let mut world = World::new(arguments.mutation.clone(), &mut random).await;
    let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    let mut number = 0;
    let mut violations = Vec::new();
    // What was never hit by then gets another two rounds.
    while violations.is_empty()
        && (Instant::now() < end || (arguments.coverage && number < 3 * Kind::CYCLE.len() && !world.missed().is_empty()))
    {
        let kind = arguments.only.unwrap_or(Kind::CYCLE[number % Kind::CYCLE.len()]);
        let started = Instant::now();
        violations = epoch::run(&mut world, kind, &mut random).await;
        number += 1;
        println!("chaos: epoch {number} {kind:?}, {:.1} s: {}", started.elapsed().as_secs_f64(), world.tally.line());
    }
    let missed = if arguments.coverage { world.missed() } else { Vec::new() };
    println!("{}", world.tally.report(&world.faults.counts()));
    for violation in &violations {
        println!("VIOLATION: {violation}");
    }
    if !violations.is_empty() {
        world.dump().await;
        return ExitCode::from(1);
    }
    if !missed.is_empty() {
        println!("NEVER HIT: {}", missed.join(", "));
        return ExitCode::from(3);
    }
    println!("chaos: nothing lost, nothing unexpected, nothing out of order; {} points", POINTS.len());
    ExitCode::SUCCESS
}
