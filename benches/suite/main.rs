//! The benchmark suite: what items-listen costs and carries, beside what one would use in its place. Contenders alternate
//! within one run on one machine, so that the ratios stand even where the machine is shared or slow.
//!
//! ```text
//!   make bench                                  all rows, five pairs each
//!   make bench ONLY=writes,latency PAIRS=7 JSON=figures.json
//!   cargo bench --bench suite -- --list
//! ```

#![allow(clippy::print_stdout, reason = "a runner says what it does")]
#![allow(unreachable_pub, reason = "a program of several files")]

#[path = "../../tests/support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "each user needs another part")]
mod support;

mod arguments;
mod calm;
mod context;
mod figure;
mod ledger;
mod listen;
mod machine;
mod peers;
mod pgbench;
mod process;
mod report;
mod rows;
mod senders;
mod shop;
mod sink;
mod writers;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use futures_util::FutureExt as _;

use arguments::{Arguments, Order};
use context::Context;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(sink::ARGUMENT) {
        return sink::be();
    }
    match arguments::read(std::env::args().skip(1)) {
        Ok(Order::Run(arguments)) => runtime().block_on(run(arguments)),
        Ok(Order::List) => {
            rows::NAMES.iter().for_each(|name| println!("{name}"));
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("bench: {what}");
            ExitCode::from(2)
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

async fn run(arguments: Arguments) -> ExitCode {
    let context = Context::new(&arguments);
    let machine = machine::describe(&context).await;
    println!("bench: {}", machine::line(&machine));
    let (mut figures, mut failed) = (Vec::new(), Vec::new());
    for name in &arguments.only {
        context.say(&format!("{name}: {} pairs", context.pairs));
        // A row that fails says so, and the others go on.
        match AssertUnwindSafe(rows::run(name, &context)).catch_unwind().await {
            Ok(measured) => figures.extend(measured),
            Err(_) => failed.push(name.as_str()),
        }
        // Written after every row: what was measured is not lost to what fails later.
        report::write(&arguments.json, &machine, &arguments, &figures, context.disturbed());
    }
    println!("\n{}", report::table(&figures));
    if context.disturbed() > 0 {
        println!(
            "bench: others used the machine at {} measurements: their figures are worse than they should be",
            context.disturbed()
        );
    }
    println!("bench: {}", arguments.json.display());
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("bench: not measured, see above: {}", failed.join(", "));
    ExitCode::FAILURE
}
