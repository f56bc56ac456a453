//! From a row of the fold to what is to be written about it.
//!
//! No I/O: the state machine is `evaluate`, this puts its answer beside the key it is about.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Received, Served};
use crate::evaluate::{Change, Reading, State, step};
use crate::event::rule;
use crate::severity::Severity;
use crate::watch::{Key, Measure, Watch};

/// The value of `count.dirty` that says: a threshold or policy changed.
pub const DIRTY_REJUDGED: i16 = 2;

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
    /// The row of the reading, where it has one, as JSON.
    pub row: Option<String>,
    /// There is no row any more: it is as its last event told of it, what its lookup found included.
    pub recalled: bool,
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
    /// The threshold in force for its key.
    pub threshold: Option<i64>,
    /// The row of its key, where there is one.
    pub row: Option<Value>,
    /// Its event's number.
    pub seq: i64,
}

/// A change of a row.
#[derive(Clone, Debug)]
pub struct Changed {
    /// `items_listen.watch.id`.
    pub watch: i32,
    /// Which key, as text.
    pub key: String,
    /// What happened.
    pub change: rule::Change,
    /// The columns that rules name, as they were.
    pub old: Option<Map<String, Value>>,
    /// … and as they are.
    pub new: Option<Map<String, Value>>,
    /// The transaction, the trigger's clock, and how deep in other triggers the statement ran.
    pub statement: (String, Timestamp, i32),
    /// When the row was changed, as far as the order of changes goes.
    pub began: Timestamp,
    /// Its event's number.
    pub seq: i64,
}

/// Puts changes into the order in which rows were changed. A statement that a trigger ran ends, and is written, before the
/// one that caused it, whose rows were changed before: so the latter goes before those just before it that ran deeper in
/// the same transaction. Their numbers stay in order.
pub fn in_order(changes: &mut [Changed]) {
    let mut began: HashMap<(String, Timestamp, i32), Timestamp> = HashMap::new();
    let mut open: HashMap<String, Vec<(i32, Timestamp)>> = HashMap::new();
    for changed in changes.iter() {
        let (xid, at, depth) = &changed.statement;
        if began.contains_key(&changed.statement) {
            continue;
        }
        let before = open.entry(xid.clone()).or_default();
        let mut first = *at;
        while let Some((_, inner)) = before.pop_if(|(other, _)| *other > *depth) {
            first = first.min(inner);
        }
        before.push((*depth, first));
        began.insert(changed.statement.clone(), first);
    }
    let mut seqs: Vec<i64> = changes.iter().map(|changed| changed.seq).collect();
    seqs.sort_unstable();
    for changed in changes.iter_mut() {
        changed.began = began.get(&changed.statement).copied().unwrap_or(changed.began);
    }
    changes.sort_by_key(|changed| (changed.began, changed.statement.2));
    changes.iter_mut().zip(seqs).for_each(|(changed, seq)| changed.seq = seq);
}

impl Changed {
    /// A row of `sql/changes.sql`; `None` where it tells of nothing.
    pub fn read(served: &Served, row: &Row) -> Option<Changed> {
        let word: &str = row.get("change");
        let change = rule::Change::ALL.into_iter().find(|change| change.as_str() == word)?;
        // Columns that are named since it was written are null.
        let columns = served.watch.change_columns();
        let object = |name: &str| {
            let object = crate::json::object(row.get::<_, Option<&str>>(name)?).ok()?;
            Some(with_nulls(&columns, object))
        };
        let (old, new) = (object("old"), object("new"));
        let statement = (row.get("xid"), row.get("at"), row.get("depth"));
        let began = row.get("at");
        Some(Changed { watch: served.id, key: row.get("key"), change, old, new, statement, began, seq: row.get("seq") })
    }

    /// The row as it is, or was last.
    pub fn row(&self) -> Option<&Map<String, Value>> {
        self.new.as_ref().or(self.old.as_ref())
    }
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
    /// Changes of rows that somebody is to be told.
    pub changes: Vec<Changed>,
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
    let watch = &served.watch;
    let (rows, sum): (i64, i64) = (row.get("rows"), row.get("sum"));
    let count = if watch.measure == Measure::Rows { rows } else { sum };
    let gone = watch.measure.is_value() && rows == 0;
    let threshold = match (watch.threshold_column.is_some() && rows != 0, row.get("is_edited")) {
        (true, _) => row.get("own_threshold"),
        (false, true) => row.get("edited_threshold"),
        // Without overrides the threshold needs no key, and a key that has nothing to say needs no parsing.
        (false, false) if watch.thresholds.is_empty() => watch.threshold,
        (false, false) => watch.threshold_of(&watch.key_from_text(key)),
    };
    let rejudged = was_dirty == DIRTY_REJUDGED || row.get::<_, Option<bool>>("rejudged").unwrap_or(false);
    let reading = Reading { count, threshold, gone, rejudged };
    let (next, change) = step(&state, reading, &watch.policy, now);

    let keyed = !watch.key().is_empty();
    let nothing_open = next.severity == Severity::Info && next.deadline.is_none();
    // A stock of 0 is to be remembered; an item that is gone has none.
    let forgettable = watch.measure.is_value() || !watch.policy.scale.compare.is_low();
    if keyed && rows == 0 && sum == 0 && nothing_open && forgettable {
        into.empty.push((served.id, key.to_owned()));
    }
    let publishes_readings = !gone && watch.rules.iter().any(|rule| rule.on.reading());
    if next == state && change.is_none() && !publishes_readings {
        return;
    }
    let mut decision = decision(served, key.to_owned(), count, threshold, next, row.get("episode"), change, row.get("seq"));
    decision.silent = silent;
    decision.state_changed = next != state;
    decision.row = row.get("row");
    into.decisions.push(decision);
}

/// A row in which each of these columns is there, if only as null.
pub fn with_nulls(columns: &[String], row: Map<String, Value>) -> Map<String, Value> {
    let missing = columns.iter().filter(|column| !row.contains_key(*column)).map(|column| (column.clone(), Value::Null));
    missing.collect::<Vec<_>>().into_iter().chain(row.clone()).collect()
}

/// The row of a key of which none is known: what templates name is null.
pub fn row_of_none(watch: &Watch) -> Option<String> {
    let columns = watch.row_columns();
    let nulls: Map<String, Value> = columns.into_iter().map(|column| (column, Value::Null)).collect();
    if nulls.is_empty() { None } else { serde_json::to_string(&nulls).ok() }
}

/// What is known of a key when a reading of it is received.
#[derive(Clone, Debug)]
pub struct Known {
    /// Where the state machine stands.
    pub state: State,
    /// The open episode.
    pub episode: Option<Uuid>,
    /// A threshold or policy changed since it was evaluated last.
    pub rejudged: bool,
    /// What the table `threshold` says of it.
    pub edited: Option<Option<i64>>,
}

/// Evaluates one reading that was received; `None` where there is nothing to write or to say.
pub fn received(served: &Served, reading: &Received, known: &mut Known, seq: i64, now: Timestamp) -> Option<Decision> {
    let watch = &served.watch;
    let threshold = reading.threshold.or(known.edited).unwrap_or_else(|| watch.threshold_of(&reading.key));
    let evaluated = Reading { count: reading.count, threshold, gone: reading.gone, rejudged: known.rejudged };
    let (next, change) = step(&known.state, evaluated, &watch.policy, now);
    let publishes_readings = !reading.gone && watch.rules.iter().any(|rule| rule.on.reading());
    if next == known.state && change.is_none() && !publishes_readings {
        return None;
    }
    let key = reading.key.text.clone();
    let mut decision = decision(served, key, reading.count, threshold, next, known.episode, change, seq);
    decision.state_changed = next != known.state;
    decision.row = reading.row.as_ref().and_then(|row| serde_json::to_string(row).ok());
    (known.state, known.episode, known.rejudged) = (decision.state, decision.episode, false);
    Some(decision)
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
        row: None,
        recalled: false,
        digest: false,
    }
}
