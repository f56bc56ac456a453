//! The shop: tenants whose orders come and are done, and whose stock is sold and filled up again.

use crate::support::postgres::Database;

/// The tables, and a history that a trigger of the shop's own writes: what the demo holds the daemon to.
pub const SCHEMA: &str = "
    CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int NOT NULL, status text NOT NULL DEFAULT 'open');
    CREATE TABLE pallets (id serial PRIMARY KEY, tenant_id int NOT NULL, item text NOT NULL);
    CREATE INDEX ON orders (tenant_id, status);
    CREATE TABLE history (id bigserial PRIMARY KEY, watch text, key jsonb, count bigint, at timestamptz);
    INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 3) t, generate_series(1, 12);
    INSERT INTO pallets (tenant_id, item) SELECT t, i FROM generate_series(1, 3) t, unnest(ARRAY['bolts', 'nuts']) i, generate_series(1, 14);";

/// The shop, and where in its day it is.
pub struct Shop {
    session: tokio_postgres::Client,
    step: usize,
}

/// What happens, over and over: tenant, change of open orders, item, change of pallets.
const DAY: [(i32, i32, &str, i32); 16] = [
    (1, 9, "bolts", -5),
    (2, 4, "nuts", -3),
    (3, 7, "bolts", -2),
    (1, 4, "bolts", -5),
    (2, 5, "nuts", -3),
    (3, 3, "nuts", -6),
    (1, 6, "bolts", -3),
    (2, 9, "nuts", -5),
    (3, 6, "bolts", -4),
    (1, -8, "bolts", 8),
    (3, 5, "nuts", -8),
    (2, -14, "nuts", 9),
    (1, -9, "bolts", 5),
    (3, -17, "nuts", 12),
    (2, -4, "nuts", 2),
    (3, -4, "bolts", 8),
];

impl Shop {
    pub async fn new(database: &Database) -> Shop {
        Shop { session: database.session().await, step: 0 }
    }

    /// One transaction: orders come or are done, pallets are sold or come, and the history says what is now true.
    pub async fn change(&mut self) {
        let (tenant, orders, item, pallets) = DAY[self.step % DAY.len()];
        self.step += 1;
        self.transaction(tenant, orders, item, pallets).await;
    }

    /// Everything is as it was in the morning.
    pub async fn close(&mut self) {
        while !self.step.is_multiple_of(DAY.len()) {
            self.change().await;
        }
        // The last crossing: one tenant ends the day with far too much.
        self.transaction(1, 25, "bolts", -14).await;
    }

    async fn transaction(&self, tenant: i32, orders: i32, item: &str, pallets: i32) {
        let orders = if orders > 0 {
            format!("INSERT INTO orders (tenant_id) SELECT {tenant} FROM generate_series(1, {orders})")
        } else {
            format!(
                "UPDATE orders SET status = 'done' WHERE id IN (SELECT id FROM orders WHERE tenant_id = {tenant} AND status = 'open' ORDER BY id LIMIT {})",
                -orders
            )
        };
        let pallets = if pallets > 0 {
            format!("INSERT INTO pallets (tenant_id, item) SELECT {tenant}, '{item}' FROM generate_series(1, {pallets})")
        } else {
            format!(
                "DELETE FROM pallets WHERE id IN (SELECT id FROM pallets WHERE tenant_id = {tenant} AND item = '{item}' ORDER BY id LIMIT {})",
                -pallets
            )
        };
        let history = format!(
            "INSERT INTO history (watch, key, count, at)
             SELECT 'orders', jsonb_build_object('tenant_id', {tenant}), count(*), clock_timestamp() FROM orders WHERE tenant_id = {tenant} AND status = 'open';
             INSERT INTO history (watch, key, count, at)
             SELECT 'stock', jsonb_build_object('tenant_id', {tenant}, 'item', '{item}'), count(*), clock_timestamp() FROM pallets WHERE tenant_id = {tenant} AND item = '{item}'"
        );
        self.session
            .batch_execute(&format!("BEGIN; {orders}; {pallets}; {history}; COMMIT"))
            .await
            .expect("the shop's own transactions never fail");
    }
}
