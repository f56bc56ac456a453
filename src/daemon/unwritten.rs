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

/// A number that was seen, and a transaction that began after it was set.
#[derive(Debug)]
struct Awaited {
    number: i64,
    before: String,
}

impl Awaited {
    /// Whether all transactions have ended that may have set it. That transaction has, so a snapshot knows all before it.
    async fn have_ended(&self, client: &Client) -> Result<bool, Error> {
        let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1::text::xid8";
        Ok(client.query_one(sql, &[&self.before]).await?.get(0))
    }
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
            if awaited.have_ended(client).await? {
                recount(client, schema, Some(number)).await?;
                self.awaited = None;
            }
            return Ok(());
        }
        // A number of our own, drawn after what was seen was set: that transaction had one, and it is lower. (The end of a
        // snapshot will not do: a transaction that runs may have a number beyond the latest that has ended.)
        let drawn = client.query_one("SELECT pg_current_xact_id()::text", &[]).await?;
        let awaited = Awaited { number, before: drawn.get(0) };
        let ended = awaited.have_ended(client).await?;
        let watches = recount(client, schema, ended.then_some(number)).await?;
        tracing::warn!(watches, "triggers could write neither journal nor marker for a while: every watch is counted anew");
        self.awaited = (!ended).then_some(awaited);
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
