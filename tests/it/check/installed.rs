//! What stands in the database, and what `install` would change of it.

use super::{SUMMED, check, drop_role, finding, findings, has, of, role};
use crate::support::receiver::Receiver;
use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_install_would_change_is_said_before_it_does() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database
        .sql(
            "CREATE TABLE orders (id int, tenant_id int, status text NOT NULL DEFAULT 'open') PARTITION BY LIST (tenant_id);
             CREATE TABLE orders_1 PARTITION OF orders FOR VALUES IN (1)",
        )
        .await;
    let manual = |watches: &str| config_with(&database, &receiver, "install = \"manual\"", watches);
    let other = "[[watch]]\nname = \"old\"\ntable = \"public.orders\"\nthreshold = 5\n[[watch.publish]]\nchannels = [\"a\"]\nevent = \"e\"\n";
    let daemon = daemon(&manual(&format!("{ORDERS}{other}")));
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");

    daemon.configure(&manual(ORDERS));
    database.sql("CREATE TABLE orders_2 PARTITION OF orders FOR VALUES IN (2); ALTER TABLE orders_1 DISABLE TRIGGER items_listen_1_insert").await;
    let before: String = database.one(EVERYTHING).await;
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 1);
    assert!(of(finding(&report, "watch-removed", "warning"), "what").contains("its 6 triggers"), "{report:#}");
    let said: Vec<&str> =
        findings(&report).filter(|finding| finding["id"] == "triggers").map(|finding| of(finding, "what")).collect();
    assert_eq!(said.len(), 3, "{report:#}");
    assert!(said.iter().any(|what| what.contains("missing on public.orders_2 (delete, insert, truncate, update)")), "{report:#}");
    assert!(said.iter().any(|what| what.contains("disabled on public.orders_1 (insert)")), "{report:#}");
    assert!(said.iter().any(|what| what.contains("partitions were attached")), "{report:#}");
    let sql = findings(&report)
        .find(|finding| of(finding, "what").contains("disabled"))
        .map(|finding| of(finding, "remedy"))
        .unwrap_or_default();
    assert!(sql.starts_with("ALTER TABLE public.orders_1 ENABLE TRIGGER items_listen_1_insert;"), "{sql}");
    assert_eq!(database.one::<String>(EVERYTHING).await, before, "check changes nothing");
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");

    // What differs of a definition, and how it is judged.
    for (from, to, what) in [
        ("where = \"status = 'open'\"", "where = \"status = 'new'\"", "its where"),
        ("where = \"status = 'open'\"", "where = \"status = 'open'\"\nsum = \"id\"", "what is measured"),
        ("key = [\"tenant_id\"]\n", "key = [\"tenant_id\", \"id\"]\n", "its key"),
    ] {
        daemon.configure(&manual(&ORDERS.replace(from, to)));
        let (code, report) = check(&daemon, &[]).await;
        assert!(
            code == 1 && of(finding(&report, "watch-changed", "warning"), "what").contains(&format!("({what}")),
            "{to}: {report:#}"
        );
    }
    database.sql("UPDATE items_listen.watch SET policy = 'another'").await;
    daemon.configure(&manual(ORDERS));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");
    finding(&report, "policy", "info");
    // What fires no trigger.
    let role = role(&database, "replica").await;
    database.sql(&format!("ALTER ROLE {role} IN DATABASE {} SET session_replication_role = replica", database.name)).await;
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 1);
    database.sql(of(finding(&report, "replication-role", "warning"), "remedy")).await;
    assert_eq!(check(&daemon, &[]).await.0, 0);
    drop_role(&database, &role).await;
    // A schema from the future.
    database.sql("INSERT INTO items_listen.schema_history (version, name) VALUES (99, 'from the future')").await;
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 78, "{report:#}");
    finding(&report, "schema-version", "error");
}

/// Whatever a check could have changed.
const EVERYTHING: &str = "SELECT (SELECT string_agg(concat(tgname, tgenabled, tgrelid), ' ' ORDER BY oid) FROM pg_trigger)
    || (SELECT string_agg(w::text, ' ' ORDER BY w.id) FROM items_listen.watch w)
    || (SELECT count(*) FROM items_listen.marker) || (SELECT count(*) FROM items_listen.journal)
    || coalesce((SELECT string_agg(c::text, ' ' ORDER BY c.watch, c.key) FROM items_listen.count c), '')
    || (SELECT count(*) FROM pg_class WHERE relpersistence = 't')";

#[tokio::test(flavor = "multi_thread")]
async fn a_drift_is_found_on_request_and_writers_cause_none() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon =
        daemon(&config(&database, &receiver, &format!("{}{SUMMED}", ORDERS.replace("threshold = 20", "threshold = 1000000"))));
    insert(&database, 3, 10).await;
    daemon.start().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    // While rows come and go, folded or not.
    let writer = database.session().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let writing = tokio::spawn(async move {
        let mut written = 0;
        while !stopped.is_cancelled() {
            writer
                .batch_execute("INSERT INTO orders (tenant_id) VALUES (1), (2); UPDATE orders SET status = 'done' WHERE id % 3 = 0; DELETE FROM orders WHERE id % 5 = 0")
                .await
                .expect("written");
            written += 1;
        }
        written
    });
    for _ in 0..4 {
        let (code, report) = check(&daemon, &["--recount"]).await;
        assert_eq!(code, 0, "a false drift: {report:#}");
        assert_eq!(
            findings(&report).filter(|finding| finding["id"] == "drift" && finding["level"] == "ok").count(),
            2,
            "{report:#}"
        );
    }
    // And while nobody folds.
    daemon.kill();
    let (_, report) = check(&daemon, &["--recount"]).await;
    assert_eq!(findings(&report).filter(|finding| finding["id"] == "drift" && finding["level"] == "ok").count(), 2, "{report:#}");
    stop.cancel();
    assert!(writing.await.expect("no panic") > 0);
    assert!(database.one::<i64>("SELECT count(*) FROM items_listen.journal").await > 0, "something waits to be folded");

    database.sql("UPDATE items_listen.count SET rows = rows + 7 WHERE watch = 1 AND key = '[3]'").await;
    let before: String = database.one(EVERYTHING).await;
    let (code, report) = check(&daemon, &["--recount"]).await;
    assert_eq!(code, 1);
    let drift = finding(&report, "drift", "warning");
    assert!(of(drift, "what").contains("1 keys") && of(drift, "what").contains("key [3]:"), "{drift:#}");
    assert_eq!(of(drift, "remedy"), "items-listen recount orders");
    assert!(of(finding(&report, "drift", "ok"), "subject").contains("sums"), "{report:#}");
    assert_eq!(database.one::<String>(EVERYTHING).await, before, "check changes nothing");
    let (_, report) = check(&daemon, &[]).await;
    assert!(!has(&report, "drift"), "only on request: {report:#}");
    assert_eq!(daemon.run(&["recount", "orders"]).await.0, 0);
    let (_, report) = check(&daemon, &["--recount"]).await;
    assert!(!findings(&report).any(|finding| finding["id"] == "drift" && finding["level"] == "warning"), "{report:#}");
}
