//! One, two and four replicas on one database: what writers keep of their throughput, and deliveries per second.

use std::time::Duration;

use crate::context::Context;
use crate::figure::Figure;
use crate::pgbench::Script;
use crate::shop;
use crate::sink::{self, Sink};
use crate::support::daemon::Daemon;
use crate::support::postgres::Database;

const REPLICAS: [usize; 3] = [1, 2, 4];
const CLIENTS: usize = 16;
const ALERTS: u64 = 20_000;
const PATIENCE: Duration = Duration::from_secs(120);

pub async fn run(context: &Context) -> Vec<Figure> {
    let mut figures = Vec::new();
    let (mut kept, mut rates) = (Vec::new(), Vec::new());
    for count in REPLICAS {
        let (written, plain, delivered) = with(context, count).await;
        kept.push((count, written, plain));
        rates.push((count, delivered));
    }
    let name = |count: usize| if count == 1 { "1 replica".to_owned() } else { format!("{count} replicas") };
    for (count, written, plain) in &kept {
        let measure = format!("one-row inserts, {CLIENTS} clients");
        figures.push(Figure::beside("replicas", &measure, "tx/s", (&name(*count), written), ("unwatched", plain)));
    }
    for (count, rate) in &rates {
        let measure = format!("deliveries, {} alerts at once", context.amount(ALERTS));
        figures.push(Figure::beside("replicas", &measure, "/s", (&name(*count), rate), (&name(rates[0].0), &rates[0].1)));
    }
    figures
}

/// Watched and unwatched inserts per second, and deliveries per second, of each round.
async fn with(context: &Context, count: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (database, sink) = (context.database().await, Sink::start());
    let keys = context.amount(ALERTS);
    shop::stock(&database, keys).await;
    database.sql("CREATE TABLE watched (id bigserial PRIMARY KEY, tenant_id int NOT NULL)").await;
    database.sql("CREATE TABLE plain (LIKE watched INCLUDING ALL)").await;
    let watches = format!("{}{}", shop::WATCH, WATCHED);
    let mut replicas: Vec<Daemon> = (0..count).map(|_| context.daemon(&database, &sink.url(), &watches)).collect();
    for replica in &mut replicas {
        replica.start().await;
    }
    shop::settled(&database).await;
    let mut values = context.rounds(&["watched", "plain"], async |table| writes(context, &database, table).await).await;
    let mut delivered = Vec::new();
    for round in 0..context.pairs {
        let rate = deliveries(&database, &sink, keys, round % 2 == 0).await;
        context.say(&format!("replicas: {count}: {rate:.0} deliveries/s"));
        delivered.push(rate);
    }
    let plain = values.pop().unwrap_or_default();
    (values.pop().unwrap_or_default(), plain, delivered)
}

const WATCHED: &str = r#"
[[watch]]
name = "watched"
table = "public.watched"
key = ["tenant_id"]
threshold = 1000000000
[[watch.publish]]
channels = ["bench"]
event = "bench"
endpoint = "main"
"#;

async fn writes(context: &Context, database: &Database, table: &str) -> f64 {
    let sql = format!("\\set t random(1, 100)\nINSERT INTO {table} (tenant_id) VALUES (:t);");
    let script = Script::new(&sql);
    let rate = script.rate(&context.server, database, CLIENTS, context.duration).await;
    shop::settled(database).await;
    context.say(&format!("replicas: {table}: {rate:.0} tx/s"));
    rate
}

/// Every key raises an alert in one transaction, or every alert is resolved: per second, from commit to the last request.
async fn deliveries(database: &Database, sink: &Sink, keys: u64, raise: bool) -> f64 {
    let _of_before = sink.take().await;
    let sql = if raise {
        format!("INSERT INTO items SELECT {} + i, i FROM generate_series(1, {keys}) AS i", shop::SECOND)
    } else {
        format!("DELETE FROM items WHERE id > {}", shop::SECOND)
    };
    database.sql(&sql).await;
    let committed = sink::now();
    sink.wait_for(usize::try_from(keys).expect("few"), PATIENCE).await.expect("all were delivered");
    let seconds = sink::seconds(committed, sink.take().await.last());
    shop::settled(database).await;
    keys as f64 / seconds
}
