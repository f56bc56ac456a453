//! An installation with one role becomes one with three; and what others may do that they should not is found.

use super::{TRUE_OPEN, World};
use crate::support::receiver::Receiver;
use crate::*;

pub(super) const OPEN_ORDERS: &str = r#"
[[watch]]
name = "orders"
table = "shop.orders"
key = ["tenant_id"]
where = "shop.is_open(status)"
threshold = 20
[[watch.publish]]
channels = ["orders.{{ key.tenant_id }}"]
event = "orders.many"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_with_one_role_is_taken_over_and_what_is_too_much_is_found() {
    let mut world = World::new(OPEN_ORDERS).await;
    world.daemon.configure(&config(&world.database, &world.receiver, OPEN_ORDERS));
    world.daemon.start().await;
    world.database.sql("INSERT INTO shop.orders (tenant_id) SELECT 1 FROM generate_series(1, 20)").await;
    world.receiver.wait_for(1).await;
    world.daemon.terminate().await;
    // As a superuser it may do everything, and so may whoever may replace a function that it calls.
    let (_, report) = checked(&world).await;
    assert_eq!(level(&report, "role-rights"), Some("info"), "{report:#}");
    assert_eq!(level(&report, "expression-code"), Some("warning"), "{report:#}");

    let names = ["--owner", "Owner \"1\"", "--daemon", "the daemon's", "--application", "a; DROP ROLE x; --"];
    let script = world.run(&[&["install", "--print", "--roles"][..], &names].concat()).await;
    // While tables change hands no writer can write to them: all is counted anew, and not again where nothing was taken over.
    let (taking_over, _) = script.split_once("\n-- 3. ").expect("its parts");
    let markers = "SELECT count(*) FROM items_listen.marker WHERE watch = 1 AND reason = 'recount'";
    for marked in [1, 0] {
        world.database.sql("DELETE FROM items_listen.marker").await;
        world.psql("postgres", taking_over).await;
        assert_eq!(world.database.one::<i64>(markers).await, marked);
    }
    world.psql("postgres", &script).await;
    world.psql("postgres", &script).await;
    world.daemon.configure(&config(&world.database, &world.receiver, OPEN_ORDERS).replace(
        &format!("url = \"{}\"", world.database.url()),
        &format!(
            "url = \"postgres://the%20daemon's@127.0.0.1:{}/{}\"\ninstall = \"manual\"",
            world.database.port, world.database.name
        ),
    ));
    let (code, report_now) = checked(&world).await;
    assert_eq!((code, level(&report_now, "role-rights")), (0, None), "{report_now:#}");
    assert_eq!(level(&report_now, "expression-code"), Some("info"), "{report_now:#}");
    world.daemon.start().await;
    world.database.sql("INSERT INTO shop.orders (tenant_id) SELECT 2 FROM generate_series(1, 20)").await;
    world.receiver.wait_for(2).await;
    exact(&world.database, "orders", TRUE_OPEN).await;

    // What somebody granted since, or made as somebody else.
    for (wrong, id) in [
        ("GRANT INSERT ON items_listen.journal TO writer", "schema-grants"),
        ("GRANT SELECT ON items_listen.event TO PUBLIC", "schema-grants"),
        ("GRANT UPDATE (rows) ON items_listen.count TO app", "schema-grants"),
        ("GRANT CREATE ON SCHEMA items_listen TO app", "schema-grants"),
        ("GRANT EXECUTE ON FUNCTION items_listen.watch_1_insert() TO PUBLIC", "function-rights"),
        ("ALTER FUNCTION items_listen.watch_1_insert() SECURITY INVOKER", "function-rights"),
        ("ALTER FUNCTION items_listen.watch_1_insert() SET search_path = public", "function-rights"),
        ("ALTER FUNCTION items_listen.watch_1_insert() OWNER TO postgres", "function-rights"),
    ] {
        world.database.sql(wrong).await;
        let (code, report_now) = checked(&world).await;
        assert_eq!((code, level(&report_now, id)), (1, Some("warning")), "{wrong}: {report_now:#}");
        let found = findings_of(&report_now).find(|finding| finding["id"] == id).expect("it is there");
        world.database.sql(found["remedy"].as_str().and_then(|remedy| remedy.split(" unless").next()).expect("a remedy")).await;
        assert_eq!(level(&checked(&world).await.1, id), None, "the remedy mends it: {wrong}");
    }
    // Roles that read for a dashboard, or edit thresholds, are nobody's concern.
    world
        .database
        .sql("GRANT SELECT ON items_listen.event TO app; GRANT SELECT, INSERT, UPDATE, DELETE ON items_listen.threshold TO app")
        .await;
    assert_eq!(level(&checked(&world).await.1, "schema-grants"), None);
    world.database.sql("GRANT UPDATE ON shop.orders TO \"the daemon's\"").await;
    let (code, report_now) = checked(&world).await;
    assert_eq!((code, level(&report_now, "role-rights")), (0, Some("info")), "{report_now:#}");

    // It cannot take its triggers away, and says who can.
    world.daemon.terminate().await;
    let (code, _, err) = world.daemon.run(&["uninstall"]).await;
    assert!(code == 1 && err.contains("DROP SCHEMA items_listen CASCADE"), "{code} {err}");
    world.psql("postgres", "SET lock_timeout = '1s'; DROP SCHEMA items_listen CASCADE").await;
    assert_eq!(world.database.one::<i64>("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'items_listen%'").await, 0);
    world.database.sql("INSERT INTO shop.orders (tenant_id) VALUES (1)").await;
}

async fn checked(world: &World) -> (i32, serde_json::Value) {
    let (code, out, err) = world.daemon.run(&["check", "--json"]).await;
    (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}")))
}

fn findings_of(report: &serde_json::Value) -> impl Iterator<Item = &serde_json::Value> {
    report["findings"].as_array().expect("findings").iter()
}

fn level<'a>(report: &'a serde_json::Value, id: &str) -> Option<&'a str> {
    findings_of(report).find(|finding| finding["id"] == id)?["level"].as_str()
}

#[tokio::test]
async fn roles_that_would_be_one_or_none_are_refused() {
    let database = Database::new().await;
    let daemon = daemon(&config(&database, &Receiver::start().await, ORDERS));
    for (arguments, told) in [
        (&["install", "--print", "--roles", "--owner", "a", "--daemon", "a"][..], "a role of its own"),
        (&["install", "--print", "--roles", "--owner", "public"], "keeps this name"),
        (&["install", "--print", "--roles", "--daemon", "a\nb"], "control character"),
        (&["install", "--roles"], "--print"),
        (&["install", "--print", "--owner", "a"], "--roles"),
    ] {
        let (code, out, err) = daemon.run(arguments).await;
        assert!(code == 2 && err.contains(told) && out.is_empty(), "{arguments:?}: {code} {err}");
    }
}
