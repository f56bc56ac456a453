//! The wire event: one flat object whose field names are frozen, and what a publish rule makes of it.

pub mod channel;
pub mod rule;
pub mod template;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::severity::Severity;

/// The full event, as `data = "full"` sends it and as templates see it.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// UUIDv7, stable over all attempts.
    pub id: Uuid,
    /// The episode, where there is one.
    pub alert: Option<Uuid>,
    /// Grows along each watch and key; gaps are allowed.
    pub seq: i64,
    /// The watch's name.
    pub watch: String,
    /// The key's columns and their values.
    pub key: Map<String, Value>,
    /// `raised`, `escalated`, `eased`, `resolved`, `repeated`, `reading`, `manual`, `digest`, `insert`, `update` or
    /// `delete`.
    pub transition: &'static str,
    /// Why, for transitions.
    pub reason: Option<&'static str>,
    /// The severity after; changes of rows have none.
    pub severity: Option<Severity>,
    /// The severity before, for transitions.
    pub previous: Option<Severity>,
    /// The reading, where there is one.
    pub count: Option<i64>,
    /// The threshold it was compared with.
    pub threshold: Option<i64>,
    /// The reading in percent of the threshold, rounded down.
    pub percent: Option<i64>,
    /// The comparison operator, where something was compared.
    pub compare: Option<&'static str>,
    /// The watch's `message`, rendered.
    pub message: Option<String>,
    /// The row, for the kinds of watch that have one; of a digest, how many keys have each severity, and the worst.
    pub row: Option<Value>,
    /// The database's time of the fold.
    pub at: Timestamp,
    /// Alerts not read, within the watch.
    pub unread_count: Option<i64>,
}

/// `data = "thin"`: for front ends that fetch the resource themselves.
#[derive(Serialize)]
pub struct Thin<'a> {
    id: Uuid,
    seq: i64,
    watch: &'a str,
    key: &'a Map<String, Value>,
    transition: &'static str,
    severity: Option<Severity>,
    at: Timestamp,
}

impl Event {
    /// The thin form of this event.
    pub fn thin(&self) -> Thin<'_> {
        Thin {
            id: self.id,
            seq: self.seq,
            watch: &self.watch,
            key: &self.key,
            transition: self.transition,
            severity: self.severity,
            at: self.at,
        }
    }

    /// The names that every template may use.
    pub const FIELDS: [&'static str; 16] = [
        "id",
        "alert",
        "seq",
        "watch",
        "key",
        "transition",
        "reason",
        "severity",
        "previous",
        "count",
        "threshold",
        "percent",
        "compare",
        "message",
        "at",
        "unread_count",
    ];
}

/// What templates see besides the event itself.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The row as it was, of a change.
    pub old: Option<Map<String, Value>>,
    /// The channels are those of the row as it was, too.
    pub moved: bool,
    /// What the watch's lookup found.
    pub lookup: Option<Map<String, Value>>,
}

impl Facts {
    /// What a template sees of an event: its fields, `old` and `lookup`.
    pub fn context(&self, event: &Event) -> minijinja::Value {
        self.with(event, event.row.clone())
    }

    /// The same from before the change: `row` is what it was.
    fn context_before(&self, event: &Event) -> Option<minijinja::Value> {
        let old = self.old.clone().filter(|_| self.moved)?;
        let row = self.lookup.iter().flatten().map(|(name, value)| (name.clone(), value.clone()));
        Some(self.with(event, Some(Value::Object(old.into_iter().chain(row).collect()))))
    }

    fn with(&self, event: &Event, row: Option<Value>) -> minijinja::Value {
        use minijinja::{Value, context};
        let known = Value::from_serialize(event);
        let old = Value::from_serialize(&self.old);
        let lookup = Value::from_serialize(&self.lookup);
        context! { row => Value::from_serialize(&row), old, lookup, ..known }
    }
}
