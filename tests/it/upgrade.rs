//! Upgrades: a database of the first version, and two versions side by side.
//!
//! The database of the first version is a dump, made by the program of this repository's first commit:
//! `make upgrade-dump`. The version before runs as it was: `make upgrade` builds it from the history.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;

use crate::faults::all_arrived_once;
use crate::support::daemon::Daemon;
use crate::support::postgres::{self, Database};
use crate::support::receiver::Receiver;
use crate::*;

const DUMP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/upgrade/first.sql");

fn other(variable: &str, config: &str) -> Daemon {
    Daemon::new(
        std::env::var(variable).unwrap_or_else(|_| panic!("{variable}: the program of that version; see the Makefile")),
        config,
    )
}

/// Two open alerts, one of them read and one escalated; a resolved one; deliveries delivered, dead, and pending.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it writes the dump; make upgrade-dump"]
async fn write_the_dump_of_the_first_version() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = other("FIRST", &config(&database, &receiver, ORDERS));
    // It took either --config or a command.
    daemon.arguments = &[];
    daemon.start().await;
    insert(&database, 1, 20).await;
    insert(&database, 2, 20).await;
    insert(&database, 3, 21).await;
    receiver.wait_for(3).await;
    insert(&database, 2, 10).await;
    database.sql("DELETE FROM orders WHERE tenant_id = 3").await;
    receiver.wait_for(5).await;
    database.sql("UPDATE items_listen.alert SET read_at = now() WHERE key = '{\"tenant_id\": 1}'").await;
    receiver.status(422);
    insert(&database, 4, 20).await;
    daemon.logged("delivery dead").await;
    receiver.status(503);
    insert(&database, 5, 20).await;
    daemon.logged("endpoint fails").await;
    daemon.terminate().await;
    // Nobody is there, and writers go on.
    insert(&database, 6, 20).await;
    let mut dump = postgres::shared().program("pg_dump", &database.name);
    let output = dump.args(["--no-owner", "--inserts"]).output().expect("pg_dump runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    // What newer versions of pg_dump guard their scripts with is no SQL.
    let lines = text.lines().filter(|line| !line.starts_with('\\') && !line.starts_with("--") && !line.is_empty());
    std::fs::write(DUMP, lines.collect::<Vec<_>>().join("\n") + "\n").expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_the_first_version_becomes_todays_with_everything_in_it() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    let mut psql = postgres::shared().program("psql", &database.name);
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = psql.spawn().expect("psql starts");
    child.stdin.take().expect("piped").write_all(&std::fs::read(DUMP).expect("the dump")).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // It was restored where it was: otherwise what is pending would be held, as in any copy.
    database.sql("UPDATE items_listen.cluster SET system_identifier = (SELECT system_identifier FROM pg_control_system())").await;
    let episodes = "SELECT string_agg(concat_ws(' ', id, key, severity, resolved_at IS NOT NULL, read_at), E'\\n' ORDER BY key, id) FROM items_listen.alert WHERE key <> '{\"tenant_id\": 6}'";
    let before: String = database.one(episodes).await;
    let pending: String = database.one("SELECT body FROM items_listen.delivery WHERE state = 'pending'").await;
    let newest: i64 = database.one("SELECT max(seq) FROM items_listen.event").await;

    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    // What was pending goes out, byte for byte, and what was written while nobody was there.
    let events = receiver.wait_for(2).await;
    assert_eq!(receiver.requests().iter().filter(|request| request.body == pending).count(), 1, "{events:?}");
    let sixth = events.iter().find(|event| event.data["key"] == json!({"tenant_id": 6})).expect("what nobody had seen");
    assert!(sixth.number("seq") > newest, "numbers go on");
    assert_eq!(database.one::<String>(episodes).await, before, "alerts are what they were, and are not raised again");
    let states = "SELECT string_agg(DISTINCT state, ' ' ORDER BY state) FROM items_listen.delivery";
    support::eventually("all is settled", async || (database.one::<String>(states).await == "dead delivered").then_some(()))
        .await;
    // And it is whole: it escalates, resolves, and what came later works.
    insert(&database, 1, 10).await;
    database.sql("DELETE FROM orders WHERE tenant_id = 2").await;
    receiver
        .wait("escalated and resolved", |events| {
            let has = |transition: &str| events.iter().any(|event| event.text("transition") == transition);
            has("escalated") && has("resolved")
        })
        .await;
    let (code, said, _) = daemon.run(&["status", "--json"]).await;
    assert_eq!(code, 1, "one is dead: {said}");
    let (code, said, stderr) = daemon.run(&["check", "--offline"]).await;
    assert_eq!(code, 0, "{said}{stderr}");
    assert_eq!(
        database.one::<i32>("SELECT max(version) FROM items_listen.schema_history").await,
        items_listen::db::migrate::newest()
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it runs the version before; make upgrade"]
async fn the_version_before_and_this_one_side_by_side_lose_nothing_and_double_nothing() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let config = config(&database, &receiver, ORDERS);
    let (mut first, mut second) = (other("PREVIOUS", &config), other("PREVIOUS", &config));
    first.start().await;
    second.start().await;
    let writers = Busy::start(&database, 3).await;
    let more = async || {
        let known = receiver.accepted().len();
        receiver.wait("twenty more", |events| events.len() >= known + 20).await;
    };
    more().await;
    // One after the other, as a rolling upgrade goes.
    assert_eq!(first.terminate().await.code(), Some(0));
    let (mut third, mut fourth) = (daemon(&config), daemon(&config));
    third.start().await;
    more().await;
    assert!(!second.has_ended(), "{:?}", second.log().last());
    assert_eq!(second.terminate().await.code(), Some(0));
    fourth.start().await;
    more().await;
    writers.end().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    all_delivered(&database).await;
    all_arrived_once(&database, &receiver).await;
    // The version before does not start on what it does not know.
    let (code, _, stderr) = other("PREVIOUS", &config).run(&["run"]).await;
    assert_eq!(code, 78, "{stderr}");
    assert!(stderr.contains("newer"), "{stderr}");
    assert_eq!((third.terminate().await.code(), fourth.terminate().await.code()), (Some(0), Some(0)));
}

/// The version before folds on while the new one changes a definition, and deletes nothing that it does not know.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it runs the version before; make upgrade"]
async fn a_definition_that_is_changed_beside_the_version_before_loses_no_change() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let watch = |name: &str| {
        format!(
            "[[watch]]\nname = \"{name}\"\ntable = \"public.orders\"\n[[watch.publish]]\nchannels = [\"{name}\"]\nevent = \"{name}\"\n\
             on = \"insert\"\ndata = {{ id = \"{{{{ row.id }}}}\" }}\n"
        )
    };
    // However long it stands still: its session is not put out.
    let both = config_with(&database, &receiver, "poll = \"15s\"", &format!("{}{}", watch("changed"), watch("other")));
    let mut before = other("PREVIOUS", &both);
    before.start().await;
    // It stands still while changes are written that nobody has told.
    support::eventually("it stands still, and not in the middle of a transaction", async || {
        before.signal("STOP");
        let under_way = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'items-listen' AND datname = current_database() AND xact_start IS NOT NULL";
        let is_between = database.one::<i64>(under_way).await == 0;
        if !is_between {
            before.signal("CONT");
        }
        is_between.then_some(())
    })
    .await;
    insert(&database, 1, 30).await;
    let two = both.replacen("row.id }}\" }", "row.id }}\", status = \"{{ row.status }}\" }", 1);
    let mut now = daemon(&two);
    let (code, out, err) = now.run(&["install"]).await;
    assert_eq!(code, 0, "{out}{err}");
    // And goes on, before anybody is there who knows the new definition: it folds what it still knows.
    let beat = "SELECT max(beat_at)::text FROM items_listen.instance";
    let stood: String = database.one(beat).await;
    before.signal("CONT");
    support::eventually("it goes on", async || (database.one::<String>(beat).await != stood).then_some(())).await;
    let of = |events: &[support::receiver::Event], name: &str| events.iter().filter(|event| event.name == name).count();
    now.start().await;
    let events = receiver.wait("all of both", |events| of(events, "changed") >= 30 && of(events, "other") >= 30).await;
    let told: std::collections::HashSet<i64> =
        events.iter().filter(|event| event.name == "changed").map(|event| event.number("id")).collect();
    assert_eq!((told.len(), of(&events, "changed"), of(&events, "other")), (30, 30, 30), "each once");
    assert!(!before.has_ended());
}
