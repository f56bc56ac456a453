//! What a writer pays for being watched, and what can never happen to it (rules T).

use std::time::Duration;

use crate::support::receiver::Receiver;
use crate::*;

#[tokio::test]
async fn t1_lastval_and_returned_ids_stay_the_applications_own() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    for _ in 0..3 {
        let own: i64 = database.one("INSERT INTO orders (tenant_id) VALUES (1) RETURNING id::bigint").await;
        let last: i64 = database.one("SELECT lastval()").await;
        assert_eq!(own, last);
    }
}

#[tokio::test]
async fn t2_a_role_with_no_right_on_our_schema_may_write() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let role = format!("app_{}", database.name);
    database.sql(&format!("CREATE ROLE {role}; GRANT ALL ON orders, orders_id_seq TO {role}")).await;
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    database
        .sql(&format!(
            "SET ROLE {role}; SET search_path = public; INSERT INTO orders (tenant_id) SELECT 1 FROM generate_series(1, 20);
             UPDATE orders SET tenant_id = 2 WHERE id = 1; DELETE FROM orders WHERE id = 1; TRUNCATE orders; RESET ROLE"
        ))
        .await;
    exact(&database, "orders", TRUE_ORDERS).await;
    // A function or operator of the writer's own does not get in: the search path is ours.
    let unsafe_functions: i64 = database
        .one(
            "SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
             WHERE n.nspname = 'items_listen'
               AND (NOT p.prosecdef OR 'search_path=pg_catalog, pg_temp' <> ALL (p.proconfig)
                    OR has_function_privilege('public', p.oid, 'EXECUTE'))",
        )
        .await;
    assert_eq!(unsafe_functions, 0);
    database.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn t3_an_expression_that_fails_on_a_row_fails_no_writer_and_only_degrades_its_watch() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("ALTER TABLE orders ADD divisor int NOT NULL DEFAULT 1").await;
    let watches = format!(
        "{}{}",
        ORDERS,
        ORDERS
            .replace("name = \"orders\"", "name = \"divided\"")
            .replace("status = 'open'", "10 / divisor >= 1")
            .replace("orders.many", "divided.many")
    );
    let mut daemon = daemon(&config(&database, &receiver, &watches));
    daemon.start().await;
    database.sql("INSERT INTO orders (tenant_id, divisor) VALUES (1, 0)").await;
    insert(&database, 1, 19).await;
    let events = receiver.wait_for(1).await;
    assert_eq!((events[0].name.as_str(), events[0].number("count")), ("orders.many", 20), "the other watch goes on");
    let degraded = daemon.logged("degraded").await;
    assert_eq!(degraded["watch"], "divided");
    assert!(degraded["error"].as_str().is_some_and(|error| error.contains("22012")), "the SQLSTATE is named: {degraded}");
    // The row is mended: it is counted anew, and what was missed is said.
    database.sql("UPDATE orders SET divisor = 1").await;
    receiver
        .wait("the mended watch", |events| events.iter().any(|event| event.name == "divided.many" && event.number("count") == 20))
        .await;
}

#[tokio::test]
async fn t5_a_cancel_never_leaves_the_doorbells_lock_behind() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    daemon.kill();
    let writer = database.session().await;
    let cancel = writer.cancel_token();
    // Statements that are cancelled at whatever point; none of them may keep a lock.
    for round in 0..400u64 {
        let statement = writer.batch_execute("INSERT INTO orders (tenant_id) SELECT g FROM generate_series(1, 30) g");
        let cancelled = async {
            tokio::time::timeout(Duration::from_micros(round * 13 % 1500), std::future::pending::<()>()).await.ok();
            cancel.cancel_query(tokio_postgres::NoTls).await
        };
        let (_either, sent) = tokio::join!(statement, cancelled);
        sent.expect("the cancel is sent");
    }
    let _maybe_cancelled = writer.batch_execute("SELECT 1").await;
    let left: i64 = database
        .one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")
        .await;
    assert_eq!(left, 0);
    // Test and release are one expression: what the loop shows by luck, the text shows for certain.
    let source: String = database.one("SELECT prosrc FROM pg_proc WHERE proname = 'watch_1_insert'").await;
    let one: String = source.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        one.contains("IF (CASE WHEN pg_try_advisory_lock_shared(") && one.contains("THEN NOT pg_advisory_unlock_shared("),
        "{one}"
    );
}

#[tokio::test]
async fn t7_t8_what_could_drift_is_refused_with_the_reason() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("ALTER TABLE orders ADD expires_at timestamptz, ADD f float8, ADD tags text[]").await;
    for (watch, expected) in [
        (ORDERS.replace("status = 'open'", "expires_at < now()"), "immutable"),
        (ORDERS.replace("status = 'open'", "id IN (SELECT 1)"), "subquery"),
        (ORDERS.replace("status = 'open'", "no_such_column"), "no_such_column"),
        (ORDERS.replace("\"tenant_id\"", "\"f\"").replace("key.tenant_id", "key.f"), "double precision"),
        (ORDERS.replace("\"tenant_id\"", "\"tags\"").replace("key.tenant_id", "key.tags"), "text[]"),
        (ORDERS.replace("\"tenant_id\"", "\"nobody\"").replace("key.tenant_id", "key.nobody"), "nobody"),
        (ORDERS.replace("public.orders", "public.none"), "does not exist"),
    ] {
        let daemon = daemon(&config(&database, &receiver, &watch));
        let (code, out, _) = daemon.run(&["check"]).await;
        assert_eq!(code, 1, "{out}");
        assert!(out.contains(expected), "{expected}: {out}");
        let (code, _, err) = daemon.run(&["install"]).await;
        assert_eq!(code, 1);
        assert!(err.contains(expected), "{expected}: {err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t9_installing_never_queues_a_busy_table_behind_a_long_transaction() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let long = database.session().await;
    long.batch_execute("BEGIN; INSERT INTO orders (tenant_id) VALUES (1)").await.expect("a long transaction");
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let mut command = daemon.command(&["install"]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let mut install = command.spawn().expect("it starts");
    // A writer that came to stand behind a queued lock would wait for the long transaction, and so for ever.
    let writer = database.session().await;
    writer.batch_execute("SET statement_timeout = '5s'").await.expect("sets");
    let mut met = 0;
    support::eventually("installing has met the lock several times", async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass";
        met += database.one::<i64>(waiting).await;
        writer.batch_execute("INSERT INTO orders (tenant_id) VALUES (2)").await.expect("no writer waits for long");
        (met > 5).then_some(())
    })
    .await;
    assert!(install.try_wait().expect("asks").is_none(), "it waits for the long transaction");
    long.batch_execute("COMMIT").await.expect("it ends");
    let output = tokio::task::spawn_blocking(move || install.wait_with_output()).await.expect("no panic").expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut daemon = daemon;
    daemon.start().await;
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t10_a_writer_that_is_between_its_statement_and_its_commit_is_not_lost_by_a_new_generation() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    daemon.terminate().await;
    let writer = database.session().await;
    writer.batch_execute("BEGIN; INSERT INTO orders (tenant_id) SELECT 1 FROM generate_series(1, 20)").await.expect("writes");
    daemon.configure(&config(&database, &receiver, &ORDERS.replace("status = 'open'", "status <> 'done'")));
    // Ready, since one watch that cannot be brought up holds nothing up.
    daemon.start().await;
    writer.batch_execute("COMMIT").await.expect("commits");
    assert_eq!(said(&receiver.wait_for(1).await), expected(&[("raised", "warning", 20)]));
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t10_a_changed_definition_is_a_new_generation_while_writers_write() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let writer = database.session().await;
    let done = tokio_util::sync::CancellationToken::new();
    let stop = done.clone();
    let writing = tokio::spawn(async move {
        let mut written = 0;
        while !stop.is_cancelled() {
            writer
                .batch_execute("INSERT INTO orders (tenant_id, status) SELECT g % 5, CASE WHEN g % 2 = 0 THEN 'open' ELSE 'done' END FROM generate_series(1, 10) g; DELETE FROM orders WHERE id % 3 = 0")
                .await
                .expect("no writer fails");
            written += 1;
        }
        written
    });
    for status in ["done", "open", "done"] {
        daemon.terminate().await;
        daemon.configure(&config(&database, &receiver, &ORDERS.replace("'open'", &format!("'{status}'"))));
        daemon.start().await;
    }
    done.cancel();
    assert!(writing.await.expect("no panic") > 0);
    exact(&database, "orders", &TRUE_ORDERS.replace("'open'", "'done'")).await;
}

#[tokio::test]
async fn t11_a_publication_for_all_tables_is_refused_unless_told_otherwise() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE PUBLICATION everything FOR ALL TABLES").await;
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    let (code, _, err) = daemon.run(&["install"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("everything") && err.contains("--allow-publication"), "{err}");
    assert_eq!(daemon.run(&["install", "--allow-publication"]).await.0, 0);
    // Told once, it stays told; and with a replica identity the fold's deletes are possible.
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test]
async fn a_watch_that_leaves_the_configuration_leaves_the_table() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let other = ORDERS.replace("name = \"orders\"", "name = \"others\"");
    let mut daemon = daemon(&config(&database, &receiver, &format!("{ORDERS}{other}")));
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(2).await;
    daemon.terminate().await;
    daemon.configure(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let triggers: i64 =
        database.one("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'orders'::regclass AND NOT tgisinternal").await;
    assert_eq!(triggers, 4);
    let open: i64 = database.one("SELECT count(*) FROM items_listen.alert WHERE watch = 'others' AND resolved_at IS NULL").await;
    assert_eq!(open, 0);
    daemon.terminate().await;
    assert_eq!(daemon.run(&["uninstall"]).await.0, 0);
    let left: i64 = database.one("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'items_listen%'").await;
    assert_eq!(left, 0);
    assert_eq!(database.one::<i64>("SELECT count(*) FROM pg_namespace WHERE nspname = 'items_listen'").await, 0);
    insert(&database, 1, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_table_in_use_or_missing_keeps_no_other_watch_down_and_is_served_as_soon_as_it_can_be() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE busy (tenant_id int, status text DEFAULT 'open')").await;
    let watch = |name: &str| {
        ORDERS
            .replace("name = \"orders\"", &format!("name = \"{name}\""))
            .replace("public.orders", &format!("public.{name}"))
            .replace("orders.many", name)
    };
    let missing: Vec<String> = (0..4).map(|number| format!("later_{number}")).collect();
    let watches: String = missing.iter().map(|name| watch(name)).collect();
    let long = database.session().await;
    long.batch_execute("BEGIN; INSERT INTO busy VALUES (1)").await.expect("a long transaction");
    let config = config(&database, &receiver, &format!("{ORDERS}{}{watches}", watch("busy")));
    let mut daemon = daemon(&config);
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    let (code, out, _) = daemon.run(&["status"]).await;
    assert!(code == 1 && out.matches("degraded").count() == 5, "{out}");
    long.batch_execute("COMMIT").await.expect("ends");
    database.sql("INSERT INTO busy SELECT 1 FROM generate_series(1, 19)").await;
    for name in &missing {
        database
            .sql(&format!("CREATE TABLE {name} (tenant_id int, status text DEFAULT 'open'); INSERT INTO {name} SELECT 1 FROM generate_series(1, 20)"))
            .await;
    }
    receiver.wait_for(6).await;
    support::eventually("nothing is degraded", async || (daemon.run(&["status"]).await.0 == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_is_deployed_before_its_column_is_taken_up_when_it_is_there() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    daemon.terminate().await;
    daemon.configure(&config(&database, &receiver, &ORDERS.replace("status = 'open'", "state = 'open'")));
    daemon.start().await;
    daemon.logged("degraded").await;
    database.sql("ALTER TABLE orders ADD state text DEFAULT 'open'").await;
    insert(&database, 1, 20).await;
    assert_eq!(said(&receiver.wait_for(1).await), expected(&[("raised", "warning", 20)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_under_manual_installation_is_said() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config_with(&database, &receiver, "install = \"manual\"", ORDERS));
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    daemon.start().await;
    database.sql("DROP TRIGGER items_listen_1_insert ON orders").await;
    daemon.logged("run items-listen install").await;
    support::eventually("status says so", async || (daemon.run(&["status"]).await.0 == 1).then_some(())).await;
    insert(&database, 1, 20).await;
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    receiver.wait_for(1).await;
    support::eventually("all is well again", async || (daemon.run(&["status"]).await.0 == 0).then_some(())).await;
    database.sql("DROP TABLE orders").await;
    daemon.logged("does not exist").await;
}

#[tokio::test]
async fn a_database_that_cannot_hold_every_text_is_refused_with_the_remedy() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    let name = format!("{}_latin", database.name);
    database.sql(&format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1'")).await;
    let config = config(&database, &receiver, ORDERS).replace(&format!("/{}\"", database.name), &format!("/{name}\""));
    let (code, _, err) = daemon(&config).run(&["install"]).await;
    assert!(code == 1 && err.contains("LATIN1") && err.contains("UTF8"), "{code} {err}");
}
