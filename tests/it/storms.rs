//! Storms: many keys cross at once. Memory stays bounded, writers and other watches are not held up, and where a watch
//! says so one digest takes the place of the flood.

use std::collections::HashSet;

use crate::support::receiver::{Event, Receiver};
use crate::*;

/// The watch of most tests, in one channel, with a limit.
fn stormy() -> String {
    ORDERS
        .replace("threshold = 20", "threshold = 20\nstorm = { limit = 5, per = \"2s\" }")
        .replace("private-tenant.{{ key.tenant_id }}.orders", "orders")
}

fn digests(events: &[Event]) -> Vec<Event> {
    events.iter().filter(|event| event.text("transition") == "digest").cloned().collect()
}

fn tenants(events: &[Event]) -> HashSet<String> {
    events.iter().filter(|event| event.text("transition") != "digest").map(|event| event.data["key"].to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_one_digest_takes_the_place_of_the_flood_and_critical_ones_go_singly() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, &stormy()));
    daemon.start().await;
    // 1,000 keys at warning, 8 at critical: the 5 worst go singly, and the limit's worth of critical ones beyond it.
    database
        .sql(
            "INSERT INTO orders (tenant_id)
             SELECT t FROM generate_series(1, 1008) t, generate_series(1, 40) n WHERE n <= CASE WHEN t > 1000 THEN 30 + t - 1000 ELSE 20 END",
        )
        .await;
    let events = receiver.wait("a digest", |events| !digests(events).is_empty()).await;
    let singly: Vec<&Event> = events.iter().filter(|event| event.text("transition") == "raised").collect();
    assert_eq!(singly.len(), 8, "5 within the limit, and the other 3 critical ones");
    assert!(singly.iter().all(|event| event.text("severity") == "critical"));
    let [digest] = &digests(&events)[..] else { panic!("one digest") };
    assert_eq!((digest.number("count"), digest.text("severity")), (1_000, "warning".into()));
    assert_eq!(digest.data["row"]["keys"], 1_000);
    assert_eq!(digest.data["row"]["warning"], 1_000);
    assert_eq!(digest.data["row"]["critical"], 0);
    assert_eq!(digest.data["row"]["worst"].as_array().map(Vec::len), Some(10));
    assert_eq!(digest.data["row"]["worst"][0]["count"], 20);
    assert_eq!(digest.data["key"]["tenant_id"], serde_json::Value::Null);
    assert_eq!(digest.number("unread_count"), 1_008, "every alert is in the inbox");
    assert_eq!(digest.channels, ["orders"]);
    assert!(digest.text("message").contains("1000 keys at once: 1000 warning"), "{}", digest.text("message"));
    assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.alert").await, 1_008);
    assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.event WHERE digest").await, 1_000);
    // When the storm is over, things are as before.
    receiver.forget();
    database.sql("DELETE FROM orders WHERE tenant_id = 3").await;
    assert_eq!(said(&receiver.wait_for(1).await), expected(&[("resolved", "info", 0)]));
    daemon.logged("storm: more transitions than the limit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_survives_a_crash_and_tells_of_each_key_what_was_last() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, &stormy().replace("2s", "5s")));
    daemon.start().await;
    database.sql("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 105) t, generate_series(1, 20)").await;
    exact(&database, "orders", TRUE_ORDERS).await;
    // Of what waits for the digest some are over again, and one becomes critical, which goes out at once.
    let waiting = database
        .client
        .query("SELECT (key->>'tenant_id')::int FROM items_listen.event WHERE digest ORDER BY seq", &[])
        .await
        .expect("events");
    let waiting: Vec<i32> = waiting.iter().map(|row| row.get(0)).collect();
    assert_eq!(waiting.len(), 100);
    database.sql(&format!("DELETE FROM orders WHERE tenant_id IN ({}, {})", waiting[0], waiting[1])).await;
    insert(&database, waiting[2], 15).await;
    receiver.wait("the critical one", |events| events.iter().any(|event| event.text("severity") == "critical")).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    daemon.kill();
    daemon.start().await;
    let events = receiver.wait("a digest", |events| !digests(events).is_empty()).await;
    let [digest] = &digests(&events)[..] else { panic!("one digest") };
    assert_eq!(
        (digest.number("count"), &digest.data["row"]["info"], &digest.data["row"]["warning"], &digest.data["row"]["critical"]),
        (99, &2.into(), &97.into(), &0.into()),
        "what went out singly meanwhile is not told again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_never_tells_one_channel_of_anothers_keys() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("ALTER TABLE orders ADD item int NOT NULL DEFAULT 0").await;
    let watches = stormy()
        .replace(r#"key = ["tenant_id"]"#, r#"key = ["tenant_id", "item"]"#)
        .replace(r#"channels = ["orders"]"#, r#"channels = ["private-tenant.{{ key.tenant_id }}"]"#);
    let mut daemon = daemon(&config(&database, &receiver, &watches));
    daemon.start().await;
    // 200 items of tenant 1, 100 of tenant 2, one of tenant 3.
    database
        .sql(
            "INSERT INTO orders (tenant_id, item)
             SELECT CASE WHEN i <= 200 THEN 1 WHEN i <= 300 THEN 2 ELSE 3 END, i FROM generate_series(1, 301) i, generate_series(1, 20)",
        )
        .await;
    let events = receiver
        .wait("each tenant is told of everything", |events| {
            let told = |channel: &str| {
                let of = events.iter().filter(|event| event.channels == [channel]);
                of.map(|event| if event.text("transition") == "digest" { event.number("count") } else { 1 }).sum::<i64>()
            };
            (told("private-tenant.1"), told("private-tenant.2"), told("private-tenant.3")) == (200, 100, 1)
        })
        .await;
    for digest in digests(&events) {
        let tenant = &digest.data["key"]["tenant_id"];
        assert_eq!(digest.channels, [format!("private-tenant.{tenant}")]);
        assert_eq!(digest.data["key"]["item"], serde_json::Value::Null);
        assert!(
            digest.data["row"]["worst"].as_array().is_some_and(|worst| worst.iter().all(|of| &of["key"]["tenant_id"] == tenant))
        );
    }
    assert!(digests(&events).len() <= 2, "what is alone in its channel is told as what it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_keys_crossing_at_once_take_bounded_memory_and_hold_nobody_up() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE parcels (id serial PRIMARY KEY)").await;
    let other = "
[[watch]]
name = \"parcels\"
table = \"parcels\"
threshold = 3
[[watch.publish]]
channels = [\"parcels\"]
event = \"parcels.many\"
";
    let stormy = stormy().replace("threshold = 20", "threshold = 1");
    let mut daemon = daemon(&config(&database, &receiver, &format!("{stormy}{other}")));
    daemon.start().await;
    let before = resident_kib(daemon.pid());
    let session = database.session().await;
    let (storm, ()) = tokio::join!(
        session.batch_execute("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 100000) t"),
        database.sql("INSERT INTO parcels SELECT FROM generate_series(1, 3)"),
    );
    storm.expect("the storm commits");
    // It may take longer than a window: then there is a digest for each.
    let told = |events: &[Event]| {
        let in_digests: i64 = digests(events).iter().map(|digest| digest.number("count")).sum();
        in_digests
            + events.iter().filter(|event| event.text("watch") == "orders" && event.text("transition") == "raised").count() as i64
    };
    let events = receiver.wait("all are told", |events| told(events) == 100_000).await;
    assert!(events.iter().any(|event| event.text("watch") == "parcels"), "the other watch is served");
    let requests = receiver.requests().len();
    assert!(requests < 30, "no flood: {requests} requests");
    let after = resident_kib(daemon.pid());
    eprintln!("resident: {before} KiB before, {after} KiB after the storm");
    assert!(after < before + 128 * 1024, "{before} KiB before, {after} KiB after");
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_limit_every_one_of_a_storm_arrives() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    database.sql("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 20000) t, generate_series(1, 20)").await;
    // At least once: what an endpoint answers late comes twice.
    receiver.wait_from(20_000, "each of 20,000 tenants", |events| tenants(events).len() == 20_000).await;
    eprintln!("resident: {} KiB", resident_kib(daemon.pid()));
}

/// As on a machine that is so slow that its own sessions are put out while it evaluates.
#[tokio::test(flavor = "multi_thread")]
async fn folds_that_do_not_come_to_their_end_become_small_enough_to() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    database
        .sql(
            "CREATE FUNCTION put_out() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
                 IF (SELECT count(*) FROM new_rows) > 300 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER put_out AFTER INSERT ON items_listen.event REFERENCING NEW TABLE AS new_rows
                 FOR EACH STATEMENT EXECUTE FUNCTION put_out();
             INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 3000) t, generate_series(1, 20)",
        )
        .await;
    receiver.wait_from(3_000, "each of 3,000 tenants", |events| tenants(events).len() == 3_000).await;
    assert!(daemon.lines("no database session") > 0, "some were put out");
    exact(&database, "orders", TRUE_ORDERS).await;
}

/// The resident set of a process.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a high-water mark");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_did_not_want_to_hear_hides_nothing_that_it_wants() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    // The first rule never hears of an escalation: of a key that was raised in the storm and escalated it must still be
    // told that it was raised.
    let watches = stormy()
        .replace("per = \"2s\"", "per = \"4s\"")
        .replace("event = \"orders.many\"", "event = \"orders.many\"\non = [\"raised\", \"resolved\"]");
    let mut daemon = daemon(&config(&database, &receiver, &watches));
    daemon.start().await;
    database.sql("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 10) t, generate_series(1, 20)").await;
    exact(&database, "orders", TRUE_ORDERS).await;
    database.sql("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 10) t, generate_series(1, 4)").await;
    exact(&database, "orders", TRUE_ORDERS).await;
    let events = receiver.wait("a digest", |events| !digests(events).is_empty()).await;
    assert_eq!((tenants(&events).len(), digests(&events)[0].number("count")), (5, 5), "five singly, five in the digest");
}
