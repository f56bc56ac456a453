//! Columns of a table or a query: their types, and what can be made of them.

use tokio_postgres::Client;
use tokio_postgres::error::{Error, SqlState};

use crate::db::quote;
use crate::watch::KEY_BYTES_MAX;

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub type_oid: u32,
    /// The name of its type; of a domain's, that on which the domain is based.
    pub type_name: String,
}

impl Column {
    /// An expression for this column's part of a key, as JSON text that depends on no setting of the writer's: what
    /// `jsonb_build_array` would say of it, for less.
    ///
    /// # Errors
    /// Its type cannot be part of a key.
    pub fn key_part(&self) -> Result<String, String> {
        let quoted = quote(&self.name);
        let value = match self.type_name.as_str() {
            "smallint" | "integer" | "bigint" | "boolean" | "uuid" | "date" | "text" | "character varying" | "character" => {
                quoted
            }
            "numeric" => format!("trim_scale({quoted})::text"),
            "timestamp with time zone" => format!("(to_jsonb({quoted} AT TIME ZONE 'UTC') #>> '{{}}') || 'Z'"),
            other => {
                return Err(format!(
                    "key: the column \"{}\" is of type {other}, whose text can depend on a session's settings; \
                     a key may be text, an integer, numeric, uuid, boolean, date or timestamp with time zone",
                    self.name
                ));
            }
        };
        // Of whatever type the column is when a statement runs, which may be another than it was when this was written.
        Ok(format!("coalesce(to_json({value})::text, 'null')"))
    }

    /// Whether its values are compared by a collation.
    pub fn is_text(&self) -> bool {
        matches!(self.type_name.as_str(), "text" | "character varying" | "character")
    }

    /// Whether its values have no bound that is short: those of numeric may have thousands of digits.
    fn may_be_long(&self) -> bool {
        self.is_text() || self.type_name == "numeric"
    }

    /// Whether it may hold a threshold.
    pub fn is_whole_number(&self) -> bool {
        matches!(self.type_name.as_str(), "smallint" | "integer" | "bigint" | "numeric")
    }
}

/// The key of one row, from its columns' expressions.
pub fn key_text(parts: &[String]) -> String {
    if parts.is_empty() {
        return "'[]'::text".to_owned();
    }
    format!("concat('[', {}, ']')", parts.join(", ', ', "))
}

/// The key's columns as they can be grouped by, and their names: texts that a collation takes for the same are two keys.
pub fn grouping(columns: &[Column], key: &[String]) -> Vec<(String, String)> {
    let is_text = |name: &String| columns.iter().any(|column| column.name == *name && column.is_text());
    let group = |name: &String| match is_text(name) {
        true => (format!("{} COLLATE \"C\"", quote(name)), quote(name)),
        false => (quote(name), quote(name)),
    };
    key.iter().map(group).collect()
}

/// What a row is called where a person's SQL stands beside ours: nothing of theirs is called so.
pub const ROW: &str = "items_listen_row";

/// What the text of a key begins with that was too long, and became its hash.
const HASHED: &str = "long:sha256:";
/// With more columns a key may be long though each of them is short.
const SHORT_COLUMNS_MAX: usize = 32;

/// The key as it is stored, from `r.key`: a long one, which could not be indexed, becomes its hash. So does one that looks
/// like a hash, or a row's value could be taken for another's.
pub fn stored_key(columns: &[Column], key: &[String]) -> String {
    let may_be_long = columns.iter().any(|column| key.contains(&column.name) && column.may_be_long());
    if !may_be_long && key.len() <= SHORT_COLUMNS_MAX {
        return "r.key".to_owned();
    }
    format!(
        "CASE WHEN octet_length(r.key) <= {KEY_BYTES_MAX} AND NOT starts_with(r.key, '[\"{HASHED}') THEN r.key \
         ELSE concat('[\"{HASHED}', encode(sha256(convert_to(r.key, 'UTF8')), 'hex'), '\"]') END"
    )
}

/// What a threshold column says of one row: a fraction is rounded down, and what is no number is none.
pub fn threshold(column: &str) -> String {
    let column = quote(column);
    format!(
        "CASE WHEN {ROW}.{column} BETWEEN -9223372036854775808 AND 9223372036854775807 THEN floor({ROW}.{column}::numeric)::bigint END"
    )
}

/// Something that is summed up, or is a level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The expression, as configured.
    pub expression: String,
    /// It gives whole numbers, whatever the row.
    pub is_integer: bool,
}

impl Measured {
    /// An expression that gives this type.
    ///
    /// # Errors
    /// It is no number that can be summed up exactly.
    pub fn of(expression: &str, type_name: &str) -> Result<Measured, String> {
        let is_integer = match type_name {
            "smallint" | "integer" | "bigint" => true,
            "numeric" => false,
            other => {
                return Err(format!(
                    "the expression is of type {other}; an integer or numeric is wanted, such as floor(x)::bigint: floating point \
                     numbers do not add up exactly"
                ));
            }
        };
        Ok(Measured { expression: expression.to_owned(), is_integer })
    }

    /// As a whole number of one row; a fraction is an error.
    pub fn sql(&self, schema: &crate::db::schema::Schema) -> String {
        // On lines of its own, so that a comment at the end of the expression ends there.
        let number = format!("(\n{}\n)::numeric", self.expression);
        if self.is_integer {
            return number;
        }
        format!(
            "(SELECT CASE WHEN m = trunc(m) AND abs(m) < 1e30 THEN m ELSE {}.not_whole(m) END \
             FROM (SELECT {number} AS m) AS measured)",
            schema.name()
        )
    }
}

/// The columns of a table.
///
/// # Errors
/// The database cannot be asked.
pub async fn of_table(client: &Client, oid: u32) -> Result<Vec<Column>, Error> {
    let sql = "SELECT attname::text, atttypid FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let rows = client.query(sql, &[&oid]).await?;
    named(client, rows.iter().map(|row| (row.get(0), row.get(1))).collect()).await
}

/// The columns of a query.
///
/// # Errors
/// What PostgreSQL says about the query.
pub async fn of_query(client: &Client, sql: &str) -> Result<Vec<Column>, Error> {
    let statement = client.prepare(&format!("SELECT * FROM (\n{sql}\n) AS {ROW}")).await?;
    named(client, statement.columns().iter().map(|column| (column.name().to_owned(), column.type_().oid())).collect()).await
}

/// Refuses what is no expression by itself, such as `true) OR (true` or a second statement after a semicolon: it is put into
/// statements of ours, between brackets that it must not close.
///
/// # Errors
/// What PostgreSQL says about it.
pub async fn stands_alone(client: &Client, expression: &str, from: &str) -> Result<(), Error> {
    // One that closes a bracket of the one kind leaves a bracket of the other kind open.
    for sql in [format!("SELECT (\n{expression}\n) FROM {from}"), format!("SELECT ARRAY[\n{expression}\n] FROM {from}")] {
        match client.prepare(&sql).await {
            // Understood, but not allowed, as under row level security: that is said by whoever reads the rows.
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => return Ok(()),
            prepared => drop(prepared?),
        }
    }
    Ok(())
}

/// The type of an expression over what the FROM clause gives.
///
/// # Errors
/// What PostgreSQL says about it.
pub async fn type_of(client: &Client, expression: &str, from: &str) -> Result<String, Error> {
    let statement = client.prepare(&format!("SELECT (\n{expression}\n) FROM {from}")).await?;
    stands_alone(client, expression, from).await?;
    let oid = statement.columns().first().map_or(0, |column| column.type_().oid());
    Ok(named(client, vec![(String::new(), oid)]).await?.pop().map(|column| column.type_name).unwrap_or_default())
}

async fn named(client: &Client, columns: Vec<(String, u32)>) -> Result<Vec<Column>, Error> {
    let sql = "WITH RECURSIVE base (oid, typ) AS (
                   SELECT o, o FROM unnest($1::oid[]) AS o
                   UNION
                   SELECT b.oid, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.typ WHERE t.typtype = 'd')
               SELECT b.oid, format_type(t.oid, NULL) FROM base b JOIN pg_type t ON t.oid = b.typ WHERE t.typtype <> 'd'";
    let oids: Vec<u32> = columns.iter().map(|(_, oid)| *oid).collect();
    let rows = client.query(sql, &[&oids]).await?;
    let name_of = |oid: u32| rows.iter().find(|row| row.get::<_, u32>(0) == oid).map(|row| row.get(1)).unwrap_or_default();
    Ok(columns.into_iter().map(|(name, type_oid)| Column { name, type_oid, type_name: name_of(type_oid) }).collect())
}

/// The columns of a table's primary key, in its order; none where it has none.
///
/// # Errors
/// The database cannot be asked.
pub async fn primary_key(client: &Client, oid: u32) -> Result<Vec<String>, Error> {
    let sql =
        "SELECT a.attname::text FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, ord), pg_attribute a
               WHERE i.indrelid = $1 AND i.indisprimary AND a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.ord";
    Ok(client.query(sql, &[&oid]).await?.iter().map(|row| row.get(0)).collect())
}

/// Whether rows are told apart by these columns: a unique index on some or all of them, none of which may be NULL.
///
/// # Errors
/// The database cannot be asked.
pub async fn is_unique(client: &Client, oid: u32, columns: &[String]) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (
                   SELECT FROM pg_index i
                   WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
                     AND NOT EXISTS (
                         SELECT FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, ord)
                         LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                         WHERE k.ord <= i.indnkeyatts
                           AND (a.attnum IS NULL OR a.attnum <= 0 OR NOT a.attnotnull OR a.attname::text <> ALL ($2))))";
    Ok(client.query_one(sql, &[&oid, &columns]).await?.get(0))
}
