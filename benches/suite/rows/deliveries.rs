//! How much is carried: 20,000 alerts that one transaction causes at once, on their way to one endpoint.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::context::Context;
use crate::figure::Bound::{AtLeast, RatioAbove, RatioAtLeast};
use crate::figure::{Figure, Goal, Series};
use crate::senders::{Sender, accepted, client, data, inspect};
use crate::sink::{Sink, Taken, now, seconds};

/// Requests at once, the daemon's default.
const IN_FLIGHT: usize = 8;
const BATCH: u64 = 10;
/// A sender that has not delivered all by then is judged by what it has.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq)]
enum Contender {
    /// Signed requests of so many events, from memory: what client, receiver and machine allow at best.
    Bare(u64),
    Sends(Sender),
}

impl Contender {
    fn name(self) -> String {
        match self {
            Contender::Bare(BATCH) => "ceiling: bare POSTs of 10".to_owned(),
            Contender::Bare(events) => format!("ceiling: bare POSTs of {events}"),
            Contender::Sends(sender) => sender.name(),
        }
    }
}

/// What a run showed.
struct Delivered {
    /// Events per second, from the first arrival to the last.
    rate: f64,
    /// From COMMIT to the last arrival.
    seconds: f64,
}

const CEILING: usize = 0;
const CEILING_OF_ONE: usize = 1;
const OURS: usize = 2;
const OURS_OF_ONE: usize = 3;

pub async fn run(context: &Context) -> Vec<Figure> {
    let sink = Sink::start();
    let ours = [10, 1].map(|max_batch| Contender::Sends(Sender::Ours { max_batch }));
    let peers = Sender::peers().into_iter().map(Contender::Sends);
    let contenders: Vec<Contender> = [Contender::Bare(BATCH), Contender::Bare(1)].into_iter().chain(ours).chain(peers).collect();
    let delivered = context.rounds(&contenders, async |contender| measure(context, &sink, *contender).await).await;
    let rates: Vec<Vec<f64>> = delivered.iter().map(|runs| runs.iter().map(|run| run.rate).collect()).collect();
    let times: Vec<Vec<f64>> = delivered.iter().map(|runs| runs.iter().map(|run| run.seconds).collect()).collect();
    let names: Vec<String> = contenders.iter().map(|contender| contender.name()).collect();
    let mut figures = throughput(&names, &rates);
    figures.extend((OURS..names.len()).map(|place| {
        let (ours, other) = ((names[place].as_str(), &times[place][..]), (names[CEILING].as_str(), &times[CEILING][..]));
        Figure::beside("deliveries", "COMMIT to last arrival", "s", ours, other)
    }));
    let own = sink_ceiling(&sink).await;
    figures.push(Figure::alone("deliveries", "what the sink takes", "requests/s", "raw sockets", &[own]));
    figures
}

fn throughput(names: &[String], rates: &[Vec<f64>]) -> Vec<Figure> {
    let beside = |one: usize, other: usize| {
        let (ours, others) = ((names[one].as_str(), &rates[one][..]), (names[other].as_str(), &rates[other][..]));
        Figure::beside("deliveries", "events", "/s", ours, others)
    };
    let mut figures = vec![
        beside(OURS, CEILING).goal(Goal::new(RatioAtLeast(0.7)).or(AtLeast(20_000.0))),
        // A ceiling of 44,000 a second, as the goal has it, is that of requests with one event each: batches carry far more.
        beside(OURS, CEILING_OF_ONE).goal(Goal::new(RatioAtLeast(0.7)).or(RatioAtLeast(20.0 / 44.0))),
        beside(OURS_OF_ONE, CEILING_OF_ONE),
    ];
    let peers = OURS_OF_ONE + 1..names.len();
    let best = peers.clone().max_by(|one, other| Series::new(&rates[*one]).median.total_cmp(&Series::new(&rates[*other]).median));
    for peer in peers {
        let goal = |bound| if Some(peer) == best { Some(Goal::new(bound)) } else { None };
        for (ours, bound) in [(OURS, RatioAtLeast(3.0)), (OURS_OF_ONE, RatioAbove(1.0))] {
            let figure = beside(ours, peer);
            figures.push(goal(bound).map_or(figure.clone(), |goal| figure.goal(goal)));
        }
    }
    figures
}

async fn measure(context: &Context, sink: &Sink, contender: Contender) -> Delivered {
    let alerts = context.amount(20_000);
    let (taken, from) = match contender {
        Contender::Bare(events) => bare(sink, alerts, events).await,
        Contender::Sends(sender) => sent(context, sink, sender, alerts).await,
    };
    inspect(&contender.name(), &taken);
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    let delivered = Delivered { rate: taken.arrivals.len() as f64 / taken.span(), seconds: seconds(from, taken.last()) };
    context.say(&format!(
        "deliveries: {}: {:.0} /s, all of {} within {:.2} s of the COMMIT, in {} requests",
        contender.name(),
        delivered.rate,
        taken.arrivals.len(),
        delivered.seconds,
        taken.requests
    ));
    delivered
}

/// All alerts by one statement; when it was committed.
async fn sent(context: &Context, sink: &Sink, sender: Sender, alerts: u64) -> (Taken, i64) {
    let started = sender.start(context, sink, "deliveries").await;
    // Connections are made, code is compiled, plans are cached.
    insert(&started.database.client, 1_000_000, 1_000_000 + context.amount(2_000)).await;
    let warm = usize::try_from(context.amount(2_000)).expect("not that many");
    let warmed = sink.wait_for(warm, PATIENCE).await;
    assert!(warmed.is_some(), "{}: {} of {warm} arrived", sender.name(), sink.count().await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    // As in a database that has lived for a while: plans made without statistics would be another benchmark.
    started.database.sql("VACUUM ANALYZE").await;
    started.database.sql("CHECKPOINT").await;
    let _earlier = sink.take().await;
    insert(&started.database.client, 0, alerts).await;
    let committed = now();
    let all = usize::try_from(alerts).expect("not that many");
    if sink.wait_for(all, PATIENCE).await.is_none() {
        context.say(&format!("deliveries: {}: {} of {alerts} arrived in {PATIENCE:?}", sender.name(), sink.count().await));
    }
    let taken = sink.take().await;
    started.end(context).await;
    (taken, committed)
}

async fn insert(client: &tokio_postgres::Client, above: u64, to: u64) {
    let sql = format!("INSERT INTO alerts (id, tenant_id) SELECT i, i % 100 FROM generate_series({}, {to}) AS i", above + 1);
    client.batch_execute(&sql).await.expect("inserted");
}

/// Bodies are made first: nothing but signing and sending is left.
async fn bare(sink: &Sink, alerts: u64, events: u64) -> (Taken, i64) {
    let bodies: Arc<Vec<String>> = Arc::new((0..alerts / events).map(|batch| body(batch * events + 1, events)).collect());
    let resource = if events == 1 { "events" } else { "batch_events" };
    let (client, next) = (client(sink), Arc::new(AtomicU64::new(0)));
    let _earlier = sink.take().await;
    let from = now();
    let mut tasks = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (client, next, bodies) = (client.clone(), Arc::clone(&next), Arc::clone(&bodies));
        tasks.spawn(async move {
            let place = || usize::try_from(next.fetch_add(1, Ordering::Relaxed)).expect("not that many");
            while let Some(body) = bodies.get(place()) {
                accepted(&client.post(resource, body.clone(), Uuid::now_v7().as_bytes()).await);
            }
        });
    }
    let _all = tasks.join_all().await;
    (sink.take().await, from)
}

fn body(first: u64, events: u64) -> String {
    let data = |id: u64| data(&id.to_string(), Uuid::now_v7());
    if events == 1 {
        return json!({ "name": "alert", "channels": [format!("bench.{first}")], "data": data(first) }).to_string();
    }
    let item = |id: u64| json!({ "name": "alert", "channel": format!("bench.{id}"), "data": data(id) });
    json!({ "batch": (first..first + events).map(item).collect::<Vec<_>>() }).to_string()
}

/// Requests per second of ten events each that the sink takes from as many sockets, without any client library.
async fn sink_ceiling(sink: &Sink) -> f64 {
    let body = body(1, BATCH);
    let mut request = String::new();
    let _infallible = write!(request, "POST /x HTTP/1.1\r\nhost: sink\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let request = Arc::new(request);
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut tasks = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (request, port) = (Arc::clone(&request), sink.port);
        tasks.spawn(async move {
            let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("the sink listens");
            let (mut answer, mut requests) = ([0; 1_024], 0_u32);
            while Instant::now() < deadline {
                stream.write_all(request.as_bytes()).await.expect("it reads");
                assert!(stream.read(&mut answer).await.is_ok_and(|read| read > 0), "it answers");
                requests += 1;
            }
            f64::from(requests)
        });
    }
    tasks.join_all().await.iter().sum()
}
