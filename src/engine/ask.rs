//! Lookups: what a watch's events ask the database before they are told.
//!
//! Invariants. A lookup is asked on a session of its own, which may only read and waits for nothing long: whatever a person
//! wrote there, it cannot fail the fold's transaction, nor hold a lock in it. What cannot be asked is not told without
//! its answer: the fold is taken back, and the watch waits while the others go on.

use std::collections::HashMap;
use std::time::Duration;

use bytes::BytesMut;
use serde_json::{Map, Value};
use tokio::time::Instant;
use tokio_postgres::types::{Format, IsNull, ToSql, Type};
use tokio_postgres::{Client, Statement};

use super::Served;
use crate::db::session::{Connector, Purpose};
use crate::error::Error;
use crate::lookup::{Lookup, ROWS_MAX};

/// The fold waits for the answer.
const AT_MOST: Duration = Duration::from_secs(2);

/// All answers of one fold together: it holds everybody else up.
const ALL_AT_MOST: Duration = Duration::from_secs(3);
/// So many events are told in one fold, where they have to ask; and never fewer.
const PACE_MAX: i64 = 5_000;
const PACE_MIN: i64 = 1;
/// A fold whose answers took no longer than this may ask for more the next time.
const SOON: Duration = Duration::from_secs(1);

/// The session that asks.
pub(super) struct Asker {
    connector: Connector,
    session: Option<Client>,
    statements: HashMap<i32, Statement>,
    /// What was answered in this fold: the same question is asked once.
    answers: HashMap<(i32, String), Map<String, Value>>,
    /// How long answers took in this fold.
    took: Duration,
    pace: i64,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// It cannot be asked, now or as it is.
    Refused(Error),
    /// Too much was asked in this fold: less next time.
    TooMuch,
}

impl Asker {
    pub(super) fn new(connector: &Connector) -> Asker {
        Asker {
            connector: connector.clone(),
            session: None,
            statements: HashMap::new(),
            answers: HashMap::new(),
            took: Duration::ZERO,
            pace: PACE_MAX,
        }
    }

    /// How many events that have to ask the next fold may tell.
    pub(super) fn pace(&self) -> i64 {
        self.pace
    }

    /// Another fold begins.
    pub(super) fn begin(&mut self) {
        self.answers.clear();
        self.pace = if self.took < SOON { (self.pace * 2).min(PACE_MAX) } else { self.pace };
        self.took = Duration::ZERO;
    }

    /// Asks a watch's lookup with the values that an event has.
    ///
    /// # Errors
    /// The question cannot be asked, now or as it is.
    pub(super) async fn ask(
        &mut self,
        served: &Served,
        lookup: &Lookup,
        value: impl Fn(&str) -> Value,
    ) -> Result<Map<String, Value>, NoAnswer> {
        let values: Vec<Value> = lookup.parameters.iter().map(|name| value(name)).collect();
        let question = (served.id, Value::from(values.clone()).to_string());
        if let Some(answer) = self.answers.get(&question) {
            return Ok(answer.clone());
        }
        // One question is always asked, so that it goes on.
        if self.took > ALL_AT_MOST && !self.answers.is_empty() {
            self.pace = (self.pace / 8).max(PACE_MIN);
            return Err(NoAnswer::TooMuch);
        }
        let began = Instant::now();
        let answer = self.try_ask(served, lookup, &values).await;
        self.took += began.elapsed();
        match answer {
            Ok(answer) => {
                self.answers.insert(question, answer.clone());
                Ok(answer)
            }
            Err(error) => {
                // Its statement may be of a table that is another now, and the session may be lost.
                self.session = None;
                self.statements.clear();
                Err(NoAnswer::Refused(error))
            }
        }
    }

    /// Asks for a row that is gone, of which is known what its last event told: the row, and over it what was found for it.
    ///
    /// Where that hides a value to ask with, what was found last is the answer: what is asked with it would be the answer of
    /// another row, or none at all. So it is where that value is none of its type: the definition is another since.
    ///
    /// # Errors
    /// As [`Asker::ask`].
    pub(super) async fn ask_of_gone(
        &mut self,
        served: &Served,
        lookup: &Lookup,
        key: &Map<String, Value>,
        told: &Map<String, Value>,
    ) -> Result<Map<String, Value>, NoAnswer> {
        let found = self.columns(served, lookup).await.map_err(NoAnswer::Refused)?;
        let of_the_row: Vec<&String> = lookup.parameters.iter().filter(|name| !key.contains_key(*name)).collect();
        // Nor was it told where the lookup asked with other columns then.
        let is_hidden = of_the_row.iter().any(|name| found.contains(name) || !told.contains_key(*name));
        if !is_hidden {
            let value = |name: &str| key.get(name).or_else(|| told.get(name)).cloned().unwrap_or_default();
            match self.ask(served, lookup, value).await {
                Err(NoAnswer::Refused(error)) if !of_the_row.is_empty() && error.is_about_a_value() => {}
                asked => return asked,
            }
        }
        Ok(found.into_iter().map(|name| (name.clone(), told.get(&name).cloned().unwrap_or_default())).collect())
    }

    /// The columns that a watch's lookup gives.
    async fn columns(&mut self, served: &Served, lookup: &Lookup) -> Result<Vec<String>, Error> {
        let statement = self.statement(served, lookup).await;
        if statement.is_err() {
            self.session = None;
            self.statements.clear();
        }
        Ok(names(&statement?).collect())
    }

    /// A watch's lookup, prepared on the session that asks.
    async fn statement(&mut self, served: &Served, lookup: &Lookup) -> Result<Statement, Error> {
        if self.session.as_ref().is_none_or(Client::is_closed) {
            self.session = None;
            self.statements.clear();
        }
        let session = match &mut self.session {
            Some(session) => session,
            gone => gone.insert(self.connector.session(Purpose::Read { at_most: AT_MOST }).await?),
        };
        if let Some(statement) = self.statements.get(&served.id) {
            return Ok(statement.clone());
        }
        let statement = session.prepare(&lookup.statement()).await?;
        self.statements.insert(served.id, statement.clone());
        Ok(statement)
    }

    async fn try_ask(&mut self, served: &Served, lookup: &Lookup, values: &[Value]) -> Result<Map<String, Value>, Error> {
        let statement = self.statement(served, lookup).await?;
        let Some(session) = &self.session else { return Err(Error::Unavailable("the session is lost".to_owned())) };
        let values: Vec<AsText> = values.iter().map(AsText::of).collect();
        let parameters: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let rows = crate::source::sweep::alone(session, session.query(&statement, &parameters)).await?;
        if rows.len() > ROWS_MAX {
            return Err(Error::Failed(format!("it gives more than {ROWS_MAX} rows")));
        }
        let rows = rows.iter().map(|row| crate::json::object(row.get(0))).collect::<Result<Vec<Map<String, Value>>, _>>();
        let rows = rows.map_err(|error| Error::Failed(format!("its answer cannot be read: {error}")))?;
        Ok(combined(rows, names(&statement)))
    }
}

/// The columns of a lookup's answer: the first is the whole row.
fn names(statement: &Statement) -> impl Iterator<Item = String> {
    statement.columns().iter().skip(1).map(|column| column.name().to_owned())
}

/// One row is itself; of several each column is a list; of none each is null.
fn combined(mut rows: Vec<Map<String, Value>>, names: impl Iterator<Item = String>) -> Map<String, Value> {
    if rows.len() == 1 {
        return rows.remove(0);
    }
    let column = |name: &str| match rows.as_slice() {
        [] => Value::Null,
        rows => rows.iter().map(|row| row.get(name).cloned().unwrap_or_default()).collect(),
    };
    names.map(|name| (name.clone(), column(&name))).collect()
}

/// A value as PostgreSQL reads it from text, whatever type it found the parameter to be of.
#[derive(Debug)]
struct AsText(Option<String>);

impl AsText {
    fn of(value: &Value) -> AsText {
        AsText(match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        })
    }
}

impl ToSql for AsText {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let Some(text) = &self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    tokio_postgres::types::to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_are_combined() {
        let row = |id: i64| Map::from_iter([("id".to_owned(), json!(id))]);
        let names = || std::iter::once("id".to_owned());
        assert_eq!(combined(vec![row(1)], names())["id"], json!(1));
        assert_eq!(combined(vec![row(1), row(2)], names())["id"], json!([1, 2]));
        assert_eq!(combined(vec![], names())["id"], Value::Null);
    }
}
