//! Takes a watch, or everything, out of the database again.

use tokio_postgres::Client;
use uuid::Uuid;

use super::trigger;
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
    let resolve = schema.sql(
        "UPDATE items_listen.episode SET resolved_at = clock_timestamp(), changed_at = clock_timestamp(), reason = 'disabled', severity = 'info'
         WHERE watch = $1 AND resolved_at IS NULL",
    );
    transaction.execute(resolve.as_str(), &[&name]).await?;
    for table in ["count", "marker"] {
        let delete = schema.sql(&format!("DELETE FROM items_listen.{table} WHERE watch = $1"));
        transaction.execute(delete.as_str(), &[&id]).await?;
    }
    let delete = schema.sql("DELETE FROM items_listen.watch WHERE id = $1");
    transaction.execute(delete.as_str(), &[&id]).await?;
    transaction.batch_execute(&trigger::drop_functions(schema, id)).await?;
    transaction.commit().await?;
    tracing::info!(watch = name, "watch removed: it is no longer in the configuration");
    Ok(())
}

/// Drops the triggers of one watch wherever they stand.
async fn drop_triggers(client: &Client, schema: &Schema, id: i32) -> Result<(), Error> {
    let mine = "SELECT g.tgname::text, g.tgrelid::regclass::text FROM pg_trigger g
                WHERE g.tgname = ANY ($1) AND NOT g.tgisinternal
                  -- Anybody may give a trigger of their own this name.
                  AND g.tgfoid IN (SELECT p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $2)
                ORDER BY 2, 1";
    let names: Vec<String> = trigger::EVENTS.iter().map(|event| trigger::name(schema, id, event)).collect();
    for row in client.query(mine, &[&names, &schema.name()]).await? {
        let (name, relation): (String, String) = (row.get(0), row.get(1));
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
