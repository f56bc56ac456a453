//! A test's watches in virtual time: what would be sent, by the code that the daemon sends with.
//!
//! Pure: no clock, no database, no network. What the engine keeps in tables is kept in memory here: the state of each key,
//! its last reading, alerts and whether they were read, what waits to be coalesced. Judging a reading is
//! [`decide::received`], making events and bodies of it is `engine::tell`; nothing of either is repeated. Storms are left out:
//! every alert is told singly.
//!
//! Time passes in [`Simulation::step`] alone. A deadline fires at its own time, and before a step that is at the same.

mod audiences;
mod happening;
mod inbox;

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use self::audiences::{Audiences, Parcel, Who};
use self::inbox::Inbox;
use super::read::{Named, Step, Test, What};
use super::time;
use crate::config::Config;
use crate::config::document::Origin;
use crate::config::reader::nearest;
use crate::engine::decide::{self, Changed, Decision, Known};
use crate::engine::tell::{self, Outgoing, Seen, Told};
use crate::engine::{Received, Served};
use crate::evaluate::State;
use crate::event::Event;
use crate::pusher::body;
use crate::watch::{Key, Watch};

/// So many things may happen by themselves before one step: a `repeat` of a millisecond and a step in a year are a slip.
const DUE_MAX: usize = 10_000;
/// The numbers of two readings are as far apart as the database's.
const SEQ_STEP: i64 = 8;

/// An event as it is sent to one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// When, since the beginning of the test.
    pub at: SignedDuration,
    /// To which endpoint.
    pub endpoint: String,
    /// On which channels.
    pub channels: Vec<String>,
    /// Under which name.
    pub name: String,
    /// What is in it.
    pub data: Value,
    /// The connection that is to hear nothing of it.
    pub socket_id: Option<String>,
    /// The full event that it was made of; of several that were coalesced, the last.
    pub event: Map<String, Value>,
    /// Why it cannot be sent: its delivery would be dead.
    pub unsendable: Option<String>,
}

impl Sent {
    fn of(at: Timestamp, event: &Event, outgoing: Outgoing) -> Sent {
        let opened = body::opened(&outgoing.body, outgoing.encryption.as_ref());
        let event = match serde_json::to_value(event) {
            Ok(Value::Object(event)) => event,
            _ => Map::new(),
        };
        Sent {
            at: time::since_beginning(at),
            endpoint: outgoing.endpoint,
            channels: outgoing.channels,
            name: outgoing.name,
            data: opened.as_ref().and_then(|opened| serde_json::from_str(&opened.data).ok()).unwrap_or_default(),
            socket_id: opened.and_then(|opened| opened.socket_id),
            event,
            unsendable: outgoing.unsendable,
        }
    }

    /// Everything that a test may expect something of, by its name there.
    pub fn fields(&self) -> Map<String, Value> {
        let mut fields = self.event.clone();
        fields.insert("at".to_owned(), time::shown(self.at));
        fields.insert("endpoint".to_owned(), Value::from(self.endpoint.as_str()));
        fields.insert("channels".to_owned(), Value::from(self.channels.clone()));
        fields.insert("event".to_owned(), Value::from(self.name.as_str()));
        fields.insert("data".to_owned(), self.data.clone());
        fields.insert("socket_id".to_owned(), Value::from(self.socket_id.clone()));
        fields
    }

    #[cfg(test)]
    pub(super) fn example(event: Value, data: Value) -> Sent {
        Sent {
            at: SignedDuration::ZERO,
            endpoint: "main".into(),
            channels: vec!["a".into()],
            name: "n".into(),
            data,
            socket_id: None,
            event: event.as_object().expect("an object").clone(),
            unsendable: None,
        }
    }
}

/// Why a test cannot be run: it does not fit the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrong {
    /// Where.
    pub origin: Origin,
    /// What is wrong, and what is allowed.
    pub what: String,
}

/// One key of one watch, by the place of the watch.
type Which = (usize, String);

/// What is kept of a key.
struct Kept {
    known: Known,
    reading: Received,
    lookup: Option<Map<String, Value>>,
}

/// A threshold that the application edited, of all keys with these values.
struct Edit {
    watch: usize,
    key: Map<String, Value>,
    threshold: Option<i64>,
}

/// What is due by itself.
enum Due {
    Deadline(Which),
    Audience(Who),
}

/// One test under way.
pub struct Simulation {
    served: Vec<Served>,
    now: Timestamp,
    seq: i64,
    keys: BTreeMap<Which, Kept>,
    edits: Vec<Edit>,
    /// What each watch's lookup found last.
    lookups: HashMap<usize, Map<String, Value>>,
    inbox: Inbox,
    audiences: Audiences,
    sent: Vec<Sent>,
}

impl Simulation {
    /// Nothing has happened yet. The configuration must be the test's own: what its keys are made of is noted in it.
    ///
    /// # Errors
    /// A step names a watch that there is not.
    pub fn new(config: &Config, test: &Test) -> Result<Simulation, Wrong> {
        let served = config.watches.iter().enumerate();
        let served = served.map(|(id, watch)| Served::new(i32::try_from(id).unwrap_or(i32::MAX), 0, watch.clone()));
        let simulation = Simulation {
            served: served.collect(),
            now: time::timestamp(SignedDuration::ZERO),
            seq: 0,
            keys: BTreeMap::new(),
            edits: Vec::new(),
            lookups: HashMap::new(),
            inbox: Inbox::default(),
            audiences: Audiences::default(),
            sent: Vec::new(),
        };
        // Keys that are given whole come first: they tell what a primary key is made of.
        let about = || test.steps.iter().filter(|step| step.is_about_a_watch());
        for step in about().filter(|step| step.has_whole_key()).chain(about()) {
            let watch = &simulation.served[simulation.choose(test, step)?].watch;
            if watch.key.is_unknown() {
                watch.key.set(happening::primary_key(test, step));
            }
        }
        Ok(simulation)
    }

    /// Lets time pass and takes one step. Gives what was sent since the one before.
    ///
    /// # Errors
    /// It does not fit the configuration.
    pub fn step(&mut self, test: &Test, step: &Step) -> Result<Vec<Sent>, Wrong> {
        let wrong = |what: String| Wrong { origin: step.origin.clone(), what: format!("test.step: {what}") };
        self.advance(step.at).map_err(wrong)?;
        if step.read {
            self.inbox.read();
        }
        if step.is_about_a_watch() {
            let index = self.choose(test, step)?;
            self.happen(index, step).map_err(wrong)?;
        }
        Ok(std::mem::take(&mut self.sent))
    }

    fn choose(&self, test: &Test, step: &Step) -> Result<usize, Wrong> {
        let names = || self.served.iter().map(|served| served.watch.name.as_str());
        let list = || names().collect::<Vec<_>>().join(", ");
        match step.watch.as_ref().or(test.watch.as_ref()) {
            Some(Named { name, origin }) => names().position(|known| known == name).ok_or_else(|| Wrong {
                origin: origin.clone(),
                what: format!("there is no watch \"{}\"{}; there are {}", name.escape_debug(), nearest(name, names()), list()),
            }),
            None if self.served.len() == 1 => Ok(0),
            None => Err(Wrong {
                origin: step.origin.clone(),
                what: format!("which watch? Say watch = \"…\" here, or for the whole test; there are {}", list()),
            }),
        }
    }

    /// Whatever is due until then happens at its own time.
    fn advance(&mut self, to: SignedDuration) -> Result<(), String> {
        let to = time::timestamp(to);
        for fired in 0.. {
            let Some((at, due)) = self.next_due().filter(|(at, _)| *at <= to) else { break };
            if fired == DUE_MAX {
                return Err(format!("more than {DUE_MAX} things are due before \"{}\"", time::show(time::since_beginning(to))));
            }
            self.now = at.max(self.now);
            match due {
                Due::Audience(who) => self.sent.extend(self.audiences.take(&who, self.now)),
                Due::Deadline(which) => {
                    let Some(kept) = self.keys.get(&which) else { continue };
                    let reading = kept.reading.clone();
                    self.evaluate(which, reading, false)?;
                }
            }
        }
        self.now = to;
        Ok(())
    }

    fn next_due(&self) -> Option<(Timestamp, Due)> {
        let deadline = |(which, kept): (&Which, &Kept)| Some((kept.known.state.deadline?, Due::Deadline(which.clone())));
        let audiences = self.audiences.due().map(|(at, who)| (at, Due::Audience(who)));
        self.keys.iter().filter_map(deadline).chain(audiences).min_by_key(|(at, _)| *at)
    }

    fn happen(&mut self, index: usize, step: &Step) -> Result<(), String> {
        let served = self.served[index].clone();
        if let Some(lookup) = &step.lookup {
            happening::check_lookup(&served.watch)?;
            self.lookups.insert(index, lookup.clone());
        }
        match &step.what {
            What::Nothing => Ok(()),
            What::Threshold(threshold) => self.edit(index, step.key.clone().unwrap_or_default(), *threshold),
            What::Reading { .. } | What::Gone => {
                let reading = happening::received(&served, step)?;
                let which = (index, reading.key.text.clone());
                self.remember_lookup(&which, &reading, step);
                self.evaluate(which, reading, false)
            }
            What::Row { .. } => {
                self.seq += SEQ_STEP;
                let changed = happening::changed(&served, step, self.seq)?;
                self.tell_change(&served, index, &changed)
            }
        }
    }

    /// The application edits a threshold: all keys that it names are judged anew.
    fn edit(&mut self, index: usize, key: Map<String, Value>, threshold: Option<i64>) -> Result<(), String> {
        happening::check_edit(&self.served[index].watch, &key)?;
        self.edits.retain(|edit| edit.watch != index || edit.key != key);
        let named = |kept: &Kept| contains(&kept.reading.key.object, &key);
        let judged = self.keys.iter().filter(|((watch, _), kept)| *watch == index && named(kept));
        let judged: Vec<(Which, Received)> = judged.map(|(which, kept)| (which.clone(), kept.reading.clone())).collect();
        self.edits.push(Edit { watch: index, key, threshold });
        judged.into_iter().try_for_each(|(which, reading)| self.evaluate(which, reading, true))
    }

    /// The edit that names most columns of the key; of several, the one with the earlier columns.
    fn edited(&self, index: usize, key: &Key) -> Option<Option<i64>> {
        let columns = self.served[index].watch.key();
        let places = |edit: &Edit| -> Vec<usize> {
            columns.iter().enumerate().filter(|(_, column)| edit.key.contains_key(*column)).map(|(place, _)| place).collect()
        };
        let about = self.edits.iter().filter(|edit| edit.watch == index && contains(&key.object, &edit.key));
        about.min_by_key(|edit| (std::cmp::Reverse(edit.key.len()), places(edit))).map(|edit| edit.threshold)
    }

    fn remember_lookup(&mut self, which: &Which, reading: &Received, step: &Step) {
        if step.lookup.is_some() {
            self.kept(which, reading).lookup.clone_from(&step.lookup);
        }
    }

    fn kept(&mut self, which: &Which, reading: &Received) -> &mut Kept {
        self.keys.entry(which.clone()).or_insert_with(|| Kept {
            known: Known { state: State::NEW, episode: None, rejudged: false, edited: None },
            reading: reading.clone(),
            lookup: None,
        })
    }

    fn evaluate(&mut self, which: Which, reading: Received, rejudged: bool) -> Result<(), String> {
        self.seq += SEQ_STEP;
        let served = self.served[which.0].clone();
        let (seq, now, edited) = (self.seq, self.now, self.edited(which.0, &reading.key));
        let kept = self.kept(&which, &reading);
        (kept.known.rejudged, kept.known.edited) = (rejudged, edited);
        let decision = decide::received(&served, &reading, &mut kept.known, seq, now);
        kept.reading = reading;
        decision.map_or(Ok(()), |decision| self.tell(&served, &which, decision))
    }

    fn tell(&mut self, served: &Served, which: &Which, mut decision: Decision) -> Result<(), String> {
        let watch = &served.watch;
        let key = watch.key_from_text(&decision.key).object;
        self.inbox.note(watch, &key, &decision);
        if decision.row.is_none() && decision.change.is_some() && watch.has_row() {
            // What is gone is as it was when it was last told of.
            decision.row = self.inbox.last_row(&decision).or_else(|| decide::row_of_none(watch));
        }
        let lookup = if tell::is_told(served, &decision) { self.lookup(watch, which)? } else { None };
        let seen = Seen { unread: self.unread(served, &key), lookup: lookup.as_ref() };
        let told = tell::decision(served, &decision, seen, self.now);
        told.into_iter().for_each(|told| self.send(told));
        Ok(())
    }

    fn tell_change(&mut self, served: &Served, index: usize, changed: &Changed) -> Result<(), String> {
        let key = served.watch.key_from_text(&changed.key).object;
        let lookup = self.lookup(&served.watch, &(index, changed.key.clone()))?;
        let seen = Seen { unread: self.unread(served, &key), lookup: lookup.as_ref() };
        if let Some(told) = tell::change(served, changed, seen, self.now) {
            self.send(told);
        }
        Ok(())
    }

    fn unread(&self, served: &Served, key: &Map<String, Value>) -> Option<i64> {
        served.wants_unread().then(|| self.inbox.unread(&served.watch, key))
    }

    /// What the lookup of a watch that has one finds: what was said of this key last, or of any.
    fn lookup(&self, watch: &Watch, which: &Which) -> Result<Option<Map<String, Value>>, String> {
        if watch.lookup.is_none() {
            return Ok(None);
        }
        let of_key = self.keys.get(which).and_then(|kept| kept.lookup.as_ref());
        let found = of_key.or_else(|| self.lookups.get(&which.0)).cloned();
        found.map(Some).ok_or_else(|| format!("{} asks a lookup; say what it finds, lookup = {{ … }}", watch.name))
    }

    fn send(&mut self, told: Told) {
        self.inbox.keep_row(&told);
        for outgoing in told.parcels {
            if outgoing.coalesce.is_none() || outgoing.unsendable.is_some() {
                self.sent.push(Sent::of(self.now, &told.event, outgoing));
            } else {
                let parcel = Parcel { event: told.event.clone(), outgoing };
                self.sent.extend(self.audiences.put(parcel, self.now));
            }
        }
    }
}

/// Whether a key has all of these values.
fn contains(key: &Map<String, Value>, values: &Map<String, Value>) -> bool {
    values.iter().all(|(name, value)| key.get(name) == Some(value))
}
