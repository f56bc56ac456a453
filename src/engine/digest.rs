//! Storms: which of a fold's transitions wait for a digest, and the digest that tells them.
//!
//! Invariants. What is left to a digest is in `event` with `digest` set, and its watch's row in `storm` has a `due_at`
//! and a `from_seq` not later than it: both are written in the transaction that wrote the alert, so a crash loses
//! neither. Of each key a digest tells each rule only what was last of what that rule wants; what went out singly since
//! needs no telling. A digest's `seq` is greater than those of the transitions that it tells, and each of its keys has
//! its own: whoever hears a digest late can tell what it has heard since.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::Served;
use super::decide::Evaluated;
use super::tell::{self, Told, outgoing};
use super::telling::Telling;
use super::unread::Remembered;
use crate::error::Error;
use crate::evaluate::{Reason, Transition};
use crate::event::rule::Rule;
use crate::event::{Event, Facts};
use crate::severity::Severity;
use crate::storm::{Storm, Window};
use crate::watch::{Key, short_hash};

/// So many of the worst keys are named in a digest.
const WORST_MAX: usize = 10;
/// So many events are read at a time.
const PAGE: usize = 5_000;
/// So many digests are stored at a time.
const CHUNK: usize = 500;

/// A watch's row of `storm`.
struct Stored {
    window: Window,
    from_seq: Option<i64>,
}

/// Tells the digests that are due, then decides which of these decisions' transitions wait for the next.
pub(super) async fn tell_and_admit(
    told: &mut Telling<'_>,
    all: &HashMap<i32, Served>,
    evaluated: &mut Evaluated,
    now: Timestamp,
) -> Result<(), Error> {
    let mut watches = evaluated.storms.clone();
    let stormy = |id: i32| all.get(&id).is_some_and(|served| served.watch.storm.is_some());
    watches.extend(evaluated.decisions.iter().map(|decision| decision.watch).filter(|id| stormy(*id)));
    watches.sort_unstable();
    watches.dedup();
    if watches.is_empty() {
        return Ok(());
    }
    let mut stored: HashMap<i32, Stored> =
        told.client.query(&told.writer.storms, &[&watches]).await?.iter().map(Stored::read).collect();
    for id in watches {
        let Some(served) = all.get(&id) else { continue };
        let mut state = stored.remove(&id);
        let before = state.as_ref().map(|state| (state.window, state.from_seq));
        if let Some(state) = &mut state
            && let Some(from_seq) = state.from_seq
            && state.window.due_at.is_some_and(|due_at| due_at <= now)
        {
            tell_due(told, all, served, evaluated, from_seq, now).await?;
            (state.window.due_at, state.from_seq) = (None, None);
        }
        if let Some(storm) = served.watch.storm {
            state = admit(storm, served, state, evaluated, now);
        }
        let Some(state) = state else { continue };
        if before != Some((state.window, state.from_seq)) {
            let Window { began_at, told: singly, critical, due_at } = state.window;
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
                [&id, &began_at, &singly, &critical, &due_at, &state.from_seq];
            told.client.execute(&told.writer.storm, &parameters).await?;
        }
    }
    Ok(())
}

/// Marks the decisions that wait for a digest. Gives the watch's window afterwards.
fn admit(storm: Storm, served: &Served, state: Option<Stored>, evaluated: &mut Evaluated, now: Timestamp) -> Option<Stored> {
    let mut transitions: Vec<_> = evaluated
        .decisions
        .iter_mut()
        .filter(|decision| decision.watch == served.id && !decision.silent)
        .filter_map(|decision| decision.change.map(|change| (change, decision)))
        .filter(|(change, _)| {
            served.watch.rules.iter().any(|rule| rule.wants_transition(change.transition, change.previous, change.severity))
        })
        .collect();
    if transitions.is_empty() {
        return state;
    }
    let severities: Vec<Severity> = transitions.iter().map(|(change, _)| change.severity).collect();
    let (mut window, singly) = storm.admit(state.as_ref().map(|state| state.window), &severities, now);
    let mut from_seq = None;
    for ((_, decision), singly) in transitions.iter_mut().zip(singly) {
        decision.digest = !singly;
        if decision.digest {
            from_seq = Some(from_seq.map_or(decision.seq, |from: i64| from.min(decision.seq)));
        }
    }
    // A digest that is not due yet keeps its time, whatever window came after it.
    if let Some(Stored { window: Window { due_at: Some(due_at), .. }, from_seq: Some(before) }) = state {
        (window.due_at, from_seq) = (Some(due_at), Some(before));
    }
    if from_seq.is_some() && state.is_none_or(|state| state.from_seq.is_none()) {
        tracing::warn!(
            watch = served.watch.name,
            limit = storm.limit,
            "storm: more transitions than the limit; what is beyond it comes as one digest"
        );
    }
    Some(Stored { window, from_seq })
}

impl Stored {
    fn read(row: &Row) -> (i32, Stored) {
        let window = Window { began_at: row.get(1), told: row.get(2), critical: row.get(3), due_at: row.get(4) };
        (row.get(0), Stored { window, from_seq: row.get(5) })
    }
}

/// The channels of a digest; `None` where they are those of every event of the rule.
type Channels = Option<Result<Vec<String>, String>>;

/// What one key went through in a window, in order; and whether each was left to the digest.
type Passage = Vec<(Event, Transition, Severity, bool)>;

/// Writes one digest per rule and set of channels.
async fn tell_due(
    told: &mut Telling<'_>,
    all: &HashMap<i32, Served>,
    served: &Served,
    evaluated: &Evaluated,
    from_seq: i64,
    now: Timestamp,
) -> Result<(), Error> {
    let mut groups = Groups::new(served);
    // Page by page: a storm of millions takes no more memory than its groups, and the server is not left waiting.
    let cursor = told.writer.digest_cursor(&served.watch.name, from_seq);
    told.client.batch_execute(&cursor).await?;
    let mut passage = Passage::new();
    loop {
        let page = told.client.query(&format!("FETCH {PAGE} FROM digest"), &[]).await?;
        for row in &page {
            let Some((event, transition, previous)) = read(served, row) else { continue };
            if passage.last().is_some_and(|(before, ..)| before.key != event.key) {
                groups.add(served, &std::mem::take(&mut passage));
            }
            passage.push((event, transition, previous, row.get("digest")));
        }
        if page.len() < PAGE {
            break;
        }
    }
    groups.add(served, &passage);
    told.client.batch_execute("CLOSE digest").await?;
    let groups = groups.found;
    let wants = if served.wants_unread() { groups.len() } else { 0 };
    let within: Vec<_> = groups.values().take(wants).map(|group| (served, group.common.clone().unwrap_or_default())).collect();
    let unread = told.writer.count_unread(told.client, all, &within, evaluated, &Remembered::default()).await?;
    let seqs = told.client.query(&told.writer.seqs, &[&i64::try_from(groups.len()).unwrap_or(i64::MAX)]).await?;
    let mut seqs = seqs.iter().map(|row| row.get::<_, i64>(0));
    let mut chunk = Vec::new();
    for ((index, channels), group) in groups {
        let unread = unread.of(&served.watch, group.common.as_ref().unwrap_or(&Map::new()));
        chunk.push(group.tell(served, index, channels, seqs.next().unwrap_or_default(), unread, now));
        if chunk.len() == CHUNK {
            told.store(&std::mem::take(&mut chunk)).await?;
        }
    }
    told.store(&chunk).await.map(drop)
}

/// The digests of one watch: one per rule, by its place, and set of channels.
struct Groups {
    found: BTreeMap<(usize, Channels), Group>,
    /// Whether all events of a rule go to the same channels: asked once, and not for every key.
    constant: Vec<bool>,
}

impl Groups {
    fn new(served: &Served) -> Groups {
        Groups { found: BTreeMap::new(), constant: served.watch.rules.iter().map(Rule::has_constant_channels).collect() }
    }

    /// Adds a key. For each rule counts what was last of what that rule wants to hear: if it went out singly, the rule
    /// has heard it.
    fn add(&mut self, served: &Served, passage: &Passage) {
        let low = served.watch.policy.scale.compare.is_low();
        for (index, rule) in served.watch.rules.iter().enumerate() {
            let last = passage.iter().rev().find(|(event, transition, previous, _)| {
                rule.wants_transition(*transition, *previous, event.severity.unwrap_or(Severity::Info))
            });
            let Some((event, _, _, true)) = last else { continue };
            let channels = if self.constant[index] { None } else { Some(rule.channels_of(event, &facts_of(event))) };
            if channels.as_ref().is_none_or(|channels| *channels != Ok(Vec::new())) {
                self.found.entry((index, channels)).or_default().add(event, low);
            }
        }
    }
}

/// An event as it was written, the transition that it is about, and the severity before it.
fn read(served: &Served, row: &Row) -> Option<(Event, Transition, Severity)> {
    let severity = |name: &str| Severity::ALL.into_iter().find(|severity| severity.as_str() == name);
    let transition = Transition::ALL.into_iter().find(|transition| transition.as_str() == row.get::<_, &str>("transition"))?;
    let reason = row.get::<_, Option<&str>>("reason");
    let previous = severity(row.get("previous"))?;
    let Value::Object(object) = row.get("key") else { return None };
    let key = Key { text: String::new(), object };
    let mut event = tell::event(served, &key, row.get("count"), row.get("threshold"), row.get("seq"), row.get("at"), None);
    event.id = row.get::<_, Uuid>("id");
    event.alert = row.get("episode");
    event.transition = transition.as_str();
    event.reason = Reason::ALL.into_iter().find(|known| Some(known.as_str()) == reason).map(Reason::as_str);
    event.severity = Some(severity(row.get("severity"))?);
    event.row = row.get::<_, Option<Json<Value>>>("row").map(|Json(row)| row);
    event.previous = Some(previous);
    event.message = row.get("message");
    Some((event, transition, previous))
}

/// What one digest tells.
#[derive(Default)]
struct Group {
    keys: i64,
    by_severity: [i64; 4],
    /// The worst first.
    worst: Vec<Event>,
    /// What all its keys have in common; null where they differ.
    common: Option<Map<String, Value>>,
}

impl Group {
    fn add(&mut self, event: &Event, low: bool) {
        self.keys += 1;
        self.by_severity[event.severity.map_or(0, |severity| severity as usize)] += 1;
        match &mut self.common {
            None => self.common = Some(event.key.clone()),
            Some(common) => {
                for (column, value) in common.iter_mut().filter(|(column, value)| event.key.get(*column) != Some(value)) {
                    debug_assert!(event.key.contains_key(column));
                    *value = Value::Null;
                }
            }
        }
        let badness = |event: &Event| {
            let percent = event.percent.unwrap_or(0);
            (event.severity, if low { percent.saturating_neg() } else { percent })
        };
        let at = self.worst.partition_point(|other| badness(other) >= badness(event));
        if at < WORST_MAX {
            self.worst.insert(at, event.clone());
            self.worst.truncate(WORST_MAX);
        }
    }

    fn tell(mut self, served: &Served, index: usize, channels: Channels, seq: i64, unread: Option<i64>, now: Timestamp) -> Told {
        let rule = &served.watch.rules[index];
        // A digest is not about one key: each audience has a lane of its own, so that none waits for another's.
        let lane = format!("[\"digest {index} {}\"]", short_hash(&format!("{channels:?}")));
        if self.keys == 1
            && let Some(only) = self.worst.pop()
        {
            // One alone is told as what it is.
            let lane_key = Key::from_object(served.watch.key(), &only.key).map_or(lane, |key| key.text);
            let only = Event { unread_count: unread, ..only };
            let parcels = outgoing(rule, &only, &facts_of(&only));
            return Told { event: only, lane_key, parcels, digest: false, stored: true };
        }
        let key = Key { text: lane, object: self.common.take().unwrap_or_default() };
        let mut event = tell::event(served, &key, self.keys, None, seq, now, unread);
        event.transition = "digest";
        event.severity = self.worst.first().and_then(|event| event.severity).or(Some(Severity::Info));
        event.message = Some(self.message(&served.watch.name));
        let watch = &served.watch;
        event.row = Some(self.details(&[watch.row_columns(), watch.lookup_columns()].concat()));
        let rendered = match channels {
            None => rule.render(&event, &facts_of(&event)),
            Some(Ok(channels)) => rule.render_to(&event, &facts_of(&event), channels),
            Some(Err(what)) => Err(what),
        };
        Told { lane_key: key.text, parcels: tell::rendered(rule, &event, rendered), event, digest: false, stored: false }
    }

    /// How many keys now have each severity.
    fn counts(&self) -> impl Iterator<Item = (Severity, i64)> {
        Severity::ALL.into_iter().rev().map(|severity| (severity, self.by_severity[severity as usize]))
    }

    fn message(&self, watch: &str) -> String {
        let counts: Vec<String> =
            self.counts().filter(|(_, count)| *count > 0).map(|(severity, count)| format!("{count} {severity}")).collect();
        let worst = self.worst.first().map_or_else(String::new, |event| {
            let key = Key { text: String::new(), object: event.key.clone() };
            let of = event.threshold.map_or_else(String::new, |threshold| format!(" of {threshold}"));
            format!("; worst {} at {}{of}", key.display(), event.count.unwrap_or_default())
        });
        format!("{watch}: {} keys at once: {}{worst}", self.keys, counts.join(", "))
    }

    /// What a template names of a row is there, if only as null: many keys have many rows.
    fn details(&self, columns: &[String]) -> Value {
        let mut details: Map<String, Value> = columns.iter().map(|column| (column.clone(), Value::Null)).collect();
        details.insert("keys".to_owned(), json!(self.keys));
        details.extend(self.counts().map(|(severity, count)| (severity.as_str().to_owned(), json!(count))));
        let worst = self.worst.iter().map(|event| {
            json!({
                "key": event.key, "seq": event.seq, "transition": event.transition, "severity": event.severity,
                "count": event.count, "threshold": event.threshold, "percent": event.percent,
            })
        });
        details.insert("worst".to_owned(), worst.collect());
        Value::Object(details)
    }
}

/// What a template sees besides: a row holds the lookup's answer too.
fn facts_of(event: &Event) -> Facts {
    Facts { lookup: event.row.as_ref().and_then(Value::as_object).cloned(), ..Facts::default() }
}
