//! A changed definition while changes wait that nobody has told yet: writers wait for nothing that depends on how many, and
//! every change is told all the same.

use std::collections::{HashMap, HashSet};
use std::process::Stdio;

use crate::support::proxy::Proxy;
use crate::support::receiver::Event;
use crate::*;

const SERVERS: &str = "CREATE TABLE servers (id bigint PRIMARY KEY, step bigint NOT NULL, note text)";

/// Told with these columns of the row: each choice is a definition of its own.
fn watch(on: &str, columns: &[&str]) -> String {
    let row: Vec<String> = columns.iter().map(|name| format!("{name} = \"{{{{ row.{name} }}}}\"")).collect();
    format!(
        "[[watch]]\nname = \"servers\"\ntable = \"public.servers\"\n[[watch.publish]]\nchannels = [\"servers\"]\nevent = \"changed\"\n\
         on = {on}\ndata = {{ key = \"{{{{ key.id }}}}\", seq = \"{{{{ seq }}}}\", {} }}\n",
        row.join(", ")
    )
}

/// Where each row that waits stands, and which transaction wrote it there.
const STANDING: &str = "SELECT count(*) || ' ' || md5(string_agg(ctid || ' ' || xmin || ' ' || generation, ',' ORDER BY ctid)) FROM items_listen.change";
const GENERATION: &str = "SELECT generation || ' ' || former::text FROM items_listen.watch";

async fn servers() -> (Database, Receiver) {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql(SERVERS).await;
    (database, receiver)
}

/// Installs another definition.
async fn redefine(daemon: &Daemon, config: &str) {
    daemon.configure(config);
    let (code, out, err) = daemon.run(&["install"]).await;
    assert_eq!(code, 0, "{out}{err}");
}

/// The events without those that came twice, by the id that is the same for each.
fn once(events: Vec<Event>) -> Vec<Event> {
    let mut seen = HashSet::new();
    events.into_iter().filter(|event| seen.insert((event.number("key"), event.number("step")))).collect()
}

/// The rows' steps in the order in which they arrived.
fn steps(events: &[Event]) -> HashMap<i64, Vec<i64>> {
    let mut steps: HashMap<i64, Vec<i64>> = HashMap::new();
    for event in events {
        steps.entry(event.number("key")).or_default().push(event.number("step"));
    }
    steps
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_definition_touches_none_of_the_changes_that_wait_and_tells_them() {
    let (database, receiver) = servers().await;
    let of = |columns: &[&str]| config(&database, &receiver, &watch("[\"update\"]", columns));
    let daemon = daemon(&of(&["step"]));
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    database.sql("INSERT INTO servers SELECT g, 0 FROM generate_series(1, 300000) g").await;
    database.sql("UPDATE servers SET note = 'x'").await;
    for step in 1..=20 {
        database.sql(&format!("UPDATE servers SET step = {step} WHERE id <= 10")).await;
    }
    let before: String = database.one(STANDING).await;
    assert!(before.starts_with("300200 "), "{before}");
    redefine(&daemon, &of(&["step", "note"])).await;
    assert_eq!(database.one::<String>(GENERATION).await, "2 {1}");
    assert_eq!(database.one::<String>(STANDING).await, before, "not one row was touched");
    // What is written now is of the new definition; a third one tells both.
    database.sql("UPDATE servers SET step = 21 WHERE id <= 10").await;
    let before: String = database.one(STANDING).await;
    redefine(&daemon, &of(&["note", "step", "id"])).await;
    assert_eq!(database.one::<String>(GENERATION).await, "3 {2,1}");
    assert_eq!(database.one::<String>(STANDING).await, before);
    // Those of the first 300,000 are many for a test: only the others are told.
    database.sql("DELETE FROM items_listen.change WHERE (new ->> 'step') = '0'").await;
    let mut daemon = daemon;
    daemon.start().await;
    let events = receiver.wait_for(210).await;
    let expected: HashMap<i64, Vec<i64>> = (1..=10).map(|id| (id, (1..=21).collect())).collect();
    assert_eq!(steps(&events), expected, "every change once, in order");
    assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.change").await, 0);
    // What has nothing left to tell is forgotten when the definition changes again.
    redefine(&daemon, &of(&["step"])).await;
    assert_eq!(database.one::<String>(GENERATION).await, "4 {3}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_several_definitions_is_told_once_and_in_order_through_kills() {
    let (database, receiver) = servers().await;
    let of = |columns: &[&str]| config(&database, &receiver, &watch("[\"insert\", \"update\"]", columns));
    let mut daemon = daemon(&of(&["step"]));
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    for (first, columns) in [(0, &["step", "note"][..]), (100, &["step"]), (200, &["step", "note", "id"])] {
        if first == 0 {
            database.sql("INSERT INTO servers SELECT g, 0 FROM generate_series(1, 10) g").await;
        }
        for step in first + 1..=first + 100 {
            database.sql(&format!("UPDATE servers SET step = {step}")).await;
        }
        // The process is gone as soon as the definition stands, and as soon as some of it is told.
        daemon.configure(&of(columns));
        let known = receiver.accepted().len();
        receiver.status(503);
        daemon.spawn();
        daemon.logged("definition installed").await;
        daemon.kill();
        receiver.status(200);
        daemon.spawn();
        receiver.wait_for_more(known).await;
        daemon.kill();
    }
    daemon.start().await;
    let all = 10 * 301;
    let events = receiver.wait("all of them", |events| once(events.to_vec()).len() == all).await;
    let expected: HashMap<i64, Vec<i64>> = (1..=10).map(|id| (id, (0..=300).collect())).collect();
    assert_eq!(steps(&once(events.clone())), expected);
    let mut seqs: HashMap<(i64, i64), HashSet<i64>> = HashMap::new();
    events.iter().for_each(|event| {
        seqs.entry((event.number("key"), event.number("step"))).or_default().insert(event.number("seq"));
    });
    assert!(seqs.values().all(|seqs| seqs.len() == 1), "what came twice is the same event");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_definition_tells_no_more_is_deleted_unread_but_not_while_the_table_is_locked() {
    let (database, receiver) = servers().await;
    let mut daemon = daemon(&config(&database, &receiver, &watch("\"change\"", &["step"])));
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    database.sql("INSERT INTO servers SELECT g, 0 FROM generate_series(1, 25000) g").await;
    let before: String = database.one(STANDING).await;
    let counted = "[[watch]]\nname = \"servers\"\ntable = \"public.servers\"\nthreshold = 20000\n[[watch.publish]]\n\
                   channels = [\"servers\"]\nevent = \"many\"\n";
    redefine(&daemon, &config(&database, &receiver, counted)).await;
    assert_eq!(database.one::<String>(STANDING).await, before);
    assert_eq!(database.one::<String>(GENERATION).await, "2 {}");
    daemon.start().await;
    support::eventually("they are gone", async || {
        (database.one::<i64>("SELECT count(*) FROM items_listen.change").await == 0).then_some(())
    })
    .await;
    let events = receiver.wait_for(1).await;
    assert_eq!((events.len(), events[0].name.as_str()), (1, "many"));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_daemon_is_up_that_knows_no_former_generations_the_changes_become_the_new_ones() {
    let (database, receiver) = servers().await;
    let of = |columns: &[&str]| config(&database, &receiver, &watch("\"change\"", columns));
    let daemon = daemon(&of(&["step"]));
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    database.sql("INSERT INTO servers SELECT g, 0 FROM generate_series(1, 10) g").await;
    // As a program of the version before enters itself, which has no column schema_version.
    database
        .sql(
            "INSERT INTO items_listen.instance (id, host, pid, process, version, config_hash, watches, endpoints, doorbell)
             VALUES (gen_random_uuid(), 'elsewhere', 1, 'another-boot/x/1/1', '0.1.0', '', '{}', '{}', 'awake')",
        )
        .await;
    redefine(&daemon, &of(&["step", "note"])).await;
    let generations = "SELECT string_agg(DISTINCT generation::text, ' ') FROM items_listen.change";
    assert_eq!(database.one::<String>(generations).await, "2", "or it would delete them unread");
    database.sql("DELETE FROM items_listen.instance").await;
    redefine(&daemon, &of(&["step"])).await;
    assert_eq!(database.one::<String>(generations).await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_the_folds_lock_does_not_have_the_table_locked() {
    let (database, receiver) = servers().await;
    let of = |columns: &[&str]| config(&database, &receiver, &watch("\"change\"", columns));
    let daemon = daemon(&of(&["step"]));
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    let folding = database.session().await;
    let key = items_listen::db::locks::Lock::Fold.sql(&items_listen::db::schema::Schema::new("items_listen"));
    folding.batch_execute(&format!("SELECT pg_advisory_lock({key})")).await.expect("the lock is free");
    daemon.configure(&of(&["step", "note"]));
    let mut install = daemon.command(&["install"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let waiting = "SELECT (SELECT count(*) FROM pg_locks t WHERE t.pid = w.pid AND t.relation = 'servers'::regclass AND t.mode = 'ShareRowExclusiveLock')
                   FROM pg_locks w WHERE w.locktype = 'advisory' AND NOT w.granted
                     AND w.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let locked = support::eventually("it waits for the fold's lock", async || {
        let row = database.client.query_opt(waiting, &[]).await.expect("it is asked");
        row.map(|row| row.get::<_, i64>(0))
    })
    .await;
    assert_eq!(locked, 0, "no writer waits for whoever folds");
    folding.batch_execute("SELECT pg_advisory_unlock_all()").await.expect("it ends");
    let status = tokio::task::spawn_blocking(move || install.wait()).await.expect("no panic").expect("it ends");
    assert!(status.success());
    assert_eq!(database.one::<String>(GENERATION).await, "2 {1}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_installs_and_is_never_heard_of_again_leaves_no_table_locked() {
    let (database, receiver) = servers().await;
    let proxy = Proxy::start(database.port).await;
    let direct = format!("127.0.0.1:{}", database.port);
    let of = |note: usize| {
        let watch = watch("\"change\"", &["step"]).replace("table = ", &format!("where = \"step <> {note}\"\ntable = "));
        config(&database, &receiver, &watch)
    };
    let daemon = daemon(&of(0));
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    // The network fails at each step of the conversation in turn, until it gets to its end.
    for answers in 0.. {
        daemon.configure(&of(answers + 1).replace(&direct, &format!("127.0.0.1:{}", proxy.port)));
        let (stranded, opened) = (proxy.stranded(), proxy.opened());
        proxy.strand_after(answers);
        let mut install = daemon.command(&["install"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let ended = support::eventually("it is cut off, or ends", async || {
            let ended = install.try_wait().expect("it is asked").map(|_| true);
            ended.or_else(|| (proxy.stranded() > stranded && proxy.stranded() > opened).then_some(false))
        })
        .await;
        let open = "SELECT count(*) FILTER (WHERE state = 'active'), count(*) FILTER (WHERE state LIKE 'idle in%' AND EXISTS (
                        SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.relation = 'servers'::regclass AND l.mode = 'ShareRowExclusiveLock'))
                    FROM pg_stat_activity a WHERE a.datname = current_database() AND a.application_name = 'items-listen'";
        let locked = support::eventually("the server has done what it was asked", async || {
            let row = database.client.query_one(open, &[]).await.expect("it is asked");
            (row.get::<_, i64>(0) == 0).then(|| row.get::<_, i64>(1))
        })
        .await;
        let (_gone, _waited) = (install.kill(), install.wait().expect("it ends"));
        assert_eq!(locked, 0, "the table is locked until the server gives the session up, after answer {answers}");
        if ended {
            assert!(answers > 10, "{answers}");
            return;
        }
        // Whoever holds the install lock is gone with its connection, as far as the server is concerned.
        database
            .sql("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'items-listen'")
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_script_that_is_run_again_tells_no_change_twice() {
    let (database, receiver) = servers().await;
    let of = |columns: &[&str]| config(&database, &receiver, &watch("[\"insert\"]", columns));
    // Each in a session of its own, as psql does.
    let run = async |script: &str| database.session().await.batch_execute(script).await.expect("it runs");
    let mut daemon = daemon(&of(&["step"]));
    let first = daemon.run(&["install", "--print"]).await.1;
    run(&first).await;
    daemon.configure(&of(&["step", "note"]));
    let second = daemon.run(&["install", "--print"]).await.1;
    run(&second).await;
    run(&first).await;
    daemon.configure(&of(&["step"]));
    daemon.start().await;
    database.sql("INSERT INTO servers VALUES (1, 1), (2, 1)").await;
    receiver.wait_for(2).await;
    database.sql("INSERT INTO servers VALUES (3, 1)").await;
    let all = receiver.wait("the last", |events| events.iter().any(|event| event.number("key") == 3)).await;
    let keys: Vec<i64> = all.iter().map(|event| event.number("key")).collect();
    assert_eq!(keys, [1, 2, 3]);
}
