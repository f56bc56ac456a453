//! What the shop committed, independently of the daemon: the history table, and what must follow from it.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::support::postgres::Database;
use crate::support::receiver::Event;

/// The shop's own books.
pub struct Ledger {
    session: tokio_postgres::Client,
}

/// Severity by the rules of the README, written down once more.
fn severity(watch: &str, count: i64) -> &'static str {
    match (watch, count) {
        ("orders", ..20) => "info",
        ("orders", 20..24) => "warning",
        ("orders", 24..30) => "high",
        ("orders", _) => "critical",
        (_, ..2) => "critical",
        (_, 2..5) => "high",
        (_, 5..10) => "warning",
        _ => "info",
    }
}

/// A key as text, whatever the order of its columns.
fn key_text(key: &Value) -> String {
    let columns: BTreeMap<String, Value> = serde_json::from_value(key.clone()).unwrap_or_default();
    columns.iter().map(|(column, value)| format!("{column}={value}")).collect::<Vec<_>>().join(" ")
}

impl Ledger {
    pub async fn new(database: &Database) -> Ledger {
        Ledger { session: database.session().await }
    }

    /// Milliseconds from the COMMIT after which this was true to its arrival.
    pub async fn latency(&self, event: &Event) -> Option<f64> {
        let arrived = std::time::SystemTime::now() - event.at.elapsed();
        let arrived = jiff::Timestamp::try_from(arrived).ok()?;
        let sql = "SELECT max(at) FROM history WHERE watch = $1 AND key = $2 AND count = $3 AND at <= $4";
        let row = self
            .session
            .query_one(sql, &[&event.text("watch"), &event.data["key"], &event.number("count"), &arrived])
            .await
            .ok()?;
        let at: Option<jiff::Timestamp> = row.get(0);
        Some(arrived.duration_since(at?).as_secs_f64() * 1000.0)
    }

    /// Whether what arrived is what had to: per key the severities chain from info to what is true now, each event
    /// tells a count that was really committed, and none came out of order.
    pub async fn compare(&self, events: &[Event]) -> Result<(), String> {
        let rows = self
            .session
            .query("SELECT watch, key, count FROM history ORDER BY id", &[])
            .await
            .map_err(|error| error.to_string())?;
        let mut history: BTreeMap<(String, String), Vec<i64>> = BTreeMap::new();
        for row in &rows {
            history.entry((row.get(0), key_text(&row.get(1)))).or_default().push(row.get(2));
        }
        let mut told: HashMap<(String, String), Vec<&Event>> = HashMap::new();
        for event in events {
            let of_key = told.entry((event.text("watch"), key_text(&event.data["key"]))).or_default();
            if !of_key.iter().any(|known| known.text("id") == event.text("id")) {
                of_key.push(event);
            }
        }
        for (key, counts) in &history {
            self.compare_key(key, counts, told.remove(key).unwrap_or_default())?;
        }
        match told.keys().next() {
            Some((watch, key)) => Err(format!("{watch} {key}: an alert about something that never happened")),
            None => Ok(()),
        }
    }

    fn compare_key(&self, (watch, key): &(String, String), counts: &[i64], told: Vec<&Event>) -> Result<(), String> {
        let (mut said, mut seq) = ("info".to_owned(), 0);
        for event in told {
            if event.text("previous") != said || event.number("seq") <= seq {
                return Err(format!("{watch} {key}: {} after {said} is out of order", event.text("severity")));
            }
            if !counts.contains(&event.number("count")) || severity(watch, event.number("count")) != event.text("severity") {
                return Err(format!("{watch} {key}: a count of {} was never committed", event.number("count")));
            }
            (said, seq) = (event.text("severity"), event.number("seq"));
        }
        let truth = counts.last().map_or("info", |count| severity(watch, *count));
        if said != truth {
            return Err(format!("{watch} {key}: the last alert said {said}, but it is {truth}"));
        }
        Ok(())
    }

    /// How many transactions the shop committed, and how many deliveries there were and are not settled.
    pub async fn totals(&self) -> (i64, i64, i64) {
        let sql = "SELECT (SELECT count(*) / 2 FROM history), (SELECT count(*) FROM items_listen.event),
                          (SELECT count(*) FROM items_listen.delivery WHERE state <> 'delivered')";
        match self.session.query_one(sql, &[]).await {
            Ok(row) => (row.get(0), row.get(1), row.get(2)),
            Err(_) => (0, 0, -1),
        }
    }
}
