//! The second depth: from connecting to what stands in the schema.

use std::time::Duration;

use tokio_postgres::Client;

use super::finding::{Findings, Id};
use super::progress::told;
use super::report::Seen;
use super::{locked, safety, schema, server, watches};
use crate::config::{Config, Database};
use crate::db::explain::{self, Cause};
use crate::db::schema::Schema;
use crate::db::session::{Connector, Purpose};
use crate::error::Error;

/// A person waits: what does not connect by then is said not to answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(8);

/// What the questions share.
pub(super) struct Place<'a> {
    pub(super) config: &'a Config,
    pub(super) database: &'a Database,
    pub(super) connector: &'a Connector,
    pub(super) schema: &'a Schema,
    /// The role that we are.
    pub(super) role: String,
    /// Whether counts are to be compared with the tables.
    pub(super) recount: bool,
}

/// Looks at the database, as deep as it can.
pub(super) async fn look(config: &Config, recount: bool) -> (Findings, Seen) {
    let (mut findings, mut seen) = (Findings::default(), Seen::default());
    let Some(database) = &config.database else {
        findings.error(Id::NoDatabase, "database", "no database is configured", "set url under [database], or DATABASE_URL");
        return (findings, seen);
    };
    let connector = match Connector::new(&database.url, &database.schema) {
        Ok(connector) => connector,
        Err(error) => {
            findings.error(Id::DatabaseUrl, "database", error.to_string(), "correct it in the configuration");
            return (findings, seen);
        }
    };
    let schema = Schema::new(&database.schema);
    let what = format!("connecting to {}", connector.describe());
    let connected = told(&what, Box::pin(connect(&connector, &mut findings))).await;
    match connected {
        Ok(Some((mut client, role))) => {
            let place = Place { config, database, connector: &connector, schema: &schema, role, recount };
            let looked = match Box::pin(inside(&mut client, &place, &mut findings, &mut seen)).await {
                Err(error) if error.is_locked() => locked::found(&client, "database", None, &error, &mut findings).await,
                looked => looked,
            };
            if let Err(error) = looked {
                interrupted(&error, &connector, &mut findings);
            }
        }
        Ok(None) => {}
        Err(error) => no_session(&error, &connector, &mut findings),
    }
    (findings, seen)
}

/// Opens a session that can be worked in; `None` where the finding says why it cannot.
async fn connect(connector: &Connector, findings: &mut Findings) -> Result<Option<(Client, String)>, Error> {
    let late = |_| Error::Unavailable(format!("{} did not answer within {CONNECT_WITHIN:?}", connector.describe()));
    // Before any setting is made: in a pooler it would be left behind in a session that is the application's next.
    if tokio::time::timeout(CONNECT_WITHIN, connector.is_pooled()).await.map_err(late)?? {
        findings.error(
            Id::Pooler,
            "database",
            format!(
                "{}: a pooler such as PgBouncer in transaction mode is in the way: LISTEN and session locks cannot work through it",
                connector.describe()
            ),
            "set database.url to the host and port of PostgreSQL itself, or to a pool in session mode; the application may keep its own",
        );
        return Ok(None);
    }
    let bare = connector.bare(Purpose::Work).await?;
    let Some(role) = server::greet(&bare, connector, findings).await? else { return Ok(None) };
    drop(bare);
    Ok(Some((connector.session(Purpose::Install).await?, role)))
}

/// Why there is no session, and what to do.
fn no_session(error: &Error, connector: &Connector, findings: &mut Findings) {
    findings.unreachable = true;
    let id = Cause::of(error).map_or(Id::SessionOther, Id::Session);
    let what = format!("{}: {error}", connector.describe());
    let remedy =
        explain::remedy(error, connector).unwrap_or_else(|| "do host, port, user and password of database.url fit?".to_owned());
    findings.error(id, "database", what, remedy);
}

/// What kept a question from being answered.
pub(super) fn interrupted(error: &Error, connector: &Connector, findings: &mut Findings) {
    if error.is_about_the_server() {
        return no_session(error, connector, findings);
    }
    findings.error(
        Id::Interrupted,
        "database",
        format!("a question could not be answered: {error}"),
        "check again; if it stays, connect as the role that installed the schema, or as one that it was granted to",
    );
}

async fn inside(client: &mut Client, place: &Place<'_>, findings: &mut Findings, seen: &mut Seen) -> Result<(), Error> {
    seen.database = true;
    server::look(client, place, findings).await?;
    let installed = schema::look(client, place, findings, seen).await?;
    safety::look(client, place, installed, findings).await?;
    Box::pin(watches::look(client, place, installed, findings, seen)).await
}
