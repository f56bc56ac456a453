//! What is watched: a watch, the keys it has, and the threshold that is in force for each.

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::evaluate::Policy;
use crate::event::rule::Rule;
use crate::event::template::Text;
use crate::lookup::Lookup;
use crate::storm::Storm;

/// A watch, as configured and checked.
#[derive(Debug)]
pub struct Watch {
    /// Its name, unique.
    pub name: String,
    /// What is counted.
    pub source: Source,
    /// What is measured of what the source gives.
    pub measure: Measure,
    /// The columns of its key.
    pub key: KeyColumns,
    /// The threshold of keys for which there is no more specific one.
    pub threshold: Option<i64>,
    /// The column that holds a row's own threshold.
    pub threshold_column: Option<String>,
    /// Thresholds for some keys.
    pub thresholds: Vec<Override>,
    /// Columns that are at hand as `row.*`, besides those that templates name.
    pub include: Vec<String>,
    /// A question whose answer templates may use.
    pub lookup: Option<Lookup>,
    /// The columns of the key within which unread alerts are counted; none: the whole watch.
    pub unread_by: Vec<String>,
    /// How readings are judged.
    pub policy: Policy,
    /// The message of its events.
    pub message: Text,
    /// What is sent where.
    pub rules: Vec<Rule>,
    /// When a digest takes the place of a flood.
    pub storm: Option<Storm>,
}

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The rows of a table, through triggers.
    Table {
        /// The table.
        relation: Relation,
        /// An SQL condition on the row.
        condition: Option<String>,
    },
    /// A query that is asked again and again.
    Query {
        /// Any SELECT.
        sql: String,
        /// How often.
        every: Duration,
    },
    /// A NOTIFY that the application sends.
    Notify {
        /// The channel's name.
        channel: String,
    },
}

impl Source {
    /// The table, where the source is one.
    pub fn relation(&self) -> Option<&Relation> {
        match self {
            Source::Table { relation, .. } => Some(relation),
            Source::Query { .. } | Source::Notify { .. } => None,
        }
    }

    /// The name in the database and in `status`.
    pub fn kind(&self) -> &'static str {
        match self {
            Source::Table { .. } => "table",
            Source::Query { .. } => "query",
            Source::Notify { .. } => "notify",
        }
    }
}

/// What is measured of the rows of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measure {
    /// How many there are.
    Rows,
    /// The sum of this SQL expression.
    Sum(String),
    /// This SQL expression, of the key's one row.
    Value(String),
}

impl Measure {
    /// The SQL expression, where there is one.
    pub fn expression(&self) -> Option<&str> {
        match self {
            Measure::Rows => None,
            Measure::Sum(expression) | Measure::Value(expression) => Some(expression),
        }
    }

    /// The level of each single row: a key without a row is gone.
    pub fn is_value(&self) -> bool {
        matches!(self, Measure::Value(_))
    }

    /// The word of the configuration.
    pub fn word(&self) -> &'static str {
        match self {
            Measure::Rows => "rows",
            Measure::Sum(_) => "sum",
            Measure::Value(_) => "value",
        }
    }
}

/// The columns of a key, in the order of the configuration; none: one reading for the whole. Where the configuration
/// names none and each row has a reading of its own, they are those of the table's primary key, which only the database
/// knows: they are looked up once, when the watch is first brought up.
#[derive(Debug, Default)]
pub struct KeyColumns {
    configured: Option<Vec<String>>,
    found: OnceLock<Vec<String>>,
}

impl KeyColumns {
    /// These.
    pub fn configured(columns: Vec<String>) -> KeyColumns {
        KeyColumns { configured: Some(columns), found: OnceLock::new() }
    }

    /// Those of the primary key.
    pub fn primary() -> KeyColumns {
        KeyColumns::default()
    }

    /// Whether they have to be looked up still.
    pub fn is_unknown(&self) -> bool {
        self.configured.is_none() && self.found.get().is_none()
    }

    /// Whether they are those of the primary key.
    pub fn is_primary(&self) -> bool {
        self.configured.is_none()
    }

    /// Notes what was found.
    pub fn set(&self, columns: Vec<String>) {
        let _known_already = self.found.set(columns);
    }

    /// The columns; none while they are unknown.
    pub fn columns(&self) -> &[String] {
        self.configured.as_deref().or_else(|| self.found.get().map(Vec::as_slice)).unwrap_or_default()
    }
}

/// So many bytes a name in PostgreSQL has at most: a longer one would be cut, and be another's.
const NAME_BYTES_MAX: usize = 63;

/// The name of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// The schema, `public` unless given.
    pub schema: String,
    /// The table.
    pub name: String,
}

impl Relation {
    /// Reads `table`, `schema.table`, or either part in double quotes. Case is kept as it is written.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<Relation, String> {
        let wrong = || format!("\"{}\" is no table name; write table, schema.table or \"Schema\".\"Table\"", text.escape_debug());
        let mut parts = Vec::new();
        let mut rest = text.trim();
        loop {
            let (part, after) = identifier(rest).ok_or_else(wrong)?;
            parts.push(part);
            match after.strip_prefix('.') {
                Some(after) => rest = after,
                None if after.is_empty() => break,
                None => return Err(wrong()),
            }
        }
        if let Some(part) = parts.iter().find(|part| part.len() > NAME_BYTES_MAX || part.contains('\0')) {
            let part = part.escape_debug();
            return Err(format!("\"{part}\" is no name; PostgreSQL's have at most {NAME_BYTES_MAX} bytes, and no NUL"));
        }
        match <[String; 2]>::try_from(parts) {
            Ok([schema, name]) => Ok(Relation { schema, name }),
            Err(mut parts) if parts.len() == 1 => Ok(Relation { schema: "public".into(), name: parts.remove(0) }),
            Err(_) => Err(wrong()),
        }
    }

    /// Quoted for SQL.
    pub fn quoted(&self) -> String {
        format!("{}.{}", crate::db::quote(&self.schema), crate::db::quote(&self.name))
    }
}

impl std::fmt::Display for Relation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(['.', '"']).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    let mut characters = quoted.char_indices().peekable();
    while let Some((index, c)) = characters.next() {
        if c != '"' {
            name.push(c);
        } else if characters.peek().is_some_and(|&(_, next)| next == '"') {
            name.push('"');
            characters.next();
        } else {
            return (!name.is_empty()).then_some((name, &quoted[index + 1..]));
        }
    }
    None
}

/// `{ tenant_id = 42, threshold = 100 }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// Some or all of the key's columns.
    pub key: Map<String, Value>,
    /// The threshold of the keys that they name.
    pub threshold: i64,
}

impl Watch {
    /// The columns of its key.
    pub fn key(&self) -> &[String] {
        self.key.columns()
    }

    /// Whether anything is counted: a watch whose rules all listen to changes keeps no counts.
    pub fn counts(&self) -> bool {
        self.rules.iter().any(|rule| !rule.on.changes())
    }

    /// Whether any of its rules listens to changes of rows.
    pub fn tells_changes(&self) -> bool {
        self.rules.iter().any(|rule| rule.on.changes())
    }

    /// Whether a reading has one row, whose columns are `row.*`.
    pub fn has_row(&self) -> bool {
        self.measure.is_value()
    }

    /// The columns that `row.*` of its readings has.
    pub fn row_columns(&self) -> Vec<String> {
        let counting = self.rules.iter().filter(|rule| !rule.on.changes());
        let named = self.message.variables().into_iter().chain(counting.flat_map(Rule::variables));
        let named = named.filter_map(|variable| first_below(&variable, "row"));
        sorted(self.include.iter().cloned().chain(named))
    }

    /// The columns that templates name of its lookup's answer.
    pub fn lookup_columns(&self) -> Vec<String> {
        let named = self.message.variables().into_iter().chain(self.rules.iter().flat_map(Rule::variables));
        sorted(named.filter_map(|variable| first_below(&variable, "lookup")))
    }

    /// The columns that `row.*` and `old.*` of its changes have, besides those of the key.
    pub fn change_columns(&self) -> Vec<String> {
        let changing = || self.rules.iter().filter(|rule| rule.on.changes());
        let named = self.message.variables().into_iter().chain(changing().flat_map(Rule::variables));
        let named = named.filter_map(|variable| first_below(&variable, "row").or_else(|| first_below(&variable, "old")));
        let columns = changing().flat_map(|rule| rule.columns.iter().cloned());
        sorted(self.include.iter().cloned().chain(named).chain(columns))
    }

    /// The threshold of a key: the override that names most of its columns, else the watch's own.
    pub fn threshold_of(&self, key: &Key) -> Option<i64> {
        let matching =
            self.thresholds.iter().filter(|over| over.key.iter().all(|(name, value)| key.object.get(name) == Some(value)));
        matching.max_by_key(|over| over.key.len()).map_or(self.threshold, |over| Some(over.threshold))
    }

    /// What identifies how readings are judged: another text is another policy, and all keys are
    /// evaluated anew.
    pub fn policy_hash(&self) -> String {
        let overrides: Vec<(&Map<String, Value>, i64)> = self.thresholds.iter().map(|over| (&over.key, over.threshold)).collect();
        short_hash(&format!("{:?} {:?} {overrides:?} {:?}", self.policy, self.threshold, self.threshold_column))
    }

    /// Whether any of its events tells how many alerts are unread: counting them is not free.
    pub fn wants_unread(&self) -> bool {
        const NAME: &str = "unread_count";
        let named = |variables: Vec<String>| variables.iter().any(|variable| variable == NAME);
        named(self.message.variables())
            || self.rules.iter().any(|rule| matches!(rule.data, crate::event::rule::Data::Full) || named(rule.variables()))
    }

    /// The values of a key within which its unread alerts are counted, as text.
    pub fn unread_within(&self, key: &Map<String, Value>) -> String {
        let parts: Vec<&Value> = self.unread_by.iter().map(|column| key.get(column).unwrap_or(&Value::Null)).collect();
        serde_json::json!(parts).to_string()
    }

    /// The key whose text is `text`, as `items_listen.count` stores it.
    pub fn key_from_text(&self, text: &str) -> Key {
        Key::from_text(self.key(), text)
    }
}

/// `x` of `row.x.y`, where the root is `row`.
fn first_below(variable: &str, root: &str) -> Option<String> {
    let rest = variable.strip_prefix(root)?.strip_prefix('.')?;
    rest.split('.').next().map(str::to_owned)
}

fn sorted(columns: impl Iterator<Item = String>) -> Vec<String> {
    columns.collect::<std::collections::BTreeSet<String>>().into_iter().collect()
}

/// Twelve hexadecimal digits of a text's SHA-256.
pub fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// A key: the JSON array of its columns' values as the database writes it, and the object of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// The text in `items_listen.count`, which names the lane.
    pub text: String,
    /// Column to value.
    pub object: Map<String, Value>,
}

impl Key {
    /// From the text of `items_listen.count`. A text that has not the columns' number of values (a key
    /// that was too long and is stored as its hash) goes under the first column.
    pub fn from_text(columns: &[String], text: &str) -> Key {
        let values: Vec<Value> = serde_json::from_str(text).unwrap_or_default();
        let values = values.into_iter().chain(std::iter::repeat(Value::Null));
        Key { text: text.to_owned(), object: columns.iter().cloned().zip(values).collect() }
    }

    /// From an object that has exactly the given columns, with values that a key may have.
    ///
    /// # Errors
    /// What is missing, too much, or no value for a key.
    pub fn from_object(columns: &[String], object: &Map<String, Value>) -> Result<Key, String> {
        if let Some(surplus) = object.keys().find(|name| !columns.contains(name)) {
            return Err(format!("\"{surplus}\" is no column of the key ({})", columns.join(", ")));
        }
        let mut values = Vec::with_capacity(columns.len());
        for column in columns {
            match object.get(column) {
                Some(Value::String(text)) if text.contains('\0') => {
                    return Err(format!("\"{column}\" of the key holds a NUL, which no database text can"));
                }
                Some(value @ (Value::Null | Value::Bool(_) | Value::String(_))) => values.push(value.clone()),
                Some(value @ Value::Number(number)) if number.is_i64() || number.is_u64() => values.push(value.clone()),
                Some(_) => return Err(format!("\"{column}\" of the key is no whole number, string, boolean or null")),
                None => return Err(format!("\"{column}\" of the key is missing")),
            }
        }
        // The same text as PostgreSQL's jsonb gives: a space after each comma.
        let texts: Vec<String> = values.iter().map(Value::to_string).collect();
        let text = format!("[{}]", texts.join(", "));
        if text.len() > KEY_BYTES_MAX {
            return Err(format!("the key is longer than {KEY_BYTES_MAX} bytes"));
        }
        Ok(Key { text, object: columns.iter().cloned().zip(values).collect() })
    }

    /// The key as a person reads it: `tenant_id=7`, or nothing for the whole.
    pub fn display(&self) -> String {
        let parts: Vec<String> = self
            .object
            .iter()
            .map(|(name, value)| match value {
                Value::String(text) => format!("{name}={}", text.escape_debug()),
                other => format!("{name}={other}"),
            })
            .collect();
        parts.join(" ")
    }
}

/// The message of a watch that gives none.
pub const MESSAGE_DEFAULT: &str = "{{ watch }} {{ key }} at {{ count }} of {{ threshold }}";

/// A longer key could not be indexed: it is stored as its hash.
pub const KEY_BYTES_MAX: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_read_with_and_without_quotes() {
        let parse = |text| Relation::parse(text).map(|relation| relation.quoted());
        assert_eq!(parse("items"), Ok(r#""public"."items""#.into()));
        assert_eq!(parse("shop.Items"), Ok(r#""shop"."Items""#.into()));
        assert_eq!(parse(r#""a.b"."c""d""#), Ok(r#""a.b"."c""d""#.into()));
        let (fits, long) = ("é".repeat(31), "é".repeat(32));
        assert_eq!(parse(fits.as_str()), Ok(format!("\"public\".\"{fits}\"")));
        assert!(parse(long.as_str()).is_err() && parse("a\0b").is_err());
        for bad in ["", ".", "a.", "a.b.c", "\"a", "a\"b\"", "\"\".x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_of_both_origins_have_one_text() {
        let columns = ["a".to_owned(), "b".to_owned()];
        let object = serde_json::json!({"b": "x\"y", "a": 7});
        let key = Key::from_object(&columns, object.as_object().expect("an object")).expect("a key");
        assert_eq!(key.text, r#"[7, "x\"y"]"#);
        assert_eq!(Key::from_text(&columns, &key.text), key);
        let wrong = serde_json::json!({"a": 1.5, "b": null});
        assert!(Key::from_object(&columns, wrong.as_object().expect("an object")).is_err());
    }
}
