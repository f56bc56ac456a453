//! Who holds the vacuum horizon back, and who keeps the notification queue from being emptied.
//!
//! Neither slows a fold down, which looks journal rows up by their transaction; but dead rows that nobody may remove make
//! every table grow, ours and the application's, and a queue that is full makes every NOTIFY fail, and its COMMIT.

use std::time::Duration;

use tokio_postgres::Client;

use super::{literal, quote};
use crate::error::Error;

/// Something that holds the vacuum horizon back, and how to end it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// What it is, with how long it has been there.
    pub what: String,
    /// What ends it.
    pub remedy: String,
}

/// Who has held the vacuum horizon of this database back for longer than this, the oldest first: sessions, prepared
/// transactions, and replication slots that nobody uses (of which PostgreSQL does not say since when).
///
/// # Errors
/// The database cannot be asked.
pub async fn holders(client: &Client, longer_than: Duration) -> Result<Vec<Holder>, Error> {
    let mut all = sessions(client, longer_than).await?;
    all.extend(prepared(client, longer_than).await?);
    all.extend(slots(client).await?);
    Ok(all)
}

async fn sessions(client: &Client, longer_than: Duration) -> Result<Vec<Holder>, Error> {
    // A session of another database matters only if it writes: every snapshot then has to count with it.
    let sql = "SELECT pid, coalesce(application_name, ''), coalesce(usename::text, ''), coalesce(state, ''),
                      extract(epoch FROM clock_timestamp() - xact_start)::float8, coalesce(datname::text, '')
               FROM pg_stat_activity
               WHERE (backend_xid IS NOT NULL OR (backend_xmin IS NOT NULL AND datname = current_database()))
                 -- Vacuum's own snapshots hold nothing back; ours of a recount end with it.
                 AND pid NOT IN (SELECT v.pid FROM pg_stat_progress_vacuum AS v)
                 AND backend_type IS DISTINCT FROM 'autovacuum worker' AND application_name IS DISTINCT FROM current_setting('application_name')
                 AND pid <> pg_backend_pid() AND xact_start < clock_timestamp() - make_interval(secs => $1)
               ORDER BY xact_start LIMIT 5";
    let rows = client.query(sql, &[&longer_than.as_secs_f64()]).await?;
    let holder = |row: &tokio_postgres::Row| {
        let (pid, application, user, state): (i32, String, String, String) = (row.get(0), row.get(1), row.get(2), row.get(3));
        let prevention = if state.starts_with("idle in transaction") { IDLE } else { "" };
        Holder {
            what: format!(
                "session {pid} ({application}, {user} in {}), {state}, has been in one transaction for {}",
                row.get::<_, String>(5),
                duration(row.get(4))
            ),
            remedy: format!("SELECT pg_terminate_backend({pid});{prevention}"),
        }
    };
    Ok(rows.iter().map(holder).collect())
}

const IDLE: &str = " (idle_in_transaction_session_timeout prevents the next one)";

async fn prepared(client: &Client, longer_than: Duration) -> Result<Vec<Holder>, Error> {
    let sql = "SELECT gid, owner::text, extract(epoch FROM clock_timestamp() - prepared)::float8, database::text
               FROM pg_prepared_xacts WHERE prepared < clock_timestamp() - make_interval(secs => $1) ORDER BY prepared LIMIT 5";
    let rows = client.query(sql, &[&longer_than.as_secs_f64()]).await?;
    let holder = |row: &tokio_postgres::Row| {
        let (gid, owner, database): (String, String, String) = (row.get(0), row.get(1), row.get(3));
        Holder {
            what: format!("the prepared transaction {gid} of {owner} in {database} has waited for {}", duration(row.get(2))),
            remedy: format!(
                "in the database {database}: COMMIT PREPARED {gid}; or ROLLBACK PREPARED {gid};",
                gid = literal(&gid)
            ),
        }
    };
    Ok(rows.iter().map(holder).collect())
}

async fn slots(client: &Client) -> Result<Vec<Holder>, Error> {
    let sql = "SELECT slot_name::text, slot_type, greatest(age(xmin), age(catalog_xmin))::bigint, xmin IS NULL
               FROM pg_replication_slots
               WHERE NOT active AND (xmin IS NOT NULL OR (catalog_xmin IS NOT NULL AND database = current_database()))
               ORDER BY 3 DESC LIMIT 5";
    let rows = client.query(sql, &[]).await?;
    let holder = |row: &tokio_postgres::Row| {
        let (name, kind, age, catalog): (String, String, i64, bool) = (row.get(0), row.get(1), row.get(2), row.get(3));
        let of = if catalog { " of the catalogs" } else { "" };
        Holder {
            what: format!(
                "the {kind} replication slot {} is used by nobody and holds the horizon{of} {age} transactions back",
                quote(&name)
            ),
            remedy: format!("connect its consumer again, or SELECT pg_drop_replication_slot({});", literal(&name)),
        }
    };
    Ok(rows.iter().map(holder).collect())
}

/// Whether this role sees what other roles' sessions do.
///
/// # Errors
/// The database cannot be asked.
pub async fn sees_others(client: &Client) -> Result<bool, Error> {
    Ok(client.query_one("SELECT pg_has_role('pg_read_all_stats', 'USAGE')", &[]).await?.get(0))
}

/// How full the notification queue is (0 to 1), and who may be in the way: a session that listens is told only between
/// its transactions, so the queue is kept by the oldest that is in one.
///
/// # Errors
/// The database cannot be asked.
pub async fn queue(client: &Client) -> Result<(f64, Vec<Holder>), Error> {
    let usage: f64 = client.query_one("SELECT pg_notification_queue_usage()", &[]).await?.get(0);
    let sql = "SELECT pid, coalesce(application_name, ''), coalesce(usename::text, ''), coalesce(datname::text, ''), coalesce(state, ''),
                      extract(epoch FROM clock_timestamp() - xact_start)::float8
               FROM pg_stat_activity
               WHERE coalesce(backend_type, 'client backend') = 'client backend' AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
               ORDER BY xact_start LIMIT 3";
    let rows = client.query(sql, &[]).await?;
    let suspect = |row: &tokio_postgres::Row| {
        let (pid, application, user, database, state): (i32, String, String, String, String) =
            (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
        Holder {
            what: format!("session {pid} ({application}, {user} in {database}), {state} for {}", duration(row.get(5))),
            remedy: format!("SELECT pg_terminate_backend({pid});"),
        }
    };
    Ok((usage, rows.iter().map(suspect).collect()))
}

/// A time as a person says it.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}
