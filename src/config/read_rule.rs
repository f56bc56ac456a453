//! `[[watch.publish]]`, and the templates of a watch.

use serde_json::Value as Json;

use super::document::{Node, Origin, Value};
use super::read_watch::NO_ENDPOINT;
use super::reader::{Mistakes, Section, nearest};
use crate::event::Event;
use crate::event::channel;
use crate::event::rule::{Data, On, Rule, Tree};
use crate::event::template::{Leaf, Text};
use crate::severity::Severity;

pub(super) fn rule(node: &Node, endpoints: &[String], key: &[String], mistakes: &mut Mistakes) -> Option<Rule> {
    let mut section = Section::new("watch.publish", node, mistakes);
    let channels = channels(&mut section, key, mistakes);
    let event = match section.string("event", mistakes) {
        Some((source, origin)) => compile(&source, origin, "watch.publish.event", key, mistakes),
        None => {
            if section.node("event").is_none() {
                mistakes.add(section.origin(), "watch.publish.event: missing; the event's name on the wire".to_owned());
            }
            None
        }
    };
    let data = data(&mut section, key, mistakes);
    let on = on(&mut section, mistakes);
    let severities = Severity::ALL.map(|severity| (severity.as_str(), severity));
    let min_severity = section.word("min_severity", &severities, mistakes).unwrap_or(Severity::Warning);
    let endpoints = endpoints_of(&mut section, endpoints, mistakes);
    section.finish(mistakes);
    let (channels, event, data, on) = (channels?, event?, data?, on?);
    let collapses = matches!(data, Data::Thin);
    Some(Rule { endpoints: endpoints?, channels, event, data, on, min_severity, collapses })
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
    Some(on)
}

fn channels(section: &mut Section<'_>, key: &[String], mistakes: &mut Mistakes) -> Option<Vec<Text>> {
    let templates = section.strings("channels", mistakes).unwrap_or_default();
    if templates.is_empty() || templates.len() > channel::CHANNELS_MAX {
        mistakes.add(section.origin(), format!("watch.publish.channels: 1 to {} channels are wanted", channel::CHANNELS_MAX));
        return None;
    }
    let mut compiled = Vec::with_capacity(templates.len());
    for (source, origin) in templates {
        let text = Text::try_new_for_channel(&source);
        let Some(text) = checked(text, origin, "watch.publish.channels", key, mistakes) else { continue };
        if source.starts_with(channel::ENCRYPTED) && !text.variables().is_empty() {
            mistakes.add(origin, format!("watch.publish.channels: {}* channels are not supported yet", channel::ENCRYPTED));
        }
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

fn data(section: &mut Section<'_>, key: &[String], mistakes: &mut Mistakes) -> Option<Data> {
    let Some(node) = section.node("data") else { return Some(Data::Full) };
    match &node.value {
        Value::String(word) if word == "full" => Some(Data::Full),
        Value::String(word) if word == "thin" => Some(Data::Thin),
        Value::String(source) if source.trim().starts_with("{{") => {
            let leaf = leaf(source, &node.origin, key, mistakes)?;
            if matches!(leaf, Leaf::Text(_)) {
                mistakes.add(
                    &node.origin,
                    "watch.publish.data: this is text, and data must be an object: one expression \"{{ … }}\" that gives one, or a table",
                );
            }
            Some(Data::Expression(leaf))
        }
        Value::Table(_) => tree(node, key, mistakes).map(Data::Own),
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

fn tree(node: &Node, key: &[String], mistakes: &mut Mistakes) -> Option<Tree> {
    match &node.value {
        Value::String(source) => leaf(source, &node.origin, key, mistakes).map(Tree::Leaf),
        Value::Array(items) => items.iter().map(|item| tree(item, key, mistakes)).collect::<Option<_>>().map(Tree::Array),
        Value::Table(entries) => entries
            .iter()
            .map(|entry| Some((entry.key.clone(), tree(&entry.node, key, mistakes)?)))
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

fn leaf(source: &str, origin: &Origin, key: &[String], mistakes: &mut Mistakes) -> Option<Leaf> {
    match Leaf::try_new(source) {
        Ok(leaf) => {
            check_variables(&leaf.variables(), origin, "watch.publish.data", key, mistakes);
            Some(leaf)
        }
        Err(what) => {
            mistakes.add(origin, format!("watch.publish.data: {what}"));
            None
        }
    }
}

pub(super) fn compile(source: &str, origin: &Origin, name: &str, key: &[String], mistakes: &mut Mistakes) -> Option<Text> {
    checked(Text::try_new(source), origin, name, key, mistakes)
}

fn checked(text: Result<Text, String>, origin: &Origin, name: &str, key: &[String], mistakes: &mut Mistakes) -> Option<Text> {
    match text {
        Ok(text) => {
            check_variables(&text.variables(), origin, name, key, mistakes);
            Some(text)
        }
        Err(what) => {
            mistakes.add(origin, format!("{name}: {what}"));
            None
        }
    }
}

/// Every name in a template must be one that an event has.
fn check_variables(variables: &[String], origin: &Origin, name: &str, key: &[String], mistakes: &mut Mistakes) {
    for variable in variables {
        let mut path = variable.split('.');
        let root = path.next().unwrap_or_default();
        match path.next() {
            Some(column) if root == "key" && !key.iter().any(|known| known == column) => {
                let known =
                    if key.is_empty() { "this watch has no key".to_owned() } else { format!("the key is {}", key.join(", ")) };
                mistakes.add(origin, format!("{name}: there is no {variable}; {known}"));
            }
            _ if matches!(root, "row" | "old") => mistakes.add(
                origin,
                format!("{name}: {variable} is not at hand: a count of rows has no single row; use key.* and count"),
            ),
            _ if !Event::FIELDS.contains(&root) => {
                let hint = nearest(root, Event::FIELDS.into_iter());
                mistakes.add(origin, format!("{name}: there is no {root}{hint}; known are {}", Event::FIELDS.join(", ")));
            }
            _ => {}
        }
    }
}
