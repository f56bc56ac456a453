//! What is to be done now and then, beside the pipeline and without ever holding it up: leases of ended processes,
//! deliveries that are too old, rows that need not be kept.

use std::sync::atomic::Ordering;

use tokio::task::JoinSet;

use super::{Daemon, instance, start};
use crate::db::migrate::InstallLock;
use crate::db::session::Purpose;
use crate::error::Error;
use crate::{outbox, retention};

/// How often what need not be kept is looked for: every so many rounds.
const ROUNDS_PER_SWEEP: u32 = 6;

/// The work, and whether it is under way. It ends with the session that began it.
#[derive(Debug, Default)]
pub(super) struct House {
    work: JoinSet<bool>,
    rounds: u32,
    /// It was said that it cannot be done.
    named: bool,
}

impl House {
    /// Begins, unless the last time has not ended yet.
    pub(super) fn keep(&mut self, daemon: &Daemon) {
        while let Some(ended) = self.work.try_join_next() {
            self.named = !ended.unwrap_or(false);
        }
        if !self.work.is_empty() {
            return;
        }
        let (daemon, named, sweeps) = (daemon.clone(), self.named, self.rounds.is_multiple_of(ROUNDS_PER_SWEEP));
        self.rounds = self.rounds.wrapping_add(1);
        self.work.spawn(async move {
            // A fault here is no reason to lose a session that works; the next time may do better.
            let kept = keep(&daemon, sweeps).await;
            if let Err(error) = &kept
                && !error.is_lost()
                && !named
            {
                tracing::warn!(%error, "housekeeping fails: what is too old is neither given up nor removed; tried again");
            }
            kept.is_ok()
        });
    }
}

async fn keep(daemon: &Daemon, sweeps: bool) -> Result<(), Error> {
    let (pool, schema) = (&daemon.pool, &daemon.schema);
    instance::bury(&*pool.get().await?, schema).await?;
    for endpoint in &daemon.config.endpoints {
        let give_up_after = endpoint.retry.give_up_after;
        let expired = outbox::expire(&*pool.get().await?, schema, &endpoint.name, give_up_after).await?;
        if expired > 0 {
            tracing::error!(endpoint = endpoint.name, deliveries = expired, "dead: older than give_up_after");
        }
    }
    let orphaned = outbox::orphaned_endpoints(&*pool.get().await?, schema).await?;
    for endpoint in orphaned {
        let longest = crate::retry::Retry::default().give_up_after;
        let expired = outbox::expire(&*pool.get().await?, schema, &endpoint, longest).await?;
        if expired > 0 {
            tracing::error!(endpoint, deliveries = expired, "dead: no daemon has this endpoint, and they are older than a day");
        }
    }
    if sweeps && daemon.strangers.load(Ordering::Acquire) {
        let mut client = daemon.connector.session(Purpose::Install).await?;
        InstallLock::take(&client, schema).await?;
        start::retire_strangers(daemon, &mut client).await?;
    }
    if sweeps {
        let removed = retention::sweep(pool, schema, &daemon.database.retention).await?;
        if removed > 0 {
            tracing::info!(rows = removed, "removed what is older than [database] retention keeps");
        }
    }
    Ok(())
}
