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
                (rows > 0 || database.one::<i64>("SELECT count(*) FROM items_listen.journal").await > 0).then_some(())
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
pub fn check_history(events: &[Event]) {
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

#[tokio::test(flavor = "multi_thread")]
async fn under_load_two_replicas_are_killed_stopped_and_cut_off_while_the_endpoint_fails() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let config = config(&database, &receiver, ORDERS);
    let (mut one, mut two) = (daemon(&config), daemon(&config));
    one.start().await;
    two.spawn();
    let count = std::sync::atomic::AtomicUsize::new(0);
    receiver.answer(move |_| {
        let statuses = [200, 200, 500, 200, 503, 429, 200, 408];
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (statuses[number % statuses.len()], "{}".into())
    });
    let stop = tokio_util::sync::CancellationToken::new();
    let mut writers = Vec::new();
    for number in 0..3 {
        let (session, stop) = (database.session().await, stop.clone());
        writers.push(tokio::spawn(async move {
            let mut step = number;
            while !stop.is_cancelled() {
                let tenant = step % 6;
                let sql = match step / 6 % 5 {
                    0 | 1 => format!("INSERT INTO orders (tenant_id) SELECT {tenant} FROM generate_series(1, 9)"),
                    2 => format!("UPDATE orders SET status = 'done' WHERE id IN (SELECT id FROM orders WHERE tenant_id = {tenant} LIMIT 7 FOR UPDATE SKIP LOCKED)"),
                    3 => format!("BEGIN; INSERT INTO orders (tenant_id) SELECT {tenant} FROM generate_series(1, 30); ROLLBACK"),
                    _ => format!("DELETE FROM orders WHERE id IN (SELECT id FROM orders WHERE tenant_id = {tenant} FOR UPDATE SKIP LOCKED)"),
                };
                session.batch_execute(&sql).await.expect("no writer ever fails");
                step += 1;
                tokio::time::interval(std::time::Duration::from_millis(3)).tick().await;
            }
        }));
    }
    let mut rounds = tokio::time::interval(std::time::Duration::from_millis(300));
    for round in 0..40 {
        rounds.tick().await;
        match round % 5 {
            0 | 3 => {
                one.kill();
                one.spawn();
            }
            1 => {
                two.kill();
                two.spawn();
            }
            2 => {
                database
                    .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'items-listen' AND datname = current_database()")
                    .await;
            }
            _ => two.signal(if round % 10 == 4 { "STOP" } else { "CONT" }),
        }
    }
    two.kill();
    stop.cancel();
    for writer in writers {
        writer.await.expect("no writer panics");
    }
    receiver.status(200);
    one.ready().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    support::eventually("the outbox is empty", async || {
        let left: i64 = database.one("SELECT count(*) FROM items_listen.delivery WHERE state <> 'delivered'").await;
        (left == 0).then_some(())
    })
    .await;
    let accepted = receiver.accepted();
    check_history(&accepted);
    let ids: std::collections::HashSet<String> = accepted.iter().map(|event| event.text("id")).collect();
    let rows = database.client.query("SELECT id::text FROM items_listen.event", &[]).await.expect("events");
    assert!(rows.iter().all(|row| ids.contains(&row.get::<_, String>(0))), "nothing is lost");
    assert_eq!(ids.len(), rows.len(), "nothing unexpected");
    eprintln!("{} events, {} repeated", ids.len(), accepted.len() - ids.len());
    // What was said last about each key is true.
    for tenant in 0..6 {
        let truth: i64 =
            database.one(&format!("SELECT count(*) FROM orders WHERE tenant_id = {tenant} AND status = 'open'")).await;
        let severity = match truth {
            ..20 => "info",
            20..24 => "warning",
            24..30 => "high",
            _ => "critical",
        };
        let last =
            accepted.iter().filter(|event| event.data["key"]["tenant_id"] == tenant).max_by_key(|event| event.number("seq"));
        assert_eq!(last.map_or("info".into(), |event| event.text("severity")), severity, "tenant {tenant}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_ends_nothing() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("it is there");
    let mut child = daemon.command(&["run"]).stdout(Stdio::null()).stderr(full).spawn().expect("the binary starts");
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    insert(&database, 1, 10).await;
    receiver.wait_for(2).await;
    assert!(child.try_wait().expect("asks").is_none(), "it lives");
    child.kill().expect("it ends");
    child.wait().expect("it ends");
}
