//! What the daemon has counted so far: the one place of the suite that reads the daemon's own tables.

use std::time::{Duration, Instant};

use crate::support::eventually;
use crate::support::postgres::Database;

/// Waits until nothing is left to be folded, neither journal rows nor a recount; gives how long that took.
pub async fn dry(database: &Database) -> Duration {
    let started = Instant::now();
    eventually("the journal is dry", async || {
        let left: bool =
            database.one("SELECT EXISTS (SELECT FROM items_listen.journal) OR EXISTS (SELECT FROM items_listen.marker)").await;
        (!left).then_some(())
    })
    .await;
    started.elapsed()
}

/// What it has counted for a watch, all keys together.
pub async fn counted(database: &Database, watch: &str) -> i64 {
    let sql = format!(
        "SELECT coalesce(sum(c.rows), 0)::bigint FROM items_listen.count AS c JOIN items_listen.watch AS w ON w.id = c.watch \
         WHERE w.name = '{watch}'"
    );
    database.one(&sql).await
}

/// Forgets what was not folded, where no daemon runs.
pub async fn forget(database: &Database) {
    database.sql("TRUNCATE items_listen.journal, items_listen.marker").await;
}
