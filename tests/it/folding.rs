//! The fold: complete or not evaluated, one at a time, and never walking over dead rows (rules J).

use std::collections::HashSet;
use std::sync::Arc;

use items_listen::config::{Location, load_from};
use items_listen::db::pool;
use items_listen::db::schema::Schema;
use items_listen::db::session::Connector;
use items_listen::dispatch::{Context, Dispatch};
use items_listen::engine::{Engine, Folded, Served};
use items_listen::journal::install;

use crate::support::receiver::{Event, Receiver};
use crate::*;

/// An engine in this process, on an installed database without a daemon.
struct Bench {
    engine: Engine,
    dispatch: Dispatch,
    /// The endpoints' tasks, which end with it.
    _running: items_listen::dispatch::Running,
}

impl Bench {
    async fn new(daemon: &Daemon) -> Bench {
        let location = Location { config: Some(daemon.file.clone()), env_file: None };
        let config = load_from(&location, &std::collections::BTreeMap::new()).expect("the configuration is right");
        let database = config.database.clone().expect("a database");
        let connector = Connector::new(&database.url, &database.schema).expect("a URL");
        let schema = Schema::new(&database.schema);
        let (code, _, err) = daemon.run(&["install"]).await;
        assert_eq!(code, 0, "{err}");
        assert_eq!(daemon.run(&["recount"]).await.0, 0);
        let client = connect(&connector).await;
        let mut served = Vec::new();
        let mut client = client;
        for watch in &config.watches {
            let (installed, _) = install::find(&client, &schema, &watch.name).await.expect("asks").expect("installed");
            install::adopt_policy(&mut client, &schema, watch, installed.id, false).await.expect("adopts");
            served.push(Served::new(installed.id, installed.generation, Arc::clone(watch)));
        }
        let pool = pool::Pool::new(&connector, 2).expect("a pool");
        let instance = uuid::Uuid::now_v7();
        let context = Context { pool, schema: schema.clone(), instance };
        let (dispatch, running) = Dispatch::start(&config.endpoints, &context).expect("starts");
        let engine = Engine::open(&connector, &schema, served, instance, dispatch.clone()).await.expect("opens");
        Bench { engine, dispatch, _running: running }
    }

    /// Folds; gives rows and whether the journal was dry.
    async fn fold(&mut self) -> (i64, bool) {
        match self.engine.fold().await.expect("folds") {
            Folded::Busy => panic!("somebody else folds"),
            Folded::Done { rows, complete, .. } => (rows, complete),
        }
    }
}

async fn connect(connector: &Connector) -> tokio_postgres::Client {
    connector.session(items_listen::db::session::Purpose::Work).await.expect("connects")
}

#[tokio::test(flavor = "multi_thread")]
async fn j3_folds_are_one_at_a_time() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let mut bench = Bench::new(&daemon).await;
    bench.fold().await;
    let key = items_listen::db::locks::Lock::Fold.sql(&Schema::new("items_listen"));
    let other = database.session().await;
    other.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({key})")).await.expect("holds the lock");
    insert(&database, 1, 20).await;
    assert_eq!(bench.engine.fold().await.expect("asks"), Folded::Busy);
    other.batch_execute("COMMIT").await.expect("lets go");
    assert_eq!(bench.fold().await, (1, true));
    receiver.wait_for(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn j3_j4_a_key_that_is_always_100_is_never_anything_else_with_two_replicas() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let low = ORDERS.replace("threshold = 20", "compare = \"<\"\nthreshold = 100");
    let high =
        ORDERS.replace("threshold = 20", "compare = \">\"\nthreshold = 100").replace("name = \"orders\"", "name = \"high\"");
    insert(&database, 1, 100).await;
    let config = config(&database, &receiver, &format!("{low}{high}"));
    let (mut one, mut two) = (daemon(&config), daemon(&config));
    one.start().await;
    two.start().await;
    let mut writers = Vec::new();
    for tenant in 2..6 {
        let session = database.session().await;
        writers.push(tokio::spawn(async move {
            for round in 0..150 {
                // Sometimes many journal rows per transaction, sometimes one statement.
                let sql = if round % 3 == 0 {
                    "BEGIN; DELETE FROM orders WHERE tenant_id = 1; INSERT INTO orders (tenant_id) SELECT 1 FROM generate_series(1, 60);
                     INSERT INTO orders (tenant_id) SELECT 1 FROM generate_series(1, 40); COMMIT"
                        .to_owned()
                } else {
                    format!("BEGIN; SELECT pg_advisory_xact_lock_shared({tenant}); UPDATE orders SET tenant_id = -1 WHERE tenant_id = 1; UPDATE orders SET tenant_id = 1 WHERE tenant_id = -1; COMMIT")
                };
                let locked = format!("BEGIN; LOCK TABLE orders IN SHARE ROW EXCLUSIVE MODE; {}", sql.trim_start_matches("BEGIN;"));
                session.batch_execute(&locked).await.expect("a writer never fails");
            }
        }));
    }
    for writer in writers {
        writer.await.expect("no panic");
    }
    exact(&database, "orders", TRUE_ORDERS).await;
    let about_one: Vec<_> = receiver.all().into_iter().filter(|event| event.data["key"]["tenant_id"] == 1).collect();
    assert_eq!(said(&about_one), expected(&[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn j4_nothing_is_evaluated_before_the_journal_is_dry_and_dirty_keys_are_not_forgotten() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let mut bench = Bench::new(&daemon).await;
    bench.fold().await;
    // Exactly the limit is incomplete: whether there is more is not known.
    database
        .sql("INSERT INTO items_listen.journal (generation, key, rows) SELECT generation, '[1]', 1 FROM items_listen.watch, generate_series(1, 20000)")
        .await;
    assert_eq!(bench.fold().await, (20_000, false));
    let dirty: i64 = database.one("SELECT count(*) FROM items_listen.count WHERE dirty > 0").await;
    assert_eq!((dirty, receiver.all().len()), (1, 0));
    // A complete fold that deletes nothing still evaluates what is dirty.
    assert_eq!(bench.fold().await, (0, true));
    assert_eq!(said(&receiver.wait_for(1).await), expected(&[("raised", "critical", 20_000)]));
    // Under overload the limit doubles instead of falling behind.
    database
        .sql("INSERT INTO items_listen.journal (generation, key, rows) SELECT generation, '[2]', 1 FROM items_listen.watch, generate_series(1, 70000)")
        .await;
    let mut folds = Vec::new();
    loop {
        let (rows, complete) = bench.fold().await;
        folds.push(rows);
        if complete {
            break;
        }
    }
    assert_eq!(folds, [20_000, 40_000, 10_000]);
    assert_eq!(receiver.wait_for(2).await[1].number("count"), 70_000);
    assert!(bench.dispatch.doubted().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn j5_the_delta_of_a_key_that_was_just_removed_is_not_lost() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let mut bench = Bench::new(&daemon).await;
    for count in [5, 7, 21] {
        insert(&database, 1, count).await;
        bench.fold().await;
        database.sql("DELETE FROM orders").await;
        bench.fold().await;
        let rows: i64 = database.one("SELECT count(*) FROM items_listen.count").await;
        assert_eq!(rows, 0, "J9: a key with nothing to remember is removed");
    }
    insert(&database, 1, 20).await;
    bench.fold().await;
    let events = receiver.wait_for(3).await;
    assert_eq!(said(&events), expected(&[("raised", "warning", 21), ("resolved", "info", 0), ("raised", "warning", 20)]));
    assert!(events.windows(2).all(|pair| pair[0].number("seq") < pair[1].number("seq")), "J9: seq does not start again");
}

#[tokio::test(flavor = "multi_thread")]
async fn j6_j8_the_bounded_scan_strands_nothing_and_a_whole_scan_finds_what_came_another_way() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let mut bench = Bench::new(&daemon).await;
    // Transactions of every age are open while folds complete; each is found when it commits.
    let mut open = Vec::new();
    for tenant in 10..16 {
        let session = database.session().await;
        session
            .batch_execute(&format!(
                "BEGIN; SAVEPOINT s; INSERT INTO orders (tenant_id) SELECT {tenant} FROM generate_series(1, 20)"
            ))
            .await
            .expect("inserts");
        open.push(session);
        insert(&database, 1, 1).await;
        assert!(bench.fold().await.1);
    }
    for (index, session) in open.into_iter().enumerate() {
        session.batch_execute("RELEASE s; COMMIT").await.expect("commits");
        assert_eq!(bench.fold().await, (1, true));
        receiver.wait_for(index + 1).await;
    }
    exact(&database, "orders", TRUE_ORDERS).await;
    // A row with an xid from elsewhere (a restore, a logical copy) is invisible to the bounded scan …
    database.sql("INSERT INTO items_listen.journal (xid, generation, key, rows) SELECT '3', generation, '[99]', 20 FROM items_listen.watch").await;
    assert_eq!(bench.fold().await, (0, true));
    // … and found by a whole one, which every new connection begins with.
    bench.engine.forget_snapshot();
    assert_eq!(bench.fold().await, (1, true));
    receiver.wait_for(7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn j7_no_plan_filters_on_xid() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let _bench = Bench::new(&daemon).await;
    database
        .sql(
            "INSERT INTO items_listen.journal (generation, key, rows) SELECT 1, '[1]', 1 FROM generate_series(1, 50000);
             ANALYZE items_listen.journal",
        )
        .await;
    let location = Location { config: Some(daemon.file.clone()), env_file: None };
    let config = load_from(&location, &std::collections::BTreeMap::new()).expect("right");
    let connector = Connector::new(&config.database.expect("a database").url, "items_listen").expect("a URL");
    let client = connector.session(items_listen::db::session::Purpose::Fold).await.expect("connects");
    let fold = include_str!("../../sql/fold.sql")
        .replace("LATERAL ({rows})", "LATERAL (SELECT NULL::bigint, NULL::text LIMIT 0)")
        .replace("LATERAL ({thresholds})", "LATERAL (SELECT NULL::bigint, true LIMIT 0)");
    client.batch_execute(&format!("SET plan_cache_mode = force_generic_plan; PREPARE fold AS {fold}")).await.expect("prepares");
    let rows = client
        .query("EXPLAIN EXECUTE fold('{1}', '{1}', '{x}', '1000000', '{999990}', 20000, 50000, '{}')", &[])
        .await
        .expect("explains");
    let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let conditions: Vec<&String> = plan.iter().filter(|line| line.contains("xid")).collect();
    assert!(conditions.iter().any(|line| line.contains("Index Cond") && line.contains(">=")), "{plan:#?}");
    assert!(conditions.iter().any(|line| line.contains("Index Cond") && line.contains("ANY")), "{plan:#?}");
    assert!(conditions.iter().all(|line| !line.contains("Filter")), "{plan:#?}");
    assert!(!plan.iter().any(|line| line.contains("Seq Scan on journal")), "{plan:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn j9_an_empty_stock_is_remembered() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let low = ORDERS.replace("threshold = 20", "compare = \"<\"\nthreshold = 3");
    let mut daemon = daemon(&config(&database, &receiver, &low));
    daemon.start().await;
    insert(&database, 1, 5).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    database.sql("DELETE FROM orders").await;
    assert_eq!(said(&receiver.wait_for(1).await), expected(&[("raised", "critical", 0)]));
    insert(&database, 1, 5).await;
    assert_eq!(said(&receiver.wait_for(2).await)[1], ("resolved".into(), "info".into(), 5));
}

/// Waits, by the database's clock, until some key's hold is over.
async fn deadline_has_passed(database: &support::postgres::Database) {
    support::eventually("the hold is over", async || {
        let over: bool =
            database.one("SELECT coalesce(bool_or(deadline < clock_timestamp()), false) FROM items_listen.count").await;
        over.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn j10_a_hold_does_not_fire_on_a_breach_whose_recovery_is_committed() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let held = ORDERS.replace("threshold = 20", "threshold = 20\nhold = \"300ms\"");
    let daemon = daemon(&config(&database, &receiver, &held));
    let mut bench = Bench::new(&daemon).await;
    insert(&database, 1, 25).await;
    bench.fold().await;
    deadline_has_passed(&database).await;
    database.sql("DELETE FROM orders").await;
    bench.fold().await;
    insert(&database, 2, 25).await;
    bench.fold().await;
    deadline_has_passed(&database).await;
    bench.fold().await;
    let events = receiver.wait_for(1).await;
    assert_eq!(events[0].data["key"]["tenant_id"], 2);
    assert_eq!(receiver.all().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn j12_a_manual_trigger_waits_for_the_folds_lock() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    let key = items_listen::db::locks::Lock::Fold.sql(&Schema::new("items_listen"));
    let other = database.session().await;
    other.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({key})")).await.expect("holds the lock");
    let triggered = daemon.run(&["--trigger", "25", "--key", "tenant_id=7"]);
    let released = async {
        support::eventually("it waits", async || {
            let waiting: i64 = database.one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").await;
            (waiting > 0).then_some(())
        })
        .await;
        assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.delivery").await, 0);
        other.batch_execute("COMMIT").await.expect("lets go");
    };
    let ((code, out, err), ()) = tokio::join!(triggered, released);
    assert_eq!(code, 0, "{out}{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn j14_a_replica_leaves_alone_what_a_newer_configuration_defined() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut old = daemon(&config(&database, &receiver, ORDERS));
    old.start().await;
    let mut new =
        daemon(&config(&database, &receiver, &ORDERS.replace("threshold = 20", "threshold = 5").replace("'open'", "'new'")));
    new.start().await;
    let line = old.logged("no longer serves it").await;
    assert_eq!(line["watch"], "orders");
    insert(&database, 1, 30).await;
    database.sql("INSERT INTO orders (tenant_id, status) SELECT 2, 'new' FROM generate_series(1, 5)").await;
    let events = receiver.wait_for(1).await;
    assert_eq!((events[0].number("threshold"), events[0].number("count")), (5, 5));
    exact(&database, "orders", &TRUE_ORDERS.replace("'open'", "'new'")).await;
    assert_eq!(receiver.all().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_set_what_they_depend_on_themselves() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database
        .sql(&format!(
            "ALTER DATABASE {0} SET default_transaction_isolation = 'serializable'; ALTER DATABASE {0} SET synchronous_commit = off;
             ALTER DATABASE {0} SET default_transaction_read_only = on; ALTER DATABASE {0} SET search_path = nowhere;
             ALTER DATABASE {0} SET TimeZone = 'Asia/Kathmandu'; ALTER DATABASE {0} SET statement_timeout = '1ms'",
            database.name
        ))
        .await;
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let location = Location { config: Some(daemon.file.clone()), env_file: None };
    let config = load_from(&location, &std::collections::BTreeMap::new()).expect("right");
    let connector = Connector::new(&config.database.expect("a database").url, "items_listen").expect("a URL");
    for purpose in [
        items_listen::db::session::Purpose::Fold,
        items_listen::db::session::Purpose::Work,
        items_listen::db::session::Purpose::Listen { beat: std::time::Duration::from_secs(1) },
    ] {
        let client = connector.session(purpose).await.expect("connects");
        for (name, wanted) in [
            ("default_transaction_isolation", "read committed"),
            ("default_transaction_read_only", "off"),
            ("synchronous_commit", "on"),
            ("row_security", "off"),
            ("search_path", "pg_catalog, pg_temp"),
            ("TimeZone", "UTC"),
            ("idle_in_transaction_session_timeout", "5s"),
        ] {
            let row = client.query_one("SELECT current_setting($1)", &[&name]).await.expect("asks");
            assert_eq!(row.get::<_, String>(0), wanted, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn j8_a_snapshot_from_a_time_when_the_watch_was_anothers_is_not_trusted() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let mut bench = Bench::new(&daemon).await;
    insert(&database, 1, 18).await;
    bench.fold().await;
    let policy: String = database.one("SELECT policy FROM items_listen.watch").await;
    database.sql("UPDATE items_listen.watch SET policy = 'another'").await;
    database.sql("DELETE FROM orders WHERE id IN (SELECT id FROM orders LIMIT 7)").await;
    // Complete folds go past the row that takes 7 away.
    assert_eq!(bench.fold().await, (0, true));
    database.sql(&format!("UPDATE items_listen.watch SET policy = '{policy}'")).await;
    insert(&database, 1, 4).await;
    while !bench.fold().await.1 {}
    exact(&database, "orders", TRUE_ORDERS).await;
    assert_eq!(receiver.all().len(), 0, "22 were never there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_keys_gets_through() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 20000) t, generate_series(1, 2)").await;
    let mut daemon = daemon(&config(&database, &receiver, &ORDERS.replace("threshold = 20", "threshold = 1")));
    daemon.start().await;
    let keys = |events: &[Event]| events.iter().map(|event| event.data["key"].to_string()).collect::<HashSet<_>>().len();
    // At least once: what an endpoint answers late comes twice.
    receiver.wait_from(20_000, "each of 20,000 keys", |events| keys(events) == 20_000).await;
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_what_is_journalled_but_not_folded_is_counted_once_by_a_recount() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let mut bench = Bench::new(&daemon).await;
    insert(&database, 1, 7).await;
    bench.fold().await;
    insert(&database, 1, 5).await;
    database.sql("UPDATE items_listen.count SET rows = rows + 3").await;
    assert_eq!(daemon.run(&["recount"]).await.0, 0);
    while !bench.fold().await.1 {}
    exact(&database, "orders", TRUE_ORDERS).await;
    assert_eq!(receiver.all().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_dirty_keys_than_one_fold_evaluates_are_evaluated_by_the_next_and_a_baseline_covers_them_all() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 120000) t").await;
    let watches = ORDERS.replace("threshold = 20", "threshold = 1");
    let mut daemon = daemon(&config(&database, &receiver, &watches));
    assert_eq!(daemon.run(&["install", "--baseline"]).await.0, 0);
    daemon.start().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    let open: i64 = database.one("SELECT count(*) FROM items_listen.count WHERE severity = 1").await;
    assert_eq!(open, 120_000, "all are known to be open");
    assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.event").await, 0, "and none is said");
    insert(&database, 119_999, 1).await;
    let events = receiver.wait_for(1).await;
    assert_eq!(said(&events), expected(&[("escalated", "critical", 2)]));
}

/// A hundred thousand random histories at once: each key has its own, and its count must be that of a plain query.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_random_histories_end_in_a_plain_count() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let watches = ORDERS.replace("threshold = 20", "threshold = 1000000");
    let mut daemon = daemon(&config(&database, &receiver, &watches));
    daemon.start().await;
    const KEY: &str = "(random() * 100000)::int";
    const OPEN: &str = "CASE WHEN random() < 0.7 THEN 'open' ELSE 'done' END";
    let some =
        |share: f64| format!("id % 1000 IN (SELECT (random() * 1000)::int FROM generate_series(1, {}))", (share * 1000.0) as i32);
    let insert =
        |rows: i32| format!("INSERT INTO orders (tenant_id, status) SELECT {KEY}, {OPEN} FROM generate_series(1, {rows})");
    let statements = [
        insert(60_000),
        format!("UPDATE orders SET status = {OPEN} WHERE {}", some(0.1)),
        format!("UPDATE orders SET tenant_id = {KEY} WHERE {}", some(0.1)),
        format!("DELETE FROM orders WHERE {}", some(0.1)),
        format!("BEGIN; {}; ROLLBACK", insert(5_000)),
        format!(
            "BEGIN; {}; SAVEPOINT s; DELETE FROM orders WHERE {}; ROLLBACK TO s; UPDATE orders SET tenant_id = {KEY}, status = {OPEN} WHERE {}; COMMIT",
            insert(20_000),
            some(0.3),
            some(0.05)
        ),
        format!(
            "INSERT INTO orders (id, tenant_id) SELECT id, tenant_id FROM orders WHERE {} ON CONFLICT (id) DO UPDATE SET tenant_id = {KEY}, status = {OPEN}",
            some(0.05)
        ),
    ];
    // Another order of the same statements for each seed, and another seed each time: it is printed.
    let seed = std::process::id();
    eprintln!("seed {seed}");
    database.sql(&format!("SELECT setseed({})", f64::from(seed % 1000) / 1000.0)).await;
    for round in 0..4 {
        for index in 0..statements.len() {
            database.sql(&statements[(index * 3 + round * 5 + seed as usize) % statements.len()]).await;
        }
        if round == 1 {
            exact(&database, "orders", TRUE_ORDERS).await;
        }
    }
    exact(&database, "orders", TRUE_ORDERS).await;
    let keys: i64 = database.one("SELECT count(DISTINCT tenant_id) FROM orders").await;
    eprintln!("{keys} keys");
    assert!(receiver.all().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn j15_what_waits_for_its_lookup_is_found_again_by_the_bounded_scan() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE names (id int, name text)").await;
    let watch = r#"
[[watch]]
name = "orders"
table = "public.orders"
key = ["tenant_id"]
lookup = "SELECT max(name) AS name FROM names WHERE id = :tenant_id"
[[watch.publish]]
on = "insert"
channels = ["orders"]
event = "order"
data = { tenant = "{{ key.tenant_id }}" }
"#;
    let other =
        watch.replace("\"orders\"", "\"others\"").replace("lookup =", "# lookup =").replace("public.orders", "public.others");
    database.sql("CREATE TABLE others (id int, tenant_id int)").await;
    let daemon = daemon(&config(&database, &receiver, &format!("{watch}{other}")));
    let mut bench = Bench::new(&daemon).await;
    database.sql("ALTER TABLE names RENAME TO away").await;
    insert(&database, 1, 1).await;
    // The first finds out, the second goes on without; and then others' changes are told, all of them.
    for _ in 0..2 {
        bench.fold().await;
    }
    database.sql("INSERT INTO others VALUES (1, 2)").await;
    bench.fold().await;
    receiver.wait_for(1).await;
    database.sql("ALTER TABLE away RENAME TO names").await;
    let watch: i32 = database.one("SELECT id FROM items_listen.watch WHERE name = 'orders'").await;
    support::eventually("it need not wait any more", async || (!bench.engine.waits(watch)).then_some(())).await;
    bench.fold().await;
    assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.change").await, 0, "it was found");
    let all = receiver.wait_for(2).await;
    assert_eq!(all.iter().map(|event| event.number("tenant")).collect::<Vec<_>>(), [2, 1]);
}
