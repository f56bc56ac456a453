//! The fold's lock is refused: now and then since another replica folds, for long only where something is wrong.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use crate::db::holder::Holder;
use crate::db::locks::Lock;
use crate::db::schema::Schema;
use crate::error::Error;

/// After so long without a fold, whoever holds its lock is named.
const NAMED_AFTER: Duration = Duration::from_secs(10);

/// For how long there was work and no fold.
#[derive(Debug, Default)]
pub(super) struct Refused {
    since: Option<Instant>,
    named: bool,
}

impl Refused {
    /// A fold had the lock.
    pub(super) fn had(&mut self) {
        *self = Refused::default();
    }

    /// A fold was refused it. Whoever has had it for long is named, once.
    ///
    /// # Errors
    /// The session is lost.
    pub(super) async fn again(&mut self, client: &Client, schema: &Schema) -> Result<(), Error> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.named || since.elapsed() < NAMED_AFTER {
            return Ok(());
        }
        let Some(holder) = Holder::of_advisory(client, &Lock::Fold.sql(schema)).await? else { return Ok(()) };
        // Another replica under load: whenever we look it folds, but none of its folds takes long.
        let is_at_work = holder.transaction.is_some_and(|seconds| seconds < NAMED_AFTER.as_secs_f64());
        if holder.application == "items-listen" && is_at_work {
            self.since = None;
            return Ok(());
        }
        self.named = true;
        tracing::warn!(
            pid = holder.pid,
            holder = holder.to_string(),
            "this session holds the fold's lock, and nothing is evaluated while it does; end it if it is none of ours"
        );
        Ok(())
    }
}

/// The error of something that waits for the fold's lock: who holds it is said, and that it is no table of ours.
pub(super) async fn explained(client: &Client, schema: &Schema, error: Error) -> Error {
    if error.sqlstate() != Some("55P03") {
        return error;
    }
    match Holder::of_advisory(client, &Lock::Fold.sql(schema)).await {
        Ok(Some(holder)) => Error::Unavailable(format!("the fold's lock is not to be had: {holder} holds it")),
        Ok(None) | Err(_) => error,
    }
}
