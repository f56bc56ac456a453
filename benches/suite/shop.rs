//! A table with a row per key, of which a second row of any key raises an alert, and its removal resolves it: so every
//! change of a row is an event of its own, however many keys there are and however often they were used.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::{Client, Statement};

use crate::sink::{self, Sink};
use crate::support::postgres::Database;

/// What is watched of it. A key's events go to a channel of its own, by which the [`Sink`] knows them.
pub const WATCH: &str = r#"
[[watch]]
name = "items"
table = "public.items"
key = ["tenant_id"]
threshold = 2
[[watch.publish]]
channels = ["bench.{{ key.tenant_id }}"]
event = "bench"
endpoint = "main"
"#;

/// Added to a key: the number of its second row.
pub const SECOND: i64 = 1_000_000_000;
/// So many keys are used for probing: at 200 probes a second none is probed twice within seconds.
const PROBED: i64 = 1_000;
const SESSIONS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(30);

/// A key, and when it was changed or its event came.
type Change = (u64, i64);

/// A table with a row for each of so many keys.
pub async fn stock(database: &Database, keys: u64) {
    database.sql("CREATE TABLE IF NOT EXISTS items (id bigint PRIMARY KEY, tenant_id int NOT NULL)").await;
    let more = format!("INSERT INTO items SELECT i, i FROM generate_series((SELECT count(*) + 1 FROM items), {keys}) AS i");
    database.sql(&more).await;
    database.sql("VACUUM (ANALYZE) items").await;
}

/// Waits until everything is folded and judged.
pub async fn settled(database: &Database) {
    let waiting = "SELECT (SELECT count(*) FROM items_listen.journal) + (SELECT count(*) FROM items_listen.marker)
                        + (SELECT count(*) FROM items_listen.count WHERE dirty > 0)";
    crate::support::eventually("the journal is dry", async || (database.one::<i64>(waiting).await == 0).then_some(())).await;
}

/// Statistics as autovacuum would have made them within a minute or so: statements are planned for what is there.
pub async fn analysed(database: &Database) {
    database.sql("ANALYZE").await;
}

/// An endpoint that takes connections and never answers.
pub async fn silent_endpoint() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    format!("http://127.0.0.1:{port}")
}

struct Session {
    client: Client,
    insert: Statement,
    delete: Statement,
}

/// Changes single rows at a steady rate, and compares when each was committed with when its event came.
pub struct Prober {
    sessions: Vec<Arc<Session>>,
    keys: i64,
    next: i64,
    raised: HashSet<i64>,
}

impl Prober {
    pub async fn new(database: &Database, keys: u64) -> Prober {
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            let client = database.session().await;
            let insert = client.prepare("INSERT INTO items VALUES ($1, $2)").await.expect("prepares");
            let delete = client.prepare("DELETE FROM items WHERE id = $1").await.expect("prepares");
            sessions.push(Arc::new(Session { client, insert, delete }));
        }
        Prober { sessions, keys: i64::try_from(keys).expect("few"), next: 0, raised: HashSet::new() }
    }

    /// From commit to request, in milliseconds, of each of so many changes per second for so long.
    pub async fn latencies(&mut self, sink: &Sink, per_second: u32, duration: Duration) -> Vec<f64> {
        let _of_before = sink.take().await;
        let count = (f64::from(per_second) * duration.as_secs_f64()).round() as usize;
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
        let mut changes = JoinSet::new();
        for number in 0..count {
            ticks.tick().await;
            changes.spawn(self.change(number));
        }
        let committed = changes.join_all().await;
        sink.wait_for(committed.len(), PATIENCE).await.expect("an event for every change");
        matched(committed, sink.take().await.arrivals)
    }

    /// The next key's change.
    fn change(&mut self, number: usize) -> impl Future<Output = Change> + use<> {
        let probed = PROBED.min(self.keys);
        let key = 1 + (self.next % probed) * (self.keys / probed);
        self.next += 1;
        let session = Arc::clone(&self.sessions[number % SESSIONS]);
        let raises = self.raised.insert(key);
        if !raises {
            self.raised.remove(&key);
        }
        async move {
            let (row, tenant) = (SECOND + key, i32::try_from(key).expect("a small key"));
            let changed = if raises {
                session.client.execute(&session.insert, &[&row, &tenant]).await
            } else {
                session.client.execute(&session.delete, &[&row]).await
            };
            assert_eq!(changed.expect("a writer never fails"), 1);
            (key.unsigned_abs(), sink::now())
        }
    }
}

/// Each key's events come in the order of its changes. A request may come before the writer has heard that it committed.
fn matched(mut committed: Vec<Change>, came: Vec<Change>) -> Vec<f64> {
    let mut by_key: HashMap<u64, VecDeque<i64>> = HashMap::new();
    came.into_iter().for_each(|(key, at)| by_key.entry(key).or_default().push_back(at));
    committed.sort_by_key(|(_, at)| *at);
    let at = |(key, committed): Change| {
        let came = by_key.get_mut(&key).and_then(VecDeque::pop_front).expect("an event for every change");
        sink::seconds(committed, came) * 1_000.0
    };
    committed.into_iter().map(at).collect()
}
