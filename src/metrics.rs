//! What Prometheus reads at `/metrics`.
//!
//! Names and units follow <https://prometheus.io/docs/practices/naming/>: base units, `_total` for counters, times as
//! timestamps and not as ages. They are a contract, frozen by a test: alert rules and dashboards are made of them. Labels are
//! names of the configuration and members of closed sets; never a key, a row or an error's text.
//!
//! What this process does is counted where it is done. How things stand (open alerts, pending deliveries) is read from the
//! database when somebody asks, so that it is the same whichever replica is asked, and says nothing where nothing is known.

mod names;
mod scrape;

use std::time::Duration;

use metrics::{Counter, Histogram, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

pub use names::{ALL, Kind, Metric};
pub use scrape::Exporter;

use crate::config::Config;
use crate::error::Error;
use crate::evaluate::Transition;
use crate::pusher::classify::Reason;
use crate::severity::Severity;
use crate::version;
use names::*;

/// From a millisecond to five minutes: an alert takes milliseconds, and an outage minutes.
const BUCKETS: [f64; 16] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Histograms keep every value until somebody asks, or this long.
const UPKEEP_EVERY: Duration = Duration::from_secs(10);

/// Begins counting, for the whole process.
///
/// # Errors
/// It has begun already.
pub fn begin() -> Result<Exporter, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Failed(format!("metrics: {error}"));
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
        .map_err(|error| failed(&error))?
        .install_recorder()
        .map_err(|error| failed(&error))?;
    describe();
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            upkeep.run_upkeep();
        }
    });
    gauge!(BUILD_INFO, "version" => version::VERSION, "commit" => version::COMMIT).set(1.0);
    counter!(SESSIONS_LOST).increment(0);
    counter!(DOORBELL_RINGS).increment(0);
    gauge!(LISTEN_CONNECTED).set(0.0);
    reloaded(true);
    Ok(Exporter::new(handle))
}

fn describe() {
    let names: Vec<&str> = ALL.iter().map(|metric| metric.name).collect();
    describe_those(&names);
}

/// Gives these their `# HELP`.
fn describe_those(names: &[&str]) {
    for metric in ALL.iter().filter(|metric| names.contains(&metric.name)) {
        let unit = if metric.name.contains("_seconds") { Unit::Seconds } else { Unit::Count };
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, unit, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, unit, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, unit, metric.help),
        }
    }
}

/// A configuration is in force: everything that it can ever count begins at 0, so that the first failure is an increase.
pub fn configured(config: &Config) {
    for watch in &config.watches {
        let watch = &watch.name;
        for name in [NOTIFICATIONS_RECEIVED, PAYLOADS_SKIPPED, STORM_COLLAPSED] {
            counter!(name, "watch" => watch.clone()).increment(0);
        }
        for outcome in ["done", "failed"] {
            counter!(RECOUNTS, "watch" => watch.clone(), "outcome" => outcome).increment(0);
        }
        for transition in Transition::ALL {
            for severity in Severity::ALL {
                counter!(TRANSITIONS, "watch" => watch.clone(), "transition" => transition.as_str(), "severity" => severity.as_str())
                    .increment(0);
            }
        }
    }
    // A number that changes with the configuration: replicas that differ are seen at a glance.
    let hash = u64::from_str_radix(&config.hash.chars().take(12).collect::<String>(), 16).unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "48 bits fit")]
    gauge!(CONFIG_HASH).set(hash as f64);
}

/// A reload was asked for, and its configuration is in force; a start is one, too.
pub fn reloaded(successful: bool) {
    gauge!(CONFIG_LAST_RELOAD_SUCCESSFUL).set(if successful { 1.0 } else { 0.0 });
    if successful {
        gauge!(CONFIG_LAST_RELOAD_SUCCESS).set(now());
    }
}

/// A session listens and folds, or none does any more.
pub fn connected(listens: bool) {
    gauge!(LISTEN_CONNECTED).set(if listens { 1.0 } else { 0.0 });
    if !listens {
        counter!(SESSIONS_LOST).increment(1);
    }
}

/// The session that listens has answered, and the pipeline has taken the answer in.
pub fn beat(queue_usage: f64) {
    gauge!(LISTEN_LAST_HEARTBEAT).set(now());
    gauge!(NOTIFY_QUEUE_USAGE).set(queue_usage);
}

/// A writer rang.
pub fn rung() {
    counter!(DOORBELL_RINGS).increment(1);
}

/// An application's NOTIFY came; whether it could be read.
pub fn heard(watch: &str, understood: bool) {
    counter!(NOTIFICATIONS_RECEIVED, "watch" => watch.to_owned()).increment(1);
    if !understood {
        counter!(PAYLOADS_SKIPPED, "watch" => watch.to_owned()).increment(1);
    }
}

/// A fold committed.
pub fn folded(rows: i64, took: Duration) {
    counter!(FOLDED_ROWS).increment(u64::try_from(rows).unwrap_or_default());
    histogram!(FOLD_DURATION).record(took);
}

/// So many transitions of a watch are committed.
pub fn transitions(watch: &str, transition: Transition, severity: Severity, count: u64) {
    counter!(TRANSITIONS, "watch" => watch.to_owned(), "transition" => transition.as_str(), "severity" => severity.as_str())
        .increment(count);
}

/// So many transitions of a watch went into a digest.
pub fn collapsed(watch: &str, transitions: u64) {
    counter!(STORM_COLLAPSED, "watch" => watch.to_owned()).increment(transitions);
}

/// A watch was counted anew, or could not be.
pub fn recounted(watch: &str, done: bool) {
    counter!(RECOUNTS, "watch" => watch.to_owned(), "outcome" => if done { "done" } else { "failed" }).increment(1);
}

/// What an endpoint's task counts.
pub struct Endpoint {
    name: String,
    attempts: Counter,
    failures: Vec<Counter>,
    duration: Histogram,
    delivered: Counter,
    dead: Counter,
    superseded: Counter,
    latency: Histogram,
}

impl Endpoint {
    /// Everything at 0, or where it was before a reload.
    pub fn new(name: &str) -> Endpoint {
        let endpoint = || name.to_owned();
        let settled = |state: &'static str| counter!(DELIVERIES_SETTLED, "endpoint" => endpoint(), "state" => state);
        let failure = |reason: &Reason| counter!(PUBLISH_FAILURES, "endpoint" => endpoint(), "reason" => reason.as_str());
        let made = Endpoint {
            name: name.to_owned(),
            attempts: counter!(PUBLISH_ATTEMPTS, "endpoint" => endpoint()),
            failures: Reason::ALL.iter().map(failure).collect(),
            duration: histogram!(PUBLISH_DURATION, "endpoint" => endpoint()),
            delivered: settled("delivered"),
            dead: settled("dead"),
            superseded: settled("superseded"),
            latency: histogram!(DELIVERY_LATENCY, "endpoint" => endpoint()),
        };
        [&made.attempts, &made.delivered, &made.dead, &made.superseded].into_iter().chain(&made.failures).for_each(|counter| {
            counter.increment(0);
        });
        made.skewed(0);
        made
    }

    /// A request was answered, or was not.
    pub fn attempted(&self, took: Duration, failed: Option<Reason>) {
        self.attempts.increment(1);
        self.duration.record(took);
        if let Some(index) = failed.and_then(|reason| Reason::ALL.iter().position(|other| *other == reason)) {
            self.failures[index].increment(1);
        }
    }

    /// An event was accepted so long after it was written.
    pub fn accepted(&self, latency: Duration) {
        self.latency.record(latency);
    }

    /// The database has it that a delivery ended so.
    pub fn settled(&self, state: &str) {
        match state {
            "delivered" => self.delivered.increment(1),
            "dead" => self.dead.increment(1),
            "superseded" => self.superseded.increment(1),
            _ => {}
        }
    }

    /// The endpoint's clock is so many seconds ahead of ours.
    pub fn skewed(&self, seconds: i64) {
        #[expect(clippy::cast_precision_loss, reason = "clocks do not differ by 2^52 seconds")]
        gauge!(CLOCK_SKEW, "endpoint" => self.name.clone()).set(seconds as f64);
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("name", &self.name).finish_non_exhaustive()
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds are what it is read with")]
fn now() -> f64 {
    jiff::Timestamp::now().as_millisecond() as f64 / 1_000.0
}
