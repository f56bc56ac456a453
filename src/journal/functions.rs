//! Trigger functions of installed watches, held to this program's text.
//!
//! The same definition may be written by other functions than those that a former version made. They are replaced where they
//! are: no trigger is touched, no table is locked, no writer waits, the generation stays. The caller holds the install lock;
//! functions of a newer program's edition are left alone, so that replicas of two versions do not take turns.

use tokio_postgres::Client;

use super::definition::Definition;
use super::install::Installed;
use super::trigger::{self, EDITION, Function};
use crate::db::schema::Schema;
use crate::error::Error;

/// The functions of a watch that are not as this program makes them: of an older edition, or changed by hand, or gone.
///
/// # Errors
/// The database cannot be asked.
pub async fn stale(
    client: &Client,
    schema: &Schema,
    installed: &Installed,
    definition: &Definition,
) -> Result<Vec<Function>, Error> {
    let wanted = trigger::each_function(schema, installed.id, installed.generation, definition);
    let names: Vec<&str> = wanted.iter().map(|function| function.name.as_str()).collect();
    let found = "SELECT p.proname::text, p.prosrc,
                        p.prosecdef AND NOT has_function_privilege('public', p.oid, 'EXECUTE'), coalesce(p.proconfig, '{}')
                 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                 WHERE n.nspname = $1 AND p.proname = ANY ($2) AND p.pronargs = 0";
    let found = client.query(found, &[&schema.name(), &names]).await?;
    let found: Vec<(String, String, bool, Vec<String>)> =
        found.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    if found.iter().any(|(_, body, ..)| trigger::edition(body) > EDITION) {
        return Ok(Vec::new());
    }
    let is_right = |function: &Function| {
        found.iter().any(|(name, body, is_safe, settings)| {
            *name == function.name && body == function.body() && *is_safe && *settings == function.settings()
        })
    };
    Ok(wanted.into_iter().filter(|function| !is_right(function)).collect())
}

/// Replaces what is stale. Where this role may not, that is said, and they go on as they are.
///
/// # Errors
/// The database cannot be reached, or refuses for another reason.
pub async fn bring_up(
    client: &Client,
    schema: &Schema,
    watch: &str,
    installed: &Installed,
    definition: &Definition,
) -> Result<(), Error> {
    let stale = stale(client, schema, installed, definition).await?;
    if stale.is_empty() {
        return Ok(());
    }
    // In one transaction, as statements that are sent together are.
    let sql: String = stale
        .iter()
        .map(|function| format!("{}REVOKE ALL ON FUNCTION {}.{}() FROM PUBLIC;\n", function.create, schema.name(), function.name))
        .collect();
    match client.batch_execute(&sql).await.map_err(Error::from) {
        Ok(()) => tracing::info!(watch, functions = stale.len(), edition = EDITION, "trigger functions replaced"),
        Err(error) if error.sqlstate() == Some("42501") => say_stale(watch),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Says that functions of another version stand, and go on.
pub fn say_stale(watch: &str) {
    tracing::warn!(
        watch,
        "its trigger functions are not this version's, and go on as they are: run items-listen install as their owner"
    );
}
