//! The daemon: sessions that come and go, tasks that stay, and an orderly end.
//!
//! What survives a lost database connection (the dispatcher's memory, the HTTP listener) is started once;
//! everything that holds a lock or a snapshot belongs to one `session` and goes with it.

pub mod health;
mod housekeeping;
pub mod instance;
mod keep;
mod session;
mod start;
mod summary;
pub mod systemd;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::chaos::point;
use crate::config::{Config, Database};
use crate::db::pool::Pool;
use crate::db::schema::Schema;
use crate::db::session::Connector;
use crate::dispatch::{Context, Dispatch};
use crate::engine::Received;
use crate::error::Error;
use crate::retry::Retry;
use health::Health;
use systemd::Supervisor;

/// The whole orderly end takes no longer than this.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
/// With the doorbell off the poll is quicker instead.
const POLL_WITHOUT_DOORBELL: Duration = Duration::from_millis(50);
/// Between two tries to reach the database.
const RECONNECT: Retry = Retry { initial: Duration::from_millis(100), max: Duration::from_secs(5), give_up_after: Duration::MAX };

/// What all of the daemon's parts share.
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
    /// This process.
    pub instance: Uuid,
    /// The endpoints' tasks.
    pub dispatch: Dispatch,
    /// What `/readyz` says.
    pub health: Arc<Health>,
    /// Whoever started us, and wants to know whether we are well.
    pub supervisor: Arc<Supervisor>,
    /// Readings that were received and are not yet committed: they outlive the session that heard them.
    pub readings: Arc<std::sync::Mutex<Vec<Received>>>,
    /// Cancelled when the daemon is to end.
    pub stop: CancellationToken,
}

/// Runs the daemon until `stop` is cancelled; a database that is down is retried for ever.
///
/// # Errors
/// A configuration that names no database, or a schema that is newer than the program.
pub async fn run(config: Config, http: Option<TcpListener>, stop: CancellationToken) -> Result<(), Error> {
    let database = config.require_database()?.clone();
    let connector = Connector::new(&database.url, &database.schema)?;
    let schema = Schema::new(&database.schema);
    let pool = Pool::new(&connector, database.pool_size)?;
    let instance = Uuid::now_v7();
    let context = Context { pool: pool.clone(), schema: schema.clone(), instance };
    let (dispatch, running) = Dispatch::start(&config.endpoints, &context)?;
    let health = Arc::new(Health::new());
    let daemon = Daemon {
        config: Arc::new(config),
        database,
        connector,
        schema,
        pool,
        instance,
        dispatch,
        health,
        supervisor: Arc::new(Supervisor::from_environment()),
        readings: Arc::default(),
        stop,
    };
    if let Some(listener) = http {
        crate::http::serve(listener, &daemon);
    }
    daemon.supervisor.status(&format!("connecting to {}", daemon.connector.describe()));
    let ended = sessions(&daemon).await;
    daemon.health.set_not_ready("stopping");
    daemon.dispatch.stop();
    running.wait(DRAIN_MAX).await;
    point!("stop.drained");
    if let Err(error) = tokio::time::timeout(Duration::from_secs(1), instance::leave(&daemon)).await.unwrap_or(Ok(())) {
        tracing::debug!(%error, "leaving");
    }
    tracing::info!("stopped");
    ended
}

/// One session after another, until the daemon is to end.
async fn sessions(daemon: &Daemon) -> Result<(), Error> {
    let mut attempts = 0;
    while !daemon.stop.is_cancelled() {
        daemon.supervisor.alive();
        let connected = daemon.health.connections();
        let error = match session::run(daemon).await {
            Ok(()) => return Ok(()),
            Err(error @ (Error::SchemaTooNew { .. } | Error::Config(_))) => return Err(error),
            Err(error) => error,
        };
        // If one connection was silent, so may the others be.
        daemon.pool.renew();
        // A session that once listened resets the back-off, however it ended.
        attempts = if daemon.health.connections() > connected { 1 } else { attempts + 1 };
        let message = error.to_string();
        daemon.health.set_not_ready(&format!("database: {message}"));
        // Once per change of state, not per try.
        if daemon.health.fault(&message) {
            tracing::warn!(
                database = daemon.connector.describe(),
                error = message,
                "no database session; trying again for as long as it takes"
            );
        }
        // Started all the same: a database that is down is waited for, and no reason to start us again.
        daemon.supervisor.started(&format!("no database session: {message}; trying again for as long as it takes"));
        let delay = RECONNECT.delay(attempts, rand::random(), None);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = daemon.stop.cancelled() => {}
        }
    }
    Ok(())
}
