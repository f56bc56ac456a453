//! `/metrics`: names that stay, values that are true, and rules that read them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use items_listen::metrics::{ALL, Kind};

use crate::support::daemon::Daemon;
use crate::support::proxy::{Mode, Proxy};
use crate::support::receiver::Receiver;
use crate::*;

/// Alert rules and dashboards are made of these: one that is renamed breaks them silently.
const FROZEN: &str = "
gauge items_listen_alerts_open watch severity
gauge items_listen_build_info version commit
gauge items_listen_clock_skew_seconds endpoint
gauge items_listen_config_hash
gauge items_listen_config_last_reload_success_timestamp_seconds
gauge items_listen_config_last_reload_successful
counter items_listen_database_sessions_lost_total
gauge items_listen_database_up
counter items_listen_deliveries_settled_total endpoint state
histogram items_listen_delivery_latency_seconds endpoint
counter items_listen_doorbell_rings_total
gauge items_listen_endpoint_backing_off endpoint
gauge items_listen_endpoint_paused endpoint
histogram items_listen_fold_duration_seconds
counter items_listen_folded_rows_total
gauge items_listen_instances
gauge items_listen_journal_rows
gauge items_listen_keys watch
gauge items_listen_listen_connected
gauge items_listen_listen_last_heartbeat_timestamp_seconds
counter items_listen_notifications_received_total watch
gauge items_listen_notify_queue_usage_ratio
gauge items_listen_outbox_dead endpoint
gauge items_listen_outbox_oldest_pending_timestamp_seconds endpoint
gauge items_listen_outbox_pending endpoint
counter items_listen_payloads_skipped_total watch
counter items_listen_publish_attempts_total endpoint
histogram items_listen_publish_duration_seconds endpoint
counter items_listen_publish_failures_total endpoint reason
gauge items_listen_publish_last_success_timestamp_seconds endpoint
gauge items_listen_ready
counter items_listen_recounts_total watch outcome
counter items_listen_storm_collapsed_total watch
counter items_listen_transitions_total watch transition severity
gauge items_listen_watch_degraded watch
";

#[test]
fn the_names_are_frozen() {
    let mut lines: Vec<String> = ALL
        .iter()
        .map(|metric| {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            [kind, metric.name].iter().chain(metric.labels).copied().collect::<Vec<_>>().join(" ")
        })
        .collect();
    lines.sort_by_key(|line| line.split(' ').nth(1).map(str::to_owned));
    assert_eq!(lines.join("\n"), FROZEN.trim());
}

/// The samples of one answer, each as `name{labels}`.
struct Samples(BTreeMap<String, f64>, String);

impl Samples {
    async fn of(daemon: &Daemon) -> Samples {
        let (status, text) = daemon.get("/metrics").await.expect("an answer");
        assert_eq!(status, 200);
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let samples = samples.map(|line| line.rsplit_once(' ').expect("a sample"));
        Samples(samples.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect(), text)
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    fn is(&self, name: &str, value: f64) -> bool {
        self.get(name).is_some_and(|sample| (sample - value).abs() < 1e-9)
    }

    fn families(&self) -> BTreeSet<String> {
        self.1.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned)).collect()
    }
}

/// Waits for samples.
async fn until(daemon: &Daemon, what: &str, is: impl Fn(&Samples) -> bool) -> Samples {
    support::eventually(what, async || Some(Samples::of(daemon).await).filter(|samples| is(samples))).await
}

fn promtool(arguments: &[&str], input: &str) {
    let program = std::env::var("PROMTOOL").expect("PROMTOOL: make test sets it, by scripts/promtool");
    let mut command = Command::new(program);
    command.args(arguments).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/prometheus"));
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("promtool starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_counted_and_how_it_stands_is_read() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let first = Samples::of(&daemon).await;
    assert!(first.is("items_listen_ready", 1.0) && first.is("items_listen_config_last_reload_successful", 1.0));
    // The first failure is to be an increase.
    assert!(first.is("items_listen_publish_failures_total{endpoint=\"main\",reason=\"auth\"}", 0.0), "{}", first.1);
    assert!(first.is("items_listen_transitions_total{watch=\"orders\",transition=\"raised\",severity=\"high\"}", 0.0));
    assert_eq!(first.get("items_listen_outbox_oldest_pending_timestamp_seconds{endpoint=\"main\"}"), None, "nothing waits");

    insert(&database, 1, 25).await;
    insert(&database, 2, 40).await;
    receiver.wait_for(2).await;
    let second = until(&daemon, "the alerts are counted", |samples| {
        samples.is("items_listen_alerts_open{watch=\"orders\",severity=\"critical\"}", 1.0)
            && samples.is("items_listen_alerts_open{watch=\"orders\",severity=\"high\"}", 1.0)
            && samples.is("items_listen_deliveries_settled_total{endpoint=\"main\",state=\"delivered\"}", 2.0)
            && samples.is("items_listen_outbox_pending{endpoint=\"main\"}", 0.0)
    })
    .await;
    assert!(second.is("items_listen_transitions_total{watch=\"orders\",transition=\"raised\",severity=\"high\"}", 1.0));
    assert!(second.is("items_listen_transitions_total{watch=\"orders\",transition=\"raised\",severity=\"critical\"}", 1.0));
    assert!(second.is("items_listen_delivery_latency_seconds_count{endpoint=\"main\"}", 2.0));
    assert!(second.get("items_listen_publish_attempts_total{endpoint=\"main\"}").is_some_and(|attempts| attempts >= 1.0));
    assert!(second.get("items_listen_folded_rows_total").is_some_and(|rows| rows >= 2.0));
    assert!(second.is("items_listen_keys{watch=\"orders\"}", 2.0));
    assert!(second.is("items_listen_instances", 1.0));

    // An endpoint that refuses everything, and a file that cannot be read.
    receiver.status(401);
    insert(&database, 3, 20).await;
    until(&daemon, "the pause shows", |samples| {
        samples.is("items_listen_endpoint_paused{endpoint=\"main\"}", 1.0)
            && samples.is("items_listen_publish_failures_total{endpoint=\"main\",reason=\"auth\"}", 1.0)
            && samples.get("items_listen_outbox_oldest_pending_timestamp_seconds{endpoint=\"main\"}").is_some()
    })
    .await;
    daemon.configure("what is this?");
    daemon.signal("HUP");
    until(&daemon, "the refusal shows", |samples| samples.is("items_listen_config_last_reload_successful", 0.0)).await;

    // All of them have been seen, and nothing else but what every process has.
    let last = Samples::of(&daemon).await;
    let known: BTreeSet<String> = ALL.iter().map(|metric| metric.name.to_owned()).collect();
    let seen: BTreeSet<String> = last.families().into_iter().filter(|name| !name.starts_with("process_")).collect();
    assert_eq!(known.difference(&seen).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(seen.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(last.families().contains("process_resident_memory_bytes"));
    promtool(&["check", "metrics"], &last.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_of_the_configuration_and_hostile_names_break_nothing() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("ALTER TABLE orders ADD customer text").await;
    let watch = ORDERS.replace("\"tenant_id\"]", "\"customer\"]").replace("key.tenant_id", "key.customer");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    database.sql("INSERT INTO orders (customer) SELECT 'evil\"} 1\n# HELP ' FROM generate_series(1, 20)").await;
    receiver.wait_for(1).await;
    let samples = until(&daemon, "it is open", |samples| {
        samples.is("items_listen_alerts_open{watch=\"orders\",severity=\"warning\"}", 1.0)
    })
    .await;
    assert!(!samples.1.contains("evil"), "no key is a label");
    promtool(&["check", "metrics"], &samples.1);
    // A watch that is gone leaves nothing standing behind.
    daemon.configure(&config(&database, &receiver, &watch.replace("name = \"orders\"", "name = \"sales\"")));
    daemon.signal("HUP");
    until(&daemon, "only the new one stands", |samples| {
        samples.get("items_listen_keys{watch=\"sales\"}").is_some()
            && samples.get("items_listen_keys{watch=\"orders\"}").is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_counters_are_there_and_nothing_is_made_up() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let proxy = Proxy::start(database.port).await;
    let through = config(&database, &receiver, ORDERS).replace(&format!(":{}/", database.port), &format!(":{}/", proxy.port));
    let mut daemon = daemon(&through);
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    proxy.mode(Mode::Refuse);
    proxy.cut();
    let away = until(&daemon, "it is away", |samples| {
        let all = ["items_listen_database_up", "items_listen_ready", "items_listen_listen_connected"];
        all.iter().all(|name| samples.is(name, 0.0))
    })
    .await;
    assert!(away.get("items_listen_database_sessions_lost_total").is_some_and(|lost| lost >= 1.0));
    assert_eq!(away.get("items_listen_alerts_open{watch=\"orders\",severity=\"warning\"}"), None);
    assert!(away.get("items_listen_folded_rows_total").is_some_and(|rows| rows >= 1.0));
    proxy.pass();
    until(&daemon, "it is back", |samples| {
        samples.is("items_listen_database_up", 1.0)
            && samples.is("items_listen_ready", 1.0)
            && samples.is("items_listen_alerts_open{watch=\"orders\",severity=\"warning\"}", 1.0)
    })
    .await;
}

#[test]
fn the_alert_rules_are_valid_and_say_what_they_should() {
    promtool(&["check", "rules", "items-listen.rules.yml"], "");
    promtool(&["test", "rules", "items-listen.rules.test.yml"], "");
    // They name only what there is.
    let rules = include_str!("../../contrib/prometheus/items-listen.rules.yml");
    for word in rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("items_listen_")) {
        assert!(ALL.iter().any(|metric| metric.name == word), "{word}");
    }
}

#[test]
fn every_metric_and_every_rule_is_documented_as_it_is() {
    let page = include_str!("../../docs/operating.md");
    for metric in ALL {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let row = format!("| `{}` | {kind} | {} | {} |\n", metric.name, labels.join(", "), metric.help);
        assert!(page.contains(&row), "{row}");
    }
    let rules = include_str!("../../contrib/prometheus/items-listen.rules.yml");
    for line in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(page.contains(&format!("| `{line}` |")), "{line}");
    }
}
