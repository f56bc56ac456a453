//! What a daemon costs that has nothing to do: queries per second, of which the poll is one, and resident memory.

use std::time::Duration;

use crate::context::{self, Context};
use crate::figure::Bound::AtMost;
use crate::figure::{Figure, Goal};
use crate::process;
use crate::shop;
use crate::sink::Sink;
use crate::support::postgres::Database;

const KEYS: u64 = 1_000;
/// What a start leaves to be done is over by then.
const CALM: Duration = Duration::from_secs(5);
const WATCHED_FOR: Duration = Duration::from_secs(30);

/// Of this database, but for what asks this.
const CALLS: &str = "SELECT s.queryid, s.calls, left(regexp_replace(s.query, '\\s+', ' ', 'g'), 90) AS query
                     FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
                     WHERE d.datname = current_database() AND s.query NOT LIKE '%pg_stat_statements%'";

pub async fn run(context: &Context) -> Vec<Figure> {
    let server = context::server(&["shared_preload_libraries = 'pg_stat_statements'", "pg_stat_statements.track = top"]);
    let (database, sink) = (server.database().await, Sink::start());
    database.sql("CREATE EXTENSION pg_stat_statements").await;
    shop::stock(&database, KEYS).await;
    let mut daemon = context.daemon(&database, &sink.url(), shop::WATCH);
    daemon.start().await;
    shop::settled(&database).await;
    tokio::time::sleep(CALM).await;
    let a_second = queries(context, &database).await;
    let (pid, alone) =
        (daemon.pid(), |measure: &str, unit, value| Figure::alone("idle", measure, unit, "items-listen", &[value]));
    vec![
        alone("queries a second", "/s", a_second).goal(Goal::new(AtMost(1.0))),
        alone("resident memory (RSS)", "MB", process::resident(pid)).goal(Goal::new(AtMost(15.0))),
        alone("its share of it (PSS)", "MB", process::share(pid)),
    ]
}

/// A second; which they are is said.
async fn queries(context: &Context, database: &Database) -> f64 {
    database.sql(&format!("CREATE TEMP TABLE before AS {CALLS}")).await;
    tokio::time::sleep(WATCHED_FOR).await;
    let since = format!(
        "SELECT (now.calls - coalesce(before.calls, 0))::bigint, now.query FROM ({CALLS}) AS now LEFT JOIN before USING (queryid)
         WHERE now.calls > coalesce(before.calls, 0) ORDER BY 1 DESC"
    );
    let rows = database.client.query(&since, &[]).await.expect("asks");
    let mut calls = 0;
    for row in rows {
        let (times, query): (i64, String) = (row.get(0), row.get(1));
        context.say(&format!("idle: {times} times in {WATCHED_FOR:?}: {query}"));
        calls += times;
    }
    calls as f64 / WATCHED_FOR.as_secs_f64()
}
