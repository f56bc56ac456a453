//! Keeps the watches in order: counts anew those that have a marker, and completes triggers that are missing.
//!
//! Each watch on its own, with a back-off of its own: one that fails is named and degraded, the others go on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Daemon;
use crate::db::migrate::InstallLock;
use crate::db::session::Purpose;
use crate::engine::Served;
use crate::error::Error;
use crate::journal::install::{self, Installed};
use crate::journal::recount::{self, Outcome};
use crate::watch::Watch;

/// After an error, and after every further one doubled.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// When somebody else is at it, or triggers are just being made.
const PAUSE_BUSY: Duration = Duration::from_millis(100);

/// What a piece of work on a watch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Recount,
    Install,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum News {
    /// Something changed: look at the journal.
    Look,
    /// A watch has (another) definition in the database.
    Serve(Served),
    /// Nothing that anybody waits for.
    Nothing,
}

/// The keeper.
pub(super) struct Keeper {
    daemon: Daemon,
    watches: HashMap<i32, Arc<Watch>>,
    work: JoinSet<(Kind, i32, Result<Success, Error>)>,
    busy: HashSet<(Kind, i32)>,
    pause: HashMap<(Kind, i32), (Instant, Duration)>,
    degraded: HashSet<i32>,
}

#[derive(Debug)]
enum Success {
    Recounted(Outcome),
    Installed(Installed),
}

impl Keeper {
    pub(super) fn new(daemon: Daemon) -> Keeper {
        Keeper {
            daemon,
            watches: HashMap::new(),
            work: JoinSet::new(),
            busy: HashSet::new(),
            pause: HashMap::new(),
            degraded: HashSet::new(),
        }
    }

    /// Takes a watch into its care.
    pub(super) fn know(&mut self, id: i32, watch: Arc<Watch>) {
        self.watches.insert(id, watch);
    }

    /// Watches that cannot be served at present.
    pub(super) fn is_degraded(&self, id: i32) -> bool {
        self.degraded.contains(&id)
    }

    /// Counts these anew, where it is not being done and its pause is over.
    pub(super) fn recount(&mut self, marked: &[i32]) {
        for &id in marked {
            let Some(watch) = self.begin(Kind::Recount, id) else { continue };
            let daemon = self.daemon.clone();
            self.work.spawn(async move {
                let outcome = recount::run(&daemon.connector, &daemon.schema, &watch).await;
                (Kind::Recount, id, outcome.map(Success::Recounted))
            });
        }
    }

    /// Completes the triggers of these.
    pub(super) fn install(&mut self, uncovered: &[i32]) {
        for &id in uncovered {
            let Some(watch) = self.begin(Kind::Install, id) else { continue };
            let daemon = self.daemon.clone();
            self.work.spawn(async move { (Kind::Install, id, ensure(&daemon, &watch).await.map(Success::Installed)) });
        }
    }

    fn begin(&mut self, kind: Kind, id: i32) -> Option<Arc<Watch>> {
        let watch = Arc::clone(self.watches.get(&id)?);
        let paused = self.pause.get(&(kind, id)).is_some_and(|(until, _)| Instant::now() < *until);
        (!paused && self.busy.insert((kind, id))).then_some(watch)
    }

    /// Tries those again whose pause is over.
    pub(super) fn retry(&mut self, marked: &[i32]) {
        let now = Instant::now();
        if self.pause.values().any(|(until, _)| *until <= now) {
            self.recount(marked);
        }
    }

    /// When a pause is over, and something that was put off may be tried.
    pub(super) fn next_try(&self) -> Option<Instant> {
        let now = Instant::now();
        self.pause.values().map(|(until, _)| *until).filter(|until| *until > now).min()
    }

    /// Waits for something to be done; never, if nothing is.
    pub(super) async fn news(&mut self) -> News {
        let Some(done) = self.work.join_next().await else { return std::future::pending().await };
        let (kind, id, result) = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "work on a watch ended unexpectedly");
                self.busy.clear();
                return News::Look;
            }
        };
        self.busy.remove(&(kind, id));
        match result {
            Ok(Success::Recounted(Outcome::Done { corrected })) => {
                self.recovered(kind, id).await;
                tracing::info!(watch = self.name(id), corrected, "counted");
                News::Look
            }
            Ok(Success::Recounted(Outcome::Busy | Outcome::Uncovered)) => {
                self.pause.insert((kind, id), (Instant::now() + PAUSE_BUSY, Duration::ZERO));
                News::Nothing
            }
            Ok(Success::Installed(installed)) => {
                self.recovered(kind, id).await;
                let Some(watch) = self.watches.get(&id) else { return News::Look };
                News::Serve(Served { id: installed.id, generation: installed.generation, watch: Arc::clone(watch) })
            }
            Err(error) => {
                self.failed(kind, id, &error).await;
                News::Look
            }
        }
    }

    fn name(&self, id: i32) -> String {
        self.watches.get(&id).map_or_else(|| id.to_string(), |watch| watch.name.clone())
    }

    async fn recovered(&mut self, kind: Kind, id: i32) {
        self.pause.remove(&(kind, id));
        if self.degraded.remove(&id) {
            tracing::info!(watch = self.name(id), "no longer degraded");
        }
        self.record(id, None).await;
    }

    async fn failed(&mut self, kind: Kind, id: i32, error: &Error) {
        let before = self.pause.get(&(kind, id)).map_or(Duration::ZERO, |(_, pause)| *pause);
        let pause = (before * 2).clamp(PAUSE_FIRST, PAUSE_MAX);
        // A recount that gave way to somebody is no fault of the watch's.
        let gave_way = error.sqlstate() == Some("57014") || error.sqlstate() == Some("55P03");
        self.pause.insert((kind, id), (Instant::now() + pause, pause));
        if gave_way {
            tracing::info!(watch = self.name(id), "the recount is put off: {error}");
            return;
        }
        if self.degraded.insert(id) {
            tracing::error!(watch = self.name(id), %error, "watch degraded; the others go on");
        }
        self.record(id, Some(&error.to_string())).await;
    }

    async fn record(&self, id: i32, error: Option<&str>) {
        let Some(watch) = self.watches.get(&id) else { return };
        let recorded = async {
            let client = crate::db::pool::get(&self.daemon.pool).await?;
            install::record_error(&client, &self.daemon.schema, watch, error).await
        };
        if let Err(error) = recorded.await {
            tracing::debug!(%error, "recording a watch's state");
        }
    }
}

/// Installs a watch, or completes it, on a session of its own.
pub(super) async fn ensure(daemon: &Daemon, watch: &Watch) -> Result<Installed, Error> {
    let mut client = daemon.connector.session(Purpose::Install).await?;
    // The lock ends with the session.
    InstallLock::take(&client, &daemon.schema).await?;
    install::ensure(&mut client, &daemon.schema, watch, false).await
}
