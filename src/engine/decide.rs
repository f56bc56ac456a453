//! From a row of the fold to what is to be written about it.
//!
//! No I/O: the state machine is `evaluate`, this puts its answer beside the key it is about.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Received, Served};
use crate::evaluate::{Change, Reading, State, step};
use crate::severity::Severity;
use crate::watch::Key;

/// The value of `count.dirty` that says: a threshold or policy changed.
const DIRTY_REJUDGED: i16 = 2;

/// What is to be written about one key.
#[derive(Clone, Debug)]
pub struct Decision {
    /// `items_listen.watch.id`.
    pub watch: i32,
    /// Which key, as text: what it is made of is worked out when it is told, so that many decisions take little memory.
    pub key: String,
    /// The reading.
    pub count: i64,
    /// The threshold in force.
    pub threshold: Option<i64>,
    /// Where the state machine stands now.
    pub state: State,
    /// The episode that is open now.
    pub episode: Option<Uuid>,
    /// What happened, if anything.
    pub change: Option<Change>,
    /// The episode that the change is about: also of one that is now closed.
    pub about: Option<Uuid>,
    /// The first of eight numbers for events.
    pub seq: i64,
    /// It counts as already said: state is stored, nothing is sent.
    pub silent: bool,
    /// The stored state is another than before.
    pub state_changed: bool,
    /// The severity of this reading, for rules that pass every reading on.
    pub severity_now: Severity,
    /// Its transition is part of a storm: it is told in a digest.
    pub digest: bool,
}

/// A manual trigger: classified, but no state of its own.
#[derive(Clone, Debug)]
pub struct Manual {
    /// `items_listen.watch.id`.
    pub watch: i32,
    /// Which key.
    pub key: Key,
    /// The count to classify.
    pub count: i64,
    /// Its event's number.
    pub seq: i64,
}

/// Everything that one transaction is to write.
#[derive(Debug, Default)]
pub struct Evaluated {
    /// Keys that changed, or whose readings are published.
    pub decisions: Vec<Decision>,
    /// Keys that had been dirty, and are evaluated now.
    pub clean: Vec<(i32, String)>,
    /// Watches whose baseline is hereby taken.
    pub baseline: Vec<i32>,
    /// Keys that need not be kept: no rows, no alert.
    pub empty: Vec<(i32, String)>,
    /// A manual trigger.
    pub manual: Option<Manual>,
    /// Watches with a digest that is due.
    pub storms: Vec<i32>,
}

/// Evaluates one row of the fold.
pub fn folded(served: &Served, row: &Row, now: Timestamp, silent: bool, into: &mut Evaluated) {
    let state = State {
        severity: Severity::from_rank(row.get("severity")),
        breach_since: row.get("breach_since"),
        clear_since: row.get("clear_since"),
        said_at: row.get("said_at"),
        deadline: row.get("deadline"),
        last_at: row.get("last_at"),
    };
    let was_dirty: i16 = row.get("was_dirty");
    let key: &str = row.get("key");
    if was_dirty > 0 {
        into.clean.push((served.id, key.to_owned()));
    }
    let count: i64 = row.get("rows");
    let watch = &served.watch;
    // Without overrides the threshold needs no key, and a key that has nothing to say needs no parsing.
    let parsed = (!watch.thresholds.is_empty()).then(|| watch.key_from_text(key));
    let threshold = parsed.as_ref().map_or(watch.threshold, |key| watch.threshold_of(key));
    let reading = Reading { count, threshold, gone: false, rejudged: was_dirty == DIRTY_REJUDGED };
    let (next, change) = step(&state, reading, &watch.policy, now);

    let keyed = !watch.key.is_empty();
    let nothing_open = next.severity == Severity::Info && next.deadline.is_none();
    if keyed && count == 0 && nothing_open && !watch.policy.scale.compare.is_low() {
        into.empty.push((served.id, key.to_owned()));
    }
    let publishes_readings = watch.rules.iter().any(|rule| rule.on.reading());
    if next == state && change.is_none() && !publishes_readings {
        return;
    }
    let mut decision = decision(served, key.to_owned(), count, threshold, next, row.get("episode"), change, row.get("seq"));
    decision.silent = silent;
    decision.state_changed = next != state;
    into.decisions.push(decision);
}

/// Evaluates one reading that an application sent.
pub fn received(served: &Served, reading: &Received, state: &State, episode: Option<Uuid>, seq: i64, now: Timestamp) -> Decision {
    let threshold = served.watch.threshold_of(&reading.key);
    let evaluated = Reading { count: reading.count, threshold, gone: false, rejudged: false };
    let (next, change) = step(state, evaluated, &served.watch.policy, now);
    decision(served, reading.key.text.clone(), reading.count, threshold, next, episode, change, seq)
}

#[expect(clippy::too_many_arguments, reason = "it only puts side by side what its two callers have")]
fn decision(
    served: &Served,
    key: String,
    count: i64,
    threshold: Option<i64>,
    state: State,
    episode: Option<Uuid>,
    change: Option<Change>,
    seq: i64,
) -> Decision {
    let open = state.severity > Severity::Info;
    let about = match (episode, change) {
        (None, Some(_)) => Some(Uuid::now_v7()),
        (episode, _) => episode,
    };
    Decision {
        watch: served.id,
        key,
        count,
        threshold,
        state,
        episode: about.filter(|_| open),
        change,
        about,
        seq,
        silent: false,
        state_changed: true,
        severity_now: served.watch.policy.scale.classify(count, threshold).unwrap_or(Severity::Info),
        digest: false,
    }
}
