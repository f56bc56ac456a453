//! The file of a rule test: readings over time, and the events expected of them.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Map, Value as Json};

use super::compare::Expected;
use super::time;
use crate::config::Mistake;
use crate::config::document::{Node, Origin, Value, parse};
use crate::config::reader::{Mistakes, Section, parse_duration};
use crate::event::Event;
use crate::event::rule::Change;

/// A whole file.
#[derive(Debug)]
pub struct Suite {
    /// The configuration under test, relative to the file.
    pub config: String,
    /// Variables that win over those of the environment.
    pub environment: BTreeMap<String, String>,
    /// The tests, in the order of the file.
    pub tests: Vec<Test>,
}

/// `[[test]]`
#[derive(Debug)]
pub struct Test {
    /// What it is to show.
    pub name: String,
    /// Where it stands.
    pub origin: Origin,
    /// The watch of steps that name none.
    pub watch: Option<Named>,
    /// The columns of the primary key of watches that are keyed by it.
    pub primary_key: Option<Vec<String>>,
    /// One after the other.
    pub steps: Vec<Step>,
}

/// A name, and where it stands.
#[derive(Clone, Debug)]
pub struct Named {
    /// The name.
    pub name: String,
    /// Its place.
    pub origin: Origin,
}

/// `[[test.step]]`
#[derive(Debug)]
pub struct Step {
    /// Where it stands.
    pub origin: Origin,
    /// When, since the beginning of the test.
    pub at: SignedDuration,
    /// The watch, where it is not the test's.
    pub watch: Option<Named>,
    /// All alerts are marked read, before anything else.
    pub read: bool,
    /// What the watch's lookup finds, from now on.
    pub lookup: Option<Map<String, Json>>,
    /// Which key, as far as it is given.
    pub key: Option<Map<String, Json>>,
    /// What happens.
    pub what: What,
    /// Every event sent since the step before; `None`: it does not matter.
    pub expect: Option<Vec<Expected>>,
}

/// What happens in a step.
#[derive(Debug)]
pub enum What {
    /// Time passes.
    Nothing,
    /// A reading.
    Reading {
        /// Rows, a sum, or a level.
        count: i64,
        /// The threshold of its own row; `Some(None)`: that is NULL.
        threshold: Option<Option<i64>>,
        /// The row.
        row: Option<Map<String, Json>>,
    },
    /// The threshold of all keys that have these values is edited; `None` disables.
    Threshold(Option<i64>),
    /// The key exists no more.
    Gone,
    /// A row changes.
    Row {
        /// How.
        change: Change,
        /// As it was.
        old: Option<Map<String, Json>>,
        /// As it is.
        new: Option<Map<String, Json>>,
    },
}

/// Where the configuration is if the file does not say.
const CONFIG_DEFAULT: &str = "config.toml";
/// The word for a threshold that is NULL.
const NO_THRESHOLD: &str = "none";

/// Reads a file of rule tests.
///
/// # Errors
/// Everything that is wrong with it.
pub fn suite(file: &str, text: &str) -> Result<Suite, Vec<Mistake>> {
    let (root, found) = parse(file, text);
    let syntax = found.len();
    let mut mistakes = Mistakes::new(file, found);
    let mut section = Section::new("", &root, &mut mistakes);
    let config = section.string("config", &mut mistakes).map_or_else(|| CONFIG_DEFAULT.to_owned(), |(config, _)| config);
    let environment = section.node("env").map(|node| environment(node, &mut mistakes)).unwrap_or_default();
    let nodes = section.tables("test", &mut mistakes);
    if nodes.is_empty() {
        mistakes.add(section.origin(), "there is no [[test]]");
    }
    let tests = nodes.iter().filter_map(|node| test(node, &mut mistakes)).collect();
    section.finish(&mut mistakes);
    let mut found = mistakes.into_found();
    // After an error of syntax the rest of the tree is a guess.
    if syntax > 0 {
        found.truncate(syntax);
    }
    if found.is_empty() { Ok(Suite { config, environment, tests }) } else { Err(found) }
}

fn environment(node: &Node, mistakes: &mut Mistakes) -> BTreeMap<String, String> {
    let section = Section::new("env", node, mistakes);
    let mut variables = BTreeMap::new();
    for entry in section.all() {
        match &entry.node.value {
            Value::String(text) => drop(variables.insert(entry.key.clone(), text.clone())),
            _ => section.wrong(&entry.key, &entry.node, "a string", mistakes),
        }
    }
    variables
}

fn test(node: &Node, mistakes: &mut Mistakes) -> Option<Test> {
    let mut section = Section::new("test", node, mistakes);
    let name = section.string("name", mistakes);
    if name.is_none() && section.node("name").is_none() {
        mistakes.add(section.origin(), "test.name: missing; say what the test is to show");
    }
    let watch = named(&mut section, mistakes);
    let columns = section.strings("primary_key", mistakes);
    let primary_key = columns.map(|columns| columns.into_iter().map(|(column, _)| column).collect());
    let nodes = section.tables("step", mistakes);
    if nodes.is_empty() {
        mistakes.add(section.origin(), "test.step: there is no [[test.step]], so nothing would happen");
    }
    let mut steps: Vec<Step> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let before = steps.last().map_or(SignedDuration::ZERO, |step| step.at);
        steps.push(step(node, before, mistakes));
    }
    section.finish(mistakes);
    Some(Test { name: name?.0, origin: node.origin.clone(), watch, primary_key, steps })
}

fn named(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Named> {
    section.string("watch", mistakes).map(|(name, origin)| Named { name, origin: origin.clone() })
}

fn step(node: &Node, before: SignedDuration, mistakes: &mut Mistakes) -> Step {
    let mut section = Section::new("test.step", node, mistakes);
    let at = at(&mut section, mistakes);
    if at.is_some_and(|at| at < before) {
        mistakes.add(
            section.origin(),
            format!("test.step.at: time does not go backwards; the step before is at \"{}\"", time::show(before)),
        );
    }
    let step = Step {
        origin: node.origin.clone(),
        at: at.unwrap_or(before).max(before),
        watch: named(&mut section, mistakes),
        read: section.boolean("read", mistakes).unwrap_or(false),
        lookup: object(&mut section, "lookup", mistakes),
        key: object(&mut section, "key", mistakes),
        what: what(&mut section, mistakes),
        expect: section.node("expect").map(|_| expected(&mut section, mistakes)),
    };
    section.finish(mistakes);
    if step.key.is_some() && matches!(step.what, What::Nothing) {
        mistakes.add(&step.origin, "test.step.key: nothing happens to it; say count, threshold, gone, insert, update or delete");
    }
    step
}

fn at(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<SignedDuration> {
    let at: Duration = section.duration("at", mistakes)?;
    // What this leaves out is longer than any history.
    SignedDuration::try_from(at).ok().filter(|at| *at <= time::LONGEST).or_else(|| {
        mistakes.add(section.origin(), format!("test.step.at: at most \"{}\" is wanted", time::show(time::LONGEST)));
        None
    })
}

fn object(section: &mut Section<'_>, key: &'static str, mistakes: &mut Mistakes) -> Option<Map<String, Json>> {
    let node = section.node(key)?;
    match node.value.json() {
        Json::Object(object) => Some(object),
        _ => {
            section.wrong(key, node, "a table", mistakes);
            None
        }
    }
}

fn what(section: &mut Section<'_>, mistakes: &mut Mistakes) -> What {
    let happens = ["count", "gone", "insert", "update", "delete"].map(|key| section.node(key).map(|_| key));
    let happens: Vec<&str> = happens.into_iter().flatten().collect();
    if happens.len() > 1 {
        mistakes.add(section.origin(), format!("test.step: {} exclude each other; write a step for each", happens.join(" and ")));
    }
    let threshold = threshold(section, mistakes);
    let row = object(section, "row", mistakes);
    let gone = section.boolean("gone", mistakes) == Some(true);
    if row.is_some() && !happens.contains(&"count") {
        mistakes.add(section.origin(), "test.step.row: it is that of a reading; say count");
    }
    match happens.first() {
        Some(&"count") => match section.integer("count", i64::MIN..=i64::MAX, mistakes) {
            Some(count) => What::Reading { count, threshold, row },
            None => What::Nothing,
        },
        Some(&"gone") if gone => What::Gone,
        Some(&"insert") => What::Row { change: Change::Insert, old: None, new: object(section, "insert", mistakes) },
        Some(&"delete") => What::Row { change: Change::Delete, old: object(section, "delete", mistakes), new: None },
        Some(&"update") => update(section, mistakes),
        _ => threshold.map_or(What::Nothing, What::Threshold),
    }
}

fn update(section: &mut Section<'_>, mistakes: &mut Mistakes) -> What {
    let Some(node) = section.node("update") else { return What::Nothing };
    let mut section = Section::new("test.step.update", node, mistakes);
    let (old, new) = (object(&mut section, "old", mistakes), object(&mut section, "new", mistakes));
    if section.node("old").is_none() || section.node("new").is_none() {
        mistakes.add(section.origin(), "test.step.update: { old = { … }, new = { … } } is wanted");
    }
    section.finish(mistakes);
    What::Row { change: Change::Update, old, new }
}

fn threshold(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Option<i64>> {
    let node = section.node("threshold")?;
    match &node.value {
        Value::Integer(threshold) => Some(Some(*threshold)),
        Value::String(word) if word == NO_THRESHOLD => Some(None),
        _ => {
            section.wrong("threshold", node, "a whole number, or \"none\" where it is NULL,", mistakes);
            None
        }
    }
}

fn expected(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Vec<Expected> {
    section.tables("expect", mistakes).iter().map(|node| one_expected(node, mistakes)).collect()
}

/// What is sent, besides the fields of the event.
const SENT_FIELDS: [&str; 6] = ["channels", "event", "endpoint", "data", "socket_id", "row"];

fn one_expected(node: &Node, mistakes: &mut Mistakes) -> Expected {
    let mut section = Section::new("test.step.expect", node, mistakes);
    let known: Vec<&'static str> = SENT_FIELDS.into_iter().chain(Event::FIELDS).collect();
    for field in &known {
        section.node(field);
    }
    let mut fields = Map::new();
    for entry in section.all().iter().filter(|entry| known.contains(&entry.key.as_str())) {
        match expected_value(&entry.key, &entry.node.value) {
            Some(value) => drop(fields.insert(entry.key.clone(), value)),
            None => section.wrong(&entry.key, &entry.node, "a time since the beginning, such as \"10s\",", mistakes),
        }
    }
    section.finish(mistakes);
    Expected { fields }
}

fn expected_value(field: &str, value: &Value) -> Option<Json> {
    match (field, value) {
        ("at", Value::String(at)) => parse_duration(at).and_then(|at| SignedDuration::try_from(at).ok()).map(time::shown),
        ("at", _) => None,
        // One channel is a list of one.
        ("channels", Value::String(channel)) => Some(Json::from(vec![channel.as_str()])),
        (_, value) => Some(value.json()),
    }
}
