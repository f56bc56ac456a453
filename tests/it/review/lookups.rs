//! Lookups and queries.

use std::time::Duration;

use serde_json::json;

use super::{QUERY, soon, value_watch};
use crate::*;

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
