//! Which privileges are missing, each with the GRANT to run.

use tokio_postgres::Client;

use super::database::Place;
use super::finding::{Findings, Id};
use crate::config::Install;
use crate::db::quote;
use crate::db::session::Purpose;
use crate::error::Error;
use crate::journal::reads;
use crate::watch::{Relation, Watch};

/// What a person wrote is only planned, not run.
const PLANNED_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// What this role may do to a table.
pub(super) struct Rights {
    /// The table can be looked at: what follows needs that.
    pub(super) readable: bool,
    /// It belongs to this role, or to one whose member it is.
    pub(super) owns: bool,
    /// The table and its partitions, quoted.
    pub(super) tree: Vec<String>,
    /// How many rows there are, as far as PostgreSQL remembers.
    pub(super) rows: i64,
}

/// Looks at a watched table and its partitions; `None` where there is no such table.
pub(super) async fn of_table(
    client: &Client,
    place: &Place<'_>,
    watch: &Watch,
    relation: &Relation,
    findings: &mut Findings,
) -> Result<Option<Rights>, Error> {
    // By its name in the catalogs: whoever may not use the table's schema may look there all the same.
    let sql = "WITH RECURSIVE tree (relid, depth) AS (
                   SELECT c.oid, 0 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2
                   UNION
                   SELECT i.inhrelid, t.depth + 1 FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid WHERE NOT i.inhdetachpending)
               SELECT n.nspname::text, c.relname::text, has_table_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'TRIGGER'),
                      has_schema_privilege(n.oid, 'USAGE'), pg_has_role(c.relowner, 'USAGE'), row_security_active(c.oid),
                      greatest(c.reltuples, 0)::bigint
               FROM tree t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
               ORDER BY t.depth, 1, 2";
    let rows = client.query(sql, &[&relation.schema, &relation.name]).await?;
    let Some(root) = rows.first() else { return Ok(None) };
    let subject = format!("watch {}", watch.name);
    let role = quote(&place.role);
    let name = |row: &tokio_postgres::Row| format!("{}.{}", quote(row.get(0)), quote(row.get(1)));
    let mut schemas: Vec<String> = rows.iter().filter(|row| !row.get::<_, bool>(4)).map(|row| quote(row.get(0))).collect();
    schemas.dedup();
    for schema in &schemas {
        missing(
            findings,
            &subject,
            "USAGE",
            &format!("the schema {schema}"),
            format!("GRANT USAGE ON SCHEMA {schema} TO {role};"),
        );
    }
    if !root.get::<_, bool>(2) {
        let grant = format!("GRANT SELECT ON {} TO {role};", name(root));
        missing(findings, &subject, "SELECT", &relation.to_string(), grant);
    }
    let untriggered: Vec<String> = rows.iter().filter(|row| !row.get::<_, bool>(3)).map(name).collect();
    if !untriggered.is_empty() && place.database.install == Install::Auto {
        let on = untriggered.join(", ");
        missing(findings, &subject, "TRIGGER", &on.replace('"', ""), format!("GRANT TRIGGER ON {on} TO {role};"));
    }
    if root.get(6) {
        findings.error(
            Id::RowSecurity,
            &subject,
            format!("row level security hides rows of {relation} from {}: they could not be counted", place.role),
            format!(
                "ALTER ROLE {role} BYPASSRLS; which a superuser may say, or watch a view of the table's owner by query (docs/privileges.md)"
            ),
        );
    }
    Ok(Some(Rights {
        readable: root.get::<_, bool>(2) && schemas.is_empty() && !root.get::<_, bool>(6),
        owns: root.get(5),
        tree: rows.iter().map(name).collect(),
        rows: rows.iter().map(|row| row.get::<_, i64>(7)).sum(),
    }))
}

fn missing(findings: &mut Findings, subject: &str, privilege: &str, on: &str, grant: String) {
    findings.error(Id::Privileges, subject, format!("{privilege} on {on} is missing"), grant);
}

/// Whether temporary tables can be made, which proving an expression and counting anew need.
pub(super) async fn of_temporary(client: &Client, place: &Place<'_>, findings: &mut Findings) -> Result<bool, Error> {
    let sql = "SELECT has_database_privilege(current_database(), 'TEMPORARY'), current_database()::text";
    let row = client.query_one(sql, &[]).await?;
    if !row.get::<_, bool>(0) {
        let (database, role) = (quote(&row.get::<_, String>(1)), quote(&place.role));
        let grant = format!("GRANT TEMPORARY ON DATABASE {database} TO {role};");
        missing(findings, "database", "TEMPORARY", &format!("the database {database}"), grant);
    }
    Ok(row.get(0))
}

/// Whether a query or a lookup (as it is configured, and as it is asked) may read what it reads: it is planned, not run. True where nothing is missing, or where it
/// is wrong in another way, which is said elsewhere.
pub(super) async fn of_question(
    place: &Place<'_>,
    subject: &str,
    what: &str,
    (asked, question): (&str, &str),
    parameters: usize,
    findings: &mut Findings,
) -> Result<bool, Error> {
    let client = place.connector.session(Purpose::Read { at_most: PLANNED_WITHIN }).await?;
    let nulls = vec!["NULL"; parameters].join(", ");
    let arguments = if parameters == 0 { String::new() } else { format!("({nulls})") };
    let plan = format!("PREPARE items_listen_check AS {question}\n");
    // One statement, whatever a person wrote: the server takes no second one this way.
    let planned = match client.execute(plan.as_str(), &[]).await {
        Ok(_) => client.batch_execute(&format!("EXPLAIN EXECUTE items_listen_check{arguments}")).await,
        Err(error) => Err(error),
    };
    let Err(error) = planned.map_err(Error::from) else { return Ok(true) };
    if error.sqlstate() != Some("42501") {
        return Ok(true);
    }
    let grant = match columns_for(place, asked, &error).await {
        Some(grant) => grant,
        None => grant_for(&client, place, &error).await?,
    };
    findings.error(Id::Privileges, subject, format!("{what}: {error}"), grant);
    Ok(false)
}

/// The GRANT of the columns that a question names, where it is a table that was denied, and PostgreSQL can tell them.
async fn columns_for(place: &Place<'_>, asked: &str, error: &Error) -> Option<String> {
    let (_, name) = denied(&error.to_string())?;
    let client = place.connector.session(Purpose::Install).await.ok()?;
    let touched = reads::of_question(&client, asked).await.ok()?;
    let read = touched.reads.iter().find(|read| read.relation.ends_with(&format!(".{}", quote(&name))))?;
    Some(format!("GRANT {} ON {} TO {};", read.select(), read.relation, quote(&place.role)))
}

/// The GRANT for what was denied. PostgreSQL names it in its message alone, which may be translated: then in words.
pub(super) async fn grant_for(client: &Client, place: &Place<'_>, error: &Error) -> Result<String, Error> {
    let role = quote(&place.role);
    let Some((kind, name)) = denied(&error.to_string()) else {
        return Ok(format!("GRANT SELECT ON what it reads TO {role}; and USAGE on the schemas of that"));
    };
    match kind.as_str() {
        "schema" => return Ok(format!("GRANT USAGE ON SCHEMA {} TO {role};", quote(&name))),
        "function" => {
            let sql = "SELECT p.oid::regprocedure::text FROM pg_proc p
                       WHERE p.proname = $1 AND NOT has_function_privilege(p.oid, 'EXECUTE') ORDER BY p.oid LIMIT 1";
            let signature = client.query_opt(sql, &[&name]).await?.map(|row| row.get::<_, String>(0));
            return Ok(format!("GRANT EXECUTE ON FUNCTION {} TO {role};", signature.unwrap_or_else(|| quote(&name))));
        }
        _ => {}
    }
    let sql = "SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT has_table_privilege(c.oid, 'SELECT')
               ORDER BY pg_table_is_visible(c.oid) DESC LIMIT 1";
    let schema = client.query_opt(sql, &[&name]).await?.map(|row| row.get::<_, String>(0));
    let qualified = schema.map_or_else(|| quote(&name), |schema| format!("{}.{}", quote(&schema), quote(&name)));
    Ok(format!("GRANT SELECT ON {qualified} TO {role};"))
}

/// The kind and name of "permission denied for KIND NAME (SQLSTATE …)".
fn denied(message: &str) -> Option<(String, String)> {
    let rest = message.split("permission denied for ").nth(1)?;
    let rest = rest.split(" (SQLSTATE").next()?.trim();
    let kinds = ["materialized view", "foreign table", "table", "view", "schema", "function", "sequence"];
    let kind = kinds.into_iter().find(|kind| rest.starts_with(&format!("{kind} ")))?;
    Some((kind.to_owned(), rest[kind.len() + 1..].to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_denied_is_read_from_the_message() {
        let of = |text| denied(text).map(|(kind, name)| format!("{kind}/{name}"));
        assert_eq!(of("permission denied for table items (SQLSTATE 42501)").as_deref(), Some("table/items"));
        assert_eq!(of("permission denied for materialized view a b (SQLSTATE 42501)").as_deref(), Some("materialized view/a b"));
        assert_eq!(of("keine Berechtigung"), None);
    }
}
