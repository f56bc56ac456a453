//! Query watches, which are swept; and lookups, which fetch what a message needs.

use serde_json::json;

use crate::*;

const QUERY: &str = r#"
[[watch]]
name = "low"
query = "SELECT i.id, i.name, i.quantity, i.tenant_id FROM items AS i WHERE i.quantity < 50"
every = "300ms"
key = ["id"]
value = "quantity"
compare = "<"
threshold = 50
[[watch.publish]]
channels = ["tenant.{{ row.tenant_id }}"]
event = "stock.low"
"#;

async fn items() -> Database {
    let database = Database::new().await;
    database.sql("CREATE TABLE items (id bigint PRIMARY KEY, tenant_id int, name text, quantity int)").await;
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_swept_and_what_it_no_longer_gives_is_resolved() {
    let (database, receiver) = (items().await, Receiver::start().await);
    database.sql("INSERT INTO items VALUES (1, 1, 'Screws', 40), (2, 1, 'Nails', 60)").await;
    let mut daemon = daemon(&config(&database, &receiver, QUERY));
    daemon.start().await;
    let first = receiver.wait_for(1).await;
    assert_eq!(said(&first), expected(&[("raised", "warning", 40)]));
    // Its other columns are the row's.
    assert_eq!(first[0].data["row"], json!({"id": 1, "name": "Screws", "quantity": 40, "tenant_id": 1}));
    database.sql("UPDATE items SET quantity = 10 WHERE id = 1").await;
    assert_eq!(said(&receiver.wait_for(2).await)[1], ("escalated".into(), "high".into(), 10));
    database.sql("UPDATE items SET quantity = 100 WHERE id = 1").await;
    let all = receiver.wait_for(3).await;
    assert_eq!(
        (all[2].text("transition"), all[2].text("reason"), all[2].channels[0].as_str()),
        ("resolved".into(), "gone".into(), "tenant.1")
    );
    let triggers: i64 =
        database.one("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 'items'::regclass").await;
    assert_eq!(triggers, 0, "nothing is installed on the tables");
    // One alert per item and episode, however often it is swept.
    let sweeps: i64 = database.one("SELECT count(*) FROM items_listen.event").await;
    assert_eq!(sweeps, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_without_a_key_has_one_reading_and_its_threshold_is_edited() {
    let (database, receiver) = (items().await, Receiver::start().await);
    let watch = QUERY
        .replace("key = [\"id\"]\nvalue = \"quantity\"\ncompare = \"<\"\n", "sum = \"quantity\"\n")
        .replace("{{ row.tenant_id }}", "all")
        .replace("every = \"300ms\"", "every = \"1h\"");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    database.sql("INSERT INTO items VALUES (1, 1, 'Screws', 30), (2, 1, 'Nails', 30)").await;
    daemon.start().await;
    assert_eq!(said(&receiver.wait_for(1).await), expected(&[("raised", "high", 60)]));
    // At once, and not after an hour.
    database.sql("INSERT INTO items_listen.threshold VALUES ('low', '{}', 1000)").await;
    let all = receiver.wait_for(2).await;
    assert_eq!(
        (all[1].text("transition"), all[1].text("reason"), all[1].number("threshold")),
        ("resolved".into(), "threshold".into(), 1000)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_judged_by_a_sweep_when_it_is_over() {
    let (database, receiver) = (items().await, Receiver::start().await);
    let watch =
        QUERY.replace("threshold = 50", "threshold = 50\nhold = \"1500ms\"").replace("every = \"300ms\"", "every = \"1h\"");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    database.sql("INSERT INTO items VALUES (1, 1, 'Screws', 30), (2, 1, 'Nails', 30)").await;
    daemon.start().await;
    assert_eq!(receiver.accepted().len(), 0);
    database.sql("UPDATE items SET quantity = 60 WHERE id = 2").await;
    let all = receiver.wait_for(1).await;
    assert_eq!((all[0].data["key"].clone(), all[0].text("reason")), (json!({"id": 1}), "deadline".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_fails_degrades_its_watch_alone_and_heals() {
    let (database, receiver) = (items().await, Receiver::start().await);
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    let mut daemon = daemon(&config(&database, &receiver, &format!("{QUERY}{ORDERS}")));
    daemon.start().await;
    database.sql("ALTER TABLE items RENAME TO things").await;
    daemon.logged("watch degraded").await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    database.sql("ALTER TABLE things RENAME TO items; INSERT INTO items VALUES (1, 1, 'Screws', 30)").await;
    receiver.wait_for(2).await;
    support::eventually("it heals", async || (daemon.run(&["status"]).await.0 == 0).then_some(())).await;
    // It may only read.
    let writes = QUERY
        .replace("SELECT i.id, i.name, i.quantity, i.tenant_id FROM items AS i WHERE i.quantity < 50", "SELECT * FROM taken()");
    database.sql("CREATE FUNCTION taken() RETURNS SETOF items LANGUAGE sql AS 'DELETE FROM items RETURNING *'").await;
    drop(daemon);
    let mut daemon = crate::daemon(&config(&database, &receiver, &writes));
    daemon.start().await;
    let line = daemon.logged("watch degraded").await;
    assert!(line.to_string().contains("read-only"), "{line}");
    assert_eq!(database.one::<i64>("SELECT count(*) FROM items").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_sweeps_at_a_time() {
    let (database, receiver) = (items().await, Receiver::start().await);
    database.sql("CREATE SEQUENCE asked; GRANT ALL ON SEQUENCE asked TO public").await;
    // A second sweep at the same time would meet the first's lock, and fail.
    let query = "SELECT 1::bigint AS id, 1 AS tenant_id, CASE WHEN pg_try_advisory_xact_lock(42) THEN (SELECT 60 FROM pg_sleep(0.2)) ELSE 1 END AS quantity";
    let watch = QUERY
        .replace("SELECT i.id, i.name, i.quantity, i.tenant_id FROM items AS i WHERE i.quantity < 50", query)
        .replace("300ms", "100ms");
    let mut one = daemon(&config(&database, &receiver, &watch));
    let mut two = daemon(&config(&database, &receiver, &watch));
    one.start().await;
    two.start().await;
    let beats = async |count: usize| {
        let mut seen = std::collections::BTreeSet::new();
        support::eventually("some beats", async || {
            seen.insert(database.one::<String>("SELECT max(beat_at)::text FROM items_listen.instance").await);
            (seen.len() > count).then_some(())
        })
        .await;
    };
    beats(4).await;
    one.kill();
    beats(4).await;
    assert_eq!(said(&receiver.accepted()), expected(&[]));
}

/// Orders, with what a message needs from another table.
fn with_lookup(lookup: &str, message: &str) -> String {
    ORDERS.replace("threshold = 20", &format!("threshold = 20\nlookup = \"{lookup}\"\nmessage = \"{message}\""))
}

async fn tenants() -> Database {
    let database = shop().await;
    database
        .sql(
            "CREATE TABLE tenants (id int PRIMARY KEY, name text); INSERT INTO tenants VALUES (1, 'One'), (2, 'Two');
             CREATE TABLE members (tenant_id int, user_id int); INSERT INTO members VALUES (1, 7), (1, 8), (2, 9)",
        )
        .await;
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_fetches_what_a_message_needs_and_names_whom_it_concerns() {
    let (database, receiver) = (tenants().await, Receiver::start().await);
    let watch = with_lookup(
        "SELECT t.name, m.user_id FROM tenants t JOIN members m ON m.tenant_id = t.id WHERE t.id = :tenant_id ORDER BY 2",
        "{{ lookup.name }} has {{ count }}",
    )
    .replace("private-tenant.{{ key.tenant_id }}.orders", "user.{{ row.user_id }}");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    insert(&database, 2, 20).await;
    let one = receiver.wait_for(1).await;
    assert_eq!((one[0].text("message"), one[0].channels.clone()), ("Two has 20".into(), vec!["user.9".to_owned()]));
    insert(&database, 1, 20).await;
    let two = receiver.wait_for(2).await;
    // Several rows: each column is a list, and a list makes a channel for each of its elements.
    assert_eq!(two[1].channels, ["user.7", "user.8"]);
    assert_eq!(two[1].data["row"]["user_id"], json!([7, 8]));
    // None: null, which leaves the channel out, and nothing is sent.
    insert(&database, 3, 20).await;
    insert(&database, 2, 4).await;
    assert_eq!(said(&receiver.wait_for(3).await)[2], ("escalated".into(), "high".into(), 24));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_that_cannot_be_asked_loses_nothing_and_holds_up_nobody_else() {
    let (database, receiver) = (tenants().await, Receiver::start().await);
    let lookup = with_lookup("SELECT name FROM tenants WHERE id = :tenant_id", "{{ row.name }} has {{ count }}");
    let other = ORDERS.replace("\"orders\"", "\"other\"");
    let mut daemon = daemon(&config(&database, &receiver, &format!("{lookup}{other}")));
    daemon.start().await;
    database.sql("ALTER TABLE tenants RENAME TO renters").await;
    insert(&database, 1, 20).await;
    let first = receiver.wait_for(1).await;
    assert_eq!(first[0].text("watch"), "other");
    daemon.logged("watch degraded").await;
    insert(&database, 2, 20).await;
    receiver.wait_for(2).await;
    database.sql("ALTER TABLE renters RENAME TO tenants").await;
    let all = receiver.wait_for(4).await;
    let mut messages: Vec<String> =
        all.iter().filter(|event| event.text("watch") == "orders").map(|event| event.text("message")).collect();
    messages.sort();
    assert_eq!(messages, ["One has 20", "Two has 20"]);
    support::eventually("it heals", async || (daemon.run(&["status"]).await.0 == 0).then_some(())).await;
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_told_with_its_lookup_or_waits_for_it() {
    let (database, receiver) = (tenants().await, Receiver::start().await);
    let watch = r#"
[[watch]]
name = "members"
table = "public.members"
lookup = "SELECT count(*) AS unread_count FROM members WHERE tenant_id = :tenant_id"
[[watch.publish]]
on = "insert"
channels = ["user.{{ row.user_id }}"]
event = "joined"
data = { unread = "{{ row.unread_count }}", user = "{{ row.user_id }}" }
"#;
    let mut daemon = daemon(&config(&database, &receiver, watch));
    daemon.start().await;
    database.sql("INSERT INTO members VALUES (2, 10)").await;
    assert_eq!(receiver.wait_for(1).await[0].data, json!({"unread": 2, "user": 10}));
    let mut other = database.session().await;
    let locked = other.transaction().await.expect("begins");
    locked.batch_execute("LOCK TABLE members IN ACCESS EXCLUSIVE MODE; INSERT INTO members VALUES (2, 11)").await.expect("locks");
    locked.commit().await.expect("commits");
    database.sql("ALTER TABLE members RENAME COLUMN tenant_id TO t; ALTER TABLE members RENAME COLUMN t TO tenant_id").await;
    database.sql("INSERT INTO members VALUES (2, 12)").await;
    let all = receiver.wait_for(3).await;
    let users: Vec<i64> = all.iter().map(|event| event.number("user")).collect();
    assert_eq!(users, [10, 11, 12]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_that_take_their_time_hold_nobody_up_for_long_and_all_is_told() {
    let (database, receiver) = (tenants().await, Receiver::start().await);
    let watch = r#"
[[watch]]
name = "members"
table = "public.members"
key = ["user_id"]
lookup = "SELECT :user_id::int AS u FROM pg_sleep(0.02)"
[[watch.publish]]
on = "insert"
channels = ["user.{{ row.u }}"]
event = "joined"
data = "thin"
"#;
    let mut daemon = daemon(&config(&database, &receiver, &format!("{watch}{ORDERS}")));
    daemon.start().await;
    database.sql("INSERT INTO members SELECT 1, i FROM generate_series(1, 400) AS i").await;
    insert(&database, 1, 20).await;
    let all = receiver.wait_for(401).await;
    let users: std::collections::HashSet<i64> = all.iter().filter_map(|event| event.data["key"]["user_id"].as_i64()).collect();
    assert_eq!(users.len(), 400);
    daemon.logged("lookups take their time").await;
    assert_eq!(daemon.lines("no database session"), 0, "{:?}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_whose_lookup_fails_wait_and_are_told_in_order() {
    let (database, receiver) = (tenants().await, Receiver::start().await);
    let watch = r#"
[[watch]]
name = "heard"
notify = "heard"
threshold = 20
lookup = "SELECT name FROM tenants WHERE id = 1"
message = "{{ row.name }} at {{ count }}"
[[watch.publish]]
on = "reading"
channels = ["heard"]
event = "heard"
"#;
    let mut daemon = daemon(&config(&database, &receiver, watch));
    daemon.start().await;
    database.sql("ALTER TABLE tenants RENAME TO renters").await;
    for count in 1..=5 {
        database.sql(&format!("NOTIFY heard, '{count}'")).await;
    }
    daemon.logged("watch degraded").await;
    database.sql("ALTER TABLE renters RENAME TO tenants").await;
    let all = receiver.wait_for(5).await;
    assert_eq!(
        all.iter().map(|event| event.text("message")).collect::<Vec<_>>(),
        (1..=5).map(|count| format!("One at {count}")).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_a_query_has_its_own_threshold_whoever_edits_others() {
    let (database, receiver) = (items().await, Receiver::start().await);
    let watch = QUERY
        .replace("i.tenant_id FROM items AS i WHERE i.quantity < 50", "i.tenant_id, 10 AS own FROM items AS i")
        .replace("threshold = 50", "threshold = 50\nthreshold_column = \"own\"")
        .replace("every = \"300ms\"", "every = \"1h\"");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    database.sql("INSERT INTO items VALUES (1, 1, 'Screws', 5)").await;
    daemon.start().await;
    receiver.wait_for(1).await;
    database.sql("INSERT INTO items_listen.threshold VALUES ('low', '{}', 1000)").await;
    support::eventually("the edit is taken in", async || {
        let waiting =
            "SELECT (SELECT count(*) FROM items_listen.journal) + (SELECT count(*) FROM items_listen.count WHERE dirty > 0)";
        (database.one::<i64>(waiting).await == 0).then_some(())
    })
    .await;
    // It is open, and stays so: nobody but a sweep knows its row's threshold.
    assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.event").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_fails_late_does_not_keep_the_daemon_from_being_ready() {
    let (database, receiver) = (items().await, Receiver::start().await);
    database.sql("INSERT INTO items VALUES (1, 1, 'Screws', 30)").await;
    let watch = QUERY.replace(
        "SELECT i.id, i.name, i.quantity, i.tenant_id FROM items AS i WHERE i.quantity < 50",
        "SELECT i.id, i.name, 1 / (i.quantity - 30) AS quantity, i.tenant_id FROM items AS i, pg_sleep(2)",
    );
    // Nothing else is there to be folded when its error comes.
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    daemon.logged("watch degraded").await;
}
