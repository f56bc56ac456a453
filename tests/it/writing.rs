//! Every way of writing ends in the exact reading.

use crate::support::postgres::{Database, Server};
use crate::support::receiver::Receiver;
use crate::*;

#[tokio::test]
async fn statements_of_every_kind() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database
        .sql(
            "CREATE TABLE tenants (id int PRIMARY KEY);
             INSERT INTO tenants SELECT generate_series(1, 9);
             ALTER TABLE orders ADD FOREIGN KEY (tenant_id) REFERENCES tenants ON DELETE CASCADE ON UPDATE CASCADE;
             CREATE VIEW open_orders AS SELECT * FROM orders WHERE status = 'open'",
        )
        .await;
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let ways = [
        ("insert", "INSERT INTO orders (tenant_id) SELECT g % 4 + 1 FROM generate_series(1, 40) g"),
        ("insert that is not counted", "INSERT INTO orders (tenant_id, status) SELECT 1, 'done' FROM generate_series(1, 7)"),
        ("update that moves to another key", "UPDATE orders SET tenant_id = 5 WHERE id % 3 = 0"),
        ("update out of the condition", "UPDATE orders SET status = 'done' WHERE id % 5 = 0"),
        ("update into the condition", "UPDATE orders SET status = 'open' WHERE id % 10 = 0"),
        ("update of nothing that counts", "UPDATE orders SET status = status"),
        ("delete", "DELETE FROM orders WHERE id % 7 = 0"),
        ("one row", "INSERT INTO orders (id, tenant_id) VALUES (1001, 1)"),
        ("one row to another key", "UPDATE orders SET tenant_id = 2 WHERE id = 1001"),
        ("one row out of the condition", "UPDATE orders SET status = 'done' WHERE id = 1001"),
        ("one row that does not count", "UPDATE orders SET tenant_id = 3 WHERE id = 1001"),
        ("one row into the condition", "UPDATE orders SET status = 'open' WHERE id = 1001"),
        ("one row out, to another key", "UPDATE orders SET status = 'done', tenant_id = 4 WHERE id = 1001"),
        ("one row into it, at another key", "UPDATE orders SET status = 'open', tenant_id = 5 WHERE id = 1001"),
        ("one row less", "DELETE FROM orders WHERE id = 1001"),
        (
            "no row",
            "DELETE FROM orders WHERE false; UPDATE orders SET tenant_id = 1 WHERE false; INSERT INTO orders SELECT * FROM orders WHERE false",
        ),
        (
            "null key",
            "INSERT INTO orders (tenant_id) VALUES (NULL), (NULL); UPDATE orders SET tenant_id = 6 WHERE id = (SELECT max(id) FROM orders)",
        ),
        (
            "on conflict",
            "INSERT INTO orders (id, tenant_id) SELECT g, 8 FROM generate_series(1, 60) g
             ON CONFLICT (id) DO UPDATE SET tenant_id = excluded.tenant_id;
             INSERT INTO orders (id, tenant_id) VALUES (1, 9) ON CONFLICT DO NOTHING",
        ),
        (
            "merge",
            "MERGE INTO orders o USING (SELECT generate_series(50, 70) AS id) s ON o.id = s.id
             WHEN MATCHED AND s.id % 2 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET tenant_id = 3
             WHEN NOT MATCHED THEN INSERT (id, tenant_id) VALUES (s.id, 2)",
        ),
        (
            "writable cte",
            "WITH gone AS (DELETE FROM orders WHERE tenant_id = 3 RETURNING id) INSERT INTO orders (tenant_id) SELECT 4 FROM gone",
        ),
        ("cascading update", "UPDATE tenants SET id = 40 WHERE id = 4"),
        ("cascading delete", "DELETE FROM tenants WHERE id = 8"),
        (
            "updatable view",
            "INSERT INTO open_orders (tenant_id, status) VALUES (1, 'open'); DELETE FROM open_orders WHERE tenant_id = 2",
        ),
        ("rollback", "BEGIN; INSERT INTO orders (tenant_id) SELECT 1 FROM generate_series(1, 9); ROLLBACK"),
        (
            "savepoints",
            "BEGIN; INSERT INTO orders (tenant_id) VALUES (1); SAVEPOINT a; DELETE FROM orders; ROLLBACK TO a;
             SAVEPOINT b; INSERT INTO orders (tenant_id) VALUES (1), (1); RELEASE b; COMMIT",
        ),
        ("truncate", "TRUNCATE orders"),
        ("after truncate", "INSERT INTO orders (tenant_id) SELECT 1 FROM generate_series(1, 3)"),
        (
            "truncate and more in one transaction",
            "BEGIN; INSERT INTO orders (tenant_id) VALUES (1); TRUNCATE orders; INSERT INTO orders (tenant_id) VALUES (2), (2); COMMIT",
        ),
        ("a truncate that is rolled back", "BEGIN; TRUNCATE orders; ROLLBACK; INSERT INTO orders (tenant_id) VALUES (2)"),
        (
            "cascading truncate",
            "TRUNCATE tenants CASCADE; INSERT INTO tenants VALUES (1); INSERT INTO orders (tenant_id) VALUES (1)",
        ),
    ];
    // PostgreSQL 14 has no MERGE.
    let merges = database.one::<i32>("SELECT current_setting('server_version_num')::int").await >= 150_000;
    for (way, sql) in ways.into_iter().filter(|(way, _)| merges || *way != "merge") {
        eprintln!("{way}");
        database.sql(sql).await;
        exact(&database, "orders", TRUE_ORDERS).await;
    }
    let sink = database.client.copy_in("COPY orders (id, tenant_id) FROM STDIN").await.expect("copy begins");
    let mut sink = Box::pin(sink);
    let rows: String = (1000..1100).map(|id| format!("{id}\t1\n")).collect();
    futures_util::SinkExt::send(&mut sink, bytes::Bytes::from(rows)).await.expect("rows are sent");
    assert_eq!(sink.as_mut().finish().await.expect("copy ends"), 100);
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test]
async fn partitions_through_the_root_and_straight_to_a_leaf() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database
        .sql(
            "CREATE TABLE orders (id serial, tenant_id int, status text NOT NULL DEFAULT 'open') PARTITION BY LIST (tenant_id);
             CREATE TABLE orders_1 PARTITION OF orders FOR VALUES IN (1);
             CREATE TABLE orders_2 PARTITION OF orders FOR VALUES IN (2, 3) PARTITION BY LIST (tenant_id);
             CREATE TABLE orders_2_2 PARTITION OF orders_2 FOR VALUES IN (2);
             CREATE TABLE orders_2_3 PARTITION OF orders_2 FOR VALUES IN (3);
             CREATE TABLE orders_4 (LIKE orders INCLUDING DEFAULTS)",
        )
        .await;
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let ways = [
        ("through the root", "INSERT INTO orders (tenant_id) SELECT g % 3 + 1 FROM generate_series(1, 30) g"),
        ("straight to a leaf", "INSERT INTO orders_1 (tenant_id) VALUES (1), (1); DELETE FROM orders_2_2"),
        ("through an intermediate", "INSERT INTO orders_2 (tenant_id) VALUES (2), (3), (3)"),
        (
            "moved between partitions",
            "UPDATE orders SET tenant_id = 3 WHERE tenant_id = 1; UPDATE orders_2 SET tenant_id = 2 WHERE tenant_id = 3",
        ),
        ("a leaf is truncated", "TRUNCATE orders_2_2"),
    ];
    for (way, sql) in ways {
        eprintln!("{way}");
        database.sql(sql).await;
        exact(&database, "orders", TRUE_ORDERS).await;
    }
    // ATTACH, DETACH and DROP run no trigger: they are noticed within a poll.
    database.sql("INSERT INTO orders_4 (tenant_id) SELECT 4 FROM generate_series(1, 25); ALTER TABLE orders ATTACH PARTITION orders_4 FOR VALUES IN (4)").await;
    receiver
        .wait("the attached partition is counted", |events| events.iter().any(|event| event.data["key"]["tenant_id"] == 4))
        .await;
    exact(&database, "orders", TRUE_ORDERS).await;
    database.sql("INSERT INTO orders_4 (tenant_id) VALUES (4)").await;
    exact(&database, "orders", TRUE_ORDERS).await;
    database.sql("ALTER TABLE orders DETACH PARTITION orders_4").await;
    exact(&database, "orders", TRUE_ORDERS).await;
    support::eventually("the detached table has no triggers", async || {
        let left: i64 = database.one("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'orders_4'::regclass").await;
        (left == 0).then_some(())
    })
    .await;
    database.sql("INSERT INTO orders_4 (tenant_id) VALUES (4)").await;
    database.sql("DROP TABLE orders_2; CREATE TABLE orders_5 PARTITION OF orders FOR VALUES IN (5); INSERT INTO orders (tenant_id) VALUES (5)").await;
    exact(&database, "orders", TRUE_ORDERS).await;
    support::eventually("the new partition has its triggers", async || {
        let there: i64 = database.one("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'orders_5'::regclass").await;
        (there == 4).then_some(())
    })
    .await;
}

#[tokio::test]
async fn prepared_transactions_go_on_working() {
    let server = Server::start(&["max_prepared_transactions = 5"]);
    let (database, receiver) = (server.database().await, Receiver::start().await);
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    // Asleep or awake: PREPARE TRANSACTION fails after a NOTIFY, so nothing may ring.
    support::eventually("the doorbell is off", async || {
        let off: bool = database.one("SELECT coalesce(bool_or(doorbell = 'off'), false) FROM items_listen.instance").await;
        off.then_some(())
    })
    .await;
    for _ in 0..20 {
        database.sql("BEGIN; INSERT INTO orders (tenant_id) VALUES (1); PREPARE TRANSACTION 'a'").await;
        database.sql("BEGIN; INSERT INTO orders (tenant_id) VALUES (1); PREPARE TRANSACTION 'b'").await;
        insert(&database, 2, 1).await;
        database.sql("COMMIT PREPARED 'a'").await;
        database.sql("ROLLBACK PREPARED 'b'").await;
    }
    let events = receiver.wait_for(2).await;
    assert_eq!(said(&events), expected(&[("raised", "warning", 20), ("raised", "warning", 20)]));
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test]
async fn a_table_that_is_dropped_and_created_again() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    insert(&database, 1, 25).await;
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    receiver.wait_for(1).await;
    database.sql("DROP TABLE orders").await;
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    database.sql("INSERT INTO orders (tenant_id) SELECT 2 FROM generate_series(1, 40)").await;
    let events = receiver.wait_for(3).await;
    assert!(said(&events).contains(&("raised".into(), "critical".into(), 40)));
    assert!(said(&events).contains(&("resolved".into(), "info".into(), 0)));
    insert(&database, 2, 3).await;
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test]
async fn a_column_that_goes_fails_no_writer() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    database.sql("ALTER TABLE orders RENAME COLUMN tenant_id TO customer_id").await;
    database.sql("INSERT INTO orders (customer_id) VALUES (1); DELETE FROM orders; INSERT INTO orders (customer_id) SELECT 3 FROM generate_series(1, 25)").await;
    daemon.logged("degraded").await;
    let (code, out, _) = daemon.run(&["status"]).await;
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("degraded") && out.contains("tenant_id"), "{out}");
    database.sql("ALTER TABLE orders RENAME COLUMN customer_id TO tenant_id").await;
    assert_eq!(said(&receiver.wait_for(1).await), expected(&[("raised", "high", 25)]));
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test]
async fn keys_of_every_type_have_one_text_whatever_the_writer_sets() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database
        .sql(
            r#"CREATE DOMAIN code AS varchar(20);
               CREATE TABLE "We""ird.Name" (t text, v code, n numeric, u uuid, b boolean, d date, z timestamptz, "Int" bigint)"#,
        )
        .await;
    let watch = r#"
        [[watch]]
        name = "weird"
        table = '"public"."We""ird.Name"'
        key = ["t", "v", "n", "u", "b", "d", "z", "Int"]
        threshold = 4
        [[watch.publish]]
        channels = ["c.{{ key.t }}.{{ key.Int }}"]
        event = "e"
    "#;
    let mut daemon = daemon(&config(&database, &receiver, watch));
    daemon.start().await;
    let insert = |number: &str| {
        format!(
            r#"INSERT INTO "We""ird.Name" VALUES (E'a"\u00e9\\', 'x', {number}, '00000000-0000-0000-0000-00000000000A', true, '2026-11-21',
               '2026-11-21T12:00:00.5Z', 9007199254740993)"#
        )
    };
    for (settings, number) in [
        ("SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'SQL, DMY'", "1.50"),
        ("SET TimeZone = 'America/Caracas'; SET IntervalStyle = 'iso_8601'; SET DateStyle = 'German'", "1.5"),
        ("SET extra_float_digits = -3; SET bytea_output = 'escape'", "1.500"),
        ("SET search_path = ''; SET standard_conforming_strings = on; SET search_path = public", "15e-1"),
    ] {
        let session = database.session().await;
        session.batch_execute(&format!("{settings}; {}", insert(number))).await.expect("the writer's settings are its own");
    }
    let events = receiver.wait_for(1).await;
    let keys: i64 = database.one("SELECT count(*) FROM items_listen.count").await;
    assert_eq!(keys, 1);
    assert_eq!(
        events[0].data["key"],
        serde_json::json!({
            "t": "a\"é\\", "v": "x", "n": "1.5", "u": "00000000-0000-0000-0000-00000000000a", "b": true, "d": "2026-11-21",
            "z": "2026-11-21T12:00:00.5Z", "Int": 9_007_199_254_740_993_i64
        })
    );
    assert_eq!(events[0].channels, ["c.a=22=C3=A9=5C.9007199254740993"]);
}

#[tokio::test]
async fn a_key_of_any_length_is_a_key() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE notes (text text)").await;
    let watch = r#"
        [[watch]]
        name = "notes"
        table = "notes"
        key = ["text"]
        threshold = 2
        [[watch.publish]]
        channels = ["notes"]
        event = "notes.many"
    "#;
    let mut daemon = daemon(&config(&database, &receiver, watch));
    daemon.start().await;
    // Random, so that no compression makes it short.
    database.sql("INSERT INTO notes SELECT string_agg(md5(g::text), '') FROM generate_series(1, 3000) g; INSERT INTO notes SELECT * FROM notes").await;
    let events = receiver.wait_for(1).await;
    assert!(events[0].data["key"]["text"].as_str().is_some_and(|text| text.starts_with("long:sha256:")), "{}", events[0].data);
    database.sql("UPDATE notes SET text = 'short'").await;
    let events = receiver.wait_for(3).await;
    assert_eq!(events.iter().filter(|event| event.text("transition") == "resolved").count(), 1);
}

#[tokio::test]
async fn a_key_column_of_another_type_is_another_generation() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    insert(&database, 1, 19).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    database.sql("ALTER TABLE orders ALTER tenant_id TYPE text").await;
    database.sql("INSERT INTO orders (tenant_id) VALUES ('1')").await;
    let events = receiver.wait_for(1).await;
    assert_eq!((events[0].number("count"), &events[0].data["key"]["tenant_id"]), (20, &serde_json::json!("1")));
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test]
async fn a_part_of_a_table_cannot_be_watched_by_itself() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database
        .sql(
            "CREATE TABLE all_orders (tenant_id int, status text) PARTITION BY LIST (tenant_id);
             CREATE TABLE orders PARTITION OF all_orders FOR VALUES IN (1)",
        )
        .await;
    let (code, out, _) = daemon(&config(&database, &receiver, ORDERS)).run(&["check"]).await;
    assert!(code == 1 && out.contains("watch that table"), "{code} {out}");
}
