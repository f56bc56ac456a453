//! SIGHUP: another configuration in the same process, all or nothing.

use std::time::Duration;

use crate::faults::all_arrived_once;
use crate::support::daemon::Daemon;
use crate::support::postgres::Database;
use crate::support::proxy::{Mode, Proxy};
use crate::support::receiver::Receiver;
use crate::*;

const PARCELS: &str = r#"
[[watch]]
name = "parcels"
table = "public.parcels"
threshold = 3
[[watch.publish]]
channels = ["parcels"]
event = "parcels.many"
"#;

fn count(daemon: &Daemon, message: &str) -> usize {
    daemon.log().iter().filter(|line| line["msg"] == message).count()
}

/// Asks for a reload, and waits until it is refused.
async fn refused(daemon: &Daemon) -> Vec<serde_json::Value> {
    let before = daemon.lines("not reloaded");
    daemon.signal("HUP");
    support::eventually("the reload is refused", async || (daemon.lines("not reloaded") > before).then_some(())).await;
    daemon.log().into_iter().filter(|line| line["msg"].as_str().is_some_and(|msg| msg.starts_with("not reloaded"))).collect()
}

/// Writes another configuration, and waits until it is in force.
async fn reload(daemon: &Daemon, config: &str) {
    daemon.configure(config);
    let before = count(daemon, "ready");
    daemon.signal("HUP");
    support::eventually("it is ready again", async || (count(daemon, "ready") > before).then_some(())).await;
    daemon.ready().await;
}

async fn names(database: &Database, sql: &str) -> Vec<String> {
    database.client.query(sql, &[]).await.expect("a query").iter().map(|row| row.get(0)).collect()
}

const TRIGGERS: &str = "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE tgname LIKE 'items_listen%' ORDER BY 1";

#[tokio::test(flavor = "multi_thread")]
async fn watches_come_change_and_go_in_the_same_process() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE parcels (id serial PRIMARY KEY)").await;
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let pid = daemon.pid();
    insert(&database, 1, 19).await;
    exact(&database, "orders", TRUE_ORDERS).await;

    // New, and changed: what stands is judged by what is new.
    database.sql("INSERT INTO parcels SELECT FROM generate_series(1, 5)").await;
    let lower = ORDERS.replace("threshold = 20", "threshold = 10");
    reload(&daemon, &config(&database, &receiver, &format!("{lower}{PARCELS}"))).await;
    let events = receiver.wait_for(2).await;
    let mut seen: Vec<String> = events.iter().map(|event| format!("{} {}", event.text("watch"), event.number("count"))).collect();
    seen.sort();
    assert_eq!(seen, ["orders 19", "parcels 5"]);
    assert_eq!(names(&database, TRIGGERS).await, ["orders", "parcels"]);

    // Gone, with an alert open: resolved as disabled, and its triggers with it; the history stays.
    reload(&daemon, &config(&database, &receiver, PARCELS)).await;
    assert_eq!(names(&database, TRIGGERS).await, ["parcels"]);
    let row =
        database.client.query_one("SELECT reason, resolved_at IS NOT NULL FROM items_listen.alert WHERE watch = 'orders'", &[]);
    let row = row.await.expect("its episode");
    assert_eq!((row.get::<_, String>(0).as_str(), row.get::<_, bool>(1)), ("disabled", true));
    assert_eq!(
        database
            .one::<i64>(
                "SELECT count(*) FROM items_listen.count c JOIN items_listen.watch w ON w.id = c.watch WHERE w.name = 'orders'"
            )
            .await,
        0
    );
    insert(&database, 1, 50).await;

    // Renamed: the old one ends, the new one begins with what it finds.
    reload(&daemon, &config(&database, &receiver, &PARCELS.replace("name = \"parcels\"", "name = \"boxes\""))).await;
    let events = receiver.wait_for(3).await;
    assert_eq!(
        (events[2].text("watch"), events[2].text("transition"), events[2].number("count")),
        ("boxes".into(), "raised".into(), 5)
    );
    assert_eq!(names(&database, "SELECT watch FROM items_listen.alert WHERE resolved_at IS NULL").await, ["boxes"]);

    assert_eq!(daemon.pid(), pid);
    assert!(!daemon.has_ended());
    // One daemon is in the database, under its last configuration.
    support::eventually("those before have left", async || {
        let rows = names(&database, "SELECT array_to_string(watches, ',') FROM items_listen.instance").await;
        (rows == ["boxes"]).then_some(())
    })
    .await;
    assert_eq!(daemon.lines("another configuration has installed"), 0);
    all_arrived_once(&database, &receiver).await;
    assert_eq!(daemon.terminate().await.code(), Some(0));
    assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.instance").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing_and_is_named_line_by_line() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let good = config(&database, &receiver, ORDERS);
    let mut daemon = daemon(&good);
    daemon.start().await;
    for (tenant, bad) in [
        good.replace("threshold = 20", "treshold = 20\nhold = \"soon\""),
        "what is this?".to_owned(),
        good.replace("[database]", "[database]\npool_size = -1"),
    ]
    .into_iter()
    .enumerate()
    {
        daemon.configure(&bad);
        let lines = refused(&daemon).await;
        let place = lines.last().expect("a line")["place"].as_str().unwrap_or_default().to_owned();
        assert!(place.starts_with(&daemon.file.display().to_string()), "{place}");
        assert_eq!(daemon.get("/readyz").await.map(|(status, _)| status), Some(200), "it never was not ready");
        insert(&database, i32::try_from(tenant).expect("few"), 20).await;
        receiver.wait_for(tenant + 1).await;
    }
    assert_eq!((daemon.lines("treshold"), daemon.lines(".hold: ")), (1, 1), "each mistake has its line: {:?}", daemon.log());
    // No file at all is no configuration either, and none of the defaults takes its place.
    std::fs::remove_file(&daemon.file).expect("it is there");
    refused(&daemon).await;
    assert_eq!(count(&daemon, "ready"), 1, "nothing was begun anew");
    reload(&daemon, &good.replace("threshold = 20", "threshold = 30")).await;
    insert(&database, 9, 29).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    insert(&database, 9, 1).await;
    let events = receiver.wait("thirty", |events| events.iter().any(|event| event.data["key"]["tenant_id"] == 9)).await;
    let ninth = events.iter().find(|event| event.data["key"]["tenant_id"] == 9).expect("it is there");
    assert_eq!((ninth.number("count"), ninth.number("threshold")), (30, 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reloaded_is_named_and_the_rest_takes_effect() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let other = config_with(&database, &receiver, "schema = \"elsewhere\"", &ORDERS.replace("threshold = 20", "threshold = 10"));
    reload(&daemon, &format!("{other}\n[http]\nenabled = false\n")).await;
    daemon.logged("[http] cannot be reloaded").await;
    daemon.logged("database.schema cannot be reloaded").await;
    insert(&database, 1, 10).await;
    receiver.wait_for(1).await;
    assert_eq!(database.one::<i64>("SELECT count(*) FROM pg_namespace WHERE nspname = 'elsewhere'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_way_to_the_database_is_tried_before_the_old_one_is_given_up() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let good = config(&database, &receiver, ORDERS);
    let mut daemon = daemon(&good);
    daemon.start().await;
    let proxy = Proxy::start(database.port).await;
    let elsewhere = good.replace(&format!(":{}/", database.port), &format!(":{}/", proxy.port));
    assert_ne!(elsewhere, good);
    proxy.mode(Mode::Refuse);
    daemon.configure(&elsewhere);
    refused(&daemon).await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    proxy.pass();
    reload(&daemon, &elsewhere).await;
    insert(&database, 2, 20).await;
    receiver.wait_for(2).await;
    // It is this way that it goes now.
    proxy.mode(Mode::Refuse);
    proxy.cut();
    support::eventually("not ready", async || daemon.get("/readyz").await.filter(|(status, _)| *status == 503)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_a_reload_is_taken_and_serves_when_it_is_back() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let proxy = Proxy::start(database.port).await;
    let through = config(&database, &receiver, ORDERS).replace(&format!(":{}/", database.port), &format!(":{}/", proxy.port));
    let mut daemon = daemon(&through);
    daemon.start().await;
    proxy.mode(Mode::Refuse);
    proxy.cut();
    support::eventually("not ready", async || daemon.get("/readyz").await.filter(|(status, _)| *status == 503)).await;
    daemon.configure(&through.replace("threshold = 20", "threshold = 5"));
    daemon.signal("HUP");
    support::eventually("it is taken", async || (count(&daemon, "reloaded") == 1).then_some(())).await;
    insert(&database, 1, 5).await;
    proxy.pass();
    let events = receiver.wait_for(1).await;
    assert_eq!(events[0].number("threshold"), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_ends_with_a_reload_and_an_endpoint_that_hangs_holds_none_up() {
    let (database, receiver, other) = (shop().await, Receiver::start().await, Receiver::start().await);
    database.sql("CREATE TABLE parcels (id serial PRIMARY KEY); CREATE TABLE boxes (id serial PRIMARY KEY)").await;
    let boxes = PARCELS.replace("parcels", "boxes");
    let wrong = config(&database, &receiver, &format!("{ORDERS}{boxes}")).replace("secret-1", "secret-2");
    let mut daemon = daemon(&wrong);
    daemon.start().await;
    insert(&database, 1, 20).await;
    daemon.logged("paused").await;
    // The probe is a minute away; the secret is mended now.
    reload(&daemon, &wrong.replace("secret-2", "secret-1")).await;
    let within = tokio::time::timeout(Duration::from_secs(25), receiver.wait_for(1)).await;
    within.expect("the reload resumes it, not the probe");

    // A request is under way that nobody answers: the endpoint that is new does not wait for it.
    receiver.delay(Duration::from_secs(3_600));
    let before = receiver.requests().len();
    insert(&database, 2, 20).await;
    support::eventually("it hangs", async || (receiver.requests().len() > before).then_some(())).await;
    let retry = "retry = { initial = \"20ms\", max = \"200ms\" }\n";
    let both = format!(
        "[database]\nurl = \"{}\"\n{}{retry}{}{retry}{}",
        database.url(),
        receiver.endpoint("main"),
        other.endpoint("other"),
        format_args!(
            "{}{}",
            ORDERS.replace("event =", "endpoint = \"main\"\nevent ="),
            PARCELS.replace("event =", "endpoint = \"other\"\nevent =")
        )
    );
    reload(&daemon, &both).await;
    // Though the daemon before it has not left yet, what only that one watched is watched no more.
    assert_eq!(names(&database, TRIGGERS).await, ["orders", "parcels"]);
    database.sql("INSERT INTO parcels SELECT FROM generate_series(1, 5)").await;
    other.wait_for(1).await;
    receiver.delay(Duration::ZERO);
    receiver.wait("what hung is sent again", |events| events.iter().any(|event| event.data["key"]["tenant_id"] == 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_an_endpoint_that_goes_waits_until_it_comes_back() {
    let (database, receiver, other) = (shop().await, Receiver::start().await, Receiver::start().await);
    let with = |endpoint: &str| format!("[database]\nurl = \"{}\"\n{endpoint}{ORDERS}", database.url());
    receiver.status(503);
    let mut daemon = daemon(&with(&receiver.endpoint("one")));
    daemon.start().await;
    insert(&database, 1, 20).await;
    support::eventually("it was tried", async || (!receiver.requests().is_empty()).then_some(())).await;
    reload(&daemon, &with(&other.endpoint("two"))).await;
    insert(&database, 2, 20).await;
    other.wait_for(1).await;
    let waiting = "SELECT count(*) FROM items_listen.delivery WHERE endpoint = 'one' AND state = 'pending'";
    assert_eq!(database.one::<i64>(waiting).await, 1);
    receiver.status(200);
    reload(&daemon, &with(&receiver.endpoint("one"))).await;
    receiver.wait_for(1).await;
    assert_eq!(other.accepted().len(), 1, "what was written for one endpoint goes to no other");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_reloads_lose_nothing_and_double_nothing() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let plain = config(&database, &receiver, ORDERS);
    let mut daemon = daemon(&plain);
    daemon.start().await;
    let writers = Busy::start(&database, 3).await;
    for round in 0..12 {
        let known = receiver.accepted().len();
        // Another event, another endpoint task, another definition, or the same again.
        let next = match round % 4 {
            0 => plain.replace("orders.many", "orders.more"),
            1 => plain.replace("[[watch]]", "in_flight = 2\n[[watch]]"),
            2 => plain.replace("status = 'open'", "status IN ('open', 'new')"),
            _ => plain.clone(),
        };
        reload(&daemon, &next).await;
        receiver.wait_for_more(known).await;
    }
    writers.end().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    all_delivered(&database).await;
    all_arrived_once(&database, &receiver).await;
    assert_eq!(daemon.terminate().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_that_were_heard_before_a_reload_are_told_after_it() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    let readings = r#"
[[watch]]
name = "items"
notify = "item_count"
threshold = 20
[[watch.publish]]
on = "reading"
channels = ["inventory"]
event = "ItemCount"
"#;
    let mut daemon = daemon(&config(&database, &receiver, readings));
    daemon.start().await;
    database.sql("NOTIFY item_count, '1'").await;
    receiver.wait_for(1).await;
    for round in 0..3 {
        // What they cause cannot be written now, so they wait where they were heard.
        let other = database.session().await;
        other.batch_execute("BEGIN; LOCK TABLE items_listen.event IN SHARE MODE").await.expect("locked");
        for n in 0..20 {
            database.sql(&format!("NOTIFY item_count, '{}'", round * 100 + n)).await;
        }
        // A beat is asked on the session that listens: its answer comes behind them.
        let heard: String = database.one("SELECT clock_timestamp()::text").await;
        let beaten = format!("SELECT min(beat_at) > '{heard}'::timestamptz FROM items_listen.instance");
        support::eventually("a beat", async || database.one::<Option<bool>>(&beaten).await.unwrap_or(false).then_some(())).await;
        let before = count(&daemon, "ready");
        daemon.signal("HUP");
        support::eventually("it is taken", async || {
            (count(&daemon, "reloaded: nothing has changed") > round as usize).then_some(())
        })
        .await;
        other.batch_execute("COMMIT").await.expect("let go");
        support::eventually("it is ready again", async || (count(&daemon, "ready") > before).then_some(())).await;
        receiver.wait("all of the round", |events| events.iter().any(|event| event.number("count") == round * 100 + 19)).await;
    }
    let counts: Vec<i64> = receiver.accepted().iter().map(|event| event.number("count")).collect();
    let expected: Vec<i64> = std::iter::once(1).chain((0..3).flat_map(|round| (0..20).map(move |n| round * 100 + n))).collect();
    assert_eq!(counts, expected, "in order, each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_cannot_be_removed_yet_keeps_no_other_down() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE parcels (id serial PRIMARY KEY)").await;
    let mut daemon = daemon(&config(&database, &receiver, &format!("{ORDERS}{PARCELS}")));
    daemon.start().await;
    // As a dump does, for as long as it takes.
    let reader = database.session().await;
    reader.batch_execute("BEGIN; LOCK TABLE parcels IN ACCESS SHARE MODE").await.expect("locked");
    reload(&daemon, &config(&database, &receiver, ORDERS)).await;
    daemon.logged("cannot be removed yet").await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    reader.batch_execute("COMMIT").await.expect("let go");
    // It is tried again once a minute, and with every reload.
    reload(&daemon, &config(&database, &receiver, ORDERS)).await;
    assert_eq!(names(&database, TRIGGERS).await, ["orders"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_at_an_endpoint_is_overtaken_by_nothing_that_follows_it() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let patient = config(&database, &receiver, ORDERS).replace("[[watch]]", "timeout = \"40s\"\n[[watch]]");
    let mut daemon = daemon(&patient);
    daemon.start().await;
    // Longer than a process takes to end in order; shorter than the endpoint may take.
    receiver.delay(Duration::from_secs(14));
    insert(&database, 1, 20).await;
    support::eventually("it hangs", async || (receiver.requests().len() == 1).then_some(())).await;
    receiver.delay(Duration::ZERO);
    reload(&daemon, &patient).await;
    insert(&database, 1, 10).await;
    insert(&database, 2, 20).await;
    receiver.wait_for(3).await;
    // Whatever was sent has been answered: what hung has arrived as well.
    support::eventually("all is answered", async || {
        let sent: usize = receiver.requests().iter().map(|request| request.events).sum();
        (receiver.accepted().len() == sent).then_some(())
    })
    .await;
    let events = receiver.accepted();
    let of_one: Vec<String> =
        events.iter().filter(|event| event.data["key"]["tenant_id"] == 1).map(|event| event.text("transition")).collect();
    assert_eq!(of_one, ["raised", "escalated"]);
    all_arrived_once(&database, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_a_reload_cuts_off_leaves_nothing_behind() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database
        .sql("CREATE FUNCTION slow(id int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN id; END $$")
        .await;
    insert(&database, 1, 200).await;
    let slow = ORDERS.replace("threshold = 20", "sum = \"public.slow(id)\"\nthreshold = 1000000000");
    let mut daemon = daemon(&config(&database, &receiver, &slow));
    daemon.spawn();
    let counting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'items-listen' AND state = 'active' AND query LIKE '%items_listen_truth%'";
    support::eventually("it counts", async || (database.one::<i64>(counting).await > 0).then_some(())).await;
    reload(&daemon, &config(&database, &receiver, ORDERS)).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    let guards = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'items-listen' AND query LIKE '%waitstart%'";
    support::eventually("nobody counts, and nobody guards", async || {
        (database.one::<i64>(counting).await == 0 && database.one::<i64>(guards).await == 0).then_some(())
    })
    .await;
}
