//! The events of a decision, and what each publish rule sends of them.
//!
//! No I/O: events and bodies are made here, `write` puts them into the database.

use jiff::Timestamp;
use uuid::Uuid;

use super::Served;
use super::decide::{Decision, Manual};
use crate::event::Event;
use crate::event::rule::{Message, Rule};
use crate::outbox::Lane;
use crate::pusher::body;
use crate::severity::{Severity, percent};
use crate::watch::short_hash;

/// One event, to whom it goes, and the row of its history.
pub(super) struct Told {
    pub(super) event: Event,
    pub(super) lane_key: String,
    pub(super) parcels: Vec<Outgoing>,
    /// It is left to a digest.
    pub(super) digest: bool,
    /// Its row of history is there already.
    pub(super) stored: bool,
}

/// A delivery that is to be inserted.
pub(super) struct Outgoing {
    pub(super) endpoint: String,
    pub(super) channels: Vec<String>,
    pub(super) name: String,
    pub(super) body: String,
    pub(super) unsendable: Option<String>,
    pub(super) collapse: Option<String>,
}

pub(super) fn lane(told: &Told) -> Lane {
    Lane { watch: told.event.watch.clone(), key: told.lane_key.clone() }
}

pub(super) fn all(chunk: &[Told]) -> impl Iterator<Item = (&Told, &Outgoing)> {
    chunk.iter().flat_map(|told| told.parcels.iter().map(move |outgoing| (told, outgoing)))
}

pub(super) fn sendable(chunk: &[Told]) -> impl Iterator<Item = (&Told, &Outgoing)> {
    all(chunk).filter(|(_, outgoing)| outgoing.unsendable.is_none())
}

/// The events of one decision, in the order of their numbers: its reading, where a rule wants every reading and does
/// not get the transition; and its transition.
pub(super) fn decision(served: &Served, decision: &Decision, unread: Option<i64>, now: Timestamp) -> Vec<Told> {
    let rules = &served.watch.rules;
    let key = served.watch.key_from_text(&decision.key);
    let at = decision.state.last_at.filter(|_| decision.change.is_some()).unwrap_or(now);
    let mut told = Vec::new();
    let wants_change = |rule: &&Rule| {
        decision.change.is_some_and(|change| rule.wants_transition(change.transition, change.previous, change.severity))
    };
    let wants_reading = |rule: &&Rule| rule.on.reading() && !wants_change(rule);
    if rules.iter().any(|rule| wants_reading(&rule)) {
        let mut event = event(served, &key, decision.count, decision.threshold, decision.seq, now, unread);
        event.severity = decision.severity_now;
        event.alert = decision.about;
        told.push(publish(event, &key.text, served, rules.iter().filter(wants_reading)));
    }
    if let Some(change) = decision.change {
        let mut event = event(served, &key, decision.count, decision.threshold, decision.seq + 1, at, unread);
        event.transition = change.transition.as_str();
        event.reason = Some(change.reason.as_str());
        event.previous = Some(change.previous);
        event.severity = change.severity;
        event.alert = decision.about;
        let singly = rules.iter().filter(wants_change).filter(|_| !decision.digest);
        let mut change = publish(event, &key.text, served, singly);
        change.digest = decision.digest;
        told.push(change);
    }
    told
}

pub(super) fn manual(served: &Served, manual: &Manual, unread: Option<i64>, now: Timestamp) -> Told {
    let watch = &served.watch;
    let threshold = watch.threshold_of(&manual.key);
    let severity = watch.policy.scale.classify(manual.count, threshold).unwrap_or(Severity::Info);
    let mut event = event(served, &manual.key, manual.count, threshold, manual.seq, now, unread);
    event.transition = "manual";
    event.severity = severity;
    publish(event, &manual.key.text, served, watch.rules.iter().filter(|rule| rule.wants_manual(severity)))
}

pub(super) fn event(
    served: &Served,
    key: &crate::watch::Key,
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
        severity: Severity::Info,
        previous: None,
        count,
        threshold,
        percent: percent(count, threshold),
        compare: watch.policy.scale.compare.as_str(),
        message: None,
        row: None,
        at,
        unread_count,
    }
}

fn publish<'a>(mut event: Event, lane_key: &str, served: &Served, rules: impl Iterator<Item = &'a Rule>) -> Told {
    event.message = served.watch.message.render(&minijinja::Value::from_serialize(&event)).ok();
    let parcels = rules.flat_map(|rule| outgoing(rule, &event, rule.render(&event))).collect();
    Told { event, lane_key: lane_key.to_owned(), parcels, digest: false, stored: false }
}

/// What a rule made of an event, once for each of its endpoints.
pub(super) fn outgoing(rule: &Rule, event: &Event, rendered: Result<Option<Message>, String>) -> Vec<Outgoing> {
    let (channels, name, body, unsendable) = match rendered {
        Ok(None) => return Vec::new(),
        Ok(Some(message)) => {
            let body = body::single(&message.event, &message.channels, &message.data).unwrap_or_default();
            (message.channels, message.event, body, None)
        }
        Err(what) => (Vec::new(), rule.event.source().to_owned(), String::new(), Some(what)),
    };
    // The same audience under the same name; and what a person or a storm has sent is not taken back by anything else.
    let collapses = rule.collapses && !["manual", "digest"].contains(&event.transition);
    let collapse = collapses.then(|| short_hash(&format!("{channels:?} {name}")));
    let to = |endpoint: &String| Outgoing {
        endpoint: endpoint.clone(),
        channels: channels.clone(),
        name: name.clone(),
        body: body.clone(),
        unsendable: unsendable.clone(),
        collapse: collapse.clone(),
    };
    rule.endpoints.iter().map(to).collect()
}
