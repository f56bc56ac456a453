//! A publish rule: which events it is for, and what it sends where.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::{Event, Facts, channel, template};
use crate::evaluate::Transition;
use crate::pusher::encrypt::Key;
use crate::severity::Severity;

/// Pusher's libraries refuse longer event names.
pub const EVENT_NAME_CHARS_MAX: usize = 200;

/// What a rule listens to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct On {
    bits: u16,
}

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// It is new, or has come under the watch's condition.
    Insert,
    /// It is another than before.
    Update,
    /// It is gone, or has left the watch's condition.
    Delete,
}

impl Change {
    /// All three.
    pub const ALL: [Change; 3] = [Change::Insert, Change::Update, Change::Delete];

    /// The name on the wire, in SQL and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Change::Insert => "insert",
            Change::Update => "update",
            Change::Delete => "delete",
        }
    }
}

impl On {
    const READING: u16 = 1 << 7;
    const TRANSITIONS: u16 = 0b1_1111;
    const CHANGES: u16 = 0b111 << 8;

    const fn change_bit(change: Change) -> u16 {
        1 << (8 + change as u16)
    }

    /// The words of the configuration and what each stands for.
    pub const WORDS: [(&'static str, On); 11] = [
        ("transition", On { bits: On::TRANSITIONS }),
        ("raised", On { bits: 1 << Transition::Raised as u8 }),
        ("escalated", On { bits: 1 << Transition::Escalated as u8 }),
        ("eased", On { bits: 1 << Transition::Eased as u8 }),
        ("resolved", On { bits: 1 << Transition::Resolved as u8 }),
        ("repeated", On { bits: 1 << Transition::Repeated as u8 }),
        ("reading", On { bits: On::READING }),
        ("change", On { bits: On::CHANGES }),
        ("insert", On { bits: On::change_bit(Change::Insert) }),
        ("update", On { bits: On::change_bit(Change::Update) }),
        ("delete", On { bits: On::change_bit(Change::Delete) }),
    ];

    /// Every transition: the default.
    pub fn transitions() -> On {
        On { bits: On::TRANSITIONS }
    }

    /// Both.
    pub fn and(self, other: On) -> On {
        On { bits: self.bits | other.bits }
    }

    /// Whether it listens to this transition.
    pub fn transition(self, transition: Transition) -> bool {
        self.bits & (1 << transition as u8) != 0
    }

    /// Whether it listens to changes of rows.
    pub fn changes(self) -> bool {
        self.bits & On::CHANGES != 0
    }

    /// Whether it listens to this change of a row.
    pub fn change(self, change: Change) -> bool {
        self.bits & On::change_bit(change) != 0
    }

    /// Whether it listens to readings or transitions, which need a count.
    pub fn counts(self) -> bool {
        self.bits & (On::TRANSITIONS | On::READING) != 0
    }

    /// Whether it listens to every reading.
    pub fn reading(self) -> bool {
        self.bits & On::READING != 0
    }
}

/// What is sent.
#[derive(Debug)]
pub enum Data {
    /// The whole event.
    Full,
    /// Its identity and severity.
    Thin,
    /// The user's own table; its string leaves are templates.
    Own(Tree),
    /// One expression that gives an object.
    Expression(template::Leaf),
}

/// JSON with templates for leaves.
#[derive(Debug)]
pub enum Tree {
    /// A template.
    Leaf(template::Leaf),
    /// A number or a boolean, as it was written.
    Constant(Json),
    /// An object.
    Object(Vec<(String, Tree)>),
    /// A list.
    Array(Vec<Tree>),
}

impl Tree {
    fn render(&self, context: &minijinja::Value) -> Result<Json, String> {
        Ok(match self {
            Tree::Leaf(leaf) => leaf.render(context)?,
            Tree::Constant(constant) => constant.clone(),
            Tree::Array(items) => Json::Array(items.iter().map(|item| item.render(context)).collect::<Result<_, _>>()?),
            Tree::Object(entries) => {
                let rendered = entries.iter().map(|(name, tree)| Ok((name.clone(), tree.render(context)?)));
                Json::Object(rendered.collect::<Result<Map<_, _>, String>>()?)
            }
        })
    }

    /// Every leaf's variables.
    pub fn variables(&self) -> Vec<String> {
        match self {
            Tree::Leaf(leaf) => leaf.variables(),
            Tree::Constant(_) => Vec::new(),
            Tree::Array(items) => items.iter().flat_map(Tree::variables).collect(),
            Tree::Object(entries) => entries.iter().flat_map(|(_, tree)| tree.variables()).collect(),
        }
    }
}

/// A rule, as configured under `[[watch.publish]]`.
#[derive(Debug)]
pub struct Rule {
    /// The endpoints it sends to, by name.
    pub endpoints: Vec<String>,
    /// One or more templates, each of which may make several channels.
    pub channels: Vec<template::Text>,
    /// The event's name on the wire.
    pub event: template::Text,
    /// What is sent.
    pub data: Data,
    /// What it listens to.
    pub on: On,
    /// A transition is published when it comes from or goes to at least this severity.
    pub min_severity: Severity,
    /// The latest of a key says all that those before it did: while the endpoint is down only the latest is kept.
    pub collapses: bool,
    /// An update counts only if one of these changed; none: every update.
    pub columns: Vec<String>,
    /// Changes that follow one another within this are one event, per event name and channel.
    pub coalesce: Option<Duration>,
    /// The connection that is to hear nothing of it.
    pub socket_id: Option<template::Leaf>,
    /// The master keys of its endpoints that have one, by their names.
    pub encryption: HashMap<String, Key>,
}

/// What a rule makes of an event.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// At least one.
    pub channels: Vec<String>,
    /// The event's name.
    pub event: String,
    /// JSON text.
    pub data: String,
    /// The connection that is to hear nothing of it.
    pub socket_id: Option<String>,
}

impl Rule {
    /// Whether it is for this transition.
    pub fn wants_transition(&self, transition: Transition, previous: Severity, severity: Severity) -> bool {
        self.on.transition(transition) && previous.max(severity) >= self.min_severity
    }

    /// Whether a manual trigger of this severity reaches it.
    pub fn wants_manual(&self, severity: Severity) -> bool {
        self.on.counts() && severity >= self.min_severity
    }

    /// Whether it is for this change of a row, of which the named columns are given.
    pub fn wants_change(&self, change: Change, old: Option<&Map<String, Json>>, new: Option<&Map<String, Json>>) -> bool {
        let of = |row: Option<&Map<String, Json>>, column: &str| row.and_then(|row| row.get(column)).cloned();
        let touched = || self.columns.iter().any(|column| of(old, column) != of(new, column));
        self.on.change(change) && (change != Change::Update || self.columns.is_empty() || touched())
    }

    /// Renders an event; `None` where no channel is left.
    ///
    /// # Errors
    /// Why it cannot be sent, in one line: the reason with which its delivery is dead.
    pub fn render(&self, event: &Event, facts: &Facts) -> Result<Option<Message>, String> {
        let context = facts.context(event);
        let mut channels = self.expand(&context)?;
        if let Some(before) = facts.context_before(event) {
            // Whoever had the row is told that it has gone elsewhere.
            let also = self.expand(&before)?;
            channels.extend(also.into_iter().filter(|name| !channels.contains(name)).collect::<Vec<_>>());
        }
        self.render_for(event, &context, channels)
    }

    /// Renders an event for channels that are known already.
    ///
    /// # Errors
    /// As [`Rule::render`].
    pub fn render_to(&self, event: &Event, facts: &Facts, channels: Vec<String>) -> Result<Option<Message>, String> {
        self.render_for(event, &facts.context(event), channels)
    }

    /// The channels of an event, without duplicates; none where nothing is to be sent.
    ///
    /// # Errors
    /// As [`Rule::render`].
    pub fn channels_of(&self, event: &Event, facts: &Facts) -> Result<Vec<String>, String> {
        self.expand(&facts.context(event))
    }

    /// Whether all events of a watch go to the same channels.
    pub fn has_constant_channels(&self) -> bool {
        self.channels.iter().all(|template| template.variables().iter().all(|variable| variable == "watch"))
    }

    fn expand(&self, context: &minijinja::Value) -> Result<Vec<String>, String> {
        let mut channels = Vec::new();
        for template in &self.channels {
            for name in channel::expand(&template.render(context)?)? {
                if !channels.contains(&name) {
                    channels.push(name);
                }
            }
        }
        Ok(channels)
    }

    fn render_for(&self, event: &Event, context: &minijinja::Value, channels: Vec<String>) -> Result<Option<Message>, String> {
        if channels.is_empty() {
            return Ok(None);
        }
        if channels.len() > channel::CHANNELS_MAX {
            return Err(format!("{} channels, but an event may go to {}", channels.len(), channel::CHANNELS_MAX));
        }
        let name = self.event.render(context)?;
        if name.is_empty() || name.chars().count() > EVENT_NAME_CHARS_MAX {
            return Err(format!("the event name is empty or longer than {EVENT_NAME_CHARS_MAX} characters"));
        }
        let data = match &self.data {
            Data::Full => serde_json::to_string(event),
            Data::Thin => serde_json::to_string(&event.thin()),
            Data::Own(tree) => serde_json::to_string(&tree.render(context)?),
            Data::Expression(leaf) => match leaf.render(context)? {
                object @ Json::Object(_) => serde_json::to_string(&object),
                other => return Err(format!("data is an expression that gives {other}, not an object")),
            },
        };
        let data = data.map_err(|error| error.to_string())?;
        let socket_id = self.socket_id.as_ref().and_then(|leaf| leaf.render(context).ok());
        let socket_id = socket_id.as_ref().and_then(Json::as_str).filter(|id| is_socket_id(id)).map(str::to_owned);
        Ok(Some(Message { channels, event: name, data, socket_id }))
    }

    /// The variables of all its templates.
    pub fn variables(&self) -> Vec<String> {
        let data = match &self.data {
            Data::Full | Data::Thin => Vec::new(),
            Data::Own(tree) => tree.variables(),
            Data::Expression(leaf) => leaf.variables(),
        };
        let channels = self.channels.iter().flat_map(template::Text::variables);
        let socket_id = self.socket_id.iter().flat_map(template::Leaf::variables);
        channels.chain(self.event.variables()).chain(data).chain(socket_id).collect()
    }
}

/// `^\d+\.\d+$`, as all of Pusher's libraries want it. What is something else names no connection, and everybody hears
/// the event.
fn is_socket_id(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('.').is_some_and(|(left, right)| digits(left) && digits(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_id_is_two_numbers() {
        assert!(is_socket_id("123.456"));
        for bad in ["", ".", "1.", ".1", "1", "1.2.3", "a.b", "1.2\n"] {
            assert!(!is_socket_id(bad), "{bad:?}");
        }
    }
}
