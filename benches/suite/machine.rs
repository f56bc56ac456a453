//! On what it was measured: figures without it say nothing.

use std::process::Command;

use serde_json::{Value, json};

use crate::context::Context;

/// The machine, the server and the commit.
pub async fn describe(context: &Context) -> Value {
    let database = context.database().await;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({
        "cpu": field("/proc/cpuinfo", "model name"),
        "cores": cores,
        "memory": field("/proc/meminfo", "MemTotal"),
        "kernel": output(Command::new("uname").args(["-sr"])),
        "fdatasync_us": fdatasync(context),
        "postgresql": database.one::<String>("SHOW server_version").await,
        "synchronous_commit": database.one::<String>("SHOW synchronous_commit").await,
        "fsync": database.one::<String>("SHOW fsync").await,
        "commit": output(Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"])),
        "at": jiff::Timestamp::now().to_string(),
    })
}

/// In a line.
pub fn line(machine: &Value) -> String {
    let text = |name: &str| machine[name].as_str().unwrap_or("?").to_owned();
    format!(
        "{} cores of {}, {}, PostgreSQL {}, fdatasync {} µs, commit {}",
        machine["cores"],
        text("cpu"),
        text("memory"),
        text("postgresql"),
        machine["fdatasync_us"],
        text("commit")
    )
}

fn field(file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map_or("?", |(_, value)| value.trim()).to_owned()
}

fn output(command: &mut Command) -> String {
    command.output().map_or_else(|_| "?".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What a flush costs where the server's data are, in µs: the first figure of `pg_test_fsync` for it.
fn fdatasync(context: &Context) -> Option<f64> {
    let file = context.server.directory.join("pg_test_fsync");
    let text = output(context.server.program("pg_test_fsync", "postgres").args(["-s", "1", "-f"]).arg(&file));
    let _removed = std::fs::remove_file(&file);
    let line = text.lines().find(|line| line.trim_start().starts_with("fdatasync"))?;
    line.split_whitespace().rev().nth(1)?.parse().ok()
}
