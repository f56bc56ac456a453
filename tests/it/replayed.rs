//! Rows that were written before, or in another time, or by nobody of ours: they change nothing, or what they say.

use items_listen::db::locks::Lock;
use items_listen::db::schema::Schema;

use crate::support::receiver::Receiver;
use crate::*;

/// Somebody who is told of changes takes their rows.
const TOLD: &str = r#"
[[watch]]
name = "told"
table = "public.orders"
[[watch.publish]]
channels = ["orders"]
event = "order.removed"
on = "delete"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_another_generation_or_time_or_of_no_watch_change_nothing() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, &format!("{TOLD}{ORDERS}")));
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    daemon.terminate().await;
    // Generation 2 is no more.
    let another = ORDERS.replace("status = 'open'", "status <> 'done'");
    daemon.configure(&config(&database, &receiver, &format!("{TOLD}{another}")));
    daemon.start().await;
    let before: String = database.one("SELECT string_agg(c::text, ';' ORDER BY key) FROM items_listen.count c").await;
    database
        .sql(
            "INSERT INTO items_listen.journal (xid, generation, rows, key) VALUES
                 ('18446744073709551615', 2, 50, '[1]'), ('0', 2, -50, '[1]'), ('3', -1, 7, '[1]'), (pg_current_xact_id(), 2147483647, 7, 'no key');
             INSERT INTO items_listen.change (xid, generation, at, depth, change, key, old, new) VALUES
                 ('18446744073709551615', 2, 'infinity', 0, 'insert', '[1]', NULL, '{}'), ('1', -5, '-infinity', 0, 'delete', '[1]', '{}', NULL);
             INSERT INTO items_listen.threshold_edit (watch, key) VALUES ('nobody', '{}'), ('orders', '{\"no column\": 1}');
             INSERT INTO items_listen.marker (watch, reason) VALUES (999, 'recount')",
        )
        .await;
    // Those with a number of long ago are found by the next fold from the beginning, which is the first of a session.
    daemon.terminate().await;
    daemon.start().await;
    support::eventually("they are gone", async || {
        let left: i64 = database
            .one("SELECT (SELECT count(*) FROM items_listen.journal) + (SELECT count(*) FROM items_listen.change) + (SELECT count(*) FROM items_listen.threshold_edit)")
            .await;
        (left == 0).then_some(())
    })
    .await;
    let after: String = database.one("SELECT string_agg(c::text, ';' ORDER BY key) FROM items_listen.count c").await;
    assert_eq!(after, before);
    database.sql("DELETE FROM items_listen.marker WHERE watch = 999").await;
    assert!(receiver.accepted().iter().all(|event| event.name == "orders.many"), "no change was told");
    // The bounded scan is not led astray: what follows is folded as ever.
    insert(&database, 2, 20).await;
    receiver.wait_for(2).await;
    exact(&database, "orders", &TRUE_ORDERS.replace("= 'open'", "<> 'done'")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn times_and_thresholds_that_no_sane_application_writes_are_taken_as_they_are() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    for read_at in ["infinity", "-infinity", "294276-12-31 23:59:59+00", "4713-01-01 00:00:00+00 BC"] {
        database.sql(&format!("UPDATE items_listen.alert SET read_at = '{read_at}'")).await;
        let (code, out, err) = daemon.run(&["alerts", "list", "--json"]).await;
        assert_eq!(code, 0, "{read_at}: {out}{err}");
        assert_eq!(daemon.run(&["status"]).await.0, 0, "{read_at}");
    }
    insert(&database, 1, 10).await;
    receiver.wait_for(2).await;
    // The same edit again is no other threshold, and foreign columns are about no key.
    let edits = [
        r#"('orders', '{"tenant_id": 1, "more": 2}', 1)"#.to_owned(),
        r#"('orders', '{"": null, "a": {"b": [[[]]]}}', 1)"#.to_owned(),
        format!(r#"('orders', '{{"tenant_id": "{}"}}', 1)"#, "x".repeat(100_000)),
        r#"('no such watch', '{"tenant_id": 1}', 1)"#.to_owned(),
        r#"('orders', '{"tenant_id": 2}', -9223372036854775808)"#.to_owned(),
        r#"('orders', '{"tenant_id": 3}', 9223372036854775807)"#.to_owned(),
        r#"('orders', '{"tenant_id": 4}', NULL)"#.to_owned(),
    ];
    for edit in &edits {
        let insert = format!(
            "INSERT INTO items_listen.threshold VALUES {edit} ON CONFLICT (watch, key) DO UPDATE SET threshold = excluded.threshold"
        );
        for _ in 0..2 {
            database.sql(&insert).await;
        }
    }
    insert(&database, 5, 20).await;
    receiver.wait_for(3).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    assert_eq!(daemon.lines("degraded") + daemon.lines("no database session"), 0, "{:?}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_holds_the_folds_lock_is_named_and_holds_up_no_writer() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let holder = database.session().await;
    let key = Lock::Fold.sql(&Schema::new("items_listen"));
    holder
        .batch_execute(&format!("SET application_name = 'stranger'; SELECT pg_advisory_lock({key})"))
        .await
        .expect("anybody may");
    let pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).await.expect("its pid").get(0);
    database.sql("SET statement_timeout = '20s'").await;
    insert(&database, 1, 20).await;
    let named = daemon.logged("holds the fold's lock").await;
    assert_eq!(named["pid"], pid, "{named}");
    assert!(named["holder"].as_str().is_some_and(|holder| holder.contains("stranger")), "{named}");
    insert(&database, 2, 20).await;
    assert_eq!(receiver.accepted().len(), 0);
    drop(holder);
    receiver.wait_for(2).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    assert_eq!(daemon.lines("holds the fold's lock"), 1, "once");
}

/// A role of its own that takes one of our locks, and calls itself as we do.
async fn stranger(database: &Database, lock: Lock) -> (tokio_postgres::Client, i32) {
    let role = format!("stranger_{}", database.name);
    database.sql(&format!("CREATE ROLE {role} LOGIN")).await;
    let url = format!("postgres://{role}@127.0.0.1:{}/{}?application_name=items-listen", database.port, database.name);
    let client = support::postgres::connect(&url).await;
    let key = lock.sql(&Schema::new("items_listen"));
    client.batch_execute(&format!("SELECT pg_advisory_lock({key})")).await.expect("anybody may");
    let pid = client.query_one("SELECT pg_backend_pid()", &[]).await.expect("its pid").get(0);
    (client, pid)
}

/// It is named once, in the log and as what is wrong with the watch, and forgotten when it is gone.
async fn named_and_forgotten(database: &Database, daemon: &support::daemon::Daemon, stranger: (tokio_postgres::Client, i32)) {
    let (client, pid) = stranger;
    let line = daemon.logged("watch degraded").await;
    let role = format!("stranger_{}", database.name);
    for part in [&format!("pid {pid},"), &role] {
        assert!(line["error"].as_str().is_some_and(|error| error.contains(part)), "{part}: {line}");
    }
    let errors = "SELECT count(*) FROM items_listen.watch WHERE error LIKE '%pid%lock%'";
    support::eventually("status says so", async || (database.one::<i64>(errors).await == 1).then_some(())).await;
    daemon.ready().await;
    drop(client);
    daemon.logged("no longer degraded").await;
    support::eventually("nothing is left", async || (database.one::<i64>(errors).await == 0).then_some(())).await;
    assert_eq!(daemon.lines("watch degraded"), 1, "once");
    database.sql(&format!("DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_that_holds_the_lock_of_a_recount_is_named() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let stranger = stranger(&database, Lock::Recount(1)).await;
    database.sql("INSERT INTO items_listen.marker (watch, reason) VALUES (1, 'recount')").await;
    insert(&database, 1, 20).await;
    named_and_forgotten(&database, &daemon, stranger).await;
    receiver.wait_for(1).await;
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_that_holds_the_lock_of_a_query_or_a_notify_watch_is_named_and_another_replica_is_not() {
    const ASKED: &str = r#"
[[watch]]
name = "asked"
query = "SELECT count(*)::int AS quantity FROM orders"
every = "300ms"
sum = "quantity"
threshold = 20
[[watch.publish]]
channels = ["orders"]
event = "orders.many"
"#;
    let (_, rest) = ASKED.split_once("sum = \"quantity\"\n").expect("its lines");
    let heard = format!("[[watch]]\nname = \"heard\"\nnotify = \"orders_count\"\n{rest}");
    for watch in [ASKED, heard.as_str()] {
        let (database, receiver) = (shop().await, Receiver::start().await);
        let configured = config(&database, &receiver, watch);
        let mut one = daemon(&configured);
        one.start().await;
        let mut other = daemon(&configured);
        other.start().await;
        // Longer than a stranger is borne.
        tokio::time::sleep(std::time::Duration::from_secs(15)).await;
        other.terminate().await;
        one.terminate().await;
        assert_eq!(one.lines("degraded") + other.lines("degraded"), 0, "{:?} {:?}", one.log(), other.log());
        let stranger = stranger(&database, Lock::Source(1)).await;
        one.start().await;
        named_and_forgotten(&database, &one, stranger).await;
        insert(&database, 1, 20).await;
        database.sql("NOTIFY orders_count, '20'").await;
        receiver.wait_for(1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_session_runs_is_written_nowhere() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    let holder = database.session().await;
    let pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).await.expect("its pid").get(0);
    holder.batch_execute("BEGIN; INSERT INTO orders (tenant_id) VALUES (1); SELECT 'pw=hunter2'").await.expect("a secret");
    daemon.spawn();
    let line = daemon.logged("watch degraded").await;
    assert!(line["error"].as_str().is_some_and(|error| error.contains(&format!("pid {pid},"))), "{line}");
    let error = support::eventually("it is recorded", async || {
        database.one::<Option<String>>("SELECT max(error) FROM items_listen.watch").await
    })
    .await;
    let (_, status, _) = daemon.run(&["status", "--json"]).await;
    for said in [error, status, format!("{:?}", daemon.log())] {
        assert!(!said.contains("hunter2"), "{said}");
    }
    holder.batch_execute("COMMIT").await.expect("ends");
    daemon.logged("no longer degraded").await;
}
