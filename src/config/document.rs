//! A configuration as a tree in which every value knows where it came from.
//!
//! The TOML file is parsed with spans, environment variables are grafted onto the same tree, and
//! whatever is wrong later can therefore be named by file, line and column, or by its variable.

use std::fmt;

use toml::de::{DeTable, DeValue};
use zeroize::Zeroize as _;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A place in the file.
    File {
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
    },
    /// A variable of the environment, or of the file given with `--env-file`.
    Variable(String),
}

/// A value and its origin.
#[derive(Clone, Debug)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it stands.
    pub origin: Origin,
}

/// What TOML can say.
#[derive(Clone, Debug)]
pub enum Value {
    /// Entries in the order of the file.
    Table(Vec<Entry>),
    /// A list.
    Array(Vec<Node>),
    /// A string; what comes from a variable is always one.
    String(String),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// true or false.
    Boolean(bool),
    /// A date or time, which no key wants.
    Datetime(String),
}

impl Value {
    /// The value as JSON. `"{{ none }}"` is null, for which TOML has no word, as it is in a template.
    pub fn json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Value::Table(entries) => {
                Json::Object(entries.iter().map(|entry| (entry.key.clone(), entry.node.value.json())).collect())
            }
            Value::Array(items) => items.iter().map(|item| item.value.json()).collect(),
            Value::String(text) if text.split_whitespace().eq(["{{", "none", "}}"]) => Json::Null,
            Value::String(text) | Value::Datetime(text) => Json::from(text.as_str()),
            Value::Integer(number) => Json::from(*number),
            Value::Float(number) => Json::from(*number),
            Value::Boolean(boolean) => Json::from(*boolean),
        }
    }
}

/// A key of a table, with its own place.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub origin: Origin,
    /// Its value.
    pub node: Node,
}

impl Node {
    /// Overwrites every text in the tree, for one of them may be a secret. The tree is of no use afterwards.
    pub fn erase(&mut self) {
        match &mut self.value {
            Value::Table(entries) => entries.iter_mut().for_each(|entry| entry.node.erase()),
            Value::Array(items) => items.iter_mut().for_each(Node::erase),
            Value::String(text) | Value::Datetime(text) => text.zeroize(),
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => {}
        }
    }
}

impl Value {
    /// The kind of value, as a person would call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Table(_) => "a table",
            Value::Array(_) => "a list",
            Value::String(_) => "a string",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a number with a fraction",
            Value::Boolean(_) => "true or false",
            Value::Datetime(_) => "a date",
        }
    }
}

/// One mistake: where, what is wrong, what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// `file:line:column`, or the name of a variable.
    pub place: String,
    /// What is wrong and what is allowed.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Parses a TOML file; every error of syntax is a mistake, and what could be parsed is still given.
pub fn parse(file: &str, text: &str) -> (Node, Vec<Mistake>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let lines = Lines::new(text);
    let mistakes = errors
        .into_iter()
        .map(|error| Mistake {
            place: place(file, &origin(&lines, error.span().map_or(0, |span| span.start))),
            what: error.message().trim().to_owned(),
        })
        .collect();
    let root = Node { value: Value::Table(entries(&lines, table.get_ref())), origin: Origin::File { line: 1, column: 1 } };
    (root, mistakes)
}

/// The place of `origin` as it is printed.
pub fn place(file: &str, origin: &Origin) -> String {
    match origin {
        Origin::File { line, column } => format!("{file}:{line}:{column}"),
        Origin::Variable(name) => name.clone(),
    }
}

/// A text and where its lines begin: each place is then found without counting from the beginning.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Lines<'t> {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Lines { text, starts }
    }
}

fn origin(lines: &Lines<'_>, byte: usize) -> Origin {
    let end = lines.text.floor_char_boundary(byte.min(lines.text.len()));
    let line = lines.starts.partition_point(|&start| start <= end);
    Origin::File { line, column: lines.text[lines.starts[line - 1]..end].chars().count() + 1 }
}

fn entries(text: &Lines<'_>, table: &DeTable<'_>) -> Vec<Entry> {
    let mut entries: Vec<(usize, Entry)> = table
        .iter()
        .map(|(key, value)| {
            let entry = Entry { key: key.get_ref().to_string(), origin: origin(text, key.span().start), node: node(text, value) };
            (key.span().start, entry)
        })
        .collect();
    // The parser's map is sorted by name; a person reads from top to bottom.
    entries.sort_by_key(|&(start, _)| start);
    entries.into_iter().map(|(_, entry)| entry).collect()
}

fn node(text: &Lines<'_>, spanned: &toml::Spanned<DeValue<'_>>) -> Node {
    let value = match spanned.get_ref() {
        DeValue::String(string) => Value::String(string.to_string()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(integer) => Value::Integer(integer),
            Err(_) => Value::Float(f64::INFINITY),
        },
        DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Datetime(datetime) => Value::Datetime(datetime.to_string()),
        DeValue::Array(array) => Value::Array(array.iter().map(|value| node(text, value)).collect()),
        DeValue::Table(table) => Value::Table(entries(text, table)),
    };
    Node { value, origin: origin(text, spanned.span().start) }
}

/// No key of the configuration lies deeper.
const GRAFT_DEPTH_MAX: usize = 16;

/// Puts the value of a variable at a path of the tree, making what is missing on the way.
pub fn graft(root: &mut Node, path: &[String], variable: &str, text: &str) {
    // No key is that deep: it is named as unknown where it stops.
    let path = &path[..path.len().min(GRAFT_DEPTH_MAX)];
    let origin = Origin::Variable(variable.to_owned());
    let Some((head, rest)) = path.split_first() else {
        *root = Node { value: Value::String(text.to_owned()), origin };
        return;
    };
    if let (Value::Array(items), Ok(index)) = (&mut root.value, head.parse::<usize>()) {
        if index == items.len() {
            items.push(Node { value: Value::Table(Vec::new()), origin });
        }
        if let Some(item) = items.get_mut(index) {
            graft(item, rest, variable, text);
        }
        return;
    }
    if !matches!(root.value, Value::Table(_)) {
        root.value = Value::Table(Vec::new());
    }
    let Value::Table(entries) = &mut root.value else { return };
    let index = entries.iter().position(|entry| entry.key == *head).unwrap_or_else(|| {
        let value =
            if rest.first().is_some_and(|next| next == "0") { Value::Array(Vec::new()) } else { Value::Table(Vec::new()) };
        let node = Node { value, origin: origin.clone() };
        entries.push(Entry { key: head.clone(), origin, node });
        entries.len() - 1
    });
    graft(&mut entries[index].node, rest, variable, text);
}
