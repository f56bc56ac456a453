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
    /// `raised`, `escalated`, `eased`, `resolved`, `repeated`, `reading`, `manual` or `digest`.
    pub transition: &'static str,
    /// Why, for transitions.
    pub reason: Option<&'static str>,
    /// The severity after.
    pub severity: Severity,
    /// The severity before, for transitions.
    pub previous: Option<Severity>,
    /// The reading.
    pub count: i64,
    /// The threshold it was compared with.
    pub threshold: Option<i64>,
    /// The reading in percent of the threshold, rounded down.
    pub percent: Option<i64>,
    /// The comparison operator.
    pub compare: &'static str,
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
    severity: Severity,
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

    /// The names that templates may use, besides `key.*`.
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
