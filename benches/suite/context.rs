//! What every row needs: servers, databases, the daemon's release build, and how often to measure.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::calm;
use crate::support::daemon::Daemon;
use crate::support::postgres::{Database, Server};

/// Given to every row.
pub struct Context {
    /// A server with PostgreSQL's own defaults, which all rows share. A row that would disturb others starts its own:
    /// [`server`].
    pub server: Server,
    pub pairs: usize,
    /// How long a measurement lasts that is bounded by time.
    pub duration: Duration,
    quick: bool,
    started: Instant,
    /// At so many measurements the machine was not ours alone.
    disturbed: AtomicU32,
}

/// A throw-away server as PostgreSQL sets itself up: durability, autovacuum and memory included. Tests have theirs
/// without fsync; what is said later in postgresql.conf counts.
pub fn server(settings: &[&str]) -> Server {
    let defaults = ["fsync = on", "autovacuum_naptime = 1min", "max_connections = 200", "shared_buffers = 128MB"];
    Server::start(&[&defaults, settings].concat())
}

impl Context {
    pub fn new(arguments: &Arguments) -> Context {
        Context {
            server: server(&[]),
            pairs: arguments.pairs,
            duration: Duration::from_secs(arguments.seconds),
            quick: arguments.quick,
            started: Instant::now(),
            disturbed: AtomicU32::new(0),
        }
    }

    /// A database of one's own.
    pub async fn database(&self) -> Database {
        self.server.database().await
    }

    /// The daemon with this configuration, not yet started; `[database]` and `[endpoints.main]` for a receiver at the
    /// `endpoint` are added. Its log goes to a file.
    pub fn daemon(&self, database: &Database, endpoint: &str, watches: &str) -> Daemon {
        use crate::support::receiver::{APP_ID, KEY, SECRET};
        let config = format!(
            "[database]\nurl = \"{}\"\n[endpoints.main]\nurl = \"{endpoint}\"\napp_id = \"{APP_ID}\"\nkey = \"{KEY}\"\n\
             secret = \"{SECRET}\"\n{watches}",
            database.url()
        );
        Daemon::new(binary(), &config)
    }

    /// So many, or a hundredth of it with `--quick`.
    pub fn amount(&self, full: u64) -> u64 {
        if self.quick { (full / 100).max(1) } else { full }
    }

    /// A line of progress.
    pub fn say(&self, what: &str) {
        println!("bench: {:5.0} s  {what}", self.started.elapsed().as_secs_f64());
    }

    /// Waits until nobody else uses the machine, but not for ever.
    pub async fn calm(&self) {
        if !calm::wait().await {
            self.disturbed.fetch_add(1, Ordering::Relaxed);
            self.say("others use this machine: the next figure will suffer");
        }
    }

    pub fn disturbed(&self) -> u32 {
        self.disturbed.load(Ordering::Relaxed)
    }

    /// Measures every contender `pairs` times. They take turns, the other way round every other time, so that what
    /// the machine does meanwhile meets all of them. The
    /// values of a round stand at the same place of each.
    pub async fn rounds<C, T>(&self, contenders: &[C], mut measure: impl AsyncFnMut(&C) -> T) -> Vec<Vec<T>> {
        let mut values: Vec<Vec<T>> = contenders.iter().map(|_| Vec::new()).collect();
        for round in 0..self.pairs {
            for place in 0..contenders.len() {
                let turn = if round % 2 == 0 { place } else { contenders.len() - 1 - place };
                self.calm().await;
                values[turn].push(measure(&contenders[turn]).await);
            }
        }
        values
    }
}

/// The daemon of this build's own profile.
pub fn binary() -> PathBuf {
    std::env::var_os("ITEMS_LISTEN_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_items-listen")), PathBuf::from)
}
