//! What `install` says while it waits for a table, and what is left when it is stopped.

use std::process::Stdio;

use crate::support::receiver::Receiver;
use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn install_says_who_is_in_the_way_and_may_be_stopped_at_any_time() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let long = database.session().await;
    let pid: i32 = long.query_one("SELECT pg_backend_pid()", &[]).await.expect("its pid").get(0);
    long.batch_execute("SET application_name = 'nightly report'").await.expect("sets");
    long.batch_execute("BEGIN").await.expect("begins");
    long.batch_execute("INSERT INTO orders (tenant_id) VALUES (1)").await.expect("a long transaction");
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let said = daemon.file.with_extension("install");
    let mut command = daemon.command(&["install"]);
    command.stdout(Stdio::null()).stderr(std::fs::File::create(&said).expect("a file"));
    let mut install = command.spawn().expect("it starts");
    let line = support::eventually("it says who is in the way", async || {
        let text = std::fs::read_to_string(&said).unwrap_or_default();
        text.lines().find(|line| line.contains("waiting for a lock without queueing")).map(str::to_owned)
    })
    .await;
    for part in ["public", "orders", &format!("pid {pid}"), "nightly report", "idle in transaction", "s old"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // What it runs is nobody's to read in a log, since there are values in it.
    assert!(!line.contains("INSERT INTO"), "{line}");
    // And each round again, on a line of its own.
    support::eventually("it tries again", async || {
        let text = std::fs::read_to_string(&said).unwrap_or_default();
        (text.contains("trying again") && text.contains(&format!("pid {pid}"))).then_some(())
    })
    .await;
    let interrupted = rustix::process::Pid::from_raw(i32::try_from(install.id()).expect("a pid")).expect("a pid");
    rustix::process::kill_process(interrupted, rustix::process::Signal::INT).expect("Ctrl-C");
    let status = tokio::task::spawn_blocking(move || install.wait()).await.expect("no panic").expect("it ends");
    assert!(!status.success());
    support::eventually("nothing waits, and nobody holds the install lock", async || {
        let left = "SELECT count(*) FROM pg_locks WHERE (NOT granted OR locktype = 'advisory') AND pid <> pg_backend_pid()
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        (database.one::<i64>(left).await == 0).then_some(())
    })
    .await;
    insert(&database, 1, 1).await;
    long.batch_execute("COMMIT").await.expect("ends");
    // What was begun is done whole the next time.
    let mut daemon = daemon;
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    daemon.start().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    let _removed = std::fs::remove_file(said);
}

/// Two tables, one of them with partitions, and orders, of which one alert is open.
const PARTS: &str = r#"
[[watch]]
name = "parts"
table = "public.parts"
threshold = 1000
[[watch.publish]]
channels = ["parts"]
event = "parts.many"
"#;

const PARCELS: &str = r#"
[[watch]]
name = "parcels"
table = "public.parcels"
threshold = 3
[[watch.publish]]
channels = ["parcels"]
event = "parcels.many"
"#;

async fn psql(database: &Database, script: &str) -> String {
    let file = std::env::temp_dir().join(format!("items-listen-mended-{}-{}.sql", std::process::id(), database.name));
    std::fs::write(&file, script).expect("written");
    let mut command = support::postgres::shared().program("psql", &database.name);
    command.args(["-v", "ON_ERROR_STOP=1", "-q", "-f"]).arg(&file);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("psql");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{script}");
    let _removed = std::fs::remove_file(file);
    said
}

/// Our triggers: each with its table, and how it is enabled.
async fn standing(database: &Database) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', tgrelid::regclass, tgname, tgenabled) FROM pg_trigger WHERE tgname LIKE 'items_listen%' ORDER BY 1";
    database.client.query(sql, &[]).await.expect("the catalog").iter().map(|row| row.get(0)).collect()
}

/// The script does what `install` does: to both the same is done, and the same is left.
#[tokio::test(flavor = "multi_thread")]
async fn the_printed_script_mends_and_removes_what_install_would() {
    let mut left = Vec::new();
    for printed in [false, true] {
        let (database, receiver) = (shop().await, Receiver::start().await);
        database
            .sql(
                "CREATE TABLE parcels (id serial PRIMARY KEY); INSERT INTO parcels SELECT FROM generate_series(1, 5);
                 CREATE TABLE parts (id int, region text) PARTITION BY LIST (region);
                 CREATE TABLE parts_north PARTITION OF parts FOR VALUES IN ('north');
                 CREATE TABLE parts_south PARTITION OF parts FOR VALUES IN ('south')",
            )
            .await;
        let manual = |watches: &str| config_with(&database, &receiver, "install = \"manual\"", watches);
        let mut daemon = daemon(&manual(&format!("{ORDERS}{PARTS}{PARCELS}")));
        assert_eq!(daemon.run(&["install"]).await.0, 0);
        daemon.start().await;
        receiver.wait_for(1).await;
        daemon.terminate().await;
        assert_eq!(standing(&database).await.len(), 4 + 3 * 3 + 3, "{:?}", standing(&database).await);
        database
            .sql(
                "ALTER TABLE orders DISABLE TRIGGER ALL; ALTER TABLE parts_north DISABLE TRIGGER USER;
                 DROP TRIGGER items_listen_2_insert ON parts; ALTER TABLE parts DETACH PARTITION parts_south",
            )
            .await;
        insert(&database, 1, 20).await;
        daemon.configure(&manual(&format!("{ORDERS}{PARTS}")));
        let (_, found, _) = daemon.run(&["check"]).await;
        for wrong in ["disabled", "missing", "left on", "not in the configuration"] {
            assert!(found.contains(wrong), "{wrong}: {found}");
        }
        if printed {
            let script = daemon.run(&["install", "--print"]).await.1;
            assert!(
                script.contains("enabled where one is disabled") && script.contains("it is not in the configuration any more")
            );
            psql(&database, &script).await;
            let once = standing(&database).await;
            // And again, printed before and anew: nothing is left to be done.
            psql(&database, &script).await;
            let anew = daemon.run(&["install", "--print"]).await.1;
            assert!(!anew.contains("DROP TRIGGER") && !anew.contains("parcels"), "{anew}");
            psql(&database, &anew).await;
            assert_eq!(standing(&database).await, once);
        } else {
            assert_eq!(daemon.run(&["install"]).await.0, 0);
        }
        let rows = "SELECT concat_ws(' / ', (SELECT string_agg(name, ', ' ORDER BY id) FROM items_listen.watch),
                        (SELECT string_agg(concat_ws(' ', watch, severity, reason), ', ') FROM items_listen.episode),
                        (SELECT count(*) FROM items_listen.count WHERE watch = 3), (SELECT count(*) FROM items_listen.marker WHERE watch = 3),
                        (SELECT count(*) FROM pg_proc WHERE proname LIKE 'watch\\_3\\_%'))";
        let rows: String = database.one(rows).await;
        left.push((standing(&database).await, rows));
        // Nothing that was written meanwhile is forgotten.
        daemon.start().await;
        exact(&database, "orders", TRUE_ORDERS).await;
        receiver.wait_for(2).await;
        let (code, found, _) = daemon.run(&["check"]).await;
        assert_eq!(code, 0, "{found}");
    }
    assert_eq!(left[0], left[1], "install, and the script");
    assert_eq!(left[0].0.len(), 4 + 2 * 3);
    assert!(left[0].0.iter().all(|trigger| trigger.ends_with(" O")), "{left:#?}");
    assert!(left[0].1.starts_with("orders, parts / parcels") && left[0].1.ends_with("info disabled / 0 / 0 / 0"), "{left:#?}");
}

/// A watch that is another now: what stood on the table that it no longer watches goes.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_longer_watches_a_table_leaves_no_trigger_there() {
    for printed in [false, true] {
        for other in ["table = \"public.others\"", "notify = \"parcels\"", "query = \"SELECT 1 AS one\"\nevery = \"1h\""] {
            let (database, receiver) = (shop().await, Receiver::start().await);
            database.sql("CREATE TABLE parts (id int); CREATE TABLE others (id int)").await;
            let manual = |watches: &str| config_with(&database, &receiver, "install = \"manual\"", watches);
            let daemon = daemon(&manual(PARTS));
            assert_eq!(daemon.run(&["install"]).await.0, 0);
            daemon.configure(&manual(&PARTS.replace("table = \"public.parts\"", other)));
            if printed {
                let script = daemon.run(&["install", "--print"]).await.1;
                psql(&database, &script).await;
                psql(&database, &script).await;
            } else {
                let (code, out, err) = daemon.run(&["install"]).await;
                assert_eq!(code, 0, "{out}{err}");
            }
            let standing = standing(&database).await;
            assert!(!standing.iter().any(|trigger| trigger.starts_with("parts ")), "{other}: {standing:?}");
            assert_eq!(standing.is_empty(), !other.starts_with("table"), "{other}: {standing:?}");
        }
    }
}

/// Markers of the table that it watched before would be counted for ever, and keep it from being judged.
#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_counted_and_is_no_table_any_more_is_served() {
    for printed in [false, true] {
        let (database, receiver) = (shop().await, Receiver::start().await);
        database.sql("INSERT INTO orders (tenant_id) VALUES (0)").await;
        let table = ORDERS.replace("status = 'open'", "10 / tenant_id > 0");
        let mut daemon = daemon(&config(&database, &receiver, &table));
        daemon.start().await;
        daemon.logged("22012").await;
        daemon.terminate().await;
        let query = ORDERS.replace(
            "table = \"public.orders\"",
            "query = \"SELECT tenant_id FROM orders WHERE tenant_id <> 0\"\nevery = \"1s\"",
        );
        let query: String = query.lines().filter(|line| !line.starts_with("where")).map(|line| format!("{line}\n")).collect();
        daemon.configure(&config(&database, &receiver, &query));
        if printed {
            let script = daemon.run(&["install", "--print"]).await.1;
            psql(&database, &script).await;
        }
        daemon.start().await;
        insert(&database, 1, 20).await;
        receiver.wait_for(1).await;
        assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.marker").await, 0);
        assert!(daemon.lines("counted") < 20, "{:?}", daemon.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_calls_nobodys_functions_in_the_place_of_postgresqls() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database
        .sql(
            "CREATE TABLE called (by text);
             CREATE FUNCTION public.format(text, regclass) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO public.called VALUES (current_user); RETURN pg_catalog.format($1, $2); END $$;
             CREATE FUNCTION public.format(text, name, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO public.called VALUES (current_user); RETURN pg_catalog.format($1, $2, $3); END $$",
        )
        .await;
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let (code, script, err) = daemon.run(&["install", "--print"]).await;
    assert_eq!(code, 0, "{err}");
    psql(&database, &script).await;
    assert_eq!(standing(&database).await.len(), 4);
    assert_eq!(database.one::<i64>("SELECT count(*) FROM called").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_person_installs_the_daemon_changes_nothing_and_notices_when_it_is_done() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let manual = |watches: &str| config_with(&database, &receiver, "install = \"manual\"", watches);
    let mut daemon = daemon(&manual(ORDERS));
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    let definition = "SELECT definition || generation FROM items_listen.watch";
    let before: String = database.one(definition).await;
    let changed = manual(&ORDERS.replace("status = 'open'", "status = 'new'"));
    daemon.configure(&changed);
    daemon.start().await;
    daemon.logged("not installed as configured").await;
    // It is tried again after a second and more.
    for _ in 0..3 {
        let beat = "SELECT max(beat_at)::text FROM items_listen.instance";
        let beaten: String = database.one(beat).await;
        support::eventually("a beat", async || (database.one::<String>(beat).await != beaten).then_some(())).await;
    }
    assert_eq!(database.one::<String>(definition).await, before);
    assert_eq!(daemon.lines("definition installed"), 0);
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    database.sql("INSERT INTO orders (tenant_id, status) SELECT 1, 'new' FROM generate_series(1, 20)").await;
    receiver.wait_for(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_install_refuses_is_not_printed_either() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let query = ORDERS.replace("table = \"public.orders\"", "query = \"SELECT nothing FROM orders\"\nevery = \"1s\"");
    let query: String = query.lines().filter(|line| !line.starts_with("where")).map(|line| format!("{line}\n")).collect();
    assert_eq!(daemon(&config(&database, &receiver, ORDERS)).run(&["install"]).await.0, 0);
    for (wrong, said) in [
        (ORDERS.replace("status = 'open'", "tenant_id > random()"), "immutable"),
        (ORDERS.replace("public.orders", "items_listen.journal"), "our own tables"),
        (query.clone(), "nothing"),
    ] {
        let daemon = daemon(&config(&database, &receiver, &wrong));
        let (code, out, err) = daemon.run(&["install", "--print"]).await;
        assert!(code == 1 && out.is_empty() && err.contains(said) && err.contains("orders"), "{wrong}: {code} {out} {err}");
    }
}
