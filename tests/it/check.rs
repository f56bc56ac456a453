//! `check` and `status` for an operator: each finding is made real, and is named with its remedy; nothing is changed.

mod installed;
mod locked;
mod privileges;
mod session;

use std::time::Duration;

use items_listen::db::horizon;
use serde_json::Value;

use crate::answers::{Raw, config_for, endpoint, text};
use crate::support::postgres::{Server, shared};
use crate::support::receiver::Receiver;
use crate::*;

/// What `check --json` says: exit code and report.
async fn check(daemon: &Daemon, arguments: &[&str]) -> (i32, Value) {
    let (code, out, err) = daemon.run(&[&["check", "--json"], arguments].concat()).await;
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {code} {out} {err}"));
    let needs_a_hand = findings(&report).any(|finding| ["warning", "error"].contains(&finding["level"].as_str().unwrap_or("")));
    assert_eq!(report["ok"], !needs_a_hand, "{report:#}");
    for finding in findings(&report) {
        let bad = ["warning", "error"].contains(&finding["level"].as_str().unwrap_or(""));
        assert!(!bad || finding["remedy"].is_string(), "without a remedy: {finding:#}");
    }
    (code, report)
}

fn findings(report: &Value) -> impl Iterator<Item = &Value> {
    report["findings"].as_array().expect("findings").iter()
}

/// The one finding of this id and level.
fn finding<'a>(report: &'a Value, id: &str, level: &str) -> &'a Value {
    let mut found = findings(report).filter(|finding| finding["id"] == id && finding["level"] == level);
    match (found.next(), found.next()) {
        (Some(one), None) => one,
        (None, _) => panic!("no {level} {id}: {report:#}"),
        (Some(_), Some(_)) => panic!("several {level} {id}: {report:#}"),
    }
}

fn has(report: &Value, id: &str) -> bool {
    findings(report).any(|finding| finding["id"] == id)
}

fn of<'a>(finding: &'a Value, field: &str) -> &'a str {
    finding[field].as_str().unwrap_or_default()
}

/// A role of this test's own, which is gone with it.
async fn role(database: &Database, rights: &str) -> String {
    let role = format!("{}_{}", rights.split_whitespace().next().unwrap_or("role").to_lowercase(), database.name);
    database.sql(&format!("CREATE ROLE {role} LOGIN")).await;
    role
}

async fn drop_role(database: &Database, role: &str) {
    database.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verdict_and_the_next_command_follow_from_how_it_stands() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!((code, of(&report, "verdict")), (0, "All is well."), "{report:#}");
    assert!(of(&report, "next").ends_with(" run"), "{report:#}");
    assert!(of(finding(&report, "watch", "info"), "what").contains("4 triggers"), "{report:#}");
    assert!(of(finding(&report, "listen", "ok"), "what").contains("came back"), "{report:#}");
    let (code, report) = check(&daemon, &["--offline"]).await;
    assert!(code == 0 && of(&report, "next").ends_with(" check") && !has(&report, "server"), "{report:#}");

    daemon.start().await;
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");
    assert!(of(finding(&report, "triggers", "ok"), "what").contains("in place"));
    // What is said next can be pasted, and does what it says.
    let next: Vec<&str> = of(&report, "next").split(' ').skip_while(|word| !word.starts_with("--trigger")).collect();
    assert_eq!(next, ["--trigger", "31", "--watch", "orders", "--key", "tenant_id=1"]);
    let (code, out, err) = daemon.run(&next).await;
    assert!(code == 0 && out.starts_with("critical"), "{code} {out} {err}");

    // A DBA installs: until then the script is next.
    let manual = shop().await;
    daemon.terminate().await;
    daemon.configure(&config_with(&manual, &receiver, "install = \"manual\"", ORDERS));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 1);
    finding(&report, "schema", "warning");
    assert!(of(&report, "next").ends_with(" install --print"), "{report:#}");
    assert_eq!(manual.one::<i64>("SELECT count(*) FROM pg_namespace WHERE nspname = 'items_listen'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_file_says_is_looked_at_first() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let rules = ORDERS.replace("event = \"orders.many\"", "event = \"orders.many\"\nendpoint = \"main\"\non = \"repeated\"");
    let rules = rules.replace("private-tenant.{{ key.tenant_id }}.orders", "private-tenant-{{ key.tenant_id }}_orders");
    let other = receiver.endpoint("spare");
    let daemon = daemon(&format!("{}{other}", config(&database, &receiver, &rules)));
    let (code, report) = check(&daemon, &["--offline"]).await;
    assert_eq!(code, 1);
    assert!(of(finding(&report, "rule-never-fires", "warning"), "what").contains("repeat"));
    finding(&report, "channel-separator", "warning");
    assert_eq!(finding(&report, "endpoint-unused", "info")["subject"], "endpoint spare");
    assert!(!has(&report, "file-mode"));
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&daemon.file, readable).expect("changed");
    let (_, report) = check(&daemon, &["--offline"]).await;
    assert!(of(finding(&report, "file-mode", "warning"), "what").contains("mode 644"), "{report:#}");

    // An empty secret would sign, and be refused.
    daemon.configure(&config(&database, &receiver, ORDERS).replace(support::receiver::SECRET, ""));
    let (code, out, err) = daemon.run(&["check", "--offline", "--json"]).await;
    assert!(code == 78 && err.contains("endpoints.main.secret") && err.contains("empty"), "{code} {err}");
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert!(of(finding(&report, "config-file", "error"), "what").contains("empty"), "{report:#}");
}

/// A sum, which needs more than rows do.
const SUMMED: &str = "[[watch]]\nname = \"sums\"\ntable = \"public.orders\"\nkey = [\"tenant_id\"]\nsum = \"id\"\nthreshold = 1000000000\n\
                  [[watch.publish]]\nchannels = [\"a\"]\nevent = \"e\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_vacuum_back_or_the_queue_is_named_with_what_ends_it() {
    let server = Server::start(&["max_prepared_transactions = 5", "wal_level = logical"]);
    let database = server.database().await;
    database.sql("CREATE TABLE orders (id int)").await;
    let ages = horizon::holders(&database.client, Duration::from_secs(3600)).await.expect("asks");
    assert_eq!(ages, [], "nobody is that old");
    // First: making a slot waits for transactions that are open.
    database.sql("SELECT pg_create_logical_replication_slot('unused', 'pgoutput')").await;
    let idle = database.session().await;
    idle.batch_execute("SET application_name = 'forgotten'; LISTEN x").await.expect("listens");
    idle.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.expect("begins");
    let prepared = database.session().await;
    prepared.batch_execute("BEGIN; INSERT INTO orders VALUES (1); PREPARE TRANSACTION 'it''s'").await.expect("prepares");
    let found = horizon::holders(&database.client, Duration::ZERO).await.expect("asks");
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].what.contains("forgotten") && found[0].what.contains("idle in transaction"), "{found:?}");
    assert!(found[1].what.contains("it's") && found[2].what.contains("unused"), "{found:?}");
    assert_eq!(horizon::holders(&database.client, Duration::from_secs(3600)).await.expect("asks").len(), 1, "a slot has no age");

    let payload = "x".repeat(7000);
    for n in 0..20 {
        database.sql(&format!("NOTIFY x, '{n}{payload}'")).await;
    }
    let (usage, suspects) = horizon::queue(&database.client).await.expect("asks");
    assert!(usage > 0.0 && suspects.first().is_some_and(|suspect| suspect.what.contains("forgotten")), "{usage} {suspects:?}");
    // Each remedy does what it says.
    database.sql(&found[0].remedy.split(" (").next().map(str::to_owned).unwrap_or_default()).await;
    database
        .sql(&found[1].remedy.split(": ").nth(1).and_then(|sql| sql.split(" or ").next()).map(str::to_owned).unwrap_or_default())
        .await;
    database.sql(&found[2].remedy.split(" or ").nth(1).map(str::to_owned).unwrap_or_default()).await;
    support::eventually("nobody is in the way", async || {
        let left = horizon::holders(&database.client, Duration::ZERO).await.expect("asks");
        left.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_connections_are_named_before_they_are_missed() {
    let receiver = Receiver::start().await;
    let server = Server::start(&["max_connections = 12"]);
    let database = server.database().await;
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    let daemon = daemon(&config_with(&database, &receiver, "pool_size = 1", ORDERS));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");
    daemon.configure(&config_with(&database, &receiver, "pool_size = 20", ORDERS));
    let (code, report) = check(&daemon, &[]).await;
    assert!(code == 1 && of(finding(&report, "connections", "warning"), "what").contains("max_connections"), "{report:#}");
    database.sql("CREATE ROLE few LOGIN SUPERUSER CONNECTION LIMIT 5").await;
    daemon.configure(&config_with(&database, &receiver, "pool_size = 1", ORDERS).replace("postgres@", "few@"));
    let (_, report) = check(&daemon, &[]).await;
    assert!(
        of(finding(&report, "connections", "warning"), "remedy").contains("ALTER ROLE \"few\" CONNECTION LIMIT -1;"),
        "{report:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_endpoint_says_is_explained() {
    let database = shop().await;
    let dated = |status: &str, by: i64| {
        let at = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(by)).expect("a time");
        let date = at.strftime("%a, %d %b %Y %H:%M:%S GMT");
        vec![text(&format!("HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Length: 2\r\n\r\n{{}}"))]
    };
    for (answer, id, level, word) in [
        (dated("200 OK", 0), "endpoint", "ok", "accepts our signature"),
        (dated("200 OK", 300), "endpoint-clock", "warning", "behind"),
        (dated("401 Unauthorized", -3600), "endpoint-clock", "error", "ahead"),
        (dated("401 Unauthorized", 0), "endpoint-signature", "error", "key and secret"),
        (dated("403 Forbidden", 0), "endpoint-signature", "error", "key and secret"),
        (dated("404 Not Found", 0), "endpoint-application", "error", "app_id"),
        (dated("302 Found", 0), "endpoint-answer", "error", "redirects"),
        (dated("500 Oh", 0), "endpoint-answer", "error", "500"),
    ] {
        let server = Raw::start(vec![answer]).await;
        let daemon = daemon(&config_for(&database, &server.endpoint("main", ""), ORDERS));
        let (code, report) = check(&daemon, &[]).await;
        let found = finding(&report, id, level);
        assert!(found.to_string().contains(word), "{found:#}");
        assert_eq!((code, of(found, "depth")), (i32::from(level != "ok"), "endpoint"), "{report:#}");
    }
    // Whom a URL names is nobody's business, and with which password even less.
    let daemon = daemon(&config_for(&database, &endpoint("main", "http://somebody:hush-hush@127.0.0.1:1", ""), ORDERS));
    let (_, report) = check(&daemon, &[]).await;
    let (_, said, stderr) = daemon.run(&["check"]).await;
    assert!(of(finding(&report, "endpoint-connection", "error"), "what").contains("127.0.0.1"), "{report:#}");
    assert!(![report.to_string(), said.clone(), stderr.clone()].concat().contains("hush-hush"), "{report:#} {said} {stderr}");
    // Somebody who speaks no TLS, and somebody who is not there.
    let receiver = Receiver::start().await;
    let plain = receiver.endpoint("main").replace("http://", "https://");
    daemon.configure(&config_for(&database, &plain, ORDERS));
    let (code, report) = check(&daemon, &[]).await;
    assert!(code == 69 && of(finding(&report, "endpoint-tls", "error"), "remedy").contains("speaks no TLS"), "{report:#}");
    daemon.configure(&config_for(&database, &endpoint("main", "http://no-such-host.invalid", ""), ORDERS));
    let (code, report) = check(&daemon, &[]).await;
    assert!(code == 69 && of(finding(&report, "endpoint-connection", "error"), "remedy").contains("DNS"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_findings_of_one_server_are_not_those_of_its_other_databases() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let elsewhere = shared().database().await;
    let idle = elsewhere.session().await;
    idle.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.expect("begins");
    let here = horizon::holders(&database.client, Duration::ZERO).await.expect("asks");
    assert!(
        !here.iter().any(|holder| holder.what.contains(&format!("in {})", elsewhere.name))),
        "it only reads, elsewhere: {here:?}"
    );
    drop((idle, receiver));
}
