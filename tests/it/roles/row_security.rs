//! Row level security on a watched table: what is counted, and when nothing can be.

use super::{DBA, TRUE_OPEN, World};
use crate::support::postgres::connect;
use crate::*;

/// Open orders of all tenants, of which a policy shows the writer those of tenant 1 alone.
const POLICED: &str = r#"
INSERT INTO shop.orders (tenant_id) SELECT t FROM generate_series(1, 2) t, generate_series(1, 20);
ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON shop.orders TO writer USING (tenant_id = 1);
CREATE POLICY shown ON shop.orders FOR SELECT TO PUBLIC USING (true);
DROP POLICY shown ON shop.orders;
CREATE VIEW shop.all_orders AS SELECT tenant_id, status FROM shop.orders;
"#;

const POLICED_WATCHES: &str = r#"
[[watch]]
name = "orders"
table = "shop.orders"
key = ["tenant_id"]
where = "status = 'open'"
threshold = 20
[[watch.publish]]
channels = ["orders.{{ key.tenant_id }}"]
event = "orders.many"

[[watch]]
name = "viewed"
query = "SELECT tenant_id FROM shop.all_orders WHERE status = 'open'"
every = "200ms"
key = ["tenant_id"]
threshold = 20
[[watch.publish]]
channels = ["viewed.{{ key.tenant_id }}"]
event = "viewed"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn row_level_security_hides_nothing_from_the_counts_or_the_watch_says_that_it_cannot_count() {
    let mut world = World::new(POLICED_WATCHES).await;
    world.psql(DBA, POLICED).await;
    let script = world.installed(POLICED_WATCHES, &[], "items_listen_daemon").await;
    assert!(script.contains("BYPASSRLS"), "{script}");
    let (code, out, _) = world.daemon.run(&["check"]).await;
    assert!(code == 1 && out.contains("row level security hides rows of shop.orders"), "{code} {out}");
    // A policy that shows everything is none to PostgreSQL; the view of the table's owner is.
    world.psql(DBA, "CREATE POLICY all_of_it ON shop.orders FOR SELECT TO items_listen_daemon USING (true)").await;
    world.daemon.start().await;
    world
        .receiver
        .wait("both tenants by the view", |events| events.iter().filter(|event| event.name == "viewed").count() == 2)
        .await;
    world.daemon.logged("row-level security policy").await;
    assert!(!world.receiver.all().iter().any(|event| event.name == "orders.many"), "nothing is guessed");
    // This DBA may not say it (PostgreSQL 15), as the script has warned.
    world.database.sql("ALTER ROLE items_listen_daemon BYPASSRLS").await;
    let many = |events: &[support::receiver::Event]| events.iter().filter(|event| event.name == "orders.many").count() == 2;
    world.receiver.wait("both tenants by the table", many).await;
    exact(&world.database, "orders", TRUE_OPEN).await;
    // What the writer does not see it does not change; what it changes is counted, as is what others do.
    let writer = connect(&world.url("writer")).await;
    writer.batch_execute("UPDATE shop.orders SET status = 'done' WHERE id % 2 = 0").await.expect("it may");
    world.psql(DBA, "ALTER TABLE shop.orders FORCE ROW LEVEL SECURITY").await;
    world.database.sql("UPDATE shop.orders SET tenant_id = 3 WHERE tenant_id = 2 AND id % 3 = 0").await;
    exact(&world.database, "orders", TRUE_OPEN).await;
    let kept: i64 = world.database.one("SELECT rows FROM items_listen.count WHERE watch = 1 AND key = '[1]'").await;
    assert_eq!(kept, 10);
    assert!(world.run(&["recount", "orders"]).await.contains("exact"), "FORCE is not about whoever bypasses");
}
