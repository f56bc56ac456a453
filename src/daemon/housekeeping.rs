//! What is to be done now and then, beside the pipeline and without ever holding it up: leases of ended processes,
//! deliveries that are too old, rows that need not be kept.

use tokio::task::JoinSet;

use super::{Daemon, instance};
use crate::error::Error;
use crate::{outbox, retention};

/// The work, and whether it is under way. It ends with the session that began it.
#[derive(Debug, Default)]
pub(super) struct House {
    work: JoinSet<()>,
}

impl House {
    /// Begins, unless the last time has not ended yet.
    pub(super) fn keep(&mut self, daemon: &Daemon) {
        while self.work.try_join_next().is_some() {}
        if self.work.is_empty() {
            let daemon = daemon.clone();
            self.work.spawn(async move {
                // A fault here is no reason to lose a session that works; the next time may do better.
                if let Err(error) = keep(&daemon).await {
                    tracing::debug!(%error, "housekeeping");
                }
            });
        }
    }
}

async fn keep(daemon: &Daemon) -> Result<(), Error> {
    let client = daemon.pool.get().await?;
    let schema = &daemon.schema;
    instance::bury(&client, schema).await?;
    for endpoint in &daemon.config.endpoints {
        let expired = outbox::expire(&client, schema, &endpoint.name, endpoint.retry.give_up_after).await?;
        if expired > 0 {
            tracing::error!(endpoint = endpoint.name, deliveries = expired, "dead: older than give_up_after");
        }
    }
    for endpoint in outbox::orphaned_endpoints(&client, schema).await? {
        let longest = crate::retry::Retry::default().give_up_after;
        let expired = outbox::expire(&client, schema, &endpoint, longest).await?;
        if expired > 0 {
            tracing::error!(endpoint, deliveries = expired, "dead: no daemon has this endpoint, and they are older than a day");
        }
    }
    let removed = retention::sweep(&client, schema, &daemon.database.retention).await?;
    if removed > 0 {
        tracing::info!(rows = removed, "removed what is older than [database] retention keeps");
    }
    Ok(())
}
