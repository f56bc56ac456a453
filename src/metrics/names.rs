//! The names, each with what it means to whoever is woken by it.

/// What kind of metric it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows, and begins at 0 with the process.
    Counter,
    /// How something stands.
    Gauge,
    /// How values are spread.
    Histogram,
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says, for `# HELP` and the documentation.
    pub help: &'static str,
}

/// Declares each metric once: its constant, and its line in [`ALL`].
macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $constant: &str = $name;)*
        /// All of them, but for those of the process, whose names are every program's (`process_…`).
        pub const ALL: [Metric; [$($name),*].len()] =
            [$(Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help }),*];
    };
}

metrics! {
    BUILD_INFO = Gauge "items_listen_build_info" ["version", "commit"] "1, with the program's version and the commit it was built from";
    READY = Gauge "items_listen_ready" [] "1 while this daemon watches: triggers are in place, everything is counted, and it listens";
    INSTANCES = Gauge "items_listen_instances" [] "Daemons on this database that were heard of in the last ten seconds";
    DATABASE_UP = Gauge "items_listen_database_up" [] "1 if the database answered when these metrics were asked for; while it is 0, what is read from it is missing here";
    CONFIG_HASH = Gauge "items_listen_config_hash" [] "Changes with the configuration, but for secrets; replicas that differ have different ones";
    CONFIG_LAST_RELOAD_SUCCESSFUL = Gauge "items_listen_config_last_reload_successful" [] "0 if the last reload was refused and an older configuration is in force: the log says why";
    CONFIG_LAST_RELOAD_SUCCESS = Gauge "items_listen_config_last_reload_success_timestamp_seconds" [] "When a configuration last took effect";
    LISTEN_CONNECTED = Gauge "items_listen_listen_connected" [] "1 while a database session listens and folds";
    LISTEN_LAST_HEARTBEAT = Gauge "items_listen_listen_last_heartbeat_timestamp_seconds" [] "When the pipeline last took in an answer of the session that listens; it should be seconds ago";
    SESSIONS_LOST = Counter "items_listen_database_sessions_lost_total" [] "Times that the database could not be reached, or a session that listened was lost; each try counts";
    NOTIFY_QUEUE_USAGE = Gauge "items_listen_notify_queue_usage_ratio" [] "How full the server's notification queue is, from 0 to 1; at 1 every NOTIFY on the server fails, the application's too";
    DOORBELL_RINGS = Counter "items_listen_doorbell_rings_total" [] "Times that a writer woke this daemon";
    NOTIFICATIONS_RECEIVED = Counter "items_listen_notifications_received_total" ["watch"] "NOTIFYs of the application that a notify watch heard";
    PAYLOADS_SKIPPED = Counter "items_listen_payloads_skipped_total" ["watch"] "NOTIFYs whose payload was neither a whole number nor an object with one, or named another key";
    JOURNAL_ROWS = Gauge "items_listen_journal_rows" [] "Changes that writers have committed and no daemon has taken in yet; it grows while no daemon runs";
    FOLDED_ROWS = Counter "items_listen_folded_rows_total" [] "Journal rows that this daemon has taken in";
    FOLD_DURATION = Histogram "items_listen_fold_duration_seconds" [] "How long a fold takes, from BEGIN to the answer to COMMIT";
    RECOUNTS = Counter "items_listen_recounts_total" ["watch", "outcome"] "Times that a watched table was counted anew, or could not be";
    KEYS = Gauge "items_listen_keys" ["watch"] "Keys that a watch knows";
    ALERTS_OPEN = Gauge "items_listen_alerts_open" ["watch", "severity"] "Keys beyond their threshold, by severity";
    WATCH_DEGRADED = Gauge "items_listen_watch_degraded" ["watch"] "1 while a watch cannot be served: items-listen status says why";
    TRANSITIONS = Counter "items_listen_transitions_total" ["watch", "transition", "severity"] "Alerts raised, escalated, eased, resolved and repeated, by the severity they came to";
    STORM_COLLAPSED = Counter "items_listen_storm_collapsed_total" ["watch"] "Transitions that a digest told of instead of an event of their own";
    OUTBOX_PENDING = Gauge "items_listen_outbox_pending" ["endpoint"] "Deliveries that an endpoint has not accepted yet";
    OUTBOX_OLDEST_PENDING = Gauge "items_listen_outbox_oldest_pending_timestamp_seconds" ["endpoint"] "When the oldest of them was written; missing while there is none";
    OUTBOX_DEAD = Gauge "items_listen_outbox_dead" ["endpoint"] "Deliveries that cannot succeed and wait for a person: items-listen deliveries list --state dead";
    ENDPOINT_PAUSED = Gauge "items_listen_endpoint_paused" ["endpoint"] "1 while an endpoint refuses everything (credentials, application, address) and is only probed; everything is kept";
    ENDPOINT_BACKING_OFF = Gauge "items_listen_endpoint_backing_off" ["endpoint"] "1 while an endpoint fails and is tried again ever more slowly";
    PUBLISH_ATTEMPTS = Counter "items_listen_publish_attempts_total" ["endpoint"] "Requests that this daemon has sent, each with one event or a batch";
    PUBLISH_FAILURES = Counter "items_listen_publish_failures_total" ["endpoint", "reason"] "Requests that were not answered with success, by reason";
    PUBLISH_DURATION = Histogram "items_listen_publish_duration_seconds" ["endpoint"] "How long a request takes until its answer is read";
    PUBLISH_LAST_SUCCESS = Gauge "items_listen_publish_last_success_timestamp_seconds" ["endpoint"] "When an endpoint last accepted something, from whichever daemon";
    DELIVERIES_SETTLED = Counter "items_listen_deliveries_settled_total" ["endpoint", "state"] "Deliveries that this daemon has settled: delivered, dead, or superseded by a later one";
    DELIVERY_LATENCY = Histogram "items_listen_delivery_latency_seconds" ["endpoint"] "From the event's being written to its being accepted";
    CLOCK_SKEW = Gauge "items_listen_clock_skew_seconds" ["endpoint"] "By how much the endpoint's clock is ahead of this host's; signatures are refused beyond 600";
}
