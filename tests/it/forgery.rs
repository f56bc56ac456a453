//! What other roles of the database may do to us: wake us, and what they were given; nothing else.

use crate::support::receiver::Receiver;
use crate::*;

/// A role with a session, and exactly the rights that docs/laravel.md gives to an application.
async fn application(database: &Database) -> (String, tokio_postgres::Client) {
    let role = format!("app_{}", database.name);
    database
        .sql(&format!(
            "CREATE ROLE {role}; GRANT USAGE, CREATE ON SCHEMA public TO {role}; GRANT ALL ON orders, orders_id_seq TO {role};
             GRANT USAGE ON SCHEMA items_listen TO {role}; GRANT SELECT, UPDATE (read_at) ON items_listen.alert TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON items_listen.threshold TO {role}"
        ))
        .await;
    let session = database.session().await;
    session.batch_execute(&format!("SET ROLE {role}")).await.expect("the role");
    (role, session)
}

async fn forget(database: &Database, role: &str) {
    database.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// Sends so many notifications in each of so many transactions.
async fn flood(session: &tokio_postgres::Client, channel: &str, transactions: i32, each: i32, payload: &str) {
    for transaction in 0..transactions {
        let sql = format!(
            "DO $$ BEGIN FOR i IN 1..{each} LOOP PERFORM pg_notify('{channel}', {payload}); END LOOP; END $$ /* {transaction} */"
        );
        session.batch_execute(&sql).await.expect("anybody may notify");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_forged_rings_changes_no_reading_and_says_nothing() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let (role, forger) = application(&database).await;
    let before = daemon.log().len();
    let flooding = tokio::spawn(async move {
        flood(&forger, "items_listen", 40, 50, "rpad(i::text, 7999, 'x')").await;
        flood(&forger, "items_listen", 200, 1, "''").await;
        flood(&forger, "items_listen", 20, 1000, "'{\"count\":' || i || ',\"watch\":1,\"generation\":1}'").await;
        forger
    });
    for tenant in 1..=20 {
        insert(&database, tenant, 20).await;
    }
    let events = receiver.wait_for(20).await;
    assert!(events.iter().all(|event| event.text("transition") == "raised" && event.number("count") == 20), "{events:?}");
    let forger = flooding.await.expect("no panic");
    exact(&database, "orders", TRUE_ORDERS).await;
    assert_eq!(receiver.accepted().len(), 20, "nothing else was told");
    let said = daemon.log().len() - before;
    assert!(said < 100, "{said} lines for 22,200 notifications");
    assert_eq!(daemon.lines("\"warn\"") + daemon.lines("\"error\""), 0, "{:?}", daemon.log());
    // And it still sleeps and is woken as before.
    support::eventually("armed again", async || {
        let bell: String = database.one("SELECT doorbell FROM items_listen.instance ORDER BY beat_at DESC LIMIT 1").await;
        (bell == "armed").then_some(())
    })
    .await;
    insert(&database, 99, 20).await;
    receiver.wait_for(21).await;
    drop(forger);
    forget(&database, &role).await;
}

const COUNTS: &str = r#"
[[watch]]
name = "counts"
notify = "item_count"
key = ["tenant_id"]
threshold = 20
[[watch.publish]]
channels = ["counts"]
event = "count"
on = "reading"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn hostile_payloads_on_an_applications_channel_stall_and_crash_nothing() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, &format!("{ORDERS}{COUNTS}")));
    daemon.start().await;
    let (role, forger) = application(&database).await;
    for payload in [
        "repeat('[', 7999)",
        "repeat('{\"key\":', 1140)",
        "repeat('9', 7999)",
        "'{\"count\": 1e400, \"key\": {\"tenant_id\": 1}}'",
        "'{\"count\": 99999999999999999999, \"key\": {\"tenant_id\": 1}}'",
        "'{\"count\": 1, \"key\": {\"tenant_id\": \"\\u0000\"}}'",
        "'{\"count\": 1, \"key\": {\"tenant_id\": {\"a\": [1]}}}'",
        "'{\"count\": 1, \"key\": {\"other\": 1}}'",
        "'{\"count\": 1, \"key\": [1]}'",
        "'{\"count\": 1, \"key\": {\"tenant_id\": \"\\ud800\"}}'",
        "'{\"count\": 1, \"count\": 2'",
        "chr(27) || '[2J' || chr(7)",
        "rpad('{\"count\": 1, \"key\": {\"tenant_id\": \"', 7999, 'x')",
        "''",
    ] {
        flood(&forger, "item_count", 1, 1, payload).await;
    }
    let before = daemon.log().len();
    flood(&forger, "item_count", 20, 1000, "'junk ' || i").await;
    // A table watch goes on meanwhile, and so does what is said properly.
    insert(&database, 1, 20).await;
    flood(&forger, "item_count", 1, 1, "'{\"count\": 5, \"key\": {\"tenant_id\": 7}}'").await;
    receiver
        .wait("both", |events| {
            let has = |name: &str, count: i64| events.iter().any(|event| event.name == name && event.number("count") == count);
            has("orders.many", 20) && has("count", 5)
        })
        .await;
    let said = daemon.log().len() - before;
    assert!(said < 100, "{said} lines for 20,000 payloads");
    let skipped = daemon.log().iter().filter_map(|line| line["skipped"].as_u64()).max();
    assert!(skipped.is_some_and(|skipped| skipped >= 1), "they are counted");
    let (_, metrics) = daemon.get("/metrics").await.expect("metrics");
    assert!(
        metrics.lines().any(|line| line.contains("\"counts\"") && line.ends_with(|last: char| last.is_ascii_digit())),
        "{metrics}"
    );
    exact(&database, "orders", TRUE_ORDERS).await;
    forget(&database, &role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readings_of_one_key_do_not_keep_tables_from_being_folded() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, &format!("{ORDERS}{}", COUNTS.replace("on = \"reading\"", ""))));
    daemon.start().await;
    let (role, forger) = application(&database).await;
    // Each of them is a transaction of its own, since each is evaluated.
    flood(&forger, "item_count", 30, 1000, "'{\"count\": ' || i % 19 || ', \"key\": {\"tenant_id\": 1}}'").await;
    flood(&forger, "item_count", 1, 1, "'{\"count\": 19, \"key\": {\"tenant_id\": 1}}'").await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    let last = "SELECT count(*) FROM items_listen.count c JOIN items_listen.watch w ON w.id = c.watch WHERE w.name = 'counts' AND rows = 19 AND dirty = 0";
    assert_eq!(receiver.accepted()[0].name, "orders.many", "the table was not kept waiting");
    assert!(database.one::<i64>(last).await <= 1);
    forget(&database, &role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_role_can_do_what_it_was_given_and_nothing_else() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let (role, app) = application(&database).await;
    app.batch_execute("INSERT INTO orders (tenant_id) SELECT 1 FROM generate_series(1, 20)").await.expect("its own table");
    receiver.wait_for(1).await;
    let tables = "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'items_listen'::regnamespace AND c.relkind IN ('r', 'v', 'S')";
    let mut refused: Vec<String> = Vec::new();
    for row in database.client.query(tables, &[]).await.expect("our tables") {
        let table: String = row.get(0);
        let given: &[&str] = match table.as_str() {
            "alert" => &["SELECT"],
            "threshold" => &["SELECT", "INSERT", "UPDATE", "DELETE", "LOCK"],
            _ => &[],
        };
        for (right, sql) in [
            ("SELECT", format!("SELECT FROM items_listen.{table}")),
            ("INSERT", format!("INSERT INTO items_listen.{table} OVERRIDING SYSTEM VALUE SELECT (NULL::items_listen.{table}).*")),
            ("DELETE", format!("DELETE FROM items_listen.{table}")),
            ("TRUNCATE", format!("TRUNCATE items_listen.{table}")),
            ("LOCK", format!("BEGIN; LOCK TABLE items_listen.{table} IN ACCESS EXCLUSIVE MODE")),
        ] {
            if !given.contains(&right) {
                refused.push(sql);
            }
        }
    }
    assert!(refused.len() > 60, "{refused:?}");
    for function in ["watch_1_insert", "watch_1_delete", "watch_1_update", "threshold_edited", "unread_edited", "alert_mark_read"]
    {
        refused.push(format!("SELECT items_listen.{function}()"));
        // Behind a trigger of its own the function would believe whatever that table holds.
        refused.push(format!(
            "CREATE TRIGGER forged AFTER INSERT ON own REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION items_listen.{function}()"
        ));
    }
    for more in [
        "SELECT items_listen.not_whole(1)",
        "SELECT setval('items_listen.unwritten', 5)",
        "SELECT nextval('items_listen.unwritten')",
        "ALTER SEQUENCE items_listen.unwritten NO CYCLE",
        "CREATE TABLE items_listen.own (x int)",
        "CREATE FUNCTION items_listen.own() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION items_listen.watch_1_insert() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "ALTER TABLE items_listen.threshold DISABLE TRIGGER ALL",
        "UPDATE items_listen.alert SET severity = 'info'",
        "UPDATE items_listen.count SET rows = 0",
        "UPDATE items_listen.delivery SET body = ''",
        "COPY items_listen.journal (generation, rows, key) FROM PROGRAM 'echo 1'",
        "GRANT ALL ON items_listen.journal TO PUBLIC",
        "ALTER ROLE postgres SET search_path = evil",
    ] {
        refused.push(more.to_owned());
    }
    app.batch_execute("CREATE TABLE own (tenant_id int, status text DEFAULT 'open')").await.expect("a table of its own");
    for sql in &refused {
        let error = app.batch_execute(sql).await.expect_err(sql);
        let _in_a_block = app.batch_execute("ROLLBACK").await;
        let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
        // Such a thing cannot be done to a view or a sequence at all.
        let nobody_may = ["0A000", "42809", "42704", "55000"].contains(&code.as_str())
            && ["alert", "watch_id", "generation", "seq", "unwritten"].iter().any(|name| sql.contains(name));
        assert!(code == "42501" || nobody_may, "{sql}: {error:?}");
    }
    // A function of the same name elsewhere is nobody's.
    app.batch_execute(
        "CREATE FUNCTION public.watch_1_insert() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER items_listen_1_insert AFTER INSERT ON own EXECUTE FUNCTION public.watch_1_insert();
         INSERT INTO own SELECT 1 FROM generate_series(1, 100)",
    )
    .await
    .expect("its own affair");
    exact(&database, "orders", TRUE_ORDERS).await;
    // And what it was given works.
    app.batch_execute("BEGIN; LOCK TABLE items_listen.threshold; ROLLBACK").await.expect("documented: who may DELETE may LOCK");
    app.batch_execute("UPDATE items_listen.alert SET read_at = now()").await.expect("marks it read");
    assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.alert WHERE read_at IS NOT NULL").await, 1);
    // After it, since an alert that escalates is unread again.
    app.batch_execute("INSERT INTO items_listen.threshold VALUES ('orders', '{\"tenant_id\": 1}', 5)").await.expect("edits");
    forget(&database, &role).await;
}
