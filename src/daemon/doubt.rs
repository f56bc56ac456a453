//! Whether statements may have gone unnoticed.
//!
//! A trigger that can write neither the journal nor a marker lets its statement go on, with a WARNING to the writer. So each
//! beat asks whether triggers can write; and where they could not, where a session of ours could not use these tables either, or
//! where others than before stand in their place, every watch is counted anew.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_postgres::Client;

use super::Daemon;
use crate::error::Error;

/// A table, a schema, a column, a function that is not there; a right that is missing.
const UNUSABLE: [&str; 5] = ["42P01", "3F000", "42703", "42501", "42883"];
/// So long it may take to find out who has our tables.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes note of what ended a session.
pub(super) async fn note(daemon: &Daemon, error: &Error) {
    let doubt = match error.sqlstate() {
        // A lock that was not to be had, or that somebody else was given: on what triggers write, or on something else?
        Some("55P03") => tokio::time::timeout(PATIENCE, are_locked(daemon)).await.unwrap_or(true),
        Some("40P01") => tokio::time::timeout(PATIENCE, are_named(daemon, &error.to_string())).await.unwrap_or(true),
        Some(sqlstate) => UNUSABLE.contains(&sqlstate),
        None => false,
    };
    if doubt {
        daemon.process.doubt.store(true, Ordering::Release);
    }
}

/// What a beat found. While triggers cannot write our tables nothing rings, and no fold meets what keeps them away.
///
/// # Errors
/// The database cannot be asked.
pub(super) async fn at_beat(daemon: &Daemon, writable: bool) -> Result<(), Error> {
    if !writable {
        daemon.process.doubt.store(true, Ordering::Release);
    } else if daemon.process.doubt.load(Ordering::Acquire) {
        daemon.pool.run(async |client| resolve(client, daemon).await).await?;
    }
    Ok(())
}

/// Whether somebody keeps triggers from our tables at this moment. What cannot be known is taken to be so.
async fn are_locked(daemon: &Daemon) -> bool {
    let sql = daemon.schema.sql(
        "SELECT EXISTS (SELECT FROM pg_locks
                        WHERE granted AND relation IN (to_regclass('items_listen.journal'), to_regclass('items_listen.marker'))
                          AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))",
    );
    daemon.pool.run(async |client| Ok(client.query_one(sql.as_str(), &[]).await?.get(0))).await.unwrap_or(true)
}

/// Whether the server's account of a deadlock is about our tables. It is in the server's language, but has their numbers; and who
/// was given the lock may have let go of it again by now.
async fn are_named(daemon: &Daemon, account: &str) -> bool {
    let numbers: Vec<u32> = account.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect();
    let sql = daemon.schema.sql(
        "SELECT coalesce(ARRAY[to_regclass('items_listen.journal'), to_regclass('items_listen.marker')]::oid[] && $1::oid[], true)",
    );
    daemon.pool.run(async |client| Ok(client.query_one(sql.as_str(), &[&numbers]).await?.get(0))).await.unwrap_or(true)
}

/// Has every table watch counted anew, where that must be.
///
/// # Errors
/// The database cannot be asked.
pub(super) async fn resolve(client: &Client, daemon: &Daemon) -> Result<(), Error> {
    let doubt = daemon.process.doubt.load(Ordering::Acquire);
    let sql = daemon.schema.sql(
        "WITH now (tables) AS (
             SELECT ARRAY['items_listen.journal'::regclass, 'items_listen.change'::regclass, 'items_listen.marker'::regclass]::oid[]),
         doubted AS MATERIALIZED (
             SELECT w.id FROM items_listen.watch w, items_listen.cluster c, now
             WHERE w.source = 'table' AND w.events <> '{}'
               AND ($1 OR c.own_tables <> '{}' AND c.own_tables <> now.tables)),
         noted AS (UPDATE items_listen.cluster SET own_tables = now.tables FROM now WHERE own_tables <> now.tables),
         marked AS (INSERT INTO items_listen.marker (watch, reason) SELECT id, 'recount' FROM doubted)
         SELECT count(*) FROM doubted",
    );
    let watches: i64 = client.query_one(sql.as_str(), &[&doubt]).await?.get(0);
    daemon.process.doubt.store(false, Ordering::Release);
    if watches > 0 {
        tracing::warn!(
            watches,
            "our own tables could not be used for a while, or are others than before: every watch is counted anew"
        );
    }
    Ok(())
}
