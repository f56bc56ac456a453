//! The configuration that is in force: of every key its value, and where that comes from. Never a secret.
//!
//! It is made of the same tree that the reader reads, and of the table of keys for what the file does not say; a test reads
//! it again and wants the same configuration.

use toml::Value as Toml;

use super::document::{Entry, Node, Origin, Value, parse};
use super::environment::Variables;
use super::keys::{Fallback, Key, Kind, ROOT, Table};
use super::read::FALLBACK_THRESHOLD;
use super::read_watch::THRESHOLD_DEFAULT;
use super::redact::{HIDDEN, address};
use crate::severity::{Bands, Compare, Severity};

/// Every key, table by table, in the order of the file.
#[derive(Debug)]
pub struct Effective {
    /// The tables.
    pub groups: Vec<Group>,
}

/// A table of the file.
#[derive(Debug)]
pub struct Group {
    /// Its header: `[endpoints.main]`, `[[watch]]`.
    pub header: String,
    /// The path of its keys, with numbers for the tables of a list: `watch.0.publish.0`.
    pub path: String,
    /// Its keys.
    pub settings: Vec<Setting>,
}

/// A key and what is in force for it.
#[derive(Debug)]
pub struct Setting {
    /// The key.
    pub key: &'static Key,
    /// Its value, without what is secret in it; `None` where there is none.
    pub value: Option<Toml>,
    /// Whether something of the value is not shown.
    pub hidden: bool,
    /// Where it comes from.
    pub source: Source,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A place in the file.
    File {
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
    },
    /// A variable.
    Variable {
        /// Its name.
        name: String,
        /// Whether it stands in the file given with `--env-file`.
        borrowed: bool,
    },
    /// Nobody said anything.
    Default,
}

/// The one watch there is with no configuration file, but for its threshold.
const DEFAULT_WATCH: &str = r#"
[[watch]]
name = "items"
notify = "item_count"
[[watch.publish]]
channels = ["inventory"]
event = 'App\Events\ItemCountExceeded'
on = "reading"
"#;

impl Effective {
    /// What is in force with this tree, of a configuration that has been found right.
    pub(super) fn of(root: &Node, exists: bool, variables: &Variables<'_>) -> Effective {
        let entries = entries_of(root);
        let names: Vec<String> = find(entries, "endpoints")
            .map(|node| entries_of(node).iter().map(|entry| entry.key.clone()).collect())
            .unwrap_or_default();
        let mut resolver = Resolver { variables, endpoints: names, is_default: false, groups: Vec::new() };
        resolver.table(&ROOT, entries, &Place::root(), None);
        if !exists && find(entries, "watch").is_none() {
            let (root, _) = parse("", DEFAULT_WATCH);
            resolver.is_default = true;
            let place = Place::root().list("watch", 0);
            if let Some(Node { value: Value::Array(items), .. }) = find(entries_of(&root), "watch") {
                resolver.table(watch(), entries_of(&items[0]), &place, None);
            }
        }
        Effective { groups: resolver.groups }
    }
}

fn watch() -> &'static Table {
    let tables = ROOT.keys.iter().find_map(|key| match key.kind {
        Kind::Tables(table) if key.name == "watch" => Some(table),
        _ => None,
    });
    tables.expect("the table of keys has watches")
}

/// Where a table stands.
#[derive(Clone)]
struct Place {
    header: String,
    path: String,
    is_list: bool,
}

impl Place {
    fn root() -> Place {
        Place { header: String::new(), path: String::new(), is_list: false }
    }

    fn table(&self, key: &str) -> Place {
        Place { header: join(&self.header, &quoted(key)), path: join(&self.path, key), is_list: false }
    }

    fn list(&self, key: &str, index: usize) -> Place {
        Place { header: join(&self.header, key), path: format!("{}.{index}", join(&self.path, key)), is_list: true }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A key as TOML writes it.
fn quoted(key: &str) -> String {
    let is_bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if is_bare { key.to_owned() } else { serde_json::Value::from(key).to_string() }
}

fn entries_of(node: &Node) -> &[Entry] {
    if let Value::Table(entries) = &node.value { entries } else { &[] }
}

fn find<'a>(entries: &'a [Entry], key: &str) -> Option<&'a Node> {
    entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
}

struct Resolver<'a> {
    variables: &'a Variables<'a>,
    endpoints: Vec<String>,
    /// The tree is no file's, but what holds without one.
    is_default: bool,
    groups: Vec<Group>,
}

impl Resolver<'_> {
    /// Adds a table and those below it. `around` is the table that it stands in.
    fn table(&mut self, table: &'static Table, entries: &[Entry], place: &Place, around: Option<&[Entry]>) {
        let (tables, plain): (Vec<&Key>, Vec<&Key>) =
            table.keys.iter().partition(|key| matches!(key.kind, Kind::Table(_) | Kind::Named(_) | Kind::Tables(_)));
        let settings: Vec<Setting> = plain.into_iter().map(|key| self.setting(key, entries, place, around)).collect();
        if !settings.is_empty() {
            let header = if place.is_list { format!("[[{}]]", place.header) } else { format!("[{}]", place.header) };
            self.groups.push(Group { header, path: place.path.clone(), settings });
        }
        for key in tables {
            self.below(key, find(entries, key.name), entries, place);
        }
    }

    fn below(&mut self, key: &'static Key, node: Option<&Node>, around: &[Entry], place: &Place) {
        match (key.kind, node) {
            (Kind::Table(table), node) => {
                let is_needless = |key: &Key| !matches!(key.fallback, Fallback::Required);
                if node.is_some() || table.keys.iter().all(is_needless) {
                    self.table(table, node.map_or(&[], entries_of), &place.table(key.name), Some(around));
                }
            }
            (Kind::Named(table), Some(node)) => {
                for entry in entries_of(node) {
                    self.table(table, entries_of(&entry.node), &place.table(key.name).table(&entry.key), Some(around));
                }
            }
            (Kind::Tables(table), Some(Node { value: Value::Array(items), .. })) => {
                for (index, item) in items.iter().enumerate() {
                    self.table(table, entries_of(item), &place.list(key.name, index), Some(around));
                }
            }
            _ => {}
        }
    }

    fn setting(&self, key: &'static Key, entries: &[Entry], place: &Place, around: Option<&[Entry]>) -> Setting {
        if let Some(node) = find(entries, key.name) {
            return shown(key, value(node, key.kind), self.source(&node.origin));
        }
        if let Some((value, name)) = self.borrowed(key, entries, place) {
            let source = Source::Variable { borrowed: self.variables.is_borrowed(name), name: name.to_owned() };
            return shown(key, value, source);
        }
        let value = match key.fallback {
            Fallback::Value(text) => Some(literal(text)),
            Fallback::Depends(_) => self.depending(key, entries, around),
            Fallback::Required | Fallback::Unset(_) => None,
        };
        Setting { key, value, hidden: false, source: Source::Default }
    }

    fn source(&self, origin: &Origin) -> Source {
        match origin {
            _ if self.is_default => Source::Default,
            Origin::File { line, column } => Source::File { line: *line, column: *column },
            Origin::Variable(name) => Source::Variable { borrowed: self.variables.is_borrowed(name), name: name.clone() },
        }
    }

    /// What other programs' names say where the tree has nothing. Those that make an endpoint are in the tree already.
    fn borrowed(&self, key: &Key, entries: &[Entry], place: &Place) -> Option<(Toml, &'static str)> {
        match (place.path.as_str(), key.name) {
            ("database", "url") if find(entries, "url_file").is_none() => {
                self.variables.database_url().map(|(name, url)| (Toml::String(url), name))
            }
            (path, "threshold") if place.is_list && path.starts_with("watch.") => {
                Some((Toml::Integer(self.variables.get(FALLBACK_THRESHOLD)?.trim().parse().ok()?), FALLBACK_THRESHOLD))
            }
            _ => None,
        }
    }

    /// A default that depends on other keys.
    fn depending(&self, key: &Key, entries: &[Entry], around: Option<&[Entry]>) -> Option<Toml> {
        match key.name {
            "threshold" => self.is_default.then_some(Toml::Integer(THRESHOLD_DEFAULT)),
            "every" => find(entries, "query").map(|_| literal("\"30s\"")),
            "warning" | "high" | "critical" => edge(key.name, around?),
            "endpoint" => match self.endpoints.as_slice() {
                [only] => Some(Toml::String(only.clone())),
                all if self.is_default => Some(Toml::Array(all.iter().cloned().map(Toml::String).collect())),
                _ => None,
            },
            _ => None,
        }
    }
}

fn edge(name: &str, watch: &[Entry]) -> Option<Toml> {
    let word = match find(watch, "compare") {
        Some(Node { value: Value::String(word), .. }) => word.as_str(),
        _ => Compare::AtLeast.as_str(),
    };
    let compare = Compare::ALL.into_iter().find(|compare| compare.as_str() == word)?;
    let severity = Severity::ALL.into_iter().find(|severity| severity.as_str() == name)?;
    Bands::default_for(compare).edge(severity).map(|edge| Toml::Integer(edge.into()))
}

fn shown(key: &'static Key, value: Toml, source: Source) -> Setting {
    let (value, hidden) = match (key.kind, value) {
        (Kind::Secret, _) => (Toml::String(HIDDEN.to_owned()), true),
        (Kind::Address, Toml::String(text)) => {
            let (text, hidden) = address(&text);
            (Toml::String(text), hidden)
        }
        (_, value) => (value, false),
    };
    Setting { key, value: Some(value), hidden, source }
}

/// A default of the table of keys.
fn literal(text: &str) -> Toml {
    let table: toml::Table = toml::from_str(&format!("value = {text}")).expect("the defaults are TOML");
    table["value"].clone()
}

/// The value of a node as the file would have it: what a variable holds is text, whatever is wanted.
fn value(node: &Node, kind: Kind) -> Toml {
    match (&node.value, &node.origin, kind) {
        (Value::String(text), Origin::Variable(_), Kind::Integer(..)) => {
            text.trim().parse().map_or_else(|_| Toml::String(text.clone()), Toml::Integer)
        }
        (Value::String(text), Origin::Variable(_), Kind::Boolean) => Toml::Boolean(["true", "1"].contains(&text.trim())),
        (Value::String(text), Origin::Variable(_), Kind::Texts | Kind::Words(_)) => {
            Toml::Array(text.split(',').map(|part| Toml::String(part.trim().to_owned())).collect())
        }
        _ => plain(&node.value),
    }
}

fn plain(value: &Value) -> Toml {
    match value {
        Value::Table(entries) => Toml::Table(entries.iter().map(|entry| (entry.key.clone(), plain(&entry.node.value))).collect()),
        Value::Array(items) => Toml::Array(items.iter().map(|item| plain(&item.value)).collect()),
        Value::String(text) => Toml::String(text.clone()),
        Value::Integer(number) => Toml::Integer(*number),
        Value::Float(number) => Toml::Float(*number),
        Value::Boolean(boolean) => Toml::Boolean(*boolean),
        Value::Datetime(text) => text.parse().map_or_else(|_| Toml::String(text.clone()), Toml::Datetime),
    }
}
