//! Tests against a real PostgreSQL, which they start themselves, with the real binary as a process and a
//! receiver that checks signatures for itself. One file per promise; each test has a database of its own.

#![allow(unreachable_pub, reason = "support is shared with the demo by path")]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each user needs another part")]
mod support;

mod alerts;
mod answers;
mod canary;
mod changes;
mod check;
mod clock;
mod column_types;
mod commands;
mod configuration;
mod containment;
mod crash;
mod degraded;
mod documents;
mod doorbell;
mod effective;
mod endpoint_tls;
mod faults;
mod folding;
mod forgery;
mod functions;
mod hostile;
mod hostile_writers;
mod http_page;
mod identifiers;
mod inbox;
mod installing;
mod letters;
mod listener;
mod logging;
mod lookups;
mod measures;
mod metrics;
mod notify;
mod outbox;
mod queries;
mod recounting;
mod redefined;
mod reload;
mod replayed;
mod review;
mod roles;
mod ruletests;
mod sacred;
mod silence;
mod status;
mod storms;
mod systemd;
mod tls;
mod triggers;
mod upgrade;
mod writing;

use support::daemon::Daemon;
use support::postgres::Database;
use support::receiver::Receiver;

/// The watch that most tests use: open orders per tenant, threshold 20.
const ORDERS: &str = r#"
[[watch]]
name = "orders"
table = "public.orders"
key = ["tenant_id"]
where = "status = 'open'"
threshold = 20
[[watch.publish]]
channels = ["private-tenant.{{ key.tenant_id }}.orders"]
event = "orders.many"
"#;

/// A database with the table `orders`.
async fn shop() -> Database {
    let database = Database::new().await;
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    database
}

/// A configuration of a database, one endpoint and these watches.
fn config(database: &Database, receiver: &Receiver, watches: &str) -> String {
    config_with(database, receiver, "", watches)
}

/// … with further lines for `[database]`.
fn config_with(database: &Database, receiver: &Receiver, lines: &str, watches: &str) -> String {
    let retry = "retry = { initial = \"20ms\", max = \"200ms\" }\n";
    format!("[database]\nurl = \"{}\"\n{lines}\n{}{retry}{watches}", database.url(), receiver.endpoint("main"))
}

fn daemon(config: &str) -> Daemon {
    Daemon::new(env!("CARGO_BIN_EXE_items-listen"), config)
}

/// Inserts so many open orders.
async fn insert(database: &Database, tenant: i32, count: i32) {
    database.sql(&format!("INSERT INTO orders (tenant_id) SELECT {tenant} FROM generate_series(1, {count})")).await;
}

/// Waits until journal, markers and dirty keys are empty, and compares every count with the truth, which is a
/// query of (key as text, rows).
async fn exact(database: &Database, watch: &str, truth: &str) {
    let difference = format!(
        "WITH truth (key, rows) AS ({truth}), known AS (
             SELECT c.key, c.rows FROM items_listen.count c JOIN items_listen.watch w ON w.id = c.watch
             WHERE w.name = '{watch}' AND c.rows <> 0)
         SELECT (SELECT count(*) FROM items_listen.journal) + (SELECT count(*) FROM items_listen.marker)
              + (SELECT count(*) FROM items_listen.count WHERE dirty > 0) AS waiting,
                coalesce((SELECT left(string_agg(concat_ws(' ', key, 'truth', truth.rows, 'count', known.rows), '; '), 400)
                 FROM truth FULL JOIN known USING (key) WHERE truth.rows IS DISTINCT FROM known.rows), '') AS difference"
    );
    let mut last = String::new();
    let last = &mut last;
    support::eventually(&format!("counts of {watch} are exact"), async || {
        let row = database.client.query_one(difference.as_str(), &[]).await.expect("the comparison runs");
        let now = format!("{} waiting; {}", row.get::<_, i64>(0), row.get::<_, String>(1));
        if now != *last {
            eprintln!("{watch}: {now}");
            last.clone_from(&now);
        }
        (now == "0 waiting; ").then_some(())
    })
    .await;
}

const TRUE_ORDERS: &str = "SELECT jsonb_build_array(tenant_id)::text, count(*) FROM orders WHERE status = 'open' GROUP BY 1";

/// transition, severity, count of each event.
fn said(events: &[support::receiver::Event]) -> Vec<(String, String, i64)> {
    events.iter().map(|event| (event.text("transition"), event.text("severity"), event.number("count"))).collect()
}

fn expected(said: &[(&str, &str, i64)]) -> Vec<(String, String, i64)> {
    said.iter().map(|(transition, severity, count)| ((*transition).to_owned(), (*severity).to_owned(), *count)).collect()
}

/// Sessions that insert and delete orders of seven tenants, crossing the threshold again and again. None of them ever fails.
struct Busy {
    stop: tokio_util::sync::CancellationToken,
    sessions: tokio::task::JoinSet<()>,
}

impl Busy {
    async fn start(database: &Database, sessions: i32) -> Busy {
        let mut busy = Busy { stop: tokio_util::sync::CancellationToken::new(), sessions: tokio::task::JoinSet::new() };
        for session in 0..sessions {
            let (client, stop) = (database.session().await, busy.stop.clone());
            busy.sessions.spawn(async move {
                let mut step = 0;
                while !stop.is_cancelled() {
                    let tenant = (step + session) % 7;
                    let sql = match step % 3 {
                        2 => format!("DELETE FROM orders WHERE tenant_id = {tenant}"),
                        _ => format!("INSERT INTO orders (tenant_id) SELECT {tenant} FROM generate_series(1, 22)"),
                    };
                    client.batch_execute(&sql).await.expect("no writer ever fails");
                    step += 1;
                }
            });
        }
        busy
    }

    async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.sessions.join_next().await {
            ended.expect("the writer does not panic");
        }
    }
}

/// Waits until the outbox has nothing left to do.
async fn all_delivered(database: &Database) {
    support::eventually("everything is delivered", async || {
        let left: i64 = database.one("SELECT count(*) FROM items_listen.delivery WHERE state <> 'delivered'").await;
        (left == 0).then_some(())
    })
    .await;
}
