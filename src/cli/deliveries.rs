//! `items-listen deliveries list|retry`

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::{plain, print};
use crate::config::Config;
use crate::db::session::Purpose;
use crate::error::Error;

/// Which deliveries.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) state: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) watch: Option<String>,
    pub(super) limit: i64,
}

/// A line of `deliveries list --json`. The names are stable.
#[derive(Debug, Serialize)]
struct Line {
    id: i64,
    event_id: Uuid,
    watch: String,
    key: serde_json::Value,
    endpoint: String,
    channels: Vec<String>,
    event: String,
    state: String,
    attempts: i32,
    due_at: Timestamp,
    created_at: Timestamp,
    settled_at: Option<Timestamp>,
    reason: Option<String>,
    status: Option<i32>,
    answer: Option<String>,
    body: serde_json::Value,
}

/// Lists deliveries, newest first.
pub(super) async fn list(config: &Config, filter: &Filter, json: bool) -> Result<u8, Error> {
    let (client, _, schema) = super::connect(config, Purpose::Work).await?;
    super::require_schema(&client, &schema).await?;
    let sql = schema.sql(
        "SELECT d.id, d.event_id, d.watch, coalesce(e.key, '{}'), d.endpoint, d.channels, d.event, d.state, d.attempts,
                d.due_at, d.created_at, d.settled_at, d.reason, d.status, d.answer, d.body
         FROM items_listen.delivery d LEFT JOIN items_listen.event e ON e.id = d.event_id
         WHERE ($1::text IS NULL OR d.state = $1) AND ($2::text IS NULL OR d.endpoint = $2) AND ($3::text IS NULL OR d.watch = $3)
         ORDER BY d.id DESC LIMIT $4",
    );
    let rows = client.query(sql.as_str(), &[&filter.state, &filter.endpoint, &filter.watch, &filter.limit.max(0)]).await?;
    for row in &rows {
        let body: String = row.get(15);
        let line = Line {
            id: row.get(0),
            event_id: row.get(1),
            watch: row.get(2),
            key: row.get(3),
            endpoint: row.get(4),
            channels: row.get(5),
            event: row.get(6),
            state: row.get(7),
            attempts: row.get(8),
            due_at: row.get(9),
            created_at: row.get(10),
            settled_at: row.get(11),
            reason: row.get(12),
            status: row.get(13),
            answer: row.get(14),
            body: serde_json::from_str(&body).unwrap_or(serde_json::Value::String(body)),
        };
        print(&if json { serde_json::to_string(&line).unwrap_or_default() } else { text(&line) });
    }
    if rows.is_empty() && !json {
        print("no such deliveries");
    }
    Ok(0)
}

fn text(line: &Line) -> String {
    let status = line.status.map_or(String::new(), |status| format!(" {status}"));
    let reason = line.reason.as_deref().map_or(String::new(), |reason| format!(" {reason}"));
    let answer = line
        .answer
        .as_deref()
        .filter(|_| line.state != "delivered")
        .map_or(String::new(), |answer| format!(": {}", plain(answer)));
    format!(
        "{:>8}  {}  {:9}{status}{reason}  {} attempts  {} {} → {}, {}  {}{answer}",
        line.id,
        line.created_at.strftime("%Y-%m-%d %H:%M:%S"),
        line.state,
        line.attempts,
        plain(&line.watch),
        plain(&line.key.to_string()),
        line.endpoint,
        line.channels.join(" "),
        plain(&line.event),
    )
}

/// Sends dead deliveries again; in a copied database, also what was held.
pub(super) async fn retry(config: &Config, ids: &[i64]) -> Result<u8, Error> {
    let (client, _, schema) = super::connect(config, Purpose::Work).await?;
    super::require_schema(&client, &schema).await?;
    let adopt = schema.sql(
        "UPDATE items_listen.cluster SET system_identifier = s.system_identifier FROM pg_control_system() s
         WHERE cluster.system_identifier <> s.system_identifier",
    );
    if client.execute(adopt.as_str(), &[]).await? > 0 {
        print("this copy's outbox is no longer held");
    }
    // What cannot be sent for its names would die again at once.
    let again = schema.sql(
        "UPDATE items_listen.delivery SET state = 'pending', settled_at = NULL, due_at = clock_timestamp(), created_at = clock_timestamp(),
                attempts = 0, reason = NULL
         WHERE state = 'dead' AND reason <> 'unsendable' AND (cardinality($1::bigint[]) = 0 OR id = ANY ($1))",
    );
    let retried = client.execute(again.as_str(), &[&ids]).await?;
    print(&format!("{retried} deliveries are due again"));
    Ok(u8::from(!ids.is_empty() && retried < ids.len() as u64))
}
