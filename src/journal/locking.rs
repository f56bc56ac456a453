//! DDL that never queues: a lock is waited for no longer than the session's `lock_timeout`, then let go of, and tried again.
//!
//! A queued lock would make every new writer of the table wait for whoever holds it (rule T9).

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::db::holder::Holder;
use crate::db::locks::Lock;
use crate::db::schema::Schema;
use crate::error::Error;

/// The first pause after a lock that was not to be had, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// So often a lock is tried before it is an error: about three seconds. Whoever can wait longer tries again.
const TRIES_MAX: u32 = 6;

/// Runs one statement of DDL until it gets its locks.
///
/// # Errors
/// A lock that was not to be had, or what the database says.
pub async fn with_retries(client: &Client, schema: &Schema, relation: &str, statement: &str) -> Result<(), Error> {
    let mut patience = Patience::new(schema, Some(relation));
    loop {
        match client.batch_execute(statement).await.map_err(Error::from) {
            Err(error) => patience.after(client, error).await?,
            Ok(()) => return Ok(()),
        }
    }
}

/// Lets what met a lock be tried again, with a growing pause, and names who is in the way.
pub(super) struct Patience<'a> {
    schema: &'a Schema,
    /// The table whose lock is wanted; where it is none, the fold's lock is.
    relation: Option<&'a str>,
    tries: u32,
    pause: Duration,
}

impl<'a> Patience<'a> {
    pub(super) fn new(schema: &'a Schema, relation: Option<&'a str>) -> Patience<'a> {
        Patience { schema, relation, tries: 0, pause: PAUSE_FIRST }
    }

    /// Waits after an error that is only a lock not had in time.
    pub(super) async fn after(&mut self, client: &Client, error: Error) -> Result<(), Error> {
        if !is_lock_timeout(&error) {
            return Err(error);
        }
        self.tries += 1;
        let what = self.relation.unwrap_or("the fold's lock");
        let holder = self.in_the_way(client).await;
        if self.tries == TRIES_MAX {
            return Err(Error::Busy(format!("no lock on {what} after {TRIES_MAX} tries: {error}{holder}")));
        }
        if self.tries == 3 {
            tracing::warn!(relation = what, "waiting for a lock without queueing{holder}");
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }

    /// Whoever holds the table; a new definition wants the fold's lock as well.
    async fn in_the_way(&self, client: &Client) -> String {
        let of_relation = match self.relation {
            Some(relation) => Holder::of_relation(client, relation).await.ok().flatten(),
            None => None,
        };
        let holder = match of_relation {
            Some(holder) => Some(holder),
            None => Holder::of_advisory(client, &Lock::Fold.sql(self.schema)).await.ok().flatten(),
        };
        holder.map_or_else(String::new, |holder| format!("; in the way is {holder}"))
    }
}

fn is_lock_timeout(error: &Error) -> bool {
    [SqlState::LOCK_NOT_AVAILABLE.code(), SqlState::T_R_DEADLOCK_DETECTED.code()].map(Some).contains(&error.sqlstate())
}
