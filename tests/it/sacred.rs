//! The writer's transaction is sacred: nothing of ours fails it or lets it wait, whatever is the matter with our own tables.

use crate::support::postgres::{Server, shared};
use crate::support::receiver::Receiver;
use crate::*;

/// A session that waits for nobody for long: what would wait for ever fails.
async fn writer(database: &Database) -> tokio_postgres::Client {
    let writer = database.session().await;
    writer.batch_execute("SET statement_timeout = '20s'").await.expect("sets");
    writer
}

/// Every kind of statement, of one row and of many.
const STATEMENTS: [&str; 7] = [
    "INSERT INTO orders (tenant_id) VALUES (1)",
    "INSERT INTO orders (tenant_id) SELECT g % 9 FROM generate_series(1, 90) g",
    "UPDATE orders SET status = 'done' WHERE id = (SELECT min(id) FROM orders)",
    "UPDATE orders SET tenant_id = tenant_id + 1 WHERE id % 3 = 0",
    "DELETE FROM orders WHERE id = (SELECT max(id) FROM orders)",
    "DELETE FROM orders WHERE id % 5 = 0",
    "INSERT INTO orders (id, tenant_id) VALUES (2, 7) ON CONFLICT (id) DO UPDATE SET tenant_id = 8",
];

async fn write_all(writer: &tokio_postgres::Client) {
    for statement in STATEMENTS {
        writer.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

/// Runs a statement in psql, and gives what it said besides.
async fn psql(database: &Database, sql: &str) -> String {
    let mut psql = shared().program("psql", &database.name);
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", "SET statement_timeout = '20s'", "-c", sql]);
    let output = tokio::task::spawn_blocking(move || psql.output()).await.expect("no panic").expect("psql runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{sql}: {said}");
    said
}

async fn markers(database: &Database, what: &str) -> i64 {
    database.one(&format!("SELECT count(*) FROM items_listen.marker WHERE reason = 'broken' AND sqlstate = '{what}'")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_journal_locked_writers_go_on_and_everything_is_counted_anew() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let (writer, locker) = (writer(&database).await, database.session().await);
    write_all(&writer).await;
    for mode in ["ACCESS EXCLUSIVE", "SHARE"] {
        locker.batch_execute(&format!("BEGIN; LOCK TABLE items_listen.journal IN {mode} MODE")).await.expect("locks");
        write_all(&writer).await;
        assert!(markers(&database, "55P03").await > 0, "a marker says that something was not journalled");
        locker.batch_execute("COMMIT").await.expect("lets go");
        exact(&database, "orders", TRUE_ORDERS).await;
    }
    daemon.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_journal_gone_writers_go_on_and_everything_is_counted_anew() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let writer = writer(&database).await;
    write_all(&writer).await;
    database.sql("ALTER TABLE items_listen.journal RENAME TO journal_away").await;
    write_all(&writer).await;
    assert!(markers(&database, "42P01").await > 0);
    database.sql("ALTER TABLE items_listen.journal_away RENAME TO journal").await;
    exact(&database, "orders", TRUE_ORDERS).await;
    // The owner may write no more: functions are SECURITY DEFINER, so it is the owner's right that counts.
    let role = format!("owner_{}", database.name);
    database
        .sql(&format!(
            "CREATE ROLE {role} SUPERUSER; ALTER FUNCTION items_listen.watch_1_insert() OWNER TO {role}; ALTER ROLE {role} NOSUPERUSER;
             GRANT USAGE ON SCHEMA items_listen TO {role}; GRANT INSERT ON items_listen.marker TO {role}"
        ))
        .await;
    writer.batch_execute("INSERT INTO orders (tenant_id) VALUES (1)").await.expect("goes on");
    exact(&database, "orders", TRUE_ORDERS).await;
    database.sql(&format!("REVOKE INSERT ON items_listen.marker FROM {role}")).await;
    let said = psql(&database, "INSERT INTO orders (tenant_id) VALUES (1)").await;
    assert!(said.contains("WARNING") && said.contains("42501") && said.contains("public.orders"), "{said}");
    // What only the writer was told of, a recount finds.
    assert_eq!(daemon.run(&["recount", "orders"]).await.0, 0);
    exact(&database, "orders", TRUE_ORDERS).await;
    database
        .sql(&format!("ALTER FUNCTION items_listen.watch_1_insert() OWNER TO postgres; DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_to_write_to_the_writer_is_warned_and_the_daemon_counts_anew() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let (writer, locker) = (writer(&database).await, database.session().await);
    write_all(&writer).await;
    // Where both wait for each other it is the daemon that gives way.
    locker
        .batch_execute("SET deadlock_timeout = '10min'; BEGIN; LOCK TABLE items_listen.journal, items_listen.marker")
        .await
        .expect("locks");
    // Each of them changes a count.
    for statement in [
        STATEMENTS[0],
        STATEMENTS[1],
        "UPDATE orders SET tenant_id = tenant_id + 1",
        "UPDATE orders SET status = 'done' WHERE id = (SELECT min(id) FROM orders WHERE status = 'open')",
        "DELETE FROM orders WHERE id = (SELECT min(id) FROM orders WHERE status = 'open')",
        "DELETE FROM orders WHERE tenant_id < 5",
    ] {
        let said = psql(&database, statement).await;
        assert!(
            said.contains("WARNING") && said.contains("55P03") && said.contains("items-listen recount"),
            "{statement}: {said}"
        );
    }
    let said = psql(&database, "TRUNCATE orders").await;
    assert!(said.contains("55P03 after a TRUNCATE"), "{said}");
    write_all(&writer).await;
    // The daemon is kept out as well.
    daemon.logged("no database session").await;
    locker.batch_execute("COMMIT").await.expect("lets go");
    daemon.logged("every watch is counted anew").await;
    exact(&database, "orders", TRUE_ORDERS).await;
    daemon.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_over_our_tables_is_a_reason_to_count_anew() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    // Sooner than the daemon gives up for another reason.
    database.sql(&format!("ALTER ROLE postgres IN DATABASE {} SET deadlock_timeout = '500ms'", database.name)).await;
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let (writer, locker) = (writer(&database).await, database.session().await);
    locker.batch_execute("SET deadlock_timeout = '10min'").await.expect("sets");
    let waits = "SELECT count(*) FROM pg_locks w JOIN pg_locks h USING (pid)
                 WHERE NOT w.granted AND w.relation = 'items_listen.marker'::regclass
                   AND h.granted AND h.relation = 'items_listen.journal'::regclass";
    let lost = |daemon: &Daemon| {
        daemon.log().into_iter().filter(|line| line["msg"].to_string().contains("no database session")).collect::<Vec<_>>()
    };
    loop {
        let (known, anew) = (lost(&daemon).len(), daemon.lines("every watch is counted anew"));
        locker.batch_execute("BEGIN; LOCK TABLE items_listen.marker").await.expect("locks");
        support::eventually("the daemon waits", async || (database.one::<i64>(waits).await > 0).then_some(())).await;
        locker.batch_execute("LOCK TABLE items_listen.journal").await.expect("the daemon gives way");
        writer.batch_execute("INSERT INTO orders (tenant_id) SELECT 1 FROM generate_series(1, 20)").await.expect("goes on");
        let why = support::eventually("the daemon says so", async || lost(&daemon).get(known).cloned()).await;
        locker.batch_execute("COMMIT").await.expect("lets go");
        // Whatever waits by now is given its lock, and learns nothing.
        let counted = async || (daemon.lines("every watch is counted anew") > anew).then_some(());
        support::eventually_or(|| format!("counted anew: {:?}", daemon.log()), counted).await;
        exact(&database, "orders", TRUE_ORDERS).await;
        daemon.ready().await;
        if why.to_string().contains("40P01") {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_tables_made_anew_while_nobody_looked_are_noticed() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    daemon.terminate().await;
    database.sql("CREATE TABLE journal_kept (LIKE items_listen.journal INCLUDING ALL); CREATE TABLE marker_kept (LIKE items_listen.marker INCLUDING ALL)").await;
    database.sql("DROP TABLE items_listen.journal, items_listen.marker").await;
    let said = psql(&database, "INSERT INTO orders (tenant_id) SELECT 1 FROM generate_series(1, 20)").await;
    assert!(said.contains("WARNING") && said.contains("42P01"), "{said}");
    database
        .sql(
            "ALTER TABLE journal_kept RENAME TO journal; ALTER TABLE journal SET SCHEMA items_listen;
             ALTER TABLE marker_kept RENAME TO marker; ALTER TABLE marker SET SCHEMA items_listen",
        )
        .await;
    daemon.start().await;
    daemon.logged("every watch is counted anew").await;
    exact(&database, "orders", TRUE_ORDERS).await;
    daemon.terminate().await;
    // Once is enough.
    daemon.start().await;
    assert_eq!(daemon.lines("every watch is counted anew"), 0, "each start has a log of its own");
}

const TOLD: &str = r#"
[[watch]]
name = "told"
table = "public.orders"
[[watch.publish]]
channels = ["orders"]
event = "order.changed"
on = "change"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn with_the_table_of_changes_locked_writers_go_on_and_what_is_lost_is_said() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, &format!("{ORDERS}{TOLD}")));
    daemon.start().await;
    let (writer, locker) = (writer(&database).await, database.session().await);
    locker.batch_execute("BEGIN; LOCK TABLE items_listen.change").await.expect("locks");
    write_all(&writer).await;
    locker.batch_execute("COMMIT").await.expect("lets go");
    let lost = daemon.logged("changes of a statement were lost").await;
    assert_eq!(lost["sqlstate"], "55P03", "{lost}");
    exact(&database, "orders", TRUE_ORDERS).await;
    // What follows is told.
    daemon.ready().await;
    database.sql("INSERT INTO orders (id, tenant_id) VALUES (100000, 3)").await;
    receiver.wait("the next change", |events| events.iter().any(|event| event.name == "order.changed")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_statement_takes_no_transaction_number_of_its_own_and_no_lock_that_outlives_it() {
    // A server of its own: numbers are the whole server's.
    let server = Server::start(&["autovacuum = off"]);
    let (database, receiver) = (server.database().await, Receiver::start().await);
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    let mut daemon = daemon(&config(&database, &receiver, &format!("{ORDERS}{TOLD}")));
    daemon.start().await;
    daemon.terminate().await;
    database.sql("INSERT INTO orders (id, tenant_id) SELECT g, g % 5 FROM generate_series(1000, 1100) g").await;
    let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    for statement in STATEMENTS {
        let before: i64 = database.one(next).await;
        for _ in 0..5 {
            database.sql(&format!("BEGIN; {}; {statement}; {statement}; COMMIT", STATEMENTS[0])).await;
        }
        let after: i64 = database.one(next).await;
        assert_eq!(after - before, 5, "one for each transaction: {statement}");
    }
    // Each row was written by the transaction itself.
    assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.journal WHERE xmin::text <> xid::text").await, 0);
    // A statement that changes nothing locks nothing of ours.
    database.sql("BEGIN; UPDATE orders SET status = 'open' WHERE false").await;
    let locks = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'items_listen.journal'::regclass";
    assert_eq!(database.one::<i64>(locks).await, 0);
    database.sql("COMMIT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_journal_fails_the_statement_and_nothing_else() {
    let Some(server) = Server::with_small_disk(8) else { return eprintln!("this process may mount nothing: not shown here") };
    let (database, receiver) = (server.database().await, Receiver::start().await);
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    daemon.terminate().await;
    let small = server.directory.join("small");
    database.sql(&format!("CREATE TABLESPACE small LOCATION '{}'", small.display())).await;
    database
        .sql("ALTER TABLE items_listen.journal SET TABLESPACE small; ALTER INDEX items_listen.journal_xid SET TABLESPACE small")
        .await;
    database.sql("CREATE TABLE filler (t text) TABLESPACE small; ALTER TABLE filler ALTER t SET STORAGE PLAIN").await;
    while database.client.batch_execute("INSERT INTO filler SELECT repeat('x', 7000) FROM generate_series(1, 50)").await.is_ok() {
    }
    let many = "INSERT INTO orders (tenant_id) SELECT g FROM generate_series(1, 20000) g";
    let error = database.client.batch_execute(many).await.expect_err("no room for the journal");
    assert_eq!(error.code().map(|code| code.code()), Some("53100"), "{error:?}");
    // The statement failed as it would on a full disk of its own: whole, and by itself.
    database.sql("BEGIN; CREATE TABLE elsewhere (x int); SAVEPOINT here").await;
    database.client.batch_execute(many).await.expect_err("still no room");
    database.sql("ROLLBACK TO here; COMMIT; DROP TABLE elsewhere").await;
    assert_eq!(database.one::<i64>("SELECT count(*) FROM orders").await, 0);
    database.sql("DROP TABLE filler").await;
    database.sql(many).await;
    daemon.start().await;
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_schema_dropped_whole_fails_no_writer_and_is_made_anew() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let writer = writer(&database).await;
    write_all(&writer).await;
    database.sql("DROP SCHEMA items_listen CASCADE").await;
    write_all(&writer).await;
    support::eventually("the daemon has made it anew", async || {
        let made: bool = database.one("SELECT to_regclass('items_listen.instance') IS NOT NULL").await;
        made.then_some(())
    })
    .await;
    daemon.ready().await;
    write_all(&writer).await;
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_application_does_to_our_tables_waits_for_seconds_at_most() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    let (writer, locker) = (writer(&database).await, database.session().await);
    locker.batch_execute("BEGIN; LOCK TABLE items_listen.threshold_edit, items_listen.unread_edit").await.expect("locks");
    for statement in
        ["INSERT INTO items_listen.threshold VALUES ('orders', '{}', 5)", "UPDATE items_listen.alert SET read_at = now()"]
    {
        let error = writer.batch_execute(statement).await.expect_err("it is not promised");
        // 57014 would be the writer's own patience.
        assert_eq!(error.code().map(|code| code.code()), Some("55P03"), "{statement}: {error:?}");
    }
    locker.batch_execute("COMMIT").await.expect("lets go");
    daemon.ready().await;
    writer.batch_execute("INSERT INTO items_listen.threshold VALUES ('orders', '{}', 5)").await.expect("now it is");
    receiver.wait("it is judged anew", |events| events.iter().any(|event| event.number("threshold") == 5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_triggers_out_and_not_us_is_noticed_and_everything_counted_anew() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    insert(&database, 1, 1).await;
    let locker = database.session().await;
    // Whoever reads is let through; the daemon sleeps.
    locker.batch_execute("BEGIN; LOCK TABLE items_listen.journal, items_listen.marker IN SHARE MODE").await.expect("locks");
    let said = psql(&database, "INSERT INTO orders (tenant_id) SELECT 1 FROM generate_series(1, 20)").await;
    assert!(said.contains("WARNING") && said.contains("55P03"), "{said}");
    // Two of its beats have passed, of which one began after that.
    for _ in 0..2 {
        let beat = "SELECT max(beat_at)::text FROM items_listen.instance";
        let before: String = database.one(beat).await;
        support::eventually("it beats", async || (database.one::<String>(beat).await != before).then_some(())).await;
    }
    locker.batch_execute("COMMIT").await.expect("lets go");
    daemon.logged("every watch is counted anew").await;
    receiver.wait_for(1).await;
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_of_anybodys_with_our_name_is_nobodys_business() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let stranger = database.session().await;
    stranger
        .batch_execute(
            "CREATE TEMP TABLE t (id int); CREATE FUNCTION pg_temp.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER items_listen_1_insert AFTER INSERT ON t EXECUTE FUNCTION pg_temp.f(); BEGIN; LOCK TABLE t",
        )
        .await
        .expect("it may");
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    daemon.terminate().await;
    assert_eq!(daemon.run(&["uninstall"]).await.0, 0);
}
