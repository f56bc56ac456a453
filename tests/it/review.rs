//! What a review found: each of these fails without its fix.

mod lookups;
mod values;

use std::time::Duration;

use crate::support::receiver::Event;
use crate::*;

/// Long enough on a shared machine, and shorter than the whole scan that would hide what is stranded.
const SOON: Duration = Duration::from_secs(25);

async fn soon(receiver: &Receiver, daemon: &Daemon, what: &str, condition: impl Fn(&[Event]) -> bool) -> Vec<Event> {
    match tokio::time::timeout(SOON, receiver.wait(what, condition)).await {
        Ok(events) => events,
        Err(_) => {
            let log = daemon.log();
            let last: Vec<_> = log.iter().rev().take(6).collect();
            panic!(
                "{what}: not within {SOON:?}; came {:?}; log {last:#?}",
                receiver.accepted().iter().map(|e| &e.data).collect::<Vec<_>>()
            )
        }
    }
}

fn value_watch(table: &str, more: &str, message: &str) -> String {
    format!(
        "[[watch]]\nname = \"low\"\ntable = \"public.{table}\"\nvalue = \"quantity\"\ncompare = \"<\"\n{more}\nmessage = \"{message}\"\n\
         [[watch.publish]]\nchannels = [\"low\"]\nevent = \"low\"\n"
    )
}

/// A trigger of the application's that changes the row again is told first: what is told last is not the last state.
#[tokio::test(flavor = "multi_thread")]
async fn r_the_last_change_told_is_the_last_state_though_triggers_nest() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database
        .sql(
            "CREATE TABLE servers (id int PRIMARY KEY, step text);
             CREATE FUNCTION advance() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 UPDATE servers SET step = 'two' WHERE id = new.id AND step = 'one'; RETURN NULL; END $$;
             CREATE TRIGGER advance AFTER INSERT OR UPDATE ON servers FOR EACH ROW EXECUTE FUNCTION advance()",
        )
        .await;
    let watch = "[[watch]]\nname = \"servers\"\ntable = \"public.servers\"\n[[watch.publish]]\non = \"change\"\nchannels = [\"x\"]\nevent = \"e\"\n\
                 data = { step = \"{{ row.step }}\", transition = \"{{ transition }}\" }\n";
    let mut daemon = daemon(&config(&database, &receiver, watch));
    daemon.start().await;
    database.sql("INSERT INTO servers VALUES (1, 'one')").await;
    let all = soon(&receiver, &daemon, "both are told", |events| events.len() == 2).await;
    let told: Vec<_> = all.iter().map(|event| (event.text("transition"), event.text("step"))).collect();
    assert_eq!(told, [("insert".into(), "one".into()), ("update".to_owned(), "two".to_owned())]);
}

const QUERY: &str = "[[watch]]\nname = \"low\"\nquery = \"SELECT id, name, quantity FROM items\"\nevery = \"300ms\"\nkey = [\"id\"]\nvalue = \"quantity\"\n\
                     compare = \"<\"\nthreshold = 50\nmessage = \"{{ row.name }}: {{ count }}\"\n[[watch.publish]]\nchannels = [\"low\"]\nevent = \"low\"\ndata = { name = \"{{ row.name }}\" }\n";

/// An application writes a limit for each of its tenants.
#[tokio::test(flavor = "multi_thread")]
async fn r_ten_thousand_thresholds_written_at_once_stop_nobody() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    database.sql("INSERT INTO orders (tenant_id) SELECT generate_series(1, 10000)").await;
    daemon.start().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    database
        .sql("INSERT INTO items_listen.threshold SELECT 'orders', jsonb_build_object('tenant_id', t), 30 FROM generate_series(1, 10000) AS t")
        .await;
    insert(&database, 10_001, 20).await;
    soon(&receiver, &daemon, "alerts are told", |events| !events.is_empty()).await;
}

/// What `install` does for changes that were not told yet, the script must do.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_printed_redefinition_loses_no_change() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE servers (id int PRIMARY KEY, step text, note text)").await;
    let watch = |data: &str| {
        format!(
            "[[watch]]\nname = \"servers\"\ntable = \"public.servers\"\n[[watch.publish]]\non = \"update\"\nchannels = [\"x\"]\nevent = \"e\"\ndata = {{ {data} }}\n"
        )
    };
    let mut old = daemon(&config(&database, &receiver, &watch("step = \"{{ row.step }}\"")));
    old.start().await;
    database.sql("INSERT INTO servers VALUES (1, 's0', 'n')").await;
    old.kill();
    database.sql("UPDATE servers SET step = 's1'").await;
    let lines = "install = \"manual\"\n";
    let mut new =
        daemon(&config_with(&database, &receiver, lines, &watch("step = \"{{ row.step }}\", note = \"{{ row.note }}\"")));
    let (code, script, err) = new.run(&["install", "--print"]).await;
    assert_eq!(code, 0, "{err}");
    database.sql(&script).await;
    new.start().await;
    database.sql("UPDATE servers SET step = 's2'").await;
    let all = soon(&receiver, &new, "the last is told", |events| events.iter().any(|event| event.text("step") == "s2")).await;
    assert_eq!(all.iter().map(|event| event.text("step")).collect::<Vec<_>>(), ["s1", "s2"]);
}

/// The row of an alert that is open for longer than events are kept is still needed.
#[tokio::test(flavor = "multi_thread")]
async fn r_who_was_told_of_a_row_long_ago_is_told_that_it_is_gone() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, tenant_id int, quantity int)").await;
    let watch =
        value_watch("items", "threshold = 50", "x").replace("channels = [\"low\"]", "channels = [\"t.{{ row.tenant_id }}\"]");
    let mut daemon = daemon(&config_with(&database, &receiver, "retention = { events = \"1s\" }\n", &watch));
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (1, 7, 5), (2, 8, 5)").await;
    receiver.wait_for(2).await;
    database.sql("DELETE FROM items WHERE id = 2").await;
    receiver.wait_for(3).await;
    // What is over is removed, and what is not stays.
    support::eventually("events are removed", async || {
        (database.one::<i64>("SELECT count(*) FROM items_listen.event").await <= 1).then_some(())
    })
    .await;
    database.sql("DELETE FROM items WHERE id = 1").await;
    let all = soon(&receiver, &daemon, "its end is told", |events| events.len() == 4).await;
    assert_eq!((all[3].text("reason"), all[3].channels[0].as_str()), ("gone".to_owned(), "t.7"));
}

/// The clock of the database's host is set back by an hour while a change waits.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_coalesced_change_waits_no_longer_though_the_clock_is_set_back() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE servers (id int PRIMARY KEY, step text)").await;
    let watch = "[[watch]]\nname = \"servers\"\ntable = \"public.servers\"\n[[watch.publish]]\non = \"change\"\nchannels = [\"x\"]\nevent = \"e\"\n\
                 coalesce = \"1s\"\ndata = { step = \"{{ row.step }}\" }\n";
    let mut daemon = daemon(&config(&database, &receiver, watch));
    daemon.start().await;
    database.sql("INSERT INTO servers VALUES (1, 's0')").await;
    receiver.wait_for(1).await;
    database.sql("UPDATE servers SET step = 's1'").await;
    support::eventually("it waits", async || {
        // As if all this had been written an hour later.
        let sql = "WITH d AS (UPDATE items_listen.delivery SET due_at = due_at + interval '1 h' WHERE state = 'pending' AND lease IS NULL RETURNING 1),
                        a AS (UPDATE items_listen.audience SET last_due = last_due + interval '1 h' WHERE EXISTS (SELECT FROM d)) SELECT count(*) FROM d";
        (database.one::<i64>(sql).await == 1).then_some(())
    })
    .await;
    database.sql("UPDATE servers SET step = 's2'").await;
    soon(&receiver, &daemon, "the last state is told", |events| events.last().is_some_and(|event| event.text("step") == "s2"))
        .await;
}

/// A watch that no longer tells of changes leaves none behind.
#[tokio::test(flavor = "multi_thread")]
async fn r_changes_that_nobody_wants_any_more_go() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let changes = "[[watch]]\nname = \"orders\"\ntable = \"public.orders\"\n[[watch.publish]]\non = \"insert\"\nchannels = [\"x\"]\nevent = \"e\"\n";
    let mut old = daemon(&config(&database, &receiver, changes));
    old.start().await;
    old.kill();
    insert(&database, 1, 5).await;
    let mut new = daemon(&config(&database, &receiver, ORDERS));
    new.start().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    let gone = tokio::time::timeout(SOON, async {
        while database.one::<i64>("SELECT count(*) FROM items_listen.change").await > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    assert!(gone.await.is_ok(), "they stay, and wake the daemon once a second for ever");
}

/// Of a statement whose condition fails on one row nothing is told; at least that must be said.
#[tokio::test(flavor = "multi_thread")]
async fn r_changes_that_are_lost_are_named() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, a int)").await;
    let watch = "[[watch]]\nname = \"items\"\ntable = \"public.items\"\nwhere = \"10 / a > 1\"\n[[watch.publish]]\non = \"insert\"\nchannels = [\"x\"]\nevent = \"e\"\n";
    let mut daemon = daemon(&config(&database, &receiver, watch));
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (1, 2), (2, 0), (3, 3)").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(daemon.lines("22012") > 0 || receiver.accepted().len() == 2, "{:#?}", daemon.log());
}

/// Everything with another schema.
#[tokio::test(flavor = "multi_thread")]
async fn r_another_schema_has_thresholds_changes_and_measures() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, name text, quantity numeric)").await;
    let changes = "[[watch]]\nname = \"c\"\ntable = \"public.items\"\n[[watch.publish]]\non = \"insert\"\ncoalesce = \"200ms\"\nchannels = [\"x\"]\nevent = \"e\"\ndata = \"thin\"\n";
    let watches = format!("{ORDERS}{}{changes}", value_watch("items", "threshold = 50", "{{ row.name }}"));
    let mut daemon = daemon(&config_with(&database, &receiver, "schema = \"alerts\"\npoll = \"60s\"\n", &watches));
    daemon.start().await;
    insert(&database, 1, 10).await;
    database.sql("INSERT INTO items VALUES (1, 'a', 5), (2, 'b', 500)").await;
    soon(&receiver, &daemon, "value and change", |events| events.len() >= 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let known = receiver.accepted().len();
    let beat = "SELECT max(beat_at)::text FROM alerts.instance";
    let before: String = database.one(beat).await;
    database.sql("INSERT INTO alerts.threshold VALUES ('orders', '{\"tenant_id\": 1}', 10)").await;
    soon(&receiver, &daemon, "the threshold", |events| events.len() > known).await;
    assert_eq!(database.one::<String>(beat).await, before, "the doorbell rang, and it was no poll");
    let (code, out, err) = daemon.run(&["uninstall"]).await;
    eprintln!("{code} {out} {err}");
}

/// A key that is gone, or whose threshold is, while its breach has not lasted for `hold` yet.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_hold_begins_anew_with_a_row_that_was_gone() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, quantity int)").await;
    let mut daemon = daemon(&config(&database, &receiver, &value_watch("items", "threshold = 50\nhold = \"3s\"", "x")));
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (1, 5)").await;
    support::eventually("it is held", async || {
        (database.one::<i64>("SELECT count(*) FROM items_listen.count WHERE deadline IS NOT NULL").await == 1).then_some(())
    })
    .await;
    database.sql("DELETE FROM items").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let kept: i64 = database.one("SELECT count(*) FROM items_listen.count").await;
    database.sql("INSERT INTO items VALUES (1, 5)").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(receiver.accepted().len(), 0, "this breach has lasted for 1.5 s of 3");
    assert_eq!(kept, 0, "what is gone is forgotten, and is due no more");
}

/// J6 for changes: the snapshot is taken in a transaction that has an xid already.
#[tokio::test(flavor = "multi_thread")]
async fn r_changes_that_the_folds_themselves_cause_among_other_writers_are_told_soon() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE notes (id serial PRIMARY KEY, episode uuid)").await;
    let watch = "[[watch]]\nname = \"notes\"\ntable = \"public.notes\"\n[[watch.publish]]\non = \"insert\"\nchannels = [\"x\"]\nevent = \"noted\"\ndata = \"thin\"\n";
    let mut daemon = daemon(&config(&database, &receiver, &format!("{watch}{ORDERS}")));
    daemon.start().await;
    database
        .sql(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
                 INSERT INTO public.notes (episode) VALUES (new.id); RETURN NULL; END $$;
             CREATE TRIGGER note AFTER INSERT ON items_listen.episode FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .await;
    let other = database.session().await;
    let busy = tokio::spawn(async move {
        loop {
            other.batch_execute("SELECT pg_current_xact_id()").await.expect("a transaction");
        }
    });
    for tenant in 1..=20 {
        insert(&database, tenant, 20).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    soon(&receiver, &daemon, "every note is told", |events| events.iter().filter(|event| event.name == "noted").count() == 20)
        .await;
    busy.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn r_a_storm_of_levels_in_one_group_of_two_is_told_with_its_rows() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, name text, quantity int)").await;
    let watch = value_watch("items", "threshold = 50\nstorm = { limit = 1, per = \"2s\" }", "{{ row.name }}")
        .replace("event = \"low\"", "event = \"low\"\ndata = { name = \"{{ row.name }}\", what = \"{{ transition }}\" }");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    database.sql("INSERT INTO items SELECT i, 'n' || i, 5 FROM generate_series(1, 5) AS i").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (_, out, _) = daemon.run(&["deliveries", "list", "--json", "--state", "dead"]).await;
    assert_eq!(out, "", "nothing dies");
    eprintln!("{:?}", receiver.accepted().iter().map(|e| e.data.clone()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn r_printed_scripts_of_every_kind_run_twice() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database
        .sql("CREATE TABLE items (id int PRIMARY KEY, name text, quantity numeric); INSERT INTO items VALUES (1, 'a', 5)")
        .await;
    let changes = "[[watch]]\nname = \"c\"\ntable = \"public.items\"\n[[watch.publish]]\non = \"insert\"\ncoalesce = \"200ms\"\nchannels = [\"x\"]\nevent = \"e\"\ndata = \"thin\"\n";
    let query = QUERY
        .replace("\"low\"", "\"q\"")
        .replace("SELECT id, name, quantity FROM items", "SELECT id, name, quantity::int FROM items WHERE name <> 'it''s'");
    let watches =
        format!("{ORDERS}{}{changes}{query}", value_watch("items", "threshold = 50\nwhere = \"name <> 'x'\"", "{{ row.name }}"));
    let mut daemon = daemon(&config_with(&database, &receiver, "install = \"manual\"\nschema = \"alerts\"\n", &watches));
    for _ in 0..2 {
        let (code, script, err) = daemon.run(&["install", "--print"]).await;
        assert_eq!(code, 0, "{err}");
        database.sql(&script).await;
    }
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (2, 'b', 5)").await;
    soon(&receiver, &daemon, "all is told", |events| events.len() >= 5).await;
    daemon.terminate().await;
    let (code, out, err) = daemon.run(&["uninstall", "--yes"]).await;
    eprintln!("{code} {out} {err}");
}
