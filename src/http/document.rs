//! What the status page shows: what the database knows (`sql/page.sql`), what only the configuration knows (bands, sources),
//! and what only this process knows (version, readiness, speed). A format between the program and its own page.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use super::hide;
use super::keys::{self, FoundKey, FoundThresholds, Past, ShownKey};
use crate::config::{Hide, Install};
use crate::daemon::Daemon;
use crate::daemon::folds::Fold;
use crate::db::session::{INDEXES_ALWAYS, Purpose};
use crate::dispatch::lock;
use crate::error::Error;
use crate::severity::Severity;
use crate::watch::{Measure, Source, Watch};

/// How long the statement may take.
const READ_AT_MOST: Duration = Duration::from_secs(5);
/// A bitmap is made of all that an index finds, whatever LIMIT follows.
const NO_BITMAPS: &str = " SET enable_bitmapscan = off;";
/// So much of a query or condition is shown, in characters.
const SQL_CHARS_SHOWN: usize = 200;

/// Reads from the database, on a session of its own that is opened when it is first needed.
#[derive(Default)]
pub(super) struct Reader {
    session: Option<Session>,
}

struct Session {
    client: Client,
    statement: Statement,
    /// For which daemon it was opened: a reload may have changed where it is to lead.
    instance: Uuid,
}

impl Reader {
    /// What the database says, as JSON.
    ///
    /// # Errors
    /// It cannot be reached, or nothing is installed. The next call begins anew.
    pub(super) async fn read(&mut self, daemon: &Daemon) -> Result<String, Error> {
        let is_ours = |session: &Session| session.instance == daemon.instance && !session.client.is_closed();
        let session = match self.session.take().filter(is_ours) {
            Some(session) => session,
            None => {
                let client = daemon.connector.session(Purpose::Read { at_most: READ_AT_MOST }).await?;
                client.batch_execute(&format!("{INDEXES_ALWAYS}{NO_BITMAPS}")).await?;
                let statement = client.prepare(&daemon.schema.sql(include_str!("../../sql/page.sql"))).await?;
                Session { client, statement, instance: daemon.instance }
            }
        };
        let watches = &daemon.config.watches;
        let names: Vec<&str> = watches.iter().map(|watch| watch.name.as_str()).collect();
        let low: Vec<bool> = watches.iter().map(|watch| watch.policy.scale.compare.is_low()).collect();
        let sums: Vec<bool> = watches.iter().map(|watch| watch.measure != Measure::Rows).collect();
        let endpoints: Vec<&str> = daemon.config.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
        let instances = lock(&daemon.process.instances).clone();
        let row = session
            .client
            .query_one(&session.statement, &[&names, &low, &sums, &endpoints, &daemon.instance, &instances])
            .await?;
        self.session = Some(session);
        Ok(row.try_get::<_, &str>(0)?.to_owned())
    }
}

/// What `sql/page.sql` gives. What is merely passed on has no form here.
#[derive(Deserialize)]
struct Found {
    now: Timestamp,
    watches: Vec<FoundWatch>,
    watches_left_out: i64,
    database: Value,
    endpoints: Value,
    delay: Value,
    alerts: Value,
}

#[derive(Deserialize)]
struct FoundWatch {
    rows: Vec<FoundKey>,
    events: Vec<Past>,
    thresholds: FoundThresholds,
    columns: Vec<String>,
    #[serde(flatten)]
    facts: WatchFacts,
}

/// What of a watch is passed on as it is.
#[derive(Deserialize, Serialize, Default)]
struct WatchFacts {
    name: String,
    source: String,
    error: Option<String>,
    error_at: Option<Timestamp>,
    keys: i64,
    open: [i64; 3],
    dirty: i64,
    recount: Option<String>,
    digest_due_at: Option<Timestamp>,
    last_transition_at: Option<Timestamp>,
}

/// The document.
#[derive(Serialize)]
struct Document<'a> {
    /// The database's clock, or this machine's where the database does not answer.
    now: Timestamp,
    process: Process<'a>,
    /// Why there is no `state`.
    error: Option<&'a str>,
    state: Option<State>,
}

#[derive(Serialize)]
struct State {
    watches: Vec<ShownWatch>,
    watches_left_out: i64,
    database: Value,
    endpoints: Value,
    delay: Value,
    alerts: Value,
}

#[derive(Serialize)]
struct Process<'a> {
    version: &'static str,
    pid: u32,
    started_at: Timestamp,
    config_file: &'a str,
    config_hash: &'a str,
    database: String,
    schema: &'a str,
    poll_ms: u128,
    installs: bool,
    ready: bool,
    reason: String,
    unready_since: Option<Timestamp>,
    /// The database is a copy: nothing is sent.
    held: bool,
    /// When the last reload was asked for, and whether it was taken.
    reload: Option<(Timestamp, bool)>,
    /// What is not told here: `[http] hide`.
    hidden: Vec<&'static str>,
    rows_per_second: f64,
    rows_folded: u64,
    last_fold: Option<Fold>,
}

#[derive(Serialize)]
struct ShownWatch {
    #[serde(flatten)]
    facts: WatchFacts,
    /// It is in this daemon's configuration.
    is_ours: bool,
    is_installed: bool,
    /// Anything is counted; otherwise changes of rows are told.
    counts: bool,
    what: String,
    measure: Option<&'static str>,
    threshold_column: Option<String>,
    scale: Option<ShownScale>,
    shown: Vec<ShownKey>,
}

#[derive(Serialize)]
struct ShownScale {
    compare: &'static str,
    is_low: bool,
    /// Warning, high and critical, in percent of the threshold.
    edges: [u32; 3],
    hold_seconds: i64,
    clear_hold_seconds: i64,
}

/// The document from what the database said.
pub(super) fn build(daemon: &Daemon, found: &str) -> String {
    match serde_json::from_str::<Found>(found) {
        Ok(found) => {
            let now = found.now;
            let state = State {
                watches: watches(daemon, found.watches),
                watches_left_out: found.watches_left_out,
                database: found.database,
                endpoints: found.endpoints,
                delay: found.delay,
                alerts: found.alerts,
            };
            text(daemon, &Document { now, process: process(daemon, now), error: None, state: Some(state) })
        }
        Err(error) => without_database(daemon, &format!("what the database says is not what it should be: {error}")),
    }
}

/// The document of this process alone.
pub(super) fn without_database(daemon: &Daemon, error: &str) -> String {
    let now = Timestamp::now();
    text(daemon, &Document { now, process: process(daemon, now), error: Some(error), state: None })
}

fn text(daemon: &Daemon, document: &Document<'_>) -> String {
    let hide = super::hidden(daemon);
    let text = if hide == Hide::default() {
        serde_json::to_string(document)
    } else {
        serde_json::to_value(document).map(|mut document| {
            hide::document(hide, &mut document);
            document.to_string()
        })
    };
    text.unwrap_or_else(|error| serde_json::json!({ "error": error.to_string() }).to_string())
}

fn process(daemon: &Daemon, now: Timestamp) -> Process<'_> {
    let health = &daemon.health;
    let before = |ago: Duration| now.saturating_sub(SignedDuration::try_from(ago).unwrap_or_default()).unwrap_or(now);
    let ready = health.is_ready();
    Process {
        version: crate::version::VERSION,
        pid: std::process::id(),
        started_at: before(health.uptime()),
        config_file: &daemon.config.file,
        config_hash: &daemon.config.hash,
        database: daemon.connector.describe(),
        schema: daemon.schema.name(),
        poll_ms: daemon.database.poll.as_millis(),
        installs: daemon.database.install == Install::Auto,
        ready,
        reason: if ready { String::new() } else { health.reason() },
        unready_since: health.unready_for().map(before),
        held: daemon.dispatch.is_held(),
        reload: health.reload().map(|reload| (reload.at, reload.successful)),
        hidden: super::hidden(daemon).words(),
        rows_per_second: health.folds().rows_per_second(),
        rows_folded: health.folds().rows(),
        last_fold: health.folds().last(),
    }
}

/// The watches that are installed, in the order of the configuration; then those that are not installed yet.
fn watches(daemon: &Daemon, found: Vec<FoundWatch>) -> Vec<ShownWatch> {
    let mut shown: Vec<ShownWatch> = Vec::with_capacity(found.len());
    for found in found {
        let watch = daemon.config.watch(&found.facts.name);
        let keys = keys::shown(watch, &found.columns, found.rows, &found.thresholds, found.events);
        shown.push(describe(found.facts, watch, keys, true));
    }
    for watch in &daemon.config.watches {
        if !shown.iter().any(|shown| shown.facts.name == watch.name) && shown.len() < WATCHES_MAX {
            let facts = WatchFacts { name: watch.name.clone(), source: watch.source.kind().to_owned(), ..WatchFacts::default() };
            shown.push(describe(facts, Some(watch), Vec::new(), false));
        }
    }
    shown
}

/// As many as `sql/page.sql` gives.
const WATCHES_MAX: usize = 100;

fn describe(facts: WatchFacts, watch: Option<&Watch>, shown: Vec<ShownKey>, is_installed: bool) -> ShownWatch {
    ShownWatch {
        facts,
        is_ours: watch.is_some(),
        is_installed,
        counts: watch.is_none_or(Watch::counts),
        what: watch.map(what).unwrap_or_default(),
        measure: watch.map(|watch| watch.measure.word()),
        threshold_column: watch.and_then(|watch| watch.threshold_column.clone()),
        scale: watch.map(scale),
        shown,
    }
}

fn scale(watch: &Watch) -> ShownScale {
    let scale = watch.policy.scale;
    ShownScale {
        compare: scale.compare.as_str(),
        is_low: scale.compare.is_low(),
        edges: [Severity::Warning, Severity::High, Severity::Critical]
            .map(|severity| scale.bands.edge(severity).unwrap_or_default()),
        hold_seconds: watch.policy.hold.as_secs(),
        clear_hold_seconds: watch.policy.clear_hold.as_secs(),
    }
}

/// The source in words.
fn what(watch: &Watch) -> String {
    let short = |sql: &str| {
        let sql = sql.split_whitespace().collect::<Vec<_>>().join(" ");
        if sql.chars().count() > SQL_CHARS_SHOWN { sql.chars().take(SQL_CHARS_SHOWN).chain(['…']).collect() } else { sql }
    };
    let measure = match &watch.measure {
        Measure::Rows => String::new(),
        Measure::Sum(expression) => format!("sum of {} in ", short(expression)),
        Measure::Value(expression) => format!("{} in ", short(expression)),
    };
    match &watch.source {
        Source::Table { relation, condition: Some(condition) } => format!("{measure}{relation} where {}", short(condition)),
        Source::Table { relation, condition: None } => format!("{measure}{relation}"),
        Source::Query { sql, every } => format!("query every {every:?}: {}", short(sql)),
        Source::Notify { channel } => format!("NOTIFY {channel}"),
    }
}
