//! How long what is over is kept: settled deliveries, events, resolved alerts.
//!
//! Invariants. Nothing pending, and no alert that is open, is ever removed. Each statement is a transaction of its own
//! over a small batch, and leaves alone what somebody else has locked: neither an application that reads its inbox nor
//! a fold ever waits for it. Any replica may do it, also several at once.

use std::time::Duration;

use tokio_postgres::Client;

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
const BATCHES_MAX: u32 = 20;

/// Settled deliveries, found by when they were settled.
const DELIVERIES: &str = "
    DELETE FROM items_listen.delivery WHERE id IN (
        SELECT id FROM items_listen.delivery
        WHERE state <> 'pending' AND settled_at < clock_timestamp() - make_interval(secs => $1)
          AND state = ANY ($2::text[])
        ORDER BY settled_at LIMIT $3 FOR UPDATE SKIP LOCKED)";

/// Events, found by their ids, which begin with their time in milliseconds (UUIDv7, RFC 9562); those that a digest is
/// still to tell are kept.
const EVENTS: &str = "
    DELETE FROM items_listen.event WHERE id IN (
        SELECT e.id FROM items_listen.event e
        WHERE e.id < (lpad(to_hex((extract(epoch FROM clock_timestamp() - make_interval(secs => $1)) * 1000)::bigint), 12, '0')
                      || repeat('0', 20))::uuid
          AND e.at < clock_timestamp() - make_interval(secs => $1)
          AND NOT EXISTS (SELECT FROM items_listen.storm s JOIN items_listen.watch w ON w.id = s.watch
                          WHERE w.name = e.watch AND s.from_seq <= e.seq)
        ORDER BY e.id LIMIT $2 FOR UPDATE SKIP LOCKED)";

const EPISODES: &str = "
    DELETE FROM items_listen.episode WHERE id IN (
        SELECT id FROM items_listen.episode
        WHERE id < (lpad(to_hex((extract(epoch FROM clock_timestamp() - make_interval(secs => $1)) * 1000)::bigint), 12, '0')
                    || repeat('0', 20))::uuid
          AND resolved_at < clock_timestamp() - make_interval(secs => $1)
        ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)";

/// What was noted as read of alerts that are no longer there.
const READ: &str = "
    DELETE FROM items_listen.alert_read WHERE episode IN (
        SELECT r.episode FROM items_listen.alert_read r
        WHERE r.read_at < clock_timestamp() - make_interval(secs => $1)
          AND NOT EXISTS (SELECT FROM items_listen.episode e WHERE e.id = r.episode)
        LIMIT $2 FOR UPDATE SKIP LOCKED)";

/// Removes what is older than it is to be kept, a few batches of each kind. Gives how many rows went.
///
/// # Errors
/// The database cannot be reached.
pub async fn sweep(client: &Client, schema: &Schema, retention: &Retention) -> Result<u64, Error> {
    let mut removed = 0;
    for (kept, states) in [(retention.delivered, &["delivered", "superseded"][..]), (retention.dead, &["dead"])] {
        let kept = kept.as_secs_f64();
        removed += batches(client, &schema.sql(DELIVERIES), &[&kept, &states, &BATCH]).await?;
    }
    let kept = retention.events.as_secs_f64();
    for sql in [EVENTS, EPISODES, READ] {
        removed += batches(client, &schema.sql(sql), &[&kept, &BATCH]).await?;
    }
    Ok(removed)
}

async fn batches(client: &Client, sql: &str, parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)]) -> Result<u64, Error> {
    let mut removed = 0;
    for _ in 0..BATCHES_MAX {
        let gone = client.execute(sql, parameters).await?;
        removed += gone;
        if gone < BATCH.unsigned_abs() {
            break;
        }
    }
    Ok(removed)
}
