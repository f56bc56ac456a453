//! What being watched costs writers: single-row inserts by pgbench, at several numbers of clients, into the same table
//! unwatched, watched in two shapes, with and without a daemon, and with what one would write by hand in its place.

use tokio::task::JoinHandle;

use crate::context::Context;
use crate::figure::Bound::RatioAtLeast;
use crate::figure::{Figure, Goal};
use crate::ledger;
use crate::listen::Listener;
use crate::peers;
use crate::pgbench::Script;
use crate::support::daemon::Daemon;
use crate::support::postgres::Database;

const CLIENTS: [usize; 4] = [1, 4, 16, 64];
/// No alert is ever raised, so none is sent there.
const NOWHERE: &str = "http://127.0.0.1:9";

const WATCHES: &str = r#"
[[watch]]
name = "watched"
table = "public.watched"
key = ["tenant_id"]
threshold = 1000000000
[[watch.publish]]
channels = ["bench"]
event = "bench"
[[watch]]
name = "filtered"
table = "public.filtered"
key = ["tenant_id"]
where = "status = 'open'"
threshold = 1000000000
[[watch.publish]]
channels = ["bench"]
event = "bench"
"#;

/// What an application does by hand when it wants to be told of each row.
const NOTIFYING: &str = "
    CREATE FUNCTION notifying() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_notify('bench', row_to_json(NEW)::text); RETURN NULL; END $$;
    CREATE TRIGGER notifying AFTER INSERT ON notifying FOR EACH ROW EXECUTE FUNCTION notifying();";
/// … and what it does when it wants a count at hand.
const COUNTING: &str = "
    CREATE TABLE counter (id int PRIMARY KEY, rows bigint NOT NULL) WITH (fillfactor = 10);
    INSERT INTO counter VALUES (1, 0);
    CREATE FUNCTION counting() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE counter SET rows = rows + 1 WHERE id = 1; RETURN NULL; END $$;
    CREATE TRIGGER counting AFTER INSERT ON counting FOR EACH ROW EXECUTE FUNCTION counting();";
/// … and with a job queue.
const QUEUEING: &str = "
    CREATE FUNCTION queueing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM graphile_worker.add_job('alert', json_build_object('id', NEW.id, 'tenant_id', NEW.tenant_id)); RETURN NULL; END $$;
    CREATE TRIGGER queueing AFTER INSERT ON queueing FOR EACH ROW EXECUTE FUNCTION queueing();";

#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// A daemon runs and keeps up.
    Daemon,
    /// The triggers are there, but no daemon is.
    NoDaemon,
    /// items-listen was never here.
    ByHand,
}

struct Contender {
    name: &'static str,
    table: &'static str,
    place: Place,
}

const UNWATCHED: Contender = Contender { name: "unwatched", table: "plain", place: Place::Daemon };
const WATCHED: [Contender; 4] = [
    Contender { name: "watched", table: "watched", place: Place::Daemon },
    Contender { name: "watched, where", table: "filtered", place: Place::Daemon },
    Contender { name: "watched, no daemon", table: "watched", place: Place::NoDaemon },
    Contender { name: "watched, where, no daemon", table: "filtered", place: Place::NoDaemon },
];
const OTHERS: [Contender; 3] = [
    Contender { name: "pg_notify in a row trigger", table: "notifying", place: Place::ByHand },
    Contender { name: "one hot counter row", table: "counting", place: Place::ByHand },
    Contender { name: "graphile-worker add_job", table: "queueing", place: Place::ByHand },
];

pub async fn run(context: &Context) -> Vec<Figure> {
    let mut stage = Stage::new(context).await;
    let others = if peers::installed() { &OTHERS[..] } else { &OTHERS[..2] };
    let contenders: Vec<&Contender> = std::iter::once(&UNWATCHED).chain(&WATCHED).chain(others).collect();
    let mut figures = Vec::new();
    for clients in CLIENTS {
        let rates = context.rounds(&contenders, async |contender| stage.measure(context, contender, clients).await).await;
        figures.extend(compared(clients, &contenders, &rates));
        context.say(&format!("writes: {clients} clients; the longest that a fold was behind: {} ms", stage.behind_ms));
    }
    figures.push(Figure::alone("writes", "journal dry after the last commit", "ms", "longest", &[stage.behind_ms]));
    figures
}

/// The watched ones beside the unwatched, then the plain watch beside what one would write by hand.
fn compared(clients: usize, contenders: &[&Contender], rates: &[Vec<f64>]) -> Vec<Figure> {
    let measure = format!("{clients} clients");
    let beside = |ours: usize, other: usize| {
        let (ours, other) = ((contenders[ours].name, &rates[ours][..]), (contenders[other].name, &rates[other][..]));
        Figure::beside("writes", &measure, "tx/s", ours, other)
    };
    let kept = |place: usize| beside(place, 0).goal(Goal::new(RatioAtLeast(0.9)).or(RatioAtLeast(0.8)));
    let better = |place: usize| beside(1, place).goal(Goal::new(RatioAtLeast(3.0)));
    let kept_by_hand = |place: usize| beside(place, 0);
    let by_hand = || 1 + WATCHED.len()..contenders.len();
    (1..=WATCHED.len()).map(kept).chain(by_hand().map(better)).chain(by_hand().map(kept_by_hand)).collect()
}

/// The databases, and what runs beside them.
struct Stage {
    with_daemon: Database,
    without: Database,
    by_hand: Database,
    _daemon: Daemon,
    _listener: JoinHandle<()>,
    /// The longest time that it took until all was folded after a run.
    behind_ms: f64,
}

impl Stage {
    async fn new(context: &Context) -> Stage {
        let with_daemon = context.database().await;
        let without = context.database().await;
        let by_hand = context.database().await;
        for database in [&with_daemon, &without] {
            tables(database, &["plain", "watched", "filtered"]).await;
        }
        tables(&by_hand, &["notifying", "counting", "queueing"]).await;
        by_hand.sql(NOTIFYING).await;
        by_hand.sql(COUNTING).await;
        if peers::installed() {
            peers::graphile_schema(&by_hand);
            by_hand.sql(QUEUEING).await;
        }
        let mut daemon = context.daemon(&with_daemon, NOWHERE, WATCHES);
        daemon.start().await;
        // It has counted once, and is gone.
        let mut gone = context.daemon(&without, NOWHERE, WATCHES);
        gone.start().await;
        let _status = gone.terminate().await;
        let mut listener = Listener::new(&by_hand.url(), "bench").await;
        let listening = tokio::spawn(async move { while listener.next().await.is_some() {} });
        Stage { with_daemon, without, by_hand, _daemon: daemon, _listener: listening, behind_ms: 0.0 }
    }

    fn database(&self, contender: &Contender) -> &Database {
        match contender.place {
            Place::Daemon => &self.with_daemon,
            Place::NoDaemon => &self.without,
            Place::ByHand => &self.by_hand,
        }
    }

    /// Transactions per second into the emptied table.
    async fn measure(&mut self, context: &Context, contender: &Contender, clients: usize) -> f64 {
        self.prepare(contender).await;
        let script = Script::new(&format!("\\set t random(1, 100)\nINSERT INTO {} (tenant_id) VALUES (:t);\n", contender.table));
        let rate = script.rate(&context.server, self.database(contender), clients, context.duration).await;
        if contender.place == Place::Daemon && contender.table != UNWATCHED.table {
            self.audit(contender.table).await;
        }
        rate
    }

    async fn prepare(&self, contender: &Contender) {
        let database = self.database(contender);
        database.sql(&format!("TRUNCATE {}", contender.table)).await;
        match (contender.place, contender.table) {
            (Place::Daemon, _) => {
                ledger::dry(database).await;
            }
            (Place::NoDaemon, _) => ledger::forget(database).await,
            (Place::ByHand, "queueing") => database.sql("TRUNCATE graphile_worker._private_jobs").await,
            (Place::ByHand, _) => {}
        }
        database.sql("CHECKPOINT").await;
    }

    /// It must have kept up, and counted every row exactly once: a quick trigger that forgets is none.
    async fn audit(&mut self, table: &str) {
        let behind = ledger::dry(&self.with_daemon).await;
        self.behind_ms = self.behind_ms.max((behind.as_secs_f64() * 1_000.0).round());
        let rows: i64 = self.with_daemon.one(&format!("SELECT count(*) FROM {table}")).await;
        assert_eq!(ledger::counted(&self.with_daemon, table).await, rows, "{table}: the count is exact");
    }
}

async fn tables(database: &Database, names: &[&str]) {
    for name in names {
        let columns = "id bigserial PRIMARY KEY, tenant_id int NOT NULL, status text NOT NULL DEFAULT 'open'";
        database.sql(&format!("CREATE TABLE {name} ({columns})")).await;
    }
}
