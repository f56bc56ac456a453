//! From insert to event while dead rows pile up: a forgotten session holds a snapshot, and nothing that was folded since
//! can be vacuumed away. What makes every ordinary queue table slow must not make this one so.

use crate::context::Context;
use crate::figure::Bound::RatioAtMost;
use crate::figure::{Figure, Goal, percentile};
use crate::shop::{self, Prober};
use crate::sink::Sink;
use crate::support::postgres::Database;

const PER_SECOND: u32 = 200;
const KEYS: u64 = 100_000;
const KEYS_A_STATEMENT: u64 = 10_000;
const ALERTS: u64 = 10_000;

/// Another table, whose changes cause nothing but journal rows and counts.
const BULK: &str = r#"
[[watch]]
name = "bulk"
table = "public.bulk"
key = ["key"]
threshold = 1000000000
[[watch.publish]]
channels = ["bench"]
event = "bench"
endpoint = "main"
"#;

pub async fn run(context: &Context) -> Vec<Figure> {
    let dead = context.amount(2_000_000);
    let keys = context.amount(KEYS).max(1_000);
    let (database, sink) = (context.database().await, Sink::start());
    shop::stock(&database, keys).await;
    database.sql("CREATE TABLE bulk (key int PRIMARY KEY)").await;
    let mut daemon = context.daemon(&database, &sink.url(), &format!("{}{BULK}", shop::WATCH));
    daemon.start().await;
    shop::settled(&database).await;
    shop::analysed(&database).await;
    let mut prober = Prober::new(&database, keys).await;
    let _warm = prober.latencies(&sink, PER_SECOND, context.duration).await;
    let before = rounds(context, &mut prober, &sink, "before").await;

    let idle = database.session().await;
    idle.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM items_listen.watch")
        .await
        .expect("a snapshot");
    churn(context, &database, dead).await;
    shop::analysed(&database).await;
    let _warm = prober.latencies(&sink, PER_SECOND, context.duration).await;
    let after = rounds(context, &mut prober, &sink, "with dead rows").await;
    say_dead(context, &database).await;
    idle.batch_execute("ROLLBACK").await.expect("it was idle until now");

    let figure = |measure: &str, of: fn(&(f64, f64)) -> f64| {
        let (before, after): (Vec<f64>, Vec<f64>) = (before.iter().map(of).collect(), after.iter().map(of).collect());
        let contender = format!("{dead} dead rows");
        Figure::beside("dead", measure, "ms", (&contender, &after), ("before", &before))
    };
    let p50 = figure("commit → request, p50", |latency| latency.0).goal(Goal::new(RatioAtMost(1.2)));
    vec![p50, figure("commit → request, p99", |latency| latency.1)]
}

/// p50 and p99 of each round.
async fn rounds(context: &Context, prober: &mut Prober, sink: &Sink, when: &str) -> Vec<(f64, f64)> {
    let mut rounds = Vec::new();
    for _ in 0..context.pairs {
        let latencies = prober.latencies(sink, PER_SECOND, context.duration).await;
        let (p50, p99) = (percentile(&latencies, 50.0), percentile(&latencies, 99.0));
        context.say(&format!("dead: {when}: p50 {p50:.2} ms, p99 {p99:.2} ms"));
        rounds.push((p50, p99));
    }
    rounds
}

/// So many journal rows, folded a statement at a time, so that counts die as well; and alerts, whose deliveries are settled.
async fn churn(context: &Context, database: &Database, dead: u64) {
    let alerts = context.amount(ALERTS);
    let raise = format!("INSERT INTO items SELECT {} + i, i FROM generate_series(1, {alerts}) AS i", 2 * shop::SECOND);
    let resolve = format!("DELETE FROM items WHERE id > {}", 2 * shop::SECOND);
    for sql in [raise, resolve] {
        database.sql(&sql).await;
        shop::settled(database).await;
    }
    let statement = KEYS_A_STATEMENT.min(dead);
    for number in 0..dead / statement {
        let sql = if number % 2 == 0 {
            format!("INSERT INTO bulk SELECT i FROM generate_series(1, {statement}) AS i")
        } else {
            "DELETE FROM bulk".to_owned()
        };
        database.sql(&sql).await;
        shop::settled(database).await;
        if number % 50 == 49 {
            context.say(&format!("dead: {} journal rows were folded", (number + 1) * statement));
        }
    }
    crate::support::eventually("all deliveries are settled", async || {
        let pending: i64 = database.one("SELECT count(*) FROM items_listen.delivery WHERE state = 'pending'").await;
        (pending == 0).then_some(())
    })
    .await;
}

async fn say_dead(context: &Context, database: &Database) {
    for table in ["journal", "count", "episode", "delivery"] {
        let sql = format!("SELECT n_dead_tup FROM pg_stat_user_tables WHERE schemaname = 'items_listen' AND relname = '{table}'");
        let dead: i64 = database.one(&sql).await;
        context.say(&format!("dead: {table} has {dead} dead rows"));
    }
}
