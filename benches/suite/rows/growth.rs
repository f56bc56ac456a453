//! How the cost grows: with the keys that are known, with the rate of changes, with what waits for a dead endpoint.

use std::time::{Duration, Instant};

use crate::context::Context;
use crate::figure::{Figure, percentile};
use crate::shop::{self, Prober};
use crate::sink::Sink;
use crate::support::postgres::Database;
use crate::writers::Load;

const PER_SECOND: u32 = 200;
/// While others write, so few changes are probed that they add nothing to the rate.
const PROBES_BESIDE: u32 = 50;
const KEYS: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Changes a second, and how many rows of as many keys one statement inserts.
const RATES: [(u64, u64); 5] = [(100, 1), (1_000, 1), (5_000, 1), (10_000, 10), (20_000, 10)];
const BACKLOGS: [u64; 3] = [0, 10_000, 100_000];

pub async fn run(context: &Context) -> Vec<Figure> {
    let mut figures = keys(context).await;
    figures.extend(rate(context).await);
    figures.extend(backlog(context).await);
    figures
}

async fn keys(context: &Context) -> Vec<Figure> {
    let (database, sink) = (context.database().await, Sink::start());
    shop::stock(&database, KEYS[0]).await;
    let mut daemon = context.daemon(&database, &sink.url(), shop::WATCH);
    daemon.start().await;
    let mut figures = Vec::new();
    for keys in KEYS.map(|keys| context.amount(keys).max(1_000)) {
        shop::stock(&database, keys).await;
        shop::settled(&database).await;
        let mut prober = Prober::new(&database, keys).await;
        // New keys are not in the statistics by which statements are planned, until autovacuum comes by.
        figures.extend(probed(context, &mut prober, &sink, PER_SECOND, &format!("{keys} keys, just counted")).await);
        shop::analysed(&database).await;
        figures.extend(probed(context, &mut prober, &sink, PER_SECOND, &format!("{keys} keys, analysed")).await);
        // Every second row is gone again: the next step begins as this one did.
        database.sql(&format!("DELETE FROM items WHERE id > {}", shop::SECOND)).await;
        shop::settled(&database).await;
    }
    figures
}

/// p50 and p99 of so many rounds, after one that warms up.
async fn probed(context: &Context, prober: &mut Prober, sink: &Sink, per_second: u32, what: &str) -> Vec<Figure> {
    let _warm = prober.latencies(sink, per_second, Duration::from_secs(1)).await;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..context.pairs {
        let latencies = prober.latencies(sink, per_second, context.duration).await;
        p50.push(percentile(&latencies, 50.0));
        p99.push(percentile(&latencies, 99.0));
    }
    context.say(&format!("growth: {what}: p50 {p50:.2?} ms, p99 {p99:.2?} ms"));
    let alone = |of: &str, values: &[f64]| {
        Figure::alone("growth", &format!("{what}: commit → request, {of}"), "ms", "items-listen", values)
    };
    vec![alone("p50", &p50), alone("p99", &p99)]
}

async fn rate(context: &Context) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (changes, rows) in RATES {
        let (database, sink) = (context.database().await, Sink::start());
        shop::stock(&database, KEYS[0]).await;
        database.sql("CREATE TABLE bulk (id bigserial PRIMARY KEY, key int NOT NULL)").await;
        let mut daemon = context.daemon(&database, &sink.url(), &format!("{}{}", shop::WATCH, bulk("main", 1_000_000_000)));
        daemon.start().await;
        shop::settled(&database).await;
        figures.extend(at_rate(context, &database, &sink, changes, rows).await);
    }
    figures
}

/// Alerts among so many changes a second that cause none, and how many of those are folded a second.
async fn at_rate(context: &Context, database: &Database, sink: &Sink, changes: u64, rows: u64) -> Vec<Figure> {
    let sql = format!(
        "\\set k random(1, 100000)\nINSERT INTO bulk (key) SELECT (:k + i * 7919) % 100000 FROM generate_series(1, {rows}) AS i;"
    );
    let rounds = u32::try_from(context.pairs).expect("few");
    let duration = context.duration * rounds + Duration::from_secs(3);
    let load = Load { sql: &sql, clients: 4, rate: changes / rows, duration };
    let mut prober = Prober::new(database, KEYS[0]).await;
    let (writers, started) = (load.start(context, database), Instant::now());
    let mut figures = probed(context, &mut prober, sink, PROBES_BESIDE, &format!("{changes} changes/s")).await;
    let written = writers.end().await.per_second * rows as f64;
    shop::settled(database).await;
    let folded: i64 = database.one("SELECT coalesce(sum(rows), 0)::bigint FROM items_listen.count").await;
    let folded = (folded - i64::try_from(KEYS[0]).expect("few")) as f64 / started.elapsed().as_secs_f64();
    context.say(&format!("growth: {changes} changes/s: {written:.0}/s written, {folded:.0}/s folded"));
    let alone = |of: &str, value| {
        Figure::alone("growth", &format!("{changes} changes/s, {rows} a statement: {of}"), "/s", "items-listen", &[value])
    };
    figures.extend([alone("written", written), alone("folded, until all was", folded)]);
    figures
}

async fn backlog(context: &Context) -> Vec<Figure> {
    let (database, sink, dead) = (context.database().await, Sink::start(), shop::silent_endpoint().await);
    shop::stock(&database, KEYS[0]).await;
    database.sql("CREATE TABLE bulk (id bigserial PRIMARY KEY, key int NOT NULL)").await;
    let endpoint = format!("[endpoints.dead]\nurl = \"{dead}\"\napp_id = \"a\"\nkey = \"k\"\nsecret = \"s\"\n");
    let mut daemon = context.daemon(&database, &sink.url(), &format!("{endpoint}{}{}", shop::WATCH, bulk("dead", 1)));
    daemon.start().await;
    let (mut figures, mut known) = (Vec::new(), 0);
    for waiting in BACKLOGS.map(|waiting| context.amount(waiting)).map(|waiting| if waiting == 1 { 0 } else { waiting }) {
        database.sql(&format!("INSERT INTO bulk (key) SELECT i FROM generate_series({known} + 1, {waiting}) AS i")).await;
        known = waiting;
        crate::support::eventually("all alerts are in the outbox", async || {
            let pending: i64 =
                database.one("SELECT count(*) FROM items_listen.delivery WHERE state = 'pending' AND endpoint = 'dead'").await;
            (u64::try_from(pending) == Ok(waiting)).then_some(())
        })
        .await;
        let mut prober = Prober::new(&database, KEYS[0]).await;
        let what = format!("{waiting} pending at a dead endpoint");
        figures.extend(probed(context, &mut prober, &sink, PER_SECOND, &what).await);
        database.sql(&format!("DELETE FROM items WHERE id > {}", shop::SECOND)).await;
        shop::settled(&database).await;
    }
    figures
}

/// Another watch, with an endpoint and a threshold of its own.
fn bulk(endpoint: &str, threshold: u64) -> String {
    format!(
        r#"
[[watch]]
name = "bulk"
table = "public.bulk"
key = ["key"]
threshold = {threshold}
[[watch.publish]]
channels = ["bench"]
event = "bench"
endpoint = "{endpoint}"
"#
    )
}
