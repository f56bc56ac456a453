//! What SQL that a person wrote touches: the relations and columns of a query or a lookup, and the functions that are not
//! PostgreSQL's own. PostgreSQL itself says so: it notes of a view, and of an index, what they depend on. Both are made in a
//! transaction that is rolled back.
//!
//! What stands inside of a function, or of a view, is not seen: a view reads with its owner's rights, a function is called
//! with those of whoever asks.

use tokio_postgres::{Client, Row};

use super::definition::Definition;
use super::guard;
use crate::db::quote;
use crate::db::schema::Schema;
use crate::error::Error;
use crate::source::sweep::USER_PATH;

/// Something that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Its schema, quoted; `None` where everybody may use it.
    pub schema: Option<String>,
    /// Its name, with the schema, quoted.
    pub relation: String,
    /// The columns, quoted; none: all of it.
    pub columns: Vec<String>,
}

impl Read {
    /// `SELECT`, or `SELECT ("id", "name")`.
    pub fn select(&self) -> String {
        if self.columns.is_empty() { "SELECT".to_owned() } else { format!("SELECT ({})", self.columns.join(", ")) }
    }
}

/// A function that is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// Its schema, quoted; `None` where everybody may use it.
    pub schema: Option<String>,
    /// Its name with the types of its arguments.
    pub signature: String,
    /// Whose it is: that role may put another in its place.
    pub owner: String,
    /// Its owner is a superuser, who may do everything anyway.
    pub by_superuser: bool,
    /// Everybody may call it.
    pub for_everybody: bool,
}

/// What a question touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// What it reads, but for what everybody may read.
    pub reads: Vec<Read>,
    /// What it calls.
    pub calls: Vec<Called>,
}

const CALLED: &str = "
    SELECT DISTINCT CASE WHEN NOT has_schema_privilege('public', n.oid, 'USAGE') THEN n.nspname::text END,
           p.oid::regprocedure::text, o.rolname::text, o.rolsuper, has_function_privilege('public', p.oid, 'EXECUTE')
    FROM (SELECT d.refobjid AS oid FROM used d WHERE d.refclassid = 'pg_proc'::regclass
          UNION SELECT o.oprcode FROM used d JOIN pg_operator o ON o.oid = d.refobjid WHERE d.refclassid = 'pg_operator'::regclass) AS f
    JOIN pg_proc p ON p.oid = f.oid JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_roles o ON o.oid = p.proowner
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
    ORDER BY 2";

/// What a query or a lookup touches.
///
/// # Errors
/// It cannot be understood, or this role may not make a temporary view.
pub async fn of_question(client: &Client, question: &str) -> Result<Touched, Error> {
    client.batch_execute(&format!("BEGIN; {}", USER_PATH.replace("SET ", "SET LOCAL "))).await?;
    let touched = question_touches(client, question).await;
    client.batch_execute("ROLLBACK").await?;
    touched
}

async fn question_touches(client: &Client, question: &str) -> Result<Touched, Error> {
    let prepared = client.prepare(question).await?;
    let mut text = question.to_owned();
    // The highest first: $1 is the beginning of $10.
    for (index, kind) in prepared.params().iter().enumerate().rev() {
        let kind: String = client.query_one("SELECT format_type($1, NULL)", &[&kind.oid()]).await?.get(0);
        text = text.replace(&format!("${}", index + 1), &format!("NULL::{kind}"));
    }
    client
        .batch_execute(&format!("CREATE TEMP VIEW items_listen_reads AS SELECT 1 AS one FROM (\n{text}\n) AS question"))
        .await?;
    let view = "pg_temp.items_listen_reads";
    let used = format!(
        "WITH used AS MATERIALIZED (
             SELECT DISTINCT d.refclassid, d.refobjid, d.refobjsubid FROM pg_depend d
             JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
             WHERE r.ev_class = '{view}'::regclass AND NOT (d.refclassid = 'pg_class'::regclass AND d.refobjid = r.ev_class))"
    );
    // A row as a whole is all of its columns, which nothing is noted of.
    let sql = format!(
        "{used}
         SELECT CASE WHEN NOT has_schema_privilege('public', n.oid, 'USAGE') THEN n.nspname::text END, n.nspname::text, c.relname::text,
                CASE WHEN pg_get_viewdef('{view}'::regclass) LIKE '%.*%' THEN '{{}}'
                     ELSE coalesce(array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attnum > 0), '{{}}') END
         FROM used d JOIN pg_class c ON c.oid = d.refobjid JOIN pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
         WHERE d.refclassid = 'pg_class'::regclass AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
           AND NOT has_table_privilege('public', c.oid, 'SELECT')
         GROUP BY n.oid, n.nspname, c.relname ORDER BY 2, 3"
    );
    let rows = client.query(sql.as_str(), &[]).await?;
    let quoted = |names: Vec<String>| names.iter().map(|name| quote(name)).collect();
    let reads = rows.iter().map(|row| Read {
        schema: row.get::<_, Option<String>>(0).as_deref().map(quote),
        relation: format!("{}.{}", quote(row.get(1)), quote(row.get(2))),
        columns: quoted(row.get(3)),
    });
    let reads = reads.collect();
    let rows = client.query(format!("{used}{CALLED}").as_str(), &[]).await?;
    Ok(Touched { reads, calls: rows.iter().map(called).collect() })
}

fn called(row: &Row) -> Called {
    Called {
        schema: row.get::<_, Option<String>>(0).as_deref().map(quote),
        signature: row.get(1),
        owner: row.get(2),
        by_superuser: row.get(3),
        for_everybody: row.get(4),
    }
}

/// The functions that `where`, `sum` and `value` of a table watch call, be it through operators or casts. Each runs in the
/// writer's statement, with the rights of our schema's owner, and in a recount, with the daemon's.
///
/// # Errors
/// The expressions are not right, or this role may not make a temporary table.
pub async fn of_definition(client: &Client, schema: &Schema, definition: &Definition) -> Result<Vec<Called>, Error> {
    if !definition.is_conditional() && definition.measure.is_none() {
        return Ok(Vec::new());
    }
    let measure = definition.measure.as_ref().map_or("1", |measure| measure.expression.as_str());
    let copy = format!("BEGIN; CREATE TEMP TABLE items_listen_calls (LIKE {}) ON COMMIT DROP", definition.relation);
    let make = format!(
        "CREATE INDEX items_listen_calls_index ON pg_temp.items_listen_calls ((\n{measure}\n)) WHERE {}",
        definition.condition
    );
    let sql = format!(
        "WITH used AS MATERIALIZED (
             SELECT DISTINCT d.refclassid, d.refobjid FROM pg_depend d
             WHERE d.classid = 'pg_class'::regclass AND d.objid = 'pg_temp.items_listen_calls_index'::regclass){CALLED}"
    );
    let called_there = async {
        client.batch_execute(&copy).await?;
        guard::refuse_copy(client, schema, "pg_temp.items_listen_calls", &definition.guarded).await?;
        client.batch_execute(&make).await?;
        Ok::<_, Error>(client.query(sql.as_str(), &[]).await?)
    };
    let rows = called_there.await;
    client.batch_execute("ROLLBACK").await?;
    Ok(rows?.iter().map(called).collect())
}
