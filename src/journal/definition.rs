//! What the triggers of a table watch are generated from: its relation, condition and key in SQL.

use tokio_postgres::Client;

use crate::db::quote;
use crate::error::Error;
use crate::watch::{KEY_BYTES_MAX, Relation};

/// The SQL of a table watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The table, quoted.
    pub relation: String,
    /// The condition on a row; `true` where there is none.
    pub condition: String,
    /// The key of one row, as text.
    pub parts: String,
    /// The key as it is stored: a long one becomes its hash.
    pub key: String,
    /// Whether an UPDATE can change a count at all.
    pub update: bool,
    /// The types of the key's columns: another type may give another text, and so is another generation.
    pub types: Vec<u32>,
}

/// A kind of relation whose statement triggers see their rows.
const WATCHABLE: [&str; 2] = ["r", "p"];

impl Definition {
    /// Looks the table up and builds the SQL.
    ///
    /// # Errors
    /// A table or column that does not exist, or whose type cannot be a key: each with what to do.
    pub async fn of(client: &Client, relation: &Relation, condition: Option<&str>, key: &[String]) -> Result<Definition, Error> {
        let quoted = relation.quoted();
        let kind = "SELECT c.oid, c.relkind::text FROM pg_class c WHERE c.oid = to_regclass($1)";
        let Some(row) = client.query_opt(kind, &[&quoted]).await? else {
            return Err(Error::Failed(format!("the table {relation} does not exist, or this role may not see its schema")));
        };
        let (oid, kind): (u32, String) = (row.get(0), row.get(1));
        if !WATCHABLE.contains(&kind.as_str()) {
            let what = match kind.as_str() {
                "v" => "a view: watch the table behind it",
                "m" => "a materialized view, on which no trigger fires",
                "f" => "a foreign table, whose triggers see no rows",
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
        let mut parts = Vec::with_capacity(key.len());
        let mut types = Vec::with_capacity(key.len());
        let mut has_text = false;
        for column in key {
            let part = part(client, oid, relation, column).await?;
            parts.push(part.sql);
            types.push(part.type_oid);
            has_text |= part.is_text;
        }
        Ok(Definition {
            relation: quoted,
            // On lines of its own, so that a comment at the end of the condition ends there.
            condition: condition.map_or_else(|| "true".to_owned(), |condition| format!("(\n{condition}\n)")),
            parts: if parts.is_empty() {
                "'[]'::text".to_owned()
            } else {
                format!("jsonb_build_array({})::text", parts.join(", "))
            },
            key: if has_text { hashed_if_long() } else { "r.key".to_owned() },
            update: condition.is_some() || !key.is_empty(),
            types,
        })
    }

    /// The text that identifies the generation: another text is another generation.
    pub fn text(&self) -> String {
        let templates = crate::watch::short_hash(super::trigger::TEMPLATE);
        format!("{} / {} / {} / {} / {:?} / {templates}", self.relation, self.condition, self.parts, self.key, self.types)
    }

    /// The events that need a trigger.
    pub fn events(&self) -> Vec<String> {
        let events = ["insert", "delete", "update", "truncate"];
        events.into_iter().filter(|&event| self.update || event != "update").map(str::to_owned).collect()
    }

    /// Proves that the condition is immutable, by using it as an index predicate on an empty copy that
    /// is rolled back: `expires_at < now()` would drift for ever, since no statement runs when it turns.
    ///
    /// # Errors
    /// What PostgreSQL says about it.
    pub async fn prove_immutable(&self, client: &mut Client) -> Result<(), Error> {
        if self.condition == "true" {
            return Ok(());
        }
        let transaction = client.transaction().await?;
        transaction
            .batch_execute(&format!("CREATE TEMP TABLE items_listen_proof (LIKE {}) ON COMMIT DROP", self.relation))
            .await?;
        let index = format!("CREATE INDEX ON pg_temp.items_listen_proof ((1)) WHERE {}", self.condition);
        let proven = transaction.batch_execute(&index).await;
        transaction.rollback().await?;
        proven.map_err(|error| {
            let said = Error::from(error);
            Error::Failed(format!(
                "where: {said}; a condition may use the row's own columns and immutable functions only (with their schema, \
                 unless they are PostgreSQL's own), since nothing tells us when now() makes it true"
            ))
        })
    }
}

/// One column of a key.
struct Part {
    /// An expression whose text depends on no setting of the writer's.
    sql: String,
    /// It may be long.
    is_text: bool,
    type_oid: u32,
}

async fn part(client: &Client, oid: u32, relation: &Relation, column: &str) -> Result<Part, Error> {
    let sql = "WITH RECURSIVE base (typ) AS (
                   SELECT atttypid FROM pg_attribute
                   WHERE attrelid = $1 AND attname = $2 AND attnum > 0 AND NOT attisdropped
                   UNION ALL
                   SELECT t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.typ WHERE t.typtype = 'd')
               SELECT format_type(t.oid, NULL),
                      (SELECT atttypid FROM pg_attribute WHERE attrelid = $1 AND attname = $2)
               FROM base b JOIN pg_type t ON t.oid = b.typ WHERE t.typtype <> 'd'";
    let Some(row) = client.query_opt(sql, &[&oid, &column]).await? else {
        return Err(Error::Failed(format!("key: the table {relation} has no column \"{column}\"")));
    };
    let kind: String = row.get(0);
    let quoted = quote(column);
    let (sql, is_text) = match kind.as_str() {
        "smallint" | "integer" | "bigint" | "boolean" | "uuid" | "date" => (quoted, false),
        "text" | "character varying" | "character" => (quoted, true),
        "numeric" => (format!("trim_scale({quoted})::text"), false),
        "timestamp with time zone" => (format!("(to_jsonb({quoted} AT TIME ZONE 'UTC') #>> '{{}}') || 'Z'"), false),
        other => {
            return Err(Error::Failed(format!(
                "key: the column \"{column}\" is of type {other}, whose text can depend on a session's settings; \
                 a key may be text, an integer, numeric, uuid, boolean, date or timestamp with time zone"
            )));
        }
    };
    Ok(Part { sql, is_text, type_oid: row.get(1) })
}

fn hashed_if_long() -> String {
    format!(
        "CASE WHEN octet_length(r.key) <= {KEY_BYTES_MAX} THEN r.key \
         ELSE '[\"sha256:' || encode(sha256(convert_to(r.key, 'UTF8')), 'hex') || '\"]' END"
    )
}
