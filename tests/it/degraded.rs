//! A watch that cannot be served is degraded alone: the others go on, it is said once, and it heals by itself.

use crate::faults::{all_arrived_once, role_of_its_own, through};
use crate::support::postgres::shared;
use crate::support::proxy::Proxy;
use crate::support::receiver::Receiver;
use crate::*;

/// A second watch, of a table `parcels` that is like `orders`.
fn parcels() -> String {
    ORDERS.replace("\"orders\"", "\"parcels\"").replace("public.orders", "public.parcels")
}

pub const PARCELS_TABLE: &str =
    "CREATE TABLE parcels (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')";
const TWENTY_PARCELS: &str = "INSERT INTO parcels (tenant_id) SELECT 1 FROM generate_series(1, 20)";

/// Why a watch is degraded, as `status --json` has it.
pub async fn error_of(daemon: &Daemon, watch: &str) -> Option<String> {
    let (_, out, _) = daemon.run(&["status", "--json"]).await;
    let status: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let watches = status["watches"].as_array().expect("watches").clone();
    let found = watches.into_iter().find(|one| one["name"] == watch).expect("the watch");
    found["error"].as_str().map(str::to_owned)
}

/// A database with two tables, and a daemon of a role of its own that watches both.
async fn two_watches() -> (Database, Receiver, Daemon, String) {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql(PARCELS_TABLE).await;
    let role = role_of_its_own(&database).await;
    let config = config(&database, &receiver, &format!("{ORDERS}{}", parcels()));
    let mut daemon = daemon(&config.replace("postgres://postgres@", &format!("postgres://{role}@")));
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    (database, receiver, daemon, role)
}

/// While `orders` is degraded: only it is, it is said once, and the other goes on.
async fn only_orders_is_degraded(database: &Database, receiver: &Receiver, daemon: &Daemon, error: &str) {
    support::eventually("status says why", async || error_of(daemon, "orders").await.filter(|found| found.contains(error))).await;
    assert_eq!(error_of(daemon, "parcels").await, None);
    database.sql(TWENTY_PARCELS).await;
    receiver.wait("the other goes on", |events| events.iter().any(|event| event.text("watch") == "parcels")).await;
    assert_eq!(daemon.get("/readyz").await.map(|(status, _)| status), Some(200), "a degraded watch does not fail readiness");
}

async fn all_is_well(daemon: &Daemon) {
    support::eventually("nothing is degraded", async || (daemon.run(&["status"]).await.0 == 0).then_some(())).await;
    assert_eq!((daemon.lines("watch degraded"), daemon.lines("no longer degraded")), (1, 1), "each change is said once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_privilege_that_is_revoked_degrades_its_watch_alone_until_it_is_granted_again() {
    let (database, receiver, daemon, role) = two_watches().await;
    database.sql(&format!("REVOKE SELECT ON orders FROM {role}")).await;
    // Counting goes on without it; only counting anew needs it.
    insert(&database, 1, 5).await;
    receiver.wait_for(2).await;
    database.sql("TRUNCATE orders").await;
    insert(&database, 2, 20).await;
    only_orders_is_degraded(&database, &receiver, &daemon, "permission denied").await;
    support::eventually("it was tried thrice", async || {
        (shared().logged(&database.name, "permission denied for table orders") >= 3).then_some(())
    })
    .await;
    assert_eq!(daemon.lines("watch degraded"), 1);
    database.sql(&format!("GRANT SELECT ON orders TO {role}")).await;
    all_is_well(&daemon).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    all_arrived_once(&database, &receiver).await;
    drop(daemon);
    support::eventually("the role can go", async || {
        database.client.batch_execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_cannot_count_and_another_counts_is_whole_in_both() {
    let (database, _receiver, daemon, role) = two_watches().await;
    database.sql(&format!("REVOKE SELECT ON orders FROM {role}")).await;
    database.sql("TRUNCATE orders").await;
    daemon.logged("watch degraded").await;
    assert!(error_of(&daemon, "orders").await.is_some());
    // This one may read it.
    let text = std::fs::read_to_string(&daemon.file).expect("its configuration");
    let mut other = crate::daemon(&text.replace(&format!("postgres://{role}@"), "postgres://postgres@"));
    other.start().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    daemon.logged("no longer degraded").await;
    all_is_well(&daemon).await;
    assert_eq!(other.lines("watch degraded"), 0);
    drop((daemon, other));
    support::eventually("the role can go", async || {
        database.client.batch_execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await.ok()
    })
    .await;
}

/// Waits for some beats of the daemon: so often it has looked, and might have said something again.
async fn beats(database: &Database, count: usize) {
    let mut seen = std::collections::BTreeSet::new();
    support::eventually("it beats", async || {
        seen.insert(database.one::<String>("SELECT max(beat_at)::text FROM items_listen.instance").await);
        (seen.len() > count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_stays_away_degrades_its_watch_alone_and_is_said_once() {
    let (database, receiver, daemon, role) = two_watches().await;
    database.sql("DROP TABLE orders").await;
    only_orders_is_degraded(&database, &receiver, &daemon, "does not exist").await;
    beats(&database, 4).await;
    assert_eq!(daemon.lines("watch degraded"), 1);
    database
        .sql(&format!(
            "BEGIN; CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open');
             GRANT SELECT, TRIGGER ON orders TO {role}; COMMIT"
        ))
        .await;
    insert(&database, 2, 20).await;
    all_is_well(&daemon).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    all_arrived_once(&database, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_column_that_is_dropped_degrades_its_watch_alone_until_it_is_back() {
    let (database, receiver, daemon, _) = two_watches().await;
    database.sql("ALTER TABLE orders DROP COLUMN tenant_id").await;
    database.sql("INSERT INTO orders DEFAULT VALUES").await;
    only_orders_is_degraded(&database, &receiver, &daemon, "tenant_id").await;
    beats(&database, 4).await;
    assert_eq!(daemon.lines("watch degraded"), 1);
    database.sql("ALTER TABLE orders ADD COLUMN tenant_id int DEFAULT 7").await;
    database.sql("INSERT INTO orders DEFAULT VALUES").await;
    all_is_well(&daemon).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    all_arrived_once(&database, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_degraded_watch_is_not_named_again_by_every_new_session() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let proxy = Proxy::start(database.port).await;
    let config = config(&database, &receiver, &format!("{ORDERS}{}", parcels()));
    let mut daemon = daemon(&through(&proxy, &database, &config));
    daemon.start().await;
    for round in 1..=3 {
        proxy.cut();
        insert(&database, i32::try_from(round).expect("few"), 20).await;
        receiver.wait_for(round).await;
        daemon.ready().await;
    }
    assert_eq!(daemon.lines("watch degraded"), 1, "{:?}", daemon.log());
    database.sql(PARCELS_TABLE).await;
    database.sql(TWENTY_PARCELS).await;
    receiver.wait_for(4).await;
    support::eventually("nothing is degraded", async || (daemon.run(&["status"]).await.0 == 0).then_some(())).await;
    assert_eq!(daemon.lines("no longer degraded"), 1, "{:?}", daemon.log());
}
