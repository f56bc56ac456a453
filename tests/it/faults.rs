//! Faults between the daemon and its database, and in it: the daemon recovers by itself, names each fault once, and
//! nothing is lost and nothing said twice.

use std::time::Duration;

use crate::crash::check_history;
use crate::degraded::{PARCELS_TABLE, error_of};
use crate::support::pgbouncer::{self, PgBouncer};
use crate::support::postgres::{Server, shared};
use crate::support::proxy::{Mode, Proxy};
use crate::support::receiver::Receiver;
use crate::*;

/// The configuration with its database behind a proxy.
pub fn through(proxy: &Proxy, database: &Database, config: &str) -> String {
    let (direct, proxied) = (format!("@127.0.0.1:{}/", database.port), format!("@127.0.0.1:{}/", proxy.port));
    assert!(config.contains(&direct), "{config}");
    config.replace(&direct, &proxied)
}

async fn not_ready(daemon: &Daemon) {
    support::eventually("not ready", async || daemon.get("/readyz").await.filter(|(status, _)| *status == 503)).await;
}

/// What the daemon said when it had no session, per outage: from one "ready" to the next.
fn named(daemon: &Daemon) -> Vec<Vec<String>> {
    let mut outages = vec![Vec::new()];
    for line in daemon.log() {
        let message = line["msg"].as_str().unwrap_or_default();
        if message == "ready" {
            outages.push(Vec::new());
        } else if message.starts_with("no database session") {
            outages.last_mut().expect("one").push(line["error"].as_str().unwrap_or_default().to_owned());
        }
    }
    outages
}

/// Each state of an outage is named once, however often it was tried; and no outage is called over before it is.
fn assert_named_once(daemon: &Daemon) {
    let named = named(daemon);
    for outage in &named {
        let different: std::collections::HashSet<&String> = outage.iter().collect();
        assert_eq!(different.len(), outage.len(), "named again: {named:?}");
    }
    let ended = named.len() - 1;
    assert!(daemon.lines("the database is back") <= ended, "it is back when it works: {named:?}");
}

/// How many outages were named with this.
fn outages(daemon: &Daemon, text: &str) -> usize {
    named(daemon).iter().filter(|outage| outage.iter().any(|error| error.contains(text))).count()
}

/// Waits until nothing is unsettled; then every event has arrived, in order, once, and nothing else has.
pub async fn all_arrived_once(database: &Database, receiver: &Receiver) {
    support::eventually("everything is delivered", async || {
        let left: i64 = database.one("SELECT count(*) FROM items_listen.delivery WHERE state <> 'delivered'").await;
        (left == 0).then_some(())
    })
    .await;
    let accepted = receiver.accepted();
    check_history(&accepted);
    let mut arrived: Vec<String> = accepted.iter().map(|event| event.text("id")).collect();
    let mut written: Vec<String> = {
        let rows = database.client.query("SELECT id::text FROM items_listen.event", &[]).await.expect("events");
        rows.iter().map(|row| row.get(0)).collect()
    };
    arrived.sort();
    written.sort();
    assert_eq!(arrived, written, "each event once");
}

async fn half_open(mode: Mode) {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let proxy = Proxy::start(database.port).await;
    let mut daemon = daemon(&through(&proxy, &database, &config(&database, &receiver, ORDERS)));
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    proxy.mode(mode);
    insert(&database, 2, 20).await;
    insert(&database, 1, 5).await;
    not_ready(&daemon).await;
    // Whoever held the state of the old connections has forgotten it: their sockets stay open, and silent.
    proxy.strand();
    receiver.wait_for(3).await;
    daemon.ready().await;
    insert(&database, 3, 20).await;
    receiver.wait_for(4).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    all_arrived_once(&database, &receiver).await;
    assert_eq!(outages(&daemon, "silent"), 1, "{:?}", named(&daemon));
    assert_named_once(&daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_half_open_is_noticed_and_replaced() {
    half_open(Mode::Stall).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_only_answers_are_lost_is_noticed_and_replaced() {
    half_open(Mode::StallAnswers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_that_ends_before_anybody_gave_up_is_survived() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let proxy = Proxy::start(database.port).await;
    let mut daemon = daemon(&through(&proxy, &database, &config(&database, &receiver, ORDERS)));
    daemon.start().await;
    for round in 0..5 {
        // From a moment's silence to one that the daemon takes for the end.
        proxy.mode(Mode::Stall);
        insert(&database, round, 20).await;
        if round == 4 {
            not_ready(&daemon).await;
        }
        proxy.pass();
        receiver.wait_for(round as usize + 1).await;
    }
    proxy.mode(Mode::Delay(Duration::from_millis(20)));
    insert(&database, 9, 20).await;
    receiver.wait_for(6).await;
    daemon.ready().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    all_arrived_once(&database, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_may_fall_silent_at_any_step_of_a_start() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let proxy = Proxy::start(database.port).await;
    let mut daemon = daemon(&through(&proxy, &database, &config(&database, &receiver, ORDERS)));
    daemon.start().await;
    for (tenant, answers) in [1, 4, 7, 11, 16, 24, 30].into_iter().enumerate() {
        let before = proxy.stranded();
        proxy.strand_after(answers);
        proxy.cut();
        support::eventually("one is silent", async || (proxy.stranded() > before).then_some(())).await;
        insert(&database, i32::try_from(tenant).expect("few"), 20).await;
        receiver.wait(&format!("silent after {answers} answers"), |events| events.len() > tenant).await;
        daemon.ready().await;
        assert_eq!(daemon.lines("PgBouncer"), 0, "silence is no pooler: {:?}", named(&daemon));
    }
    exact(&database, "orders", TRUE_ORDERS).await;
    all_arrived_once(&database, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_reset_in_the_middle_of_anything_lose_nothing() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let proxy = Proxy::start(database.port).await;
    let mut daemon = daemon(&through(&proxy, &database, &config(&database, &receiver, ORDERS)));
    daemon.start().await;
    let writers = Busy::start(&database, 1).await;
    for round in 0..20 {
        let opened = proxy.opened();
        proxy.cut();
        support::eventually("it connects again", async || (proxy.opened() > opened).then_some(())).await;
        // Sometimes again while it is still coming up.
        if round % 4 != 3 {
            daemon.ready().await;
        }
    }
    let reset = proxy.reset();
    assert!(reset >= 20, "{reset} were reset");
    writers.end().await;
    daemon.ready().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    all_delivered(&database).await;
    // A request whose settlement was cut off is not sent again: its answer is still in memory.
    all_arrived_once(&database, &receiver).await;
    assert!(outages(&daemon, "") >= 10, "{:?}", named(&daemon));
    assert_named_once(&daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_named_once_and_again_when_it_is_away_again() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let proxy = Proxy::start(database.port).await;
    let mut daemon = daemon(&through(&proxy, &database, &config(&database, &receiver, ORDERS)));
    daemon.start().await;
    for round in 1..=2 {
        proxy.mode(Mode::Refuse);
        let opened = proxy.opened();
        proxy.cut();
        support::eventually("it has tried six times", async || (proxy.opened() >= opened + 6).then_some(())).await;
        not_ready(&daemon).await;
        assert_eq!(outages(&daemon, ""), round, "{:?}", named(&daemon));
        insert(&database, i32::try_from(round).expect("few"), 20).await;
        proxy.pass();
        receiver.wait_for(round).await;
        daemon.ready().await;
    }
    assert_named_once(&daemon);
    exact(&database, "orders", TRUE_ORDERS).await;
    all_arrived_once(&database, &receiver).await;
}

/// A role for the daemon that has what the README says it needs, on the tables `orders` and `parcels`.
pub async fn role_of_its_own(database: &Database) -> String {
    let role = format!("daemon_{}", database.name);
    database
        .sql(&format!(
            "CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {} TO {role}; GRANT SELECT, TRIGGER ON orders, parcels TO {role}",
            database.name
        ))
        .await;
    role
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_are_waited_out() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql(PARCELS_TABLE).await;
    let role = role_of_its_own(&database).await;
    let proxy = Proxy::start(database.port).await;
    let config = through(&proxy, &database, &config(&database, &receiver, ORDERS));
    let mut daemon = daemon(&config.replace("postgres://postgres@", &format!("postgres://{role}@")));
    daemon.start().await;
    // None at all, or some, but not all that it needs.
    for limit in [0, 1, 2] {
        database.sql(&format!("ALTER ROLE {role} CONNECTION LIMIT {limit}")).await;
        database.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")).await;
        let refused = shared().logged(&database.name, "too many connections");
        support::eventually("it was refused twice more", async || {
            (shared().logged(&database.name, "too many connections") >= refused + 2).then_some(())
        })
        .await;
        insert(&database, limit, 20).await;
    }
    not_ready(&daemon).await;
    database.sql(&format!("ALTER ROLE {role} CONNECTION LIMIT -1")).await;
    receiver.wait_for(3).await;
    daemon.ready().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    all_arrived_once(&database, &receiver).await;
    assert!(outages(&daemon, "too many connections") > 0, "{:?}", named(&daemon));
    assert_named_once(&daemon);
    assert_eq!(daemon.lines("watch degraded"), 0, "it is not the watch's fault");
    assert_eq!(error_of(&daemon, "orders").await, None);
    drop(daemon);
    support::eventually("the role can go", async || {
        database.client.batch_execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_standby_it_says_so_and_waits_for_a_primary() {
    let primary = Server::start(&[]);
    let (database, receiver) = (primary.database().await, Receiver::start().await);
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    let proxy = Proxy::start(database.port).await;
    let mut daemon = daemon(&through(&proxy, &database, &config(&database, &receiver, ORDERS)));
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;

    // A default of the server's is not for us: we say for each session what it is to be.
    let operator = database.session().await;
    operator.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").await.expect("is set");
    operator.batch_execute("SELECT pg_reload_conf()").await.expect("is read");
    support::eventually("the server is read-only for whoever says nothing", async || {
        let session = primary.connect(&database.name).await;
        session.batch_execute("INSERT INTO orders (tenant_id) VALUES (1)").await.is_err().then_some(())
    })
    .await;
    database.sql("SET default_transaction_read_only = off").await;
    proxy.cut();
    insert(&database, 2, 20).await;
    receiver.wait_for(2).await;
    operator.batch_execute("SET default_transaction_read_only = off").await.expect("is set");
    operator.batch_execute("ALTER SYSTEM RESET default_transaction_read_only").await.expect("is set");
    operator.batch_execute("SELECT pg_reload_conf()").await.expect("is read");

    let standby = primary.standby();
    proxy.retarget(standby.port);
    let opened = proxy.opened();
    proxy.cut();
    support::eventually("it has tried it thrice", async || (proxy.opened() >= opened + 3).then_some(())).await;
    daemon.logged("standby").await;
    not_ready(&daemon).await;
    assert_eq!(daemon.lines("standby"), 1, "{:?}", named(&daemon));
    insert(&database, 1, 5).await;
    proxy.retarget(primary.port);
    proxy.cut();
    receiver.wait_for(3).await;
    daemon.ready().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    all_arrived_once(&database, &receiver).await;

    // The primary goes for good, and the standby becomes one.
    insert(&database, 3, 20).await;
    receiver.wait_for(4).await;
    all_arrived_once(&database, &receiver).await;
    let at: String = database.one("SELECT pg_current_wal_insert_lsn()::text").await;
    let there = standby.connect(&database.name).await;
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{at}'");
    support::eventually("the standby has it all", async || {
        there.query_one(replayed.as_str(), &[]).await.expect("asks").get::<_, bool>(0).then_some(())
    })
    .await;
    proxy.retarget(standby.port);
    primary.halt("immediate");
    standby.promote();
    let database = Database { port: standby.port, name: database.name, client: there };
    insert(&database, 3, 5).await;
    receiver.wait_for(5).await;
    daemon.ready().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    all_arrived_once(&database, &receiver).await;
}

/// Makes writing alerts, and nothing else, fail for want of room.
enum FullDisk {
    /// A tablespace on a disk of its own.
    Real(Server),
    /// Where nothing may be mounted, a trigger says what the disk would.
    Pretended,
}

impl FullDisk {
    async fn fill(&self, database: &Database) {
        let sql = match self {
            // Eight pages' worth of alerts are more than what is left in the tables' last pages.
            FullDisk::Real(server) => {
                let small = server.directory.join("small");
                database.sql(&format!("CREATE TABLESPACE small LOCATION '{}'", small.display())).await;
                "ALTER TABLE items_listen.event SET TABLESPACE small; ALTER TABLE items_listen.episode SET TABLESPACE small;
                 ALTER TABLE items_listen.delivery SET TABLESPACE small;
                 CREATE TABLE ballast (filler text) TABLESPACE small; ALTER TABLE ballast ALTER filler SET STORAGE plain"
            }
            FullDisk::Pretended => {
                "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
                 CREATE TRIGGER full_disk BEFORE INSERT ON items_listen.event FOR EACH STATEMENT EXECUTE FUNCTION full_disk()"
            }
        };
        database.sql(sql).await;
        if matches!(self, FullDisk::Real(_)) {
            // Page after page, until not one more is to be had.
            let error = loop {
                let page = database.client.batch_execute("INSERT INTO ballast VALUES (repeat('x', 8000))").await;
                if let Err(error) = page {
                    break error;
                }
            };
            assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("53100"), "{error:?}");
        }
    }

    async fn make_room(&self, database: &Database) {
        let sql = match self {
            FullDisk::Real(_) => "DROP TABLE ballast",
            FullDisk::Pretended => "DROP TRIGGER full_disk ON items_listen.event",
        };
        database.sql(sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_out() {
    let disk = Server::with_small_disk(8).map_or(FullDisk::Pretended, FullDisk::Real);
    let (database, receiver) = match &disk {
        FullDisk::Real(server) => (server.database().await, Receiver::start().await),
        FullDisk::Pretended => (Database::new().await, Receiver::start().await),
    };
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    insert(&database, 0, 20).await;
    receiver.wait_for(1).await;
    disk.fill(&database).await;
    let log = || match &disk {
        FullDisk::Real(server) => server.logged(&database.name, "No space left"),
        FullDisk::Pretended => shared().logged(&database.name, "No space left"),
    };
    let before = log();
    // Writers are not touched by it: the journal is elsewhere.
    database.sql("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 400) t, generate_series(1, 20)").await;
    support::eventually("it has tried four times", async || (log() >= before + 4).then_some(())).await;
    not_ready(&daemon).await;
    assert_eq!(outages(&daemon, "53100"), 1, "{:?}", named(&daemon));
    assert_named_once(&daemon);
    disk.make_room(&database).await;
    receiver.wait_for(401).await;
    daemon.ready().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    all_arrived_once(&database, &receiver).await;
}

/// Makes the next statements on one of our tables fail with a SQLSTATE, so many times.
async fn inject(database: &Database, on: &str, sqlstate: &str, times: u32) {
    // A sequence is not rolled back, and so counts what failed.
    database
        .sql(&format!(
            "DROP SEQUENCE IF EXISTS public.failed; CREATE SEQUENCE public.failed;
             CREATE OR REPLACE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN
                 IF nextval('public.failed') <= {times} THEN RAISE EXCEPTION 'injected' USING ERRCODE = '{sqlstate}'; END IF;
                 RETURN new;
             END $$;
             DROP TRIGGER IF EXISTS fail ON items_listen.event; DROP TRIGGER IF EXISTS fail ON items_listen.delivery;
             CREATE TRIGGER fail {on} FOR EACH ROW EXECUTE FUNCTION public.fail()"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_fails_for_reasons_of_the_databases_is_done_again() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    // Deadlock, serialization, statement timeout or cancel, lock timeout, out of memory, disk full, an I/O error.
    // What is mended and comes back is news again: the last is the one before it once more.
    let states = ["40P01", "40001", "57014", "55P03", "53200", "58030", "53100", "53100"];
    for (tenant, sqlstate) in states.into_iter().enumerate() {
        let events = receiver.accepted().len();
        inject(&database, "BEFORE INSERT ON items_listen.event", sqlstate, 3).await;
        insert(&database, i32::try_from(tenant).expect("few"), 20).await;
        receiver.wait_for(events + 1).await;
        daemon.ready().await;
        let tried: i64 = database.one("SELECT last_value FROM public.failed").await;
        assert!(tried > 3, "{sqlstate}: {tried}");
        let times = states[..=tenant].iter().filter(|state| **state == sqlstate).count();
        assert_eq!(outages(&daemon, sqlstate), times, "{sqlstate} is named: {:?}", named(&daemon));
    }
    assert_named_once(&daemon);
    exact(&database, "orders", TRUE_ORDERS).await;
    all_arrived_once(&database, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_that_fails_is_done_again_and_nothing_is_sent_twice() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    for (tenant, sqlstate) in ["40P01", "40001", "57014", "53100"].into_iter().enumerate() {
        inject(&database, "BEFORE UPDATE ON items_listen.delivery", sqlstate, 4).await;
        let tenant = i32::try_from(tenant).expect("few");
        insert(&database, tenant, 20).await;
        // The second of its lane waits for the settlement of the first.
        insert(&database, tenant, 10).await;
        exact(&database, "orders", TRUE_ORDERS).await;
        all_arrived_once(&database, &receiver).await;
        let tried: i64 = database.one("SELECT last_value FROM public.failed").await;
        assert!(tried > 4, "{sqlstate}: {tried}");
        assert_eq!(daemon.lines(sqlstate), 1, "{sqlstate} is named once");
    }
    all_arrived_once(&database, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_locks_our_tables_is_waited_out_and_fails_no_writer() {
    for table in ["count", "delivery"] {
        let (database, receiver) = (shop().await, Receiver::start().await);
        let mut daemon = daemon(&config(&database, &receiver, ORDERS));
        daemon.start().await;
        insert(&database, 1, 20).await;
        receiver.wait_for(1).await;
        all_arrived_once(&database, &receiver).await;
        let other = database.session().await;
        other
            .batch_execute(&format!("BEGIN; LOCK TABLE items_listen.{table} IN ACCESS EXCLUSIVE MODE"))
            .await
            .expect("the lock is to be had");
        insert(&database, 2, 20).await;
        insert(&database, 1, 10).await;
        not_ready(&daemon).await;
        support::eventually("it has given up several times", async || {
            (shared().logged(&database.name, "due to lock timeout") >= 3).then_some(())
        })
        .await;
        assert_eq!(outages(&daemon, "55P03"), 1, "{:?}", named(&daemon));
        assert_named_once(&daemon);
        other.batch_execute("COMMIT").await.expect("ends");
        receiver.wait_for(3).await;
        daemon.ready().await;
        exact(&database, "orders", TRUE_ORDERS).await;
        all_arrived_once(&database, &receiver).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_shares_sessions_is_named_and_nothing_of_ours_is_left_in_them() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut pooler = PgBouncer::start(database.port, "transaction");
    let proxy = Proxy::start(pooler.port).await;
    let config = through(&proxy, &database, &config(&database, &receiver, ORDERS));
    // It is there when it answers.
    let url = format!("postgres://postgres@127.0.0.1:{}/{}", pooler.port, database.name);
    drop(support::postgres::connect(&url).await);
    let settings = "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings
                    WHERE source = 'session' AND name NOT IN ('application_name', 'client_encoding')";
    let mut daemon = daemon(&config);
    daemon.spawn();
    let line = daemon.logged("PgBouncer").await;
    assert!(line.to_string().contains("transaction"), "{line}");
    let opened = proxy.opened();
    support::eventually("it has tried thrice more", async || (proxy.opened() >= opened + 3).then_some(())).await;
    assert_eq!(daemon.get("/readyz").await.map(|(status, _)| status), Some(503));
    assert_eq!((daemon.lines("PgBouncer"), daemon.lines("\"ready\"")), (1, 0), "{:?}", daemon.log());

    // Whoever has all of the server's sessions sees what others left in them; the daemon can have none meanwhile.
    let mut sessions = Vec::new();
    for _ in 0..pgbouncer::POOL {
        let session = support::postgres::connect(&url).await;
        session.batch_execute("BEGIN").await.expect("begins");
        sessions.push(session);
    }
    let locks: i64 = database
        .one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")
        .await;
    assert_eq!(locks, 0, "a lock of ours is left to others");
    for session in &sessions {
        let left = session.simple_query(settings).await.expect("asks");
        let left = left.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        assert_eq!(left, None, "a setting of ours is left to others");
        let listening = session.simple_query("SELECT FROM pg_listening_channels()").await.expect("asks");
        assert!(!listening.iter().any(|message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(_))), "it listens");
    }
    drop(sessions);

    let (code, out, _) = daemon.run(&["check"]).await;
    let finding = out.lines().skip_while(|line| !line.contains("PgBouncer")).take(2).collect::<Vec<_>>();
    assert!(code == 1 && finding.len() == 2 && finding[0].contains("transaction") && finding[1].contains("→"), "{code} {out}");

    pooler.restart("session");
    daemon.ready().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    all_arrived_once(&database, &receiver).await;
}
