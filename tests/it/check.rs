//! `check` and `status` for an operator: each finding is made real, and is named with its remedy; nothing is changed.

use std::time::Duration;

use items_listen::db::horizon;
use serde_json::Value;

use crate::answers::{Raw, config_for, endpoint, text};
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::{Server, shared};
use crate::support::receiver::Receiver;
use crate::*;

/// What `check --json` says: exit code and report.
async fn check(daemon: &Daemon, arguments: &[&str]) -> (i32, Value) {
    let (code, out, err) = daemon.run(&[&["check", "--json"], arguments].concat()).await;
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {code} {out} {err}"));
    let needs_a_hand = findings(&report).any(|finding| ["warning", "error"].contains(&finding["level"].as_str().unwrap_or("")));
    assert_eq!(report["ok"], !needs_a_hand, "{report:#}");
    for finding in findings(&report) {
        let bad = ["warning", "error"].contains(&finding["level"].as_str().unwrap_or(""));
        assert!(!bad || finding["remedy"].is_string(), "without a remedy: {finding:#}");
    }
    (code, report)
}

fn findings(report: &Value) -> impl Iterator<Item = &Value> {
    report["findings"].as_array().expect("findings").iter()
}

/// The one finding of this id and level.
fn finding<'a>(report: &'a Value, id: &str, level: &str) -> &'a Value {
    let mut found = findings(report).filter(|finding| finding["id"] == id && finding["level"] == level);
    match (found.next(), found.next()) {
        (Some(one), None) => one,
        (None, _) => panic!("no {level} {id}: {report:#}"),
        (Some(_), Some(_)) => panic!("several {level} {id}: {report:#}"),
    }
}

fn has(report: &Value, id: &str) -> bool {
    findings(report).any(|finding| finding["id"] == id)
}

fn of<'a>(finding: &'a Value, field: &str) -> &'a str {
    finding[field].as_str().unwrap_or_default()
}

/// A role of this test's own, which is gone with it.
async fn role(database: &Database, rights: &str) -> String {
    let role = format!("{}_{}", rights.split_whitespace().next().unwrap_or("role").to_lowercase(), database.name);
    database.sql(&format!("CREATE ROLE {role} LOGIN")).await;
    role
}

async fn drop_role(database: &Database, role: &str) {
    database.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verdict_and_the_next_command_follow_from_how_it_stands() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!((code, of(&report, "verdict")), (0, "All is well."), "{report:#}");
    assert!(of(&report, "next").ends_with(" run"), "{report:#}");
    assert!(of(finding(&report, "watch", "info"), "what").contains("4 triggers"), "{report:#}");
    assert!(of(finding(&report, "listen", "ok"), "what").contains("came back"), "{report:#}");
    let (code, report) = check(&daemon, &["--offline"]).await;
    assert!(code == 0 && of(&report, "next").ends_with(" check") && !has(&report, "server"), "{report:#}");

    daemon.start().await;
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");
    assert!(of(finding(&report, "triggers", "ok"), "what").contains("in place"));
    // What is said next can be pasted, and does what it says.
    let next: Vec<&str> = of(&report, "next").split(' ').skip_while(|word| !word.starts_with("--trigger")).collect();
    assert_eq!(next, ["--trigger", "31", "--watch", "orders", "--key", "tenant_id=1"]);
    let (code, out, err) = daemon.run(&next).await;
    assert!(code == 0 && out.starts_with("critical"), "{code} {out} {err}");

    // A DBA installs: until then the script is next.
    let manual = shop().await;
    daemon.terminate().await;
    daemon.configure(&config_with(&manual, &receiver, "install = \"manual\"", ORDERS));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 1);
    finding(&report, "schema", "warning");
    assert!(of(&report, "next").ends_with(" install --print"), "{report:#}");
    assert_eq!(manual.one::<i64>("SELECT count(*) FROM pg_namespace WHERE nspname = 'items_listen'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_file_says_is_looked_at_first() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let rules = ORDERS.replace("event = \"orders.many\"", "event = \"orders.many\"\nendpoint = \"main\"\non = \"repeated\"");
    let rules = rules.replace("private-tenant.{{ key.tenant_id }}.orders", "private-tenant-{{ key.tenant_id }}_orders");
    let other = receiver.endpoint("spare");
    let daemon = daemon(&format!("{}{other}", config(&database, &receiver, &rules)));
    let (code, report) = check(&daemon, &["--offline"]).await;
    assert_eq!(code, 1);
    assert!(of(finding(&report, "rule-never-fires", "warning"), "what").contains("repeat"));
    finding(&report, "channel-separator", "warning");
    assert_eq!(finding(&report, "endpoint-unused", "info")["subject"], "endpoint spare");
    assert!(!has(&report, "file-mode"));
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&daemon.file, readable).expect("changed");
    let (_, report) = check(&daemon, &["--offline"]).await;
    assert!(of(finding(&report, "file-mode", "warning"), "what").contains("mode 644"), "{report:#}");

    // An empty secret would sign, and be refused.
    daemon.configure(&config(&database, &receiver, ORDERS).replace(support::receiver::SECRET, ""));
    let (code, out, err) = daemon.run(&["check", "--offline", "--json"]).await;
    assert!(code == 78 && err.contains("endpoints.main.secret") && err.contains("empty"), "{code} {err}");
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert!(of(finding(&report, "config-file", "error"), "what").contains("empty"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reason_for_no_session_is_named_with_its_remedy_and_the_daemon_logs_the_same() {
    let receiver = Receiver::start().await;
    let server = Server::start(&[]);
    let database = server.database().await;
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    database
        .sql(
            "CREATE ROLE known LOGIN PASSWORD 'right'; CREATE ROLE nologin PASSWORD 'right';
             CREATE ROLE full LOGIN CONNECTION LIMIT 0",
        )
        .await;
    database.sql("CREATE DATABASE closed").await;
    database.sql("REVOKE CONNECT ON DATABASE closed FROM public").await;
    let hba = "local all all trust\nhost all known 127.0.0.1/32 scram-sha-256\nhost all stranger 127.0.0.1/32 reject\n\
               host all all 127.0.0.1/32 trust\n";
    std::fs::write(server.directory.join("data/pg_hba.conf"), hba).expect("pg_hba.conf is written");
    database.sql("SELECT pg_reload_conf()").await;
    support::eventually("the new pg_hba.conf is in force", async || {
        let url = format!("postgres://stranger@127.0.0.1:{}/postgres", server.port);
        let refused = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.err()?;
        (refused.code()?.code() == "28000").then_some(())
    })
    .await;
    let directory = server.directory.display().to_string();
    let (port, name) = (server.port, database.name.as_str());
    let tcp = |user: &str, database: &str| format!("postgres://{user}@127.0.0.1:{port}/{database}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    for (url, id, remedy) in [
        (tcp("known:wrong", name), "database-password", "ALTER ROLE \"known\" PASSWORD"),
        (tcp("nobody", name), "database-role", "CREATE ROLE \"nobody\" LOGIN"),
        (tcp("nologin", name), "database-role", "ALTER ROLE \"nologin\" LOGIN"),
        (tcp("stranger", name), "database-admission", "pg_hba.conf"),
        (tcp("postgres", "nothing"), "database-name", "CREATE DATABASE \"nothing\""),
        (tcp("known:right", "closed"), "database-connect", "GRANT CONNECT ON DATABASE \"closed\" TO \"known\""),
        (tcp("full", name), "database-connections", "CONNECTION LIMIT"),
        (format!("{}?sslmode=require", tcp("postgres", name)), "database-no-tls", "ssl = on"),
        (format!("postgres://postgres@127.0.0.1:{free}/{name}"), "database-refused", "start PostgreSQL"),
        (format!("postgres://postgres@no-such-host.invalid:{port}/{name}"), "database-host", "DNS"),
        (format!("host={directory}/none port={port} user=postgres dbname={name}"), "database-socket", "socket"),
    ] {
        let configured = config(&database, &receiver, ORDERS).replace(&database.url(), &url);
        let mut daemon = daemon(&configured);
        let (code, report) = check(&daemon, &[]).await;
        let found = finding(&report, id, "error");
        assert_eq!((code, of(found, "depth")), (69, "database"), "{url}: {report:#}");
        assert!(of(found, "remedy").contains(remedy), "{url}: {found:#}");
        assert!(
            !report.to_string().contains("wrong\"") && !report.to_string().contains(":right"),
            "no password is said: {report:#}"
        );
        // The endpoint is asked all the same.
        finding(&report, "endpoint", "ok");
        daemon.spawn();
        let line = daemon.logged("no database session").await;
        assert_eq!(of(&line, "remedy"), of(found, "remedy"), "{url}: {line:#}");
        daemon.kill();
    }
    // Over its socket it can be reached.
    let url = format!("host={directory} port={port} user=postgres dbname={name}");
    let daemon = daemon(&config(&database, &receiver, ORDERS).replace(&database.url(), &url));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_and_says_nothing_is_given_up_within_ten_seconds() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    // It accepts connections by its backlog alone.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let daemon = daemon(&config(&database, &receiver, ORDERS).replace(&format!(":{}/", database.port), &format!(":{port}/")));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 69);
    assert!(of(finding(&report, "database-silent", "error"), "what").contains("8s"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_and_a_pooler_are_named_and_a_pool_of_sessions_is_not() {
    let receiver = Receiver::start().await;
    let primary = Server::start(&["max_prepared_transactions = 5"]);
    let database = primary.database().await;
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");
    assert!(of(finding(&report, "doorbell", "info"), "what").contains("the doorbell is off"));
    let standby = primary.standby();
    daemon.configure(
        &config(&database, &receiver, ORDERS).replace(&format!(":{}/", database.port), &format!(":{}/", standby.port)),
    );
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 1);
    assert!(of(finding(&report, "standby", "error"), "remedy").contains("primary"), "{report:#}");

    let mut pooler = PgBouncer::start(database.port, "transaction");
    let url = format!("postgres://postgres@127.0.0.1:{}/{}", pooler.port, database.name);
    drop(support::postgres::connect(&url).await);
    daemon.configure(&config(&database, &receiver, ORDERS).replace(&database.url(), &url));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 1);
    assert!(of(finding(&report, "pooler", "error"), "what").contains("PgBouncer"), "{report:#}");
    pooler.restart("session");
    drop(support::postgres::connect(&url).await);
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");
    finding(&report, "listen", "ok");
    assert!(!has(&report, "pooler"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_privilege_comes_with_the_grant_that_mends_it() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database
        .sql(
            "CREATE SCHEMA hidden; CREATE TABLE hidden.names (id int, name text);
             CREATE TABLE orders (id int, tenant_id int, status text NOT NULL DEFAULT 'open') PARTITION BY LIST (tenant_id);
             CREATE TABLE orders_1 PARTITION OF orders FOR VALUES IN (1);
             CREATE TABLE \"Orders 2\" PARTITION OF orders FOR VALUES IN (2);
             CREATE TABLE asked (n int)",
        )
        .await;
    database.sql(&format!("REVOKE TEMPORARY ON DATABASE {} FROM public", database.name)).await;
    let role = role(&database, "bare").await;
    let watches = format!(
        "{}lookup = \"SELECT name FROM hidden.names WHERE id = :tenant_id\"\n{}",
        ORDERS.split("[[watch.publish]]").next().unwrap_or_default(),
        ORDERS.split_once("[[watch.publish]]").map(|(_, rest)| format!("[[watch.publish]]{rest}")).unwrap_or_default()
    ) + "[[watch]]\nname = \"asked\"\nquery = \"SELECT n FROM public.asked\"\nsum = \"n\"\nevery = \"1s\"\nthreshold = 5\n\
         [[watch.publish]]\nchannels = [\"a\"]\nevent = \"e\"\n";
    let daemon = daemon(&config(&database, &receiver, &watches).replace("postgres@", &format!("{role}@")));
    let mut run = Vec::new();
    // Each GRANT is run as it is said, until nothing is missing.
    for _ in 0..8 {
        let (code, report) = check(&daemon, &[]).await;
        let grants: Vec<String> = findings(&report)
            .filter(|finding| finding["id"] == "privileges")
            .map(|finding| of(finding, "remedy").split(" or let a DBA").next().unwrap_or_default().to_owned())
            .collect();
        if grants.is_empty() {
            assert_eq!(code, 0, "{report:#}");
            break;
        }
        assert_eq!(code, 1);
        for grant in grants {
            database.sql(&grant).await;
            run.push(grant);
        }
    }
    run.sort();
    let name = &database.name;
    let expected = [
        format!("GRANT CREATE ON DATABASE \"{name}\" TO \"{role}\";"),
        format!("GRANT SELECT (\"id\", \"name\") ON \"hidden\".\"names\" TO \"{role}\";"),
        format!("GRANT SELECT ON \"public\".\"asked\" TO \"{role}\";"),
        format!("GRANT SELECT ON \"public\".\"orders\" TO \"{role}\";"),
        format!("GRANT TEMPORARY ON DATABASE \"{name}\" TO \"{role}\";"),
        format!("GRANT TRIGGER ON \"public\".\"orders\", \"public\".\"Orders 2\", \"public\".\"orders_1\" TO \"{role}\";"),
        format!("GRANT USAGE ON SCHEMA \"hidden\" TO \"{role}\";"),
    ];
    assert_eq!(run, expected);
    // And then it works.
    let (code, out, err) = daemon.run(&["install"]).await;
    assert_eq!(code, 0, "{out}{err}");
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");
    finding(&report, "ownership", "info");
    // Rows that are hidden could not be counted.
    database.sql("ALTER TABLE orders ENABLE ROW LEVEL SECURITY").await;
    let (_, report) = check(&daemon, &[]).await;
    assert!(of(finding(&report, "row-security", "error"), "remedy").contains("BYPASSRLS"));
    database.sql("DROP SCHEMA items_listen CASCADE").await;
    drop_role(&database, &role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_only_works_in_the_schema_needs_what_is_said_and_no_more() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let watches = format!("{ORDERS}{SUMMED}");
    let owner = daemon(&config(&database, &receiver, &watches));
    assert_eq!(owner.run(&["install"]).await.0, 0);
    let role = role(&database, "worker").await;
    database.sql(&format!("GRANT SELECT ON orders TO {role}")).await;
    let as_role = |lines: &str| config_with(&database, &receiver, lines, &watches).replace("postgres@", &format!("{role}@"));
    let mut daemon = daemon(&as_role("install = \"manual\""));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 1);
    database.sql(of(finding(&report, "schema-privileges", "error"), "remedy")).await;
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    let (code, out, err) = daemon.run(&["recount"]).await;
    assert_eq!(code, 0, "{out}{err}");
    daemon.terminate().await;
    // With install = "auto" it would have to own the schema.
    daemon.configure(&as_role(""));
    let (_, report) = check(&daemon, &[]).await;
    assert!(of(finding(&report, "schema-privileges", "warning"), "remedy").contains("manual"), "{report:#}");
    drop_role(&database, &role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_install_would_change_is_said_before_it_does() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database
        .sql(
            "CREATE TABLE orders (id int, tenant_id int, status text NOT NULL DEFAULT 'open') PARTITION BY LIST (tenant_id);
             CREATE TABLE orders_1 PARTITION OF orders FOR VALUES IN (1)",
        )
        .await;
    let manual = |watches: &str| config_with(&database, &receiver, "install = \"manual\"", watches);
    let other = "[[watch]]\nname = \"old\"\ntable = \"public.orders\"\nthreshold = 5\n[[watch.publish]]\nchannels = [\"a\"]\nevent = \"e\"\n";
    let daemon = daemon(&manual(&format!("{ORDERS}{other}")));
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");

    daemon.configure(&manual(ORDERS));
    database.sql("CREATE TABLE orders_2 PARTITION OF orders FOR VALUES IN (2); ALTER TABLE orders_1 DISABLE TRIGGER items_listen_1_insert").await;
    let before: String = database.one(EVERYTHING).await;
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 1);
    assert!(of(finding(&report, "watch-removed", "warning"), "what").contains("its 6 triggers"), "{report:#}");
    let said: Vec<&str> =
        findings(&report).filter(|finding| finding["id"] == "triggers").map(|finding| of(finding, "what")).collect();
    assert_eq!(said.len(), 3, "{report:#}");
    assert!(said.iter().any(|what| what.contains("missing on public.orders_2 (delete, insert, truncate, update)")), "{report:#}");
    assert!(said.iter().any(|what| what.contains("disabled on public.orders_1 (insert)")), "{report:#}");
    assert!(said.iter().any(|what| what.contains("partitions were attached")), "{report:#}");
    let sql = findings(&report)
        .find(|finding| of(finding, "what").contains("disabled"))
        .map(|finding| of(finding, "remedy"))
        .unwrap_or_default();
    assert!(sql.starts_with("ALTER TABLE public.orders_1 ENABLE TRIGGER items_listen_1_insert;"), "{sql}");
    assert_eq!(database.one::<String>(EVERYTHING).await, before, "check changes nothing");
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");

    // What differs of a definition, and how it is judged.
    for (from, to, what) in [
        ("where = \"status = 'open'\"", "where = \"status = 'new'\"", "its where"),
        ("where = \"status = 'open'\"", "where = \"status = 'open'\"\nsum = \"id\"", "what is measured"),
        ("key = [\"tenant_id\"]\n", "key = [\"tenant_id\", \"id\"]\n", "its key"),
    ] {
        daemon.configure(&manual(&ORDERS.replace(from, to)));
        let (code, report) = check(&daemon, &[]).await;
        assert!(
            code == 1 && of(finding(&report, "watch-changed", "warning"), "what").contains(&format!("({what}")),
            "{to}: {report:#}"
        );
    }
    database.sql("UPDATE items_listen.watch SET policy = 'another'").await;
    daemon.configure(&manual(ORDERS));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");
    finding(&report, "policy", "info");
    // What fires no trigger.
    let role = role(&database, "replica").await;
    database.sql(&format!("ALTER ROLE {role} IN DATABASE {} SET session_replication_role = replica", database.name)).await;
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 1);
    database.sql(of(finding(&report, "replication-role", "warning"), "remedy")).await;
    assert_eq!(check(&daemon, &[]).await.0, 0);
    drop_role(&database, &role).await;
    // A schema from the future.
    database.sql("INSERT INTO items_listen.schema_history (version, name) VALUES (99, 'from the future')").await;
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 78, "{report:#}");
    finding(&report, "schema-version", "error");
}

/// A sum, which needs more than rows do.
const SUMMED: &str = "[[watch]]\nname = \"sums\"\ntable = \"public.orders\"\nkey = [\"tenant_id\"]\nsum = \"id\"\nthreshold = 1000000000\n\
                  [[watch.publish]]\nchannels = [\"a\"]\nevent = \"e\"\n";

/// Whatever a check could have changed.
const EVERYTHING: &str = "SELECT (SELECT string_agg(concat(tgname, tgenabled, tgrelid), ' ' ORDER BY oid) FROM pg_trigger)
    || (SELECT string_agg(w::text, ' ' ORDER BY w.id) FROM items_listen.watch w)
    || (SELECT count(*) FROM items_listen.marker) || (SELECT count(*) FROM items_listen.journal)
    || coalesce((SELECT string_agg(c::text, ' ' ORDER BY c.watch, c.key) FROM items_listen.count c), '')
    || (SELECT count(*) FROM pg_class WHERE relpersistence = 't')";

#[tokio::test(flavor = "multi_thread")]
async fn a_drift_is_found_on_request_and_writers_cause_none() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon =
        daemon(&config(&database, &receiver, &format!("{}{SUMMED}", ORDERS.replace("threshold = 20", "threshold = 1000000"))));
    insert(&database, 3, 10).await;
    daemon.start().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    // While rows come and go, folded or not.
    let writer = database.session().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let writing = tokio::spawn(async move {
        let mut written = 0;
        while !stopped.is_cancelled() {
            writer
                .batch_execute("INSERT INTO orders (tenant_id) VALUES (1), (2); UPDATE orders SET status = 'done' WHERE id % 3 = 0; DELETE FROM orders WHERE id % 5 = 0")
                .await
                .expect("written");
            written += 1;
        }
        written
    });
    for _ in 0..4 {
        let (code, report) = check(&daemon, &["--recount"]).await;
        assert_eq!(code, 0, "a false drift: {report:#}");
        assert_eq!(
            findings(&report).filter(|finding| finding["id"] == "drift" && finding["level"] == "ok").count(),
            2,
            "{report:#}"
        );
    }
    // And while nobody folds.
    daemon.kill();
    let (_, report) = check(&daemon, &["--recount"]).await;
    assert_eq!(findings(&report).filter(|finding| finding["id"] == "drift" && finding["level"] == "ok").count(), 2, "{report:#}");
    stop.cancel();
    assert!(writing.await.expect("no panic") > 0);
    assert!(database.one::<i64>("SELECT count(*) FROM items_listen.journal").await > 0, "something waits to be folded");

    database.sql("UPDATE items_listen.count SET rows = rows + 7 WHERE watch = 1 AND key = '[3]'").await;
    let before: String = database.one(EVERYTHING).await;
    let (code, report) = check(&daemon, &["--recount"]).await;
    assert_eq!(code, 1);
    let drift = finding(&report, "drift", "warning");
    assert!(of(drift, "what").contains("1 keys") && of(drift, "what").contains("key [3]:"), "{drift:#}");
    assert_eq!(of(drift, "remedy"), "items-listen recount orders");
    assert!(of(finding(&report, "drift", "ok"), "subject").contains("sums"), "{report:#}");
    assert_eq!(database.one::<String>(EVERYTHING).await, before, "check changes nothing");
    let (_, report) = check(&daemon, &[]).await;
    assert!(!has(&report, "drift"), "only on request: {report:#}");
    assert_eq!(daemon.run(&["recount", "orders"]).await.0, 0);
    let (_, report) = check(&daemon, &["--recount"]).await;
    assert!(!findings(&report).any(|finding| finding["id"] == "drift" && finding["level"] == "warning"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_vacuum_back_or_the_queue_is_named_with_what_ends_it() {
    let server = Server::start(&["max_prepared_transactions = 5", "wal_level = logical"]);
    let database = server.database().await;
    database.sql("CREATE TABLE orders (id int)").await;
    let ages = horizon::holders(&database.client, Duration::from_secs(3600)).await.expect("asks");
    assert_eq!(ages, [], "nobody is that old");
    // First: making a slot waits for transactions that are open.
    database.sql("SELECT pg_create_logical_replication_slot('unused', 'pgoutput')").await;
    let idle = database.session().await;
    idle.batch_execute("SET application_name = 'forgotten'; LISTEN x").await.expect("listens");
    idle.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.expect("begins");
    let prepared = database.session().await;
    prepared.batch_execute("BEGIN; INSERT INTO orders VALUES (1); PREPARE TRANSACTION 'it''s'").await.expect("prepares");
    let found = horizon::holders(&database.client, Duration::ZERO).await.expect("asks");
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].what.contains("forgotten") && found[0].what.contains("idle in transaction"), "{found:?}");
    assert!(found[1].what.contains("it's") && found[2].what.contains("unused"), "{found:?}");
    assert_eq!(horizon::holders(&database.client, Duration::from_secs(3600)).await.expect("asks").len(), 1, "a slot has no age");

    let payload = "x".repeat(7000);
    for n in 0..20 {
        database.sql(&format!("NOTIFY x, '{n}{payload}'")).await;
    }
    let (usage, suspects) = horizon::queue(&database.client).await.expect("asks");
    assert!(usage > 0.0 && suspects.first().is_some_and(|suspect| suspect.what.contains("forgotten")), "{usage} {suspects:?}");
    // Each remedy does what it says.
    database.sql(&found[0].remedy.split(" (").next().map(str::to_owned).unwrap_or_default()).await;
    database
        .sql(&found[1].remedy.split(": ").nth(1).and_then(|sql| sql.split(" or ").next()).map(str::to_owned).unwrap_or_default())
        .await;
    database.sql(&found[2].remedy.split(" or ").nth(1).map(str::to_owned).unwrap_or_default()).await;
    support::eventually("nobody is in the way", async || {
        let left = horizon::holders(&database.client, Duration::ZERO).await.expect("asks");
        left.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_connections_are_named_before_they_are_missed() {
    let receiver = Receiver::start().await;
    let server = Server::start(&["max_connections = 12"]);
    let database = server.database().await;
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    let daemon = daemon(&config_with(&database, &receiver, "pool_size = 1", ORDERS));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");
    daemon.configure(&config_with(&database, &receiver, "pool_size = 20", ORDERS));
    let (code, report) = check(&daemon, &[]).await;
    assert!(code == 1 && of(finding(&report, "connections", "warning"), "what").contains("max_connections"), "{report:#}");
    database.sql("CREATE ROLE few LOGIN SUPERUSER CONNECTION LIMIT 5").await;
    daemon.configure(&config_with(&database, &receiver, "pool_size = 1", ORDERS).replace("postgres@", "few@"));
    let (_, report) = check(&daemon, &[]).await;
    assert!(
        of(finding(&report, "connections", "warning"), "remedy").contains("ALTER ROLE \"few\" CONNECTION LIMIT -1;"),
        "{report:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_endpoint_says_is_explained() {
    let database = shop().await;
    let dated = |status: &str, by: i64| {
        let at = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(by)).expect("a time");
        let date = at.strftime("%a, %d %b %Y %H:%M:%S GMT");
        vec![text(&format!("HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Length: 2\r\n\r\n{{}}"))]
    };
    for (answer, id, level, word) in [
        (dated("200 OK", 0), "endpoint", "ok", "accepts our signature"),
        (dated("200 OK", 300), "endpoint-clock", "warning", "behind"),
        (dated("401 Unauthorized", -3600), "endpoint-clock", "error", "ahead"),
        (dated("401 Unauthorized", 0), "endpoint-signature", "error", "key and secret"),
        (dated("403 Forbidden", 0), "endpoint-signature", "error", "key and secret"),
        (dated("404 Not Found", 0), "endpoint-application", "error", "app_id"),
        (dated("302 Found", 0), "endpoint-answer", "error", "redirects"),
        (dated("500 Oh", 0), "endpoint-answer", "error", "500"),
    ] {
        let server = Raw::start(vec![answer]).await;
        let daemon = daemon(&config_for(&database, &server.endpoint("main", ""), ORDERS));
        let (code, report) = check(&daemon, &[]).await;
        let found = finding(&report, id, level);
        assert!(found.to_string().contains(word), "{found:#}");
        assert_eq!((code, of(found, "depth")), (i32::from(level != "ok"), "endpoint"), "{report:#}");
    }
    // Whom a URL names is nobody's business, and with which password even less.
    let daemon = daemon(&config_for(&database, &endpoint("main", "http://somebody:hush-hush@127.0.0.1:1", ""), ORDERS));
    let (_, report) = check(&daemon, &[]).await;
    let (_, said, stderr) = daemon.run(&["check"]).await;
    assert!(of(finding(&report, "endpoint-connection", "error"), "what").contains("127.0.0.1"), "{report:#}");
    assert!(![report.to_string(), said.clone(), stderr.clone()].concat().contains("hush-hush"), "{report:#} {said} {stderr}");
    // Somebody who speaks no TLS, and somebody who is not there.
    let receiver = Receiver::start().await;
    let plain = receiver.endpoint("main").replace("http://", "https://");
    daemon.configure(&config_for(&database, &plain, ORDERS));
    let (code, report) = check(&daemon, &[]).await;
    assert!(code == 69 && of(finding(&report, "endpoint-tls", "error"), "remedy").contains("speaks no TLS"), "{report:#}");
    daemon.configure(&config_for(&database, &endpoint("main", "http://no-such-host.invalid", ""), ORDERS));
    let (code, report) = check(&daemon, &[]).await;
    assert!(code == 69 && of(finding(&report, "endpoint-connection", "error"), "remedy").contains("DNS"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_findings_of_one_server_are_not_those_of_its_other_databases() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let elsewhere = shared().database().await;
    let idle = elsewhere.session().await;
    idle.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.expect("begins");
    let here = horizon::holders(&database.client, Duration::ZERO).await.expect("asks");
    assert!(
        !here.iter().any(|holder| holder.what.contains(&format!("in {})", elsewhere.name))),
        "it only reads, elsewhere: {here:?}"
    );
    drop((idle, receiver));
}
