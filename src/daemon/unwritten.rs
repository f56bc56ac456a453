//! What triggers could not write.
//!
//! A trigger that can write neither the journal nor a marker sets the sequence `unwritten` to another number, and its statement
//! goes on. Every watch is counted anew then: at once, for what is committed, and again when no transaction is left that was
//! under way, since a number is seen before the transaction that set it is. Only then the number is taken note of; a daemon
//! that ends before begins anew.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::Daemon;
use crate::db::schema::Schema;
use crate::error::Error;

/// What is still to be counted again.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    awaited: Option<Awaited>,
}

/// A number that was seen, and the first transaction that cannot have set it.
#[derive(Debug)]
struct Awaited {
    number: i64,
    before: String,
}

impl Unwritten {
    /// What a beat found. While somebody keeps us from our tables as well, the next beat is as good.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub(super) async fn at_beat(&mut self, daemon: &Daemon, unwritten: bool) -> Result<(), Error> {
        if !unwritten && self.awaited.is_none() {
            return Ok(());
        }
        match daemon.pool.run(async |client| self.look(client, &daemon.schema).await).await {
            Err(error) if error.sqlstate() == Some(SqlState::LOCK_NOT_AVAILABLE.code()) => Ok(()),
            looked => looked,
        }
    }

    /// Has every table watch counted anew, where that must be.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub(super) async fn look(&mut self, client: &Client, schema: &Schema) -> Result<(), Error> {
        let number = schema
            .sql("SELECT u.last_value FROM items_listen.unwritten u, items_listen.cluster c WHERE u.last_value <> c.unwritten");
        let Some(row) = client.query_opt(number.as_str(), &[]).await? else {
            // Another replica took note of it.
            self.awaited = None;
            return Ok(());
        };
        let number: i64 = row.get(0);
        if let Some(awaited) = self.awaited.as_ref().filter(|awaited| awaited.number == number) {
            let ended = "SELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1::text::xid8";
            if client.query_one(ended, &[&awaited.before]).await?.get(0) {
                recount(client, schema, Some(number)).await?;
                self.awaited = None;
            }
            return Ok(());
        }
        // A statement of its own: its snapshot is younger than what was seen.
        let others = "SELECT pg_snapshot_xmax(s)::text, pg_snapshot_xmin(s) = pg_snapshot_xmax(s) FROM pg_current_snapshot() s";
        let row = client.query_one(others, &[]).await?;
        let alone: bool = row.get(1);
        let watches = recount(client, schema, alone.then_some(number)).await?;
        tracing::warn!(watches, "triggers could write neither journal nor marker for a while: every watch is counted anew");
        self.awaited = (!alone).then(|| Awaited { number, before: row.get(0) });
        Ok(())
    }
}

/// Has every table watch counted anew, and takes note of the number that was the reason.
async fn recount(client: &Client, schema: &Schema, number: Option<i64>) -> Result<i64, Error> {
    let sql = schema.sql(
        "WITH noted AS (UPDATE items_listen.cluster SET unwritten = $1 WHERE $1::bigint IS NOT NULL),
         marked AS (INSERT INTO items_listen.marker (watch, reason)
                    SELECT id, 'recount' FROM items_listen.watch WHERE source = 'table' AND events <> '{}' RETURNING watch)
         SELECT count(*) FROM marked",
    );
    Ok(client.query_one(sql.as_str(), &[&number]).await?.get(0))
}

/// Where others stand in the place of the tables that triggers wrote when a daemon last looked, something is lost with those.
///
/// # Errors
/// The database cannot be asked.
pub(super) async fn look_for_others(client: &Client, schema: &Schema) -> Result<(), Error> {
    let sql = schema.sql(
        "WITH now (tables) AS (
             SELECT ARRAY['items_listen.journal'::regclass, 'items_listen.change'::regclass, 'items_listen.marker'::regclass]::oid[]),
         doubted AS MATERIALIZED (
             SELECT w.id FROM items_listen.watch w, items_listen.cluster c, now
             WHERE w.source = 'table' AND w.events <> '{}' AND c.own_tables <> '{}' AND c.own_tables <> now.tables),
         noted AS (UPDATE items_listen.cluster SET own_tables = now.tables FROM now WHERE own_tables <> now.tables),
         marked AS (INSERT INTO items_listen.marker (watch, reason) SELECT id, 'recount' FROM doubted)
         SELECT count(*) FROM doubted",
    );
    let watches: i64 = client.query_one(sql.as_str(), &[]).await?.get(0);
    if watches > 0 {
        tracing::warn!(watches, "our own tables are others than before: every watch is counted anew");
    }
    Ok(())
}
