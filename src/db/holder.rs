//! Who holds a lock that we want: named as a person can find it.

use std::fmt;

use tokio_postgres::{Client, Row};

use super::schema::Schema;
use crate::error::Error;

/// A session, or a prepared transaction, that holds a lock. Not what it runs: this is written to the log and to our tables, where
/// others read it than may see the statements of that session, and the values in them.
#[derive(Clone, Debug, PartialEq)]
pub struct Holder {
    /// Its process; `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// The role.
    pub role: String,
    /// What it calls itself, which anybody may call himself; of a prepared transaction its name.
    pub application: String,
    /// What it does, as `pg_stat_activity.state` has it.
    pub state: String,
    /// How long its transaction has lasted, in seconds.
    pub transaction: Option<f64>,
}

/// Locks with whoever holds or wants them, without those that are ours.
const SESSIONS: &str = "SELECT l.pid, coalesce(a.usename::text, p.owner::text, '') AS role, coalesce(a.application_name, p.gid, '') AS application,
           coalesce(a.state, '') AS state, extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8 AS transaction,
           l.relation AS relid, l.granted
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL AND l.virtualtransaction = '-1/' || p.transaction::text
    WHERE l.pid IS DISTINCT FROM pg_backend_pid() AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";

impl Holder {
    /// Whoever holds a lock on a relation, which is given quoted: the strongest, and of these the oldest.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn of_relation(client: &Client, relation: &str) -> Result<Option<Holder>, Error> {
        let sql = format!(
            "{SESSIONS} AND l.granted AND l.relation = to_regclass($1)
             ORDER BY l.mode IN ('AccessShareLock', 'RowShareLock'), coalesce(a.xact_start, p.prepared) LIMIT 1"
        );
        Ok(client.query_opt(sql.as_str(), &[&relation]).await?.as_ref().map(Holder::read))
    }

    /// Whoever holds an advisory lock, whose key is given as an expression.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn of_advisory(client: &Client, key: &str) -> Result<Option<Holder>, Error> {
        let sql = format!(
            "{SESSIONS} AND l.granted AND l.locktype = 'advisory' AND l.objsubid = 1 AND (l.classid::bigint << 32 | l.objid::bigint) = {key}
             ORDER BY coalesce(a.xact_start, p.prepared) LIMIT 1"
        );
        Ok(client.query_opt(sql.as_str(), &[]).await?.as_ref().map(Holder::read))
    }

    /// A table of this database that nobody may even read, and whoever is in the way: it holds the lock for that, or waits for
    /// it, and who comes later waits behind it. If there are several, the given table, which is given quoted.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn of_unreadable(client: &Client, relation: Option<&str>) -> Result<Option<Unreadable>, Error> {
        let sql = format!(
            "SELECT s.*, s.relid::regclass::text AS relation
             FROM ({SESSIONS} AND l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock') AS s
             JOIN pg_class c ON c.oid = s.relid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname !~ '^pg_' AND c.relkind IN ('r', 'p', 'm', 'v', 'f')
             ORDER BY s.relid = to_regclass($1) DESC, s.granted DESC, s.transaction DESC LIMIT 1"
        );
        let row = client.query_opt(sql.as_str(), &[&relation]).await?;
        Ok(row.map(|row| Unreadable { relation: row.get("relation"), granted: row.get("granted"), holder: Holder::read(&row) }))
    }

    /// Whoever holds an advisory lock, whose key is given as an expression, and is none of ours.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn stranger(client: &Client, schema: &Schema, key: &str) -> Result<Option<Holder>, Error> {
        let Some(holder) = Holder::of_advisory(client, key).await? else { return Ok(None) };
        Ok((!holder.is_ours(client, schema).await?).then_some(holder))
    }

    /// Whether it is a daemon or a command of ours: it calls itself as we do, and may write what only we write. Anybody may
    /// take our name, but who may write the journal need not take a lock to do harm.
    async fn is_ours(&self, client: &Client, schema: &Schema) -> Result<bool, Error> {
        let sql = schema.sql(
            "SELECT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = $1 AND a.application_name = current_setting('application_name')
                            AND has_table_privilege(a.usesysid, 'items_listen.journal', 'INSERT'))",
        );
        Ok(client.query_one(sql.as_str(), &[&self.pid]).await?.get(0))
    }

    fn read(row: &Row) -> Holder {
        Holder {
            pid: row.get("pid"),
            role: row.get("role"),
            application: row.get("application"),
            state: row.get("state"),
            transaction: row.get("transaction"),
        }
    }
}

/// A table that cannot be read at present.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreadable {
    /// The table, quoted where it must be.
    pub relation: String,
    /// The lock is held; or it is waited for.
    pub granted: bool,
    /// By whom.
    pub holder: Holder,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unreadable { relation, granted, holder } = self;
        let how = if *granted { "is locked by" } else { "is about to be locked by" };
        write!(to, "{} {how} {holder}", relation.escape_debug())
    }
}

/// In words, in which nothing that the session chose can do anything to a terminal.
impl fmt::Display for Holder {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let application = self.application.escape_debug();
        match self.pid {
            Some(pid) => write!(to, "pid {pid}, application \"{application}\"")?,
            None => write!(to, "the prepared transaction '{application}'")?,
        }
        if !self.role.is_empty() {
            write!(to, " of {}", self.role.escape_debug())?;
        }
        if !self.state.is_empty() {
            write!(to, ", {}", self.state)?;
        }
        if let Some(seconds) = self.transaction {
            write!(to, ", its transaction {seconds:.0} s old")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_named_and_what_it_chose_stays_text() {
        let holder = Holder {
            pid: Some(7),
            role: "app".into(),
            application: "x\u{1b}[2J".into(),
            state: "idle in transaction".into(),
            transaction: Some(12.4),
        };
        assert_eq!(
            holder.to_string(),
            r#"pid 7, application "x\u{1b}[2J" of app, idle in transaction, its transaction 12 s old"#
        );
        let prepared =
            Holder { pid: None, role: String::new(), application: "gid".into(), state: String::new(), transaction: None };
        assert_eq!(prepared.to_string(), "the prepared transaction 'gid'");
    }
}
