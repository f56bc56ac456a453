//! A changed definition of a watch is a new generation, put in place in one transaction.
//!
//! Invariants. It is put in place while no fold is under way (the fold's lock) and no writer is between its statement and its
//! commit (SHARE ROW EXCLUSIVE on the table): so rows of the old generation are all in the journal, and nobody adds them up any
//! more. The fold's lock comes first, since nobody who has the table's waits for it, and a fold waits for no table.
//!
//! Writers wait while the table is locked, so nothing in that transaction depends on how much is counted or waits, and nothing in
//! it waits for this process: all of it is one message. Changes that nobody has told yet stay where they are; the watch remembers
//! their generations, and its new definition tells them. Unlike deltas, they are not found by counting anew.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::definition::Definition;
use super::install::{self, Installed};
use super::locking::Patience;
use super::trigger;
use crate::db::literal;
use crate::db::locks::Lock;
use crate::db::schema::Schema;
use crate::error::Error;
use crate::watch::{Relation, Watch};

/// For so long the fold's lock is waited for. Nobody else waits meanwhile: whoever would fold is refused, and so the next to
/// have it is whoever waits.
const FOLD_LOCK_TIMEOUT: &str = "1s";

/// A definition that is to be put in place.
#[derive(Clone, Copy, Debug)]
pub struct Generation<'a> {
    /// `items_listen.watch.id`.
    pub id: i32,
    /// Its number.
    pub number: i32,
    /// What it is the definition of.
    pub watch: &'a Watch,
    /// What the triggers are made of; `None` where there are none.
    pub definition: Option<&'a Definition>,
    /// What identifies it.
    pub text: &'a str,
}

impl Generation<'_> {
    /// The locks, in their order: the fold's, and the table's where writers of another definition may be under way.
    pub fn locks(&self, schema: &Schema, has_writers: bool) -> [String; 2] {
        // So that no writer is between a statement of the old definition and its commit.
        let table = self.watch.source.relation().filter(|_| has_writers);
        let table = table.map(|relation| format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE;\n", relation.quoted()));
        [format!("SELECT pg_advisory_xact_lock({});\n", Lock::Fold.sql(schema)), table.unwrap_or_default()]
    }

    /// Whether anybody is told of changes.
    fn tells_changes(&self) -> bool {
        self.definition.is_some_and(|definition| definition.changes.is_some())
    }

    /// The watch's row. Of a watch that is known, `conflict` says so; of former generations, `told` have nothing left to tell.
    pub fn row(&self, schema: &Schema, conflict: bool, told: &[i32]) -> String {
        let Generation { id, number, watch, definition, text } = self;
        let array = |items: &[String]| {
            format!("ARRAY[{}]::text[]", items.iter().map(|item| literal(item)).collect::<Vec<_>>().join(", "))
        };
        let relation = watch.source.relation().map_or("NULL".to_owned(), |relation| literal(&relation.quoted()));
        let types: Vec<String> = definition.iter().flat_map(|definition| &definition.types).map(u32::to_string).collect();
        // (What is configured is put in as it is: nothing in it is taken for our schema's name.)
        let own = schema.name();
        let mut sql = self.rename_for_older_programs(own);
        sql.push_str(&format!(
            "INSERT INTO {own}.watch AS w (id, name, source, relation, key_columns, definition, generation, policy, events, key_types)\n\
             VALUES ({id}, {name}, {kind}, {relation}, {keys}, {text}, {number}, '', {events}, '{{{types}}}')",
            name = literal(&watch.name),
            kind = literal(watch.source.kind()),
            keys = array(watch.key()),
            text = literal(text),
            events = array(&definition.map(Definition::events).unwrap_or_default()),
            types = types.join(", "),
        ));
        if conflict {
            // A printed script that is run again comes with a number of before.
            let told = told.iter().chain([number]).map(i32::to_string).collect::<Vec<_>>().join(", ");
            let former = if self.tells_changes() {
                format!(
                    "ARRAY(SELECT unnest(w.generation || w.former) EXCEPT SELECT unnest('{{{told}}}'::integer[]) ORDER BY 1 DESC)"
                )
            } else {
                // Nobody is to be told: they are deleted unread, by folds and by the housekeeping.
                "'{}'".to_owned()
            };
            sql.push_str(&format!(
                "\nON CONFLICT (name) DO UPDATE SET source = excluded.source, relation = excluded.relation, key_columns = excluded.key_columns,\n\
                 \x20   key_types = excluded.key_types, definition = excluded.definition, generation = excluded.generation,\n\
                 \x20   former = {former},\n\
                 \x20   events = ARRAY(SELECT DISTINCT unnest(w.events || excluded.events)), installed_at = clock_timestamp()\n\
                 \x20   WHERE w.definition <> excluded.definition"
            ));
        }
        sql.push_str(";\n");
        sql
    }

    /// A daemon of a version that knows no former generations would delete their changes. It may still be up during an upgrade:
    /// as long as it is known, they become this generation's, row by row, and writers wait for that.
    fn rename_for_older_programs(&self, own: &str) -> String {
        let Generation { id, number, text, .. } = self;
        if !self.tells_changes() {
            return String::new();
        }
        format!(
            "UPDATE {own}.change AS c SET generation = {number} FROM {own}.watch AS w\n\
             WHERE w.id = {id} AND w.definition <> {text} AND c.generation = ANY (w.generation || w.former)\n\
             \x20   AND EXISTS (SELECT FROM {own}.instance WHERE schema_version < 7);\n",
            text = literal(text),
        )
    }

    /// That it is to be counted; and that a whole table has a reading even when it has no rows: none left is what low stock is
    /// about.
    pub fn marks(&self, schema: &Schema) -> String {
        let Generation { id, watch, definition, .. } = self;
        if !definition.is_some_and(|definition| definition.counts) {
            // What it counted before is over.
            let over = format!("DELETE FROM items_listen.marker WHERE watch = {id};\n");
            return if definition.is_none() { schema.sql(&over) } else { String::new() };
        }
        let mut sql = format!("INSERT INTO items_listen.marker (watch, reason) VALUES ({id}, 'install');\n");
        if watch.key().is_empty() && !watch.measure.is_value() {
            sql.push_str(&format!(
                "INSERT INTO items_listen.count (watch, key, rows, dirty) VALUES ({id}, '[]', 0, 1)\n\
                 ON CONFLICT (watch, key) DO UPDATE SET dirty = greatest(items_listen.count.dirty, 1);\n"
            ));
        }
        schema.sql(&sql)
    }

    /// The functions that the triggers call.
    pub fn functions(&self, schema: &Schema) -> String {
        self.definition.map(|definition| trigger::functions(schema, self.id, self.number, definition)).unwrap_or_default()
    }
}

/// Puts a definition in place that is new, or another than the installed one. The caller holds the install lock.
///
/// # Errors
/// A lock that was not to be had, or a missing privilege.
pub(super) async fn begin(
    client: &Client,
    schema: &Schema,
    watch: &Watch,
    definition: Option<&Definition>,
    text: &str,
    before: Option<i32>,
) -> Result<Installed, Error> {
    let relation = watch.source.relation().map(Relation::quoted);
    let mut patience = Patience::new(schema, relation.as_deref());
    let mut before = before;
    loop {
        match try_to_begin(client, schema, watch, definition, text, before).await {
            // Somebody has noted meanwhile why it is not installed: that made a row of its name.
            Err(error) if before.is_none() && error.sqlstate() == Some(SqlState::UNIQUE_VIOLATION.code()) => {
                before = install::find(client, schema, &watch.name).await?.map(|(installed, _)| installed.id);
                if before.is_none() {
                    return Err(error);
                }
            }
            Err(error) => patience.after(client, error).await?,
            Ok(installed) => {
                tracing::info!(watch = watch.name, generation = installed.generation, "definition installed");
                return Ok(installed);
            }
        }
    }
}

async fn try_to_begin(
    client: &Client,
    schema: &Schema,
    watch: &Watch,
    definition: Option<&Definition>,
    text: &str,
    before: Option<i32>,
) -> Result<Installed, Error> {
    let numbers = schema.sql(
        "SELECT coalesce($1::int, nextval('items_listen.watch_id')::int), nextval('items_listen.generation')::int,
                current_setting('lock_timeout')",
    );
    let row = client.query_one(numbers.as_str(), &[&before]).await?;
    let (id, number, lock_timeout): (i32, i32, String) = (row.get(0), row.get(1), row.get(2));
    let told = match before {
        Some(_) => all_told(client, schema, id).await?,
        None => Vec::new(),
    };
    let generation = Generation { id, number, watch, definition, text };
    // Without triggers there is no writer of an old generation whose end must be waited for.
    let [fold, table] = generation.locks(schema, before.is_some());
    let transaction = format!(
        "BEGIN;\nSET LOCAL lock_timeout = '{FOLD_LOCK_TIMEOUT}';\n{fold}SET LOCAL lock_timeout = '{lock_timeout}';\n{table}{}{}{}COMMIT",
        generation.row(schema, before.is_some(), &told),
        generation.marks(schema),
        generation.functions(schema),
    );
    if let Err(error) = client.batch_execute(&transaction).await {
        // What the error says is what counts; where the session is lost, so is the transaction.
        let _back = client.batch_execute("ROLLBACK").await;
        return Err(error.into());
    }
    Ok(Installed { id, generation: number })
}

/// The former generations of a watch that have nothing left to tell. Nobody writes rows of these any more, so that it stays so.
async fn all_told(client: &Client, schema: &Schema, id: i32) -> Result<Vec<i32>, Error> {
    let sql = schema.sql(
        "SELECT f.generation FROM items_listen.watch w, unnest(w.former) AS f (generation)
         WHERE w.id = $1 AND NOT EXISTS (SELECT FROM items_listen.change c WHERE c.generation = f.generation)",
    );
    Ok(client.query(sql.as_str(), &[&id]).await?.iter().map(|row| row.get(0)).collect())
}
