//! What the daemon holds of a million keys and a hundred thousand alerts, at an endpoint that takes requests and does not
//! answer.

use std::time::Duration;

use crate::context::Context;
use crate::figure::Bound::AtMost;
use crate::figure::{Figure, Goal};
use crate::process;
use crate::shop;

/// By then requests have timed out and others were tried.
const WATCHED_FOR: Duration = Duration::from_secs(15);

pub async fn run(context: &Context) -> Vec<Figure> {
    let (keys, alerts) = (context.amount(1_000_000), context.amount(100_000));
    let (database, endpoint) = (context.database().await, shop::silent_endpoint().await);
    shop::stock(&database, keys).await;
    let mut daemon = context.daemon(&database, &endpoint, shop::WATCH);
    daemon.start().await;
    shop::settled(&database).await;
    let pid = daemon.pid();
    context.say(&format!(
        "memory: {keys} keys are known: {:.1} MB, at most {:.1} MB",
        process::resident(pid),
        process::peak(pid)
    ));
    let known = process::resident(pid);
    let raise = format!("INSERT INTO items SELECT {} + i, i FROM generate_series(1, {alerts}) AS i", shop::SECOND);
    database.sql(&raise).await;
    crate::support::eventually("all alerts are in the outbox", async || {
        let pending: i64 = database.one("SELECT count(*) FROM items_listen.delivery WHERE state = 'pending'").await;
        (u64::try_from(pending) == Ok(alerts)).then_some(())
    })
    .await;
    let mut resident = Vec::new();
    for _ in 0..WATCHED_FOR.as_secs() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        resident.push(process::resident(pid));
    }
    let peak = process::peak(pid);
    context.say(&format!("memory: {alerts} alerts are pending: {resident:.1?} MB, at most {peak:.1} MB"));
    let alone = |measure: &str, values: &[f64]| Figure::alone("memory", measure, "MB", "items-listen", values);
    vec![
        alone(&format!("{keys} keys known"), &[known]),
        alone(&format!("and {alerts} alerts pending"), &resident).goal(Goal::new(AtMost(64.0))),
        alone("at its peak", &[peak]).goal(Goal::new(AtMost(64.0))),
    ]
}
