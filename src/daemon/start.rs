//! What a session begins with: schema and triggers as the configuration wants them, or the word that they are not.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio_postgres::Client;

use super::{Daemon, POLL_WITHOUT_DOORBELL};
use crate::config::{Doorbell as DoorbellMode, Install};
use crate::db::migrate::{self, InstallLock};
use crate::db::session::Purpose;
use crate::dispatch::lock;
use crate::engine::Served;
use crate::error::Error;
use crate::journal::{functions, install, retire};
use crate::source::listen::Listening;
use crate::watch::Watch;

pub(super) fn daemon_watch(daemon: &Daemon, name: &str) -> Arc<crate::watch::Watch> {
    daemon.config.watches.iter().find(|watch| watch.name == name).map(Arc::clone).expect("names come from the configuration")
}

pub(super) async fn id_of(daemon: &Daemon, name: &str) -> Result<Option<i32>, Error> {
    let found = daemon.pool.run(async |client| install::find(client, &daemon.schema, name).await).await?;
    Ok(found.map(|(installed, _)| installed.id))
}

/// Brings schema and triggers up to date, or looks whether they are.
pub(super) async fn install_all(daemon: &Daemon) -> Result<Vec<(String, Option<Served>)>, Error> {
    let auto = daemon.database.install == Install::Auto;
    let schema = &daemon.schema;
    let client = daemon.connector.session(Purpose::Install).await?;
    let is_newest = migrate::check_version(&client, schema).await? == Some(migrate::newest());
    if auto {
        install::check_publications(&client, schema, false).await?;
    }
    // No session of ours waits idle while another works: those that install are put out when they rest.
    drop(client);
    if auto && !is_newest {
        let mut patient = daemon.connector.session(Purpose::Migrate).await?;
        daemon.process.supervisor.alive_during(migrate::locked(&daemon.connector, &mut patient, schema)).await?;
    } else if !is_newest {
        return Err(Error::Failed(
            "the schema is missing or older than this program, and install = \"manual\": run items-listen install".to_owned(),
        ));
    }
    let mut all = Vec::new();
    // One session for all of them.
    let client = daemon.connector.session(Purpose::Install).await?;
    let named = install::errors(&client, schema).await?;
    let in_place = if auto { install::in_place(&client, schema).await? } else { HashSet::new() };
    if auto {
        InstallLock::take(&client, schema).await?;
    }
    let mut session = Some(client);
    for watch in daemon.config.watches.iter() {
        daemon.process.supervisor.alive();
        let installed = if auto {
            ensure(daemon, &mut session, watch, &in_place).await
        } else {
            installed(daemon, &mut session, watch).await
        };
        let error = installed.as_ref().err().map(ToString::to_string);
        match installed {
            // The server, not the watch.
            Err(error) if error.is_about_the_server() => return Err(error),
            Ok(installed) => {
                if daemon.health.served(&watch.name) {
                    tracing::info!(watch = watch.name, "no longer degraded");
                }
                let served = Served::new(installed.id, installed.generation, Arc::clone(watch));
                all.push((watch.name.clone(), Some(served)));
            }
            Err(error) => {
                if daemon.health.degraded(&watch.name) {
                    tracing::error!(watch = watch.name, %error, "watch degraded; the others go on");
                }
                all.push((watch.name.clone(), None));
            }
        }
        if error.is_some() || named.contains(&watch.name) {
            daemon.pool.run(async |client| install::record_error(client, schema, watch, error.as_deref()).await).await?;
        }
    }
    if auto {
        let mut client = locked(daemon, &mut session).await?;
        retire_strangers(daemon, &mut client).await?;
    }
    Ok(all)
}

/// Removes watches that are no longer configured, on a session that has the install lock. One whose table is in use, or
/// belongs to somebody else, keeps nobody else down: it is tried again by the housekeeping.
pub(super) async fn retire_strangers(daemon: &Daemon, client: &mut Client) -> Result<(), Error> {
    let names: Vec<String> = daemon.config.watches.iter().map(|watch| watch.name.clone()).collect();
    let own = lock(&daemon.process.instances).clone();
    let mut left = false;
    for (id, name) in retire::strangers(client, &daemon.schema, &names, &own).await? {
        daemon.process.supervisor.alive();
        match retire::watch(client, &daemon.schema, id, &name).await {
            Err(error) if error.is_about_the_server() => return Err(error),
            Err(error) => {
                left = true;
                if !daemon.strangers.load(Ordering::Acquire) {
                    tracing::error!(watch = name, %error, "a watch that is no longer configured cannot be removed yet; tried again");
                }
            }
            Ok(()) => {}
        }
    }
    daemon.strangers.store(left, Ordering::Release);
    Ok(())
}

/// The session that installs, with the install lock, which ends with it.
async fn locked(daemon: &Daemon, session: &mut Option<Client>) -> Result<Client, Error> {
    if let Some(client) = session.take() {
        return Ok(client);
    }
    let client = daemon.connector.session(Purpose::Install).await?;
    InstallLock::take(&client, &daemon.schema).await?;
    Ok(client)
}

/// Installs a watch, or completes it, on one session for all: after an error, on another.
async fn ensure(
    daemon: &Daemon,
    session: &mut Option<Client>,
    watch: &Watch,
    in_place: &HashSet<i32>,
) -> Result<install::Installed, Error> {
    let mut client = locked(daemon, session).await?;
    let installed = install::ensure_by_itself(&mut client, &daemon.schema, watch, in_place).await?;
    *session = Some(client);
    Ok(installed)
}

/// The watch as it is installed, by somebody else.
async fn installed(daemon: &Daemon, session: &mut Option<Client>, watch: &Watch) -> Result<install::Installed, Error> {
    let mut client = match session.take() {
        Some(client) => client,
        None => daemon.connector.session(Purpose::Install).await?,
    };
    let found = found(&mut client, daemon, watch).await?;
    *session = Some(client);
    Ok(found)
}

pub(super) async fn found(client: &mut Client, daemon: &Daemon, watch: &Watch) -> Result<install::Installed, Error> {
    let missing = || Error::Failed(format!("the watch {} is not installed as configured; run items-listen install", watch.name));
    let (found, text) = install::find(client, &daemon.schema, &watch.name).await?.ok_or_else(missing)?;
    let definition = crate::journal::definition::Definition::of_installed(client, &daemon.schema, watch).await?;
    if install::text(watch, definition.as_ref()) != text {
        return Err(missing());
    }
    if let Some(definition) = &definition
        && !functions::stale(client, &daemon.schema, &found, definition).await?.is_empty()
    {
        functions::say_stale(&watch.name);
    }
    // Our own tables only: how readings are judged is the daemon's, whoever installs triggers.
    install::adopt_policy(client, &daemon.schema, watch, found.id, false).await?;
    Ok(found)
}

/// What is leased to us but not in our memory: a COMMIT whose acknowledgement was lost.
pub(super) async fn free_doubted(daemon: &Daemon, client: &tokio_postgres::Client) -> Result<(), Error> {
    let tokens = daemon.dispatch.doubted();
    if !tokens.is_empty() {
        crate::outbox::free_tokens(client, &daemon.schema, &tokens).await?;
        tokens.into_iter().for_each(|token| daemon.dispatch.trust(token));
    }
    Ok(())
}

/// Whether writers may be made to NOTIFY: PostgreSQL refuses PREPARE TRANSACTION after one.
pub(super) async fn doorbell_on(daemon: &Daemon, listening: &Listening) -> Result<bool, Error> {
    let prepared: i32 = listening.client.query_one("SELECT current_setting('max_prepared_transactions')::int", &[]).await?.get(0);
    Ok(match daemon.database.doorbell {
        DoorbellMode::On => true,
        DoorbellMode::Off => false,
        DoorbellMode::Auto => {
            if prepared > 0 {
                tracing::info!("max_prepared_transactions is {prepared}: doorbell off, polling every {POLL_WITHOUT_DOORBELL:?}");
            }
            prepared == 0
        }
    })
}
