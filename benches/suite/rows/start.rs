//! From start to ready with a hundred watches of a hundred tables that have their triggers already.

use std::time::{Duration, Instant};

use crate::context::Context;
use crate::figure::Bound::AtMost;
use crate::figure::{Figure, Goal};
use crate::shop;
use crate::support::daemon::Daemon;

const NOWHERE: &str = "http://127.0.0.1:9";
const WATCHES: u32 = 100;

pub async fn run(context: &Context) -> Vec<Figure> {
    let database = context.database().await;
    let mut watches = String::new();
    for number in 1..=WATCHES {
        let create = format!("CREATE TABLE items{number} (id bigint PRIMARY KEY, tenant_id int NOT NULL)");
        database.sql(&create).await;
        watches.push_str(&shop::WATCH.replace("items\"", &format!("items{number}\"")));
    }
    let mut daemon = context.daemon(&database, NOWHERE, &watches);
    let first = ready_after(context, &mut daemon, "first start").await;
    let mut later = Vec::new();
    for _ in 0..context.pairs {
        later.push(ready_after(context, &mut daemon, "start").await);
    }
    let alone = |measure: &str, values: &[f64]| Figure::alone("start", measure, "ms", "items-listen", values);
    vec![
        alone(&format!("to ready, {WATCHES} watches installed"), &later).goal(Goal::new(AtMost(200.0))),
        alone(&format!("to ready, installing {WATCHES} watches"), &[first]),
    ]
}

/// Starts it, waits until `/readyz` says so, and ends it in an orderly way; gives milliseconds.
async fn ready_after(context: &Context, daemon: &mut Daemon, what: &str) -> f64 {
    let started = Instant::now();
    daemon.spawn();
    while daemon.get("/readyz").await.is_none_or(|(status, _)| status != 200) {
        assert!(started.elapsed() < crate::support::PATIENCE, "not ready");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = started.elapsed().as_secs_f64() * 1_000.0;
    context.say(&format!("start: {what}: ready after {took:.0} ms"));
    daemon.terminate().await;
    took
}
