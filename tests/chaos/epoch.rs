//! One epoch: things go wrong for a few seconds in one manner; then nothing does, everything converges, and is checked.

use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use crate::endpoint::{Answer, Mood};
use crate::oracle;
use crate::shop::{self, KEYS, ORDINARY, Writers};
use crate::support::proxy::Mode;
use crate::world::World;

/// The manner of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Two daemons, killed at every step and at random, stopped, cut off, stalled; endpoints that fail in every way.
    Faults,
    /// Nothing is wrong but restarts; the poll is so slow that only the doorbell can be in time.
    Quiet,
    /// Two daemons that are reloaded, and an endpoint that takes its time: nothing may come twice.
    Slow,
    /// The server is restarted, sessions are killed, tables are locked.
    Server,
    /// An endpoint refuses everything, rejects one key, or lives in another time.
    Refusing,
    /// Two daemons, and everything is counted anew again and again.
    Recounts,
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::Faults, Kind::Quiet, Kind::Slow, Kind::Server, Kind::Refusing, Kind::Recounts];
    /// The order in which they come.
    pub const CYCLE: [Kind; 8] =
        [Kind::Faults, Kind::Quiet, Kind::Refusing, Kind::Faults, Kind::Server, Kind::Recounts, Kind::Faults, Kind::Slow];
}

/// How long things go wrong.
const FAULTS_FOR: Duration = Duration::from_secs(7);
/// So long it is tried to bring a daemon to a point.
const REACHED_WITHIN: Duration = Duration::from_millis(1_500);
/// By when all must be well once nothing is wrong any more.
const CONVERGED_WITHIN: Duration = Duration::from_secs(40);
/// By when a change must be said while nothing is wrong: long, but shorter than the poll of such an epoch.
const FRESH_WITHIN: Duration = Duration::from_secs(10);

/// Runs one. Gives what was violated.
pub async fn run(world: &mut World, kind: Kind, random: &mut StdRng) -> Vec<String> {
    let mut violations = Vec::new();
    let mut refused = false;
    match kind {
        Kind::Faults => faults(world, random, &mut violations, Mishap::Anything).await,
        Kind::Server => faults(world, random, &mut violations, Mishap::Server).await,
        Kind::Quiet => quiet(world, random, &mut violations).await,
        Kind::Slow => slow(world, random, &mut violations).await,
        Kind::Refusing => refused = refusing(world, random, &mut violations).await,
        Kind::Recounts => recounts(world, random, &mut violations).await,
    }
    if violations.is_empty() {
        converge(world, &mut violations).await;
    }
    world.weigh();
    check(world, refused, &mut violations).await;
    violations
}

fn writers(world: &World, count: u64, pause: Duration, random: &mut StdRng) -> Writers {
    Writers::start(&world.url(), count, pause, &world.away, &world.tally.committed, random)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mishap {
    Anything,
    Server,
}

async fn faults(world: &mut World, random: &mut StdRng, violations: &mut Vec<String>, mishap: Mishap) {
    world.daemons(2, "1s").await;
    let writers = writers(world, 3, Duration::from_millis(8), random);
    for endpoint in &world.endpoints {
        endpoint.mood(Mood::Failing(random.random_range(10..50)));
    }
    let end = Instant::now() + FAULTS_FOR;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..400))).await;
        world.revive(true, random);
        match mishap {
            Mishap::Anything => anything(world, &writers, random, violations).await,
            Mishap::Server => server(world, random, violations).await,
        }
    }
    mend(world).await;
    violations.extend(writers.end().await);
    world.disarm(random);
}

/// kill -9 at a point of the path, which is provoked.
async fn kill_at_a_point(world: &mut World, index: usize, writers: &Writers, random: &mut StdRng, violations: &mut Vec<String>) {
    world.faults.note("kill");
    let point = world.respawn(index, true, random).unwrap_or_default();
    if point.starts_with("install") || point.starts_with("recount") {
        // Whoever comes first does it: there is to be no other.
        world.faults.note("kill");
        for other in (0..world.daemons.len()).filter(|other| *other != index) {
            world.daemons[other].kill();
        }
    }
    let deadline = Instant::now() + REACHED_WITHIN;
    while Instant::now() < deadline && !world.daemons[index].has_ended() {
        if point.starts_with("bell") {
            writers.rest(Duration::from_millis(random.random_range(50..200))).await;
        }
        if point.starts_with("install") || point.starts_with("recount") {
            violations.extend(world.partition().await.err());
        }
        if point.starts_with("reload") {
            world.reload(index);
        }
        if point.starts_with("stop") && world.daemons[index].address().is_some() {
            world.faults.note("terminate");
            world.daemons[index].signal("TERM");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.revive(true, random);
}

/// One thing goes wrong.
async fn anything(world: &mut World, writers: &Writers, random: &mut StdRng, violations: &mut Vec<String>) {
    let index = random.random_range(0..world.daemons.len());
    let which = random.random_range(0..2);
    match random.random_range(0..21) {
        0..=9 => kill_at_a_point(world, index, writers, random, violations).await,
        10..=12 => world.kill(index, random),
        13 => {
            world.faults.note("stop");
            world.daemons[index].signal("STOP");
            // Longer than a lease at times, longer than the server's patience mostly.
            tokio::time::sleep(Duration::from_millis(*[200, 900, 3_500, 8_000].choose(random).expect("some"))).await;
            world.faults.note("continue");
            world.daemons[index].signal("CONT");
        }
        14 => {
            world.faults.note("database cut");
            world.database.cut();
        }
        15 => {
            world.faults.note("database stalled");
            world.database.mode(if random.random() { Mode::Stall } else { Mode::StallAnswers });
            tokio::time::sleep(Duration::from_millis(random.random_range(200..4_500))).await;
            if random.random() {
                world.database.pass()
            } else {
                world.database.strand()
            }
            world.faults.note("database mended");
        }
        16 => {
            world.faults.note("endpoint cut");
            world.proxies[which].cut();
        }
        17 => {
            world.faults.note("endpoint stalled");
            world.proxies[which].mode(*[Mode::Stall, Mode::StallAnswers, Mode::Refuse].choose(random).expect("some"));
            tokio::time::sleep(Duration::from_millis(random.random_range(200..2_500))).await;
            world.proxies[which].pass();
            world.faults.note("endpoint mended");
        }
        18 => {
            world.faults.note("terminate");
            let daemon = &mut world.daemons[index];
            daemon.signal("TERM");
            tokio::time::sleep(Duration::from_millis(random.random_range(10..500))).await;
            world.respawn(index, true, random);
        }
        19 => world.reload(index),
        _ => terminate_sessions(world).await,
    }
}

async fn terminate_sessions(world: &World) {
    world.faults.note("sessions terminated");
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE application_name = 'items-listen' AND datname = current_database() AND random() < 0.6";
    let _server_is_away = world.client.batch_execute(sql).await;
}

/// Something goes wrong with the server.
async fn server(world: &mut World, random: &mut StdRng, violations: &mut Vec<String>) {
    match random.random_range(0..8) {
        0 => world.restart_server("fast").await,
        1 => world.restart_server("immediate").await,
        2 | 3 => terminate_sessions(world).await,
        4 => {
            world.faults.note("table locked");
            let table = *["delivery", "count", "endpoint", "event", "journal", "journal, items_listen.marker"]
                .choose(random)
                .expect("some");
            // The journal is the writers' too: they would wait as well, and are not to be failed by that.
            let held = random.random_range(0.1..1.5);
            let sql = format!("BEGIN; LOCK TABLE items_listen.{table} IN EXCLUSIVE MODE; SELECT pg_sleep({held}); COMMIT");
            let _server_is_away = world.client.batch_execute(&sql).await;
        }
        5 | 6 => violations.extend(world.partition().await.err()),
        _ => {
            let index = random.random_range(0..world.daemons.len());
            world.kill(index, random);
        }
    }
}

/// Nothing is wrong: what is committed must be said soon, by the doorbell alone.
async fn quiet(world: &mut World, random: &mut StdRng, violations: &mut Vec<String>) {
    world.daemons(1, "40s").await;
    let mut up: std::collections::HashMap<i32, bool> = std::collections::HashMap::new();
    let session = crate::support::postgres::connect(&world.url()).await;
    for probe in 0..14 {
        if probe % 4 == 1 {
            world.faults.note("kill");
            let _none = world.respawn(0, false, random);
            world.daemons[0].ready().await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..700))).await;
        let key = random.random_range(ORDINARY);
        let up = up.entry(key).or_insert(false);
        *up = !*up;
        let sql = shop::toggle(key, *up);
        let started = Instant::now();
        let slowly = random.random();
        if slowly {
            // The daemon is awake when this one looks, since so much was just committed, and asleep when it commits.
            for _ in 0..15 {
                let _woken = world.client.batch_execute(&shop::replace(random)).await;
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..12))).await;
        }
        let halves =
            if slowly { vec![format!("BEGIN; {sql}"), "COMMIT".to_owned()] } else { vec![format!("BEGIN; {sql}COMMIT")] };
        for (index, half) in halves.iter().enumerate() {
            if index > 0 {
                // It looked whether somebody sleeps a while before it commits.
                tokio::time::sleep(Duration::from_millis(random.random_range(10..100))).await;
            }
            if let Err(error) = session.batch_execute(half).await {
                violations.push(format!("a writer failed: {error:?}"));
                return;
            }
        }
        world.tally.probes += 1;
        if !said(world, FRESH_WITHIN).await {
            violations.push(format!(
                "probe {probe}: key {key} changed {}, and that was not said within {FRESH_WITHIN:?} although nothing was wrong",
                if *up { "upwards" } else { "downwards" }
            ));
            return;
        }
        world.tally.slowest_probe = world.tally.slowest_probe.max(started.elapsed());
    }
    for _ in 0..3 {
        let writers = writers(world, 8, Duration::from_micros(300), random);
        tokio::time::sleep(Duration::from_millis(500)).await;
        violations.extend(writers.end().await);
        if !said(world, FRESH_WITHIN).await {
            violations.push(format!("after a burst not all was said within {FRESH_WITHIN:?} although nothing was wrong"));
            return;
        }
    }
}

/// An endpoint that takes its time.
async fn slow(world: &mut World, random: &mut StdRng, violations: &mut Vec<String>) {
    world.daemons(2, "100ms").await;
    for endpoint in &world.endpoints {
        endpoint.mood(Mood::Slow(Duration::from_millis(random.random_range(150..400))));
    }
    let writers = writers(world, 3, Duration::from_millis(30), random);
    let end = Instant::now() + FAULTS_FOR / 2;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(random.random_range(100..900))).await;
        world.reload(random.random_range(0..world.daemons.len()));
    }
    mend(world).await;
    violations.extend(writers.end().await);
}

/// Everything is counted anew, while two daemons are awake.
async fn recounts(world: &mut World, random: &mut StdRng, violations: &mut Vec<String>) {
    world.daemons(2, "200ms").await;
    let writers = writers(world, 3, Duration::from_millis(3), random);
    let session = crate::support::postgres::connect(&world.url()).await;
    let end = Instant::now() + FAULTS_FOR;
    while Instant::now() < end {
        if let Err(error) = session.batch_execute(&shop::truncate(random)).await {
            violations.push(format!("TRUNCATE failed: {error:?}"));
            break;
        }
        world.faults.note("truncated");
        tokio::time::sleep(Duration::from_millis(random.random_range(20..500))).await;
    }
    violations.extend(writers.end().await);
}

/// Endpoints that do not take what they are sent. Gives whether some events may be dead.
async fn refusing(world: &mut World, random: &mut StdRng, violations: &mut Vec<String>) -> bool {
    world.daemons(2, "1s").await;
    let writers = writers(world, 3, Duration::from_millis(15), random);
    world.endpoints[1].rejects(true);
    world.faults.note("clock");
    world.endpoints[0].clock(if random.random() { 5_000 } else { -5_000 });
    tokio::time::sleep(FAULTS_FOR / 3).await;
    world.endpoints[0].clock(0);
    world.faults.note("clock");
    tokio::time::sleep(FAULTS_FOR / 3).await;
    world.endpoints[0].mood(Mood::Refusing(*Answer::REFUSING.choose(random).expect("some")));
    tokio::time::sleep(FAULTS_FOR / 3).await;
    mend(world).await;
    violations.extend(writers.end().await);
    // A start is a reload: what was paused is probed at once.
    for index in 0..world.daemons.len() {
        world.faults.note("kill");
        let _none = world.respawn(index, false, random);
    }
    true
}

/// From here on nothing is wrong.
async fn mend(world: &World) {
    for (endpoint, proxy) in world.endpoints.iter().zip(&world.proxies) {
        endpoint.mood(Mood::Well);
        endpoint.rejects(false);
        endpoint.clock(0);
        proxy.pass();
    }
    world.database.pass();
    world.faults.note("mended");
}

/// Waits until what was said last about each key is the truth, at both endpoints.
async fn said(world: &World, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    loop {
        let history = oracle::history(&world.client).await;
        let true_everywhere = (0..2).all(|index| {
            let said = oracle::said(&world.endpoints[index].arrivals(), &world.told[index]);
            KEYS.filter(|key| *key != shop::POISON || index == 0).all(|key| {
                let truth = oracle::severity(history[&key].last().copied().unwrap_or(0));
                said.get(&key).map_or("info", String::as_str) == truth
            })
        });
        if true_everywhere {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn converge(world: &mut World, violations: &mut Vec<String>) {
    let started = Instant::now();
    // What is wrong on purpose need not be waited for as long.
    let within = if world.mutation.is_some() { CONVERGED_WITHIN / 4 } else { CONVERGED_WITHIN };
    let all_said = said(world, within).await;
    // Whatever is still on its way arrives before it is looked at.
    let waiting = "SELECT (SELECT count(*) FROM items_listen.delivery WHERE state = 'pending' AND endpoint <> 'void')
                        + (SELECT count(*) FROM items_listen.journal) + (SELECT count(*) FROM items_listen.marker)
                        + (SELECT count(*) FROM items_listen.count WHERE dirty > 0)";
    if !all_said {
        violations.push(format!("what was said last is not the truth, {within:?} after everything was mended"));
    }
    loop {
        let left: i64 = world.client.query_one(waiting, &[]).await.expect("the database is there").get(0);
        if left == 0 {
            break;
        }
        if started.elapsed() > within {
            violations.push(format!("{left} rows still wait, {within:?} after everything was mended"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.tally.slowest_convergence = world.tally.slowest_convergence.max(started.elapsed());
}

async fn check(world: &mut World, refused: bool, violations: &mut Vec<String>) {
    let history = oracle::history(&world.client).await;
    for index in 0..2 {
        let name = ["main", "side"][index];
        let arrivals = world.endpoints[index].arrivals();
        let findings = oracle::check(name, &arrivals, &history, &mut world.told[index], &world.faults, refused && index == 1);
        violations.extend(findings.violations);
        world.tally.alerts += findings.alerts;
        world.tally.duplicates += findings.duplicates;
        violations.extend(world.endpoints[index].wrong().into_iter().map(|what| format!("{name}: {what}")));
        violations.extend(world.unaccounted(index).await);
    }
    let newest = world.endpoints[0].arrivals().into_iter().max_by_key(|arrival| arrival.seq);
    let unread = "SELECT count(*) FROM items_listen.alert WHERE watch = 'stock' AND read_at IS NULL";
    let unread: i64 = world.client.query_one(unread, &[]).await.expect("the inbox is there").get(0);
    if let Some(newest) = newest.filter(|newest| newest.unread != Some(unread)) {
        violations.push(format!("main: {} says that {:?} are unread, and {unread} are", newest.line(), newest.unread));
    }
    let reasons =
        "SELECT reason, count(*) FROM items_listen.delivery WHERE reason IS NOT NULL AND state <> 'pending' GROUP BY reason";
    for row in world.client.query(reasons, &[]).await.expect("deliveries") {
        let count: i64 = row.get(1);
        *world.tally.reasons.entry(row.get(0)).or_default() += count.unsigned_abs();
    }
    // The next epoch begins with what is true now; some alerts are read, as people do.
    world.daemons.clear();
    let begin = "TRUNCATE items_listen.delivery;
                 UPDATE items_listen.alert SET read_at = now() WHERE read_at IS NULL AND random() < 0.3;
                 CREATE TEMP TABLE now AS SELECT k, sum(delta) AS delta FROM oracle.change GROUP BY k HAVING sum(delta) <> 0;
                 TRUNCATE oracle.change; INSERT INTO oracle.change (k, delta) SELECT k, delta FROM now; DROP TABLE now";
    world.client.batch_execute(begin).await.expect("the next epoch begins");
    for index in 0..2 {
        world.endpoints[index].forget();
        for told in world.told[index].values_mut() {
            told.begin();
        }
    }
    world.faults.forget();
}
