//! The numbered migrations of `sql/`, applied by refinery.

use refinery::{Migration, Runner};
use tokio_postgres::Client;

use super::alive::{self, Backend};
use super::holder::Holder;
use super::locks::Lock;
use super::schema::Schema;
use super::session::Connector;
use crate::error::Error;

/// Every migration: its file's name without `.sql`, and its text.
const MIGRATIONS: [(&str, &str); 7] = [
    ("V1__journal_count_outbox", include_str!("../../sql/V1__journal_count_outbox.sql")),
    ("V2__storm_collapse_retention", include_str!("../../sql/V2__storm_collapse_retention.sql")),
    ("V3__measures_changes_thresholds", include_str!("../../sql/V3__measures_changes_thresholds.sql")),
    ("V4__leased_apart_unread_edits", include_str!("../../sql/V4__leased_apart_unread_edits.sql")),
    ("V5__key_types_transitions", include_str!("../../sql/V5__key_types_transitions.sql")),
    ("V6__writers_never_wait", include_str!("../../sql/V6__writers_never_wait.sql")),
    ("V7__changes_stay_where_they_are", include_str!("../../sql/V7__changes_stay_where_they_are.sql")),
];

/// How often, and with which pause, the install lock is tried: about a minute.
const LOCK_TRIES_MAX: u32 = 300;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

/// The newest version that this program knows.
pub fn newest() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

fn migrations(schema: &Schema) -> Result<Vec<Migration>, Error> {
    let unapplied = |(name, sql): &(&str, &str)| {
        Migration::unapplied(name, &schema.sql(sql)).map_err(|error| Error::Failed(format!("migration {name}: {error}")))
    };
    MIGRATIONS.iter().map(unapplied).collect()
}

fn history(schema: &Schema) -> String {
    format!("{}.schema_history", schema.name())
}

/// The version in the database; `None` where nothing is installed.
///
/// # Errors
/// The database cannot be asked.
pub async fn version(client: &Client, schema: &Schema) -> Result<Option<i32>, Error> {
    let exists = "SELECT to_regclass($1) IS NOT NULL";
    if !client.query_one(exists, &[&history(schema)]).await?.get::<_, bool>(0) {
        return Ok(None);
    }
    let newest = format!("SELECT max(version)::int FROM {}", history(schema));
    Ok(client.query_one(newest.as_str(), &[]).await?.get(0))
}

/// Refuses a schema that is newer than the program.
///
/// # Errors
/// [`Error::SchemaTooNew`], or the database cannot be asked.
pub async fn check_version(client: &Client, schema: &Schema) -> Result<Option<i32>, Error> {
    let found = version(client, schema).await?;
    match found {
        Some(found) if found > newest() => Err(Error::SchemaTooNew { found, known: newest() }),
        found => Ok(found),
    }
}

/// Refuses a database that cannot store every text: an endpoint's answer, or a message, could then not be written.
///
/// # Errors
/// The encoding, and what to do.
pub async fn check_encoding(client: &Client) -> Result<(), Error> {
    let encoding: String = client.query_one("SELECT current_setting('server_encoding')", &[]).await?.get(0);
    if encoding == "UTF8" {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "the database's encoding is {encoding}, and UTF8 is needed: an event or an answer may hold any character; dump it and restore it into a database WITH ENCODING 'UTF8'"
    )))
}

/// Refuses a schema in which something of others stands already: `uninstall` drops it with all that is in it.
///
/// # Errors
/// What stands there, and what to do.
pub async fn check_own(client: &Client, schema: &Schema) -> Result<(), Error> {
    if version(client, schema).await?.is_some() {
        return Ok(());
    }
    let others = "SELECT string_agg(quote_ident(relname), ', ' ORDER BY relname) FROM (
                      SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                      WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') ORDER BY 1 LIMIT 3) AS others";
    let found: Option<String> = client.query_one(others, &[&schema.name()]).await?.get(0);
    found.map_or(Ok(()), |found| {
        Err(Error::Failed(format!(
            "database.schema: the schema {} has tables that are not ours ({found}); give items-listen a schema of its own, since \
             uninstall drops it with all that is in it",
            schema.name()
        )))
    })
}

/// Refuses to install as a superuser into a schema of somebody who is none: its owner could put other tables into the place of
/// ours, and with them code of theirs into what then runs as us.
async fn check_owner(client: &Client, schema: &Schema) -> Result<(), Error> {
    let foreign =
        "SELECT quote_ident(o.rolname), quote_ident(current_user) FROM pg_namespace n JOIN pg_roles o ON o.oid = n.nspowner
                   WHERE n.nspname = $1 AND NOT o.rolsuper AND (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)";
    let Some(row) = client.query_opt(foreign, &[&schema.name()]).await? else { return Ok(()) };
    let (owner, us): (String, String) = (row.get(0), row.get(1));
    Err(Error::Failed(format!(
        "the schema {name} belongs to {owner}, and we are {us}, a superuser: install as {owner}, or say ALTER SCHEMA {name} OWNER TO {us}",
        name = schema.name()
    )))
}

/// Brings the schema up to date, on a session that may be silent for as long as it takes ([`Purpose::Migrate`]), under the
/// install lock.
///
/// # Errors
/// A newer schema, a missing privilege, a database that cannot be reached.
///
/// [`Purpose::Migrate`]: super::session::Purpose::Migrate
pub async fn locked(connector: &Connector, client: &mut Client, schema: &Schema) -> Result<(), Error> {
    let backend = Backend::of(client).await?;
    alive::with(connector, &backend, async {
        let lock = InstallLock::take(client, schema).await?;
        run(client, schema).await?;
        lock.release(client).await;
        Ok(())
    })
    .await
}

/// Brings the schema up to date. The caller holds the install lock.
async fn run(client: &mut Client, schema: &Schema) -> Result<(), Error> {
    if check_version(client, schema).await? == Some(newest()) {
        return Ok(());
    }
    check_encoding(client).await?;
    check_own(client, schema).await?;
    check_owner(client, schema).await?;
    // refinery's own history table is in the schema, so the schema comes first.
    client.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {}", schema.name())).await?;
    let mut runner = Runner::new(&migrations(schema)?).set_abort_divergent(false);
    runner.set_migration_table_name(history(schema));
    runner.run_async(client).await.map_err(|error| Error::Failed(format!("migration: {}", causes(&error))))?;
    Ok(())
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = match cause.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::as_db_error) {
            Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
            None => cause.to_string(),
        };
        text = format!("{text}: {said}");
        source = cause.source();
    }
    text
}

/// The migrations as one script that a DBA can read and run, twice if need be.
///
/// # Errors
/// None in practice: our own files are well named.
pub fn script(schema: &Schema) -> Result<String, Error> {
    let history = history(schema);
    let mut script = format!(
        "CREATE SCHEMA IF NOT EXISTS {};\n\
         CREATE TABLE IF NOT EXISTS {history} (version int4 PRIMARY KEY, name varchar(255), applied_on varchar(255), checksum varchar(255));\n",
        schema.name()
    );
    for migration in migrations(schema)? {
        let sql = migration.sql().unwrap_or_default();
        script.push_str(&format!(
            "\nDO $migration$ BEGIN IF NOT EXISTS (SELECT FROM {history} WHERE version = {version}) THEN\n\
             EXECUTE $version_{version}$\n{sql}$version_{version}$;\n\
             INSERT INTO {history} VALUES ({version}, '{name}', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), '{checksum}');\n\
             END IF; END $migration$;\n",
            version = migration.version(),
            name = migration.name(),
            checksum = migration.checksum(),
        ));
    }
    Ok(script)
}

/// The install lock, so that concurrent installers do not collide. Held until it is released, or its
/// session ends.
#[derive(Debug)]
pub struct InstallLock {
    key: String,
}

impl InstallLock {
    /// Waits for the lock.
    ///
    /// # Errors
    /// Another installer does not come to an end.
    pub async fn take(client: &Client, schema: &Schema) -> Result<InstallLock, Error> {
        // Before the first installation there is no schema whose oid the key could come from.
        let key = format!("({} | (hashtext('{}')::bigint & 4294967295))", Lock::Install.base(), schema.name());
        let try_lock = format!("SELECT pg_try_advisory_lock({key})");
        for _ in 0..LOCK_TRIES_MAX {
            if client.query_one(try_lock.as_str(), &[]).await?.get::<_, bool>(0) {
                return Ok(InstallLock { key });
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
        let holder = Holder::of_advisory(client, &key).await?;
        let holder = holder.map_or_else(String::new, |holder| format!(" ({holder})"));
        Err(Error::Failed(format!(
            "another installer has been at work for a minute{holder}; try again when it is done, or end it if it is none of ours"
        )))
    }

    /// Releases the lock.
    pub async fn release(self, client: &Client) {
        // If the session is lost, its locks are gone with it.
        let _released = client.batch_execute(&format!("SELECT pg_advisory_unlock({})", self.key)).await;
    }
}
