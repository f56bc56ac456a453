//! `[[watch.publish]]`, and the templates of a watch.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value as Json;

use super::document::{Node, Origin, Value};
use super::read_watch::NO_ENDPOINT;
use super::reader::{Mistakes, Section, nearest};
use crate::event::Event;
use crate::event::channel;
use crate::event::rule::{Data, On, Rule, Tree};
use crate::event::template::{Leaf, Text};
use crate::severity::Severity;

/// What templates of a place may name besides the fields of every event.
#[derive(Clone, Copy)]
pub(super) struct Hand<'a> {
    /// The columns of the key; unknown where they are those of the primary key.
    pub(super) key: Option<&'a [String]>,
    /// A reading is that of one row.
    pub(super) row: bool,
    /// The watch has a lookup.
    pub(super) lookup: bool,
    /// It is about a change of a row.
    pub(super) change: bool,
}

/// The longest time over which changes become one event.
const COALESCE_MAX: Duration = Duration::from_secs(3_600);
const COALESCE_MIN: Duration = Duration::from_millis(10);

pub(super) fn rule(node: &Node, endpoints: &[String], hand: Hand<'_>, mistakes: &mut Mistakes) -> Option<Rule> {
    let mut section = Section::new("watch.publish", node, mistakes);
    let on = on(&mut section, mistakes);
    let hand = Hand { change: on.is_some_and(On::changes), ..hand };
    let channels = channels(&mut section, hand, mistakes);
    let event = match section.string("event", mistakes) {
        Some((source, origin)) => compile(&source, origin, "watch.publish.event", hand, mistakes),
        None => {
            if section.node("event").is_none() {
                mistakes.add(section.origin(), "watch.publish.event: missing; the event's name on the wire".to_owned());
            }
            None
        }
    };
    let data = data(&mut section, hand, mistakes);
    let severities = Severity::ALL.map(|severity| (severity.as_str(), severity));
    let min_severity = section.word("min_severity", &severities, mistakes).unwrap_or(Severity::Warning);
    let columns: Vec<String> =
        section.strings("columns", mistakes).unwrap_or_default().into_iter().map(|(column, _)| column).collect();
    let coalesce =
        section.node("coalesce").and_then(|_| section.duration_within("coalesce", COALESCE_MIN..=COALESCE_MAX, mistakes));
    let socket_id = section
        .string("socket_id", mistakes)
        .and_then(|(source, origin)| leaf(&source, origin, "watch.publish.socket_id", hand, mistakes));
    if !hand.change && on.is_some() {
        for key in ["columns", "coalesce"] {
            if let Some(node) = section.node(key) {
                mistakes.add(
                    &node.origin,
                    format!("watch.publish.{key}: only for rules that listen to changes: on = \"insert\", \"update\", \"delete\" or \"change\""),
                );
            }
        }
    }
    let endpoints = endpoints_of(&mut section, endpoints, mistakes);
    section.finish(mistakes);
    let (channels, event, data, on) = (channels?, event?, data?, on?);
    let collapses = matches!(data, Data::Thin);
    Some(Rule {
        endpoints: endpoints?,
        channels,
        event,
        data,
        on,
        min_severity,
        collapses,
        columns,
        coalesce,
        socket_id,
        encryption: HashMap::new(),
    })
}

fn endpoints_of(section: &mut Section<'_>, known: &[String], mistakes: &mut Mistakes) -> Option<Vec<String>> {
    let Some(named) = section.strings("endpoint", mistakes) else {
        if let [only] = known {
            return Some(vec![only.clone()]);
        }
        let what = if known.is_empty() {
            NO_ENDPOINT.to_owned()
        } else {
            format!("watch.publish.endpoint: missing; there are several: {}", known.join(", "))
        };
        mistakes.add(section.origin(), what);
        return None;
    };
    for (name, origin) in &named {
        if !known.contains(name) {
            let hint = nearest(name, known.iter().map(String::as_str));
            mistakes.add(origin, format!("watch.publish.endpoint: there is no [endpoints.{name}]{hint}"));
        }
    }
    Some(named.into_iter().map(|(name, _)| name).collect())
}

fn on(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<On> {
    let Some(words) = section.strings("on", mistakes) else { return Some(On::transitions()) };
    let mut on = On::default();
    for (word, origin) in &words {
        match On::WORDS.iter().find(|(known, _)| known == word) {
            Some((_, listens)) => on = on.and(*listens),
            None => {
                let known = On::WORDS.map(|(known, _)| known);
                let hint = nearest(word, known.into_iter());
                mistakes.add(origin, format!("watch.publish.on: \"{word}\" is none of {}{hint}", known.join(", ")));
            }
        }
    }
    if on == On::default() {
        mistakes.add(section.origin(), "watch.publish.on: at least one word is wanted".to_owned());
    }
    if on.changes() && on.counts() {
        mistakes.add(
            section.origin(),
            "watch.publish.on: transitions and readings are about a count, insert, update and delete about a row; write two rules".to_owned(),
        );
    }
    Some(on)
}

fn channels(section: &mut Section<'_>, hand: Hand<'_>, mistakes: &mut Mistakes) -> Option<Vec<Text>> {
    let templates = section.strings("channels", mistakes).unwrap_or_default();
    if templates.is_empty() || templates.len() > channel::CHANNELS_MAX {
        mistakes.add(section.origin(), format!("watch.publish.channels: 1 to {} channels are wanted", channel::CHANNELS_MAX));
        return None;
    }
    let mut compiled = Vec::with_capacity(templates.len());
    for (source, origin) in templates {
        let text = Text::try_new_for_channel(&source);
        let Some(text) = checked(text, origin, "watch.publish.channels", hand, mistakes) else { continue };
        // Without values a channel can be judged at once, not only when an alert has failed.
        if text.variables().is_empty()
            && let Err(what) = text.render(&minijinja::Value::UNDEFINED).and_then(|rendered| channel::expand(&rendered))
        {
            mistakes.add(origin, format!("watch.publish.channels: {what}; allowed are A–Z a–z 0–9 _ - = @ , . ;"));
        }
        compiled.push(text);
    }
    Some(compiled)
}

fn data(section: &mut Section<'_>, hand: Hand<'_>, mistakes: &mut Mistakes) -> Option<Data> {
    let Some(node) = section.node("data") else { return Some(Data::Full) };
    match &node.value {
        Value::String(word) if word == "full" => Some(Data::Full),
        Value::String(word) if word == "thin" => Some(Data::Thin),
        Value::String(source) if source.trim().starts_with("{{") => {
            let leaf = leaf(source, &node.origin, "watch.publish.data", hand, mistakes)?;
            if matches!(leaf, Leaf::Text(_)) {
                mistakes.add(
                    &node.origin,
                    "watch.publish.data: this is text, and data must be an object: one expression \"{{ … }}\" that gives one, or a table",
                );
            }
            Some(Data::Expression(leaf))
        }
        Value::Table(_) => tree(node, hand, mistakes).map(Data::Own),
        _ => {
            section.wrong(
                "data",
                node,
                "\"full\", \"thin\", a table, or one expression \"{{ … }}\" that gives an object",
                mistakes,
            );
            None
        }
    }
}

fn tree(node: &Node, hand: Hand<'_>, mistakes: &mut Mistakes) -> Option<Tree> {
    match &node.value {
        Value::String(source) => leaf(source, &node.origin, "watch.publish.data", hand, mistakes).map(Tree::Leaf),
        Value::Array(items) => items.iter().map(|item| tree(item, hand, mistakes)).collect::<Option<_>>().map(Tree::Array),
        Value::Table(entries) => entries
            .iter()
            .map(|entry| Some((entry.key.clone(), tree(&entry.node, hand, mistakes)?)))
            .collect::<Option<_>>()
            .map(Tree::Object),
        other => constant(other).map(Tree::Constant),
    }
}

pub(super) fn constant(value: &Value) -> Option<Json> {
    match value {
        Value::String(text) | Value::Datetime(text) => Some(Json::from(text.as_str())),
        Value::Integer(number) => Some(Json::from(*number)),
        Value::Float(number) => Some(Json::from(*number)),
        Value::Boolean(boolean) => Some(Json::from(*boolean)),
        Value::Array(_) | Value::Table(_) => None,
    }
}

fn leaf(source: &str, origin: &Origin, name: &str, hand: Hand<'_>, mistakes: &mut Mistakes) -> Option<Leaf> {
    match Leaf::try_new(source) {
        Ok(leaf) => {
            check_variables(&leaf.variables(), origin, name, hand, mistakes);
            Some(leaf)
        }
        Err(what) => {
            mistakes.add(origin, format!("{name}: {what}"));
            None
        }
    }
}

pub(super) fn compile(source: &str, origin: &Origin, name: &str, hand: Hand<'_>, mistakes: &mut Mistakes) -> Option<Text> {
    checked(Text::try_new(source), origin, name, hand, mistakes)
}

fn checked(text: Result<Text, String>, origin: &Origin, name: &str, hand: Hand<'_>, mistakes: &mut Mistakes) -> Option<Text> {
    match text {
        Ok(text) => {
            check_variables(&text.variables(), origin, name, hand, mistakes);
            Some(text)
        }
        Err(what) => {
            mistakes.add(origin, format!("{name}: {what}"));
            None
        }
    }
}

/// Every name in a template must be one that an event has.
fn check_variables(variables: &[String], origin: &Origin, name: &str, hand: Hand<'_>, mistakes: &mut Mistakes) {
    for variable in variables {
        let mut path = variable.split('.');
        let root = path.next().unwrap_or_default();
        let missing = match root {
            "key" => path.next().and_then(|column| no_such_key(variable, column, hand.key?)),
            "row" if !(hand.row || hand.lookup || hand.change) => Some(format!(
                "{variable} is not at hand: a count of rows, or their sum, has no single row; use key.* and count, or a lookup"
            )),
            "old" if !hand.change => Some(format!("{variable} is only at hand in rules that listen to changes")),
            "lookup" if !hand.lookup => Some(format!("there is no {variable}; this watch has no lookup = \"SELECT …\"")),
            "row" | "old" | "lookup" => None,
            _ if Event::FIELDS.contains(&root) => None,
            _ => {
                let known = Event::FIELDS.into_iter().chain(["row", "old", "lookup"]);
                let hint = nearest(root, known);
                Some(format!("there is no {root}{hint}; known are {}, row, old, lookup", Event::FIELDS.join(", ")))
            }
        };
        if let Some(what) = missing {
            mistakes.add(origin, format!("{name}: {what}"));
        }
    }
}

fn no_such_key(variable: &str, column: &str, key: &[String]) -> Option<String> {
    if key.iter().any(|known| known == column) {
        return None;
    }
    let known = if key.is_empty() { "this watch has no key".to_owned() } else { format!("the key is {}", key.join(", ")) };
    Some(format!("there is no {variable}; {known}"))
}
