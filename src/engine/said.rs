//! What a fold has said, once it is committed: counted, and logged line by line as long as it is not a flood.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Served;
use super::decide::Decision;
use crate::dispatch::lock;
use crate::evaluate::{Change, Transition};
use crate::metrics;
use crate::severity::Severity;

/// So many transitions have lines of their own …
const LINES_MAX: u32 = 20;
/// … within so long; of the others the next one says how many they were.
const WITHIN: Duration = Duration::from_secs(1);

/// How much of it was logged lately.
#[derive(Debug, Default)]
pub(super) struct Said(Mutex<Lately>);

#[derive(Debug, Default)]
struct Lately {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Said {
    /// Says what was decided and is committed.
    pub(super) fn say(&self, served: &HashMap<i32, Served>, decisions: &[Decision]) {
        let mut counts: HashMap<(&str, Transition, Severity), u64> = HashMap::new();
        let mut collapsed: HashMap<&str, u64> = HashMap::new();
        for decision in decisions.iter().filter(|decision| !decision.silent) {
            let (Some(change), Some(served)) = (&decision.change, served.get(&decision.watch)) else { continue };
            *counts.entry((&served.watch.name, change.transition, change.severity)).or_default() += 1;
            if decision.digest {
                *collapsed.entry(&served.watch.name).or_default() += 1;
            }
            if self.may_log() {
                log(served, decision, change);
            }
        }
        for ((watch, transition, severity), count) in counts {
            metrics::transitions(watch, transition, severity, count);
        }
        for (watch, count) in collapsed {
            metrics::collapsed(watch, count);
        }
    }

    fn may_log(&self) -> bool {
        let mut lately = lock(&self.0);
        if lately.since.is_none_or(|since| since.elapsed() >= WITHIN) {
            if lately.left_out > 0 {
                tracing::info!(alerts = lately.left_out, "more alerts changed than are logged one by one");
            }
            *lately = Lately { since: Some(Instant::now()), ..Lately::default() };
        }
        let may = lately.lines < LINES_MAX;
        lately.lines += u32::from(may);
        lately.left_out += u64::from(!may);
        may
    }
}

fn log(served: &Served, decision: &Decision, change: &Change) {
    tracing::info!(
        watch = served.watch.name,
        key = decision.key,
        alert_id = decision.about.map(|id| id.to_string()),
        severity = change.severity.as_str(),
        previous = change.previous.as_str(),
        count = decision.count,
        threshold = decision.threshold,
        reason = change.reason.as_str(),
        "alert {}",
        change.transition.as_str()
    );
}
