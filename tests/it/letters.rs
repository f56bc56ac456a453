//! What is settled: dead letters and what may be done with them, what collapses, and how long all of it is kept.

use serde_json::Value;

use crate::support::receiver::Receiver;
use crate::*;

fn json(out: &str) -> Value {
    serde_json::from_str(out.trim()).unwrap_or_else(|error| panic!("{error}: {out}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_retried_and_put_away() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    receiver.answer(|_| (422, "the data is not acceptable\u{1b}[31m".into()));
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    database.sql("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 3) t, generate_series(1, 20)").await;
    support::eventually("three are dead", async || {
        let dead: i64 = database.one("SELECT count(*) FROM items_listen.delivery WHERE state = 'dead'").await;
        (dead == 3).then_some(())
    })
    .await;
    let (code, out, _) = daemon.run(&["deliveries", "list", "--reason", "rejected", "--watch", "orders", "--json"]).await;
    assert_eq!((code, out.lines().count()), (0, 3));
    let (_, out, _) = daemon.run(&["deliveries", "list", "--older-than", "1h", "--json"]).await;
    assert_eq!(out.lines().count(), 0);
    let (_, out, _) = daemon.run(&["deliveries", "list", "--endpoint", "other"]).await;
    assert_eq!(out.trim(), "no such deliveries");

    let id: i64 = database.one("SELECT min(id) FROM items_listen.delivery").await;
    let id = id.to_string();
    let (code, out, _) = daemon.run(&["deliveries", "show", &id, "--json"]).await;
    let shown = json(&out);
    assert_eq!((code, &shown["status"], &shown["reason"]), (0, &422.into(), &"rejected".into()));
    assert!(
        shown["attempts"].as_i64() >= Some(1) && shown["answer"].as_str().is_some_and(|answer| answer.contains("acceptable"))
    );
    assert!(!shown["settled_at"].is_null() && shown["body"]["name"] == "orders.many");
    let (code, out, _) = daemon.run(&["deliveries", "show", &id]).await;
    assert!(code == 0 && out.contains("rejected") && out.contains("\"tenant_id\""), "{out}");
    assert!(!out.contains('\u{1b}'), "what an endpoint says cannot steer the terminal");
    let (code, _, err) = daemon.run(&["deliveries", "show", "999999"]).await;
    assert!(code == 1 && err.contains("there is no delivery 999999"), "{err}");

    // Putting away wants to know what.
    let (code, _, err) = daemon.run(&["deliveries", "discard"]).await;
    assert!(code == 2 && err.contains("--all"), "{err}");
    let (code, out, _) = daemon.run(&["deliveries", "discard", &id, "--json"]).await;
    assert_eq!((code, &json(&out)["discarded"]), (0, &1.into()));
    let (_, out, _) = daemon.run(&["deliveries", "show", &id, "--json"]).await;
    assert_eq!((&json(&out)["state"], &json(&out)["reason"]), (&"superseded".into(), &"discarded".into()));
    assert_eq!(daemon.run(&["deliveries", "discard", &id]).await.0, 1, "it is not dead any more");

    receiver.status(200);
    let (code, out, _) = daemon.run(&["deliveries", "retry", "--reason", "rejected", "--json"]).await;
    assert_eq!((code, &json(&out)["retried"]), (0, &2.into()));
    receiver.wait_for(2).await;
    support::eventually("all is well", async || (daemon.run(&["status"]).await.0 == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_may_be_put_away_too_and_its_lane_goes_on() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    receiver.answer(|events| {
        let poison = events.iter().any(|event| event.text("transition") == "raised");
        if poison { (500, "poison".into()) } else { (200, "{}".into()) }
    });
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    insert(&database, 1, 20).await;
    support::eventually("it is tried again and again", async || (receiver.requests().len() >= 3).then_some(())).await;
    insert(&database, 1, 10).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    let id: i64 = database.one("SELECT min(id) FROM items_listen.delivery").await;
    assert_eq!(daemon.run(&["deliveries", "discard", &id.to_string(), "--pending"]).await.0, 0);
    assert_eq!(said(&receiver.wait_for(1).await), expected(&[("escalated", "critical", 30)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_endpoint_is_down_thin_events_of_a_key_collapse_to_the_latest_and_alerts_do_not() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let thin = "[[watch.publish]]\nchannels = [\"refresh\"]\nevent = \"orders.changed\"\ndata = \"thin\"\n";
    let mut daemon = daemon(&config(&database, &receiver, &format!("{ORDERS}{thin}")));
    receiver.status(503);
    daemon.start().await;
    for _ in 0..3 {
        insert(&database, 1, 20).await;
        exact(&database, "orders", TRUE_ORDERS).await;
        database.sql("DELETE FROM orders WHERE tenant_id = 1").await;
        exact(&database, "orders", TRUE_ORDERS).await;
    }
    insert(&database, 2, 20).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    receiver.status(200);
    let of = |events: &[support::receiver::Event], name: &str, tenant: i64| -> Vec<String> {
        let of = events.iter().filter(|event| event.name == name && event.data["key"]["tenant_id"] == tenant);
        of.map(|event| event.text("transition")).collect()
    };
    receiver
        .wait("all alerts", |events| of(events, "orders.many", 1).len() == 6 && of(events, "orders.many", 2).len() == 1)
        .await;
    support::eventually("the outbox is empty", async || {
        let left: i64 = database.one("SELECT count(*) FROM items_listen.delivery WHERE state = 'pending'").await;
        (left == 0).then_some(())
    })
    .await;
    let events = receiver.accepted();
    let alerts = ["raised", "resolved", "raised", "resolved", "raised", "resolved"];
    assert_eq!(of(&events, "orders.many", 1), alerts, "alerts never collapse");
    let refreshes = of(&events, "orders.changed", 1);
    assert_eq!(refreshes.last().map(String::as_str), Some("resolved"), "the last one is never lost");
    assert!(refreshes.len() < 6, "{refreshes:?}");
    assert_eq!(of(&events, "orders.changed", 2), ["raised"]);
    let put_away: i64 = database
        .one("SELECT count(*) FROM items_listen.delivery WHERE state = 'superseded' AND reason = 'superseded' AND event = 'orders.changed'")
        .await;
    assert_eq!(refreshes.len() as i64 + put_away, 6, "none is dropped silently");
    assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.delivery WHERE state = 'dead'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_is_kept_as_long_as_it_says_and_no_longer() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let lines = "retention = { events = \"30d\", delivered = \"7d\", dead = \"90d\" }\n";
    let mut daemon = daemon(&config_with(&database, &receiver, lines, ORDERS));
    daemon.start().await;
    // Tenant 1 is over, tenant 2 is open; each has one event or two, and deliveries of every state are made old.
    insert(&database, 1, 20).await;
    database.sql("DELETE FROM orders").await;
    insert(&database, 2, 20).await;
    receiver.wait("both are said", |events| events.iter().any(|event| event.data["key"]["tenant_id"] == 2)).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    daemon.kill();
    database
        .sql(
            "UPDATE items_listen.alert SET read_at = now() - interval '50 days' WHERE resolved_at IS NOT NULL;
             CREATE FUNCTION old(id uuid, days int) RETURNS uuid LANGUAGE sql AS $$
                 SELECT (lpad(to_hex((extract(epoch FROM now() - make_interval(days => days)) * 1000)::bigint), 12, '0') || right(replace(id::text, '-', ''), 20))::uuid $$;
             UPDATE items_listen.alert_read SET episode = old(episode, 40);
             UPDATE items_listen.episode SET id = old(id, 40), resolved_at = resolved_at - interval '40 days';
             UPDATE items_listen.event SET id = old(id, 40), at = at - interval '40 days';
             INSERT INTO items_listen.delivery (event_id, endpoint, watch, key, channels, event, body, state, due_at, created_at, settled_at, reason)
             SELECT gen_random_uuid(), 'gone', 'old', state || age, '{c}', 'e', '{}', state, now(), now() - make_interval(days => age),
                    CASE WHEN state <> 'pending' THEN now() - make_interval(days => age) END, NULL
             FROM unnest(ARRAY['pending', 'delivered', 'dead', 'superseded']) AS state, unnest(ARRAY[0, 6, 8, 89, 91]) AS age
             WHERE state <> 'pending' OR age = 0;",
        )
        .await;
    daemon.start().await;
    daemon.logged("removed what is older").await;
    let left: Vec<String> =
        database.one("SELECT array_agg(key ORDER BY key COLLATE \"C\") FROM items_listen.delivery WHERE watch = 'old'").await;
    assert_eq!(left, ["dead0", "dead6", "dead8", "dead89", "delivered0", "delivered6", "pending0", "superseded0", "superseded6"]);
    let left = |table: &str| format!("SELECT count(*) FROM items_listen.{table}");
    assert_eq!(database.one::<i64>(&left("event")).await, 0);
    assert_eq!(database.one::<i64>(&left("episode")).await, 1, "an open alert stays, however old");
    assert_eq!(database.one::<i64>(&left("alert_read")).await, 0);
    // The open alert still works.
    receiver.forget();
    database.sql("DELETE FROM orders").await;
    assert_eq!(said(&receiver.wait_for(1).await), expected(&[("resolved", "info", 0)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_to_another_audience_or_under_another_name_is_never_taken_back() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let thin = ORDERS.replace("private-tenant.{{ key.tenant_id }}.orders", "alerts.{{ severity }}");
    let thin = thin.replace("event = \"orders.many\"", "event = \"orders.{{ transition }}\"\ndata = \"thin\"");
    let mut daemon = daemon(&config(&database, &receiver, &thin));
    receiver.status(503);
    daemon.start().await;
    insert(&database, 1, 20).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    insert(&database, 1, 10).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    database.sql("DELETE FROM orders").await;
    exact(&database, "orders", TRUE_ORDERS).await;
    assert_eq!(daemon.run(&["--trigger", "99", "--key", "tenant_id=1", "--timeout", "1s"]).await.0, 69);
    receiver.status(200);
    let events = receiver.wait_for(4).await;
    let heard: Vec<(&str, &str)> = events.iter().map(|event| (event.channels[0].as_str(), event.name.as_str())).collect();
    let all = [
        ("alerts.warning", "orders.raised"),
        ("alerts.critical", "orders.escalated"),
        ("alerts.info", "orders.resolved"),
        ("alerts.critical", "orders.manual"),
    ];
    assert_eq!(heard, all);
}
