//! How everything stands, from the database alone: so that it can be asked without a daemon, too.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::db::schema::Schema;
use crate::engine::Served;
use crate::error::Error;
use crate::severity::percent;
use crate::watch::Measure;

/// What `status --json` and `/api/status` say. The names are stable.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// Of this program.
    #[serde(default)]
    pub version: String,
    /// Some daemon is ready.
    pub ready: bool,
    /// The daemons that were heard of in the last ten seconds.
    pub instances: Vec<Instance>,
    /// The installed watches.
    pub watches: Vec<WatchStatus>,
    /// The endpoints that somebody sends to, or that something waits for.
    pub endpoints: Vec<EndpointStatus>,
    /// The database.
    pub database: DatabaseStatus,
}

/// A running daemon.
#[derive(Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it, and the design lists them")]
pub struct Instance {
    pub host: String,
    pub pid: i32,
    pub version: String,
    pub config_hash: String,
    pub beat_at: Timestamp,
}

/// A watch.
#[derive(Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it, and the design lists them")]
pub struct WatchStatus {
    pub name: String,
    pub source: String,
    pub keys: i64,
    pub open: Open,
    pub last_transition_at: Option<Timestamp>,
    pub error: Option<String>,
}

/// Open alerts by severity.
#[derive(Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it, and the design lists them")]
pub struct Open {
    pub warning: i64,
    pub high: i64,
    pub critical: i64,
}

/// An endpoint.
#[derive(Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it, and the design lists them")]
pub struct EndpointStatus {
    pub name: String,
    pub state: String,
    pub reason: Option<String>,
    pub until: Option<Timestamp>,
    pub pending: i64,
    pub oldest_pending_at: Option<Timestamp>,
    pub dead: i64,
    pub last_success_at: Option<Timestamp>,
    pub last_error: Option<String>,
}

/// The database.
#[derive(Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it, and the design lists them")]
pub struct DatabaseStatus {
    pub listen_heartbeat_at: Option<Timestamp>,
    pub doorbell: Option<String>,
    pub journal_rows: i64,
}

impl Status {
    /// Nothing is paused, dead or degraded, and some daemon lives.
    pub fn is_well(&self) -> bool {
        !self.instances.is_empty()
            && self.watches.iter().all(|watch| watch.error.is_none())
            && self.endpoints.iter().all(|endpoint| endpoint.state != "paused" && endpoint.dead == 0)
    }
}

/// Reads the status.
///
/// # Errors
/// The database cannot be reached, or nothing is installed.
pub async fn read(client: &Client, schema: &Schema) -> Result<Status, Error> {
    let document: serde_json::Value = client.query_one(schema.sql(include_str!("../sql/status.sql")).as_str(), &[]).await?.get(0);
    let mut status: Status = serde_json::from_value(document)
        .map_err(|error| Error::Failed(format!("the status is not what it should be: {error}")))?;
    status.version = crate::version::VERSION.to_owned();
    Ok(status)
}

/// Says, once everything is counted, where each watch stands: "3 keys, highest 18 of 20 (90 %), nothing to send".
///
/// # Errors
/// The database cannot be reached.
pub async fn say_watches(client: &Client, schema: &Schema, served: &[&Served]) -> Result<(), Error> {
    for served in served {
        let watch = &served.watch;
        if !watch.counts() {
            tracing::info!("{}: changes of rows are told as they are committed", watch.name);
            continue;
        }
        let low = watch.policy.scale.compare.is_low();
        let sql = schema.sql(&format!(
            "SELECT count(*), count(*) FILTER (WHERE severity > 0),
                    (SELECT key FROM items_listen.count WHERE watch = $1 ORDER BY {reading} {order}, key LIMIT 1),
                    (SELECT least(greatest({reading}, -9223372036854775808), 9223372036854775807)::bigint
                     FROM items_listen.count WHERE watch = $1 ORDER BY {reading} {order}, key LIMIT 1)
             FROM items_listen.count WHERE watch = $1",
            reading = if watch.measure == Measure::Rows { "rows" } else { "sum" },
            order = if low { "ASC" } else { "DESC" }
        ));
        let row = client.query_one(sql.as_str(), &[&served.id]).await?;
        let (keys, open): (i64, i64) = (row.get(0), row.get(1));
        let extreme = match (row.get::<_, Option<String>>(2), row.get::<_, Option<i64>>(3)) {
            (Some(key), Some(count)) => {
                let threshold = watch.threshold_of(&watch.key_from_text(&key));
                let of = match (threshold, percent(count, threshold)) {
                    (Some(threshold), Some(percent)) => format!(" of {threshold} ({percent} %)"),
                    (Some(threshold), None) => format!(" of {threshold}"),
                    (None, _) => ", no threshold".to_owned(),
                };
                format!(", {} {count}{of}", if low { "lowest" } else { "highest" })
            }
            _ => String::new(),
        };
        let alerts = match open {
            0 => "nothing to send".to_owned(),
            1 => "1 alert open".to_owned(),
            open => format!("{open} alerts open"),
        };
        let keys = if keys == 1 { "1 key".to_owned() } else { format!("{keys} keys") };
        tracing::info!("{}: {keys}{extreme}, {alerts}", watch.name);
    }
    Ok(())
}
