//! How long what is over is kept: settled deliveries, events, resolved alerts.
//!
//! Invariants. Nothing pending, no alert that is open, and no event that a digest is still to tell is ever removed. Each
//! statement is a transaction of its own over a small batch that an index finds, and leaves alone what somebody else has
//! locked: neither an application that reads its inbox nor a fold ever waits for it. Any replica may do it.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::db::pool::Pool;
use crate::db::schema::Schema;
use crate::error::Error;

/// `[database] retention`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Events, and alerts since they were resolved.
    pub events: Duration,
    /// Deliveries since they were delivered (or superseded).
    pub delivered: Duration,
    /// Deliveries since they died.
    pub dead: Duration,
}

impl Default for Retention {
    fn default() -> Retention {
        let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
        Retention { events: days(30), delivered: days(7), dead: days(90) }
    }
}

/// So many rows are removed by one statement.
const BATCH: i64 = 1_000;
/// So many statements are run for each kind of row at a time: what is left waits for the next time.
const BATCHES_MAX: u32 = 50;

/// Found by when they were settled.
const DELIVERED: &str = "
    DELETE FROM items_listen.delivery WHERE id IN (
        SELECT id FROM items_listen.delivery
        WHERE state IN ('delivered', 'superseded') AND settled_at < $1
        ORDER BY settled_at LIMIT $2 FOR UPDATE SKIP LOCKED)";
const DEAD: &str = "
    DELETE FROM items_listen.delivery WHERE id IN (
        SELECT id FROM items_listen.delivery
        WHERE state = 'dead' AND settled_at < $1
        ORDER BY settled_at LIMIT $2 FOR UPDATE SKIP LOCKED)";

/// Found by their ids, which begin with their time in milliseconds (UUIDv7, RFC 9562): $3 is the first id of the time $1.
const EVENTS: &str = "
    DELETE FROM items_listen.event WHERE id IN (
        SELECT e.id FROM items_listen.event e
        WHERE e.id < $3 AND e.at < $1
          -- Who was told of a row is to be told of its end.
          AND NOT EXISTS (SELECT FROM items_listen.episode p WHERE p.id = e.episode AND p.resolved_at IS NULL)
          AND NOT EXISTS (SELECT FROM items_listen.storm s JOIN items_listen.watch w ON w.id = s.watch
                          WHERE w.name = e.watch AND s.from_seq <= e.seq)
        ORDER BY e.id LIMIT $2 FOR UPDATE SKIP LOCKED)";

/// With what was noted as read of them.
const EPISODES: &str = "
    WITH old AS (
        SELECT id FROM items_listen.episode
        WHERE resolved_at < $1
        ORDER BY resolved_at LIMIT $2 FOR UPDATE SKIP LOCKED),
    forgotten AS (
        DELETE FROM items_listen.alert_read WHERE episode IN (
            SELECT r.episode FROM items_listen.alert_read r JOIN old ON old.id = r.episode FOR UPDATE OF r SKIP LOCKED))
    DELETE FROM items_listen.episode WHERE id IN (SELECT id FROM old)";

/// An audience that was told so long ago is told at once, whether it is remembered or not.
const AUDIENCES: &str = "
    DELETE FROM items_listen.audience WHERE (endpoint, lane) IN (
        SELECT endpoint, lane FROM items_listen.audience WHERE last_due < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)";
const AUDIENCES_KEPT: Duration = Duration::from_secs(86_400);

/// Edits that no fold has counted by, since nobody is told how many alerts are unread. A number is taken, so that no fold
/// believes what it remembers from before (`engine::unread`).
const UNREAD_EDITS: &str = "
    DELETE FROM items_listen.unread_edit WHERE at < clock_timestamp() - interval '1 min' AND nextval('items_listen.seq') > 0";

/// Changes of rows that belong to no definition, present or former: their watch was removed, or tells changes no more. Found by
/// walking over the table, which is empty but in a backlog: so more of them at a time.
const CHANGES_OF_NOBODY: &str = "
    DELETE FROM items_listen.change WHERE ctid = ANY (ARRAY(
        SELECT c.ctid FROM items_listen.change c
        WHERE c.generation NOT IN (SELECT unnest(w.generation || w.former) FROM items_listen.watch w) LIMIT $1))";
const CHANGES_BATCH: i64 = 10_000;

/// Removes what is older than it is to be kept, a few batches of each kind. Gives how many rows went.
///
/// # Errors
/// The database cannot be reached.
pub async fn sweep(pool: &Pool, schema: &Schema, retention: &Retention) -> Result<u64, Error> {
    let now: Timestamp = pool.get().await?.query_one("SELECT clock_timestamp()", &[]).await?.get(0);
    let before = |kept: Duration| {
        let kept = jiff::SignedDuration::try_from(kept).unwrap_or(jiff::SignedDuration::MAX);
        now.checked_sub(kept).unwrap_or(Timestamp::UNIX_EPOCH).max(Timestamp::UNIX_EPOCH)
    };
    let mut removed = 0;
    let kinds =
        [(DELIVERED, retention.delivered), (DEAD, retention.dead), (EPISODES, retention.events), (AUDIENCES, AUDIENCES_KEPT)];
    for (sql, kept) in kinds {
        removed += batches(pool, &schema.sql(sql), &[&before(kept), &BATCH], BATCH).await?;
    }
    pool.get().await?.execute(&schema.sql(UNREAD_EDITS), &[]).await?;
    let before = before(retention.events);
    removed += batches(pool, &schema.sql(EVENTS), &[&before, &BATCH, &first_id(before)], BATCH).await?;
    removed += batches(pool, &schema.sql(CHANGES_OF_NOBODY), &[&CHANGES_BATCH], CHANGES_BATCH).await?;
    Ok(removed)
}

/// No UUIDv7 made at this time or later is smaller.
fn first_id(at: Timestamp) -> Uuid {
    let milliseconds = u128::try_from(at.as_millisecond()).unwrap_or(0);
    Uuid::from_u128(milliseconds << 80)
}

/// Runs a statement until it finds less than a batch; each time on a session of its own, so that claims and settlements
/// never wait for all of it.
async fn batches(pool: &Pool, sql: &str, parameters: &[&(dyn ToSql + Sync)], batch: i64) -> Result<u64, Error> {
    let mut removed = 0;
    for _ in 0..BATCHES_MAX {
        let gone = pool.get().await?.execute(sql, parameters).await?;
        removed += gone;
        if gone < batch.unsigned_abs() {
            break;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_by_their_time() {
        let made = Uuid::now_v7();
        let (seconds, _) = made.get_timestamp().map(|at| at.to_unix()).unwrap_or_default();
        let at = |offset: i64| Timestamp::from_second(i64::try_from(seconds).unwrap_or(0) + offset).expect("in range");
        assert!(first_id(at(0)) <= made && made < first_id(at(1)));
        assert_eq!(first_id(Timestamp::UNIX_EPOCH), Uuid::nil());
    }
}
