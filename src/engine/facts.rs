//! What must be seen in the same snapshot as the counts: thresholds that the application edits, and the row of a reading.
//!
//! Invariants. They are read in the deleting statement itself (rule J2): an UPDATE that sets quantity and threshold
//! together is never seen in halves. Whatever a key's text may be, nothing in here can fail the fold: a cast is only
//! made for the watch whose key it is, and while it has rows, that is, while the text was made of that column's type.

use std::fmt::Write as _;

use serde_json::{Map, Value};
use tokio_postgres::Client;

use super::Served;
use super::ask::{Asker, NoAnswer};
use crate::db::schema::Schema;
use crate::db::session::Connector;
use crate::db::{literal, quote};
use crate::error::Error;
use crate::journal::columns::{self, ROW};
use crate::watch::{Key, Source, Watch};

/// Up to so many columns of a key each combination of them is looked up by the primary key of `threshold`.
const COMBINED_COLUMNS_MAX: usize = 4;

/// What one watch reads of its own table in the fold.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// The table, quoted: it must not be locked against reading.
    pub(super) relation: String,
    /// One row `(threshold, row)`, or none, of the key in `r`.
    branch: String,
    /// The table that it was understood for, by its number in the catalog.
    pub(super) oid: Option<u32>,
    /// The columns that it reads, and their types.
    pub(super) columns: Vec<(String, u32)>,
}

/// A column of the table that is read.
struct Has {
    name: String,
    type_oid: u32,
    /// Its values are words that a type lists.
    is_enum: bool,
}

impl Facts {
    /// Those of a served watch; none where it needs nothing of its table.
    pub(super) async fn of(client: &Client, schema: &Schema, served: &Served) -> Result<Option<Facts>, Error> {
        if !needs_table(&served.watch) {
            return Ok(None);
        }
        let sql = schema.sql("SELECT key_types FROM items_listen.watch WHERE id = $1");
        let Some(row) = client.query_opt(sql.as_str(), &[&served.id]).await? else { return Ok(None) };
        Facts::find(client, served.id, &served.watch, &row.get::<_, Vec<u32>>(0)).await
    }

    /// Those of a watch whose key has columns of these types.
    async fn find(client: &Client, id: i32, watch: &Watch, types: &[u32]) -> Result<Option<Facts>, Error> {
        let Some(relation) = watch.source.relation() else { return Ok(None) };
        // Of a domain the type that it is based on: its checks are about rows, not about what we look for.
        let sql = "WITH RECURSIVE base (ord, typ) AS (
                       SELECT k.ord, k.type FROM unnest($1::oid[]) WITH ORDINALITY AS k (type, ord)
                       UNION ALL
                       SELECT b.ord, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.typ WHERE t.typtype = 'd')
                   SELECT t.typname::text,
                          coalesce((SELECT a.attnotnull FROM pg_attribute a
                                    WHERE a.attrelid = to_regclass($3) AND a.attname = k.name AND NOT a.attisdropped), false)
                   FROM unnest($2::text[]) WITH ORDINALITY AS k (name, ord)
                   JOIN base b ON b.ord = k.ord JOIN pg_type t ON t.oid = b.typ
                   WHERE t.typtype <> 'd' ORDER BY k.ord";
        let rows = client.query(sql, &[&types, &watch.key(), &relation.quoted()]).await?;
        let key: Vec<(String, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let sql = "SELECT a.attname::text, a.atttypid, t.typtype = 'e', a.attrelid FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                   WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped";
        let rows = client.query(sql, &[&relation.quoted()]).await?;
        let has: Vec<Has> = rows.iter().map(|row| Has { name: row.get(0), type_oid: row.get(1), is_enum: row.get(2) }).collect();
        Ok(Facts::build(id, watch, &key, rows.first().map(|row| row.get(3)), &has))
    }

    /// From the type of each column of the key, and whether it is never NULL; and the columns that the table has.
    fn build(id: i32, watch: &Watch, types: &[(String, bool)], oid: Option<u32>, has: &[Has]) -> Option<Facts> {
        let relation = watch.source.relation()?.quoted();
        let key = watch.key();
        let mut matching = Vec::with_capacity(key.len());
        for (index, (column, (kind, not_null))) in key.iter().zip(types).enumerate() {
            // Only of what is never NULL does an index know at once.
            let equals = if *not_null { "=" } else { "IS NOT DISTINCT FROM" };
            let text = format!(
                "(CASE WHEN r.watch = {id} AND r.rows <> 0 AND jsonb_array_length(r.key::jsonb) = {} THEN r.key::jsonb ->> {index} END)",
                key.len()
            );
            let value = match kind.as_str() {
                // As `Column::key_part` wrote it; what PostgreSQL writes after the time it reads there, too.
                "timestamptz" => format!("replace(replace({text}, 'infinityZ', 'infinity'), ' BCZ', 'Z BC')::timestamptz"),
                kind => format!("{text}::{}", quote(kind)),
            };
            matching.push(format!("{ROW}.{} {equals} {value}", quote(column)));
        }
        let threshold = watch.threshold_column.as_deref().map_or_else(|| "NULL::bigint".to_owned(), columns::threshold);
        // What the table has not, the lookup finds; and what it asks with is the row's.
        let mut told = watch.row_columns();
        told.extend(watch.lookup.iter().flat_map(|lookup| lookup.parameters.iter().cloned()));
        told.retain(|name| has.iter().any(|has| has.name == *name) || watch.lookup.is_none());
        told.sort_unstable();
        told.dedup();
        let row = if told.is_empty() {
            "NULL::text".to_owned()
        } else {
            let pairs: Vec<String> = told.iter().map(|name| format!("{}, {}", literal(name), told_value(name, has))).collect();
            // Not jsonb, into which not every json can be turned.
            format!("json_build_object({})::text", pairs.join(", "))
        };
        let branch = format!(
            "(SELECT {threshold}, {row} FROM {relation} AS {ROW} WHERE r.watch = {id} AND r.rows <> 0 AND {} LIMIT 1)",
            matching.join(" AND ")
        );
        let reads = |name: &String| {
            told.contains(name)
                || watch.key().contains(name)
                || watch.threshold_column.as_ref().is_some_and(|column| column == name)
        };
        let columns = has.iter().filter(|has| reads(&has.name)).map(|has| (has.name.clone(), has.type_oid)).collect();
        Some(Facts { relation, branch, oid, columns })
    }
}

/// A column's value as it is told. A word of an enumerated type is told as PostgreSQL writes it: as JSON it would be what a
/// cast of the type's owner makes of it, which would run as us.
fn told_value(name: &str, has: &[Has]) -> String {
    let column = format!("{ROW}.{}", quote(name));
    match has.iter().any(|has| has.name == *name && has.is_enum) {
        true => format!("CASE WHEN {column} IS NOT NULL THEN concat({column}) END"),
        false => column,
    }
}

/// Whether a reading of this watch needs the row that it is of.
pub(super) fn needs_table(watch: &Watch) -> bool {
    matches!(watch.source, Source::Table { .. })
        && watch.has_row()
        && (watch.threshold_column.is_some()
            || !watch.row_columns().is_empty()
            || watch.lookup.as_ref().is_some_and(|lookup| !lookup.parameters.is_empty()))
}

/// `LATERAL (…)`: threshold and row of the key in `r`.
pub(super) fn lateral_rows<'a>(facts: impl Iterator<Item = &'a Facts>) -> String {
    let branches: Vec<&str> = facts.map(|facts| facts.branch.as_str()).collect();
    if branches.is_empty() { "(SELECT NULL::bigint, NULL::text LIMIT 0)".to_owned() } else { branches.join(" UNION ALL ") }
}

/// `LATERAL (…)`: what `items_listen.threshold` says of the key in `r`. While that table is empty it costs nothing.
pub(super) fn lateral_thresholds<'a>(schema: &Schema, served: impl Iterator<Item = &'a Served>) -> String {
    let (mut candidates, mut names) = (String::new(), String::new());
    for served in served {
        // Writing to a String cannot fail.
        let _ok = write!(candidates, " WHEN {} THEN {}", served.id, candidate_keys(schema, &served.watch));
        let _ok = write!(names, " WHEN {} THEN {}", served.id, literal(&served.watch.name));
    }
    if names.is_empty() {
        return "(SELECT NULL::bigint, true LIMIT 0)".to_owned();
    }
    // Nothing in what is configured is taken for our schema's name.
    let table = format!("{}.threshold", schema.name());
    format!(
        "SELECT t.threshold, true FROM unnest(CASE r.watch{candidates} END) WITH ORDINALITY AS c (key, ord),
         -- The limit keeps it a lookup by the primary key, whatever the table's size is thought to be.
         LATERAL (SELECT u.threshold FROM {table} u WHERE u.watch = (CASE r.watch{names} END) AND u.key = c.key LIMIT 1) AS t
         WHERE (SELECT EXISTS (SELECT FROM {table}))
         ORDER BY c.ord LIMIT 1"
    )
}

/// The keys in `threshold` that are about the key in `r`, the most specific first.
fn candidate_keys(schema: &Schema, watch: &Watch) -> String {
    let key = watch.key();
    let object = |columns: &[usize]| {
        let pairs: Vec<String> =
            columns.iter().map(|index| format!("{}, r.key::jsonb -> {index}", literal(&key[*index]))).collect();
        format!("jsonb_build_object({})", pairs.join(", "))
    };
    if key.len() > COMBINED_COLUMNS_MAX {
        let whole: Vec<usize> = (0..key.len()).collect();
        return format!(
            "ARRAY(SELECT u.key FROM {}.threshold u WHERE u.watch = {} AND {} @> u.key
                   ORDER BY (SELECT count(*) FROM jsonb_object_keys(u.key)) DESC, u.key)",
            schema.name(),
            literal(&watch.name),
            object(&whole)
        );
    }
    let mut combinations: Vec<Vec<usize>> =
        (0..1_usize << key.len()).map(|bits| (0..key.len()).filter(|index| bits & (1 << index) != 0).collect()).collect();
    // Among those with as many columns, the one with the earlier columns.
    combinations.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    let all: Vec<String> = combinations.iter().map(|columns| object(columns)).collect();
    format!("ARRAY[{}]::jsonb[]", all.join(", "))
}

/// What a watch's lookup answers for one key, outside any fold.
///
/// # Errors
/// It cannot be asked.
pub async fn lookup_of(
    connector: &Connector,
    watch: &std::sync::Arc<Watch>,
    key: &Key,
    row: Option<&Map<String, Value>>,
) -> Result<Option<Map<String, Value>>, Error> {
    let Some(lookup) = &watch.lookup else { return Ok(None) };
    let served = Served::new(0, 0, std::sync::Arc::clone(watch));
    let value = |name: &str| key.object.get(name).or_else(|| row?.get(name)).cloned().unwrap_or_default();
    match Asker::new(connector).ask(&served, lookup, value).await {
        Ok(answer) => Ok(Some(answer)),
        Err(NoAnswer::Refused(error)) => Err(Error::Failed(format!("lookup: {error}"))),
        Err(NoAnswer::TooMuch) => Ok(None),
    }
}

/// What the database says of one key, outside any fold: its threshold, and its row.
///
/// # Errors
/// The database cannot be asked, or what the configuration names is not there.
pub async fn of_key(
    client: &Client,
    schema: &Schema,
    watch: &std::sync::Arc<Watch>,
    key: &Key,
) -> Result<(Option<i64>, Option<serde_json::Value>), Error> {
    let served = Served::new(0, 0, std::sync::Arc::clone(watch));
    let facts = match crate::journal::definition::Definition::of_installed(client, schema, watch).await? {
        Some(definition) if needs_table(watch) => Facts::find(client, 0, watch, &definition.types).await?,
        _ => None,
    };
    let sql = format!(
        "SELECT f.threshold, f.row, t.threshold, coalesce(t.found, false), f.found IS NOT NULL
         FROM (SELECT 0 AS watch, $1::text AS key, 1 AS rows) AS r
         LEFT JOIN LATERAL (SELECT true AS found, * FROM ({}) AS f (threshold, row)) AS f ON true
         LEFT JOIN LATERAL ({}) AS t (threshold, found) ON true",
        lateral_rows(facts.iter()),
        lateral_thresholds(schema, std::iter::once(&served)),
    );
    client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    let asked = async {
        if let Some(facts) = &facts {
            super::changed::hold(client, schema, facts).await?;
        }
        Ok::<_, Error>(client.query_one(sql.as_str(), &[&key.text]).await?)
    };
    let asked = asked.await;
    // Nothing was written; what is lost with the session says so itself.
    let ended = client.batch_execute("ROLLBACK").await;
    let row = asked?;
    ended?;
    let facts = row.get::<_, Option<&str>>(1).and_then(|row| crate::json::object(row).ok());
    let threshold = match (watch.threshold_column.is_some() && row.get::<_, bool>(4), row.get::<_, bool>(3)) {
        (true, _) => row.get(0),
        (false, true) => row.get(2),
        (false, false) => watch.threshold_of(key),
    };
    Ok((threshold, facts.map(Value::Object)))
}
