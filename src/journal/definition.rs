//! What the triggers of a table watch are generated from: its relation, condition, key and measure in SQL.

use tokio_postgres::Client;

use super::columns::{self, Column, Measured};
use super::expressions::Understanding;
use super::guard::{self, Kinds, Typed};
use crate::db::quote;
use crate::db::schema::Schema;
use crate::error::Error;
use crate::event::rule::Change;
use crate::watch::{Measure, Relation, Source, Watch};

/// The SQL of a table watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The table, quoted.
    pub relation: String,
    /// The condition on a row; `true` where there is none.
    pub condition: String,
    /// The condition under which a row counts: a level that is NULL is none.
    pub counted: String,
    /// The key of one row, as text.
    pub parts: String,
    /// The key as it is stored: a long one becomes its hash.
    pub key: String,
    /// Whether counts are kept at all.
    pub counts: bool,
    /// What is summed up of one row; `None` where rows are counted.
    pub measure: Option<Measured>,
    /// A row that was touched is to be judged anew, though its count is what it was.
    pub touch: bool,
    /// Whether an UPDATE can change a count at all.
    pub update: bool,
    /// What is told of changes of rows.
    pub changes: Option<Changes>,
    /// The types of the key's columns: another type may give another text, and so is another generation.
    pub types: Vec<u32>,
    /// The columns that its triggers use, and of which kind they are.
    pub guarded: Vec<Typed>,
    /// The key's columns as a recount groups by them, byte by byte, and their names.
    pub grouping: Vec<(String, String)>,
}

/// What is told of changes of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// What is listened to.
    pub wanted: Vec<Change>,
    /// The columns that are told, as JSON.
    pub row: String,
    /// What tells one row from another, as text; needed where rows are compared with what they were.
    pub identity: String,
    /// The columns of which one must have changed, as text; `None`: every update counts.
    pub columns: Option<String>,
}

impl Changes {
    /// Whether what this event does to rows is told.
    pub fn on(&self, event: &str, conditional: bool) -> bool {
        match event {
            "insert" => self.wanted.contains(&Change::Insert),
            "delete" => self.wanted.contains(&Change::Delete),
            // An update may bring a row under the condition, or take it out.
            "update" => conditional || self.wanted.contains(&Change::Update),
            _ => false,
        }
    }
}

/// A definition as it is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// The table, quoted.
    pub relation: Option<String>,
    /// The columns of its key.
    pub key: Vec<String>,
    /// Their types.
    pub types: Vec<u32>,
    /// The text that identifies its generation.
    pub text: String,
}

/// A kind of relation whose statement triggers see their rows.
const WATCHABLE: [&str; 2] = ["r", "p"];
/// PostgreSQL passes no more arguments than 100 to a function: a name and a value each.
const TOLD_COLUMNS_MAX: usize = 50;

impl Definition {
    /// Looks the table of a watch up and builds the SQL; `None` where its source is no table. A key that is the primary
    /// key is looked up, too. For somebody who trusts the table as it is: see [`Definition::of_installed`].
    ///
    /// # Errors
    /// A table or column that does not exist, or whose type cannot be what it is to be: each with what to do.
    pub async fn of(client: &Client, schema: &Schema, watch: &Watch) -> Result<Option<Definition>, Error> {
        Definition::found(client, schema, watch, None).await
    }

    /// The same for a program that decides by itself: what it has not installed it trusts as it is, but of an installed watch
    /// no column whose type was changed since to one that could run its owner's code as our roles.
    ///
    /// # Errors
    /// As [`Definition::of`]; and such a column.
    pub async fn of_installed(client: &Client, schema: &Schema, watch: &Watch) -> Result<Option<Definition>, Error> {
        let known = guard::installed(client, schema, &watch.name).await?;
        Definition::found(client, schema, watch, known.as_ref()).await
    }

    async fn found(client: &Client, schema: &Schema, watch: &Watch, known: Option<&Kinds>) -> Result<Option<Definition>, Error> {
        let Source::Table { relation, condition } = &watch.source else { return Ok(None) };
        let oid = find(client, relation).await?;
        let table = columns::of_table(client, oid).await?;
        let primary = columns::primary_key(client, oid).await?;
        set_key(watch, relation, &primary)?;
        // A type that is refused for whose it is cannot be a key either, and the former says more.
        let key = key_parts(&table, relation, watch.key());
        if watch.measure.is_value() {
            require_unique(client, oid, relation, watch.key()).await?;
        }
        check_columns(watch, relation, &table)?;
        let changes = changes(watch, relation, &table, &primary)?;
        let understanding = Understanding { client, schema, relation, oid, table: &table, known };
        let (guarded, measure) = understanding.of(watch, &primary, changes.as_ref()).await?;
        let (parts, types) = key?;
        let quoted = relation.quoted();
        let touch = watch.counts() && (watch.threshold_column.is_some() || (watch.has_row() && !watch.row_columns().is_empty()));
        // On lines of its own, so that a comment at the end of the condition ends there.
        let condition = condition.as_ref().map_or_else(|| "true".to_owned(), |condition| format!("(\n{condition}\n)"));
        let conditional = condition != "true";
        let counted = match &watch.measure {
            Measure::Value(expression) if conditional => format!("{condition} AND (\n{expression}\n) IS NOT NULL"),
            Measure::Value(expression) => format!("(\n{expression}\n) IS NOT NULL"),
            Measure::Rows | Measure::Sum(_) => condition.clone(),
        };
        Ok(Some(Definition {
            key: columns::stored_key(&table, watch.key()),
            parts,
            counts: watch.counts(),
            update: conditional || !watch.key().is_empty() || measure.is_some(),
            changes,
            relation: quoted,
            condition,
            counted,
            measure,
            touch,
            types,
            guarded,
            grouping: columns::grouping(&table, watch.key()),
        }))
    }

    /// The text that identifies the generation: another text is another generation.
    pub fn text(&self) -> String {
        let meaning = super::trigger::MEANING;
        let more = if self.measure.is_none() && self.changes.is_none() && !self.touch {
            String::new()
        } else {
            format!(" / {} {:?} {} {:?}", self.counts, self.measure, self.touch, self.changes)
        };
        format!("{} / {} / {} / {} / {:?}{more} / {meaning}", self.relation, self.condition, self.parts, self.key, self.types)
    }

    /// What is another than in the definition that is installed, in words; nothing where it is the same.
    pub fn differences(&self, key: &[String], before: &Before) -> Vec<&'static str> {
        let meaning = format!(" / {}", super::trigger::MEANING);
        let now = self.text();
        if now == before.text {
            return Vec::new();
        }
        let relation = before.relation.as_deref().unwrap_or_default();
        let parts = [
            (relation != self.relation, "its table"),
            (before.key != key, "its key"),
            (before.key == key && before.types != self.types, "the type of a column of its key"),
            (!before.text.starts_with(&format!("{relation} / {} / ", self.condition)), "its where"),
            (!before.text.ends_with(&meaning), "the triggers of this version of items-listen"),
        ];
        let mut differ: Vec<&str> = parts.into_iter().filter(|(differs, _)| *differs).map(|(_, what)| what).collect();
        let middle = |text: &str| text.rsplit_once(" / ").map(|(middle, _)| middle.to_owned());
        // What comes after the key's types tells of itself only where all before it is the same.
        let known = ["its table", "its key", "the type of a column of its key", "its where"];
        if !differ.iter().any(|what| known.contains(what)) && middle(&before.text) != middle(&now) {
            differ.push("what is measured, or which changes are told");
        }
        differ
    }

    /// Whether there is a condition on a row.
    pub fn is_conditional(&self) -> bool {
        self.condition != "true"
    }

    /// Whether what this event does to rows is told.
    pub fn tells(&self, event: &str) -> bool {
        self.changes.as_ref().is_some_and(|changes| changes.on(event, self.is_conditional()))
    }

    /// The events that need a trigger.
    pub fn events(&self) -> Vec<String> {
        let needed = |event: &str| self.tells(event) || (self.counts && (event != "update" || self.update));
        ["insert", "delete", "update", "truncate"].into_iter().filter(|event| needed(event)).map(str::to_owned).collect()
    }
}

async fn find(client: &Client, relation: &Relation) -> Result<u32, Error> {
    let kind = "SELECT c.oid, c.relkind::text FROM pg_class c WHERE c.oid = to_regclass($1)";
    let Some(row) = client.query_opt(kind, &[&relation.quoted()]).await? else {
        return Err(Error::Failed(format!("the table {relation} does not exist, or this role may not see its schema")));
    };
    let (oid, kind): (u32, String) = (row.get(0), row.get(1));
    if !WATCHABLE.contains(&kind.as_str()) {
        let what = match kind.as_str() {
            "v" => "a view: watch the table behind it, or use query",
            "m" => "a materialized view, on which no trigger fires: use query",
            "f" => "a foreign table, whose triggers see no rows: use query",
            _ => "no table",
        };
        return Err(Error::Failed(format!("{relation} is {what}")));
    }
    let parent = "SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = $1 LIMIT 1";
    if let Some(row) = client.query_opt(parent, &[&oid]).await? {
        // Statement triggers fire for the table that a statement names: writes through the root would not be seen.
        return Err(Error::Failed(format!(
            "{relation} is a partition or child of {}: watch that table, with a where that selects this part",
            row.get::<_, String>(0)
        )));
    }
    Ok(oid)
}

/// The primary key is the key of a watch that has none, where each row has a reading or is told of itself.
fn set_key(watch: &Watch, relation: &Relation, primary: &[String]) -> Result<(), Error> {
    if !watch.key.is_primary() {
        return Ok(());
    }
    if primary.is_empty() && watch.measure.is_value() {
        return Err(Error::Failed(format!(
            "value: the table {relation} has no primary key; say key = [\"…\"], the columns of a unique index"
        )));
    }
    watch.key.set(primary.to_vec());
    if watch.key() != primary {
        return Err(Error::Failed(format!(
            "the primary key of {relation} is another than when this program began ({} before, {} now): restart it",
            watch.key().join(", "),
            primary.join(", ")
        )));
    }
    // The configuration was read before the key was known.
    let named = watch.message.variables().into_iter().chain(watch.rules.iter().flat_map(crate::event::rule::Rule::variables));
    let strange = named.chain(watch.unread_by.iter().map(|column| format!("key.{column}"))).find(|variable| {
        variable
            .strip_prefix("key.")
            .is_some_and(|column| !primary.iter().any(|known| column.split('.').next() == Some(known.as_str())))
    });
    let overrides = watch.thresholds.iter().flat_map(|over| over.key.keys()).find(|column| !primary.contains(column));
    match strange.or_else(|| overrides.map(|column| format!("key.{column}"))) {
        Some(variable) => Err(Error::Failed(format!(
            "there is no {variable}: without key = […] the key is the primary key of {relation}, which is {}",
            if primary.is_empty() { "missing".to_owned() } else { primary.join(", ") }
        ))),
        None => Ok(()),
    }
}

/// The key of one row as text, and the types of its columns.
fn key_parts(table: &[Column], relation: &Relation, key: &[String]) -> Result<(String, Vec<u32>), Error> {
    let (mut parts, mut types) = (Vec::with_capacity(key.len()), Vec::with_capacity(key.len()));
    for name in key {
        let column = table.iter().find(|column| column.name == *name).ok_or_else(|| no_column("key", relation, name, table))?;
        parts.push(column.key_part().map_err(Error::Failed)?);
        types.push(column.type_oid);
    }
    Ok((columns::key_text(&parts), types))
}

fn no_column(what: &str, relation: &Relation, name: &str, table: &[Column]) -> Error {
    let hint = crate::config::reader::nearest(name, table.iter().map(|column| column.name.as_str()));
    Error::Failed(format!("{what}: the table {relation} has no column \"{name}\"{hint}"))
}

/// Every column that the configuration names must be there, and the threshold's must hold whole numbers.
fn check_columns(watch: &Watch, relation: &Relation, table: &[Column]) -> Result<(), Error> {
    let find = |what: &str, name: &String| {
        table.iter().find(|column| column.name == *name).ok_or_else(|| no_column(what, relation, name, table))
    };
    if let Some(name) = &watch.threshold_column {
        let column = find("threshold_column", name)?;
        if !column.is_whole_number() {
            return Err(Error::Failed(format!(
                "threshold_column: \"{name}\" of {relation} is of type {}; an integer or numeric is wanted",
                column.type_name
            )));
        }
    }
    let mut named: Vec<String> = if watch.has_row() { watch.row_columns() } else { Vec::new() };
    if watch.tells_changes() {
        named.extend(watch.change_columns());
    }
    // What the table has not, a lookup may find.
    for name in named.iter().filter(|_| watch.lookup.is_none()) {
        find("row", name)?;
    }
    for name in watch.include.iter().chain(watch.rules.iter().flat_map(|rule| &rule.columns)) {
        find("include or columns", name)?;
    }
    if named.len() > TOLD_COLUMNS_MAX {
        return Err(Error::Failed(format!("row: templates name {} columns, and {TOLD_COLUMNS_MAX} are possible", named.len())));
    }
    Ok(())
}

/// The level of each row needs rows that are told apart by the key.
async fn require_unique(client: &Client, oid: u32, relation: &Relation, key: &[String]) -> Result<(), Error> {
    if columns::is_unique(client, oid, key).await? {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "value: each key must have one row, but no primary key, and no unique index of columns that are NOT NULL, is part of ({}) on \
         {relation}; name such columns, or use sum",
        key.join(", ")
    )))
}

/// What is told of changes.
fn changes(watch: &Watch, relation: &Relation, table: &[Column], primary: &[String]) -> Result<Option<Changes>, Error> {
    let rules = || watch.rules.iter().filter(|rule| rule.on.changes());
    if rules().next().is_none() {
        return Ok(None);
    }
    let wanted: Vec<Change> = Change::ALL.into_iter().filter(|change| rules().any(|rule| rule.on.change(*change))).collect();
    let conditional = matches!(&watch.source, Source::Table { condition: Some(_), .. });
    if primary.is_empty() && (conditional || wanted.contains(&Change::Update)) {
        return Err(Error::Failed(format!(
            "on: {relation} has no primary key, so a row cannot be compared with what it was; listen to insert and delete, \
             without a where, or give the table a primary key"
        )));
    }
    let told = columns_told(watch, table);
    let pairs: Vec<String> = told.iter().map(|name| format!("{}, {}", crate::db::literal(name), quote(name))).collect();
    let list = |names: &[String]| names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ");
    let updating = || rules().filter(|rule| rule.on.change(Change::Update));
    let filtered = updating().next().is_some() && updating().all(|rule| !rule.columns.is_empty());
    let mut columns: Vec<String> = updating().flat_map(|rule| rule.columns.iter().cloned()).collect();
    columns.sort_unstable();
    columns.dedup();
    Ok(Some(Changes {
        wanted,
        row: format!("json_build_object({})", pairs.join(", ")),
        identity: format!("json_build_array({})::text", list(primary)),
        columns: filtered.then(|| format!("json_build_array({})::text", list(&columns))),
    }))
}

/// The columns of a row that are told of its change: those that are named, and what a lookup asks with. What the table
/// has not, the lookup finds.
pub(super) fn columns_told(watch: &Watch, table: &[Column]) -> Vec<String> {
    let mut told = watch.change_columns();
    if let Some(lookup) = &watch.lookup {
        told.extend(lookup.parameters.iter().cloned());
    }
    told.retain(|name| table.iter().any(|column| column.name == *name));
    told.sort_unstable();
    told.dedup();
    told
}
