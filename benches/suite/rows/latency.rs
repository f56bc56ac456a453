//! From the acknowledgement of the writer's COMMIT to the request at the endpoint, at 200 changes a second, each of them an
//! alert of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_postgres::Statement;

use crate::context::Context;
use crate::figure::Bound::{AtMost, RatioAtMost, RatioBelow};
use crate::figure::{Figure, Goal, percentile};
use crate::senders::{Sender, inspect};
use crate::sink::{Sink, now, seconds};
use crate::support::postgres::Database;

const EVERY: Duration = Duration::from_millis(5);
/// So many sessions take turns, so that a slow commit does not delay the next change.
const SESSIONS: usize = 4;
const WARM_UP: u64 = 400;
/// What has not arrived so long after the last change is left out, and said.
const PATIENCE: Duration = Duration::from_secs(30);
const OURS: Sender = Sender::Ours { max_batch: 10 };

pub async fn run(context: &Context) -> Vec<Figure> {
    let sink = Sink::start();
    let senders: Vec<Sender> = [Sender::Floor, OURS].into_iter().chain(Sender::peers()).collect();
    let times = context.rounds(&senders, async |sender| measure(context, &sink, *sender).await).await;
    let of = |place: usize, percent: f64| -> Vec<f64> { times[place].iter().map(|times| percentile(times, percent)).collect() };
    let mut figures = Vec::new();
    for (measure, percent) in [("p50", 50.0), ("p99", 99.0)] {
        let all: Vec<Vec<f64>> = (0..senders.len()).map(|place| of(place, percent)).collect();
        figures.extend(compared(measure, &senders, &all));
    }
    figures
}

/// Ours beside the floor and the peers, and what they take beside the floor.
fn compared(measure: &str, senders: &[Sender], values: &[Vec<f64>]) -> Vec<Figure> {
    let beside = |one: usize, other: usize| {
        let (name, others) = (senders[one].name(), senders[other].name());
        Figure::beside("latency", measure, "ms", (&name, &values[one]), (&others, &values[other]))
    };
    let goal = match measure {
        "p50" => Goal::new(RatioAtMost(3.0)).or(RatioAtMost(5.0)),
        _ => Goal::new(AtMost(3.0)).or(AtMost(10.0)),
    };
    let ahead = |other: usize| beside(1, other).goal(Goal::new(RatioBelow(1.0)));
    let peers = || 2..senders.len();
    std::iter::once(beside(1, 0).goal(goal)).chain(peers().map(ahead)).chain(peers().map(|peer| beside(peer, 0))).collect()
}

/// Each alert's time in milliseconds, without those of the warm-up.
async fn measure(context: &Context, sink: &Sink, sender: Sender) -> Vec<f64> {
    let started = sender.start(context, sink, "latency").await;
    started.database.sql("CHECKPOINT").await;
    let _earlier = sink.take().await;
    let changes = WARM_UP + context.amount(1_500).max(100);
    let committed = write(&started.database, changes).await;
    let all = usize::try_from(changes).expect("not that many");
    if sink.wait_for(all, PATIENCE).await.is_none() {
        context.say(&format!("latency: {}: only {} of {changes} arrived in {PATIENCE:?}", sender.name(), sink.count().await));
    }
    let taken = sink.take().await;
    inspect(&sender.name(), &taken);
    started.end(context).await;
    let times: Vec<f64> = taken
        .arrivals
        .iter()
        .filter(|(id, _)| *id > WARM_UP)
        .map(|(id, arrived)| seconds(committed[id], *arrived) * 1_000.0)
        .collect();
    let (p50, p99) = (percentile(&times, 50.0), percentile(&times, 99.0));
    context.say(&format!("latency: {}: p50 {p50:.2} ms, p99 {p99:.2} ms of {}", sender.name(), times.len()));
    times
}

/// Writes row after row at a steady pace; gives when each COMMIT was acknowledged.
async fn write(database: &Database, changes: u64) -> HashMap<u64, i64> {
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let client = database.session().await;
        let insert: Statement = client.prepare("INSERT INTO alerts (id, tenant_id) VALUES ($1, 1)").await.expect("prepared");
        sessions.push(Arc::new((client, insert)));
    }
    let committed = Arc::new(Mutex::new(HashMap::new()));
    let mut pace = tokio::time::interval(EVERY);
    let mut under_way = Vec::new();
    for (id, session) in (1..=changes).zip(sessions.iter().cycle()) {
        pace.tick().await;
        let (session, committed) = (Arc::clone(session), Arc::clone(&committed));
        under_way.push(tokio::spawn(async move {
            let (client, insert) = &*session;
            client.execute(insert, &[&i64::try_from(id).expect("small")]).await.expect("inserted");
            let at = now();
            committed.lock().expect("no panic").insert(id, at);
        }));
    }
    for task in under_way {
        task.await.expect("no panic");
    }
    let committed = committed.lock().expect("no panic");
    committed.clone()
}
