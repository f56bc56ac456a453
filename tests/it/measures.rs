//! What is measured besides rows: sums and values; whose thresholds are in the row, or in a table that is edited; and what
//! is said of the row.

use crate::*;

const ITEMS: &str = "CREATE TABLE items (id bigint PRIMARY KEY, tenant_id int, name text, quantity int, reorder_level int)";

/// A level of each item, with low stock.
const LOW: &str = r#"
[[watch]]
name = "low"
table = "public.items"
value = "quantity"
compare = "<"
threshold = 50
message = "{{ row.name }}: {{ count }} left"
[[watch.publish]]
channels = ["tenant.{{ row.tenant_id }}"]
event = "stock.low"
"#;

async fn items() -> Database {
    let database = Database::new().await;
    database.sql(ITEMS).await;
    database
}

/// Waits until nothing waits, and compares every count with the truth, which is a query of (key as text, sum).
async fn exact_sums(database: &Database, watch: &str, truth: &str) {
    let sql = format!(
        "WITH truth (key, sum) AS ({truth}), known AS (
             SELECT c.key, c.sum FROM items_listen.count c JOIN items_listen.watch w ON w.id = c.watch
             WHERE w.name = '{watch}' AND (c.rows <> 0 OR c.sum <> 0))
         SELECT (SELECT count(*) FROM items_listen.journal) + (SELECT count(*) FROM items_listen.marker)
              + (SELECT count(*) FROM items_listen.count WHERE dirty > 0) AS waiting,
                coalesce((SELECT left(string_agg(concat_ws(' ', key, 'truth', truth.sum, 'count', known.sum), '; '), 400)
                 FROM truth FULL JOIN known USING (key) WHERE truth.sum IS DISTINCT FROM known.sum), '') AS difference"
    );
    let mut last = String::new();
    let last = &mut last;
    support::eventually(&format!("sums of {watch} are exact"), async || {
        let row = database.client.query_one(sql.as_str(), &[]).await.expect("the comparison runs");
        let now = format!("{} waiting; {}", row.get::<_, i64>(0), row.get::<_, String>(1));
        if now != *last {
            eprintln!("{watch}: {now}");
            last.clone_from(&now);
        }
        (now == "0 waiting; ").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_the_level_of_each_row_and_its_row_is_at_hand() {
    let (database, receiver) = (items().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, LOW));
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (7, 42, 'Screws', 60), (8, 43, 'Nails', 40), (9, 42, 'Glue', NULL)").await;
    let first = receiver.wait_for(1).await;
    assert_eq!(said(&first), expected(&[("raised", "warning", 40)]));
    assert_eq!((first[0].channels[0].as_str(), first[0].text("message").as_str()), ("tenant.43", "Nails: 40 left"));
    assert_eq!(
        (&first[0].data["key"], &first[0].data["row"]),
        (&serde_json::json!({"id": 8}), &serde_json::json!({"name": "Nails", "tenant_id": 43}))
    );
    database.sql("UPDATE items SET quantity = 5, name = 'Screws, long' WHERE id = 7").await;
    assert_eq!(receiver.wait_for(2).await[1].text("message"), "Screws, long: 5 left");
    database.sql("UPDATE items SET quantity = 0 WHERE id = 7").await;
    database.sql("UPDATE items SET quantity = 50 WHERE id = 8").await;
    let all = receiver.wait_for(3).await;
    // 10 % is critical already; that there is none at all is no worse.
    assert_eq!((all[2].text("transition"), all[2].number("count")), ("resolved".to_owned(), 50));
    database.sql("DELETE FROM items WHERE id = 7").await;
    let gone = &receiver.wait("gone", |events| events.iter().any(|event| event.text("reason") == "gone")).await;
    let gone = gone.iter().find(|event| event.text("reason") == "gone").expect("it is there");
    assert_eq!((gone.text("transition"), gone.text("severity")), ("resolved".into(), "info".into()));
    // As it was when it was last told of.
    assert_eq!((&gone.data["row"]["name"], gone.channels[0].as_str()), (&serde_json::json!("Screws, long"), "tenant.42"));
    exact_sums(&database, "low", "SELECT jsonb_build_array(id)::text, quantity::numeric FROM items WHERE quantity IS NOT NULL")
        .await;
    let kept: i64 = database.one("SELECT count(*) FROM items_listen.count").await;
    assert_eq!(kept, 1, "what is gone is forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_is_exact_whatever_way_rows_are_written() {
    let (database, receiver) = (items().await, Receiver::start().await);
    let watch = LOW
        .replace("value = \"quantity\"", "sum = \"quantity\"\nkey = [\"tenant_id\"]\nwhere = \"name <> 'scrap'\"")
        .replace("{{ row.name }}", "{{ key.tenant_id }}")
        .replace("{{ row.tenant_id }}", "{{ key.tenant_id }}");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    database.sql("INSERT INTO items SELECT i, i % 3, 'x', i FROM generate_series(1, 90) AS i").await;
    daemon.start().await;
    let truth =
        "SELECT jsonb_build_array(tenant_id)::text, coalesce(sum(quantity), 0) FROM items WHERE name <> 'scrap' GROUP BY 1";
    exact_sums(&database, "low", truth).await;
    for sql in [
        "INSERT INTO items VALUES (100, 1, 'x', -1000), (101, 2, 'scrap', 7), (102, NULL, 'x', NULL)",
        "INSERT INTO items VALUES (103, 1, 'x', 11)",
        "UPDATE items SET quantity = 18 WHERE id = 103",
        "UPDATE items SET quantity = 25, tenant_id = 2 WHERE id = 103",
        "UPDATE items SET quantity = 36, name = 'scrap' WHERE id = 103",
        "UPDATE items SET quantity = 49, name = 'x' WHERE id = 103",
        "UPDATE items SET quantity = NULL WHERE id = 103",
        "UPDATE items SET quantity = 64 WHERE id = 103",
        "DELETE FROM items WHERE id = 103",
        "UPDATE items SET quantity = quantity * 2 WHERE id < 50",
        "UPDATE items SET tenant_id = 5 WHERE id % 7 = 0",
        "UPDATE items SET name = 'scrap' WHERE id % 5 = 0",
        "UPDATE items SET name = 'x' WHERE id % 10 = 0",
        "INSERT INTO items VALUES (1, 9, 'x', 1), (2, 9, 'x', 3) ON CONFLICT (id) DO UPDATE SET quantity = excluded.quantity",
        "DELETE FROM items WHERE id % 4 = 0",
        "TRUNCATE items",
        "INSERT INTO items SELECT i, 1, 'x', 2147483647 FROM generate_series(1, 1000) AS i",
        // What no trigger saw is found by counting anew, though there are as many rows as before.
        "ALTER TABLE items DISABLE TRIGGER USER; UPDATE items SET quantity = 1 WHERE id = 7; ALTER TABLE items ENABLE TRIGGER USER;
         INSERT INTO items_listen.marker (watch, reason) SELECT id, 'recount' FROM items_listen.watch",
    ] {
        database.sql(sql).await;
        exact_sums(&database, "low", truth).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fraction_fails_no_writer_and_is_explained() {
    let (database, receiver) = (items().await, Receiver::start().await);
    database.sql("ALTER TABLE items ALTER quantity TYPE numeric").await;
    let watch = LOW
        .replace("value = \"quantity\"", "sum = \"quantity\"")
        .replace("{{ row.name }}", "")
        .replace("{{ row.tenant_id }}", "1");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    for bad in ["2.5", "'NaN'", "'Infinity'"] {
        database.sql(&format!("INSERT INTO items VALUES (1, 1, 'x', {bad})")).await;
        let line = daemon.logged("is not a whole number").await;
        assert!(line.to_string().contains("floor(x)"), "{line}");
        database.sql("DELETE FROM items").await;
        support::eventually("it heals", async || (daemon.run(&["status"]).await.0 == 0).then_some(())).await;
        exact_sums(&database, "low", "SELECT '[]', sum(quantity) FROM items HAVING count(*) > 0").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_measured_is_refused_with_what_to_do() {
    let (database, receiver) = (items().await, Receiver::start().await);
    database.sql("ALTER TABLE items ADD weight float8; CREATE TABLE loose (a int, quantity int)").await;
    for (from, to, said) in [
        ("\"quantity\"", "\"weight\"", "floor(x)"),
        ("\"quantity\"", "\"quantty\"", "quantty"),
        ("\"quantity\"", "\"quantity + extract(epoch from now())::int\"", "immutable"),
        ("public.items", "public.loose", "no primary key"),
        ("value = \"quantity\"", "value = \"quantity\"\nkey = [\"tenant_id\"]", "each key must have one row"),
        ("row.name", "row.nam", "did you mean \"name\""),
        ("row.name", "key.name", "the primary key of public.items, which is id"),
        ("value = \"quantity\"", "value = \"quantity\"\nthreshold_column = \"name\"", "threshold_column"),
    ] {
        let daemon = daemon(&config(&database, &receiver, &LOW.replace(from, to)));
        let (code, out, _) = daemon.run(&["check"]).await;
        assert!(code == 1 && out.contains(said), "{to}: {code} {out}");
        let (code, _, error) = daemon.run(&["install"]).await;
        assert!(code == 1 && error.contains(said), "{to}: {code} {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn j2_a_threshold_in_the_row_is_seen_together_with_its_value() {
    let (database, receiver) = (items().await, Receiver::start().await);
    let watch = LOW.replace("value = \"quantity\"", "value = \"quantity\"\nthreshold_column = \"reorder_level\"");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    database.sql("INSERT INTO items SELECT i, 1, 'x', 100, 50 FROM generate_series(1, 10) AS i").await;
    // Both at once, to and fro: in no committed state is anything low.
    for _ in 0..150 {
        database.sql("UPDATE items SET quantity = 10, reorder_level = 5").await;
        database.sql("UPDATE items SET quantity = 100, reorder_level = 50").await;
    }
    exact_sums(&database, "low", "SELECT jsonb_build_array(id)::text, quantity::numeric FROM items").await;
    assert_eq!(said(&receiver.accepted()), expected(&[]));
    // T12: an edit of the threshold alone, and NULL disables.
    database.sql("UPDATE items SET reorder_level = 101 WHERE id = 3").await;
    let raised = receiver.wait_for(1).await;
    assert_eq!((raised[0].text("transition"), raised[0].number("threshold")), ("raised".into(), 101));
    database.sql("UPDATE items SET reorder_level = NULL WHERE id = 3").await;
    let all = receiver.wait_for(2).await;
    assert_eq!((all[1].text("transition"), all[1].text("reason")), ("resolved".into(), "disabled".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn j11_a_threshold_that_is_edited_is_in_force_at_once_and_the_most_specific_wins() {
    let (database, receiver) = (items().await, Receiver::start().await);
    let watch = LOW.replace(
        "value = \"quantity\"",
        "value = \"quantity\"\nkey = [\"tenant_id\", \"id\"]\nthresholds = [{ tenant_id = 3, threshold = 1 }]",
    );
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (1, 1, 'a', 60), (2, 1, 'b', 60), (3, 2, 'c', 60), (4, 3, 'd', 20)").await;
    exact_sums(&database, "low", "SELECT jsonb_build_array(tenant_id, id)::text, quantity::numeric FROM items").await;
    assert_eq!(receiver.accepted().len(), 0);
    let edits = [
        (
            "INSERT INTO items_listen.threshold VALUES ('low', '{\"tenant_id\": 1}', 61)",
            vec![(1, "raised", 61), (2, "raised", 61)],
        ),
        ("INSERT INTO items_listen.threshold VALUES ('low', '{\"id\": 2, \"tenant_id\": 1}', 10)", vec![(2, "resolved", 10)]),
        ("UPDATE items_listen.threshold SET threshold = 10 WHERE key = '{\"tenant_id\": 1}'", vec![(1, "resolved", 10)]),
        ("INSERT INTO items_listen.threshold VALUES ('low', '{}', 70)", vec![(3, "raised", 70), (4, "raised", 70)]),
        (
            "UPDATE items_listen.threshold SET threshold = NULL WHERE key = '{}'",
            vec![(3, "resolved", i64::MIN), (4, "resolved", i64::MIN)],
        ),
        ("DELETE FROM items_listen.threshold WHERE key <> '{}'", vec![]),
        ("TRUNCATE items_listen.threshold", vec![]),
        (
            "INSERT INTO items_listen.threshold VALUES ('other', '{}', 70); INSERT INTO items_listen.threshold VALUES ('low', '{\"tenant_id\": 2}', 100)",
            vec![(3, "raised", 100)],
        ),
        ("DELETE FROM items_listen.threshold WHERE key = '{\"tenant_id\": 2}'", vec![(3, "resolved", 50)]),
    ];
    let mut before = 0;
    for (sql, expected) in edits {
        database.sql(sql).await;
        let all = receiver.wait_for(before + expected.len()).await;
        let mut said: Vec<_> = all[before..]
            .iter()
            .map(|event| (event.data["key"]["id"].as_i64().expect("an id"), event.text("transition"), event.number("threshold")))
            .collect();
        said.sort();
        assert_eq!(
            said,
            expected.iter().map(|(id, what, threshold)| (*id, (*what).to_owned(), *threshold)).collect::<Vec<_>>(),
            "{sql}"
        );
        before = all.len();
        exact_sums(&database, "low", "SELECT jsonb_build_array(tenant_id, id)::text, quantity::numeric FROM items").await;
        assert_eq!(receiver.accepted().len(), before, "{sql}");
    }
    assert!(receiver.accepted().iter().all(|event| ["threshold", "disabled"].contains(&event.text("reason").as_str())));
}

#[tokio::test(flavor = "multi_thread")]
async fn j2_a_table_that_is_locked_holds_up_its_watch_alone() {
    let (database, receiver) = (items().await, Receiver::start().await);
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    let mut daemon = daemon(&config(&database, &receiver, &format!("{LOW}{ORDERS}")));
    daemon.start().await;
    let mut other = database.session().await;
    let transaction = other.transaction().await.expect("begins");
    transaction.batch_execute("TRUNCATE items; INSERT INTO items VALUES (1, 1, 'x', 40)").await.expect("writes");
    for tenant in 1..=5 {
        insert(&database, tenant, 20).await;
        receiver.wait_for(usize::try_from(tenant).expect("few")).await;
    }
    assert_eq!(daemon.lines("no database session"), 0, "no fold ran into the lock: {:?}", daemon.log());
    transaction.commit().await.expect("commits");
    let all = receiver.wait_for(6).await;
    assert_eq!((all[5].text("watch"), all[5].text("reason")), ("low".into(), "reading".into()), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_dropped_degrades_its_watch_alone() {
    let (database, receiver) = (items().await, Receiver::start().await);
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    let mut daemon = daemon(&config(&database, &receiver, &format!("{LOW}{ORDERS}")));
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (1, 1, 'x', 40)").await;
    receiver.wait_for(1).await;
    database.sql("ALTER TABLE items DROP COLUMN name").await;
    database.sql("UPDATE items SET quantity = 20").await;
    insert(&database, 1, 20).await;
    receiver.wait("the other goes on", |events| events.iter().any(|event| event.text("watch") == "orders")).await;
    daemon.logged("watch degraded").await;
    database.sql("ALTER TABLE items ADD COLUMN name text DEFAULT 'back'").await;
    let all = receiver.wait("it heals", |events| events.iter().any(|event| event.text("message").contains("back"))).await;
    assert!(all.iter().any(|event| event.text("message") == "back: 20 left"), "{all:?}");
    assert_eq!(daemon.lines("no database session"), 0, "{:?}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_is_counted_within_what_is_asked_for() {
    let (database, receiver) = (items().await, Receiver::start().await);
    let watch = LOW
        .replace("value = \"quantity\"", "value = \"quantity\"\nkey = [\"tenant_id\", \"id\"]\nunread_by = [\"tenant_id\"]")
        .replace("{{ row.tenant_id }}", "{{ row.id }}");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (1, 1, 'a', 40), (2, 1, 'b', 40), (3, 2, 'c', 40), (4, NULL, 'd', 40)").await;
    let unread = |events: &[support::receiver::Event]| {
        let mut unread: Vec<_> =
            events.iter().map(|event| (event.data["key"]["id"].as_i64(), event.number("unread_count"))).collect();
        unread.sort();
        unread
    };
    assert_eq!(unread(&receiver.wait_for(4).await), [(Some(1), 2), (Some(2), 2), (Some(3), 1), (Some(4), 1)]);
    database.sql("UPDATE items_listen.alert SET read_at = now() WHERE key = '{\"tenant_id\": 1, \"id\": 1}'").await;
    database.sql("UPDATE items SET quantity = 100 WHERE id = 2").await;
    assert_eq!(receiver.wait_for(5).await[4].number("unread_count"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_another_lets_no_other_watch_be_judged_without_its_threshold() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    let one = |name: &str| {
        format!(
            "[[watch]]\nname = \"{name}\"\ntable = \"public.{name}\"\nvalue = \"stock\"\nthreshold_column = \"lim\"\n\
             [[watch.publish]]\nchannels = [\"{name}\"]\nevent = \"{name}\"\n"
        )
    };
    for name in ["a", "b"] {
        database.sql(&format!("CREATE TABLE {name} (id int PRIMARY KEY, stock int, lim bigint)")).await;
    }
    let mut daemon = daemon(&config(&database, &receiver, &format!("{}{}", one("a"), one("b"))));
    daemon.start().await;
    database.sql("INSERT INTO a VALUES (7, 15, 10), (8, 1, 10); INSERT INTO b VALUES (1, 1, 10)").await;
    receiver.wait_for(1).await;
    for (number, table) in [
        "ALTER TABLE b ALTER lim TYPE int",
        "ALTER TABLE b ALTER lim TYPE bigint",
        "DROP TABLE b; CREATE TABLE b (id int PRIMARY KEY, stock int, lim int)",
    ]
    .iter()
    .enumerate()
    {
        database
            .sql(&format!("{table}; UPDATE a SET stock = stock + 1 WHERE id = 7; UPDATE a SET stock = 100 WHERE id = 8"))
            .await;
        receiver.wait_for(2 + 2 * number).await;
        database.sql("UPDATE a SET stock = 1 WHERE id = 8").await;
        receiver.wait_for(3 + 2 * number).await;
    }
    let of_seven: Vec<String> =
        receiver.accepted().iter().filter(|event| event.data["key"]["id"] == 7).map(|event| event.text("transition")).collect();
    assert_eq!(of_seven, ["raised"], "it was over its threshold all the time");
    let of_eight: Vec<String> =
        receiver.accepted().iter().filter(|event| event.data["key"]["id"] == 8).map(|event| event.text("transition")).collect();
    assert_eq!(of_eight, ["raised", "resolved"].repeat(3));
}
