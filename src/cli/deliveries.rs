//! `items-listen deliveries list|show|retry|discard`

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{duration, plain, print, print_json};
use crate::config::Config;
use crate::db::session::Purpose;
use crate::error::Error;
use crate::pusher::classify::Reason;

/// Which deliveries; what is not given does not matter.
#[derive(Debug, Default, Args)]
pub(super) struct Filter {
    /// Only those of this endpoint
    #[arg(long)]
    endpoint: Option<String>,
    /// Only those of this watch
    #[arg(long)]
    watch: Option<String>,
    /// Only those with this reason
    #[arg(long, value_parser = Reason::ALL.map(Reason::as_str))]
    reason: Option<String>,
    /// Only those written at least so long ago, such as 10m or 24h
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    older_than: Option<Duration>,
}

/// The filter as an SQL condition on `d`; its parameters are numbered from 1.
const MATCHES: &str =
    "($1::text IS NULL OR d.endpoint = $1) AND ($2::text IS NULL OR coalesce(d.about ->> 'watch', d.watch) = $2)
    AND ($3::text IS NULL OR d.reason = $3)
    AND ($4::float8 IS NULL OR d.created_at < clock_timestamp() - make_interval(secs => $4))";

impl Filter {
    fn is_empty(&self) -> bool {
        self.endpoint.is_none() && self.watch.is_none() && self.reason.is_none() && self.older_than.is_none()
    }

    fn older_than_seconds(&self) -> Option<f64> {
        self.older_than.map(|older| older.as_secs_f64())
    }
}

/// What `deliveries discard` is to put away.
#[derive(Debug)]
pub(super) struct Discard {
    pub(super) ids: Vec<i64>,
    pub(super) filter: Filter,
    pub(super) pending: bool,
    pub(super) all: bool,
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

/// The columns of [`Line`].
const LINES: &str =
    "SELECT d.id, d.event_id, coalesce(d.about ->> 'watch', d.watch), coalesce(e.key, d.about -> 'key', d.key::jsonb), d.endpoint, d.channels, d.event, d.state, d.attempts,
                            d.due_at, d.created_at, d.settled_at, d.reason, d.status, d.answer, d.body
                     FROM items_listen.delivery d LEFT JOIN items_listen.event e ON e.id = d.event_id";

impl Line {
    fn read(row: &Row) -> Line {
        let body: String = row.get(15);
        Line {
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
        }
    }
}

/// Lists deliveries, newest first.
pub(super) async fn list(config: &Config, filter: &Filter, state: Option<&str>, limit: i64, json: bool) -> Result<u8, Error> {
    let (client, _, schema) = super::connect(config, Purpose::Work).await?;
    super::require_schema(&client, &schema).await?;
    let sql = schema.sql(&format!("{LINES} WHERE {MATCHES} AND ($5::text IS NULL OR d.state = $5) ORDER BY d.id DESC LIMIT $6"));
    let parameters: [&(dyn ToSql + Sync); 6] =
        [&filter.endpoint, &filter.watch, &filter.reason, &filter.older_than_seconds(), &state, &limit.max(0)];
    let rows = client.query(sql.as_str(), &parameters).await?;
    for line in rows.iter().map(Line::read) {
        if json { print_json(&line) } else { print(&text(&line)) }
    }
    if rows.is_empty() && !json {
        print("no such deliveries");
    }
    Ok(0)
}

/// Shows one delivery whole.
pub(super) async fn show(config: &Config, id: i64, json: bool) -> Result<u8, Error> {
    let (client, _, schema) = super::connect(config, Purpose::Work).await?;
    super::require_schema(&client, &schema).await?;
    let sql = schema.sql(&format!("{LINES} WHERE d.id = $1"));
    let Some(row) = client.query_opt(sql.as_str(), &[&id]).await? else {
        return Err(Error::Failed(format!("there is no delivery {id}; items-listen deliveries list shows those that there are")));
    };
    let line = Line::read(&row);
    if json {
        print_json(&line)
    } else {
        print(&whole(&line))
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
        plain(&line.endpoint),
        plain(&line.channels.join(" ")),
        plain(&line.event),
    )
}

fn whole(line: &Line) -> String {
    let at = |at: Option<Timestamp>| at.map_or_else(|| "–".to_owned(), |at| at.to_string());
    let data = line.body["data"].as_str().and_then(|data| serde_json::from_str::<serde_json::Value>(data).ok());
    let body = data.as_ref().unwrap_or(&line.body);
    let rows = [
        ("delivery", line.id.to_string()),
        ("event id", line.event_id.to_string()),
        ("watch", format!("{} {}", line.watch, line.key)),
        ("to", format!("{}: {} on {}", line.endpoint, line.event, line.channels.join(" "))),
        ("state", format!("{} {}", line.state, line.reason.as_deref().unwrap_or_default())),
        ("attempts", line.attempts.to_string()),
        ("written", at(Some(line.created_at))),
        ("due", at(Some(line.due_at).filter(|_| line.state == "pending"))),
        ("settled", at(line.settled_at)),
        ("status", line.status.map_or_else(|| "–".to_owned(), |status| status.to_string())),
        ("answer", line.answer.clone().unwrap_or_else(|| "–".to_owned())),
        ("data", serde_json::to_string_pretty(body).unwrap_or_default()),
    ];
    // Line by line, so that what comes from elsewhere cannot steer the terminal.
    let value = |text: &str| text.trim_end().split('\n').map(plain).collect::<Vec<_>>().join("\n          ");
    rows.iter().map(|(name, text)| format!("{name:8}  {}", value(text))).collect::<Vec<_>>().join("\n")
}

/// Sends dead deliveries again; in a copied database, also what was held.
pub(super) async fn retry(config: &Config, ids: &[i64], filter: &Filter, json: bool) -> Result<u8, Error> {
    let (client, _, schema) = super::connect(config, Purpose::Work).await?;
    super::require_schema(&client, &schema).await?;
    let adopt = schema.sql(
        "UPDATE items_listen.cluster SET system_identifier = s.system_identifier FROM pg_control_system() s
         WHERE cluster.system_identifier <> s.system_identifier",
    );
    if client.execute(adopt.as_str(), &[]).await? > 0 && !json {
        print("this copy's outbox is no longer held");
    }
    // What cannot be sent for its names would die again at once.
    let again = schema.sql(&format!(
        "UPDATE items_listen.delivery
         SET state = 'pending', settled_at = NULL, due_at = clock_timestamp(), created_at = clock_timestamp(), attempts = 0,
             reason = NULL
         WHERE id IN (SELECT d.id FROM items_listen.delivery d
                      WHERE {MATCHES} AND d.state = 'dead' AND d.reason <> '{}'
                        AND (cardinality($5::bigint[]) = 0 OR d.id = ANY ($5))
                      ORDER BY d.id LIMIT {PAGE} FOR UPDATE)",
        Reason::Unsendable.as_str()
    ));
    let parameters: [&(dyn ToSql + Sync); 5] =
        [&filter.endpoint, &filter.watch, &filter.reason, &filter.older_than_seconds(), &ids];
    let retried = in_pages(&client, &again, &parameters).await?;
    if json {
        print(&serde_json::json!({ "retried": retried }).to_string());
    } else {
        print(&format!("{retried} deliveries are due again"));
    }
    Ok(u8::from(!ids.is_empty() && retried < ids.len() as u64))
}

/// So many rows are changed by one statement.
pub(super) const PAGE: u64 = 10_000;

/// Runs a statement until it finds less than a page: millions of rows take longer than one statement may.
pub(super) async fn in_pages(
    client: &tokio_postgres::Client,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<u64, Error> {
    let mut all = 0;
    loop {
        let changed = client.execute(sql, parameters).await?;
        all += changed;
        if changed < PAGE {
            return Ok(all);
        }
    }
}

/// Puts deliveries away. They are not removed before their time: what was not sent, and why, can be looked up.
pub(super) async fn discard(config: &Config, which: &Discard, json: bool) -> Result<u8, Error> {
    let Discard { ids, filter, pending, all } = which;
    if ids.is_empty() && filter.is_empty() && !all {
        return Err(Error::Usage("say which deliveries: their ids, a filter such as --endpoint main, or --all".to_owned()));
    }
    let (client, _, schema) = super::connect(config, Purpose::Work).await?;
    super::require_schema(&client, &schema).await?;
    let put_away = schema.sql(&format!(
        "UPDATE items_listen.delivery
         SET state = 'superseded', settled_at = clock_timestamp(), reason = '{}', lease = NULL, lease_until = NULL, leased_by = NULL
         WHERE id IN (SELECT d.id FROM items_listen.delivery d
                      WHERE {MATCHES} AND d.state = $5 AND (cardinality($6::bigint[]) = 0 OR d.id = ANY ($6))
                      ORDER BY d.id LIMIT {PAGE} FOR UPDATE)",
        Reason::Discarded.as_str()
    ));
    let state = if *pending { "pending" } else { "dead" };
    let parameters: [&(dyn ToSql + Sync); 6] =
        [&filter.endpoint, &filter.watch, &filter.reason, &filter.older_than_seconds(), &state, &ids];
    let discarded = in_pages(&client, &put_away, &parameters).await?;
    if json {
        print(&serde_json::json!({ "discarded": discarded }).to_string());
    } else {
        print(&format!("{discarded} {state} deliveries are put away"));
    }
    Ok(u8::from(!ids.is_empty() && discarded < ids.len() as u64))
}
