//! What is locked cannot be looked at, which is no mistake of the configuration.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use serde_json::Value;

use super::{check, finding, findings, has, of};
use crate::support::receiver::Receiver;
use crate::*;

/// A table, a query and a lookup.
const WATCHES: &str = r#"
[[watch]]
name = "big"
table = "public.orders"
where = "tenant_id > 5"
threshold = 20
[[watch.publish]]
channels = ["orders"]
event = "orders.many"
[[watch]]
name = "asked"
query = "SELECT id FROM customers"
every = "1h"
threshold = 20
[[watch.publish]]
channels = ["asked"]
event = "asked"
[[watch]]
name = "told"
notify = "told"
key = ["id"]
threshold = 20
lookup = "SELECT name FROM customers WHERE id = :id"
[[watch.publish]]
channels = ["told"]
event = "told"
"#;

async fn customers() -> Database {
    let database = shop().await;
    database.sql("CREATE TABLE customers (id int PRIMARY KEY, name text)").await;
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_locked_is_told_apart_from_a_wrong_configuration() {
    let (database, receiver) = (customers().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, WATCHES));
    let other = database.session().await;
    let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).await.expect("its pid").get(0);
    other.batch_execute("SET application_name = 'migration 7'").await.expect("sets");
    other.batch_execute("BEGIN; LOCK TABLE customers IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    other.batch_execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 69, "it could not be looked at: {report:#}");
    for (subject, table) in [("watch big", "orders"), ("watch asked", "customers"), ("watch told", "customers")] {
        let found = findings(&report).find(|finding| finding["subject"] == subject && finding["id"] == "locked");
        let found = found.unwrap_or_else(|| panic!("{subject}: {report:#}"));
        assert_eq!(of(found, "level"), "error");
        for part in ["could not be looked at now", &format!("pid {pid}"), "migration 7", "is locked by"] {
            assert!(of(found, "what").contains(part), "{part}: {found:#}");
        }
        // Of a table that is watched it is known which it is.
        assert!(subject != "watch big" || of(found, "what").contains(table), "{found:#}");
        assert!(of(found, "remedy").contains(&format!("pg_terminate_backend({pid})")), "{found:#}");
    }
    for mistake in ["watch-definition", "lookup", "interrupted", "privileges"] {
        assert!(!has(&report, mistake), "{mistake}: {report:#}");
    }
    other.batch_execute("COMMIT").await.expect("let go");

    // Nobody holds it: who waits for it is before us.
    let reader = database.session().await;
    reader.batch_execute("BEGIN; SELECT FROM orders").await.expect("reads");
    let waiting = tokio::spawn(async move { other.batch_execute("ALTER TABLE orders ADD COLUMN note text").await });
    support::eventually("it waits", async || {
        let waits = format!("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = {pid} AND NOT granted)");
        database.one::<bool>(&waits).await.then_some(())
    })
    .await;
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 69, "{report:#}");
    let found = finding(&report, "locked", "error");
    assert!(
        of(found, "what").contains("orders is about to be locked by pid") && of(found, "what").contains("migration 7"),
        "{found:#}"
    );
    reader.batch_execute("COMMIT").await.expect("let go");
    waiting.await.expect("no panic").expect("altered");
    assert_eq!(check(&daemon, &[]).await.0, 0);

    // A table of ours.
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    reader.batch_execute("BEGIN; LOCK TABLE items_listen.watch IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 69, "{report:#}");
    let found = findings(&report).find(|finding| finding["id"] == "locked").unwrap_or_else(|| panic!("{report:#}"));
    assert!(of(found, "what").contains("items_listen.watch is locked by pid"), "{found:#}");
    assert!(!has(&report, "interrupted"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_momentary_lock_is_waited_for_and_said_meanwhile() {
    let (database, receiver) = (customers().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, WATCHES));
    let other = database.session().await;
    other.batch_execute("BEGIN; LOCK TABLE customers, orders IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let mut command = daemon.command(&["check", "--json"]);
    let mut running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let (mut out, err) = (running.stdout.take().expect("stdout"), running.stderr.take().expect("stderr"));
    let (said, hearing) = tokio::sync::oneshot::channel();
    let reading = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(err).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("looking again"));
        let _heard = said.send(line);
        lines.for_each(drop);
        let mut text = String::new();
        out.read_to_string(&mut text).expect("read");
        (running.wait().expect("it ends"), text)
    });
    let line = hearing.await.expect("no panic").expect("it says that it waits");
    assert!(line.contains("watch big: what it reads is locked"), "{line}");
    other.batch_execute("COMMIT").await.expect("let go");
    let (status, text) = reading.await.expect("no panic");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert!(status.success() && !has(&report, "locked"), "{status} {report:#}");
}
