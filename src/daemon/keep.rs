//! Keeps the watches in order: counts anew those that have a marker, and completes triggers that are missing.
//!
//! Each watch on its own, with a back-off of its own: one that fails is named and degraded, the others go on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Daemon;
use super::start::found;
use crate::config::Install;
use crate::db::holder::Holder;
use crate::db::locks::Lock;
use crate::db::migrate::InstallLock;
use crate::db::session::Purpose;
use crate::engine::Served;
use crate::error::Error;
use crate::journal::install::{self, Installed};
use crate::journal::recount::{self, Outcome};
use crate::metrics;
use crate::watch::Watch;

/// After an error, and after every further one doubled.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// When somebody else is at it, or triggers are just being made.
const PAUSE_BUSY: Duration = Duration::from_millis(100);
/// A recount that somebody else keeps from being done for so long, and who is none of ours, is named.
const NAMED_AFTER: Duration = Duration::from_secs(10);

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
    /// Watches that could not be brought up, and are tried until they are.
    wanting: HashSet<i32>,
    /// Watches that lack something only a person can mend.
    lacking: HashSet<i32>,
    /// When work on these watches failed last. Somebody else may do it instead.
    failed: HashMap<(Kind, i32), Instant>,
    /// Since when somebody else has had the lock of these watches' recounts.
    refused: HashMap<i32, Instant>,
    /// Watches that were degraded for that, and were counted by somebody else since.
    freed: Vec<i32>,
    /// A connection was lost in the midst of some work.
    lost: bool,
}

/// A piece of work that has ended.
pub(super) struct Done(Result<(Kind, i32, Result<Success, Error>), tokio::task::JoinError>);

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
            wanting: HashSet::new(),
            lacking: HashSet::new(),
            failed: HashMap::new(),
            refused: HashMap::new(),
            freed: Vec::new(),
            lost: false,
        }
    }

    /// Takes a watch into its care.
    pub(super) fn know(&mut self, id: i32, watch: Arc<Watch>) {
        self.watches.insert(id, watch);
    }

    /// Takes a watch into its care that could not be brought up.
    pub(super) fn want(&mut self, id: i32, watch: Arc<Watch>) {
        self.know(id, watch);
        self.degraded.insert(id);
        self.wanting.insert(id);
        self.pause.insert((Kind::Install, id), (Instant::now() + PAUSE_FIRST, PAUSE_FIRST));
    }

    /// Says of these watches what they lack, and of others that they no longer do.
    pub(super) async fn lack(&mut self, now: &HashMap<i32, String>) {
        for id in std::mem::take(&mut self.freed) {
            self.heal(id).await;
        }
        let mended: Vec<i32> = self.lacking.iter().filter(|id| !now.contains_key(id)).copied().collect();
        for id in mended {
            self.lacking.remove(&id);
            self.heal(id).await;
        }
        for (&id, what) in now {
            if self.watches.contains_key(&id) && self.lacking.insert(id) {
                self.degrade(id, what);
                self.record(id, Some(what)).await;
            }
        }
    }

    /// Watches that cannot be served at present.
    pub(super) fn is_degraded(&self, id: i32) -> bool {
        self.degraded.contains(&id)
    }

    /// Counts these anew, where it is not being done and its pause is over. They are all that have a marker now.
    pub(super) fn recount(&mut self, marked: &[i32]) {
        let counted = self.refused.extract_if(|id, _| !marked.contains(id)).map(|(id, _)| id);
        self.freed.extend(counted.filter(|id| self.degraded.contains(id)));
        self.start_recounts(marked);
    }

    /// What failed here may have been done by another replica: what was asked for after the failure, and is no longer to be
    /// done, is done.
    pub(super) fn done_elsewhere(&mut self, asked_at: Option<Instant>, marked: &[i32], uncovered: &[i32]) {
        let wanting = &self.wanting;
        let done = self.failed.extract_if(|(kind, id), failed_at| {
            let is_due = match kind {
                Kind::Recount => marked.contains(id),
                Kind::Install => uncovered.contains(id) || wanting.contains(id),
            };
            !is_due && Some(*failed_at) < asked_at
        });
        self.freed.extend(done.map(|((kind, id), _)| {
            self.pause.remove(&(kind, id));
            id
        }));
    }

    fn start_recounts(&mut self, marked: &[i32]) {
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
            self.start_recounts(marked);
            let wanting: Vec<i32> = self.wanting.iter().copied().collect();
            self.install(&wanting);
        }
    }

    /// When a pause is over, and something that was put off may be tried.
    pub(super) fn next_try(&self) -> Option<Instant> {
        let now = Instant::now();
        self.pause.values().map(|(until, _)| *until).filter(|until| *until > now).min()
    }

    /// Waits for something to be done; never, if nothing is. What it gives must be handed to [`Keeper::take_in`]: this
    /// may be dropped while it waits, and so does nothing else.
    pub(super) async fn done(&mut self) -> Done {
        match self.work.join_next().await {
            Some(done) => Done(done),
            None => std::future::pending().await,
        }
    }

    /// Takes in what was done.
    pub(super) async fn take_in(&mut self, Done(done): Done) -> News {
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
                metrics::recounted(&self.name(id), true);
                tracing::info!(watch = self.name(id), corrected, "counted");
                News::Look
            }
            Ok(Success::Recounted(outcome)) => {
                let before = self.pause.get(&(kind, id)).map_or(Duration::ZERO, |(_, pause)| *pause);
                let pause = (before * 2).clamp(PAUSE_BUSY, PAUSE_FIRST * 5);
                self.pause.insert((kind, id), (Instant::now() + pause, pause));
                if outcome == Outcome::Busy { self.held_up(id).await } else { News::Nothing }
            }
            Ok(Success::Installed(installed)) => {
                self.wanting.remove(&id);
                self.recovered(kind, id).await;
                let Some(watch) = self.watches.get(&id) else { return News::Look };
                News::Serve(Served::new(installed.id, installed.generation, Arc::clone(watch)))
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

    /// Somebody else has the lock of its recount. A daemon or a command of ours may for as long as it takes; anybody else
    /// keeps the watch from being evaluated, and is named.
    async fn held_up(&mut self, id: i32) -> News {
        let since = *self.refused.entry(id).or_insert_with(Instant::now);
        if since.elapsed() < NAMED_AFTER || self.degraded.contains(&id) {
            return News::Nothing;
        }
        let schema = &self.daemon.schema;
        let looked = self.daemon.pool.run(async |client| Holder::stranger(client, schema, &Lock::Recount(id).sql(schema)).await);
        match looked.await {
            Ok(Some(holder)) => {
                let what = format!("it cannot be counted: {holder} holds the lock of its recount; end it, it is none of ours");
                self.degrade(id, &what);
                self.record(id, Some(&what)).await;
                News::Look
            }
            Ok(None) => News::Nothing,
            Err(error) => {
                tracing::debug!(watch = self.name(id), %error, "looking who holds a recount's lock");
                News::Nothing
            }
        }
    }

    async fn recovered(&mut self, kind: Kind, id: i32) {
        self.pause.remove(&(kind, id));
        self.failed.remove(&(kind, id));
        if kind == Kind::Recount {
            self.refused.remove(&id);
        }
        self.heal(id).await;
    }

    /// One of the things that were wrong with a watch no longer is; if it was the last, it is whole.
    async fn heal(&mut self, id: i32) {
        let fails = [Kind::Recount, Kind::Install].iter().any(|kind| self.failed.contains_key(&(*kind, id)));
        if !fails && !self.lacking.contains(&id) && !self.wanting.contains(&id) {
            self.served(id);
            self.record(id, None).await;
        }
    }

    fn degrade(&mut self, id: i32, what: &str) {
        self.degraded.insert(id);
        let watch = self.name(id);
        if self.daemon.health.degraded(&watch) {
            tracing::error!(watch, error = what, "watch degraded; the others go on");
        }
    }

    fn served(&mut self, id: i32) {
        self.degraded.remove(&id);
        let watch = self.name(id);
        if self.daemon.health.served(&watch) {
            tracing::info!(watch, "no longer degraded");
        }
    }

    async fn failed(&mut self, kind: Kind, id: i32, error: &Error) {
        let before = self.pause.get(&(kind, id)).map_or(Duration::ZERO, |(_, pause)| *pause);
        let pause = (before * 2).clamp(PAUSE_FIRST, PAUSE_MAX);
        // A recount that gave way to somebody is no fault of the watch's.
        let gave_way = kind == Kind::Recount && (error.sqlstate() == Some("57014") || error.sqlstate() == Some("55P03"));
        self.pause.insert((kind, id), (Instant::now() + pause, pause));
        if error.is_lost() && !std::mem::replace(&mut self.lost, true) {
            // Whoever holds the session says so; the watch is as well as it was. But what is lost again and again while the
            // session lives is the watch's own.
            tracing::debug!(watch = self.name(id), %error, "put off");
            return;
        }
        if gave_way {
            tracing::info!(watch = self.name(id), "the recount is put off: {error}");
            return;
        }
        if kind == Kind::Recount {
            metrics::recounted(&self.name(id), false);
            // It may be that the triggers were made for another type of a column, and are to be made anew.
            if matches!(error, Error::Failed(_)) && self.daemon.database.install == Install::Auto {
                self.wanting.insert(id);
            }
        }
        self.failed.insert((kind, id), Instant::now());
        let error = error.to_string();
        self.degrade(id, &error);
        self.record(id, Some(&error)).await;
    }

    async fn record(&self, id: i32, error: Option<&str>) {
        let Some(watch) = self.watches.get(&id) else { return };
        let schema = &self.daemon.schema;
        let recorded = self.daemon.pool.run(async |client| install::record_error(client, schema, watch, error).await);
        if let Err(error) = recorded.await {
            tracing::debug!(%error, "recording a watch's state");
        }
    }
}

/// Installs a watch, or completes it, on a session of its own.
pub(super) async fn ensure(daemon: &Daemon, watch: &Watch) -> Result<Installed, Error> {
    let mut client = daemon.connector.session(Purpose::Install).await?;
    if daemon.database.install == Install::Manual {
        // Nothing is changed; but somebody may have installed it meanwhile.
        return found(&mut client, daemon, watch).await;
    }
    // The lock ends with the session.
    InstallLock::take(&client, &daemon.schema).await?;
    install::ensure_by_itself(&mut client, &daemon.schema, watch, &HashSet::new()).await
}
