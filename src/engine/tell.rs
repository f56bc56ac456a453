//! The events of a decision, and what each publish rule sends of them.
//!
//! No I/O: events and bodies are made here, `write` puts them into the database, and rule tests look at them.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::Served;
use super::decide::{Changed, Decision, Manual, with_nulls};
use crate::coalesce;
use crate::event::rule::{Message, Rule};
use crate::event::{Event, Facts};
use crate::outbox::Lane;
use crate::pusher::body::{self, Body};
use crate::severity::{Severity, percent};
use crate::watch::{Key, MESSAGE_DEFAULT, short_hash};

/// One event, to whom it goes, and the row of its history.
pub(crate) struct Told {
    pub(crate) event: Event,
    pub(crate) lane_key: String,
    pub(crate) parcels: Vec<Outgoing>,
    /// It is left to a digest.
    pub(crate) digest: bool,
    /// It has no row of history, or has it already.
    pub(crate) stored: bool,
}

/// A delivery that is to be inserted.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) endpoint: String,
    pub(crate) channels: Vec<String>,
    pub(crate) name: String,
    pub(crate) body: String,
    pub(crate) unsendable: Option<String>,
    pub(crate) collapse: Option<String>,
    /// It goes to an audience that is told no more often than this.
    pub(crate) coalesce: Option<SignedDuration>,
    /// It waits until then, and what follows is put into it.
    pub(crate) due: Option<Timestamp>,
    pub(crate) encryption: Option<crate::pusher::encrypt::Key>,
}

impl Outgoing {
    /// Its lane: that of its watch and key, or its audience's own.
    pub(super) fn lane(&self, told: &Told) -> Lane {
        match self.coalesce {
            None => Lane { watch: told.event.watch.as_str().into(), key: told.lane_key.as_str().into() },
            Some(_) => Lane { watch: "".into(), key: self.audience().into() },
        }
    }

    /// One event name on one channel.
    pub(crate) fn audience(&self) -> String {
        json!([self.name, self.channels.first()]).to_string()
    }

    /// What it is about, where neither its lane nor a row of history says it.
    pub(super) fn about(&self, told: &Told) -> Option<Value> {
        let change = told.event.severity.is_none();
        (change || self.coalesce.is_some()).then(|| json!({ "watch": told.event.watch, "key": told.event.key }))
    }
}

pub(super) fn all(chunk: &[Told]) -> impl Iterator<Item = (&Told, &Outgoing)> {
    chunk.iter().flat_map(|told| told.parcels.iter().map(move |outgoing| (told, outgoing)))
}

pub(super) fn sendable(chunk: &[Told]) -> impl Iterator<Item = (&Told, &Outgoing)> {
    all(chunk).filter(|(_, outgoing)| outgoing.unsendable.is_none())
}

/// What events see besides what they are about.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seen<'a> {
    /// Alerts that nobody has read.
    pub(crate) unread: Option<i64>,
    /// What the watch's lookup found.
    pub(crate) lookup: Option<&'a Map<String, Value>>,
}

/// The events of one decision, in the order of their numbers: its reading, where a rule wants every reading and does
/// not get the transition; and its transition.
pub(crate) fn decision(served: &Served, decision: &Decision, seen: Seen<'_>, now: Timestamp) -> Vec<Told> {
    let rules = &served.watch.rules;
    let key = served.watch.key_from_text(&decision.key);
    let at = decision.state.last_at.filter(|_| decision.change.is_some()).unwrap_or(now);
    let row: Option<Map<String, Value>> = decision.row.as_deref().and_then(|row| crate::json::object(row).ok());
    let mut told = Vec::new();
    let wants_change = |rule: &&Rule| {
        decision.change.is_some_and(|change| rule.wants_transition(change.transition, change.previous, change.severity))
    };
    let wants_reading = |rule: &&Rule| rule.on.reading() && !wants_change(rule);
    let event = |seq: i64, at: Timestamp| {
        let mut event = event(served, &key, decision.count, decision.threshold, seq, at, seen.unread);
        event.alert = decision.about;
        event
    };
    if rules.iter().any(|rule| wants_reading(&rule)) {
        let mut event = event(decision.seq, now);
        event.severity = Some(decision.severity_now);
        told.push(publish(event, &key.text, served, row.as_ref(), seen, rules.iter().filter(wants_reading)));
    }
    if let Some(change) = decision.change {
        let mut event = event(decision.seq + 1, at);
        event.transition = change.transition.as_str();
        event.reason = Some(change.reason.as_str());
        event.previous = Some(change.previous);
        event.severity = Some(change.severity);
        let singly = rules.iter().filter(wants_change).filter(|_| !decision.digest);
        let mut change = publish(event, &key.text, served, row.as_ref(), seen, singly);
        change.digest = decision.digest;
        told.push(change);
    }
    told
}

/// Whether anything is told of a decision, so that its lookup is to be asked.
pub(crate) fn is_told(served: &Served, decision: &Decision) -> bool {
    !decision.silent && (decision.change.is_some() || served.watch.rules.iter().any(|rule| rule.on.reading()))
}

pub(crate) fn manual(served: &Served, manual: &Manual, seen: Seen<'_>, now: Timestamp) -> Told {
    let watch = &served.watch;
    let severity = watch.policy.scale.classify(manual.count, manual.threshold).unwrap_or(Severity::Info);
    let mut event = event(served, &manual.key, manual.count, manual.threshold, manual.seq, now, seen.unread);
    event.transition = "manual";
    event.severity = Some(severity);
    // A key without a row may be triggered too: what templates name is null.
    let none = served.watch.has_row().then(|| with_nulls(&served.watch.row_columns(), Map::new()));
    let row = manual.row.as_ref().and_then(Value::as_object).or(none.as_ref());
    publish(event, &manual.key.text, served, row, seen, watch.rules.iter().filter(|rule| rule.wants_manual(severity)))
}

/// The event of a change of a row; `None` where no rule wants to hear of it.
pub(crate) fn change(served: &Served, changed: &Changed, seen: Seen<'_>, now: Timestamp) -> Option<Told> {
    let watch = &served.watch;
    let wanting = watch.rules.iter().filter(|rule| rule.wants_change(changed.change, changed.old.as_ref(), changed.new.as_ref()));
    let wanting: Vec<&Rule> = wanting.collect();
    if wanting.is_empty() {
        return None;
    }
    let key = watch.key_from_text(&changed.key);
    let mut event = Event {
        transition: changed.change.as_str(),
        count: None,
        compare: None,
        percent: None,
        ..event(served, &key, 0, None, changed.seq, now, seen.unread)
    };
    let lookup = seen.lookup.cloned();
    let with_lookup = |row: &Map<String, Value>| row.clone().into_iter().chain(lookup.clone().into_iter().flatten()).collect();
    // Of a row of which nobody named a column there is nothing to tell.
    event.row = changed.row().map(with_lookup).filter(|row: &Map<String, Value>| !row.is_empty()).map(Value::Object);
    // What a template names is there, if only as null.
    let nulls = || watch.change_columns().into_iter().map(|column| (column, Value::Null)).collect::<Map<_, _>>();
    let old = changed.old.clone().unwrap_or_else(nulls);
    let facts = Facts { old: Some(old), moved: changed.old.is_some() && changed.new.is_some(), lookup };
    // The default is about a count; one of its own may be about either.
    if watch.message.source() != MESSAGE_DEFAULT {
        event.message = watch.message.render(&facts.context(&event)).ok();
    }
    let parcels = wanting.into_iter().flat_map(|rule| outgoing(rule, &event, &facts)).collect();
    Some(Told { event, lane_key: key.text, parcels, digest: false, stored: true })
}

pub(super) fn event(
    served: &Served,
    key: &Key,
    count: i64,
    threshold: Option<i64>,
    seq: i64,
    at: Timestamp,
    unread_count: Option<i64>,
) -> Event {
    let watch = &served.watch;
    Event {
        id: Uuid::now_v7(),
        alert: None,
        seq,
        watch: watch.name.clone(),
        key: key.object.clone(),
        transition: "reading",
        reason: None,
        severity: None,
        previous: None,
        count: Some(count),
        threshold,
        percent: percent(count, threshold),
        compare: Some(watch.policy.scale.compare.as_str()),
        message: None,
        row: None,
        at,
        unread_count,
    }
}

fn publish<'a>(
    mut event: Event,
    lane_key: &str,
    served: &Served,
    row: Option<&Map<String, Value>>,
    seen: Seen<'_>,
    rules: impl Iterator<Item = &'a Rule>,
) -> Told {
    let facts = Facts { lookup: seen.lookup.cloned(), ..Facts::default() };
    if row.is_some() || seen.lookup.is_some() {
        let both = row.into_iter().chain(seen.lookup).flatten();
        event.row = Some(Value::Object(both.map(|(name, value)| (name.clone(), value.clone())).collect()));
    }
    event.message = served.watch.message.render(&facts.context(&event)).ok();
    let parcels = rules.flat_map(|rule| outgoing(rule, &event, &facts)).collect();
    Told { event, lane_key: lane_key.to_owned(), parcels, digest: false, stored: false }
}

/// What a rule makes of an event, for each of its endpoints.
pub(super) fn outgoing(rule: &Rule, event: &Event, facts: &Facts) -> Vec<Outgoing> {
    rendered(rule, event, rule.render(event, facts))
}

/// What a rule made of an event, for each of its endpoints.
pub(super) fn rendered(rule: &Rule, event: &Event, rendered: Result<Option<Message>, String>) -> Vec<Outgoing> {
    match rendered {
        Ok(None) => Vec::new(),
        Ok(Some(message)) => {
            let to = |endpoint: &String| addressed(rule, event, endpoint, &message);
            rule.endpoints.iter().flat_map(to).collect()
        }
        Err(what) => {
            rule.endpoints.iter().map(|endpoint| unsendable(rule, endpoint, Vec::new(), rule.event.source(), &what)).collect()
        }
    }
}

/// One delivery for all channels; but each audience that is told at its own time, and each channel that is encrypted with
/// a key of its own, has one for itself.
fn addressed(rule: &Rule, event: &Event, endpoint: &str, message: &Message) -> Vec<Outgoing> {
    let (alone, together): (Vec<String>, Vec<String>) = message
        .channels
        .iter()
        .cloned()
        .partition(|channel| rule.coalesce.is_some() || crate::pusher::encrypt::is_encrypted(channel));
    let groups =
        Some(together).filter(|channels| !channels.is_empty()).into_iter().chain(alone.into_iter().map(|channel| vec![channel]));
    groups.map(|channels| one(rule, event, endpoint, message, channels)).collect()
}

fn one(rule: &Rule, event: &Event, endpoint: &str, message: &Message, channels: Vec<String>) -> Outgoing {
    let encryption = rule.encryption.get(endpoint);
    let body = Body { name: &message.event, channels: &channels, data: &message.data, socket_id: message.socket_id.as_deref() };
    let body = match body::sealed(&body, encryption) {
        Ok(body) => body,
        Err(what) => return unsendable(rule, endpoint, channels, &message.event, &what),
    };
    // The same audience under the same name; and what a person or a storm has sent is not taken back by anything else.
    let collapses = rule.collapses && rule.coalesce.is_none() && !["manual", "digest"].contains(&event.transition);
    Outgoing {
        endpoint: endpoint.to_owned(),
        collapse: collapses.then(|| short_hash(&format!("{channels:?} {}", message.event))),
        channels,
        name: message.event.clone(),
        body,
        unsendable: None,
        coalesce: rule.coalesce.map(|coalesce| SignedDuration::try_from(coalesce).unwrap_or(SignedDuration::MAX)),
        due: None,
        encryption: encryption.cloned(),
    }
}

fn unsendable(rule: &Rule, endpoint: &str, channels: Vec<String>, name: &str, what: &str) -> Outgoing {
    Outgoing {
        endpoint: endpoint.to_owned(),
        channels,
        name: name.to_owned(),
        body: String::new(),
        unsendable: Some(what.replace('\0', "\u{fffd}")),
        collapse: rule.collapses.then(|| short_hash(&format!("[] {name}"))),
        coalesce: None,
        due: None,
        encryption: None,
    }
}

/// The body that says both; `None` where the earlier cannot be read: then both are told.
pub(crate) fn united(earlier: &str, later: &Outgoing) -> Option<String> {
    let key = later.encryption.as_ref();
    let (earlier, later) = (body::opened(earlier, key)?, body::opened(&later.body, key)?);
    let parse = |data: &str| serde_json::from_str::<Value>(data).ok();
    let data = coalesce::unite(parse(&earlier.data)?, parse(&later.data)?).to_string();
    // Of several connections that would rather not hear of it none can be left out: each knows but its own change.
    let socket_id = earlier.socket_id.filter(|id| later.socket_id.as_ref() == Some(id));
    let body = Body { name: &later.name, channels: &later.channels, data: &data, socket_id: socket_id.as_deref() };
    body::sealed(&body, key).ok()
}
