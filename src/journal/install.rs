//! Puts watches into the database and keeps their triggers in place.
//!
//! Invariants. A recount may only trust a snapshot in which every relation of the watch has its
//! triggers; therefore a marker is committed *before* a missing trigger is created, and a recount
//! refuses while `sql/coverage.sql` finds anything. How a new definition is put in place: `generation`.
//!
//! No lock is waited for longer than `lock_timeout`: a queued lock would make every new writer wait.

use std::collections::HashSet;

use tokio_postgres::Client;

use super::definition::Definition;
use super::locking::{Patience, with_retries};
use super::{functions, generation, retire, trigger};
use crate::chaos::point;
use crate::db::locks::Lock;
use crate::db::schema::Schema;
use crate::error::Error;
use crate::source::sweep;
use crate::watch::{Relation, Source, Watch};

/// How a watch stands in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// `items_listen.watch.id`.
    pub id: i32,
    /// The generation of its definition.
    pub generation: i32,
}

/// Installs a watch, or brings it up to date. Idempotent. The caller holds the install lock.
///
/// # Errors
/// A table or column that does not exist, a condition that is not immutable, a missing privilege, or a
/// lock that was not to be had: each with what to do.
pub async fn ensure(client: &mut Client, schema: &Schema, watch: &Watch, baseline: bool) -> Result<Installed, Error> {
    let definition = Definition::of(client, schema, watch).await?;
    put_in_place(client, schema, watch, definition, baseline, &HashSet::new()).await
}

/// The same for a daemon, by itself: it trusts no column's type that could run other people's code where the triggers were
/// made for another. It does not look at the triggers of watches (by id) of which it is known that they are in place, unless
/// their definition is another.
///
/// # Errors
/// As [`ensure`]; and such a column.
pub async fn ensure_by_itself(
    client: &mut Client,
    schema: &Schema,
    watch: &Watch,
    in_place: &HashSet<i32>,
) -> Result<Installed, Error> {
    let definition = Definition::of_installed(client, schema, watch).await?;
    put_in_place(client, schema, watch, definition, false, in_place).await
}

async fn put_in_place(
    client: &mut Client,
    schema: &Schema,
    watch: &Watch,
    definition: Option<Definition>,
    baseline: bool,
    in_place: &HashSet<i32>,
) -> Result<Installed, Error> {
    prove(client, schema, watch).await?;
    let text = text(watch, definition.as_ref());
    let known = find(client, schema, &watch.name).await?;
    let same = known.as_ref().is_some_and(|(_, known)| *known == text);
    let installed = match known {
        Some((installed, _)) if same => {
            if let Some(definition) = &definition {
                functions::bring_up(client, schema, &watch.name, &installed, definition).await?;
            }
            installed
        }
        known => {
            if let Some(definition) = &definition {
                definition.prove_immutable(client, schema).await?;
            }
            let before = known.map(|(installed, _)| installed.id);
            generation::begin(client, schema, watch, definition.as_ref(), &text, before).await?
        }
    };
    adopt_policy(client, schema, watch, installed.id, baseline).await?;
    match definition {
        _ if same && in_place.contains(&installed.id) => {}
        Some(_) => complete(client, schema, installed.id).await?,
        // It may have watched a table before.
        None => drop_strays(client, schema, installed.id).await?,
    }
    Ok(installed)
}

/// What a fold writes may not cause it another (rule J6).
///
/// # Errors
/// The watch is of one of our own tables.
pub fn refuse_own(schema: &Schema, watch: &Watch) -> Result<(), Error> {
    match watch.source.relation().filter(|relation| relation.schema == schema.name()) {
        Some(relation) => Err(Error::Failed(format!("{relation} is one of our own tables, which cannot be watched"))),
        None => Ok(()),
    }
}

/// Looks whether a watch can be served at all, but for what its definition says.
///
/// # Errors
/// What is the matter with its table, its query or its lookup.
pub async fn prove(client: &Client, schema: &Schema, watch: &Watch) -> Result<(), Error> {
    refuse_own(schema, watch)?;
    if let Source::Query { sql, .. } = &watch.source {
        sweep::Sweep::of(client, schema, watch, sql).await?;
    }
    prove_lookup(client, watch).await
}

/// Looks whether a watch's lookup can be asked at all.
///
/// # Errors
/// What PostgreSQL says about it.
pub async fn prove_lookup(client: &Client, watch: &Watch) -> Result<(), Error> {
    let Some(lookup) = &watch.lookup else { return Ok(()) };
    let before: String = client.query_one("SELECT current_setting('search_path')", &[]).await?.get(0);
    client.batch_execute(sweep::USER_PATH).await?;
    let prepared = client.prepare(&lookup.statement()).await;
    client.execute("SELECT set_config('search_path', $1, false)", &[&before]).await?;
    prepared.map(drop).map_err(|error| Error::about("lookup", error))
}

/// The text that identifies a watch's generation.
pub fn text(watch: &Watch, definition: Option<&Definition>) -> String {
    match (definition, &watch.source) {
        (Some(definition), _) => definition.text(),
        (None, Source::Notify { channel }) => format!("notify {channel} / {}", watch.key().join(", ")),
        (None, Source::Query { sql, .. }) => format!("query {sql} / {} / {:?}", watch.key().join(", "), watch.measure),
        (None, Source::Table { .. }) => String::new(),
    }
}

/// The installed watch of that name, and its definition.
///
/// # Errors
/// The database cannot be asked.
pub async fn find(client: &Client, schema: &Schema, name: &str) -> Result<Option<(Installed, String)>, Error> {
    let sql = schema.sql("SELECT id, generation, definition FROM items_listen.watch WHERE name = $1");
    let row = client.query_opt(sql.as_str(), &[&name]).await?;
    Ok(row.map(|row| (Installed { id: row.get(0), generation: row.get(1) }, row.get(2))))
}

/// The watches whose triggers are all in place.
///
/// # Errors
/// The database cannot be asked.
pub async fn in_place(client: &Client, schema: &Schema) -> Result<HashSet<i32>, Error> {
    let sql = schema.sql(&format!(
        "WITH found AS MATERIALIZED ({}) SELECT id FROM items_listen.watch WHERE id NOT IN (SELECT watch FROM found)",
        coverage(schema)
    ));
    Ok(client.query(sql.as_str(), &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// The watches of which an error is recorded.
///
/// # Errors
/// The database cannot be asked.
pub async fn errors(client: &Client, schema: &Schema) -> Result<HashSet<String>, Error> {
    let sql = schema.sql("SELECT name FROM items_listen.watch WHERE error IS NOT NULL");
    Ok(client.query(sql.as_str(), &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Notes why a watch is degraded, or that it no longer is. A watch that could never be installed gets a
/// row for that alone: whoever looks at the database is told.
///
/// # Errors
/// The database cannot be reached.
pub async fn record_error(client: &Client, schema: &Schema, watch: &Watch, error: Option<&str>) -> Result<(), Error> {
    let relation = watch.source.relation().map(Relation::quoted);
    let Some(error) = error else {
        let clear =
            schema.sql("UPDATE items_listen.watch SET error = NULL, error_at = NULL WHERE name = $1 AND error IS NOT NULL");
        client.execute(clear.as_str(), &[&watch.name]).await?;
        return Ok(());
    };
    let sql = schema.sql(
        "INSERT INTO items_listen.watch AS w (id, name, source, relation, key_columns, definition, generation, policy, error, error_at)
         VALUES (nextval('items_listen.watch_id')::int, $1, $2, $3, $4, '', nextval('items_listen.generation')::int, '', $5, clock_timestamp())
         ON CONFLICT (name) DO UPDATE SET error = excluded.error, error_at = excluded.error_at
             WHERE w.error IS DISTINCT FROM excluded.error",
    );
    client.execute(sql.as_str(), &[&watch.name, &watch.source.kind(), &relation, &watch.key(), &error]).await?;
    Ok(())
}

/// Takes this configuration's policy over: all keys are evaluated anew, since a changed threshold is a
/// change like any other. With `baseline`, what is beyond its threshold counts as already said.
///
/// # Errors
/// The database cannot be reached, or the fold's lock was not to be had.
pub async fn adopt_policy(client: &mut Client, schema: &Schema, watch: &Watch, id: i32, baseline: bool) -> Result<(), Error> {
    let policy = watch.policy_hash();
    let current = schema.sql("SELECT policy FROM items_listen.watch WHERE id = $1");
    if client.query_one(current.as_str(), &[&id]).await?.get::<_, String>(0) == policy && !baseline {
        return Ok(());
    }
    let mut patience = Patience::new(schema, None);
    loop {
        match try_adopt(client, schema, id, &policy, baseline).await {
            Err(error) => patience.after(client, error).await?,
            Ok(()) => return Ok(()),
        }
    }
}

async fn try_adopt(client: &mut Client, schema: &Schema, id: i32, policy: &str, baseline: bool) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(&format!("SELECT pg_advisory_xact_lock({})", Lock::Fold.sql(schema))).await?;
    let dirty = schema.sql("UPDATE items_listen.count SET dirty = 2 WHERE watch = $1 AND dirty < 2");
    transaction.execute(dirty.as_str(), &[&id]).await?;
    let adopt = schema.sql("UPDATE items_listen.watch SET policy = $2, baseline = baseline OR $3 WHERE id = $1");
    transaction.execute(adopt.as_str(), &[&id, &policy, &baseline]).await?;
    transaction.commit().await?;
    Ok(())
}

/// Creates what is missing on the relations of a watch, and takes away what strays.
///
/// # Errors
/// A lock that was not to be had, or a missing privilege.
pub async fn complete(client: &mut Client, schema: &Schema, id: i32) -> Result<(), Error> {
    let findings = findings(client, schema, id).await?;
    if findings.iter().all(|finding| finding.kind == "gone") {
        return Ok(());
    }
    // First the marker, then the triggers: see the invariants above.
    let marker = schema.sql("INSERT INTO items_listen.marker (watch, reason) VALUES ($1, 'coverage')");
    client.execute(marker.as_str(), &[&id]).await?;
    point!("install.marked");
    for finding in &findings {
        let (Some(relation), Some(event)) = (&finding.relation, &finding.event) else { continue };
        let name = trigger::name(schema, id, event);
        let statement = match finding.kind.as_str() {
            "missing" => trigger::create(schema, id, event, relation),
            "disabled" => format!("ALTER TABLE {relation} ENABLE TRIGGER {name}"),
            "stray" => format!("DROP TRIGGER IF EXISTS {name} ON {relation}"),
            _ => continue,
        };
        // One table per transaction, and each its own statement.
        with_retries(client, schema, relation, &statement).await?;
    }
    drop_strays(client, schema, id).await?;
    let covered = schema.sql(
        "WITH RECURSIVE tree (relid) AS (
             SELECT to_regclass(relation)::oid FROM items_listen.watch WHERE id = $1
             UNION
             SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid WHERE NOT i.inhdetachpending)
         UPDATE items_listen.watch SET covered = (SELECT array_agg(relid ORDER BY relid) FROM tree) WHERE id = $1",
    );
    client.execute(covered.as_str(), &[&id]).await?;
    tracing::info!(watch_id = id, changes = findings.len(), "triggers completed");
    Ok(())
}

/// Takes our triggers away from wherever they stand without belonging there: a partition that was detached while
/// we waited for a lock is no longer among those that `coverage.sql` knows.
async fn drop_strays(client: &Client, schema: &Schema, id: i32) -> Result<(), Error> {
    for (name, relation) in retire::strays(client, schema, id, None).await? {
        with_retries(client, schema, &relation, &format!("DROP TRIGGER IF EXISTS {name} ON {relation}")).await?;
    }
    Ok(())
}

/// One thing that `sql/coverage.sql` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `gone`, `missing`, `disabled`, `stray` or `changed`.
    pub kind: String,
    /// The relation, quoted.
    pub relation: Option<String>,
    /// `insert`, `delete`, `update` or `truncate`.
    pub event: Option<String>,
}

/// What is not as it should be with the triggers of a watch.
///
/// # Errors
/// The database cannot be asked.
pub async fn findings(client: &Client, schema: &Schema, id: i32) -> Result<Vec<Finding>, Error> {
    let sql = schema.sql(&format!(
        "SELECT finding, relid::regclass::text, event FROM ({}) AS c WHERE watch = $1 ORDER BY 2, 3",
        coverage(schema)
    ));
    let rows = client.query(sql.as_str(), &[&id]).await?;
    Ok(rows.iter().map(|row| Finding { kind: row.get(0), relation: row.get(1), event: row.get(2) }).collect())
}

/// `sql/coverage.sql` for this schema, whose name is part of the triggers' names.
pub fn coverage(schema: &Schema) -> String {
    schema.sql(&include_str!("../../sql/coverage.sql").replace("'items_listen_%s_%s'", &format!("'{}_%s_%s'", schema.name())))
}

/// Refuses where a `FOR ALL TABLES` publication would carry our tables to a subscriber whose apply
/// worker dies of them.
///
/// # Errors
/// The publication's name and what to do.
pub async fn check_publications(client: &Client, schema: &Schema, allow: bool) -> Result<(), Error> {
    let names: Option<String> =
        client.query_one("SELECT string_agg(pubname::text, ', ') FROM pg_publication WHERE puballtables", &[]).await?.get(0);
    let Some(names) = names else { return Ok(()) };
    let installed: bool =
        client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&format!("{}.cluster", schema.name())]).await?.get(0);
    if installed {
        let told = schema.sql("SELECT allow_publication FROM items_listen.cluster");
        if client.query_one(told.as_str(), &[]).await?.get(0) {
            return Ok(());
        }
    }
    if allow {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "the publication {names} is FOR ALL TABLES and would carry the tables of {} to its subscribers, which do not have them: their \
         replication would stop. Give the publication a list of tables, or say install --allow-publication if the subscribers are prepared",
        schema.name()
    )))
}
