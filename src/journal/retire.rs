//! Takes a watch, or everything, out of the database again.

use tokio_postgres::Client;
use uuid::Uuid;

use super::trigger;
use crate::db::literal;
use crate::db::locks::Lock;
use crate::db::schema::Schema;
use crate::error::Error;

/// The installed watches that are not among `names`. `own` are the instances of the process that asks: what it served with
/// another configuration is a stranger.
///
/// # Errors
/// The database cannot be asked.
pub async fn strangers(client: &Client, schema: &Schema, names: &[String], own: &[Uuid]) -> Result<Vec<(i32, String)>, Error> {
    // A watch that another live daemon serves is not a stranger: two daemons may share a schema.
    let sql = schema.sql(
        "SELECT w.id, w.name FROM items_listen.watch w
         WHERE w.name <> ALL ($1)
           AND NOT EXISTS (SELECT FROM items_listen.instance i
                           WHERE w.name = ANY (i.watches) AND i.id <> ALL ($2) AND i.beat_at > clock_timestamp() - interval '30 s')
         ORDER BY w.id",
    );
    let rows = client.query(sql.as_str(), &[&names, &own]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Removes a watch: its triggers, one table at a time; then, in one transaction, its counts, markers and
/// definition. Its open alerts are resolved with the reason `disabled`; history and deliveries stay. Changes that nobody has told
/// belong to nobody then, and are deleted unread: by folds, and by `retention`.
///
/// # Errors
/// A lock that was not to be had, or a missing privilege.
pub async fn watch(client: &mut Client, schema: &Schema, id: i32, name: &str) -> Result<(), Error> {
    drop_triggers(client, schema, id).await?;
    let transaction = client.transaction().await?;
    transaction
        .batch_execute(&format!("SET LOCAL lock_timeout = '5s'; SELECT pg_advisory_xact_lock({})", Lock::Fold.sql(schema)))
        .await?;
    transaction.batch_execute(&rows(schema, id, name)).await?;
    transaction.batch_execute(&trigger::drop_functions(schema, id)).await?;
    transaction.commit().await?;
    tracing::info!(watch = name, "watch removed: it is no longer in the configuration");
    Ok(())
}

/// What is known of a watch goes, and its open alerts are resolved. Once more, it does nothing.
pub fn rows(schema: &Schema, id: i32, name: &str) -> String {
    let sql = schema.sql(
        "UPDATE items_listen.episode SET resolved_at = clock_timestamp(), changed_at = clock_timestamp(), reason = 'disabled', severity = 'info'
    WHERE watch = {name} AND resolved_at IS NULL AND EXISTS (SELECT FROM items_listen.watch WHERE id = {id} AND name = {name});
DELETE FROM items_listen.count WHERE watch = (SELECT id FROM items_listen.watch WHERE id = {id} AND name = {name});
DELETE FROM items_listen.marker WHERE watch = (SELECT id FROM items_listen.watch WHERE id = {id} AND name = {name});
DELETE FROM items_listen.watch WHERE id = {id} AND name = {name};
",
    );
    // The name is put in last: nothing in it is taken for our schema's.
    sql.replace("{id}", &id.to_string()).replace("{name}", &literal(name))
}

/// The triggers of a watch wherever they stand: the name of each, and its relation, quoted.
///
/// # Errors
/// The database cannot be asked.
pub async fn triggers(client: &Client, schema: &Schema, id: i32) -> Result<Vec<(String, String)>, Error> {
    let mine = "SELECT g.tgname::text, g.tgrelid::regclass::text FROM pg_trigger g
                WHERE g.tgname = ANY ($1) AND NOT g.tgisinternal
                  -- Anybody may give a trigger of their own this name.
                  AND g.tgfoid IN (SELECT p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $2)
                ORDER BY 2, 1";
    let names: Vec<String> = trigger::EVENTS.iter().map(|event| trigger::name(schema, id, event)).collect();
    let rows = client.query(mine, &[&names, &schema.name()]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Our triggers where they do not belong: the name of each, and its relation, quoted. They belong to the table of the watch as
/// it is installed, or to the one that it will have, which is given quoted.
///
/// # Errors
/// The database cannot be asked.
pub async fn strays(client: &Client, schema: &Schema, id: i32, relation: Option<&str>) -> Result<Vec<(String, String)>, Error> {
    let strays = schema.sql(
        "WITH RECURSIVE tree (relid) AS (
             SELECT to_regclass(coalesce($4, relation))::oid FROM items_listen.watch WHERE id = $1
             UNION
             SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid WHERE NOT i.inhdetachpending)
         SELECT g.tgname::text, g.tgrelid::regclass::text FROM pg_trigger g
         WHERE g.tgname = ANY ($2) AND NOT g.tgisinternal AND g.tgrelid NOT IN (SELECT relid FROM tree WHERE relid IS NOT NULL)
           -- Anybody may give a trigger of their own this name.
           AND g.tgfoid IN (SELECT p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $3)",
    );
    let names: Vec<String> = trigger::EVENTS.iter().map(|event| trigger::name(schema, id, event)).collect();
    let rows = client.query(strays.as_str(), &[&id, &names, &schema.name(), &relation]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Drops the triggers of one watch wherever they stand.
async fn drop_triggers(client: &Client, schema: &Schema, id: i32) -> Result<(), Error> {
    for (name, relation) in triggers(client, schema, id).await? {
        super::locking::with_retries(client, schema, &relation, &format!("DROP TRIGGER IF EXISTS {name} ON {relation}")).await?;
    }
    Ok(())
}

/// Removes every trigger and then the schema.
///
/// # Errors
/// A lock that was not to be had, or a missing privilege.
pub async fn everything(client: &Client, schema: &Schema) -> Result<(), Error> {
    let all = schema.sql("SELECT id FROM items_listen.watch ORDER BY id");
    for row in client.query(all.as_str(), &[]).await? {
        drop_triggers(client, schema, row.get(0)).await?;
    }
    client.batch_execute(&format!("DROP SCHEMA {} CASCADE", schema.name())).await?;
    Ok(())
}
