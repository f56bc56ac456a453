//! Writers at a steady rate: `pgbench`, and how long each of its transactions took.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use crate::context::Context;
use crate::figure::percentile;
use crate::support::postgres::Database;

/// How the writers write.
pub struct Load<'a> {
    pub sql: &'a str,
    pub clients: u32,
    /// So many statements a second.
    pub rate: u64,
    pub duration: Duration,
}

/// Writers at work.
pub struct Running {
    child: Child,
    files: PathBuf,
}

/// What they managed.
pub struct Written {
    pub per_second: f64,
    transactions: Vec<Transaction>,
}

struct Transaction {
    ended: SystemTime,
    /// In milliseconds, from when it was due.
    took: f64,
}

impl Written {
    /// How long all but a hundredth took at most, in milliseconds, of those that ended between these.
    pub fn p99_between(&self, from: SystemTime, to: SystemTime) -> f64 {
        let within = self.transactions.iter().filter(|transaction| (from..=to).contains(&transaction.ended));
        percentile(&within.map(|transaction| transaction.took).collect::<Vec<_>>(), 99.0)
    }
}

impl Load<'_> {
    /// Starts them.
    pub fn start(&self, context: &Context, database: &Database) -> Running {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let files = std::env::temp_dir().join(format!("items-listen-bench-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&files).expect("a directory for pgbench");
        std::fs::write(files.join("load.sql"), self.sql).expect("the script is written");
        let mut command = context.server.program("pgbench", &database.name);
        command.env("PGPORT", database.port.to_string());
        command.args(["-n", "-M", "prepared", "-l", "-f", "load.sql", "-c", &self.clients.to_string()]);
        command.args(["-j", &self.clients.min(2).to_string(), "-T", &self.duration.as_secs().max(1).to_string()]);
        command.args(["-R", &self.rate.to_string()]);
        let output = std::fs::File::create(files.join("output")).expect("a file for what it says");
        let errors = output.try_clone().expect("the same file");
        let child = command.current_dir(&files).stdout(output).stderr(errors).stdin(Stdio::null()).spawn();
        Running { child: child.expect("pgbench starts"), files }
    }
}

impl Running {
    /// Ends them early, and says what they did until then. The very last of it is not in their logs any more.
    pub async fn stop(mut self) -> Written {
        let _killed = self.child.kill();
        self.end().await
    }

    /// Waits for their end.
    pub async fn end(self) -> Written {
        let Running { mut child, files } = self;
        let ended = tokio::task::spawn_blocking(move || {
            let _ended = child.wait();
            let output = std::fs::read_to_string(files.join("output")).unwrap_or_default();
            let rate = output.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
            let failed = output.lines().any(|line| line.contains("ERROR") || line.contains("aborted"));
            assert!(!failed, "a writer failed: {output}");
            let transactions = transactions(&files);
            let _removed = std::fs::remove_dir_all(&files);
            Written { per_second: rate.unwrap_or(f64::NAN), transactions }
        });
        ended.await.expect("no panic")
    }
}

fn transactions(files: &Path) -> Vec<Transaction> {
    let logs = std::fs::read_dir(files).into_iter().flatten().flatten();
    let logs = logs.filter(|entry| entry.file_name().to_string_lossy().starts_with("pgbench_log"));
    let texts: Vec<String> = logs.map(|entry| std::fs::read_to_string(entry.path()).unwrap_or_default()).collect();
    texts.iter().flat_map(|text| text.lines()).filter_map(transaction).collect()
}

/// A line of its log: "client number µs script seconds microseconds", the last two of the end.
fn transaction(line: &str) -> Option<Transaction> {
    let fields: Vec<u64> = line.split(' ').map_while(|field| field.parse().ok()).collect();
    let [_client, _number, took, _script, seconds, microseconds, ..] = fields[..] else { return None };
    let ended = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(microseconds);
    #[allow(clippy::cast_precision_loss, reason = "milliseconds")]
    Some(Transaction { ended, took: took as f64 / 1_000.0 })
}
