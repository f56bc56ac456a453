//! Alerts of a test: which are unread, and the row that each was last told with.

use std::collections::HashMap;

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::engine::decide::Decision;
use crate::engine::tell::Told;
use crate::evaluate::Transition;
use crate::watch::Watch;

/// All alerts, as the tables `episode` and `event` would have them.
#[derive(Default)]
pub(super) struct Inbox {
    alerts: Vec<Alert>,
    rows: HashMap<Uuid, String>,
}

struct Alert {
    id: Uuid,
    watch: String,
    key: Map<String, Value>,
    unread: bool,
}

impl Inbox {
    /// A raised alert is unread, and one that escalates is again.
    pub(super) fn note(&mut self, watch: &Watch, key: &Map<String, Value>, decision: &Decision) {
        let (Some(change), Some(id)) = (decision.change, decision.about) else { return };
        match change.transition {
            Transition::Raised => {
                self.alerts.push(Alert { id, watch: watch.name.clone(), key: key.clone(), unread: true });
            }
            Transition::Escalated => {
                self.alerts.iter_mut().filter(|alert| alert.id == id).for_each(|alert| alert.unread = true);
            }
            Transition::Eased | Transition::Resolved | Transition::Repeated => {}
        }
    }

    /// Somebody reads all of them.
    pub(super) fn read(&mut self) {
        self.alerts.iter_mut().for_each(|alert| alert.unread = false);
    }

    /// So many are unread within what the watch counts this key's by.
    pub(super) fn unread(&self, watch: &Watch, key: &Map<String, Value>) -> i64 {
        let within = watch.unread_within(key);
        let counted = |alert: &&Alert| alert.unread && alert.watch == watch.name && watch.unread_within(&alert.key) == within;
        i64::try_from(self.alerts.iter().filter(counted).count()).unwrap_or(i64::MAX)
    }

    /// The row that an alert was last told with.
    pub(super) fn last_row(&self, decision: &Decision) -> Option<String> {
        self.rows.get(&decision.about?).cloned()
    }

    /// Keeps the row of what is stored as an event: a transition, or what somebody is told.
    pub(super) fn keep_row(&mut self, told: &Told) {
        let is_stored = !told.stored && (!told.parcels.is_empty() || told.event.previous.is_some());
        if let (true, Some(alert), Some(row)) = (is_stored, told.event.alert, &told.event.row) {
            self.rows.insert(alert, row.to_string());
        }
    }
}
