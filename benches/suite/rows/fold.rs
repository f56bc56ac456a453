//! Journal rows folded per second, with few keys and with many, beside the same by hand: one DELETE … RETURNING that
//! feeds one INSERT … ON CONFLICT, in psql. What the fold does besides (limits, snapshot, judging every key) is what it
//! may cost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use items_listen::config::{Location, load_from};
use items_listen::db::pool::Pool;
use items_listen::db::schema::Schema;
use items_listen::db::session::{Connector, Purpose};
use items_listen::dispatch::{self, Dispatch};
use items_listen::engine::{Engine, Folded, Served};
use items_listen::journal::install;

use crate::context::Context;
use crate::figure::Bound::RatioAtLeast;
use crate::figure::{Figure, Goal};
use crate::shop;
use crate::support::daemon::Daemon;
use crate::support::postgres::Database;

const NOWHERE: &str = "http://127.0.0.1:9";
/// Each statement of the backlog changes so many keys.
const KEYS_A_STATEMENT: u64 = 1_000;

/// What one would write without limits, replicas, markers or thresholds in mind.
const BY_HAND: &str = "
    WITH taken AS (DELETE FROM items_listen.journal RETURNING generation, key, rows, coalesce(sum, 0) AS sum)
    INSERT INTO items_listen.count AS c (watch, key, rows, sum, dirty)
    SELECT w.id, t.key, sum(t.rows), sum(t.sum), 0 FROM taken t JOIN items_listen.watch w USING (generation) GROUP BY 1, 2
    ON CONFLICT (watch, key) DO UPDATE SET rows = c.rows + excluded.rows, sum = c.sum + excluded.sum";

pub async fn run(context: &Context) -> Vec<Figure> {
    let mut figures = Vec::new();
    for keys in [1_000, context.amount(1_000_000).max(1_000)] {
        figures.extend(with_keys(context, keys).await);
    }
    figures
}

async fn with_keys(context: &Context, keys: u64) -> [Figure; 2] {
    let rows = context.amount(1_000_000).max(KEYS_A_STATEMENT);
    let database = context.database().await;
    shop::stock(&database, keys).await;
    let daemon = context.daemon(&database, NOWHERE, &shop::WATCH.replace("threshold = 2", "threshold = 1000000000"));
    prepare(&database, &daemon, rows, keys).await;
    let seconds = context
        .rounds(&["items-listen", "by hand in psql"], async |contender| {
            restore(&database).await;
            let took = if *contender == "items-listen" { fold(&daemon).await } else { by_hand(context, &database).await };
            let left: i64 = database.one("SELECT count(*) FROM items_listen.journal").await;
            assert_eq!(left, 0, "{contender} took everything");
            context.say(&format!("fold: {keys} keys, {contender}: {:.2} s, judged after {:.2} s", took.dry, took.judged));
            took
        })
        .await;
    let figure = |until: &str, of: fn(&Took) -> f64| {
        let rates = |took: &[Took]| took.iter().map(|took| rows as f64 / of(took)).collect::<Vec<f64>>();
        let (ours, by_hand) = (rates(&seconds[0]), rates(&seconds[1]));
        let measure = format!("{rows} rows, {keys} keys, until {until}");
        Figure::beside("fold", &measure, "rows/s", ("items-listen", &ours), ("by hand in psql", &by_hand))
            .goal(Goal::new(RatioAtLeast(0.8)))
    };
    [figure("the journal is dry", |took| took.dry), figure("every key is judged", |took| took.judged)]
}

/// Seconds.
struct Took {
    dry: f64,
    /// Nobody judges by hand.
    judged: f64,
}

/// A counted watch, and a copy of the backlog that is folded again and again.
async fn prepare(database: &Database, daemon: &Daemon, rows: u64, keys: u64) {
    for command in [&["install"][..], &["recount"]] {
        let (code, _, errors) = daemon.run(command).await;
        assert_eq!(code, 0, "{errors}");
    }
    fold(daemon).await;
    // By the triggers, whatever they write: the first row of a key is replaced by itself, so that no count changes much.
    let statements = rows / KEYS_A_STATEMENT;
    database
        .sql(&format!(
            "DO $$ BEGIN FOR i IN 0..{statements} - 1 LOOP
                 INSERT INTO items SELECT {second} + i * {KEYS_A_STATEMENT} + k, 1 + (i * {KEYS_A_STATEMENT} + k) % {keys}
                 FROM generate_series(0, {KEYS_A_STATEMENT} - 1) AS k;
             END LOOP; END $$",
            second = shop::SECOND
        ))
        .await;
    database.sql("CREATE TABLE backlog AS SELECT * FROM items_listen.journal").await;
    database.sql("CREATE TABLE counted AS SELECT * FROM items_listen.count").await;
    let have: i64 = database.one("SELECT count(*) FROM backlog").await;
    assert_eq!(u64::try_from(have), Ok(rows), "a journal row for each change");
}

/// Everything as it was, without what the round before left behind.
async fn restore(database: &Database) {
    database.sql("TRUNCATE items_listen.journal, items_listen.count").await;
    database.sql("INSERT INTO items_listen.journal SELECT * FROM backlog").await;
    database.sql("INSERT INTO items_listen.count SELECT * FROM counted").await;
    database.sql("VACUUM (ANALYZE) items_listen.journal").await;
    database.sql("VACUUM (ANALYZE) items_listen.count").await;
    database.sql("CHECKPOINT").await;
}

/// Folds until there is nothing to be done, from a session that remembers nothing.
async fn fold(daemon: &Daemon) -> Took {
    let mut engine = engine(daemon).await;
    let (started, mut dry) = (Instant::now(), None);
    loop {
        let Folded::Done { complete, more, .. } = engine.fold().await.expect("folds") else { panic!("somebody else folds") };
        let seconds = started.elapsed().as_secs_f64();
        if complete {
            let dry = *dry.get_or_insert(seconds);
            if !more {
                return Took { dry, judged: seconds };
            }
        }
    }
}

async fn engine(daemon: &Daemon) -> Engine {
    let location = Location { config: Some(daemon.file.clone()), env_file: None };
    let config = load_from(&location, &BTreeMap::new()).expect("the configuration is right");
    let database = config.database.clone().expect("a database");
    let connector = Connector::new(&database.url, &database.schema).expect("a URL");
    let schema = Schema::new(&database.schema);
    let mut client = connector.session(Purpose::Work).await.expect("connects");
    let mut served = Vec::new();
    for watch in &config.watches {
        let (installed, _) = install::find(&client, &schema, &watch.name).await.expect("asks").expect("installed");
        install::adopt_policy(&mut client, &schema, watch, installed.id, false).await.expect("adopts");
        served.push(Served::new(installed.id, installed.generation, Arc::clone(watch)));
    }
    let pool = Pool::new(&connector, 2).expect("a pool");
    let instance = uuid::Uuid::now_v7();
    let (dispatch, running) =
        Dispatch::start(&config.endpoints, &dispatch::Context { pool, schema: schema.clone(), instance }).expect("starts");
    // They go on for as long as the measurement may take.
    drop(tokio::spawn(running.wait(Duration::from_secs(86_400))));
    Engine::open(&connector, &schema, served, instance, dispatch).await.expect("opens")
}

async fn by_hand(context: &Context, database: &Database) -> Took {
    let mut command = context.server.program("psql", &database.name);
    command.env("PGPORT", database.port.to_string()).args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", BY_HAND]);
    let started = Instant::now();
    let status = tokio::task::spawn_blocking(move || command.status()).await.expect("no panic").expect("psql starts");
    assert!(status.success(), "psql folds");
    let seconds = started.elapsed().as_secs_f64();
    Took { dry: seconds, judged: seconds }
}
