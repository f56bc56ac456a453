//! A recount makes counts exact from one snapshot, while writers and folds go on (rules R).

use crate::support::receiver::Receiver;
use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn r1_counts_are_exact_though_writers_and_folds_and_other_recounts_go_on() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("INSERT INTO orders (tenant_id) SELECT g % 50 FROM generate_series(1, 100000) g").await;
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    let stop = tokio_util::sync::CancellationToken::new();
    let mut writers = Vec::new();
    for number in 0..4 {
        let (session, stop) = (database.session().await, stop.clone());
        writers.push(tokio::spawn(async move {
            while !stop.is_cancelled() {
                let sql = format!(
                    "INSERT INTO orders (tenant_id) SELECT g % 50 FROM generate_series(1, 20) g;
                     UPDATE orders SET tenant_id = (tenant_id + 1) % 50 WHERE id % 997 = {number};
                     BEGIN; DELETE FROM orders WHERE id % 991 = {number}; SAVEPOINT s; INSERT INTO orders (tenant_id) VALUES (1); ROLLBACK TO s; COMMIT"
                );
                // Two writers may meet on one row; whoever loses tries again.
                if session.batch_execute(&sql).await.is_err() {
                    session.batch_execute("ROLLBACK").await.expect("the session lives");
                }
            }
        }));
    }
    // The first installation is a recount, too.
    daemon.start().await;
    for _ in 0..5 {
        let (one, two) = tokio::join!(daemon.run(&["recount"]), daemon.run(&["recount", "orders"]));
        assert_eq!((one.0, two.0), (0, 0), "{} {}", one.2, two.2);
    }
    // Something is wrong: exactly that is corrected, although all goes on.
    database.sql("SELECT pg_advisory_lock(1); UPDATE items_listen.count SET rows = rows + 7 WHERE key = '[3]'; SELECT pg_advisory_unlock(1)").await;
    assert_eq!(daemon.run(&["recount"]).await.0, 0);
    stop.cancel();
    for writer in writers {
        writer.await.expect("no writer panics");
    }
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_recount_gives_way_to_whoever_needs_the_table() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    // A key that takes long to compute makes the recount long.
    database
        .sql(
            "CREATE FUNCTION slow(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM pg_sleep(0.01); RETURN true; END $$;
             INSERT INTO orders (tenant_id) SELECT 1 FROM generate_series(1, 2000)",
        )
        .await;
    let mut daemon = daemon(&config(&database, &receiver, &ORDERS.replace("status = 'open'", "public.slow(id)")));
    daemon.spawn();
    support::eventually("the recount is under way", async || {
        let running: i64 = database.one("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%items_listen_truth%' AND state = 'active' AND pid <> pg_backend_pid() AND datname = current_database()").await;
        (running > 0).then_some(())
    })
    .await;
    database.sql("ALTER TABLE orders ADD note text").await;
    daemon.logged("gives way").await;
    let markers: i64 = database.one("SELECT count(*) FROM items_listen.marker").await;
    assert!(markers > 0, "the marker stays");
    database.sql("TRUNCATE orders").await;
    insert(&database, 1, 25).await;
    assert_eq!(said(&receiver.wait_for(1).await), expected(&[("raised", "high", 25)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_while_a_marker_is_visible_nothing_is_evaluated() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    // A recount cannot run while the table is locked; TRUNCATE and what follows are one marker and many rows.
    database.sql("INSERT INTO orders (tenant_id) SELECT g % 5 FROM generate_series(1, 95) g").await;
    exact(&database, "orders", TRUE_ORDERS).await;
    for _ in 0..20 {
        // A key that is always at 19, whatever the daemon sees in between: never a word about it.
        database
            .sql("BEGIN; TRUNCATE orders; INSERT INTO orders (tenant_id) SELECT g % 5 FROM generate_series(1, 95) g; COMMIT")
            .await;
    }
    exact(&database, "orders", TRUE_ORDERS).await;
    assert_eq!(receiver.all().len(), 0);
    insert(&database, 1, 1).await;
    receiver.wait_for(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r3_row_level_security_is_an_error_and_not_a_smaller_count() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let role = format!("daemon_{}", database.name);
    database
        .sql(&format!(
            "CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {name} TO {role}; GRANT SELECT, INSERT, TRIGGER ON orders TO {role};
             ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CREATE POLICY one_tenant ON orders USING (tenant_id = 1);
             INSERT INTO orders (tenant_id) SELECT g % 2 FROM generate_series(1, 60) g",
            name = database.name
        ))
        .await;
    let config = config(&database, &receiver, ORDERS).replace("postgres://postgres@", &format!("postgres://{role}@"));
    let mut daemon = daemon(&config);
    daemon.spawn();
    let line = daemon.logged("row-level security").await;
    assert_eq!(line["watch"], "orders");
    assert_eq!(receiver.all().len(), 0, "a filtered count would have said 30");
    database.sql(&format!("ALTER ROLE {role} BYPASSRLS")).await;
    receiver.wait_for(2).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    drop(daemon);
}
