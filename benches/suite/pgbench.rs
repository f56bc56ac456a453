//! pgbench, as an application that writes.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::support::postgres::{Database, Server};

/// A script that it repeats.
pub struct Script {
    file: PathBuf,
}

impl Script {
    pub fn new(text: &str) -> Script {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("items-listen-pgbench-{}-{number}.sql", std::process::id()));
        std::fs::write(&file, text).expect("the script is written");
        Script { file }
    }

    /// Transactions per second of so many clients, prepared statements, connections already made.
    pub async fn rate(&self, server: &Server, database: &Database, clients: usize, duration: Duration) -> f64 {
        let mut command = server.program("pgbench", &database.name);
        let threads = clients.min(std::thread::available_parallelism().map_or(1, usize::from));
        command.args(["-n", "-M", "prepared", "-c", &clients.to_string(), "-j", &threads.to_string()]);
        command.args(["-T", &duration.as_secs().to_string(), "-f"]).arg(&self.file);
        command.stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("pgbench starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        match rate {
            Some(rate) if output.status.success() => rate,
            _ => panic!("pgbench: {text}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _removed = std::fs::remove_file(&self.file);
    }
}
