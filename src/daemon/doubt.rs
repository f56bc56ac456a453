//! Whether statements may have gone unnoticed.
//!
//! A trigger that can write neither the journal nor a marker lets its statement go on, with a WARNING to the writer. What
//! keeps a trigger from our tables keeps us from them as well: a session that met that, or finds other tables than were
//! there before, has every watch counted anew.

use std::sync::atomic::Ordering;

use tokio_postgres::Client;

use super::Daemon;
use crate::error::Error;

/// A lock that was not to be had; a table, a schema, a column that is not there; a right that is missing.
const UNUSABLE: [&str; 5] = ["55P03", "42P01", "3F000", "42703", "42501"];

/// Takes note of what ended a session.
pub(super) fn note(daemon: &Daemon, error: &Error) {
    if error.sqlstate().is_some_and(|sqlstate| UNUSABLE.contains(&sqlstate)) {
        daemon.process.doubt.store(true, Ordering::Release);
    }
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
        tracing::warn!(watches, "our own tables could not be used for a while, or are others than before: every watch is counted anew");
    }
    Ok(())
}
