//! The daemon: sessions that come and go, tasks that stay, and an orderly end.
//!
//! What survives a lost database connection (the dispatcher's memory, the HTTP listener) is started once per
//! configuration; everything that holds a lock or a snapshot belongs to one `session` and goes with it. A reload is a
//! rolling restart inside the process: the next daemon is built whole, the session of the one before it ends in order,
//! and what that one has under way it finishes beside its successor, as another replica would.

pub mod folds;
pub mod health;
mod housekeeping;
pub mod instance;
mod keep;
pub mod reload;
mod session;
mod start;
mod summary;
pub mod systemd;
mod unwritten;

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::chaos::point;
use crate::config::{Config, Database, exposure};
use crate::db::explain;
use crate::db::pool::Pool;
use crate::db::schema::Schema;
use crate::db::session::Connector;
use crate::dispatch::{Context, Dispatch, Running, lock};
use crate::engine::{Pace, Received};
use crate::error::Error;
use crate::http::Bound;
use crate::metrics::{self, Exporter};
use crate::retry::Retry;
use health::Health;
use reload::Reloads;
use systemd::Supervisor;

/// The whole orderly end takes no longer than this.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Answers over HTTP have so long to come to their end, once everything else has.
const HTTP_DRAIN_MAX: Duration = Duration::from_secs(1);
/// Taking ourselves out of the database takes no longer than this; otherwise leases end by themselves.
const LEAVE_MAX: Duration = Duration::from_secs(1);
/// With the doorbell off the poll is quicker instead.
const POLL_WITHOUT_DOORBELL: Duration = Duration::from_millis(50);
/// A session that lasted so long has worked, ready or not.
const WORKED: Duration = Duration::from_secs(30);
/// Between two tries to reach the database.
const RECONNECT: Retry = Retry { initial: Duration::from_millis(100), max: Duration::from_secs(5), give_up_after: Duration::MAX };

/// What all of the daemon's parts share, for as long as one configuration is in force.
#[derive(Clone)]
pub struct Daemon {
    /// The configuration.
    pub config: Arc<Config>,
    /// Its `[database]`.
    pub database: Database,
    /// Opens sessions.
    pub connector: Connector,
    /// Where our tables are.
    pub schema: Schema,
    /// Ordinary sessions.
    pub pool: Pool,
    /// Under this name it is in the database.
    pub instance: Uuid,
    /// The endpoints' tasks.
    pub dispatch: Dispatch,
    /// Whether this configuration has had a session yet.
    pub entered: Arc<AtomicBool>,
    /// Watches that are no longer configured are still there: their tables were in use.
    pub strangers: Arc<AtomicBool>,
    /// What stays, whatever the configuration.
    pub process: Process,
    /// What `/readyz` says.
    pub health: Arc<Health>,
    /// Cancelled when the daemon, or this configuration, is to end.
    pub stop: CancellationToken,
}

/// What belongs to the process, and outlives a reload.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// What `/readyz` says.
    pub health: Arc<Health>,
    /// Whoever started this process, and watches over it.
    pub supervisor: Arc<Supervisor>,
    /// Readings that were received and are not yet committed: they outlive the session that heard them.
    pub readings: Arc<Mutex<VecDeque<Received>>>,
    /// How much folds take at once.
    pub pace: Arc<Mutex<Pace>>,
    /// The names under which this process is, or was, in the database: one per configuration.
    pub instances: Arc<Mutex<Vec<Uuid>>>,
    /// Cancelled when the process is to end.
    pub stop: CancellationToken,
}

impl Daemon {
    /// Builds everything that a configuration needs and that nothing outside this process is asked for. Its endpoints'
    /// tasks run, and have nothing to do yet.
    ///
    /// # Errors
    /// A configuration that names no database, certificates that cannot be read, an HTTP client that cannot be made.
    pub fn build(config: Config, process: &Process) -> Result<(Daemon, Running), Error> {
        let database = config.require_database()?.clone();
        let connector = Connector::new(&database.url, &database.schema)?;
        let schema = Schema::new(&database.schema);
        let pool = Pool::new(&connector, database.pool_size)?;
        let instance = Uuid::now_v7();
        let context = Context { pool: pool.clone(), schema: schema.clone(), instance };
        let (dispatch, running) = Dispatch::start(&config.endpoints, &context)?;
        lock(&process.instances).push(instance);
        metrics::configured(&config);
        let daemon = Daemon {
            config: Arc::new(config),
            database,
            connector,
            schema,
            pool,
            instance,
            dispatch,
            entered: Arc::default(),
            strangers: Arc::default(),
            health: Arc::clone(&process.health),
            process: process.clone(),
            stop: process.stop.child_token(),
        };
        Ok((daemon, running))
    }
}

/// The daemon that is in force: another one after each reload.
#[derive(Clone)]
pub struct Current(Arc<Mutex<Daemon>>);

impl Current {
    /// The daemon, now. Not to be kept: the next reload makes another one.
    pub fn daemon(&self) -> Daemon {
        lock(&self.0).clone()
    }
}

/// Runs the daemon until the process is to end; a database that is down is retried for ever.
///
/// # Errors
/// A configuration that names no database, or a schema that is newer than the program.
pub async fn run(config: Config, http: Option<(Bound, Exporter)>, process: Process, mut reloads: Reloads) -> Result<(), Error> {
    let (mut daemon, mut running) = Daemon::build(config, &process)?;
    warn_of_what_is_open(&daemon.config);
    let current = Current(Arc::new(Mutex::new(daemon.clone())));
    let http = http.map(|(listener, exporter)| crate::http::serve(listener, current.clone(), exporter, process.stop.clone()));
    process.supervisor.status(&format!("connecting to {}", daemon.connector.describe()));
    let mut former = JoinSet::new();
    let ended = loop {
        let (next, next_running) = match Box::pin(until_reload(&daemon, &mut reloads)).await {
            Ok(Some(next)) => next,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        *lock(&current.0) = next.clone();
        point!("reload.swapped");
        process.supervisor.reloaded("reloaded: counting and folding what is there");
        let (before, before_running) = (std::mem::replace(&mut daemon, next), std::mem::replace(&mut running, next_running));
        // What it has under way it finishes beside its successor: an endpoint that hangs holds no reload up.
        former.spawn(leave_to_successor(before, before_running));
    };
    process.health.set_not_ready("stopping");
    former.spawn(leave(daemon, running));
    former.join_all().await;
    point!("stop.drained");
    // Whoever watches the status page is told of the end instead of being cut off.
    if let Some(http) = http.filter(|_| process.stop.is_cancelled())
        && tokio::time::timeout(HTTP_DRAIN_MAX, http).await.is_err()
    {
        tracing::info!("an HTTP answer was still under way");
    }
    tracing::info!("stopped");
    ended
}

/// Says which files others may read or change, and whether other machines may ask our listener.
fn warn_of_what_is_open(config: &Config) {
    for exposed in exposure::of(config) {
        let file = exposed.file.display().to_string();
        tracing::warn!(
            file,
            error = exposed.what,
            remedy = exposed.remedy,
            "a file of secrets or of the configuration is open to others"
        );
    }
    if let Some(http) = config.http.as_ref().filter(|http| http.token.is_none() && !http.listen.is_local()) {
        tracing::warn!(addr = http.listen.to_string(), "[http] other machines may reach it, and nobody is asked for a token");
    }
}

/// After a reload: what is under way may take as long as it is leased, unless the process is to end.
async fn leave_to_successor(daemon: Daemon, running: Running) {
    daemon.dispatch.stop();
    let ending = async {
        daemon.process.stop.cancelled().await;
        tokio::time::sleep(DRAIN_MAX).await;
    };
    let drained = tokio::select! {
        drained = running.wait(daemon.dispatch.longest_lease()) => drained,
        () = ending => false,
    };
    // An answer that is still on its way must not be overtaken by what follows it in its lane: such leases end by themselves.
    let left = tokio::time::timeout(LEAVE_MAX, instance::leave(&daemon, drained)).await;
    if let Err(error) = left.unwrap_or(Ok(())) {
        tracing::debug!(%error, "leaving");
    }
}

/// Lets the endpoints' tasks finish what is under way, and takes the instance out of the database.
async fn leave(daemon: Daemon, running: Running) {
    daemon.dispatch.stop();
    running.wait(DRAIN_MAX).await;
    let left = tokio::time::timeout(LEAVE_MAX, instance::leave(&daemon, true)).await;
    if let Err(error) = left.unwrap_or(Ok(())) {
        tracing::debug!(%error, "leaving");
    }
}

/// Goes through sessions until the daemon is to end, or a successor is built; then the last session has ended in order.
async fn until_reload(daemon: &Daemon, reloads: &mut Reloads) -> Result<Option<(Daemon, Running)>, Error> {
    let mut sessions = pin!(sessions(daemon));
    let next = tokio::select! {
        ended = &mut sessions => return ended.map(|()| None),
        next = reloads.next(daemon) => next,
    };
    point!("reload.built");
    daemon.stop.cancel();
    if let Err(error) = sessions.await {
        tracing::debug!(%error, "the session before the reload");
    }
    daemon.health.forget_watches_but(next.0.config.watches.iter().map(|watch| watch.name.as_str()));
    if next.0.database.url.expose() != daemon.database.url.expose() {
        // Elsewhere the same numbers are of other watches.
        lock(&daemon.process.readings).clear();
    }
    // Not before: whoever folds to the end says that it is ready.
    daemon.health.set_not_ready("reloading the configuration");
    daemon.dispatch.doubted().into_iter().for_each(|token| next.0.dispatch.doubt(token));
    Ok(Some(next))
}

/// One session after another, until the daemon is to end.
async fn sessions(daemon: &Daemon) -> Result<(), Error> {
    let mut attempts = 0;
    while !daemon.stop.is_cancelled() {
        daemon.process.supervisor.alive();
        let began = tokio::time::Instant::now();
        let error = match session::run(daemon).await {
            Ok(()) => return Ok(()),
            Err(error @ (Error::SchemaTooNew { .. } | Error::Config(_))) => return Err(error),
            Err(error) => error,
        };
        let worked = daemon.health.is_ready() || began.elapsed() > WORKED;
        metrics::connected(false);
        // If one connection was silent, so may the others be.
        daemon.pool.renew();
        // One that came as far as working resets the back-off. What fails each time after it has listened must not become a
        // stream of connections.
        attempts = if worked { 1 } else { attempts + 1 };
        let message = error.to_string();
        daemon.health.set_not_ready(&format!("database: {message}"));
        // Once per change of state, not per try.
        if daemon.health.fault(&message) {
            tracing::warn!(
                database = daemon.connector.describe(),
                error = message,
                remedy = explain::remedy(&error, &daemon.connector),
                "no database session; trying again for as long as it takes"
            );
        }
        // Started all the same: a database that is down is waited for, and no reason to start us again.
        daemon.process.supervisor.started(&format!("no database session: {message}; trying again for as long as it takes"));
        let delay = RECONNECT.delay(attempts, rand::random(), None);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = daemon.stop.cancelled() => {}
        }
    }
    Ok(())
}
