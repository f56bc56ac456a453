//! What a review found: each of these fails without its fix.

use std::time::Duration;

use serde_json::json;

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

/// J2: `infinityZ` and `… BCZ` are no timestamps: the fold of every watch fails for ever.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_key_of_infinity_fails_no_fold() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE prices (id int, until timestamptz, name text, quantity int, PRIMARY KEY (id, until))").await;
    let watch = value_watch("prices", "threshold = 50", "{{ row.name }}");
    let mut daemon = daemon(&config(&database, &receiver, &format!("{watch}{ORDERS}")));
    daemon.start().await;
    database.sql("INSERT INTO prices VALUES (1, 'infinity', 'a', 5), (2, '0044-03-15 BC', 'b', 5)").await;
    insert(&database, 1, 20).await;
    soon(&receiver, &daemon, "other watches go on", |events| events.iter().any(|event| event.text("watch") == "orders")).await;
    soon(&receiver, &daemon, "both are told", |events| events.iter().filter(|event| event.text("watch") == "low").count() == 2)
        .await;
}

/// `::character` is `character(1)`.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_key_of_char_n_finds_its_row() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE skus (sku char(8) PRIMARY KEY, name text, quantity int, lim int)").await;
    let watch = value_watch("skus", "threshold_column = \"lim\"", "{{ row.name }}");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    database.sql("INSERT INTO skus VALUES ('ABC', 'Screws', 5, 50)").await;
    let all = soon(&receiver, &daemon, "it is told", |events| !events.is_empty()).await;
    assert_eq!(all[0].text("message"), "Screws");
}

/// A long key is stored as its hash, of one part: NULL for a domain that is NOT NULL.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_key_of_a_domain_fails_no_fold() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database
        .sql(
            "CREATE DOMAIN code AS text NOT NULL CHECK (VALUE ~ '^[A-Z]+$');
             CREATE TABLE stock (code code PRIMARY KEY, name text, quantity int)",
        )
        .await;
    let watch = value_watch("stock", "threshold = 50", "{{ row.name }}");
    let mut daemon = daemon(&config(&database, &receiver, &format!("{watch}{ORDERS}")));
    daemon.start().await;
    database.sql("INSERT INTO stock VALUES (repeat('A', 2500), 'a', 5)").await;
    insert(&database, 1, 20).await;
    soon(&receiver, &daemon, "other watches go on", |events| events.iter().any(|event| event.text("watch") == "orders")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r_numbers_that_cannot_be_added_fail_no_fold() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, quantity numeric)").await;
    let watch = value_watch("items", "threshold = 50", "x").replace("value =", "sum =");
    let mut daemon = daemon(&config(&database, &receiver, &format!("{watch}{ORDERS}")));
    daemon.start().await;
    for id in [1, 2] {
        database.sql(&format!("INSERT INTO items VALUES ({id}, 9e131071)")).await;
    }
    insert(&database, 1, 20).await;
    soon(&receiver, &daemon, "other watches go on", |events| events.iter().any(|event| event.text("watch") == "orders")).await;
}

/// A json column may hold \u0000, and text may not.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_nul_in_json_fails_no_fold() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, payload json, quantity int)").await;
    let watch = value_watch("items", "threshold = 50", "{{ row.payload.name }}");
    let mut daemon = daemon(&config(&database, &receiver, &format!("{watch}{ORDERS}")));
    daemon.start().await;
    database.sql(r#"INSERT INTO items VALUES (1, '{"name": "a\u0000b"}', 5)"#).await;
    insert(&database, 1, 20).await;
    soon(&receiver, &daemon, "other watches go on", |events| events.iter().any(|event| event.text("watch") == "orders")).await;
}

/// The same in the name of a change's event.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_nul_in_the_name_of_an_event_fails_no_fold() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, payload json)").await;
    let watch = "[[watch]]\nname = \"items\"\ntable = \"public.items\"\n[[watch.publish]]\non = \"insert\"\nchannels = [\"x\"]\n\
                 event = \"item.{{ row.payload.kind }}\"\n";
    let mut daemon = daemon(&config(&database, &receiver, &format!("{watch}{ORDERS}")));
    daemon.start().await;
    database.sql(r#"INSERT INTO items VALUES (1, '{"kind": "a\u0000b"}')"#).await;
    insert(&database, 1, 20).await;
    soon(&receiver, &daemon, "other watches go on", |events| events.iter().any(|event| event.text("watch") == "orders")).await;
}

/// A key of a table is hashed where it is long; one of a query is not, and no index takes it.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_long_key_of_a_query_fails_nothing_else() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE items (name text, quantity int)").await;
    let watch = "[[watch]]\nname = \"low\"\nquery = \"SELECT name, quantity FROM items\"\nevery = \"300ms\"\nkey = [\"name\"]\nvalue = \"quantity\"\n\
                 compare = \"<\"\nthreshold = 50\n[[watch.publish]]\nchannels = [\"low\"]\nevent = \"low\"\n";
    let mut daemon = daemon(&config(&database, &receiver, &format!("{watch}{ORDERS}")));
    daemon.start().await;
    database.sql("INSERT INTO items SELECT string_agg(md5(i::text), ''), 5 FROM generate_series(1, 400) AS i").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let lost = daemon.lines("no database session");
    assert_eq!(lost, 0, "{:#?}", daemon.log().iter().rev().take(3).collect::<Vec<_>>());
    soon(&receiver, &daemon, "it is told", |events| events.iter().any(|event| event.text("watch") == "low")).await;
}

/// Keys that a statement has just changed are not paced: the fold is taken back for ever, and with it every other watch's.
#[tokio::test(flavor = "multi_thread")]
async fn r_lookups_of_many_readings_at_once_hold_nobody_up_for_ever() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, quantity int)").await;
    let watch = value_watch("items", "threshold = 50\nlookup = \"SELECT :id::int AS x FROM pg_sleep(0.05)\"", "{{ lookup.x }}");
    let mut daemon = daemon(&config(&database, &receiver, &format!("{watch}{ORDERS}")));
    daemon.start().await;
    database.sql("INSERT INTO items SELECT i, 5 FROM generate_series(1, 100) AS i").await;
    insert(&database, 1, 20).await;
    soon(&receiver, &daemon, "other watches go on", |events| events.iter().any(|event| event.text("watch") == "orders")).await;
}

/// Four answers of more than a second each never fit into three seconds, and no fewer than four are asked for.
#[tokio::test(flavor = "multi_thread")]
async fn r_slow_lookups_hold_nobody_up_for_ever() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY)").await;
    let watch = "[[watch]]\nname = \"items\"\ntable = \"public.items\"\nlookup = \"SELECT :id::int AS x FROM pg_sleep(1.2)\"\n\
                 [[watch.publish]]\non = \"insert\"\nchannels = [\"x.{{ lookup.x }}\"]\nevent = \"item\"\ndata = \"thin\"\n";
    let mut daemon = daemon(&config(&database, &receiver, &format!("{watch}{ORDERS}")));
    daemon.start().await;
    database.sql("INSERT INTO items SELECT generate_series(1, 4)").await;
    insert(&database, 1, 20).await;
    soon(&receiver, &daemon, "all is told", |events| events.len() == 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r_a_lookup_that_fails_silences_no_other_notify_watch() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    let watch = |name: &str, more: &str| {
        format!(
            "[[watch]]\nname = \"{name}\"\nnotify = \"{name}\"\nthreshold = 20\n{more}\n[[watch.publish]]\non = \"reading\"\nchannels = [\"{name}\"]\nevent = \"e\"\n"
        )
    };
    let watches = watch("one", "lookup = \"SELECT 1 AS x FROM nowhere\"") + &watch("two", "");
    let mut daemon = daemon(&config(&database, &receiver, &watches));
    daemon.start().await;
    database.sql("NOTIFY one, '5'").await;
    database.sql("NOTIFY two, '6'").await;
    soon(&receiver, &daemon, "the other is told", |events| events.iter().any(|event| event.text("watch") == "two")).await;
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

/// `row.supplier` is the lookup's, and no column of the table.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_value_watch_has_what_its_lookup_found_in_its_row() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database
        .sql(
            "CREATE TABLE suppliers (id int, supplier text); INSERT INTO suppliers VALUES (3, 'Smith');
             CREATE TABLE items (id int PRIMARY KEY, quantity int, supplier_id int)",
        )
        .await;
    let lookup = "threshold = 50\nlookup = \"SELECT supplier FROM suppliers WHERE id = :supplier_id\"";
    let mut daemon = daemon(&config(&database, &receiver, &value_watch("items", lookup, "{{ row.supplier }}")));
    let (code, out, _) = daemon.run(&["check"]).await;
    assert_eq!(code, 0, "{out}");
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (1, 5, 3)").await;
    let all = soon(&receiver, &daemon, "it is told", |events| !events.is_empty()).await;
    assert_eq!(all[0].text("message"), "Smith");
}

/// The parameter is a column that no template names.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_lookup_of_a_value_watch_asks_with_the_rows_columns() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database
        .sql(
            "CREATE TABLE suppliers (id int, supplier text); INSERT INTO suppliers VALUES (3, 'Smith');
             CREATE TABLE items (id int PRIMARY KEY, quantity int, supplier_id int)",
        )
        .await;
    let lookup = "threshold = 50\nlookup = \"SELECT supplier FROM suppliers WHERE id = :supplier_id\"";
    let mut daemon = daemon(&config(&database, &receiver, &value_watch("items", lookup, "{{ lookup.supplier }}")));
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (1, 5, 3)").await;
    let all = soon(&receiver, &daemon, "it is told", |events| !events.is_empty()).await;
    assert_eq!(all[0].text("message"), "Smith");
}

#[tokio::test(flavor = "multi_thread")]
async fn r_a_lookup_may_end_in_a_semicolon_and_check_says_what_is_wrong_with_one() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let with = |lookup: &str| ORDERS.replace("threshold = 20", &format!("threshold = 20\nlookup = \"{lookup}\""));
    let bad = daemon(&config(&database, &receiver, &with("SELECT nam FROM orders WHERE id = :tenant_id")));
    let (code, out, _) = bad.run(&["check"]).await;
    assert!(code == 1 && out.contains("nam"), "check knows nothing of it: {code} {out}");
    let good = daemon(&config(&database, &receiver, &with("SELECT 1 AS x WHERE 1 = :tenant_id;")));
    let (code, out, _) = good.run(&["check"]).await;
    assert_eq!(code, 0, "{out}");
    let mut good = good;
    good.start().await;
    insert(&database, 1, 20).await;
    soon(&receiver, &good, "it is told", |events| !events.is_empty()).await;
}

const QUERY: &str = "[[watch]]\nname = \"low\"\nquery = \"SELECT id, name, quantity FROM items\"\nevery = \"300ms\"\nkey = [\"id\"]\nvalue = \"quantity\"\n\
                     compare = \"<\"\nthreshold = 50\nmessage = \"{{ row.name }}: {{ count }}\"\n[[watch.publish]]\nchannels = [\"low\"]\nevent = \"low\"\ndata = { name = \"{{ row.name }}\" }\n";

#[tokio::test(flavor = "multi_thread")]
async fn r_trigger_sends_what_a_query_watch_would() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, name text, quantity int); INSERT INTO items VALUES (1, 'a', 60)").await;
    let mut daemon = daemon(&config(&database, &receiver, QUERY));
    daemon.start().await;
    let (code, out, err) = daemon.run(&["--trigger", "5", "--key", "id=1"]).await;
    assert_eq!(code, 0, "{out} {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r_trigger_sends_for_a_value_watchs_key_without_a_row() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, name text, quantity int); INSERT INTO items VALUES (1, 'a', 60)").await;
    let watch = value_watch("items", "threshold = 50", "x")
        .replace("event = \"low\"", "event = \"low\"\ndata = { name = \"{{ row.name }}\" }");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    let (code, out, err) = daemon.run(&["--trigger", "5", "--key", "id=99"]).await;
    assert_eq!(code, 0, "{out} {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r_a_dry_run_shows_what_a_watch_with_a_lookup_would_send() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let watch = ORDERS
        .replace("threshold = 20", "threshold = 20\nlookup = \"SELECT 'One' AS name\"")
        .replace("event = \"orders.many\"", "event = \"orders.many\"\ndata = { name = \"{{ lookup.name }}\" }");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    let (code, out, err) = daemon.run(&["--trigger", "25", "--key", "tenant_id=1"]).await;
    assert_eq!(code, 0, "{out} {err}");
    let (code, out, err) = daemon.run(&["--trigger", "25", "--key", "tenant_id=1", "--dry-run"]).await;
    assert_eq!(code, 0, "{out} {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r_a_storm_of_a_watch_with_a_lookup_is_told() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let watch = ORDERS
        .replace(
            "threshold = 20",
            "threshold = 20\nstorm = { limit = 1, per = \"2s\" }\nlookup = \"SELECT 'n' || :tenant_id::text AS name\"",
        )
        .replace(
            "event = \"orders.many\"",
            "event = \"orders.many\"\ndata = { name = \"{{ lookup.name }}\", what = \"{{ transition }}\" }",
        );
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    database.sql("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 5) AS t, generate_series(1, 20)").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (_, out, _) = daemon.run(&["deliveries", "list", "--json", "--state", "dead"]).await;
    assert_eq!(out, "", "nothing dies");
    let all = receiver.accepted();
    assert!(all.len() >= 5, "{} of 5 keys told", all.len());
}

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

/// An alias of ours is no name that a query cannot use.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_query_may_have_a_column_of_any_name() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, w int, quantity int); INSERT INTO items VALUES (1, 3, 5)").await;
    let watch = QUERY.replace("id, name, quantity", "id, w, quantity").replace("row.name", "row.w");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    let all = soon(&receiver, &daemon, "it is told", |events| !events.is_empty()).await;
    assert_eq!(all[0].data, json!({"name": 3}));
}

#[tokio::test(flavor = "multi_thread")]
async fn r_a_lookup_may_have_a_column_of_any_name() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let watch = ORDERS.replace("threshold = 20", "threshold = 20\nlookup = \"SELECT 3 AS l\"\nmessage = \"{{ lookup.l }}\"");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    insert(&database, 1, 20).await;
    soon(&receiver, &daemon, "it is told", |events| !events.is_empty()).await;
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

/// A numeric that no f64 holds: its row is told as if there were none, and the event dies.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_huge_number_in_a_row_kills_no_event() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, name text, amount numeric)").await;
    let watch = "[[watch]]\nname = \"items\"\ntable = \"public.items\"\n[[watch.publish]]\non = \"insert\"\nchannels = [\"x\"]\nevent = \"e\"\n\
                 data = { name = \"{{ row.name }}\", amount = \"{{ row.amount }}\" }\n";
    let mut daemon = daemon(&config(&database, &receiver, watch));
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (1, 'a', 1e400)").await;
    soon(&receiver, &daemon, "it is told", |events| !events.is_empty()).await;
}

/// The same in a lookup's answer: the watch waits for ever.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_huge_number_in_an_answer_stops_no_watch() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let watch =
        ORDERS.replace("threshold = 20", "threshold = 20\nlookup = \"SELECT CASE WHEN :tenant_id::int = 1 THEN 1e400 END AS x\"");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    insert(&database, 1, 20).await;
    insert(&database, 2, 20).await;
    soon(&receiver, &daemon, "the other key is told", |events| !events.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r_check_says_that_a_query_cannot_be_asked() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, name text, quantity int)").await;
    let commented = QUERY.replace("FROM items\"", "FROM items; -- all\"");
    let ends = daemon(&config(&database, &receiver, &commented));
    let (code, out, _) = ends.run(&["check"]).await;
    eprintln!("a comment after the semicolon: {code} {out}");
    for query in ["FROM items WHERE id > $1\"", "FROM items, (SELECT 1 AS id) AS x\""] {
        let bad =
            daemon(&config(&database, &receiver, &QUERY.replace("SELECT id", "SELECT items.id").replace("FROM items\"", query)));
        let (code, out, _) = bad.run(&["check"]).await;
        eprintln!("{query}: {code} {out}");
        if query.contains('$') {
            assert_eq!(code, 1, "{query}: {out}");
        }
    }
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
