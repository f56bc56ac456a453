//! Who may do more than is needed: this role, everybody else in our schema, and whoever could change what runs as our
//! schema's owner.

use tokio_postgres::Client;

use super::database::Place;
use super::finding::{Findings, Id};
use crate::config::Install;
use crate::db::quote;
use crate::error::Error;
use crate::journal::definition::Definition;
use crate::journal::guard;
use crate::journal::reads::{self, Called};
use crate::watch::Source;

/// Looks at this role, at the functions of our schema, and at what others were granted there.
pub(super) async fn look(client: &Client, place: &Place<'_>, installed: bool, findings: &mut Findings) -> Result<(), Error> {
    of_role(client, place, findings).await?;
    if installed {
        of_functions(client, place, findings).await?;
        of_others(client, place, findings).await?;
    }
    Ok(())
}

const MIGHTY: &str =
    "'pg_read_all_data', 'pg_write_all_data', 'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program'";

/// What this role may do that no daemon needs. A right set-up with one role has some of it, so it needs no hand.
async fn of_role(client: &Client, place: &Place<'_>, findings: &mut Findings) -> Result<(), Error> {
    let sql = format!(
        "SELECT r.rolsuper, r.rolcreaterole, r.rolcreatedb, r.rolreplication, r.rolbypassrls,
                (SELECT array_agg(g.rolname::text ORDER BY 1) FROM pg_roles g WHERE g.rolname IN ({MIGHTY}) AND pg_has_role(g.oid, 'MEMBER')),
                coalesce((SELECT pg_has_role(n.nspowner, 'MEMBER') FROM pg_namespace n WHERE n.nspname = $1), false)
         FROM pg_roles r WHERE r.rolname = current_user"
    );
    let row = client.query_one(sql.as_str(), &[&place.schema.name()]).await?;
    let mut too_much: Vec<String> = Vec::new();
    if row.get(0) {
        too_much.push("it is a superuser".to_owned());
    } else {
        let flags = ["CREATEROLE", "CREATEDB", "REPLICATION"];
        too_much.extend((1..).zip(flags).filter(|(at, _)| row.get::<_, bool>(*at)).map(|(_, flag)| format!("it has {flag}")));
        if row.get(4) && !needs_every_row(client, place).await? {
            too_much.push("it bypasses row level security, and nothing that is watched has any".to_owned());
        }
        let mighty = row.get::<_, Option<Vec<String>>>(5).unwrap_or_default();
        too_much.extend(mighty.iter().map(|role| format!("it is a member of {role}")));
        if place.database.install == Install::Manual {
            if row.get(6) {
                too_much.push(format!("it owns the schema {}, or is a member of who does", place.schema.name()));
            }
            too_much.extend(writable(client, place).await?);
        }
    }
    if !too_much.is_empty() {
        findings.info(
            Id::RoleRights,
            "role",
            format!("{} may do more than a daemon needs: {}", place.role, too_much.join("; ")),
            Some("items-listen install --print --roles makes a role that may not (docs/privileges.md)".to_owned()),
        );
    }
    Ok(())
}

/// Whether something is watched whose rows a policy may hide.
async fn needs_every_row(client: &Client, place: &Place<'_>) -> Result<bool, Error> {
    let asks = |watch: &crate::watch::Watch| watch.lookup.is_some() || matches!(watch.source, Source::Query { .. });
    if place.config.watches.iter().any(|watch| asks(watch)) {
        return Ok(true);
    }
    let sql = "SELECT EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS w (schema, name)
                              JOIN pg_namespace n ON n.nspname = w.schema
                              JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name WHERE c.relrowsecurity)";
    let (schemas, names) = watched(place);
    Ok(client.query_one(sql, &[&schemas, &names]).await?.get(0))
}

fn watched(place: &Place<'_>) -> (Vec<String>, Vec<String>) {
    let relations = place.config.watches.iter().filter_map(|watch| watch.source.relation());
    relations.map(|relation| (relation.schema.clone(), relation.name.clone())).unzip()
}

/// The watched tables that this role may write.
async fn writable(client: &Client, place: &Place<'_>) -> Result<Vec<String>, Error> {
    let sql = "SELECT DISTINCT format('%s.%s', n.nspname, c.relname)
               FROM unnest($1::text[], $2::text[]) AS w (schema, name)
               JOIN pg_namespace n ON n.nspname = w.schema
               JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
               WHERE has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER') ORDER BY 1";
    let (schemas, names) = watched(place);
    let rows = client.query(sql, &[&schemas, &names]).await?;
    Ok(rows.iter().map(|row| format!("it may change {}", row.get::<_, String>(0))).collect())
}

/// Functions that run as our schema's owner are nobody's but its, and nobody's to call.
async fn of_functions(client: &Client, place: &Place<'_>, findings: &mut Findings) -> Result<(), Error> {
    let sql = "SELECT p.oid::regprocedure::text, has_function_privilege('public', p.oid, 'EXECUTE'),
                      NOT p.prosecdef OR NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false),
                      p.proowner <> n.nspowner, n.nspowner::regrole::text
               FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $1 ORDER BY 1";
    let (mut wrong, mut remedies) = (Vec::new(), Vec::new());
    for row in client.query(sql, &[&place.schema.name()]).await? {
        let function: String = row.get(0);
        let cases = [
            (1, "may be called by everybody", format!("REVOKE ALL ON FUNCTION {function} FROM PUBLIC;")),
            (
                2,
                "is not SECURITY DEFINER with a fixed search_path",
                format!("ALTER FUNCTION {function} SECURITY DEFINER SET search_path = pg_catalog, pg_temp;"),
            ),
            (
                3,
                "belongs to another role than the schema",
                format!("ALTER FUNCTION {function} OWNER TO {};", row.get::<_, String>(4)),
            ),
        ];
        for (_, what, remedy) in cases.into_iter().filter(|(at, _, _)| row.get(*at)) {
            wrong.push(format!("{function} {what}"));
            remedies.push(remedy);
        }
    }
    if !wrong.is_empty() {
        findings.warn(Id::FunctionRights, "schema", wrong.join("; "), remedies.join(" "));
    }
    Ok(())
}

/// What others were granted on our tables, beyond reading, the inbox and thresholds; and what everybody was.
async fn of_others(client: &Client, place: &Place<'_>, findings: &mut Findings) -> Result<(), Error> {
    let sql = "WITH ours AS (SELECT oid, nspname, nspowner, nspacl FROM pg_namespace WHERE nspname = $1),
               me AS (SELECT oid, rolsuper FROM pg_roles WHERE rolname = current_user),
               granted AS (
                   SELECT format('%s%I.%I', CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE '' END, o.nspname, c.relname) AS what,
                          c.relname::text AS name, a.grantee, a.privilege_type AS privilege
                   FROM ours o JOIN pg_class c ON c.relnamespace = o.oid AND c.relkind IN ('r', 'v', 'S'), aclexplode(c.relacl) AS a
                   WHERE a.grantee <> c.relowner
                   UNION ALL
                   SELECT format('%I.%I', o.nspname, c.relname), c.relname::text, a.grantee, a.privilege_type
                   FROM ours o JOIN pg_class c ON c.relnamespace = o.oid AND c.relkind IN ('r', 'v')
                   JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) AS a
                   WHERE a.grantee <> c.relowner
                   UNION ALL
                   SELECT format('SCHEMA %I', o.nspname), NULL, a.grantee, a.privilege_type FROM ours o, aclexplode(o.nspacl) AS a
                   WHERE a.grantee <> o.nspowner AND a.privilege_type = 'CREATE')
               SELECT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END, g.what,
                      string_agg(DISTINCT g.privilege, ', ' ORDER BY g.privilege)
               FROM granted g, me
               WHERE g.grantee = 0
                  OR (g.privilege <> 'SELECT'
                      AND NOT (g.name = 'alert' AND g.privilege = 'UPDATE')
                      AND NOT (g.name = 'threshold' AND g.privilege IN ('INSERT', 'UPDATE', 'DELETE'))
                      -- A daemon's rights may come from a role that it is a member of; a superuser is every role's.
                      AND NOT (g.grantee = me.oid OR (NOT me.rolsuper AND pg_has_role(g.grantee, 'MEMBER'))))
               GROUP BY 1, 2 ORDER BY 1, 2";
    let (mut wrong, mut remedies) = (Vec::new(), Vec::new());
    for row in client.query(sql, &[&place.schema.name()]).await? {
        let (grantee, what, privileges): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        wrong.push(format!("{grantee} may {privileges} on {what}"));
        remedies.push(format!("REVOKE {privileges} ON {what} FROM {grantee};"));
    }
    if !wrong.is_empty() {
        let what = format!("others may change, or everybody may read, what only a daemon does: {}", wrong.join("; "));
        findings.warn(Id::SchemaGrants, "schema", what, format!("{} unless it is another daemon's role", remedies.join(" ")));
    }
    Ok(())
}

/// What the expressions of a table watch call is run as our schema's owner, in every writer's statement, and as this role.
pub(super) async fn of_definition(
    client: &Client,
    place: &Place<'_>,
    subject: &str,
    definition: &Definition,
    findings: &mut Findings,
) -> Result<(), Error> {
    let called = reads::of_definition(client, place.schema, definition).await?;
    of_owner(client, place, subject, &called, findings).await?;
    of_calls(client, place, subject, "where, sum or value", &called, findings).await?;
    of_types(client, place, subject, definition, findings).await
}

/// So is what the types of the columns call that its triggers and recounts use.
async fn of_types(
    client: &Client,
    place: &Place<'_>,
    subject: &str,
    definition: &Definition,
    findings: &mut Findings,
) -> Result<(), Error> {
    let strange = guard::strange(&definition.guarded);
    if strange.is_empty() {
        return Ok(());
    }
    let (ours, as_superuser) = ours(client, place).await?;
    let what = format!("what its columns' types call runs as {}: {}", ours.join(" and "), strange.join("; "));
    if as_superuser {
        let remedy = "a superuser's rights are not to be had like that: let the daemon be no superuser (items-listen install --print \
                      --roles), give the column another type, or ALTER TYPE … OWNER TO one that you trust";
        findings.warn(Id::ExpressionCode, subject, what, remedy);
    } else {
        let remedy = "whose types they are is a matter of trust; ALTER TYPE … OWNER TO one that you trust";
        findings.info(Id::ExpressionCode, subject, what, Some(remedy.to_owned()));
    }
    Ok(())
}

/// As whom expressions run, and whether one of them is a superuser.
async fn ours(client: &Client, place: &Place<'_>) -> Result<(Vec<String>, bool), Error> {
    let sql = "SELECT r.rolname::text, r.rolsuper FROM pg_roles r
               WHERE r.rolname = current_user OR r.oid = (SELECT nspowner FROM pg_namespace WHERE nspname = $1)";
    let rows = client.query(sql, &[&place.schema.name()]).await?;
    Ok((rows.iter().map(|row| row.get(0)).collect(), rows.iter().any(|row| row.get(1))))
}

/// What a writer's statement calls, the schema's owner must be able to call.
async fn of_owner(
    client: &Client,
    place: &Place<'_>,
    subject: &str,
    called: &[Called],
    findings: &mut Findings,
) -> Result<(), Error> {
    let sql = "SELECT p.oid::regprocedure::text, format('%I', n.nspname), format('%I', o.rolname),
                      has_schema_privilege(o.oid, n.oid, 'USAGE'), has_function_privilege(o.oid, p.oid, 'EXECUTE')
               FROM unnest($2::text[]) AS f (signature) JOIN pg_proc p ON p.oid = to_regprocedure(f.signature)
               JOIN pg_namespace n ON n.oid = p.pronamespace, pg_namespace s JOIN pg_roles o ON o.oid = s.nspowner
               WHERE s.nspname = $1";
    let signatures: Vec<&str> = called.iter().map(|called| called.signature.as_str()).collect();
    for row in client.query(sql, &[&place.schema.name(), &signatures]).await? {
        let (function, schema, owner): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let grants = [
            (3, format!("GRANT USAGE ON SCHEMA {schema} TO {owner};")),
            (4, format!("GRANT EXECUTE ON FUNCTION {function} TO {owner};")),
        ];
        let grants: Vec<String> = grants.into_iter().filter(|(at, _)| !row.get::<_, bool>(*at)).map(|(_, grant)| grant).collect();
        if !grants.is_empty() {
            let what =
                format!("{owner}, as which triggers run, may not call {function}: each statement lets the watch be counted anew");
            findings.error(Id::Privileges, subject, what, grants.join(" "));
        }
    }
    Ok(())
}

/// What a query or a lookup calls is run as this role.
pub(super) async fn of_question(
    client: &Client,
    place: &Place<'_>,
    subject: &str,
    what: &str,
    question: &str,
    findings: &mut Findings,
) -> Result<(), Error> {
    let touched = match reads::of_question(client, question).await {
        Err(error) if error.is_locked() => return Err(error),
        // Where it cannot be looked into, others have said why.
        Err(_) => return Ok(()),
        Ok(touched) => touched,
    };
    of_calls(client, place, subject, what, &touched.calls, findings).await
}

async fn of_calls(
    client: &Client,
    place: &Place<'_>,
    subject: &str,
    what: &str,
    called: &[Called],
    findings: &mut Findings,
) -> Result<(), Error> {
    let (ours, as_superuser) = ours(client, place).await?;
    let strange: Vec<String> = called
        .iter()
        .filter(|called| !called.by_superuser && !ours.contains(&called.owner))
        .map(|called| format!("{} may put another function in the place of {}", called.owner, called.signature))
        .collect();
    if strange.is_empty() {
        return Ok(());
    }
    let what = format!("what its {what} calls runs as {}: {}", ours.join(" and "), strange.join("; "));
    let trusted = quote(ours.first().map_or(place.role.as_str(), String::as_str));
    if as_superuser {
        let remedy = format!(
            "a superuser's rights are not to be had like that: let the daemon be no superuser (items-listen install --print --roles), \
             or ALTER FUNCTION … OWNER TO {trusted}"
        );
        findings.warn(Id::ExpressionCode, subject, what, remedy);
    } else {
        let remedy = "whose functions they are is a matter of trust; ALTER FUNCTION … OWNER TO one that you trust";
        findings.info(Id::ExpressionCode, subject, what, Some(remedy.to_owned()));
    }
    Ok(())
}
