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

/// Keeps everybody from journal and marker. Where a daemon's session and this one wait for each other, the daemon gives way.
async fn lock_both(locker: &tokio_postgres::Client, mode: &str) {
    let sql =
        format!("SET deadlock_timeout = '10min'; BEGIN; LOCK TABLE items_listen.journal, items_listen.marker IN {mode} MODE");
    locker.batch_execute(&sql).await.expect("locks");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_to_write_to_the_writer_goes_on_and_everything_is_counted_anew() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let (writer, locker) = (writer(&database).await, database.session().await);
    write_all(&writer).await;
    for mode in ["ACCESS EXCLUSIVE", "SHARE"] {
        let anew = daemon.lines("every watch is counted anew");
        lock_both(&locker, mode).await;
        // Each of them changes a count, and each alone is found.
        for statement in [
            STATEMENTS[0],
            STATEMENTS[1],
            "UPDATE orders SET tenant_id = tenant_id + 1",
            "UPDATE orders SET status = 'done' WHERE id = (SELECT min(id) FROM orders WHERE status = 'open')",
            "DELETE FROM orders WHERE id = (SELECT min(id) FROM orders WHERE status = 'open')",
            "DELETE FROM orders WHERE tenant_id < 5",
            "TRUNCATE orders",
        ] {
            let number = "SELECT last_value FROM items_listen.unwritten";
            let before: i64 = database.one(number).await;
            assert_eq!(psql(&database, statement).await, "", "{statement}");
            assert_ne!(database.one::<i64>(number).await, before, "{statement}");
        }
        write_all(&writer).await;
        locker.batch_execute("COMMIT").await.expect("lets go");
        let again = async || (daemon.lines("every watch is counted anew") > anew).then_some(());
        support::eventually("counted anew", again).await;
        exact(&database, "orders", TRUE_ORDERS).await;
    }
    daemon.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_written_while_no_daemon_ran_is_counted_by_the_next_one_and_once() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    daemon.terminate().await;
    let (writer, locker) = (writer(&database).await, database.session().await);
    lock_both(&locker, "ACCESS EXCLUSIVE").await;
    writer
        .batch_execute("SET lock_timeout = '7s'; SELECT nextval('orders_id_seq'); INSERT INTO orders (id, tenant_id) SELECT -g, 1 FROM generate_series(1, 20) g")
        .await
        .expect("goes on");
    // What the writer's session is asked afterwards is none of ours.
    let row = writer
        .query_one("SELECT lastval() = currval('orders_id_seq'), current_setting('lock_timeout')", &[])
        .await
        .expect("asks");
    assert_eq!((row.get::<_, bool>(0), row.get::<_, &str>(1)), (true, "7s"));
    locker.batch_execute("COMMIT").await.expect("lets go");
    daemon.start().await;
    assert_eq!(receiver.wait_for(1).await[0].number("count"), 20);
    exact(&database, "orders", TRUE_ORDERS).await;
    let noted = "SELECT u.last_value = c.unwritten FROM items_listen.unwritten u, items_listen.cluster c";
    support::eventually("noted", async || database.one::<bool>(noted).await.then_some(())).await;
    daemon.terminate().await;
    daemon.start().await;
    assert_eq!(daemon.lines("every watch is counted anew"), 0, "each start has a log of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_written_counts_when_it_commits_though_the_daemon_saw_it_before_and_was_killed() {
    counts_when_it_commits("").await;
}

/// Nothing of ours commits between the writer's statement and the look that notices it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_written_counts_when_it_commits_though_no_transaction_ended_since_it_began() {
    counts_when_it_commits("poll = \"50ms\"\ndoorbell = \"off\"\n").await;
}

async fn counts_when_it_commits(lines: &str) {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config_with(&database, &receiver, lines, ORDERS));
    daemon.start().await;
    let (writer, locker) = (writer(&database).await, database.session().await);
    for killed in [false, true] {
        let (anew, before) = (daemon.lines("every watch is counted anew"), receiver.accepted().len());
        lock_both(&locker, "SHARE").await;
        writer
            .batch_execute("BEGIN; DELETE FROM orders; INSERT INTO orders (tenant_id) SELECT 1 FROM generate_series(1, 20)")
            .await
            .expect("goes on");
        locker.batch_execute("COMMIT").await.expect("lets go");
        let again = async || (daemon.lines("every watch is counted anew") > anew).then_some(());
        support::eventually("counted anew, without what is not committed", again).await;
        let marked = "SELECT count(*) FROM items_listen.marker";
        support::eventually("the recount is over", async || (database.one::<i64>(marked).await == 0).then_some(())).await;
        // What happens meanwhile does not wait for the end of that transaction.
        lock_both(&locker, "SHARE").await;
        database.sql("INSERT INTO orders (tenant_id) VALUES (2)").await;
        locker.batch_execute("COMMIT").await.expect("lets go");
        exact(&database, "orders", TRUE_ORDERS).await;
        if killed {
            daemon.kill();
            daemon.start().await;
        }
        writer.batch_execute("COMMIT").await.expect("commits");
        exact(&database, "orders", TRUE_ORDERS).await;
        if !killed {
            receiver.wait_for(before + 1).await;
            writer.batch_execute("DELETE FROM orders").await.expect("deletes");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_the_last_resort_as_well_makes_a_warning_and_nobody_wait() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let locker = database.session().await;
    lock_both(&locker, "SHARE").await;
    locker.batch_execute("ALTER SEQUENCE items_listen.unwritten NO CYCLE").await.expect("its lock is for owners alone");
    for statement in [STATEMENTS[0], "TRUNCATE orders"] {
        let said = psql(&database, statement).await;
        assert!(
            said.contains("WARNING") && said.contains("55P03") && said.contains("items-listen recount"),
            "{statement}: {said}"
        );
    }
    locker.batch_execute("COMMIT").await.expect("lets go");
    daemon.ready().await;
    assert_eq!(daemon.run(&["recount", "orders"]).await.0, 0);
    exact(&database, "orders", TRUE_ORDERS).await;
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
    // What is journalled is lost with the table.
    database.sql("INSERT INTO orders (tenant_id) SELECT 1 FROM generate_series(1, 20)").await;
    database.sql("DROP TABLE items_listen.journal, items_listen.marker").await;
    database
        .sql(
            "ALTER TABLE journal_kept RENAME TO journal; ALTER TABLE journal SET SCHEMA items_listen;
             ALTER TABLE marker_kept RENAME TO marker; ALTER TABLE marker SET SCHEMA items_listen",
        )
        .await;
    daemon.start().await;
    daemon.logged("our own tables are others than before").await;
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
