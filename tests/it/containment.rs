//! `where`, `sum`, `value`, `query` and `lookup` are a person's own SQL: it is one expression or one question, it may only read,
//! it has an end, and it leaves nothing behind in our sessions. `check` says what is none, and runs none of it.

use serde_json::{Value, json};

use crate::support::receiver::Receiver;
use crate::*;

/// A table that must still be there, as it was.
async fn bystander() -> Database {
    let database = shop().await;
    database
        .sql(
            "ALTER TABLE orders ADD due date, ADD at timestamptz, ADD took interval, ADD note text;
             CREATE TABLE bystander (id int); INSERT INTO bystander VALUES (1);
             CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS 'INSERT INTO public.bystander VALUES (2) RETURNING id'",
        )
        .await;
    database
}

async fn is_untouched(database: &Database) {
    assert_eq!(database.one::<i64>("SELECT sum(id) FROM bystander").await, 1);
}

fn toml(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// What `check` finds wrong with the definition of the one watch, before anything is installed.
async fn wrong(daemon: &Daemon) -> Option<String> {
    let (_, out, err) = daemon.run(&["check", "--json"]).await;
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out} {err}"));
    let found = report["findings"].as_array().expect("findings").iter().find(|finding| {
        finding["level"] == "error" && ["watch-definition", "lookup"].contains(&finding["id"].as_str().unwrap_or_default())
    });
    found.map(|finding| finding["what"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_where_a_sum_and_a_value_are_one_expression_that_is_the_same_in_every_session() {
    let (database, receiver) = (bystander().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let with = |line: &str| daemon.configure(&config(&database, &receiver, &ORDERS.replace("where = \"status = 'open'\"", line)));
    let conditions = [
        ("true) OR (true", "where: "),
        ("true); DROP TABLE bystander; --", "where: "),
        ("true); COMMIT; DROP TABLE bystander; SELECT (true", "where: "),
        ("id > 0; DROP TABLE bystander", "where: "),
        ("id > 0 /* ", "where: "),
        ("note = 'open", "where: "),
        ("$x$ = note", "where: "),
        ("id", "where: "),
        ("id IN (SELECT id FROM bystander)", "where: "),
        ("public.writes() > 0", "immutable"),
        ("pg_sleep(1) IS NOT NULL", "immutable"),
        ("at > now()", "immutable"),
        // A trigger runs in the writer's session, whose date 01/02 may be another.
        ("due < '01/02/2026'", "another DateStyle or TimeZone"),
        ("at > '2026-11-21'", "another DateStyle or TimeZone"),
        ("due < 'today'", "another DateStyle or TimeZone"),
        ("at < 'now'", "another DateStyle or TimeZone"),
    ];
    for (condition, said) in conditions {
        with(&format!("where = {}", toml(condition)));
        let found = wrong(&daemon).await.unwrap_or_else(|| panic!("{condition} is taken"));
        assert!(found.contains(said), "{condition}: {found}");
        let (code, _, err) = daemon.run(&["install"]).await;
        assert!(code == 1 && err.contains(said), "{condition}: {code} {err}");
        is_untouched(&database).await;
    }
    for expression in
        ["id) + (id", "id); DROP TABLE bystander; --", "1; COMMIT; DROP TABLE bystander", "id, id", "public.writes()"]
    {
        for word in ["sum", "value"] {
            with(&format!("{word} = {}", toml(expression)));
            let found = wrong(&daemon).await;
            // (A value needs a key that names a row; that is said first.)
            assert!(
                found.is_some_and(|found| found.starts_with(word) || found.starts_with("value: each key")),
                "{word} {expression}"
            );
            is_untouched(&database).await;
        }
    }
    for condition in [
        "status = 'open' -- those that are",
        "due < '2026-02-01' AND at > '2026-11-21 12:00Z' AND took > '1 day 02:00'",
        r"note ~ '^\d+\\$' AND note <> '\' AND note <> E'\n'",
        "note IS DISTINCT FROM $$it's$$ AND (id > 0) IS NOT FALSE",
    ] {
        with(&format!("where = {}", toml(condition)));
        assert_eq!(wrong(&daemon).await, None, "{condition}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_and_a_lookup_are_one_question_and_check_runs_none() {
    let (database, receiver) = (bystander().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let file = std::env::temp_dir().join(format!("items-listen-copied-{}", database.name));
    let copy = format!("COPY bystander TO PROGRAM 'cat > {}'", file.display());
    for sql in [
        "WITH gone AS (DELETE FROM bystander RETURNING id) SELECT id AS k FROM gone",
        "INSERT INTO bystander VALUES (3) RETURNING id AS k",
        "SELECT 1 AS k; DROP TABLE bystander",
        "SELECT 1 AS k) AS q; DROP TABLE bystander; SELECT * FROM (SELECT 1 AS k",
        "SELECT 1 AS k) AS q; SET default_transaction_read_only = off; COMMIT; DROP TABLE bystander; SELECT * FROM (SELECT 1 AS k",
        "SELECT 1 AS k INTO copied",
        "SELECT id AS k FROM bystander FOR UPDATE) AS q; COMMIT; DROP TABLE bystander; SELECT FROM (SELECT 1",
        &copy,
        "SET TRANSACTION READ WRITE",
        "SET SESSION AUTHORIZATION DEFAULT",
        "DISCARD ALL",
        "LISTEN something",
        "CALL writes()",
        "DO 'BEGIN END'",
    ] {
        let query = format!(
            "[[watch]]\nname = \"asked\"\nquery = {}\nkey = [\"k\"]\nthreshold = 1\n[[watch.publish]]\nchannels = [\"c\"]\nevent = \"e\"\n",
            toml(sql)
        );
        let lookup = ORDERS.replace("threshold = 20", &format!("threshold = 20\nlookup = {}", toml(sql)));
        for watch in [query, lookup] {
            daemon.configure(&config(&database, &receiver, &watch));
            assert!(wrong(&daemon).await.is_some(), "{sql} is taken");
            let (code, _, err) = daemon.run(&["install"]).await;
            assert!(code == 1 && err.contains("SQLSTATE"), "{sql}: {code} {err}");
            is_untouched(&database).await;
        }
    }
    assert!(!file.exists());
}

/// Each time that a person's SQL is asked, it looks for what it did the time before, and does it again: it makes settings,
/// takes a lock for the session, and tells somebody.
const PROBE: &str = "
CREATE FUNCTION probe() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE found bigint;
BEGIN
    found := (current_setting('transaction_read_only') <> 'on')::int + (current_setting('default_transaction_read_only') <> 'on')::int
           + (current_setting('statement_timeout') = '0')::int + (current_setting('search_path') = 'evil')::int
           + (coalesce(current_setting('probe.mark', true), '') <> '')::int
           + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid());
    PERFORM set_config('default_transaction_read_only', 'off', false), set_config('statement_timeout', '0', false),
            set_config('search_path', 'evil', false), set_config('probe.mark', 'was here', false), pg_advisory_lock_shared(42),
            pg_notify('told', 'x');
    RETURN found;
END $$";

const PROBED: &str = r#"
[[watch]]
name = "asked"
query = "SELECT 'a' AS k, public.probe() AS v"
every = "1s"
key = ["k"]
value = "v"
threshold = 1000
[[watch.publish]]
channels = ["asked"]
event = "asked"
on = "reading"
[[watch]]
name = "told"
table = "orders"
key = ["id"]
lookup = "SELECT public.probe() AS found, :id::int AS id"
[[watch.publish]]
channels = ["told"]
event = "told"
on = "insert"
data = { found = "{{ lookup.found }}", id = "{{ lookup.id }}" }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_leaves_nothing_behind() {
    let (database, receiver) = (bystander().await, Receiver::start().await);
    database.sql(PROBE).await;
    let mut daemon = daemon(&config(&database, &receiver, PROBED));
    daemon.start().await;
    for told in 1..=4 {
        insert(&database, 1, 1).await;
        receiver.wait("it is told", |events| events.iter().filter(|event| event.name == "told").count() >= told).await;
    }
    let events =
        receiver.wait("it is asked again", |events| events.iter().filter(|event| event.name == "asked").count() >= 4).await;
    for event in &events {
        let found = if event.name == "asked" { event.data["count"].clone() } else { event.data["found"].clone() };
        assert_eq!(found, json!(0), "{}", event.data);
    }
    let locks: i64 = database.one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42").await;
    assert_eq!(locks, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_writes_waits_or_ends_its_session_degrades_its_own_watch_alone() {
    let (database, receiver) = (bystander().await, Receiver::start().await);
    let lookup = |name: &str, sql: &str| {
        format!(
            "[[watch]]\nname = \"{name}\"\ntable = \"orders\"\nkey = [\"id\"]\nlookup = {}\n[[watch.publish]]\nchannels = [\"c\"]\n\
             event = \"{name}\"\non = \"insert\"\ndata = {{ x = \"{{{{ lookup.x }}}}\" }}\n",
            toml(sql)
        )
    };
    let query = |name: &str, sql: &str| {
        format!(
            "[[watch]]\nname = \"{name}\"\nquery = {}\nevery = \"1s\"\nthreshold = 1\n[[watch.publish]]\nchannels = [\"c\"]\nevent = \"{name}\"\n",
            toml(sql)
        )
    };
    let watches = [
        ORDERS.to_owned(),
        lookup("lookup-writes", "SELECT public.writes() AS x"),
        lookup("lookup-waits", "SELECT pg_sleep(600)::text AS x"),
        query("query-writes", "SELECT public.writes()"),
        query("query-locks", "SELECT id FROM bystander FOR UPDATE"),
        query("query-ends", "SELECT pg_terminate_backend(pg_backend_pid())"),
        query("query-other-mode", "SELECT set_config('transaction_read_only', 'off', false)"),
    ];
    let mut daemon = daemon(&config(&database, &receiver, &watches.concat()));
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait("the others go on", |events| events.iter().any(|event| event.text("watch") == "orders")).await;
    for (watch, said) in [
        ("lookup-writes", "read-only transaction"),
        ("lookup-waits", "statement timeout"),
        ("query-writes", "read-only transaction"),
        ("query-locks", "read-only transaction"),
        ("query-other-mode", "read-write mode"),
        ("query-ends", "terminating connection"),
    ] {
        support::eventually(&format!("{watch} says why it waits"), async || {
            let sql = format!("SELECT coalesce(error, '') FROM items_listen.watch WHERE name = '{watch}'");
            database.one::<String>(&sql).await.contains(said).then_some(())
        })
        .await;
    }
    let before = receiver.all().len();
    insert(&database, 2, 20).await;
    receiver
        .wait("they still do", |events| events[before..].iter().any(|event| event.data["key"] == json!({"tenant_id": 2})))
        .await;
    is_untouched(&database).await;
}
