//! Watches that cannot be evaluated at present, since their own table or their lookup cannot be read: they wait, with their
//! keys dirty and their changes in the database, and the others go on.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

/// After a refusal, and after every further one doubled.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A watch that waits.
struct Refusal {
    until: Instant,
    pause: Duration,
    why: String,
}

/// Those that wait.
#[derive(Default)]
pub(super) struct Refusals(HashMap<i32, Refusal>);

impl Refusals {
    /// Lets a watch wait, longer than the last time.
    pub(super) fn refuse(&mut self, watch: i32, why: String) {
        let pause = self.0.get(&watch).map_or(PAUSE_FIRST, |before| (before.pause * 2).min(PAUSE_MAX));
        self.0.insert(watch, Refusal { until: Instant::now() + pause, pause, why });
    }

    /// Those whose time is not over.
    pub(super) fn waiting(&self) -> BTreeSet<i32> {
        let now = Instant::now();
        self.0.iter().filter(|(_, refusal)| refusal.until > now).map(|(watch, _)| *watch).collect()
    }

    /// A fold has come to its end in which only these waited: the others are well.
    pub(super) fn heal(&mut self, waiting: &[i32]) {
        self.0.retain(|watch, _| waiting.contains(watch));
    }

    /// Why each waits.
    pub(super) fn troubles(&self) -> HashMap<i32, String> {
        self.0.iter().map(|(watch, refusal)| (*watch, refusal.why.clone())).collect()
    }
}
