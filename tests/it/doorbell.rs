//! NOTIFY only when somebody sleeps, and nobody sleeps through a commit (rules B).

use std::time::Duration;

use crate::support::postgres::Database;
use crate::support::receiver::Receiver;
use crate::*;

/// Waits until some daemon is in this state.
async fn bell(database: &Database, state: &str) {
    support::eventually(&format!("the doorbell is {state}"), async || {
        let sql = format!("SELECT coalesce(bool_or(doorbell = '{state}'), false) FROM items_listen.instance");
        database.one::<bool>(&sql).await.then_some(())
    })
    .await;
}

/// Waits until it sleeps, and the folds after arming are over.
async fn asleep(database: &Database) {
    support::eventually("it sleeps, and its catch-ups are over", async || {
        let quiet = "SELECT coalesce(max(state_change) < clock_timestamp() - interval '250 ms', false) FROM pg_stat_activity WHERE application_name = 'items-listen' AND datname = current_database()";
        database.one::<bool>(quiet).await.then_some(())
    })
    .await;
}

/// Listens as anybody may, and counts what is rung.
struct Ear {
    client: tokio_postgres::Client,
    rung: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Ear {
    async fn new(database: &Database) -> Ear {
        let (client, mut connection) = tokio_postgres::connect(&database.url(), tokio_postgres::NoTls).await.expect("connects");
        let rung = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = std::sync::Arc::clone(&rung);
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                if matches!(message, tokio_postgres::AsyncMessage::Notification(_)) {
                    count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            }
        });
        client.batch_execute("LISTEN items_listen").await.expect("listens");
        Ear { client, rung }
    }

    async fn heard(&self) -> usize {
        // What was sent before arrives before the answer.
        self.client.batch_execute("SELECT 1").await.expect("answers");
        self.rung.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_daemon_is_rung_and_a_missing_or_busy_one_is_not() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    // So slow a poll that only the bell can be what wakes it.
    let mut daemon = daemon(&config_with(&database, &receiver, "poll = \"60s\"", ORDERS));
    daemon.start().await;
    for round in 0..4 {
        // The poll that would say "armed" is far away: the lock itself tells.
        support::eventually("armed", async || {
            let armed: bool = database.one("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND classid = (1224736769::bigint)::oid AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))").await;
            armed.then_some(())
        })
        .await;
        // Nothing but the bell can be what wakes it.
        asleep(&database).await;
        insert(&database, round, 20).await;
        // The poll is a minute away.
        let rung = tokio::time::timeout(Duration::from_secs(25), receiver.wait_for(round as usize + 1));
        let events = rung.await.expect("the bell wakes it, not the poll");
        assert_eq!(events[round as usize].data["key"]["tenant_id"], round);
    }
    let ear = Ear::new(&database).await;
    daemon.kill();
    // The killed session is gone when its locks are.
    support::eventually("nobody sleeps", async || {
        let held: i64 = database.one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").await;
        (held == 0).then_some(())
    })
    .await;
    let before = ear.heard().await;
    for _ in 0..20 {
        insert(&database, 1, 1).await;
    }
    assert_eq!(ear.heard().await, before, "no daemon: no NOTIFY, no cost");
    daemon.start().await;
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_rung_now_and_then_keeps_the_bell_armed_and_misses_nothing() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    // So slow a poll that only the bell can be what wakes it.
    let mut daemon = daemon(&config_with(&database, &receiver, "poll = \"60s\"", ORDERS));
    daemon.start().await;
    let armed = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND classid = (1224736769::bigint)::oid AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
    support::eventually("armed", async || database.one::<bool>(armed).await.then_some(())).await;
    asleep(&database).await;
    let ear = Ear::new(&database).await;
    for round in 0..10 {
        insert(&database, round, 20).await;
        // Nor do its catch-ups find it: this one commits while the fold that the first caused is under way, or just after.
        insert(&database, 100 + round, 20).await;
        let rung = tokio::time::timeout(Duration::from_secs(25), receiver.wait_for(2 * round as usize + 2));
        rung.await.expect("the bell wakes it, not the poll");
        assert!(database.one::<bool>(armed).await, "it never let go of the bell");
        // Far from a stream, however slow or quick this machine is.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(ear.heard().await, 20, "each of them rang");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_daemon_is_hardly_ever_rung() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let ear = Ear::new(&database).await;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let client = database.session().await;
        writers.spawn(async move {
            for _ in 0..250 {
                client.batch_execute("INSERT INTO orders (tenant_id) VALUES (1)").await.expect("inserts");
            }
        });
    }
    writers.join_all().await;
    let rung = ear.heard().await;
    assert!(rung <= 1_000, "{rung} rings for 2,000 commits of eight writers at once");
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b1_a_transaction_that_commits_long_after_its_insert_is_found_by_the_poll() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    bell(&database, "armed").await;
    // The probe is before the commit; what is committed later rings at its commit, since NOTIFY waits for it, or
    // is found by the poll where it was not rung.
    let other = database.session().await;
    other.batch_execute("BEGIN; INSERT INTO orders (tenant_id) SELECT 1 FROM generate_series(1, 20)").await.expect("inserts");
    insert(&database, 2, 20).await;
    receiver.wait_for(1).await;
    other.batch_execute("COMMIT").await.expect("commits");
    receiver.wait_for(2).await;
    // And with the doorbell off altogether.
    daemon.terminate().await;
    daemon.configure(&config_with(&database, &receiver, "doorbell = \"off\"", ORDERS));
    daemon.start().await;
    let ear = Ear::new(&database).await;
    insert(&database, 3, 20).await;
    receiver.wait_for(3).await;
    assert_eq!(ear.heard().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn b3_one_replica_that_is_awake_keeps_the_others_from_arming() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let config = config(&database, &receiver, ORDERS);
    let (mut one, mut two) = (daemon(&config), daemon(&config));
    one.start().await;
    two.start().await;
    bell(&database, "armed").await;
    // Never two exclusive holders, and both get their work done.
    for round in 0..20 {
        insert(&database, round, 20).await;
        receiver.wait_for(round as usize + 1).await;
    }
    assert_eq!(receiver.all().len(), 20);
    one.kill();
    insert(&database, 50, 20).await;
    receiver.wait_for(21).await;
    bell(&database, "armed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b4_the_listening_session_is_put_out_when_it_is_silent() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    bell(&database, "armed").await;
    daemon.signal("STOP");
    support::eventually("its locks are gone", async || {
        let held: i64 = database.one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").await;
        (held == 0).then_some(())
    })
    .await;
    let ear = Ear::new(&database).await;
    insert(&database, 1, 20).await;
    assert_eq!(ear.heard().await, 0, "a stopped daemon taxes nobody");
    daemon.signal("CONT");
    receiver.wait_for(1).await;
    daemon.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_made_to_unlisten_listens_again() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    bell(&database, "armed").await;
    // A forged NOTIFY can do nothing but wake it.
    for payload in ["", "x", "{\"count\": 99}"] {
        database.sql(&format!("NOTIFY items_listen, '{payload}'")).await;
    }
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    assert_eq!(receiver.all().len(), 1);
    // Half-open or put out: the session is ended behind its back, and a new one listens before it folds.
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_listening_channels%' AND pid <> pg_backend_pid() AND datname = current_database()";
    database.sql(sql).await;
    insert(&database, 2, 20).await;
    receiver.wait_for(2).await;
    tokio::time::timeout(Duration::from_secs(30), daemon.ready()).await.expect("ready again");
}

#[tokio::test(flavor = "multi_thread")]
async fn b2_a_sleeper_that_could_not_arm_tries_again() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    bell(&database, "armed").await;
    let key = items_listen::db::locks::Lock::Doorbell.sql(&items_listen::db::schema::Schema::new("items_listen"));
    let other = database.session().await;
    // Somebody holds the bell's lock when the daemon goes to sleep again.
    let hold = format!("SELECT pg_advisory_lock_shared({key})");
    let holding = other.batch_execute(&hold);
    let waking = async {
        // Not before it queues: a daemon that was quicker would be armed again, and never let go.
        support::eventually("it waits for the lock", async || {
            let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                         AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
            database.one::<bool>(waits).await.then_some(())
        })
        .await;
        // So much that it is worth letting go of the bell.
        loop {
            database.sql("INSERT INTO orders (tenant_id) SELECT g FROM generate_series(1001, 1100) AS g").await;
        }
    };
    tokio::select! {
        held = holding => held.expect("holds it"),
        () = waking => {}
    }
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    bell(&database, "unarmed").await;
    other.batch_execute(&format!("SELECT pg_advisory_unlock_shared({key})")).await.expect("lets go");
    bell(&database, "armed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b5_nothing_is_armed_while_the_notification_queue_is_filling() {
    use items_listen::db::schema::Schema;
    use items_listen::db::session::Connector;
    use items_listen::source::doorbell::{Bell, Doorbell};
    let (database, receiver) = (shop().await, Receiver::start().await);
    assert_eq!(daemon(&config(&database, &receiver, ORDERS)).run(&["install"]).await.0, 0);
    let url = items_listen::config::Secret::new(database.url());
    let connector = Connector::new(&url, "items_listen").expect("a URL");
    let listening = items_listen::source::listen::open(&connector, Duration::from_secs(60)).await.expect("listens");
    let mut bell = Doorbell::new(std::sync::Arc::clone(&listening.client), &Schema::new("items_listen"), true);
    bell.wake().await.expect("wakes");
    assert_eq!(bell.sleep(false, 1).await.expect("sleeps"), Bell::Unarmed, "writers must not add to a queue that fills");
    let ear = Ear::new(&database).await;
    insert(&database, 1, 1).await;
    assert_eq!(ear.heard().await, 0);
    assert_eq!(bell.sleep(true, 1).await.expect("sleeps"), Bell::Armed);
    insert(&database, 1, 1).await;
    assert_eq!(ear.heard().await, 1);
    // Arming is idempotent behind our own flag: advisory locks are re-entrant, and one release must be enough.
    assert_eq!(bell.sleep(true, 1).await.expect("sleeps"), Bell::Armed);
    bell.wake().await.expect("wakes");
    insert(&database, 1, 1).await;
    assert_eq!(ear.heard().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_flood_everything_else_is_still_taken_in() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let later = ORDERS.replace("name = \"orders\"", "name = \"later\"").replace("public.orders", "public.later");
    let quiet = ORDERS.replace("threshold = 20", "threshold = 1000000000");
    // An answer that has to be tried again needs the beat, a table that comes later needs the keeper.
    receiver.status(503);
    let mut daemon = daemon(&config(&database, &receiver, &format!("{quiet}{later}")));
    daemon.start().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let mut writers = Vec::new();
    for _ in 0..4 {
        let (session, stop) = (database.session().await, stop.clone());
        writers.push(tokio::spawn(async move {
            while !stop.is_cancelled() {
                session
                    .batch_execute("INSERT INTO orders (tenant_id) SELECT g FROM generate_series(1, 60) g")
                    .await
                    .expect("inserts");
            }
        }));
    }
    database
        .sql("CREATE TABLE later (tenant_id int, status text DEFAULT 'open'); INSERT INTO later SELECT 1 FROM generate_series(1, 20)")
        .await;
    support::eventually("it is tried", async || (!receiver.requests().is_empty()).then_some(())).await;
    receiver.status(200);
    receiver.wait_for(1).await;
    stop.cancel();
    for writer in writers {
        writer.await.expect("no writer panics");
    }
    exact(&database, "orders", TRUE_ORDERS).await;
}

/// Passes everything on, but turns the first LISTEN into an UNLISTEN of the same length: the session believes that it
/// listens, and does not.
async fn made_to_unlisten(target: u16) -> u16 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let done = std::sync::Arc::clone(&done);
            tokio::spawn(async move {
                let server = tokio::net::TcpStream::connect(("127.0.0.1", target)).await.expect("the server is there");
                let ((mut from, mut to), (mut answers, mut asked)) = (client.into_split(), server.into_split());
                let answering = tokio::spawn(async move { tokio::io::copy(&mut answers, &mut to).await });
                let mut buffer = [0; 65_536];
                while let Ok(read @ 1..) = from.read(&mut buffer).await {
                    let listen: &[u8] = b"LISTEN items_listen";
                    let at = buffer[..read].windows(listen.len()).position(|window| window == listen);
                    if let Some(at) = at.filter(|_| !done.swap(true, std::sync::atomic::Ordering::SeqCst)) {
                        buffer[at..at + listen.len()].copy_from_slice(b"UNLISTEN *         ");
                    }
                    if asked.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                }
                drop(asked);
                answering.abort();
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_does_not_listen_though_it_thinks_so_is_noticed_and_listens_again() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let port = made_to_unlisten(database.port).await;
    let config =
        config(&database, &receiver, ORDERS).replace(&format!("@127.0.0.1:{}/", database.port), &format!("@127.0.0.1:{port}/"));
    let mut daemon = daemon(&config);
    daemon.start().await;
    daemon.logged("this session no longer listened").await;
    bell(&database, "armed").await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    let listening: bool = database
        .one("SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%pg_listening_channels%' AND datname = current_database()")
        .await;
    assert!(listening);
}

#[tokio::test(flavor = "multi_thread")]
async fn j6_our_own_tables_cannot_be_watched() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let own = format!(
        "{ORDERS}{}",
        ORDERS
            .replace("name = \"orders\"", "name = \"own\"")
            .replace("public.orders", "items_listen.count")
            .replace("tenant_id", "key")
            .replace("where = \"status = 'open'\"\n", "")
    );
    let mut daemon = daemon(&config(&database, &receiver, &own));
    daemon.start().await;
    daemon.logged("items_listen.count is one of our own tables").await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
}
