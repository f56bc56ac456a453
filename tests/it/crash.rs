//! Exact through crashes: nothing is counted twice, nothing is lost, in order per key.

use std::collections::HashMap;
use std::process::Stdio;

use crate::support::postgres::shared;
use crate::support::receiver::{Event, Receiver};
use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_in_one_statement_and_many_transactions_with_the_daemon_killed_in_between() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let writer = database.session().await;
    let million = writer.batch_execute("INSERT INTO orders (tenant_id) SELECT g % 1000 FROM generate_series(1, 1000000) g");
    let kills = async {
        for _ in 0..3 {
            support::eventually("some of it is seen", async || {
                let rows: i64 = database.one("SELECT count(*) FROM items_listen.count").await;
                (rows > 0 || database.one::<i64>("SELECT count(*) FROM items_listen.journal").await >= 0).then_some(())
            })
            .await;
            daemon.kill();
            daemon.start().await;
        }
    };
    let (inserted, ()) = tokio::join!(million, kills);
    inserted.expect("a million rows");
    exact(&database, "orders", TRUE_ORDERS).await;

    let script = std::env::temp_dir().join(format!("items-listen-{}.sql", std::process::id()));
    std::fs::write(&script, "\\set t random(1, 50)\nINSERT INTO orders (tenant_id) VALUES (:t);\n")
        .expect("the script is written");
    let mut pgbench = shared().program("pgbench", &database.name);
    let child = pgbench
        .args(["-n", "-c", "16", "-j", "2", "-t", "6250", "-f"])
        .arg(&script)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("pgbench starts");
    let waiting = tokio::task::spawn_blocking(move || {
        let mut child = child;
        child.wait()
    });
    let mut kills = 0;
    while !waiting.is_finished() {
        let before: i64 = database.one("SELECT coalesce(sum(rows), 0)::bigint FROM items_listen.count").await;
        daemon.kill();
        kills += 1;
        daemon.start().await;
        support::eventually("it folds again", async || {
            let now: i64 = database.one("SELECT coalesce(sum(rows), 0)::bigint FROM items_listen.count").await;
            (now > before || waiting.is_finished()).then_some(())
        })
        .await;
    }
    assert!(waiting.await.expect("no panic").expect("pgbench ends").success());
    eprintln!("{kills} kills");
    exact(&database, "orders", TRUE_ORDERS).await;
    let rows: i64 = database.one("SELECT count(*) FROM orders").await;
    assert_eq!(rows, 1_100_000);
    let _removed = std::fs::remove_file(&script);
}

/// What the deliveries say, in the order of first arrival per key: it must be exactly the history of transitions.
fn check_history(events: &[Event]) {
    let mut seen: HashMap<String, Vec<(i64, String)>> = HashMap::new();
    let mut bodies: HashMap<String, String> = HashMap::new();
    for event in events {
        let (key, id, seq) = (event.data["key"].to_string(), event.text("id"), event.number("seq"));
        let body = bodies.entry(id.clone()).or_insert_with(|| event.data.to_string());
        assert_eq!(*body, event.data.to_string(), "a duplicate has the same body");
        let history = seen.entry(key.clone()).or_default();
        if history.iter().any(|(_, known)| *known == id) {
            continue;
        }
        assert!(history.last().is_none_or(|(last, _)| *last < seq), "{key}: {seq} came after {history:?}");
        history.push((seq, id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_with_a_failing_endpoint_every_transition_arrives_in_order() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    // One answer in three is an error, after which the request has been seen all the same.
    let count = std::sync::atomic::AtomicUsize::new(0);
    receiver.answer(move |_| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if number % 3 == 2 { (500, "no".into()) } else { (200, "{}".into()) }
    });
    for round in 0..12 {
        for tenant in 1..=5 {
            // Above, far above, below: two transitions or more per round and tenant.
            insert(&database, tenant, 20 + (round % 3) * 6).await;
        }
        if round % 2 == 1 {
            daemon.kill();
            database.sql("DELETE FROM orders").await;
            daemon.spawn();
        } else {
            database.sql("DELETE FROM orders").await;
        }
    }
    for tenant in 1..=5 {
        insert(&database, tenant, 31).await;
    }
    daemon.ready().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    support::eventually("the outbox is empty", async || {
        let left: i64 = database.one("SELECT count(*) FROM items_listen.delivery WHERE state = 'pending'").await;
        (left == 0).then_some(())
    })
    .await;
    let dead: i64 = database.one("SELECT count(*) FROM items_listen.delivery WHERE state <> 'delivered'").await;
    assert_eq!(dead, 0);
    let accepted = receiver.accepted();
    check_history(&accepted);
    // Every event in the database arrived, and the last of each key is the truth.
    let ids: std::collections::HashSet<String> = accepted.iter().map(|event| event.text("id")).collect();
    let rows = database.client.query("SELECT id::text FROM items_listen.event", &[]).await.expect("events");
    assert!(rows.iter().all(|row| ids.contains(&row.get::<_, String>(0))));
    assert_eq!(ids.len(), rows.len(), "nothing unexpected");
    for tenant in 1..=5 {
        let last =
            accepted.iter().filter(|event| event.data["key"]["tenant_id"] == tenant).max_by_key(|event| event.number("seq"));
        assert_eq!(last.map(|event| (event.text("severity"), event.number("count"))), Some(("critical".into(), 31)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_restarts_and_the_daemon_comes_back_by_itself() {
    for mode in ["fast", "immediate"] {
        let mut server = support::postgres::Server::start(&["fsync = on"]);
        let (database, receiver) = (server.database().await, Receiver::start().await);
        database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
        let mut daemon = daemon(&config(&database, &receiver, ORDERS));
        daemon.start().await;
        insert(&database, 1, 20).await;
        receiver.wait_for(1).await;
        let (port, name) = (database.port, database.name.clone());
        drop(database);
        server.halt(mode);
        support::eventually("not ready while the database is away", async || {
            daemon.get("/readyz").await.filter(|(status, _)| *status == 503)
        })
        .await;
        assert_eq!(daemon.get("/healthz").await.map(|(status, _)| status), Some(200));
        server.boot();
        assert_eq!(server.port, port);
        let again = support::postgres::Database { port, name: name.clone(), client: server.connect(&name).await };
        insert(&again, 1, 5).await;
        insert(&again, 2, 30).await;
        receiver.wait_for(3).await;
        daemon.ready().await;
        exact(&again, "orders", TRUE_ORDERS).await;
        assert_eq!(receiver.all().len(), 3, "nothing is said twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_backend_of_ours_may_be_killed_while_writers_write() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    for round in 0..15 {
        insert(&database, round % 4, 3).await;
        database
            .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'items-listen' AND datname = current_database()")
            .await;
        insert(&database, round % 4, 4).await;
    }
    exact(&database, "orders", TRUE_ORDERS).await;
    receiver
        .wait("all four are said", |events| {
            events
                .iter()
                .filter(|event| event.number("count") >= 20)
                .map(|event| event.data["key"].to_string())
                .collect::<std::collections::HashSet<_>>()
                .len()
                == 4
        })
        .await;
    check_history(&receiver.accepted());
    daemon.ready().await;
}
