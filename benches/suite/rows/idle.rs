//! What a daemon costs that has nothing to do: queries per second, of which the poll is one, and resident memory.

use std::time::Duration;

use crate::context::{self, Context};
use crate::figure::Bound::AtMost;
use crate::figure::{Figure, Goal};
use crate::process;
use crate::shop;
use crate::sink::Sink;

const KEYS: u64 = 1_000;
/// What a start leaves to be done is over by then.
const CALM: Duration = Duration::from_secs(5);
const WATCHED_FOR: Duration = Duration::from_secs(30);

/// Everything but what asks this.
const CALLS: &str = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
                     WHERE d.datname = current_database() AND s.query NOT LIKE '%pg_stat_statements%'";

pub async fn run(context: &Context) -> Vec<Figure> {
    let server = context::server(&["shared_preload_libraries = 'pg_stat_statements'", "pg_stat_statements.track = top"]);
    let (database, sink) = (server.database().await, Sink::start().await);
    database.sql("CREATE EXTENSION pg_stat_statements").await;
    shop::stock(&database, KEYS).await;
    let mut daemon = context.daemon(&database, &sink.url(), shop::WATCH);
    daemon.start().await;
    shop::settled(&database).await;
    tokio::time::sleep(CALM).await;
    let before: i64 = database.one(CALLS).await;
    tokio::time::sleep(WATCHED_FOR).await;
    let calls = database.one::<i64>(CALLS).await - before;
    for row in database.client.query(WHICH, &[]).await.expect("asks") {
        context.say(&format!("idle: {} times since the start: {}", row.get::<_, i64>(0), row.get::<_, String>(1)));
    }
    let (pid, alone) =
        (daemon.pid(), |measure: &str, unit, value| Figure::alone("idle", measure, unit, "items-listen", &[value]));
    vec![
        alone("queries a second", "/s", calls as f64 / WATCHED_FOR.as_secs_f64()).goal(Goal::new(AtMost(1.0))),
        alone("resident memory (RSS)", "MB", process::resident(pid)).goal(Goal::new(AtMost(15.0))),
        alone("its share of it (PSS)", "MB", process::share(pid)),
    ]
}

const WHICH: &str = "SELECT calls, left(regexp_replace(query, '\\s+', ' ', 'g'), 90) FROM pg_stat_statements s
                     JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = current_database() ORDER BY calls DESC LIMIT 5";
