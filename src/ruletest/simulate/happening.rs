//! From a step of the file to what the engine would have received, checked against the watch that it is about.

use serde_json::{Map, Value};

use super::super::read::{Step, Test, What};
use crate::engine::decide::{Changed, with_nulls};
use crate::engine::{Received, Served};
use crate::watch::{Key, Source, Watch};

/// What a primary key is if nobody says.
const PRIMARY_KEY_DEFAULT: &str = "id";

type Row = Map<String, Value>;

impl Step {
    /// Whether it needs to be known of which watch it is.
    pub(super) fn is_about_a_watch(&self) -> bool {
        !matches!(self.what, What::Nothing) || self.lookup.is_some()
    }

    /// Whether it names a key, and not only some of its columns.
    pub(super) fn has_whole_key(&self) -> bool {
        self.key.is_some() && !matches!(self.what, What::Threshold(_))
    }
}

/// The columns of a primary key, which only a database knows: those that the test names, else those of the first key that
/// is given.
pub(super) fn primary_key(test: &Test, step: &Step) -> Vec<String> {
    let given = || step.key.as_ref().map(|key| key.keys().cloned().collect());
    test.primary_key.clone().or_else(given).unwrap_or_else(|| vec![PRIMARY_KEY_DEFAULT.to_owned()])
}

pub(super) fn check_lookup(watch: &Watch) -> Result<(), String> {
    match watch.lookup {
        Some(_) => Ok(()),
        None => Err(format!("lookup: {} has none", watch.name)),
    }
}

/// The key of an edited threshold has some of the watch's columns, or none.
pub(super) fn check_edit(watch: &Watch, key: &Row) -> Result<(), String> {
    check_counts(watch)?;
    match key.keys().find(|column| !watch.key().contains(column)) {
        Some(strange) => Err(format!("key: \"{strange}\" is no column of the key ({})", watch.key().join(", "))),
        None => Ok(()),
    }
}

fn check_counts(watch: &Watch) -> Result<(), String> {
    if watch.counts() {
        return Ok(());
    }
    Err(format!("{} has rules for changes of rows alone; say insert, update or delete", watch.name))
}

/// A reading, or that a key is gone.
pub(super) fn received(served: &Served, step: &Step) -> Result<Received, String> {
    let watch = &served.watch;
    check_counts(watch)?;
    let What::Reading { count, threshold, row } = &step.what else { return gone(served, step) };
    Ok(Received {
        watch: served.id,
        source: served.source(),
        key: key(watch, step.key.as_ref(), &[row.as_ref()])?,
        count: *count,
        gone: false,
        threshold: own_threshold(watch, *threshold, row.as_ref())?,
        row: reading_row(watch, row.as_ref())?,
    })
}

fn gone(served: &Served, step: &Step) -> Result<Received, String> {
    let watch = &served.watch;
    if !watch.measure.is_value() && !matches!(watch.source, Source::Query { .. }) {
        return Err(format!("gone: only the key of a value or of a query can be gone; of {} say count = 0", watch.name));
    }
    Ok(Received { watch: served.id, key: key(watch, step.key.as_ref(), &[])?, gone: true, ..Received::default() })
}

/// The key that is given, or that the rows have.
fn key(watch: &Watch, given: Option<&Row>, rows: &[Option<&Row>]) -> Result<Key, String> {
    let of_rows = || {
        let row = rows.iter().flatten().find(|row| watch.key().iter().all(|column| row.contains_key(column)))?;
        Some(watch.key().iter().map(|column| (column.clone(), row[column].clone())).collect())
    };
    let object = given.cloned().or_else(of_rows).unwrap_or_default();
    Key::from_object(watch.key(), &object).map_err(|what| match watch.key().is_empty() {
        true => format!("key: {} has no key", watch.name),
        false => format!("key: {what}; the key of {} is {}", watch.name, watch.key().join(", ")),
    })
}

/// The threshold that a reading brings with it: where the watch has a column for it, it always does.
fn own_threshold(watch: &Watch, given: Option<Option<i64>>, row: Option<&Row>) -> Result<Option<Option<i64>>, String> {
    let Some(column) = watch.threshold_column.as_deref().filter(|_| given.is_none()) else { return Ok(given) };
    match row.and_then(|row| row.get(column)) {
        Some(Value::Null) => Ok(Some(None)),
        Some(value) if value.is_i64() => Ok(Some(value.as_i64())),
        Some(_) => Err(format!("row.{column}: the threshold of {} is a whole number, or \"{{{{ none }}}}\"", watch.name)),
        None => Err(format!("{} has its thresholds in the column {column}: say row.{column}, or threshold", watch.name)),
    }
}

/// A reading's row as the engine has it: of a query all of its columns, of a table those that templates name.
fn reading_row(watch: &Watch, given: Option<&Row>) -> Result<Option<Row>, String> {
    if !watch.has_row() {
        return match given {
            Some(_) => Err(format!("row: a reading of {} has no single row; it needs value", watch.name)),
            None => Ok(None),
        };
    }
    let named = watch.row_columns();
    let all = matches!(watch.source, Source::Query { .. });
    let mut row = with_nulls(&named, given.cloned().unwrap_or_default());
    row.retain(|column, _| all || named.contains(column));
    Ok(Some(row).filter(|row| !row.is_empty()))
}

/// A change of a row.
pub(super) fn changed(served: &Served, step: &Step, seq: i64) -> Result<Changed, String> {
    let watch = &served.watch;
    let What::Row { change, old, new } = &step.what else { return Err("nothing changes".to_owned()) };
    if !watch.tells_changes() {
        return Err(format!("{} has no rule for changes of rows; say count", watch.name));
    }
    let key = key(watch, step.key.as_ref(), &[new.as_ref(), old.as_ref()])?.text;
    let told = |row: &Row| change_row(watch, row);
    Ok(Changed {
        watch: served.id,
        key,
        change: *change,
        old: old.as_ref().map(told),
        new: new.as_ref().map(told),
        // Each step is a statement of its own.
        statement: (String::new(), jiff::Timestamp::UNIX_EPOCH, 1),
        began: jiff::Timestamp::UNIX_EPOCH,
        seq,
    })
}

/// The columns of a changed row that the triggers write down.
fn change_row(watch: &Watch, row: &Row) -> Row {
    let named = watch.change_columns();
    let asked: &[String] = watch.lookup.as_ref().map_or(&[], |lookup| &lookup.parameters);
    let mut row = with_nulls(&named, row.clone());
    row.retain(|column, _| named.contains(column) || asked.contains(column));
    row
}
