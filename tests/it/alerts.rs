//! What a person sees: transitions with the count that decided each, once, whatever the daemon was doing.

use crate::support::receiver::Receiver;
use crate::*;

#[tokio::test]
async fn rows_that_come_and_go_are_raised_escalated_eased_and_resolved() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    for (count, total) in [(20, 1), (4, 2), (6, 3)] {
        insert(&database, 7, count).await;
        receiver.wait_for(total).await;
    }
    database.sql("DELETE FROM orders WHERE id IN (SELECT id FROM orders LIMIT 1)").await;
    receiver.wait_for(4).await;
    database.sql("UPDATE orders SET status = 'done'").await;
    let events = receiver.wait_for(5).await;
    assert_eq!(
        said(&events),
        expected(&[
            ("raised", "warning", 20),
            ("escalated", "high", 24),
            ("escalated", "critical", 30),
            ("eased", "high", 29),
            ("resolved", "info", 0)
        ])
    );
    let first = &events[0];
    assert_eq!((first.name.as_str(), first.channels.as_slice()), ("orders.many", &["private-tenant.7.orders".to_owned()][..]));
    assert_eq!(first.data["key"], serde_json::json!({ "tenant_id": 7 }));
    assert_eq!(first.data["message"], "orders {\"tenant_id\": 7} at 20 of 20");
    assert_eq!((first.number("threshold"), first.number("percent")), (20, 100));
    assert_eq!(
        (first.text("compare"), first.text("reason"), first.text("previous")),
        (">=".into(), "reading".into(), "info".into())
    );
    let fields: Vec<&str> = first.data.as_object().expect("an object").keys().map(String::as_str).collect();
    let frozen =
        "id alert seq watch key transition reason severity previous count threshold percent compare message row at unread_count";
    assert_eq!(fields, frozen.split(' ').collect::<Vec<_>>());
    let alerts: std::collections::HashSet<String> = events.iter().map(|event| event.text("alert")).collect();
    assert_eq!(alerts.len(), 1, "one episode");
    assert!(events.windows(2).all(|pair| pair[0].number("seq") < pair[1].number("seq")), "seq grows");
    assert_eq!(receiver.refused_signatures(), 0);
}

#[tokio::test]
async fn what_is_rolled_back_says_nothing() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    database.sql("BEGIN; INSERT INTO orders (tenant_id) SELECT 1 FROM generate_series(1, 50); ROLLBACK").await;
    // What follows is said, so what was rolled back has had its chance.
    insert(&database, 2, 20).await;
    let events = receiver.wait_for(1).await;
    assert_eq!(events[0].data["key"]["tenant_id"], 2);
    exact(&database, "orders", TRUE_ORDERS).await;
    assert_eq!(receiver.all().len(), 1);
}

#[tokio::test]
async fn a_crossing_while_down_is_said_once_and_an_idle_restart_says_nothing() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    assert!(daemon.terminate().await.success());
    insert(&database, 7, 25).await;
    insert(&database, 8, 5).await;
    daemon.start().await;
    assert_eq!(said(&receiver.wait_for(1).await), expected(&[("raised", "high", 25)]));
    for _ in 0..2 {
        assert!(daemon.terminate().await.success());
        daemon.start().await;
    }
    daemon.kill();
    daemon.start().await;
    // There and back while nobody looks is nothing; the transition after it proves that we waited long enough.
    daemon.kill();
    insert(&database, 8, 30).await;
    database.sql("DELETE FROM orders WHERE tenant_id = 8").await;
    daemon.start().await;
    insert(&database, 9, 20).await;
    let events = receiver.wait_for(2).await;
    assert_eq!(events[1].data["key"]["tenant_id"], 9);
    assert_eq!(receiver.all().len(), 2);
}

#[tokio::test]
async fn a_table_that_has_rows_already_is_counted_and_said() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    insert(&database, 1, 31).await;
    insert(&database, 2, 3).await;
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    assert_eq!(said(&receiver.wait_for(1).await), expected(&[("raised", "critical", 31)]));
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test]
async fn a_baseline_counts_as_already_said() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    insert(&database, 1, 25).await;
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    let (code, out, err) = daemon.run(&["install", "--baseline"]).await;
    assert_eq!(code, 0, "{out}{err}");
    daemon.start().await;
    insert(&database, 1, 5).await;
    assert_eq!(said(&receiver.wait_for(1).await), expected(&[("escalated", "critical", 30)]));
    assert_eq!(receiver.all().len(), 1);
}

#[tokio::test]
async fn low_stock_of_a_whole_table_is_critical_when_nothing_is_left() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    insert(&database, 1, 12).await;
    let watch = r#"
        [[watch]]
        name = "stock"
        table = "orders"
        compare = "<"
        threshold = 10
        [[watch.publish]]
        channels = ["stock"]
        event = "stock.low"
    "#;
    let mut daemon = daemon(&config(&database, &receiver, watch));
    daemon.start().await;
    let take = |count: i32| format!("DELETE FROM orders WHERE id IN (SELECT id FROM orders ORDER BY id LIMIT {count})");
    database.sql(&take(3)).await;
    receiver.wait_for(1).await;
    database.sql(&take(5)).await;
    receiver.wait_for(2).await;
    database.sql("TRUNCATE orders").await;
    receiver.wait_for(3).await;
    insert(&database, 1, 10).await;
    let events = receiver.wait_for(4).await;
    assert_eq!(
        said(&events),
        expected(&[("raised", "warning", 9), ("escalated", "high", 4), ("escalated", "critical", 0), ("resolved", "info", 10)])
    );
}

#[tokio::test]
async fn a_changed_threshold_judges_every_key_anew() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    insert(&database, 1, 10).await;
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    assert!(daemon.terminate().await.success());
    daemon.configure(&config(&database, &receiver, &ORDERS.replace("threshold = 20", "threshold = 8")));
    daemon.start().await;
    let events = receiver.wait_for(1).await;
    assert_eq!((events[0].text("transition"), events[0].text("reason")), ("raised".into(), "threshold".into()));
    assert!(daemon.terminate().await.success());
    let overrides = "threshold = 8\nthresholds = [{ tenant_id = 1, threshold = 100 }, { threshold = 9 }]";
    daemon.configure(&config(&database, &receiver, &ORDERS.replace("threshold = 20", overrides)));
    daemon.start().await;
    let events = receiver.wait_for(2).await;
    assert_eq!((events[1].text("transition"), events[1].number("threshold")), ("resolved".into(), 100));
}

#[tokio::test]
async fn a_hold_survives_a_restart_and_ends_by_itself() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let held = ORDERS.replace("threshold = 20", "threshold = 20\nhold = \"1s\"");
    let mut daemon = daemon(&config(&database, &receiver, &held));
    daemon.start().await;
    insert(&database, 1, 25).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    daemon.kill();
    daemon.start().await;
    let events = receiver.wait_for(1).await;
    assert_eq!((events[0].text("transition"), events[0].text("reason")), ("raised".into(), "deadline".into()));
}

#[tokio::test]
async fn an_application_that_holds_an_alert_does_not_stop_the_fold_and_unread_is_counted() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    insert(&database, 1, 20).await;
    assert_eq!(receiver.wait_for(1).await[0].number("unread_count"), 1);
    insert(&database, 2, 20).await;
    assert_eq!(receiver.wait_for(2).await[1].number("unread_count"), 2);
    let reader = database.session().await;
    reader.batch_execute("BEGIN; UPDATE items_listen.alert SET read_at = now()").await.expect("marks all read");
    // Uncommitted: the row is held, the fold goes on, and the count is still what is committed.
    insert(&database, 3, 20).await;
    assert_eq!(receiver.wait_for(3).await[2].number("unread_count"), 3);
    reader.batch_execute("COMMIT").await.expect("commits");
    insert(&database, 4, 20).await;
    assert_eq!(receiver.wait_for(4).await[3].number("unread_count"), 2);
    // An escalation makes a read alert unread again.
    insert(&database, 1, 10).await;
    assert_eq!(receiver.wait_for(5).await[4].number("unread_count"), 3);
    let unread: i64 = database.one("SELECT count(*) FROM items_listen.alert WHERE read_at IS NULL").await;
    assert_eq!(unread, 3);
    let refused = database.client.batch_execute("UPDATE items_listen.alert SET severity = 'info'").await;
    assert!(refused.is_err(), "only read_at is the application's");
}

#[tokio::test]
async fn rules_choose_what_they_publish() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let rules = format!(
        "{ORDERS}data = \"thin\"\non = [\"raised\", \"resolved\"]\n\
         [[watch.publish]]\nchannels = [\"all\", \"tenant.{{{{ key.tenant_id }}}}\"]\nevent = \"count-{{{{ severity }}}}\"\non = \"reading\"\n\
         data = {{ n = \"{{{{ count }}}}\", of = \"{{{{ threshold }}}}\", text = \"at {{{{ percent }}}} %\", fixed = 1 }}\n\
         [[watch.publish]]\nchannels = [\"boss\"]\nevent = \"fire\"\nmin_severity = \"critical\"\n"
    );
    let mut daemon = daemon(&config(&database, &receiver, &rules));
    daemon.start().await;
    insert(&database, 1, 5).await;
    let events = receiver.wait_for(1).await;
    assert_eq!(events[0].name, "count-info");
    assert_eq!(events[0].channels, ["all", "tenant.1"]);
    assert_eq!(events[0].data, serde_json::json!({ "n": 5, "of": 20, "text": "at 25 %", "fixed": 1 }));
    insert(&database, 1, 15).await;
    let events = receiver.wait_for(3).await;
    let raised = events.iter().find(|event| event.name == "orders.many").expect("the thin one");
    let fields: Vec<&str> = raised.data.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(fields, ["id", "seq", "watch", "key", "transition", "severity", "at"]);
    insert(&database, 1, 10).await;
    let events = receiver.wait_for(5).await;
    assert_eq!(events.iter().filter(|event| event.name == "fire").count(), 1, "from warning to critical");
    database.sql("DELETE FROM orders").await;
    let events = receiver.wait_for(8).await;
    assert_eq!(events.iter().filter(|event| event.name == "fire").count(), 2, "a transition from critical reaches it too");
    assert_eq!(events.iter().filter(|event| event.name == "orders.many").count(), 2, "neither escalated nor eased");
}
