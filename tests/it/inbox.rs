//! The inbox: what `alerts list` shows, and what `alerts read` does to the next `unread_count`.

use serde_json::Value;

use crate::support::receiver::Receiver;
use crate::*;

/// A tenant of this name would clear the screen.
const HOSTILE: &str = "evil\u{1b}[2J\u{7}\u{9b}2J";

async fn insert(database: &Database, tenant: &str, count: i32) {
    let sql = format!("INSERT INTO orders (tenant_id) SELECT '{tenant}' FROM generate_series(1, {count})");
    database.sql(&sql).await;
}

/// `alerts list --json` with further arguments: one object per line.
async fn list(daemon: &Daemon, more: &[&str]) -> Vec<Value> {
    let (code, out, err) = daemon.run(&[&["alerts", "list", "--json"], more].concat()).await;
    assert_eq!(code, 0, "{err}");
    out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn tenants(alerts: &[Value]) -> Vec<&str> {
    alerts.iter().map(|alert| alert["key"]["tenant_id"].as_str().unwrap_or("(none)")).collect()
}

async fn read(daemon: &Daemon, which: &[&str]) -> (i32, String, String) {
    daemon.run(&[&["alerts", "read"], which].concat()).await
}

/// The two alerts that most tests begin with, of `a` and then of the hostile tenant; both unread.
async fn two_alerts() -> (Database, Receiver, Daemon) {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id text, status text NOT NULL DEFAULT 'open')").await;
    let watch = ORDERS.replace("threshold = 20", "threshold = 20\nmessage = \"{{ key.tenant_id }}\"");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    insert(&database, "a", 20).await;
    assert_eq!(receiver.wait_for(1).await[0].number("unread_count"), 1);
    insert(&database, HOSTILE, 24).await;
    assert_eq!(receiver.wait_for(2).await[1].number("unread_count"), 2);
    (database, receiver, daemon)
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_are_listed_newest_first_and_steer_no_terminal() {
    let (database, receiver, daemon) = two_alerts().await;
    let alerts = list(&daemon, &[]).await;
    assert_eq!(tenants(&alerts), [HOSTILE, "a"]);
    let names: Vec<&String> = alerts[0].as_object().expect("an object").keys().collect();
    let stable = "id watch key severity peak count threshold percent message raised_at changed_at resolved_at reason read_at";
    assert_eq!(names, stable.split(' ').collect::<Vec<_>>());
    assert_eq!(
        (&alerts[0]["severity"], &alerts[0]["percent"], &alerts[0]["read_at"]),
        (&"high".into(), &120.into(), &Value::Null)
    );

    let (code, out, err) = daemon.run(&["alerts", "list"]).await;
    assert_eq!((code, out.lines().count()), (0, 2), "{err}");
    assert!(!out.chars().any(|c| c.is_control() && c != '\n'), "{out:?}");
    let columns: Vec<Option<usize>> = out.lines().map(|line| line.find("unread")).collect();
    assert!(columns[0].is_some() && columns[0] == columns[1], "it is aligned:\n{out}");

    database.sql("DELETE FROM orders WHERE tenant_id = 'a'").await;
    receiver.wait_for(3).await;
    assert_eq!(tenants(&list(&daemon, &["--open"]).await), [HOSTILE]);
    assert_eq!(tenants(&list(&daemon, &["--severity", "high"]).await), [HOSTILE]);
    assert_eq!(tenants(&list(&daemon, &["--severity", "warning"]).await), ["a"], "it was, at its worst");
    assert_eq!(tenants(&list(&daemon, &["--limit", "1"]).await), [HOSTILE]);
    assert_eq!(tenants(&list(&daemon, &["--key", "tenant_id=a", "--watch", "orders"]).await), ["a"]);
    assert_eq!(daemon.run(&["alerts", "list", "--watch", "none"]).await.1, "no such alerts\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_lowers_the_next_unread_count_and_an_escalation_is_unread_again() {
    let (database, receiver, daemon) = two_alerts().await;
    let id = list(&daemon, &["--key", "tenant_id=a"]).await[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(read(&daemon, &[&id]).await.1, "1 alert marked read\n");
    assert_eq!(read(&daemon, &[&id]).await.1, "0 alerts marked read\n", "it is read already");
    assert_eq!(tenants(&list(&daemon, &["--unread"]).await), [HOSTILE]);

    insert(&database, "b", 20).await;
    assert_eq!(receiver.wait_for(3).await[2].number("unread_count"), 2);
    insert(&database, "a", 10).await;
    let escalated = &receiver.wait_for(4).await[3];
    assert_eq!((escalated.text("transition"), escalated.number("unread_count")), ("escalated".into(), 3));
    assert_eq!(tenants(&list(&daemon, &["--unread"]).await), ["b", HOSTILE, "a"]);

    assert_eq!(read(&daemon, &["--key", "tenant_id=a"]).await.1, "1 alert marked read\n");
    assert_eq!(read(&daemon, &["--watch", "none"]).await.1, "0 alerts marked read\n");
    assert_eq!(read(&daemon, &["--watch", "orders"]).await.1, "2 alerts marked read\n");
    assert_eq!(read(&daemon, &["--all", "--json"]).await.1, "{\"read\":0}\n");
    insert(&database, "c", 20).await;
    assert_eq!(receiver.wait_for(5).await[4].number("unread_count"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_read_must_be_said_and_be_there() {
    let (_database, _receiver, daemon) = two_alerts().await;
    let (code, _, err) = read(&daemon, &[]).await;
    assert!(code == 2 && err.contains("their ids, --watch NAME, --key COLUMN=VALUE, or --all"), "{code} {err}");
    assert_eq!(read(&daemon, &["seven"]).await.0, 2);
    assert_eq!(read(&daemon, &["--key", "tenant_id"]).await.0, 2);
    let id = list(&daemon, &["--key", "tenant_id=a"]).await[0]["id"].as_str().expect("an id").to_owned();
    let (one, two) = ("0198c000-0000-7000-8000-000000000001", "0198c000-0000-7000-8000-000000000002");
    let (code, _, err) = read(&daemon, &[one, &id, two]).await;
    assert!(code == 1 && err.contains(&format!("{one}, {two} are no alerts")) && !err.contains(&id), "{code} {err}");
    let (code, _, err) = read(&daemon, &[&id, "--watch", "other"]).await;
    assert!(code == 1 && err.contains(&format!("{id} is no such alert")), "{code} {err}");
    assert_eq!(list(&daemon, &["--unread"]).await.len(), 2, "none was marked");
}
