//! Functions of installed triggers are held to this program's text, where they are: no trigger, table or generation changes.

use serde_json::Value;

use crate::support::receiver::Receiver;
use crate::*;

/// The triggers of the table, each with its oid; and the generation.
const STANDING: &str = "SELECT string_agg(g.oid || ' ' || g.tgname, ', ' ORDER BY g.tgname) || ' ' || (SELECT max(generation) FROM items_listen.watch)
                        FROM pg_trigger g WHERE g.tgrelid = 'orders'::regclass AND NOT g.tgisinternal";
const BODY: &str = "SELECT prosrc FROM pg_proc WHERE pronamespace = 'items_listen'::regnamespace AND proname = 'watch_1_insert'";

/// Puts the functions of an older program in place: without an edition, and with an INSERT that waits.
async fn make_old(database: &Database) {
    database
        .sql(
            "DO $do$ DECLARE f record; BEGIN
                 FOR f IN SELECT proname, prosrc FROM pg_proc WHERE proname LIKE 'watch_1_%' AND pronamespace = 'items_listen'::regnamespace LOOP
                     EXECUTE format('CREATE OR REPLACE FUNCTION items_listen.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
                                     SET search_path = pg_catalog, pg_temp AS %L', f.proname,
                                    regexp_replace(regexp_replace(f.prosrc, '-- Edition [^\\n]*', ''), 'LOCK TABLE[^;]*NOWAIT;', '', 'g'));
                 END LOOP; END $do$",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_of_an_older_version_are_replaced_without_a_lock_on_the_table() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let wanted: String = database.one(BODY).await;
    assert!(wanted.contains("-- Edition ") && wanted.contains("NOWAIT"), "{wanted}");
    let standing: String = database.one(STANDING).await;
    insert(&database, 1, 3).await;
    daemon.terminate().await;
    make_old(&database).await;
    assert!(!database.one::<String>(BODY).await.contains("NOWAIT"));
    // Whoever has the table, readers and writers alike, holds nobody up.
    let long = database.session().await;
    long.batch_execute("BEGIN; LOCK TABLE orders IN SHARE MODE; INSERT INTO orders (tenant_id) VALUES (2)")
        .await
        .expect("holds it");
    daemon.start().await;
    assert_eq!(database.one::<String>(BODY).await, wanted);
    assert_eq!(database.one::<String>(STANDING).await, standing, "the same triggers, the same generation");
    assert_eq!(daemon.lines("definition installed") + daemon.lines("waiting for a lock"), 0);
    long.batch_execute("COMMIT").await.expect("ends");
    insert(&database, 1, 3).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    // What was changed by hand is put right as well, and what anybody could call.
    daemon.terminate().await;
    database
        .sql("ALTER FUNCTION items_listen.watch_1_insert() SECURITY INVOKER; GRANT EXECUTE ON FUNCTION items_listen.watch_1_delete() TO PUBLIC")
        .await;
    daemon.start().await;
    let unsafe_ones: i64 = database
        .one(
            "SELECT count(*) FROM pg_proc WHERE pronamespace = 'items_listen'::regnamespace AND proname LIKE 'watch_1%'
              AND (NOT prosecdef OR has_function_privilege('public', oid, 'EXECUTE'))",
        )
        .await;
    assert_eq!(unsafe_ones, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_of_a_newer_version_stay_and_another_definition_keeps_its_triggers() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let standing: String = database.one(STANDING).await;
    daemon.terminate().await;
    database
        .sql(
            "DO $do$ BEGIN EXECUTE (SELECT regexp_replace(pg_get_functiondef('items_listen.watch_1_insert'::regproc), '-- Edition \\d+', '-- Edition 999')); END $do$;
             REVOKE ALL ON FUNCTION items_listen.watch_1_insert() FROM PUBLIC",
        )
        .await;
    let newer: String = database.one(BODY).await;
    assert!(newer.contains("-- Edition 999"), "{newer}");
    daemon.start().await;
    assert_eq!(database.one::<String>(BODY).await, newer);
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    assert_eq!(database.one::<String>(BODY).await, newer);
    daemon.terminate().await;
    // Another definition: functions and generation change, triggers stay as they are.
    daemon.configure(&config(&database, &receiver, &ORDERS.replace("'open'", "'done'")));
    daemon.start().await;
    let now: String = database.one(STANDING).await;
    let oids = |text: &str| text.rsplit_once(' ').map(|(triggers, _)| triggers.to_owned());
    assert_eq!(oids(&now), oids(&standing));
    assert_ne!(now, standing, "another generation");
    exact(&database, "orders", &TRUE_ORDERS.replace("'open'", "'done'")).await;
}

async fn finding(daemon: &Daemon) -> Option<Value> {
    let (_, out, _) = daemon.run(&["check", "--json"]).await;
    let said: Value = serde_json::from_str(&out).expect("JSON");
    said["findings"].as_array().into_iter().flatten().find(|finding| finding["id"] == "trigger-functions").cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn under_manual_installation_check_says_what_to_run_and_the_daemon_goes_on() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config_with(&database, &receiver, "install = \"manual\"", ORDERS));
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    assert_eq!(finding(&daemon).await, None);
    make_old(&database).await;
    let found = finding(&daemon).await.expect("a finding");
    assert_eq!(found["level"], "warning");
    assert!(found["remedy"].as_str().is_some_and(|remedy| remedy.contains("items-listen install")), "{found}");
    daemon.start().await;
    daemon.logged("its trigger functions are not this version's").await;
    assert!(!database.one::<String>(BODY).await.contains("-- Edition"), "manual is manual");
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    assert_eq!(finding(&daemon).await, None);
    exact(&database, "orders", TRUE_ORDERS).await;
}
