//! One answer to `/metrics`: what was counted, and how things stand in the database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use metrics::gauge;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::names::*;
use crate::config::Hide;
use crate::daemon::Daemon;
use crate::db::session::Purpose;
use crate::status::{self, Status};

/// The database is asked no more often than this …
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// … and has to answer in this time.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Whoever asks us waits no longer for it: the counters are there all the same.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// It is not asked for more than this part of the time, however large the tables are.
const STATUS_SHARE: u32 = 20;

/// Gives the metrics as text.
#[derive(Clone)]
pub struct Exporter {
    counted: PrometheusHandle,
    process: metrics_process::Collector,
    known: Arc<Mutex<Known>>,
}

/// What the database last said, and the question that it has not answered yet.
#[derive(Default)]
struct Known {
    status: Option<Status>,
    until: Option<Instant>,
    asking: Option<JoinHandle<(Option<Status>, Duration)>>,
}

impl Known {
    /// Asks again where it is time to, and waits for the answer for a while. A question is never given up, and there is never
    /// a second one beside it.
    async fn refresh(&mut self, daemon: &Daemon) {
        if self.asking.is_none() && self.until.is_none_or(|until| until <= Instant::now()) {
            self.asking = Some(tokio::spawn(ask(daemon.clone())));
        }
        let Some(asking) = &mut self.asking else { return };
        self.status = None;
        let Ok(answered) = tokio::time::timeout(WAIT_MAX, asking).await else { return };
        self.asking = None;
        let (status, took) = answered.unwrap_or_default();
        self.status = status;
        self.until = Some(Instant::now() + STATUS_EVERY.max(took * STATUS_SHARE));
    }
}

impl Exporter {
    pub(super) fn new(counted: PrometheusHandle) -> Exporter {
        let process = metrics_process::Collector::default();
        process.describe();
        Exporter { counted, process, known: Arc::default() }
    }

    /// The text of one answer without what is hidden, in Prometheus' text format.
    pub async fn render(&self, daemon: &Daemon, hide: Hide) -> String {
        self.process.collect();
        gauge!(READY).set(if daemon.health.is_ready() { 1.0 } else { 0.0 });
        let mut known = self.known.lock().await;
        known.refresh(daemon).await;
        let status = known.status.as_ref();
        gauge!(DATABASE_UP).set(if status.is_some() { 1.0 } else { 0.0 });
        let stands = status.map(stands).unwrap_or_default();
        drop(known);
        let text = format!("{}{stands}", self.counted.render());
        if hide.counts { without(&text, &COUNTS) } else { text }
    }
}

/// On a session of its own: none of those that deliver is to wait for it.
async fn ask(daemon: Daemon) -> (Option<Status>, Duration) {
    let began = Instant::now();
    let asked = async {
        let client = daemon.connector.session(Purpose::Read { at_most: ANSWER_MAX }).await?;
        status::read(&client, &daemon.schema).await
    };
    let status = asked.await.ok();
    (status, began.elapsed())
}

/// How things stand, on a recorder of its own: what is not there any more leaves nothing behind.
fn stands(status: &Status) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        super::describe_those(&STANDING);
        gauge!(INSTANCES).set(count(i64::try_from(status.instances.len()).unwrap_or(i64::MAX)));
        gauge!(JOURNAL_ROWS).set(count(status.database.journal_rows));
        for watch in &status.watches {
            let name = || watch.name.clone();
            gauge!(WATCH_DEGRADED, "watch" => name()).set(flag(watch.error.is_some()));
            gauge!(KEYS, "watch" => name()).set(count(watch.keys));
            let open = [("warning", watch.open.warning), ("high", watch.open.high), ("critical", watch.open.critical)];
            for (severity, keys) in open {
                gauge!(ALERTS_OPEN, "watch" => name(), "severity" => severity).set(count(keys));
            }
        }
        for endpoint in &status.endpoints {
            let name = || endpoint.name.clone();
            gauge!(OUTBOX_PENDING, "endpoint" => name()).set(count(endpoint.pending));
            gauge!(OUTBOX_DEAD, "endpoint" => name()).set(count(endpoint.dead));
            gauge!(ENDPOINT_PAUSED, "endpoint" => name()).set(flag(endpoint.state == "paused"));
            gauge!(ENDPOINT_BACKING_OFF, "endpoint" => name()).set(flag(endpoint.state == "backing_off"));
            if let Some(at) = endpoint.oldest_pending_at {
                gauge!(OUTBOX_OLDEST_PENDING, "endpoint" => name()).set(seconds(at));
            }
            if let Some(at) = endpoint.last_success_at {
                gauge!(PUBLISH_LAST_SUCCESS, "endpoint" => name()).set(seconds(at));
            }
        }
    });
    recorder.handle().render()
}

/// What tells how many keys or rows there are, or how many of them changed.
const COUNTS: [&str; 5] = [KEYS, ALERTS_OPEN, TRANSITIONS, STORM_COLLAPSED, FOLDED_ROWS];

/// Leaves out these metrics. A line begins with the name that it is of, and no label has an end of a line in it as such.
fn without(text: &str, names: &[&str]) -> String {
    let name = |line: &str| {
        let sample = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")).unwrap_or(line);
        sample.split(['{', ' ']).next().unwrap_or_default().to_owned()
    };
    text.split_inclusive('\n').filter(|line| !names.contains(&name(line).as_str())).collect()
}

/// What is read from the database.
const STANDING: [&str; 11] = [
    INSTANCES,
    JOURNAL_ROWS,
    KEYS,
    WATCH_DEGRADED,
    ALERTS_OPEN,
    OUTBOX_PENDING,
    OUTBOX_DEAD,
    ENDPOINT_PAUSED,
    ENDPOINT_BACKING_OFF,
    OUTBOX_OLDEST_PENDING,
    PUBLISH_LAST_SUCCESS,
];

#[expect(clippy::cast_precision_loss, reason = "no table has 2^52 rows")]
fn count(number: i64) -> f64 {
    number as f64
}

fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds are what it is read with")]
fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1_000.0
}
