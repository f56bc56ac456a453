//! When to NOTIFY. It serialises commits, so writers should only do so while somebody sleeps: how much each way of
//! knowing that costs, how often each really notifies, and how long an alert takes that nobody rang for.
//!
//! The ways are measured with the same small journal row and nothing else, so that only the bell differs; then our own
//! triggers, whole, with no daemon and with one that is busy.

use std::time::Duration;

use tokio_postgres::{AsyncMessage, NoTls};

use crate::context::Context;
use crate::figure::Bound::AtMost;
use crate::figure::{Figure, Goal};
use crate::pgbench::Script;
use crate::shop;
use crate::sink::{self, Sink};
use crate::support::daemon::Daemon;
use crate::support::postgres::Database;

const NOWHERE: &str = "http://127.0.0.1:9";
const CLIENTS: usize = 16;

/// A way to ring, as what a trigger does beside its journal row. 4711 is the lock of the trials, as good as any number.
struct Bell {
    name: &'static str,
    ring: &'static str,
    /// At commit, by a second trigger.
    deferred: bool,
}

const PROBE: &str = "IF (CASE WHEN pg_try_advisory_lock_shared(4711) THEN NOT pg_advisory_unlock_shared(4711) ELSE true END) THEN
                         NOTIFY bell; END IF;";

const BELLS: [Bell; 6] = [
    Bell { name: "no bell", ring: "", deferred: false },
    Bell { name: "advisory lock", ring: PROBE, deferred: false },
    // Asks at commit: nobody could look while we are awake and commit when we sleep. But such a trigger is one for each row.
    Bell { name: "advisory lock, deferred trigger", ring: PROBE, deferred: true },
    Bell { name: "sequence as the flag", ring: "IF (SELECT is_called FROM flag) THEN NOTIFY bell; END IF;", deferred: false },
    Bell { name: "NOTIFY always", ring: "NOTIFY bell;", deferred: false },
    Bell { name: "NOTIFY, deferred trigger", ring: "NOTIFY bell;", deferred: true },
];

/// Between insert and commit.
const WRITERS_WAIT: [u64; 3] = [1, 5, 30];
const LATE_WRITERS: u64 = 10;
const PATIENCE: Duration = Duration::from_secs(30);
/// The poll is a second; a query and a request come on top.
const ABOUT_A_POLL: f64 = 1_050.0;

pub async fn run(context: &Context) -> Vec<Figure> {
    let mut figures = ways(context).await;
    figures.extend(ours(context).await);
    figures.extend(late(context).await);
    figures
}

/// Each way, while nobody sleeps and while somebody does.
async fn ways(context: &Context) -> Vec<Figure> {
    let database = context.database().await;
    for (number, bell) in BELLS.iter().enumerate() {
        database.sql(&trial(number, bell)).await;
    }
    database.sql("CREATE SEQUENCE flag").await;
    let sleeper = database.session().await;
    let mut figures = Vec::new();
    for (state, hold, flag) in
        [("nobody sleeps", "pg_advisory_unlock_all()", "false"), ("somebody sleeps", "pg_advisory_lock(4711)", "true")]
    {
        // What a daemon would do that goes to sleep, and what one does that wakes.
        sleeper.batch_execute(&format!("SELECT {hold}, setval('flag', 1, {flag})")).await.expect("the flag is set");
        let mut notified = vec![Vec::new(); BELLS.len()];
        let places: Vec<usize> = (0..BELLS.len()).collect();
        let rates = context
            .rounds(&places, async |&place| {
                let sql = format!("\\set t random(1, 100)\nINSERT INTO items{place} (tenant_id) VALUES (:t);");
                let (rate, rung) = rung(context, &database, "bell", &sql).await;
                context.say(&format!("doorbell: {state}: {}: {rate:.0} tx/s, {rung} notifications", BELLS[place].name));
                notified[place].push(rung as f64);
                rate
            })
            .await;
        for (place, bell) in BELLS.iter().enumerate() {
            let measure = format!("{state}: one-row inserts, {CLIENTS} clients");
            let (ours, other) = ((bell.name, &rates[place][..]), (BELLS[0].name, &rates[0][..]));
            figures.push(Figure::beside("doorbell", &measure, "tx/s", ours, other));
            figures.push(Figure::alone("doorbell", &format!("{state}: NOTIFYs"), "", bell.name, &notified[place]));
        }
    }
    figures
}

/// A table with a trigger that writes a journal row and rings.
fn trial(number: usize, bell: &Bell) -> String {
    let (now, later) = if bell.deferred { ("", bell.ring) } else { (bell.ring, "") };
    let tables = format!(
        "CREATE TABLE items{number} (id bigserial PRIMARY KEY, tenant_id int NOT NULL);
         CREATE TABLE journal{number} (xid xid8 NOT NULL DEFAULT pg_current_xact_id(), key text NOT NULL, rows bigint NOT NULL);
         CREATE INDEX ON journal{number} (xid);
         CREATE FUNCTION changed{number}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO journal{number} (key, rows) SELECT jsonb_build_array(tenant_id)::text, 1 FROM new_rows;
             {now} RETURN NULL; END $$;
         CREATE TRIGGER changed AFTER INSERT ON items{number} REFERENCING NEW TABLE AS new_rows
             FOR EACH STATEMENT EXECUTE FUNCTION changed{number}();"
    );
    let deferred = format!(
        "CREATE FUNCTION later{number}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {later} RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER later AFTER INSERT ON items{number} DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION later{number}();"
    );
    if bell.deferred { tables + &deferred } else { tables }
}

/// Transactions per second, and how many notifications came of them.
async fn rung(context: &Context, database: &Database, channel: &str, sql: &str) -> (f64, usize) {
    let listener = Listener::open(database, channel).await;
    let rate = Script::new(sql).rate(&context.server, database, CLIENTS, context.duration).await;
    (rate, listener.close().await)
}

/// A session that counts.
struct Listener {
    client: tokio_postgres::Client,
    counting: tokio::task::JoinHandle<usize>,
}

impl Listener {
    async fn open(database: &Database, channel: &str) -> Listener {
        let (client, mut connection) = tokio_postgres::connect(&database.url(), NoTls).await.expect("connects");
        let counting = tokio::spawn(async move {
            let mut count = 0;
            while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                count += usize::from(matches!(message, AsyncMessage::Notification(_)));
            }
            count
        });
        client.batch_execute(&format!("LISTEN {channel}")).await.expect("listens");
        Listener { client, counting }
    }

    async fn close(self) -> usize {
        let Listener { client, counting } = self;
        // What was committed before this statement is delivered before its answer.
        client.batch_execute("SELECT 1").await.expect("it is there");
        drop(client);
        counting.await.expect("no panic")
    }
}

/// Our own triggers with no daemon, and with a daemon that the same writers keep busy.
async fn ours(context: &Context) -> Vec<Figure> {
    let database = context.database().await;
    database.sql("CREATE TABLE items (id bigserial PRIMARY KEY, tenant_id int NOT NULL)").await;
    database.sql("CREATE TABLE plain (LIKE items INCLUDING ALL)").await;
    let mut daemon = context.daemon(&database, NOWHERE, &shop::WATCH.replace("threshold = 2", "threshold = 1000000000"));
    daemon.start().await;
    shop::settled(&database).await;
    let mut notified = vec![Vec::new(); 3];
    let rates = context
        .rounds(&[0, 1, 2], async |&state| {
            running(&mut daemon, state == 1).await;
            let table = if state == 2 { "plain" } else { "items" };
            let sql = format!("\\set t random(1, 100)\nINSERT INTO {table} (tenant_id) VALUES (:t);");
            let (rate, rung) = rung(context, &database, "items_listen", &sql).await;
            context.say(&format!("doorbell: {}: {rate:.0} tx/s, {rung} notifications", STATES[state]));
            notified[state].push(rung as f64);
            rate
        })
        .await;
    running(&mut daemon, true).await;
    shop::settled(&database).await;
    let beside = |state: usize| {
        let measure = format!("our triggers, {CLIENTS} clients");
        Figure::beside("doorbell", &measure, "tx/s", (STATES[state], &rates[state]), (STATES[2], &rates[2]))
    };
    let count = |state: usize| Figure::alone("doorbell", "our triggers: NOTIFYs", "", STATES[state], &notified[state]);
    vec![beside(0), beside(1), count(0).goal(Goal::new(AtMost(0.0))), count(1).goal(Goal::new(AtMost(10.0)))]
}

const STATES: [&str; 3] = ["no daemon", "busy daemon", "unwatched"];

async fn running(daemon: &mut Daemon, wanted: bool) {
    match (daemon.has_ended(), wanted) {
        (true, true) => daemon.start().await,
        (false, false) => drop(daemon.terminate().await),
        _ => {}
    }
}

/// Writers that insert while the daemon is awake, so that they do not ring, and commit when it has long been asleep.
async fn late(context: &Context) -> Vec<Figure> {
    let (database, sink) = (context.database().await, Sink::start());
    shop::stock(&database, 1_000).await;
    let mut daemon = context.daemon(&database, &sink.url(), shop::WATCH);
    daemon.start().await;
    shop::settled(&database).await;
    let mut figures = Vec::new();
    for (place, seconds) in WRITERS_WAIT.into_iter().enumerate() {
        let first = 1 + 100 * i64::try_from(place).expect("few");
        let waits = Duration::from_secs(context.amount(seconds));
        let latencies = late_by(&database, &sink, first, waits).await;
        let worst = latencies.iter().copied().fold(0.0, f64::max);
        context.say(&format!("doorbell: committed {} s after the insert: at most {worst:.0} ms", waits.as_secs()));
        let measure = format!("commit {} s after the insert → request, the worst of {LATE_WRITERS}", waits.as_secs());
        figures.push(Figure::alone("doorbell", &measure, "ms", "items-listen", &[worst]).goal(Goal::new(AtMost(ABOUT_A_POLL))));
        let measure = format!("commit {} s after the insert → request", waits.as_secs());
        figures.push(Figure::alone("doorbell", &measure, "ms", "items-listen", &latencies));
    }
    figures
}

/// In milliseconds from its commit, of each writer.
async fn late_by(database: &Database, sink: &Sink, first: i64, waits: Duration) -> Vec<f64> {
    let mut writers = Vec::new();
    for key in first..first + i64::try_from(LATE_WRITERS).expect("few") {
        let session = database.session().await;
        // The statement before keeps the daemon awake for the next 20 ms, in which the insert does not ring.
        database.sql(&format!("INSERT INTO items VALUES ({}, 999)", 2 * shop::SECOND + key)).await;
        let insert = format!("BEGIN; INSERT INTO items VALUES ({}, {key})", shop::SECOND + key);
        session.batch_execute(&insert).await.expect("a writer never fails");
        writers.push((key, session));
    }
    tokio::time::sleep(waits).await;
    let mut latencies = Vec::new();
    for (key, session) in writers {
        let _of_others = sink.take().await;
        session.batch_execute("COMMIT").await.expect("commits");
        let committed = sink::now();
        sink.wait_for(1, PATIENCE).await.expect("the poll finds it at the latest");
        let (of, at) = sink.take().await.arrivals[0];
        assert_eq!(of, key.unsigned_abs());
        latencies.push(sink::seconds(committed, at) * 1_000.0);
        // Asleep again, and not at the same time within the beat.
        tokio::time::sleep(Duration::from_millis(300 + u64::try_from(key).unwrap_or(0) % 10 * 37)).await;
    }
    latencies
}
