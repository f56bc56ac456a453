//! `install --print`: one script that a DBA can read, run, and run again.

use std::fmt::Write as _;
use std::sync::Arc;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::definition::Definition;
use super::generation::Generation;
use super::roles::Roles;
use super::{install, retire, trigger};
use crate::db::schema::Schema;
use crate::db::{literal, migrate, unused_tag};
use crate::error::Error;
use crate::plain::plain;
use crate::watch::{Relation, Source, Watch};

/// The script for these watches, as they are to be in this database; with roles, if it is to create them.
///
/// # Errors
/// A table or column that does not exist.
pub async fn script(
    client: &mut Client,
    schema: &Schema,
    watches: &[Arc<Watch>],
    allow_publication: bool,
    roles: Option<&Roles>,
) -> Result<String, Error> {
    migrate::check_encoding(client).await?;
    migrate::check_own(client, schema).await?;
    let installed = migrate::version(client, schema).await?.is_some();
    let (what, begin) = match roles {
        None => (
            "schema and triggers. Run it with psql -v ON_ERROR_STOP=1, as the role that is to own them",
            migrate::script(schema)?,
        ),
        Some(roles) => (
            "roles, schema and triggers. Run it with psql -v ON_ERROR_STOP=1, as a superuser, or as the role that owns the tables and may create roles",
            roles.begin(schema, watches)?,
        ),
    };
    let mut script = format!(
        "-- items-listen {}: {what}; it may be run again.\n\
         -- No lock is waited for longer than this: where one is not to be had, run it again later.\n\
         SET lock_timeout = '100ms';\n\
         -- As this text is written, whatever this role or database has by default.\n\
         SET client_encoding = 'UTF8';\n\
         SET standard_conforming_strings = on;\n\
         -- Nobody's functions are taken for PostgreSQL's own.\n\
         SET search_path = pg_catalog, pg_temp;\n\n{begin}\n",
        crate::version::VERSION,
    );
    if allow_publication {
        script.push_str(&schema.sql("UPDATE items_listen.cluster SET allow_publication = true;\n"));
    }
    let mut ids = Ids::of(client, schema, installed).await?;
    for watch in watches {
        let found = if installed { install::find(client, schema, &watch.name).await? } else { None };
        one(client, schema, watch, found, &mut ids, &mut script, roles).await?;
    }
    writeln!(
        script,
        "\n{}",
        schema.sql(&format!(
            "SELECT setval('items_listen.watch_id', greatest({}, (SELECT last_value FROM items_listen.watch_id)));\n\
         SELECT setval('items_listen.generation', greatest({}, (SELECT last_value FROM items_listen.generation)));",
            ids.watch, ids.generation
        ))
    )
    .map_err(|error| Error::Failed(error.to_string()))?;
    if let Some(roles) = roles {
        script.push_str(&roles.end(client, schema, watches).await?);
    }
    // Last of all: a table that is in use keeps nothing else from being put in place.
    if installed {
        script.push_str(&removed(client, schema, watches, roles).await?);
    }
    script.push_str("\nRESET search_path;\nRESET standard_conforming_strings;\nRESET client_encoding;\nRESET lock_timeout;\n");
    Ok(script)
}

/// The numbers that are free.
struct Ids {
    watch: i32,
    generation: i32,
}

impl Ids {
    async fn of(client: &Client, schema: &Schema, installed: bool) -> Result<Ids, Error> {
        if !installed {
            return Ok(Ids { watch: 0, generation: 0 });
        }
        let sql = schema.sql(
            "SELECT (SELECT last_value FROM items_listen.watch_id)::int, (SELECT last_value FROM items_listen.generation)::int",
        );
        let row = client.query_one(sql.as_str(), &[]).await?;
        Ok(Ids { watch: row.get(0), generation: row.get(1) })
    }
}

async fn one(
    client: &mut Client,
    schema: &Schema,
    watch: &Watch,
    found: Option<(install::Installed, String)>,
    ids: &mut Ids,
    script: &mut String,
    roles: Option<&Roles>,
) -> Result<(), Error> {
    install::refuse_own(schema, watch).map_err(|error| Error::about(format!("watch {}", plain(&watch.name)), error))?;
    let definition = Definition::of(client, schema, watch).await?;
    let relation = watch.source.relation().map(Relation::quoted);
    let text = install::text(watch, definition.as_ref());
    let same = found.as_ref().is_some_and(|(_, known)| *known == text);
    prove(client, schema, watch, definition.as_ref().filter(|_| !same)).await?;
    let (id, generation) = match &found {
        Some((installed, _)) if same => (installed.id, installed.generation),
        Some((installed, _)) => {
            ids.generation += 1;
            (installed.id, ids.generation)
        }
        None => {
            ids.watch += 1;
            ids.generation += 1;
            (ids.watch, ids.generation)
        }
    };
    let events = definition.as_ref().map(Definition::events).unwrap_or_default();
    let of = Generation { id, number: generation, watch, definition: definition.as_ref(), text: &text };
    // What belongs to the owner comes last, since that role may do nothing else of this.
    let as_owner = definition.as_ref().and(roles).map(Roles::as_owner).unwrap_or_default();
    let [fold, table] = of.locks(schema, !same);
    let body = [fold, table, of.row(schema, true, &[]), of.marks(schema), as_owner, of.functions(schema)].concat();
    script.push_str(&format!("\n-- watch {}\nBEGIN;\n{body}COMMIT;\n", plain(&watch.name)));
    let table = relation.filter(|_| definition.is_some());
    if let Some(relation) = &table {
        script.push_str(&triggers(schema, id, relation, &events));
    }
    if found.is_some() {
        let strays = match &table {
            Some(relation) => retire::strays(client, schema, id, Some(relation)).await?,
            // It may have watched a table before.
            None => retire::triggers(client, schema, id).await?,
        };
        let why = "-- Left behind on what belongs to the watch no more, as a partition that was detached.\n";
        script.push_str(&dropped(why, &strays));
    }
    if let Some(relation) = &table {
        script.push_str(&covered(schema, id, relation));
    }
    Ok(())
}

/// What `install` would refuse is not printed, as far as this role may look: another may be about to run the script.
async fn prove(client: &mut Client, schema: &Schema, watch: &Watch, definition: Option<&Definition>) -> Result<(), Error> {
    let installed = migrate::version(client, schema).await?.is_some();
    let mut proven = match &watch.source {
        // What a query gives is read with a function of ours.
        Source::Query { .. } if !installed => install::prove_lookup(client, watch).await,
        _ => install::prove(client, schema, watch).await,
    };
    if let (Ok(()), Some(definition)) = (&proven, definition) {
        proven = definition.prove_immutable(client, schema).await;
    }
    let may_not = |error: &Error| error.sqlstate() == Some(SqlState::INSUFFICIENT_PRIVILEGE.code());
    match proven {
        Err(error) if !may_not(&error) => Err(Error::about(format!("watch {}", plain(&watch.name)), error)),
        _ => Ok(()),
    }
}

/// Each trigger goes in a transaction of its own: DROP TRIGGER keeps even readers out.
fn dropped(why: &str, triggers: &[(String, String)]) -> String {
    let each = triggers.iter().map(|(name, relation)| format!("DROP TRIGGER IF EXISTS {name} ON {relation};\n"));
    if triggers.is_empty() { String::new() } else { format!("{why}{}", each.collect::<String>()) }
}

/// Watches that are installed, and neither configured any more nor served by another daemon.
async fn removed(client: &Client, schema: &Schema, watches: &[Arc<Watch>], roles: Option<&Roles>) -> Result<String, Error> {
    let names: Vec<String> = watches.iter().map(|watch| watch.name.clone()).collect();
    let mut sql = String::new();
    for (id, name) in retire::strangers(client, schema, &names, &[]).await? {
        let why = "-- First its triggers, on whatever table they stand.\n";
        let triggers = dropped(why, &retire::triggers(client, schema, id).await?);
        let fold = crate::db::locks::Lock::Fold.sql(schema);
        let as_owner = roles.map(Roles::as_owner).unwrap_or_default();
        let _ok = write!(
            sql,
            "\n-- watch {}: it is not in the configuration any more. History and deliveries stay; what is open is resolved as disabled.\n\
             {triggers}BEGIN;\nSELECT pg_advisory_xact_lock({fold});\n{}{as_owner}{}\nCOMMIT;\n",
            plain(&name),
            retire::rows(schema, id, &name),
            trigger::drop_functions(schema, id),
        );
    }
    Ok(sql)
}

/// The relation and each of its partitions.
fn tree(relation: &str) -> String {
    format!(
        "WITH RECURSIVE tree (relid) AS (SELECT {}::regclass::oid UNION SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid \
         WHERE NOT i.inhdetachpending)",
        literal(relation)
    )
}

/// The triggers on the relation and each of its partitions, where they are absent, or disabled.
fn triggers(schema: &Schema, id: i32, relation: &str, events: &[String]) -> String {
    let tree = tree(relation);
    let mut sql = String::new();
    // Before any trigger is put in place: until it is counted, what was written without it is missing.
    let own = schema.name();
    sql.push_str(&format!(
        "-- Its triggers, on the table and each of its partitions: created where there is none, enabled where one is disabled.\n\
         INSERT INTO {own}.marker (watch, reason) VALUES ({id}, 'coverage');\n"
    ));
    let tag = unused_tag("triggers", &tree);
    for event in events {
        let name = trigger::name(schema, id, event);
        let create = trigger::create(schema, id, event, "%s");
        sql.push_str(&format!(
            "DO {tag} DECLARE r regclass; is_on boolean; BEGIN\n\
             FOR r IN {tree} SELECT relid FROM tree LOOP\n\
             is_on := (SELECT tgenabled IN ('O', 'A') FROM pg_trigger WHERE tgrelid = r AND tgname = '{name}');\n\
             IF is_on IS NULL THEN EXECUTE format({create}, r);\n\
             ELSIF NOT is_on THEN EXECUTE format('ALTER TABLE %s ENABLE TRIGGER {name}', r); END IF;\n\
             END LOOP; END {tag};\n",
            create = literal(&create),
        ));
    }
    sql
}

/// Which relations have their triggers now; and once more a marker, after the last of them.
fn covered(schema: &Schema, id: i32, relation: &str) -> String {
    let (own, tree) = (schema.name(), tree(relation));
    format!(
        "BEGIN;\nINSERT INTO {own}.marker (watch, reason) VALUES ({id}, 'coverage');\n\
         {tree}\nUPDATE {own}.watch SET covered = (SELECT array_agg(relid ORDER BY relid) FROM tree) WHERE id = {id};\nCOMMIT;\n"
    )
}
