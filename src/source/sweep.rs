//! A query watch: a question that is asked again and again, read as if its answer were a table.
//!
//! Invariants. The answer is one statement's, in a transaction that may only read. It is applied under the fold's lock,
//! as every reading is; until then it is nothing but memory, and a crash asks again.

use std::collections::HashSet;

use serde_json::{Map, Value};
use tokio_postgres::Client;

use crate::db::schema::Schema;
use crate::error::Error;
use crate::journal::columns::{self, Column, Measured};
use crate::watch::{Measure, Watch};

/// An answer with more keys than this is refused: it is held in memory.
const KEYS_MAX: usize = 100_000;

/// What one key of the answer reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Swept {
    /// The key's text.
    pub key: String,
    /// The reading.
    pub count: i64,
    /// The rows' own threshold, where the watch has a column for it; the strictest, where there are several rows.
    pub threshold: Option<i64>,
    /// The row, where each has a reading of its own.
    pub row: Option<Map<String, Value>>,
}

/// A watch's question, ready to be asked.
#[derive(Clone, Debug)]
pub struct Sweep {
    sql: String,
}

impl Sweep {
    /// Looks at the columns of a watch's query and builds the statement around it.
    ///
    /// # Errors
    /// What PostgreSQL says about the query, a column that it has not, a type that cannot be a key or be summed up.
    pub async fn of(client: &Client, schema: &Schema, watch: &Watch, query: &str) -> Result<Sweep, Error> {
        // What a person writes is read as in any session of theirs.
        let before: String = client.query_one("SELECT current_setting('search_path')", &[]).await?.get(0);
        client.batch_execute(USER_PATH).await?;
        let sweep = Sweep::build(client, schema, watch, query).await;
        client.execute("SELECT set_config('search_path', $1, false)", &[&before]).await?;
        sweep
    }

    async fn build(client: &Client, schema: &Schema, watch: &Watch, query: &str) -> Result<Sweep, Error> {
        let wrong = |error| Error::about("query", error);
        let columns = columns::of_query(client, query).await.map_err(wrong)?;
        let asks = client.prepare(&format!("SELECT FROM (\n{query}\n) AS {}", columns::ROW)).await.map_err(wrong)?;
        if !asks.params().is_empty() {
            return Err(Error::Failed("query: nobody gives it a $1; write the value itself".to_owned()));
        }
        let parts = watch.key().iter().map(|name| find(&columns, "key", name)?.key_part()).collect::<Result<Vec<_>, String>>();
        let parts = columns::key_text(&parts.map_err(Error::Failed)?);
        let key = columns::stored_key(&columns, watch.key());
        if let Some(name) = &watch.threshold_column {
            let column = find(&columns, "threshold_column", name).map_err(Error::Failed)?;
            if !column.is_whole_number() {
                let what =
                    format!("threshold_column: \"{name}\" is of type {}; an integer or numeric is wanted", column.type_name);
                return Err(Error::Failed(what));
            }
        }
        if watch.has_row() && watch.lookup.is_none() {
            for name in watch.row_columns() {
                find(&columns, "row", &name).map_err(Error::Failed)?;
            }
        }
        let from = format!("(\n{query}\n) AS {}", columns::ROW);
        let measure = match watch.measure.expression() {
            None => "0::numeric".to_owned(),
            Some(expression) => {
                let word = watch.measure.word();
                let kind = columns::type_of(client, expression, &from).await;
                let kind = kind.map_err(|error| Error::about(word, error))?;
                Measured::of(expression, &kind).map_err(|what| Error::Failed(format!("{word}: {what}")))?.sql(schema)
            }
        };
        let threshold = watch.threshold_column.as_deref().map_or_else(|| "NULL::bigint".to_owned(), columns::threshold);
        let row = if watch.has_row() { format!("to_json({})::text", columns::ROW) } else { "NULL::text".to_owned() };
        let read = format!("SELECT {parts} AS key, {measure} AS measure, {threshold} AS threshold, {row} AS row FROM {from}",);
        let limit = KEYS_MAX + 1;
        // Whatever the numbers, a reading is one of 64 bits.
        let clamped = |sum: &str| format!("least(greatest({sum}, -9223372036854775808), 9223372036854775807)::bigint");
        let strictest = if watch.policy.scale.compare.is_low() { "max" } else { "min" };
        let sql = match &watch.measure {
            Measure::Value(_) => format!(
                "SELECT {key}, {}, r.threshold, r.row FROM ({read}) AS r WHERE r.measure IS NOT NULL LIMIT {limit}",
                clamped("r.measure")
            ),
            measure => {
                let count =
                    if *measure == Measure::Rows { "count(*)".to_owned() } else { clamped("coalesce(sum(r.measure), 0)") };
                let (key, group) = if watch.key().is_empty() { ("'[]'", "") } else { (key.as_str(), "GROUP BY r.key") };
                format!("SELECT {key}, {count}, {strictest}(r.threshold), NULL::text FROM ({read}) AS r {group} LIMIT {limit}")
            }
        };
        // As it will be asked: whatever is wrong with it is said now.
        client.prepare(&sql).await.map_err(wrong)?;
        Ok(Sweep { sql })
    }

    /// Asks. The session may only read, and ends what takes too long.
    ///
    /// # Errors
    /// What PostgreSQL says; more keys than can be; or a key with several rows, where each has a level.
    pub async fn ask(&self, client: &Client) -> Result<Vec<Swept>, Error> {
        let statement = client.prepare(&self.sql).await?;
        let rows = alone(client, client.query(&statement, &[])).await?;
        if rows.len() > KEYS_MAX {
            return Err(Error::Failed(format!(
                "query: more than {KEYS_MAX} keys; let it give fewer rows (those that matter), or watch the table"
            )));
        }
        let mut seen = HashSet::new();
        for row in &rows {
            let key: &str = row.get(0);
            if !seen.insert(key) {
                return Err(Error::Failed(format!(
                    "value: the query gives more than one row for the key {key}; key must name a row"
                )));
            }
        }
        let object = |text: Option<&str>| text.and_then(|text| crate::json::object(text).ok());
        Ok(rows
            .iter()
            .map(|row| Swept { key: row.get(0), count: row.get(1), threshold: row.get(2), row: object(row.get(3)) })
            .collect())
    }
}

/// Asks what a person wrote in a transaction of its own that is taken back: settings that it makes, and locks that it takes,
/// are not there for whoever asks next. All of it is sent at once.
///
/// # Errors
/// What PostgreSQL says.
pub async fn alone<T>(
    client: &Client,
    question: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, tokio_postgres::Error> {
    const BACK: &str = "ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all()";
    let (begun, answer, back) =
        tokio::join!(biased; client.batch_execute("BEGIN READ ONLY"), question, client.batch_execute(BACK));
    begun?;
    let answer = answer?;
    back?;
    Ok(answer)
}

/// As PostgreSQL has it for everybody who says nothing.
pub const USER_PATH: &str = "SET search_path = \"$user\", public";

fn find<'a>(columns: &'a [Column], what: &str, name: &str) -> Result<&'a Column, String> {
    columns.iter().find(|column| column.name == name).ok_or_else(|| {
        let hint = crate::config::reader::nearest(name, columns.iter().map(|column| column.name.as_str()));
        format!("{what}: the query has no column \"{name}\"{hint}")
    })
}
