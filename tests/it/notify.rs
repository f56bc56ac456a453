//! Watches of a NOTIFY that the application sends by itself.

use crate::support::postgres::Database;
use crate::support::receiver::Receiver;
use crate::*;

const COUNTS: &str = r#"
[[watch]]
name = "counts"
notify = "item_count"
threshold = 20
[[watch.publish]]
channels = ["inventory"]
event = 'App\Events\ItemCountExceeded'
on = "reading"
[[watch]]
name = "keyed"
notify = "tenant_count"
key = ["tenant_id"]
threshold = 20
[[watch.publish]]
channels = ["tenant.{{ key.tenant_id }}"]
event = "count"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn every_reading_is_evaluated_in_its_turn_and_nonsense_is_skipped() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, COUNTS));
    daemon.start().await;
    for payload in ["18", "not a number", "25", "{\"count\": 31}", "", "{\"count\": 1.5}", "19"] {
        database.sql(&format!("NOTIFY item_count, '{payload}'")).await;
    }
    let events = receiver.wait_for(4).await;
    let counts: Vec<(String, i64)> = events.iter().map(|event| (event.text("severity"), event.number("count"))).collect();
    assert_eq!(counts, [("info".into(), 18), ("high".into(), 25), ("critical".into(), 31), ("info".into(), 19)]);
    assert!(events.iter().all(|event| event.text("transition") == "reading" && event.name == r"App\Events\ItemCountExceeded"));
    daemon.logged("payload skipped").await;
    database.sql("NOTIFY tenant_count, '{\"count\": 25, \"key\": {\"tenant_id\": 7}}'; NOTIFY tenant_count, '25'").await;
    let events = receiver.wait_for(5).await;
    assert_eq!((events[4].channels[0].as_str(), events[4].text("transition")), ("tenant.7", "raised".into()));
    support::eventually("it is settled, so that the kill causes no duplicate", async || {
        let left: i64 = database.one("SELECT count(*) FROM items_listen.delivery WHERE state = 'pending'").await;
        (left == 0).then_some(())
    })
    .await;
    // State is remembered: the same reading after a restart says nothing as a transition.
    daemon.kill();
    daemon.start().await;
    database.sql("NOTIFY tenant_count, '{\"count\": 25, \"key\": {\"tenant_id\": 7}}'").await;
    database.sql("NOTIFY tenant_count, '{\"count\": 35, \"key\": {\"tenant_id\": 7}}'").await;
    let events = receiver.wait_for(6).await;
    assert_eq!((events[5].text("transition"), events[5].number("count")), ("escalated".into(), 35));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readings_in_one_transaction_and_one_replica_at_a_time() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    let config = config(&database, &receiver, COUNTS);
    let (mut one, mut two) = (daemon(&config), daemon(&config));
    one.start().await;
    two.start().await;
    let all: Vec<String> = (1..=60).map(|count| format!("NOTIFY item_count, '{count}'")).collect();
    database.sql(&format!("BEGIN; {}; COMMIT", all.join("; "))).await;
    let events = receiver.wait_for(60).await;
    assert_eq!(events.iter().map(|event| event.number("count")).collect::<Vec<_>>(), (1..=60).collect::<Vec<_>>());
    one.kill();
    // The other takes it over within a poll.
    support::eventually("the other serves it", async || {
        database.sql("NOTIFY item_count, '100'").await;
        receiver.all().iter().any(|event| event.number("count") == 100).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_file_at_all_there_is_one_watch() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    let environment = std::env::temp_dir().join(format!("items-listen-env-{}", std::process::id()));
    let lines = format!(
        "DATABASE_URL={}\nBROADCAST_CONNECTION=reverb\nREVERB_APP_ID={}\nREVERB_APP_KEY={}\nREVERB_APP_SECRET={}\n\
         REVERB_HOST=127.0.0.1\nREVERB_PORT={}\nREVERB_SCHEME=http\nINVENTORY_NOTIFICATION_THRESHOLD=10\n",
        database.url(),
        support::receiver::APP_ID,
        support::receiver::KEY,
        support::receiver::SECRET,
        receiver.port
    );
    std::fs::write(&environment, lines).expect("written");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_items-listen"));
    command
        .current_dir(std::env::temp_dir())
        .env_clear()
        .env("ITEMS_LISTEN_HTTP__LISTEN", "127.0.0.1:0")
        .arg("--env-file")
        .arg(&environment);
    let mut child = command.stderr(std::process::Stdio::null()).spawn().expect("starts");
    support::eventually("it listens", async || {
        database.sql("NOTIFY item_count, '15'").await;
        (!receiver.all().is_empty()).then_some(())
    })
    .await;
    let event = receiver.accepted().remove(0);
    assert_eq!((event.name.as_str(), event.channels[0].as_str()), (r"App\Events\ItemCountExceeded", "inventory"));
    assert_eq!((event.number("count"), event.number("threshold"), event.text("severity")), (15, 10, "critical".into()));
    child.kill().expect("ends");
    child.wait().expect("ended");
    let _removed = std::fs::remove_file(environment);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_was_received_survives_the_session_that_heard_it() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, COUNTS));
    daemon.start().await;
    let key = items_listen::db::locks::Lock::Fold.sql(&items_listen::db::schema::Schema::new("items_listen"));
    let other = database.session().await;
    other.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({key})")).await.expect("holds the fold's lock");
    // What cannot be a key comes first, and must not take the good one with it.
    database.sql(r#"NOTIFY tenant_count, '{"count": 99, "key": {"tenant_id": "\u0000"}}'; NOTIFY item_count, '77'"#).await;
    daemon.logged("NUL").await;
    support::eventually("it waits for the lock", async || {
        let waiting: i64 = database.one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").await;
        (waiting > 0).then_some(())
    })
    .await;
    database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'items-listen' AND datname = current_database()").await;
    other.batch_execute("COMMIT").await.expect("lets go");
    assert_eq!(receiver.wait_for(1).await[0].number("count"), 77);
}

/// Keyed by one column, of any name.
fn keyed(column: &str) -> String {
    format!(
        "[[watch]]\nname = \"keyed\"\nnotify = \"a_count\"\nkey = [\"{column}\"]\nthreshold = 20\n[[watch.publish]]\n\
         channels = [\"counts\"]\nevent = \"count\"\non = \"reading\"\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_heard_under_another_definition_is_not_judged_under_the_new_one() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, &keyed("tenant_id")));
    daemon.start().await;
    let holder = database.session().await;
    let key = items_listen::db::locks::Lock::Fold.sql(&items_listen::db::schema::Schema::new("items_listen"));
    holder.batch_execute(&format!("SELECT pg_advisory_lock({key})")).await.expect("a fold ends");
    database.sql("NOTIFY a_count, '{\"count\": 25, \"key\": {\"tenant_id\": 7}}'").await;
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                                AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
    support::eventually("it was heard, and cannot be judged", async || database.one::<bool>(waits).await.then_some(())).await;
    // Tenant 7 is not shop 7.
    daemon.configure(&config(&database, &receiver, &keyed("shop_id")));
    daemon.signal("HUP");
    // The session that heard it has ended, and the next one wants the lock for the new definition.
    daemon.logged("reloaded").await;
    support::eventually("it cannot be judged there", async || {
        (daemon.lines("waiting for a lock") + daemon.lines("no lock on") > 0).then_some(())
    })
    .await;
    holder.batch_execute("SELECT pg_advisory_unlock_all()").await.expect("it lets go");
    let events = support::eventually("shop 8 is told of", async || {
        database.sql("NOTIFY a_count, '{\"count\": 26, \"key\": {\"shop_id\": 8}}'").await;
        let events = receiver.accepted();
        events.iter().any(|event| event.number("count") == 26).then_some(events)
    })
    .await;
    assert!(events.iter().all(|event| event.data["key"] == serde_json::json!({"shop_id": 8})), "{events:?}");
    let dropped = daemon.logged("readings that came under another definition").await;
    assert_eq!((dropped["watch"].as_str(), dropped["dropped"].as_u64()), (Some("keyed"), Some(1)));
}
