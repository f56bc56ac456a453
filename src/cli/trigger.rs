//! `items-listen --trigger COUNT`

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::Instant;
use uuid::Uuid;

use super::{TriggerArgs, echo, plain, print, print_json};
use crate::config::{Config, Endpoint, Install, Target};
use crate::db::migrate;
use crate::db::pool::Pool;
use crate::db::session::Purpose;
use crate::dispatch::gate::PROBE_EVERY;
use crate::dispatch::send::{Load, Sender};
use crate::dispatch::{Context, Dispatch};
use crate::engine::decide::Manual;
use crate::engine::tell::{self, Seen};
use crate::engine::{Engine, Served, facts};
use crate::error::Error;
use crate::pusher::classify::{Answer, Verdict, classify, effective_status};
use crate::pusher::client::Client;
use crate::severity::{Severity, percent};
use crate::watch::{Key, Watch};

/// How often the outbox is asked whether a delivery is settled.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often our own dispatcher is told to look for what is due.
const WAKE_EVERY: Duration = Duration::from_millis(250);

/// The result, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    watch: String,
    key: Map<String, Value>,
    count: i64,
    threshold: Option<i64>,
    percent: Option<i64>,
    severity: Severity,
    deliveries: Vec<Delivered>,
}

/// One delivery and what became of it.
#[derive(Debug, Serialize)]
struct Delivered {
    endpoint: String,
    channels: Vec<String>,
    event: String,
    state: String,
    status: Option<i32>,
    reason: Option<String>,
    ms: Option<i64>,
    #[serde(skip)]
    answer: Option<String>,
}

impl Delivered {
    fn is_settled(&self) -> bool {
        self.state != "pending" || self.is_paused()
    }

    fn is_paused(&self) -> bool {
        self.state == "pending" && matches!(self.reason.as_deref(), Some("auth" | "unknown_app" | "protocol"))
    }
}

/// Classifies a count and sends what it causes.
pub(super) async fn run(config: &Config, count: i64, args: &TriggerArgs) -> Result<u8, Error> {
    let index = choose(config, args.watch.as_deref())?;
    let watch = &config.watches[index];
    resolve_key(config, watch).await?;
    let key = key(watch, &args.keys)?;
    let found = in_database(config, watch, &key, count, args).await?;
    let reading =
        found.unwrap_or_else(|| Reading { key: &key, count, threshold: watch.threshold_of(&key), row: None, lookup: None });
    let threshold = reading.threshold;
    let severity = watch.policy.scale.classify(count, threshold).unwrap_or(Severity::Info);
    let mut report = Report {
        watch: watch.name.clone(),
        key: key.object.clone(),
        count,
        threshold,
        percent: percent(count, threshold),
        severity,
        deliveries: Vec::new(),
    };
    let wanted = watch.rules.iter().any(|rule| rule.wants_manual(severity));
    if wanted {
        report.deliveries = if args.dry_run {
            render(watch, &reading)?.into_iter().map(|(delivered, _)| delivered).collect()
        } else if config.database.is_some() {
            through_outbox(config, index, &reading, args.timeout).await?
        } else {
            directly(config, render(watch, &reading)?, args.timeout).await?
        };
    }
    show(config, &report, args).await;
    Ok(exit_code(&report, args.dry_run))
}

fn exit_code(report: &Report, dry_run: bool) -> u8 {
    let deliveries = &report.deliveries;
    if dry_run || deliveries.iter().all(|delivered| delivered.state == "delivered") {
        0
    } else if deliveries.iter().any(|delivered| delivered.state == "dead" || delivered.is_paused()) {
        1
    } else {
        69
    }
}

fn choose(config: &Config, name: Option<&str>) -> Result<usize, Error> {
    let names = || config.watches.iter().map(|watch| watch.name.as_str()).collect::<Vec<_>>().join(", ");
    match name {
        Some(name) => config
            .watches
            .iter()
            .position(|watch| watch.name == name)
            .ok_or_else(|| Error::Usage(format!("there is no watch \"{name}\"; there are {}", names()))),
        None if config.watches.len() == 1 => Ok(0),
        None => Err(Error::Usage(format!("which watch? Say --watch NAME; there are {}", names()))),
    }
}

fn key(watch: &Watch, given: &[String]) -> Result<Key, Error> {
    let mut object = Map::new();
    for pair in given {
        let Some((column, value)) = pair.split_once('=') else {
            return Err(Error::Usage(format!("--key {pair}: COLUMN=VALUE is wanted")));
        };
        // 7 is a number, as the database has it; what must be a text of digits is written "7" in quotes.
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        object.insert(column.to_owned(), value);
    }
    Key::from_object(watch.key(), &object).map_err(|what| {
        let wanted: Vec<String> = watch.key().iter().map(|column| format!("--key {column}=…")).collect();
        let wanted = if wanted.is_empty() { "this watch has no key".to_owned() } else { wanted.join(" ") };
        Error::Usage(format!("{what}; say {wanted}"))
    })
}

/// What would be sent: as the outbox would have it.
fn render(watch: &Arc<Watch>, reading: &Reading<'_>) -> Result<Vec<(Delivered, String)>, Error> {
    let served = Served::new(0, 0, Arc::clone(watch));
    let now = jiff::Timestamp::now();
    let manual = Manual {
        watch: 0,
        key: reading.key.clone(),
        count: reading.count,
        threshold: reading.threshold,
        row: reading.row.clone(),
        seq: now.as_microsecond(),
    };
    // Without a database nobody can be asked: what templates name of the answer is null.
    let nulls =
        || [watch.row_columns(), watch.lookup_columns()].concat().into_iter().map(|column| (column, Value::Null)).collect();
    let lookup = watch.lookup.is_some().then(|| reading.lookup.clone().unwrap_or_else(nulls));
    let told = tell::manual(&served, &manual, Seen { unread: None, lookup: lookup.as_ref() }, now);
    let delivered = |outgoing: tell::Outgoing| match outgoing.unsendable {
        Some(what) => Err(Error::Failed(format!("the event cannot be sent: {what}"))),
        None => Ok((
            Delivered {
                endpoint: outgoing.endpoint,
                channels: outgoing.channels,
                event: outgoing.name,
                state: "pending".into(),
                status: None,
                reason: None,
                ms: None,
                answer: None,
            },
            outgoing.body,
        )),
    };
    told.parcels.into_iter().map(delivered).collect()
}

/// A key that is the table's primary key is known to the database alone.
async fn resolve_key(config: &Config, watch: &Watch) -> Result<(), Error> {
    if !watch.key.is_unknown() {
        return Ok(());
    }
    if config.database.is_none() {
        return Err(Error::Usage(format!(
            "the key of {} is its table's primary key, which only the database knows: say key = […]",
            watch.name
        )));
    }
    let (client, _, schema) = super::connect(config, Purpose::Install).await.map_err(unavailable)?;
    crate::journal::definition::Definition::of_installed(&client, &schema, watch).await.map(drop)
}

/// What is triggered.
struct Reading<'a> {
    key: &'a Key,
    count: i64,
    threshold: Option<i64>,
    row: Option<Value>,
    /// What the watch's lookup answers, where somebody could be asked.
    lookup: Option<Map<String, Value>>,
}

fn unavailable(error: Error) -> Error {
    match error {
        error if error.exit_code() == 69 => {
            Error::Unavailable(format!("the database cannot be reached, nothing was written: {error}"))
        }
        error => error,
    }
}

/// The threshold that the database has for this key, and its row. A dry run does without where it cannot be asked.
async fn in_database<'a>(
    config: &Config,
    watch: &Arc<Watch>,
    key: &'a Key,
    count: i64,
    args: &TriggerArgs,
) -> Result<Option<Reading<'a>>, Error> {
    if config.database.is_none() {
        return Ok(None);
    }
    let asked = async {
        let (client, connector, schema) = super::connect(config, Purpose::Install).await.map_err(unavailable)?;
        if migrate::check_version(&client, &schema).await? != Some(migrate::newest()) {
            return Ok(None);
        }
        let (threshold, row) = facts::of_key(&client, &schema, watch, key).await?;
        // Otherwise it is asked when it is written.
        let object = row.as_ref().and_then(Value::as_object);
        let lookup = if args.dry_run { facts::lookup_of(&connector, watch, key, object).await? } else { None };
        Ok(Some(Reading { key, count, threshold, row, lookup }))
    };
    match asked.await {
        Err(_) if args.dry_run => Ok(None),
        asked => asked,
    }
}

/// Through the same outbox as the daemon's: whoever comes first sends it, this process or a daemon.
async fn through_outbox(
    config: &Config,
    index: usize,
    reading: &Reading<'_>,
    timeout: Duration,
) -> Result<Vec<Delivered>, Error> {
    let (client, connector, schema) = super::connect(config, Purpose::Install).await.map_err(unavailable)?;
    let database = config.require_database()?;
    if migrate::check_version(&client, &schema).await? != Some(migrate::newest()) {
        if database.install == Install::Manual {
            super::require_schema(&client, &schema).await?;
        }
        let mut patient = connector.session(Purpose::Migrate).await?;
        migrate::locked(&connector, &mut patient, &schema).await?;
    }
    let began: jiff::Timestamp = client.query_one("SELECT clock_timestamp()", &[]).await?.get(0);
    let pool = Pool::new(&connector, 2)?;
    let instance = Uuid::now_v7();
    let (dispatch, running) = Dispatch::start(&config.endpoints, &Context { pool, schema: schema.clone(), instance })?;
    // A manual trigger leaves the watch's own count and state alone: it needs no installed watch.
    let served = Served::new(0, 0, Arc::clone(&config.watches[index]));
    let deadline = Instant::now() + timeout;
    let ids = loop {
        let mut engine =
            Engine::open(&connector, &schema, vec![served.clone()], instance, dispatch.clone()).await.map_err(unavailable)?;
        match engine.trigger(0, reading.key, reading.count, reading.threshold, reading.row.clone()).await {
            // A long fold has the lock: nothing was written.
            Err(error) if error.sqlstate() == Some("55P03") && Instant::now() < deadline => {}
            Err(error) if error.sqlstate() == Some("55P03") => {
                return Err(Error::Unavailable(format!("the counts are being written all the time, nothing was sent: {error}")));
            }
            done => break done?,
        }
    };
    let mut woken = Instant::now();
    let delivered = loop {
        let delivered = read(&client, &schema, &ids, began).await?;
        if delivered.iter().all(Delivered::is_settled) || Instant::now() >= deadline {
            break delivered;
        }
        if woken.elapsed() >= WAKE_EVERY {
            woken = Instant::now();
            delivered.iter().for_each(|delivered| dispatch.wake(&delivered.endpoint));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    dispatch.stop();
    running.wait(Duration::from_secs(5)).await;
    crate::outbox::free(&client, &schema, instance).await?;
    Ok(delivered)
}

async fn read(
    client: &tokio_postgres::Client,
    schema: &crate::db::schema::Schema,
    ids: &[i64],
    began: jiff::Timestamp,
) -> Result<Vec<Delivered>, Error> {
    let sql = schema.sql(
        // One that waits behind others for a paused endpoint was never attempted itself. A pause from before this run
        // says nothing: the endpoint may have been mended, and is being tried.
        "SELECT d.endpoint, d.channels, d.event, d.state, d.status, coalesce(d.reason, e.reason),
                (extract(epoch FROM d.settled_at - d.created_at) * 1000)::bigint, coalesce(d.answer, e.last_error)
         FROM items_listen.delivery d
         LEFT JOIN items_listen.endpoint e
                ON e.name = d.endpoint AND e.state = 'paused' AND e.until > $2::timestamptz + make_interval(secs => $3)
               AND d.state = 'pending'
         WHERE d.id = ANY ($1) ORDER BY d.id",
    );
    let rows = client.query(sql.as_str(), &[&ids, &began, &PROBE_EVERY.as_secs_f64()]).await?;
    Ok(rows
        .iter()
        .map(|row| Delivered {
            endpoint: row.get(0),
            channels: row.get(1),
            event: row.get(2),
            state: row.get(3),
            status: row.get(4),
            reason: row.get(5),
            ms: row.get(6),
            answer: row.get(7),
        })
        .collect())
}

/// Without a database: straight to the endpoint, with its retries, until the time is over.
async fn directly(config: &Config, rendered: Vec<(Delivered, String)>, timeout: Duration) -> Result<Vec<Delivered>, Error> {
    let deadline = Instant::now() + timeout;
    let mut all = Vec::new();
    for (mut delivered, body) in rendered {
        let Some(endpoint) = config.endpoints.iter().find(|endpoint| endpoint.name == delivered.endpoint) else { continue };
        let sender = Sender::new(endpoint)?;
        let started = Instant::now();
        // Without an outbox nothing else tells this trigger from the last one.
        let carries = uuid::Uuid::now_v7().into_bytes().to_vec();
        for attempt in 1.. {
            let answer = sender.send(Load { bodies: vec![body.clone()], carries: carries.clone() }).await;
            let verdict = classify(&answer);
            note(&mut delivered, &answer, verdict);
            let Verdict::Retry(_, retry_after) = verdict else { break };
            let delay = endpoint.retry.delay(attempt, rand::random(), retry_after);
            if Instant::now() + delay >= deadline {
                break;
            }
            tokio::time::sleep(delay).await;
        }
        delivered.ms = i64::try_from(started.elapsed().as_millis()).ok();
        all.push(delivered);
    }
    Ok(all)
}

fn note(delivered: &mut Delivered, answer: &Answer, verdict: Verdict) {
    if let Answer::Http { status, body, .. } = answer {
        delivered.status = Some(i32::from(effective_status(*status, body)));
        delivered.answer = Some(body.clone());
    }
    if let Answer::NoConnection(error) = answer {
        delivered.answer = Some(error.clone());
    }
    let (state, reason) = match verdict {
        Verdict::Delivered => ("delivered", None),
        Verdict::Dead(reason) => ("dead", Some(reason)),
        Verdict::Retry(reason, _) | Verdict::Pause(reason) => ("pending", Some(reason)),
    };
    delivered.state = state.into();
    delivered.reason = reason.map(|reason| reason.as_str().to_owned());
}

async fn show(config: &Config, report: &Report, args: &TriggerArgs) {
    if args.json {
        print_json(report);
        return;
    }
    let percent = report.percent.map_or(String::new(), |percent| format!(" ({percent} %)"));
    if report.deliveries.is_empty() {
        let why = if report.threshold.is_none() { "no threshold" } else { "below min_severity" };
        print(&format!("{}{percent}: {why}, nothing sent", report.severity));
        return;
    }
    for delivered in &report.deliveries {
        let outcome = if args.dry_run { "dry run, not sent".to_owned() } else { outcome(delivered) };
        print(&format!(
            "{}{percent} → {}, {}, {outcome}",
            report.severity,
            plain(&delivered.endpoint),
            delivered.channels.join(" ")
        ));
        for channel in &delivered.channels {
            let audience = if args.dry_run { None } else { audience(config, &delivered.endpoint, channel).await };
            print(&format!("  {}{}", plain(&echo::line(channel, &delivered.event)), audience.unwrap_or_default()));
        }
    }
}

fn outcome(delivered: &Delivered) -> String {
    let status = delivered.status.map_or(String::new(), |status| format!("{status} "));
    let ms = delivered.ms.map_or(String::new(), |ms| format!("in {ms} ms"));
    let reason = delivered.reason.as_deref().unwrap_or_default();
    let answer = delivered
        .answer
        .as_deref()
        .filter(|answer| !answer.is_empty())
        .map_or(String::new(), |answer| format!(": {}", plain(answer)));
    match delivered.state.as_str() {
        "delivered" => format!("{status}{ms}").trim().to_owned(),
        "dead" => format!("{status}dead, {reason}{answer}"),
        _ if delivered.is_paused() => {
            format!("{status}refused, {reason}{answer}; kept in the outbox, look at app_id, key and secret of the endpoint")
        }
        _ if reason.is_empty() => {
            "not delivered in time: earlier ones of its key wait for the endpoint; kept in the outbox".to_owned()
        }
        _ => format!("{status}not delivered in time, {reason}{answer}; kept in the outbox"),
    }
}

/// Whether anybody is subscribed to a channel, where the server says so.
async fn audience(config: &Config, endpoint: &str, channel: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Channel {
        occupied: bool,
        #[serde(default)]
        subscription_count: Option<i64>,
    }
    let endpoint: &Endpoint = config.endpoints.iter().find(|candidate| candidate.name == endpoint)?;
    let Target::Pusher(pusher) = &endpoint.target else { return None };
    let client = Client::new(pusher, endpoint.timeout.min(Duration::from_secs(3))).ok()?;
    let Answer::Http { status: 200, body, .. } = client.get(&format!("channels/{channel}"), &[]).await else { return None };
    let found: Channel = serde_json::from_str(&body).ok()?;
    Some(match (found.occupied, found.subscription_count) {
        (false, _) => "  — nobody is subscribed".to_owned(),
        (true, Some(count)) => format!("  — {count} subscribed"),
        (true, None) => "  — somebody is subscribed".to_owned(),
    })
}
