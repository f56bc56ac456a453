//! The outbox: order per lane, retries, leases, pauses, dead letters; with several replicas (rules D).

use std::time::Duration;

use crate::support::receiver::Receiver;
use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_later_event_never_overtakes_an_earlier_one_and_other_keys_are_not_held_up() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    // Tenant 1 fails for a while with 500, alone or in a batch; the others do not.
    let failures = std::sync::atomic::AtomicUsize::new(0);
    receiver.answer(move |events| {
        let poisonous = events.iter().any(|event| event.data["key"]["tenant_id"] == 1);
        let failed = poisonous && failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 6;
        if failed { (500, "no".into()) } else { (200, "{}".into()) }
    });
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    database.sql("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 3) t, generate_series(1, 20)").await;
    receiver.wait("the others arrive", |events| events.len() >= 2).await;
    for _ in 0..3 {
        database.sql("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 3) t, generate_series(1, 4)").await;
    }
    database.sql("DELETE FROM orders").await;
    let events = receiver
        .wait("all three are resolved", |events| {
            events.iter().filter(|event| event.text("transition") == "resolved").count() == 3
        })
        .await;
    for tenant in 1..=3 {
        let of: Vec<i64> =
            events.iter().filter(|event| event.data["key"]["tenant_id"] == tenant).map(|event| event.number("seq")).collect();
        assert!(of.is_sorted(), "tenant {tenant}: {of:?}");
    }
    assert!(receiver.all().iter().any(|event| event.status == 500));
}

#[tokio::test(flavor = "multi_thread")]
async fn body_and_idempotency_key_stay_the_same_over_attempts_and_differ_between_bodies() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    receiver.status(503);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    insert(&database, 1, 20).await;
    support::eventually("three attempts", async || (receiver.requests().len() >= 3).then_some(())).await;
    receiver.status(200);
    receiver.wait_for(1).await;
    let requests = receiver.requests();
    assert!(
        requests.iter().all(|request| request.body == requests[0].body && request.idempotency_key == requests[0].idempotency_key)
    );
    assert_eq!(requests[0].idempotency_key.len(), 64);
    insert(&database, 2, 20).await;
    receiver.wait_for(2).await;
    let last = receiver.requests().pop().expect("a request");
    assert_ne!(last.idempotency_key, requests[0].idempotency_key);
    // The receiver has it before its settlement is committed.
    let attempts = support::eventually("the first is settled", async || {
        let sql =
            "SELECT attempts FROM (SELECT * FROM items_listen.delivery ORDER BY id LIMIT 1) AS first WHERE state = 'delivered'";
        database.client.query_opt(sql, &[]).await.expect("a query").map(|row| row.get::<_, i32>(0))
    })
    .await;
    assert_eq!(attempts as usize, requests.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_alerts_go_in_batches_and_only_the_culprit_dies() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    receiver.answer(|events| {
        let bad = events.iter().any(|event| event.data["key"]["tenant_id"] == 13);
        if bad { (400, "tenant 13 is not acceptable".into()) } else { (200, "{}".into()) }
    });
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    database.sql("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 40) t, generate_series(1, 20)").await;
    receiver.wait_for(39).await;
    daemon.logged("delivery dead").await;
    let requests = receiver.requests();
    assert!(requests.iter().any(|request| request.path.ends_with("/batch_events") && request.events > 1));
    assert!(requests.iter().all(|request| request.events <= 10 && request.body.len() <= 9_400), "no request is too large");
    let row = support::eventually("one is dead", async || {
        let sql = "SELECT key, reason, status, answer FROM items_listen.delivery WHERE state = 'dead'";
        database.client.query_opt(sql, &[]).await.expect("asks")
    })
    .await;
    assert_eq!((row.get::<_, String>(0), row.get::<_, String>(1), row.get::<_, i32>(2)), ("[13]".into(), "rejected".into(), 400));
    assert!(row.get::<_, String>(3).contains("not acceptable"));
    let (code, out, _) = daemon.run(&["deliveries", "list", "--state", "dead", "--json"]).await;
    let line: serde_json::Value = serde_json::from_str(out.trim()).expect("one line of JSON");
    assert_eq!(code, 0);
    assert_eq!(
        (line["key"]["tenant_id"].as_i64(), line["state"].as_str(), line["attempts"].as_i64()),
        (Some(13), Some("dead"), Some(2))
    );
    assert_eq!(line["body"]["channels"], serde_json::json!(["private-tenant.13.orders"]));
    assert_eq!(daemon.run(&["status"]).await.0, 1, "something is dead");
    // Mended on the other side, it may be sent again.
    receiver.status(200);
    assert_eq!(daemon.run(&["deliveries", "retry"]).await.0, 0);
    receiver.wait_for(40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_refuses_everything_is_paused_and_nothing_is_lost() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    receiver.answer(|_| (401, "who are you".into()));
    let mut first = daemon(&config(&database, &receiver, ORDERS));
    first.start().await;
    insert(&database, 1, 20).await;
    first.logged("refuses everything").await;
    let status = support::eventually("status says so", async || {
        let (_, out, _) = first.run(&["status", "--json"]).await;
        let status: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        (status["endpoints"][0]["state"] == "paused").then_some(status)
    })
    .await;
    assert_eq!(status["endpoints"][0]["reason"], "auth");
    assert_eq!(status["endpoints"][0]["pending"], 1);
    assert_eq!(first.get("/readyz").await.map(|(status, _)| status), Some(200), "a dead endpoint does not fail readiness");
    insert(&database, 2, 20).await;
    insert(&database, 1, 10).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    assert_eq!(receiver.requests().len(), 1, "it is left alone");
    // A start is a reload: it probes at once.
    assert!(first.terminate().await.success());
    receiver.status(200);
    first.start().await;
    let events = receiver.wait_for(3).await;
    let of_one: Vec<String> =
        events.iter().filter(|event| event.data["key"]["tenant_id"] == 1).map(|event| event.text("transition")).collect();
    assert_eq!(of_one, ["raised", "escalated"]);
    support::eventually("it is ok again", async || (first.run(&["status"]).await.0 == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soketi_answers_200_and_means_401() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    receiver.answer(|_| (200, r#"{"error":"bad signature","code":401}"#.into()));
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    insert(&database, 1, 20).await;
    daemon.logged("refuses everything").await;
    let pending: i64 = database.one("SELECT count(*) FROM items_listen.delivery WHERE state = 'pending'").await;
    assert_eq!(pending, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_is_dead_with_that_reason() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    receiver.status(500);
    let config = config(&database, &receiver, ORDERS).replace("max = \"200ms\"", "max = \"200ms\", give_up_after = \"1s\"");
    let mut daemon = daemon(&config);
    daemon.start().await;
    insert(&database, 1, 20).await;
    let reason = support::eventually("it is given up", async || {
        let row =
            database.client.query_opt("SELECT reason FROM items_listen.delivery WHERE state = 'dead'", &[]).await.expect("asks");
        row.map(|row| row.get::<_, String>(0))
    })
    .await;
    assert_eq!(reason, "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_do_not_wait_for_each_other() {
    let (database, quick, slow) = (shop().await, Receiver::start().await, Receiver::start().await);
    slow.delay(Duration::from_secs(3));
    let rule = "endpoint = [\"main\", \"slow\"]\n";
    let config = format!("{}{}", config(&database, &quick, &format!("{ORDERS}{rule}")), slow.endpoint("slow"));
    let mut daemon = daemon(&config);
    daemon.start().await;
    insert(&database, 1, 20).await;
    quick.wait_for(1).await;
    insert(&database, 1, 4).await;
    quick.wait_for(2).await;
    assert!(slow.all().is_empty(), "the slow one has not even answered the first");
    assert_eq!(said(&slow.wait_for(2).await), expected(&[("raised", "warning", 20), ("escalated", "high", 24)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_cannot_be_sent_is_dead_and_holds_nobody_up() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE notes (name text)").await;
    let watch = r#"
        [[watch]]
        name = "notes"
        table = "notes"
        key = ["name"]
        threshold = 1
        [[watch.publish]]
        channels = ["notes.{{ key.name }}"]
        event = "notes.many"
    "#;
    let mut daemon = daemon(&config(&database, &receiver, watch));
    daemon.start().await;
    database.sql("INSERT INTO notes VALUES (repeat('x', 300)), ('fine')").await;
    let events = receiver.wait_for(1).await;
    assert_eq!(events[0].channels, ["notes.fine"]);
    let (reason, answer): (String, String) = {
        let row = database
            .client
            .query_one("SELECT reason, answer FROM items_listen.delivery WHERE state = 'dead'", &[])
            .await
            .expect("dead");
        (row.get(0), row.get(1))
    };
    assert_eq!(reason, "unsendable");
    assert!(answer.contains("164"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_keep_the_order_and_say_everything_once() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let config = config(&database, &receiver, ORDERS);
    let (mut one, mut two) = (daemon(&config), daemon(&config));
    one.start().await;
    two.start().await;
    receiver.delay(Duration::from_millis(5));
    for round in 0..30 {
        insert(&database, round % 3, 20 + round % 11).await;
        if round % 7 == 3 {
            // Whoever folds now is another than before.
            let (stopped, other) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
            stopped.signal("STOP");
            insert(&database, 9, 1).await;
            other.signal("CONT");
            stopped.signal("CONT");
        }
        database.sql(&format!("DELETE FROM orders WHERE tenant_id = {}", round % 3)).await;
    }
    insert(&database, 0, 20).await;
    insert(&database, 1, 20).await;
    insert(&database, 2, 20).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    support::eventually("the outbox is empty", async || {
        let left: i64 = database.one("SELECT count(*) FROM items_listen.delivery WHERE state = 'pending'").await;
        (left == 0).then_some(())
    })
    .await;
    let events = receiver.accepted();
    for tenant in 0..3 {
        let of: Vec<i64> =
            events.iter().filter(|event| event.data["key"]["tenant_id"] == tenant).map(|event| event.number("seq")).collect();
        assert!(of.is_sorted(), "tenant {tenant}: {of:?}");
    }
    let said: i64 = database.one("SELECT count(*) FROM items_listen.delivery").await;
    assert_eq!(events.len() as i64, said, "each delivery once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_replica_is_put_out_and_the_other_goes_on() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let config = config(&database, &receiver, ORDERS);
    let (mut one, mut two) = (daemon(&config), daemon(&config));
    one.start().await;
    two.start().await;
    one.signal("STOP");
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    // Its armed lock must not tax the writers for ever: the server ends its session.
    support::eventually("the server has put it out", async || {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'items-listen' AND datname = '{}' AND query LIKE '%pg_listening_channels%'", database.name);
        (database.one::<i64>(&sql).await <= 1).then_some(())
    })
    .await;
    insert(&database, 1, 5).await;
    receiver.wait_for(2).await;
    one.signal("CONT");
    insert(&database, 1, 6).await;
    assert_eq!(
        said(&receiver.wait_for(3).await),
        expected(&[("raised", "warning", 20), ("escalated", "high", 25), ("escalated", "critical", 31)])
    );
    one.ready().await;
    assert_eq!(receiver.all().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_leased_to_a_killed_daemon_is_sent_by_the_next_at_once() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    // The first request never comes to an end.
    receiver.delay(Duration::from_secs(600));
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    insert(&database, 1, 20).await;
    support::eventually("it is under way", async || (!receiver.requests().is_empty()).then_some(())).await;
    insert(&database, 1, 10).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    daemon.kill();
    receiver.delay(Duration::ZERO);
    daemon.start().await;
    let events = receiver.wait_for(2).await;
    assert_eq!(said(&events), expected(&[("raised", "warning", 20), ("escalated", "critical", 30)]));
    // A lease is 25 s here: only the proof that its holder has ended can free it sooner.
    let waited: f64 =
        database.one("SELECT max(extract(epoch FROM settled_at - created_at))::float8 FROM items_listen.delivery").await;
    assert!(waited < 20.0, "{waited} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_elsewhere_holds_its_outbox() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    database.sql("UPDATE items_listen.cluster SET system_identifier = 1").await;
    insert(&database, 1, 20).await;
    daemon.start().await;
    daemon.logged("outbox is held").await;
    exact(&database, "orders", TRUE_ORDERS).await;
    let pending: i64 = database.one("SELECT count(*) FROM items_listen.delivery WHERE state = 'pending' AND lease IS NULL").await;
    assert_eq!((pending, receiver.all().len()), (1, 0));
    assert_eq!(daemon.run(&["deliveries", "retry"]).await.0, 0);
    receiver.wait_for(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_is_under_way_and_leaves_the_rest_free() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    receiver.delay(Duration::from_secs(1));
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    insert(&database, 1, 20).await;
    support::eventually("it is under way", async || (!receiver.requests().is_empty()).then_some(())).await;
    insert(&database, 1, 10).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    assert!(daemon.terminate().await.success(), "exit 0");
    let row = database.client.query_one("SELECT count(*) FILTER (WHERE state = 'delivered'), count(*) FILTER (WHERE state = 'pending' AND lease IS NULL) FROM items_listen.delivery", &[]).await.expect("counts");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 1));
    assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.instance").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn d1_d3_only_the_head_of_a_lane_is_claimed_and_only_its_holder_settles_it() {
    use items_listen::db::schema::Schema;
    use items_listen::outbox::{self, Settlement};
    let (database, receiver) = (shop().await, Receiver::start().await);
    assert_eq!(daemon(&config(&database, &receiver, ORDERS)).run(&["install"]).await.0, 0);
    let schema = Schema::new("items_listen");
    // Lane 1 waits for its back-off, lane 2 is under way elsewhere, lane 3 is free, lane 4's lease is over.
    database
        .sql(
            "INSERT INTO items_listen.delivery (event_id, endpoint, watch, key, channels, event, body, due_at, created_at, lease, lease_until)
             SELECT gen_random_uuid(), 'main', 'orders', key, '{c}', 'e', '{}', clock_timestamp() + due::interval, clock_timestamp(),
                    CASE WHEN lease IS NOT NULL THEN gen_random_uuid() END, clock_timestamp() + lease::interval
             FROM (VALUES (1, '[1]', '1 h', NULL), (2, '[1]', '-1 s', NULL), (3, '[2]', '-1 s', '1 h'), (4, '[2]', '-1 s', NULL),
                          (5, '[3]', '-1 s', NULL), (6, '[3]', '-1 s', NULL), (7, '[4]', '-1 s', '-1 s')) AS v (n, key, due, lease)
             ORDER BY n",
        )
        .await;
    let (one, two) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
    let claim = async |instance| {
        outbox::claim(&database.client, &schema, "main", instance, Duration::from_secs(60), 100, None).await.expect("claims").0
    };
    let ids = |parcels: &[outbox::Parcel]| parcels.iter().map(|parcel| parcel.id).collect::<Vec<_>>();
    let first = claim(one).await;
    assert_eq!(ids(&first), [5, 7]);
    assert_eq!(ids(&claim(two).await), [0i64; 0], "what is leased is nobody else's");
    let settlement = |id, lease| Settlement {
        id,
        lease,
        state: "delivered",
        attempted: 1,
        delay: Duration::ZERO,
        reason: None,
        status: Some(200),
        answer: None,
    };
    let stranger = outbox::settle(&database.client, &schema, &[settlement(5, two)]).await.expect("asks");
    assert_eq!(stranger, [0i64; 0], "settling needs the lease's token");
    let settled = outbox::settle(&database.client, &schema, &[settlement(5, first[0].lease)]).await.expect("settles");
    assert_eq!(settled, [5]);
    assert_eq!(ids(&claim(two).await), [6], "then the lane goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn d3_what_waited_in_memory_until_its_lease_ran_out_is_claimed_anew_and_sent_once() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    receiver.delay(Duration::from_millis(400));
    // A lease of 6 s, one request at a time, and 8 s of requests.
    let config =
        config(&database, &receiver, ORDERS).replace("retry = ", "timeout = \"500ms\"\nin_flight = 1\nmax_batch = 1\nretry = ");
    let mut daemon = daemon(&config);
    daemon.start().await;
    database.sql("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 20) t, generate_series(1, 20)").await;
    receiver.wait_for(20).await;
    support::eventually("all are settled", async || {
        let left: i64 = database.one("SELECT count(*) FROM items_listen.delivery WHERE state <> 'delivered'").await;
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(receiver.all().len(), 20, "none was sent under a lease that was over");
}

#[tokio::test(flavor = "multi_thread")]
async fn d8_a_claim_looks_from_what_the_last_one_left_and_misses_nothing() {
    use items_listen::db::schema::Schema;
    use items_listen::outbox;
    let (database, receiver) = (shop().await, Receiver::start().await);
    assert_eq!(daemon(&config(&database, &receiver, ORDERS)).run(&["install"]).await.0, 0);
    let schema = Schema::new("items_listen");
    let insert = |due: &str| {
        format!(
            "INSERT INTO items_listen.delivery (event_id, endpoint, watch, key, channels, event, body, due_at, created_at)
             VALUES (gen_random_uuid(), 'main', 'orders', gen_random_uuid()::text, '{{c}}', 'e', '{{}}', clock_timestamp() + '{due}', clock_timestamp())"
        )
    };
    let claim = async |floor| {
        let lease = Duration::from_secs(60);
        outbox::claim(&database.client, &schema, "main", uuid::Uuid::now_v7(), lease, 100, floor).await.expect("claims")
    };
    database.sql(&insert("-10 min")).await;
    let (parcels, floor) = claim(None).await;
    assert_eq!(parcels.len(), 1);
    let ten: bool =
        database.client.query_one("SELECT $1::timestamptz < now() - interval '9 min'", &[&floor]).await.expect("asks").get(0);
    assert!(ten, "what is claimed is still pending: the floor stays before it");
    database.sql("UPDATE items_listen.delivery SET state = 'delivered', settled_at = now()").await;
    let (parcels, floor) = claim(floor).await;
    let two: bool =
        database.client.query_one("SELECT $1::timestamptz > now() - interval '3 min'", &[&floor]).await.expect("asks").get(0);
    assert!(parcels.is_empty() && two, "nothing is pending: the floor follows the clock, at a distance");
    // A transaction that took its due time a while ago and commits only now is not missed; one from long ago is what
    // the look at the whole outbox is for.
    database.sql(&insert("-60 s")).await;
    assert_eq!(claim(floor).await.0.len(), 1);
    database.sql(&insert("-10 min")).await;
    assert_eq!(claim(floor).await.0.len(), 0);
    assert_eq!(claim(None).await.0.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_span_of_time_holds_more_requests_than_the_rate() {
    const PER: Duration = Duration::from_secs(2);
    let (database, receiver) = (shop().await, Receiver::start().await);
    let config =
        config(&database, &receiver, ORDERS).replace("[endpoints.main]", "[endpoints.main]\nrate = \"3/2s\"\nmax_batch = 1");
    let mut daemon = daemon(&config);
    daemon.start().await;
    database.sql("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 10) t, generate_series(1, 20)").await;
    let arrived: Vec<_> = receiver.wait_for(10).await.iter().map(|event| event.at).collect();
    for (first, fourth) in arrived.iter().zip(&arrived[3..]) {
        assert!(*fourth - *first >= PER, "{arrived:?}");
    }
}
