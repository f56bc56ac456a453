//! Our own schema: whether it is there, of which version, and whether this role may use it.

use tokio_postgres::Client;

use super::database::Place;
use super::finding::{Findings, Id};
use super::report::Seen;
use crate::config::Install;
use crate::db::{migrate, quote, rights};
use crate::error::Error;

/// Whether the watches in the schema can be asked for.
pub(super) async fn look(client: &Client, place: &Place<'_>, findings: &mut Findings, seen: &mut Seen) -> Result<bool, Error> {
    let name = place.schema.name();
    let sql = "SELECT has_schema_privilege(oid, 'USAGE'), has_schema_privilege(oid, 'CREATE'), pg_has_role(nspowner, 'USAGE')
               FROM pg_namespace WHERE nspname = $1";
    let Some(row) = client.query_opt(sql, &[&name]).await? else {
        missing(client, place, findings, seen).await?;
        return Ok(false);
    };
    let (usage, create, owns): (bool, bool, bool) = (row.get(0), row.get(1), row.get(2));
    if !usage {
        findings.error(
            Id::SchemaPrivileges,
            "schema",
            format!("{name} is there, but {} may not use it", place.role),
            grants(place),
        );
        return Ok(false);
    }
    match migrate::version(client, place.schema).await {
        Ok(Some(version)) => versioned(client, place, version, owns, findings, seen).await,
        Ok(None) => {
            if let Err(error) = migrate::check_own(client, place.schema).await {
                let remedy = "set database.schema to a name that nothing has yet, such as items_listen";
                findings.error(Id::Schema, "schema", error.to_string(), remedy);
                return Ok(false);
            }
            seen.to_install = true;
            if create || place.database.install == Install::Manual {
                to_be_made(place, format!("{name} is there, but nothing is installed in it"), findings);
            } else {
                findings.error(
                    Id::Privileges,
                    "schema",
                    format!("{name} is there, nothing is installed in it, and {} may not create tables in it", place.role),
                    format!("GRANT USAGE, CREATE ON SCHEMA {} TO {};", quote(name), quote(&place.role)),
                );
            }
            Ok(false)
        }
        Err(error) if error.sqlstate() == Some("42501") => {
            findings.error(Id::SchemaPrivileges, "schema", error.to_string(), grants(place));
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn missing(client: &Client, place: &Place<'_>, findings: &mut Findings, seen: &mut Seen) -> Result<(), Error> {
    seen.to_install = true;
    let name = place.schema.name();
    let sql = "SELECT has_database_privilege(current_database(), 'CREATE'), current_database()::text";
    let row = client.query_one(sql, &[]).await?;
    if row.get(0) || place.database.install == Install::Manual {
        to_be_made(place, format!("{name} is not there yet"), findings);
        return Ok(());
    }
    findings.error(
        Id::Privileges,
        "schema",
        format!("{name} is not there, and {} may not create it", place.role),
        format!(
            "GRANT CREATE ON DATABASE {} TO {}; or let a DBA run what items-listen install --print says, with install = \"manual\"",
            quote(&row.get::<_, String>(1)),
            quote(&place.role)
        ),
    );
    Ok(())
}

/// What is not there yet: the daemon makes it, or somebody has to.
fn to_be_made(place: &Place<'_>, what: String, findings: &mut Findings) {
    match place.database.install {
        Install::Auto => {
            findings.info(Id::Schema, "schema", format!("{what}; the daemon or items-listen install makes it"), None)
        }
        Install::Manual => findings.warn(
            Id::Schema,
            "schema",
            format!("{what}, and install = \"manual\""),
            "items-listen install, or let a DBA run what items-listen install --print says",
        ),
    }
}

async fn versioned(
    client: &Client,
    place: &Place<'_>,
    version: i32,
    owns: bool,
    findings: &mut Findings,
    seen: &mut Seen,
) -> Result<bool, Error> {
    let (name, newest, auto) = (place.schema.name(), migrate::newest(), place.database.install == Install::Auto);
    if version > newest {
        findings.error(
            Id::SchemaVersion,
            "schema",
            format!("{name} is at version {version}, and this program knows up to {newest}"),
            "install the newer program",
        );
        return Ok(false);
    }
    if version < newest {
        seen.to_install = true;
        let what = format!("{name} is at version {version}, and this program brings it to {newest}");
        match (auto, owns) {
            (true, true) => findings.info(Id::SchemaVersion, "schema", format!("{what} when it starts"), None),
            _ => findings.warn(
                Id::SchemaVersion,
                "schema",
                what,
                "items-listen install as its owner, or let a DBA run what items-listen install --print says",
            ),
        }
        // The questions that follow are about tables that may not be there.
        return Ok(false);
    }
    if auto && !owns {
        findings.warn(
            Id::SchemaPrivileges,
            "schema",
            format!("install = \"auto\", but {} does not own {name}: it cannot change triggers or bring the schema up to date", place.role),
            "set install = \"manual\" under [database] and let the owner run items-listen install; or make this role a member of the owner",
        );
    }
    let missing = rights::missing(client, place.schema, rights::DAEMON).await?;
    if !missing.is_empty() {
        let named: Vec<String> = missing
            .iter()
            .map(|right| format!("{} on {} ({})", right.what().replace('"', ""), right.object, right.why))
            .collect();
        findings.error(
            Id::SchemaPrivileges,
            "schema",
            format!("{} lacks in {name}: {}", place.role, named.join("; ")),
            rights::grants(place.schema, &missing, &quote(&place.role)).join(" "),
        );
        return Ok(false);
    }
    stands(client, place, version, findings, seen).await?;
    Ok(true)
}

/// How the schema stands: who works in it, and what waits.
async fn stands(client: &Client, place: &Place<'_>, version: i32, findings: &mut Findings, seen: &mut Seen) -> Result<(), Error> {
    let sql = place.schema.sql(
        "SELECT (SELECT count(*) FROM items_listen.journal),
                (SELECT count(*) FROM items_listen.instance WHERE beat_at > clock_timestamp() - interval '10 s'),
                (SELECT c.system_identifier = s.system_identifier FROM items_listen.cluster c, pg_control_system() s)",
    );
    let row = client.query_one(sql.as_str(), &[]).await?;
    let (waiting, live, same): (i64, i64, Option<bool>) = (row.get(0), row.get(1), row.get(2));
    seen.daemons = live;
    findings.ok(Id::Schema, "schema", format!("{} is at version {version}, {live} daemon(s) running", place.schema.name()));
    if live == 0 && waiting > 0 {
        let what = format!("no daemon is running, and {waiting} journal rows wait");
        findings.warn(Id::Journal, "journal", what, "start it: items-listen run, or systemctl start items-listen");
    }
    if same == Some(false) {
        findings.warn(
            Id::Copy,
            "schema",
            "this database is a copy of another cluster's: what waits in its outbox is about the original, and is held",
            "items-listen deliveries retry sends it; items-listen deliveries discard --pending --all puts it away",
        );
    }
    Ok(())
}

fn grants(place: &Place<'_>) -> String {
    let (schema, role) = (quote(place.schema.name()), quote(&place.role));
    format!("GRANT USAGE ON SCHEMA {schema} TO {role}; {}", rights::grants(place.schema, rights::DAEMON, &role).join(" "))
}
