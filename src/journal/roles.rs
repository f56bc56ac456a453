//! `install --print --roles`: the parts of the script that are about who may do what.
//!
//! Three roles. The *owner* has schema, tables and functions; nobody logs in as it, and it has no right on any table of the
//! application: what runs as it (trigger functions, with the operator's expressions) can reach nothing but our own tables.
//! The *daemon* has what `db::rights` lists, SELECT on what it counts anew, and SELECT on what queries and lookups read. The
//! *application* needs nothing to be watched; its role has the inbox, and the thresholds that its screens edit.
//!
//! The script is run by a superuser, or by whoever may create roles and owns the tables. It is made for both: that person is
//! made a member of the owner role, and acts as it only where something is created.

use std::fmt::Write as _;
use std::sync::Arc;

use tokio_postgres::Client;

use super::definition::Definition;
use super::guard;
use super::reads::{self, Called, Touched};
use crate::db::rights::{APPLICATION_INBOX, APPLICATION_THRESHOLDS, DAEMON, Right, grants};
use crate::db::schema::Schema;
use crate::db::{literal, migrate, quote};
use crate::error::Error;
use crate::plain::plain;
use crate::watch::{Source, Watch};

/// PostgreSQL cuts longer names off.
const NAME_BYTES_MAX: usize = 63;

/// The names of the roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Has schema, tables and functions.
    pub owner: String,
    /// The daemon and its commands connect as this.
    pub daemon: String,
    /// May have the inbox and the thresholds.
    pub application: String,
}

impl Roles {
    /// Three roles.
    ///
    /// # Errors
    /// A name that no role can have, or one for two of them.
    pub fn new(owner: &str, daemon: &str, application: &str) -> Result<Roles, Error> {
        for (option, name) in [("--owner", owner), ("--daemon", daemon), ("--application", application)] {
            let wrong = if name.is_empty() || name.len() > NAME_BYTES_MAX {
                format!("a role's name has 1 to {NAME_BYTES_MAX} bytes")
            } else if name.chars().any(char::is_control) {
                "a role's name with a control character would not be legible in a script".to_owned()
            } else if name == "public" || name == "none" || name.starts_with("pg_") {
                "PostgreSQL keeps this name for itself".to_owned()
            } else {
                continue;
            };
            return Err(Error::Usage(format!("{option} {name:?}: {wrong}")));
        }
        if owner == daemon || daemon == application || owner == application {
            return Err(Error::Usage(format!(
                "--owner {owner}, --daemon {daemon}, --application {application}: each is a role of its own, or none would protect the others"
            )));
        }
        Ok(Roles { owner: owner.to_owned(), daemon: daemon.to_owned(), application: application.to_owned() })
    }

    /// Until the end of the transaction, what is created belongs to the owner.
    pub fn as_owner(&self) -> String {
        format!("SET LOCAL ROLE {};\n", quote(&self.owner))
    }

    /// The roles, if they can protect from one another; and a schema that belongs to the owner, with everything in it.
    ///
    /// # Errors
    /// None in practice: our own migrations are well named.
    pub fn begin(&self, schema: &Schema, watches: &[Arc<Watch>]) -> Result<String, Error> {
        let (owner, name) = (literal(&self.owner), literal(schema.name()));
        let one = |name: &str, login: &str| {
            let (literal, role) = (literal(name), quote(name));
            format!("IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal}) THEN CREATE ROLE {role} {login}; END IF;\n")
        };
        let create = format!(
            "BEGIN\n{}{}{}\
             IF NOT pg_has_role({owner}, 'USAGE') THEN GRANT {quoted} TO CURRENT_USER; END IF;\n\
             IF NOT pg_has_role({owner}, 'USAGE') THEN\n\
             \x20   RAISE EXCEPTION '% is NOINHERIT and does not have the rights of the roles that it is a member of', current_user\n\
             \x20       USING HINT = 'Run this as a role that inherits.';\n\
             END IF;\n{}END",
            one(&self.owner, "NOLOGIN"),
            one(&self.daemon, "LOGIN"),
            one(&self.application, "NOLOGIN"),
            self.separation(watches),
            quoted = quote(&self.owner),
        );
        // Tables that change their owner cannot be written until the end of the block, and nobody may be there who notices: a
        // statement that was not counted meanwhile is found by counting anew.
        let mark = schema.sql(
            "INSERT INTO items_listen.marker (watch, reason) SELECT id, 'recount' FROM items_listen.watch WHERE source = 'table'",
        );
        let take_over = format!(
            "DECLARE o record; taken boolean := false; BEGIN\n\
             IF to_regnamespace({name}) IS NULL THEN EXECUTE format('CREATE SCHEMA %I AUTHORIZATION %I', {name}, {owner}); END IF;\n\
             FOR o IN\n\
             \x20   WITH s AS (SELECT n.oid, n.nspname, n.nspowner, r.oid AS owner FROM pg_namespace n, pg_roles r\n\
             \x20              WHERE n.nspname = {name} AND r.rolname = {owner})\n\
             \x20   SELECT 1 AS ord, format('SCHEMA %I', s.nspname) AS what FROM s WHERE s.nspowner <> s.owner\n\
             \x20   UNION ALL\n\
             \x20   SELECT 2, format('%s %I.%I', CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, s.nspname, c.relname)\n\
             \x20   FROM s JOIN pg_class c ON c.relnamespace = s.oid AND c.relkind IN ('r', 'v', 'S') AND c.relowner <> s.owner\n\
             \x20   WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i'))\n\
             \x20   UNION ALL\n\
             \x20   SELECT 3, format('FUNCTION %s', p.oid::regprocedure) FROM s JOIN pg_proc p ON p.pronamespace = s.oid AND p.proowner <> s.owner\n\
             \x20   ORDER BY 1 LOOP\n\
             \x20   EXECUTE format('ALTER %s OWNER TO %I', o.what, {owner});\n\
             \x20   taken := taken OR o.ord = 2;\n\
             END LOOP;\n\
             IF taken THEN {mark}; END IF;\nEND"
        );
        let statement = format!("CREATE SCHEMA IF NOT EXISTS {};", schema.name());
        Ok(format!(
            "-- 1. The roles, where there are none of these names; others are used, if they can be. Whoever runs this becomes a member\n\
             -- of the owner.\n{}\n\
             -- 2. The schema and what is in it belong to the owner; what an installation without roles made is taken over.\n{}\n\
             BEGIN;\n{}ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;\n{}COMMIT;\n\n{}",
            block(&create),
            block(&take_over),
            self.as_owner(),
            migrate::script(schema)?.replace(&statement, ""),
            self.daemons(schema),
        ))
    }

    /// What roles that were there before must not be, and what they had better not be.
    fn separation(&self, watches: &[Arc<Watch>]) -> String {
        let watched: Vec<String> = watches.iter().filter_map(|watch| Some(literal(&watch.source.relation()?.quoted()))).collect();
        // What a query or a lookup reads may have row level security as well.
        let asks = watches.iter().any(|watch| watch.lookup.is_some() || matches!(watch.source, Source::Query { .. }));
        // One after the other, from the end of the text: nothing in a name is taken for another place.
        let mut sql = include_str!("../../sql/roles.sql").to_owned();
        for (place, value) in [
            ("{asks}", asks.to_string()),
            ("{watched}", format!("ARRAY[{}]::text[]", watched.join(", "))),
            ("{application}", literal(&self.application)),
            ("{daemon}", literal(&self.daemon)),
            ("{owner}", literal(&self.owner)),
        ] {
            if let Some(at) = sql.find(place) {
                sql.replace_range(at..at + place.len(), &value);
            }
        }
        sql
    }

    /// What the daemon may do in our schema: from now on exactly this, whatever it was before.
    fn daemons(&self, schema: &Schema) -> String {
        let (name, daemon) = (quote(schema.name()), quote(&self.daemon));
        let mut sql = String::from(
            "-- 3. What the daemon may do in the schema: exactly this, whatever it was before. Nobody else may do anything there.\nBEGIN;\n",
        );
        sql.push_str(&self.as_owner());
        for what in ["SCHEMA", "ALL TABLES IN SCHEMA", "ALL SEQUENCES IN SCHEMA", "ALL FUNCTIONS IN SCHEMA"] {
            sql.push_str(&format!("REVOKE ALL ON {what} {name} FROM PUBLIC, {daemon};\n"));
        }
        sql.push_str(&format!("GRANT USAGE ON SCHEMA {name} TO {daemon};\n"));
        grants(schema, DAEMON, &daemon).iter().for_each(|grant| sql.push_str(&format!("{grant}\n")));
        sql.push_str("COMMIT;\n");
        sql
    }

    /// What the daemon, and the owner, may do outside of our schema; the application; and what is left to a person.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn end(&self, client: &Client, schema: &Schema, watches: &[Arc<Watch>]) -> Result<String, Error> {
        let database: String = client.query_one("SELECT current_database()::text", &[]).await?.get(0);
        let daemon = quote(&self.daemon);
        let mut sql = format!(
            "\n-- 4. What the daemon may do outside of the schema. It connects, and counts anew in a temporary table.\n\
             GRANT CONNECT, TEMPORARY ON DATABASE {} TO {daemon};\n",
            quote(&database)
        );
        for watch in watches {
            let lines = self.of_watch(client, schema, watch).await?;
            if !lines.is_empty() {
                let _ok = write!(sql, "-- Watch {}.\n{}", plain(&watch.name), lines.concat());
            }
        }
        sql.push_str("-- Not needed, but check then sees what other roles' sessions do:  GRANT pg_read_all_stats TO ");
        let _ok = writeln!(sql, "{daemon};");
        sql.push_str(&self.applications(schema));
        let _ok = write!(
            sql,
            "\n-- 6. Left to you:\n\
             --   psql:           \\password {daemon}\n\
             --   config.toml:    [database] url = \"postgres://{}@…\" and install = \"manual\"\n\
             --   application:    GRANT {} TO the role that the application connects as, if it reads alerts or edits thresholds\n\
             --   then:           items-listen check\n",
            plain(&self.daemon),
            quote(&self.application),
        );
        Ok(sql)
    }

    fn applications(&self, schema: &Schema) -> String {
        let (name, application) = (quote(schema.name()), quote(&self.application));
        let of = |rights: &[Right]| grants(schema, rights, &application).join("\n");
        format!(
            "\n-- 5. The application. To be watched it needs none of this.\nBEGIN;\n{}\
             REVOKE ALL ON SCHEMA {name} FROM {application};\n\
             REVOKE ALL ON ALL TABLES IN SCHEMA {name} FROM {application};\n\
             REVOKE ALL ON ALL SEQUENCES IN SCHEMA {name} FROM {application};\n\
             REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {name} FROM {application};\n\
             GRANT USAGE ON SCHEMA {name} TO {application};\n\
             -- The inbox.\n{}\n\
             -- Only if its own screens edit thresholds.\n{}\nCOMMIT;\n",
            self.as_owner(),
            of(APPLICATION_INBOX),
            of(APPLICATION_THRESHOLDS),
        )
    }

    async fn of_watch(&self, client: &Client, schema: &Schema, watch: &Watch) -> Result<Vec<String>, Error> {
        let mut lines = Vec::new();
        match &watch.source {
            Source::Table { .. } => {
                if let Some(definition) = Definition::of(client, schema, watch).await? {
                    lines.extend(self.of_table(client, schema, &definition).await?);
                }
            }
            Source::Query { sql, .. } => lines.extend(self.of_question(client, "query", sql).await),
            Source::Notify { .. } => {}
        }
        if let Some(lookup) = &watch.lookup {
            lines.extend(self.of_question(client, "lookup", &lookup.sql).await);
        }
        Ok(lines)
    }

    async fn of_table(&self, client: &Client, schema: &Schema, definition: &Definition) -> Result<Vec<String>, Error> {
        let daemon = quote(&self.daemon);
        let sql = "SELECT CASE WHEN NOT has_schema_privilege('public', n.oid, 'USAGE') THEN n.nspname::text END, c.relrowsecurity
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)";
        let row = client.query_one(sql, &[&definition.relation]).await?;
        let mut lines = Vec::new();
        if let Some(schema) = row.get::<_, Option<String>>(0) {
            lines.push(format!("GRANT USAGE ON SCHEMA {} TO {daemon};\n", quote(&schema)));
        }
        // SELECT on some columns would not do: LOCK TABLE … IN ACCESS SHARE MODE asks for it on the table.
        lines.push(format!("GRANT SELECT ON {} TO {daemon};\n", definition.relation));
        match reads::of_definition(client, schema, definition).await {
            Ok(calls) => lines.extend(calls.iter().flat_map(|called| self.of_call(called))),
            Err(error) => lines.push(unknown("its where, sum or value calls", "EXECUTE", &error)),
        }
        let strange = guard::strange(&definition.guarded).into_iter();
        lines.extend(strange.map(|strange| {
            format!(
                "-- {}, as {} and {}: whose it is, is a matter of trust.\n",
                plain(&strange),
                plain(&self.owner),
                plain(&self.daemon)
            )
        }));
        if row.get(1) {
            lines.push(self.of_row_security(&definition.relation));
        }
        Ok(lines)
    }

    /// A function that is called in triggers, by the owner, and in a recount, by the daemon.
    fn of_call(&self, called: &Called) -> Vec<String> {
        let both = format!("{}, {}", quote(&self.owner), quote(&self.daemon));
        let schema = called.schema.iter().map(|schema| format!("GRANT USAGE ON SCHEMA {schema} TO {both};\n"));
        let execute = (!called.for_everybody).then(|| format!("GRANT EXECUTE ON FUNCTION {} TO {both};\n", called.signature));
        let told = (!called.by_superuser).then(|| {
            format!(
                "-- {} can put another function in the place of {}, which would run as {} and {}: whose it is, is a matter of trust.\n",
                plain(&called.owner),
                plain(&called.signature),
                plain(&self.owner),
                plain(&self.daemon)
            )
        });
        schema.chain(execute).chain(told).collect()
    }

    async fn of_question(&self, client: &Client, what: &str, question: &str) -> Vec<String> {
        let daemon = quote(&self.daemon);
        let touched = match reads::of_question(client, question).await {
            Ok(touched) => touched,
            Err(error) => return vec![unknown(&format!("its {what} reads"), "SELECT", &error)],
        };
        let Touched { reads, calls } = touched;
        let schemas = reads.iter().map(|read| &read.schema).chain(calls.iter().map(|called| &called.schema));
        let mut schemas: Vec<String> = schemas.flatten().cloned().collect();
        schemas.sort();
        schemas.dedup();
        let mut lines: Vec<String> =
            schemas.iter().map(|schema| format!("GRANT USAGE ON SCHEMA {schema} TO {daemon};\n")).collect();
        for read in &reads {
            lines.push(format!("GRANT {} ON {} TO {daemon};\n", read.select(), read.relation));
        }
        for called in calls.iter().filter(|called| !called.for_everybody) {
            lines.push(format!("GRANT EXECUTE ON FUNCTION {} TO {daemon};\n", called.signature));
        }
        lines
    }

    fn of_row_security(&self, relation: &str) -> String {
        let daemon = literal(&self.daemon);
        let body = format!(
            "BEGIN\n\
             IF EXISTS (SELECT FROM pg_roles WHERE rolname = {daemon} AND (rolsuper OR rolbypassrls)) THEN RETURN; END IF;\n\
             EXECUTE format('ALTER ROLE %I BYPASSRLS', {daemon});\n\
             EXCEPTION WHEN insufficient_privilege THEN\n\
             \x20   RAISE WARNING '% may not be made to bypass row level security by %: % cannot be counted until a superuser says ALTER ROLE … BYPASSRLS',\n\
             \x20       {daemon}, current_user, {};\nEND",
            literal(relation)
        );
        format!(
            "-- {} has row level security. What writers do is counted whatever the policies say; to count it anew, the daemon must\n\
             -- see all rows, too. It still reads nothing but what it was granted.\n{}",
            plain(relation),
            block(&body)
        )
    }
}

/// An anonymous block, between marks that do not occur in it.
fn block(body: &str) -> String {
    let tag = (0..).map(|n| if n == 0 { "$roles$".to_owned() } else { format!("$roles_{n}$") }).find(|tag| !body.contains(tag));
    let tag = tag.unwrap_or_default();
    format!("DO {tag} {body} {tag};\n")
}

fn unknown(what: &str, privilege: &str, error: &Error) -> String {
    format!(
        "-- What {what} could not be found out from here: GRANT {privilege} on it yourself; check says on what. ({})\n",
        plain(&error.to_string())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_of_roles_and_differ() {
        assert!(Roles::new("a", "b", "c").is_ok());
        for (owner, daemon, application) in
            [("", "b", "c"), ("a", "a\nb", "c"), ("a", "b", "public"), ("pg_a", "b", "c"), ("a", "a", "c"), ("a", "b", "a")]
        {
            assert!(Roles::new(owner, daemon, application).is_err(), "{owner:?} {daemon:?} {application:?}");
        }
        assert!(Roles::new(&"ü".repeat(32), "b", "c").is_err(), "64 bytes");
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        let roles = Roles::new("o\"; DROP TABLE x; --", "d'; DROP TABLE x; --", "$roles$ a").expect("names");
        let script = roles.begin(&Schema::new("items_listen"), &[]).expect("a script");
        assert!(script.contains("SET LOCAL ROLE \"o\"\"; DROP TABLE x; --\";"));
        assert!(script.contains("'d''; DROP TABLE x; --'"));
        assert!(script.contains("DO $roles_1$"), "a name that holds the mark gets another mark");
    }
}
