//! Reload: another configuration, without another process.
//!
//! Everything that can be wrong with a configuration by itself is found out before anything is given up: then nothing
//! changes, and the log and a metric say so. What a watch asks of the database is not part of that: as at a start, one that
//! cannot be served is degraded, and the others go on.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{Daemon, Running};
use crate::config::{self, Config, Http, Location};
use crate::db::migrate;
use crate::db::schema::Schema;
use crate::db::session::{Connector, Purpose};
use crate::error::Error;
use crate::metrics;

/// Who asks for reloads, and from where the configuration comes.
#[derive(Debug)]
pub struct Reloads {
    location: Location,
    asked: Arc<Notify>,
}

impl Reloads {
    /// From the place that the command line names, whenever `asked` is notified.
    pub fn new(location: Location, asked: Arc<Notify>) -> Reloads {
        Reloads { location, asked }
    }

    /// Waits until somebody asks, and what they ask for can be built. What cannot stays without effect.
    pub(super) async fn next(&mut self, daemon: &Daemon) -> (Daemon, Running) {
        loop {
            self.asked.notified().await;
            tracing::info!(config = daemon.config.file, "reloading the configuration");
            // Over when the next daemon is in force, or is refused: `systemctl reload` waits for that.
            daemon.process.supervisor.reloading();
            match self.build(daemon).await {
                Ok(next) => {
                    // The published hash says nothing of secrets, and another secret is a change.
                    let (before, now) = (&daemon.config.whole, &next.0.config.whole);
                    let what = if before == now { "reloaded: nothing has changed" } else { "reloaded" };
                    tracing::info!(config = next.0.config.file, watches = next.0.config.watches.len(), "{what}");
                    super::warn_of_what_is_open(&next.0.config);
                    daemon.health.reloaded(true);
                    metrics::reloaded(true);
                    return next;
                }
                Err(error) => {
                    say(&error);
                    daemon.health.reloaded(false);
                    metrics::reloaded(false);
                    daemon.process.supervisor.reloaded("not reloaded: the configuration that runs stays in force");
                }
            }
        }
    }

    async fn build(&self, daemon: &Daemon) -> Result<(Daemon, Running), Error> {
        let mut config = config::load(&self.location)?;
        keep_what_stays(&mut config, &daemon.config);
        prove(&config, daemon).await?;
        Daemon::build(config, &daemon.process)
    }
}

/// A listener that is bound, and the place of our tables, stay what they are; whoever changed them is told.
fn keep_what_stays(config: &mut Config, before: &Config) {
    let place = |config: &Config| config.http.as_ref().map(|http| http.listen.clone());
    if place(config) != place(before) {
        tracing::warn!("[http] cannot be reloaded: another enabled or listen takes effect with a restart");
        // Who may ask, and what is told, is taken from the new one all the same, where there is one.
        config.http = match (config.http.take(), &before.http) {
            (Some(now), Some(before)) => Some(Http { listen: before.listen.clone(), ..now }),
            (_, before) => before.clone(),
        };
    }
    let (Some(now), Some(before)) = (&mut config.database, &before.database) else { return };
    if now.schema != before.schema {
        tracing::warn!(
            schema = before.schema,
            "database.schema cannot be reloaded: what is new in it takes effect with a restart"
        );
        now.schema.clone_from(&before.schema);
    }
}

/// Another way to the database must lead to one: a password with a slip in it must not end a session that works.
async fn prove(config: &Config, daemon: &Daemon) -> Result<(), Error> {
    let database = config.require_database()?;
    if database.url.expose() == daemon.database.url.expose() {
        return Ok(());
    }
    let connector = Connector::new(&database.url, &database.schema)?;
    let unreachable = |error: Error| Error::Unavailable(format!("database.url: {}: {error}", connector.describe()));
    connector.require_direct().await.map_err(unreachable)?;
    connector.require_primary().await.map_err(unreachable)?;
    let client = connector.session(Purpose::Work).await.map_err(unreachable)?;
    migrate::check_version(&client, &Schema::new(&database.schema)).await.map(drop)
}

/// Every mistake in a line of its own.
fn say(error: &Error) {
    let stays = "not reloaded: the configuration that runs stays in force";
    match error {
        Error::Config(mistakes) => {
            mistakes.iter().for_each(|mistake| tracing::error!(place = mistake.place, error = mistake.what, "{stays}"));
        }
        error => tracing::error!(%error, "{stays}"),
    }
}
