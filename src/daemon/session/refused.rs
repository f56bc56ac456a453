//! A lock is refused: the fold's now and then since another replica folds, a source's since another replica serves it; by
//! anybody else for long only where something is wrong.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use crate::db::holder::Holder;
use crate::db::locks::Lock;
use crate::db::schema::Schema;
use crate::error::Error;

/// After so long without a fold, whoever holds its lock is named.
const NAMED_AFTER: Duration = Duration::from_secs(10);

/// Who has a notify or query watch whose lock was refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Not looked at yet: it has not lasted long.
    Unknown,
    /// Another replica, or nobody any more.
    Served,
    /// Somebody else, who is named.
    Held(String),
}

/// For how long there was work and no fold, and sources that we do not serve.
#[derive(Debug, Default)]
pub(super) struct Refused {
    since: Option<Instant>,
    named: bool,
    /// Since when somebody else has had the lock of these notify and query watches.
    sources: HashMap<i32, Instant>,
}

impl Refused {
    /// A fold had the lock.
    pub(super) fn had(&mut self) {
        (self.since, self.named) = (None, false);
    }

    /// Of the sources that were refused, those that are no longer wanted.
    pub(super) fn forget_sources(&mut self, wanted: &HashSet<i32>) -> Vec<i32> {
        self.sources.extract_if(|id, _| !wanted.contains(id)).map(|(id, _)| id).collect()
    }

    /// A source's lock was refused. Another replica may have it for as long as it lives. Says why nobody serves the source,
    /// where somebody else has had it for long.
    ///
    /// # Errors
    /// The session is lost.
    pub(super) async fn source(&mut self, client: &Client, schema: &Schema, id: i32) -> Result<Source, Error> {
        let since = *self.sources.entry(id).or_insert_with(Instant::now);
        if since.elapsed() < NAMED_AFTER {
            return Ok(Source::Unknown);
        }
        let Some(holder) = Holder::stranger(client, schema, &Lock::Source(id).sql(schema)).await? else {
            self.sources.remove(&id);
            return Ok(Source::Served);
        };
        Ok(Source::Held(format!("nobody listens or asks for it: {holder} holds its lock; end it, it is none of ours")))
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
