//! `items-listen check`: file, database, endpoints; every finding with its remedy, and a verdict.

use std::time::Duration;

use serde::Serialize;

use super::{plain, print};
use crate::config::{self, Config, Location, Target};
use crate::db::migrate;
use crate::db::session::{Connector, Purpose};
use crate::error::Error;
use crate::journal::definition::Definition;
use crate::journal::install;
use crate::pusher::classify::{Answer, effective_status};
use crate::pusher::client::Client;
use crate::source::sweep;
use crate::watch::{Source, Watch};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    subject: String,
    what: String,
    remedy: Option<String>,
}

#[derive(Default)]
struct Findings {
    all: Vec<Finding>,
    unreachable: bool,
}

impl Findings {
    fn add(&mut self, level: Level, subject: &str, what: impl Into<String>, remedy: Option<String>) {
        self.all.push(Finding { level, subject: subject.to_owned(), what: what.into(), remedy });
    }

    fn ok(&mut self, subject: &str, what: impl Into<String>) {
        self.add(Level::Ok, subject, what, None);
    }

    fn warn(&mut self, subject: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Warning, subject, what, Some(remedy.into()));
    }

    fn error(&mut self, subject: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Error, subject, what, Some(remedy.into()));
    }

    fn is_well(&self) -> bool {
        self.all.iter().all(|finding| finding.level == Level::Ok)
    }
}

/// Looks at everything.
pub(super) async fn run(location: &Location, offline: bool, json: bool) -> Result<u8, Error> {
    let config = config::load(location)?;
    let mut findings = Findings::default();
    findings.ok("file", format!("{}: watches: {}, endpoints: {}", config.file, config.watches.len(), config.endpoints.len()));
    look_at_channels(&config, &mut findings);
    if !offline {
        look_at_database(&config, &mut findings).await;
        look_at_endpoints(&config, &mut findings).await;
    }
    show(&findings, json);
    Ok(match (findings.unreachable, findings.is_well()) {
        (true, _) => 69,
        (false, false) => 1,
        (false, true) => 0,
    })
}

fn show(findings: &Findings, json: bool) {
    if json {
        let document = serde_json::json!({ "ok": findings.is_well(), "findings": findings.all });
        print(&document.to_string());
        return;
    }
    for finding in &findings.all {
        let mark = match finding.level {
            Level::Ok => "ok     ",
            Level::Warning => "warning",
            Level::Error => "error  ",
        };
        print(&format!("{mark}  {}: {}", finding.subject, plain(&finding.what)));
        if let Some(remedy) = &finding.remedy {
            print(&format!("         → {}", plain(remedy)));
        }
    }
    let open = findings.all.iter().filter(|finding| finding.level != Level::Ok).count();
    print(&match open {
        0 => "\nAll is well. Next: items-listen run, and items-listen --trigger COUNT to see an alert arrive.".to_owned(),
        1 => "\n1 finding: mend it as said above, and check again.".to_owned(),
        open => format!("\n{open} findings: mend them as said above, and check again."),
    });
}

/// A value's `-` and `_` are not encoded: where one touches a literal, two values could share a channel.
fn look_at_channels(config: &Config, findings: &mut Findings) {
    for watch in &config.watches {
        for template in watch.rules.iter().flat_map(|rule| &rule.channels) {
            let source = template.source();
            if source.contains("}}-")
                || source.contains("}}_")
                || source.contains("-{{") && source.matches("{{").count() > 1
                || source.contains("}}{{")
            {
                findings.warn(
                    &format!("watch {}", watch.name),
                    format!("in the channel \"{source}\" values are not separated by a dot: two keys could share a channel"),
                    "separate values with \".\"",
                );
            }
        }
    }
}

async fn look_at_database(config: &Config, findings: &mut Findings) {
    let Some(database) = &config.database else {
        findings.error("database", "no database is configured", "set url under [database], or DATABASE_URL");
        return;
    };
    let schema = crate::db::schema::Schema::new(&database.schema);
    let connector = match Connector::new(&database.url, &database.schema) {
        Ok(connector) => connector,
        Err(error) => return findings.error("database", error.to_string(), "correct it in the configuration"),
    };
    if let Err(error) = connector.require_direct().await
        && error.to_string().contains("PgBouncer")
    {
        return findings.error("database", error.to_string(), "set database.url to the host and port of PostgreSQL itself");
    }
    let mut client = match connector.session(Purpose::Install).await {
        Ok(client) => client,
        Err(error) => {
            findings.unreachable = true;
            findings.error(
                "database",
                format!("{}: {error}", connector.describe()),
                "is the server running, and do host, port, user and password of database.url fit?",
            );
            return;
        }
    };
    if let Err(error) = look_inside(&mut client, config, &schema, findings).await {
        findings.error("database", error.to_string(), "see the message");
    }
}

async fn look_inside(
    client: &mut tokio_postgres::Client,
    config: &Config,
    schema: &crate::db::schema::Schema,
    findings: &mut Findings,
) -> Result<(), Error> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(), current_user::text,
                    current_setting('max_prepared_transactions')::int, pg_notification_queue_usage()",
            &[],
        )
        .await?;
    let (version, number, standby, user, prepared, queue): (String, i32, bool, String, i32, f64) =
        (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5));
    findings.ok("database", format!("PostgreSQL {version}, as {user}"));
    if number < 140_000 {
        findings.error("database", "PostgreSQL 14 or newer is needed", "upgrade the server");
    }
    if standby {
        findings.error(
            "database",
            "this is a standby: nothing can be listened to or written",
            "point database.url at the primary",
        );
        return Ok(());
    }
    if prepared > 0 {
        findings.ok("doorbell", "max_prepared_transactions is above 0: the doorbell is off, a quicker poll takes its place");
    }
    if queue > 0.1 {
        findings.warn(
            "database",
            format!("the notification queue is {:.0} % full", queue * 100.0),
            "some session listens and does not read",
        );
    }
    if let Err(error) = migrate::check_encoding(client).await {
        findings.error("database", error.to_string(), "see the message");
    }
    if let Err(error) = install::check_publications(client, schema, false).await {
        findings.error("publication", error.to_string(), "see the message");
    }
    let installed = look_at_schema(client, schema, findings).await?;
    for watch in &config.watches {
        look_at_watch(client, schema, watch, installed, findings).await?;
    }
    Ok(())
}

async fn look_at_schema(
    client: &tokio_postgres::Client,
    schema: &crate::db::schema::Schema,
    findings: &mut Findings,
) -> Result<bool, Error> {
    match migrate::check_version(client, schema).await {
        Ok(Some(version)) => {
            let waiting: i64 =
                client.query_one(schema.sql("SELECT count(*) FROM items_listen.journal").as_str(), &[]).await?.get(0);
            let live =
                schema.sql("SELECT count(*) FROM items_listen.instance WHERE beat_at > clock_timestamp() - interval '10 s'");
            let live: i64 = client.query_one(live.as_str(), &[]).await?.get(0);
            findings.ok("schema", format!("{} is at version {version}, {live} daemon(s) running", schema.name()));
            if live == 0 && waiting > 0 {
                findings.warn("journal", format!("no daemon is running, and {waiting} journal rows wait"), "start items-listen");
            }
            Ok(true)
        }
        Ok(None) => {
            let may: bool = client.query_one("SELECT has_database_privilege(current_database(), 'CREATE')", &[]).await?.get(0);
            if may {
                findings.ok("schema", format!("{} is not there yet; the daemon or items-listen install makes it", schema.name()));
            } else {
                findings.error(
                    "schema",
                    format!("{} is not there, and this role may not create it", schema.name()),
                    "GRANT CREATE ON DATABASE … TO this role, or let a DBA run what items-listen install --print says",
                );
            }
            Ok(false)
        }
        Err(error) => {
            let remedy = match error {
                Error::SchemaTooNew { .. } => "install the newer program",
                _ => "connect as the role that installed the schema, or as one that it was granted to",
            };
            findings.error("schema", error.to_string(), remedy);
            Ok(false)
        }
    }
}

async fn look_at_watch(
    client: &mut tokio_postgres::Client,
    schema: &crate::db::schema::Schema,
    watch: &Watch,
    installed: bool,
    findings: &mut Findings,
) -> Result<(), Error> {
    let subject = format!("watch {}", watch.name);
    if let Err(error) = install::prove_lookup(client, watch).await {
        findings.error(&subject, error.to_string(), "correct lookup in the configuration");
    }
    let definition = match (Definition::of(client, watch).await, &watch.source) {
        (Ok(Some(definition)), _) => definition,
        (Ok(None), Source::Query { sql, every }) => {
            match sweep::Sweep::of(client, schema, watch, sql).await {
                Ok(_) => findings.ok(&subject, format!("a query, asked every {every:?}")),
                Err(error) => {
                    findings.error(&subject, error.to_string(), "correct query, key, sum or value in the configuration")
                }
            }
            return Ok(());
        }
        (Ok(None), _) => {
            findings.ok(&subject, "an application's NOTIFY");
            return Ok(());
        }
        (Err(error), _) => {
            findings.error(&subject, error.to_string(), "correct table and key in the configuration");
            return Ok(());
        }
    };
    let Some(relation) = watch.source.relation() else { return Ok(()) };
    let privileges = "SELECT has_table_privilege($1, 'SELECT'), has_table_privilege($1, 'TRIGGER')";
    let row = client.query_one(privileges, &[&definition.relation]).await?;
    let may_read: bool = row.get(0);
    for (privilege, has) in [("SELECT", may_read), ("TRIGGER", row.get::<_, bool>(1))] {
        if !has {
            let user: String = client.query_one("SELECT current_user::text", &[]).await?.get(0);
            findings.error(
                &subject,
                format!("{privilege} on {relation} is missing"),
                format!("GRANT {privilege} ON {} TO {};", definition.relation, crate::db::quote(&user)),
            );
        }
    }
    let owns = "SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = to_regclass($1)";
    if !client.query_one(owns, &[&definition.relation]).await?.get::<_, bool>(0) {
        findings.warn(
            &subject,
            format!("this role may put triggers on {relation}, but not take them away or change their definition under a lock"),
            "let the table's owner run items-listen install and uninstall, or make this role a member of it",
        );
    }
    if !may_read {
        return Ok(());
    }
    if let Err(error) = definition.prove_immutable(client).await {
        findings.error(&subject, error.to_string(), "correct where in the configuration");
        return Ok(());
    }
    let found = if installed { install::find(client, schema, &watch.name).await? } else { None };
    let Some((found, text)) = found else {
        findings.ok(&subject, format!("{relation} will be watched once it is installed"));
        return Ok(());
    };
    if text != definition.text() {
        findings.warn(&subject, "its definition in the database is another", "items-listen install, or restart the daemon");
        return Ok(());
    }
    let missing = install::findings(client, schema, found.id).await?;
    if missing.is_empty() {
        findings.ok(&subject, format!("{relation}, triggers in place"));
    } else {
        let what: Vec<String> = missing
            .iter()
            .map(|finding| format!("{} {}", finding.kind, finding.relation.as_deref().unwrap_or_default()).trim().to_owned())
            .collect();
        findings.warn(
            &subject,
            format!("triggers: {}", what.join(", ")),
            "items-listen install, or a running daemon within a second",
        );
    }
    Ok(())
}

async fn look_at_endpoints(config: &Config, findings: &mut Findings) {
    for endpoint in &config.endpoints {
        let subject = format!("endpoint {}", endpoint.name);
        let Target::Pusher(pusher) = &endpoint.target else {
            findings.ok(&subject, "lines on stdout");
            continue;
        };
        let client = match Client::new(pusher, endpoint.timeout.min(Duration::from_secs(10))) {
            Ok(client) => client,
            Err(error) => {
                findings.error(&subject, error.to_string(), "see the message");
                continue;
            }
        };
        let started = std::time::Instant::now();
        let answer = client.get("channels", &[]).await;
        let ms = started.elapsed().as_millis();
        judge(&subject, &pusher.url, &answer, ms, findings);
    }
}

fn judge(subject: &str, url: &url::Url, answer: &Answer, ms: u128, findings: &mut Findings) {
    match answer {
        Answer::Http { status, body, .. } => match effective_status(*status, body) {
            200..=299 => findings.ok(subject, format!("{url} accepts our signature, {status} in {ms} ms")),
            401 | 403 => findings.error(
                subject,
                format!("{url} refuses our signature ({status}): {body}"),
                "compare key and secret with the server's; is this machine's clock right (600 s are allowed)?",
            ),
            404 => {
                findings.error(subject, format!("{url} knows no such application: {body}"), "compare app_id with the server's")
            }
            other => findings.error(
                subject,
                format!("{url} answers {other}: {body}"),
                "is this the HTTP API of a Pusher-compatible server?",
            ),
        },
        Answer::NoConnection(error) => {
            findings.unreachable = true;
            findings.error(subject, format!("{url}: {error}"), "is the server running, and do host and port fit?");
        }
        Answer::TimedOut => {
            findings.unreachable = true;
            findings.error(subject, format!("{url} does not answer"), "is there a firewall in the way?");
        }
    }
}
