//! A recount of a large table under writes, beside nothing but `SELECT key, count(*) … GROUP BY key` under the same
//! writes; and what the writers notice of it. `BENCH_RECOUNT_ROWS` is another size than ten million rows.

use std::time::{Duration, Instant, SystemTime};

use crate::context::Context;
use crate::figure::Bound::RatioAtMost;
use crate::figure::{Figure, Goal};
use crate::shop;
use crate::support::daemon::Daemon;
use crate::support::postgres::Database;
use crate::writers::{Load, Written};

const NOWHERE: &str = "http://127.0.0.1:9";
const KEYS: u64 = 1_000;
const WRITES_A_SECOND: u64 = 2_000;
/// The writers are at their rate by then.
const WARM: Duration = Duration::from_secs(2);
const CONTENDERS: [&str; 3] = ["items-listen recount", "SELECT … GROUP BY", "writers alone"];

pub async fn run(context: &Context) -> Vec<Figure> {
    let named = std::env::var("BENCH_RECOUNT_ROWS").ok().and_then(|rows| rows.parse().ok());
    let rows = named.unwrap_or_else(|| context.amount(10_000_000));
    let database = context.database().await;
    let mut daemon = table(context, &database, rows).await;
    daemon.start().await;
    shop::settled(&database).await;
    let mut p99 = vec![Vec::new(); CONTENDERS.len()];
    let seconds = context
        .rounds(&[0, 1, 2], async |&who| {
            let (seconds, writers) = under_writes(context, &database, &daemon, who).await;
            context.say(&format!("recount: {}: {seconds:.2} s, writers' p99 {writers:.2} ms", CONTENDERS[who]));
            p99[who].push(writers);
            seconds
        })
        .await;
    figures(rows, &seconds, &p99)
}

fn figures(rows: u64, seconds: &[Vec<f64>], p99: &[Vec<f64>]) -> Vec<Figure> {
    let of = |values: &'_ [Vec<f64>], measure: &str, unit, ours: usize, other: usize| {
        let measure = format!("{measure}, {rows} rows");
        let (ours, other) = ((CONTENDERS[ours], &values[ours][..]), (CONTENDERS[other], &values[other][..]));
        Figure::beside("recount", &measure, unit, ours, other)
    };
    vec![
        of(seconds, "duration", "s", 0, 1).goal(Goal::new(RatioAtMost(1.3))),
        // What "unaffected" means where a plain query affects them as well: both are shown.
        of(p99, "writers' p99", "ms", 0, 2),
        of(p99, "writers' p99", "ms", 0, 1).goal(Goal::new(RatioAtMost(1.1))),
    ]
}

async fn table(context: &Context, database: &Database, rows: u64) -> Daemon {
    database.sql("CREATE TABLE items (id bigserial PRIMARY KEY, tenant_id int NOT NULL, note text)").await;
    database
        .sql(&format!("INSERT INTO items (tenant_id, note) SELECT i % {KEYS}, 'a note' FROM generate_series(1, {rows}) AS i"))
        .await;
    database.sql("VACUUM (ANALYZE) items").await;
    context.say(&format!("recount: {rows} rows are there"));
    context.daemon(database, NOWHERE, &shop::WATCH.replace("threshold = 2", "threshold = 1000000000"))
}

/// Seconds, and the writers' p99 meanwhile.
async fn under_writes(context: &Context, database: &Database, daemon: &Daemon, who: usize) -> (f64, f64) {
    let insert = format!("\\set t random(0, {KEYS} - 1)\nINSERT INTO items (tenant_id, note) VALUES (:t, 'a note');");
    let load = Load { sql: &insert, clients: 4, rate: WRITES_A_SECOND, duration: Duration::from_secs(600) };
    // What filling the table left to be written must not fall into anyone's time.
    database.sql("CHECKPOINT").await;
    let writers = load.start(context, database);
    tokio::time::sleep(WARM).await;
    let (from, started) = (SystemTime::UNIX_EPOCH + now(), Instant::now());
    match who {
        0 => {
            let (code, _, errors) = daemon.run(&["recount"]).await;
            assert_eq!(code, 0, "{errors}");
        }
        1 => database.sql("SELECT tenant_id, count(*) FROM items GROUP BY tenant_id").await,
        _ => tokio::time::sleep(context.duration).await,
    }
    let seconds = started.elapsed().as_secs_f64();
    let written: Written = writers.stop().await;
    (seconds, written.p99_between(from, from + Duration::from_secs_f64(seconds)))
}

/// Since the epoch, by the clock that pgbench writes into its log.
fn now() -> Duration {
    Duration::try_from_secs_f64(jiff::Timestamp::now().as_duration().as_secs_f64()).unwrap_or_default()
}
