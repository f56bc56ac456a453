//! Each right of the daemon's, taken away by itself: a statement that the program ran fails, and `check` names the GRANT.

use items_listen::db::rights::{self, DAEMON, Kind};
use items_listen::db::schema::Schema;
use tokio_postgres::Client;

use super::World;
use crate::support::postgres::connect;

const DAEMON_ROLE: &str = "items_listen_daemon";

/// A statement that the program ran as the daemon's role.
struct Ran {
    text: String,
    /// Prepared under this name, with so many parameters.
    name: String,
    parameters: usize,
}

/// Takes each right away, and gives it back.
pub(super) async fn each(world: &World, script: &str) {
    let client = connect(&world.url(DAEMON_ROLE)).await;
    client
        .batch_execute("SET search_path = pg_catalog, pg_temp; SET row_security = off; SELECT set_config('items_listen.folding', 'false', false)")
        .await
        .expect("settings");
    // A recount's correction is taken from what it has just counted.
    client
        .batch_execute("CREATE TEMP TABLE items_listen_truth (tenant_id int, id bigint, region text, items_listen_rows bigint, items_listen_sum numeric)")
        .await
        .expect("a temporary table");
    let ran = harvest(world, &client).await;
    let schema = Schema::new("items_listen");
    all_tables_are_thought_of(world).await;
    for right in DAEMON {
        let (what, on) = (right.what(), right.on(&schema));
        // One column at a time, if it is about columns.
        let parts: Vec<String> = match right.columns {
            [] => vec![what],
            columns => columns.iter().map(|column| format!("{} (\"{column}\")", right.privilege)).collect(),
        };
        for part in parts {
            world.database.sql(&format!("REVOKE {part} ON {on} FROM {DAEMON_ROLE}")).await;
            let missing = rights::missing(&client, &schema, DAEMON).await.expect("it can be asked");
            assert_eq!(missing, [*right], "check names this one and no other");
            let object = right.object.split('(').next().unwrap_or_default();
            let fails = failing(&client, &ran, object, right.kind == Kind::Sequence).await;
            assert!(fails.is_some(), "nothing that the program ran needs {part} on {on}");
            eprintln!("{part} on {on}: {:.100}", fails.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "));
            world.database.sql(&format!("GRANT {part} ON {on} TO {DAEMON_ROLE}")).await;
        }
    }
    outside(world, script).await;
    owners(world).await;
    all_at_once(world, &schema).await;
}

/// The statements in the server's log that the daemon's role ran, prepared once more.
async fn harvest(world: &World, client: &Client) -> Vec<Ran> {
    let log = std::fs::read_to_string(world.server.directory.join("log")).expect("the log");
    let mark = format!(" {} {DAEMON_ROLE} LOG:  ", world.database.name);
    let mut texts: Vec<String> = Vec::new();
    let mut ours = false;
    for line in log.lines() {
        if let Some(more) = line.strip_prefix('\t') {
            if let Some(text) = texts.last_mut().filter(|_| ours) {
                text.push_str(&format!("\n{more}"));
            }
            continue;
        }
        ours = false;
        let Some((_, said)) = line.split_once(&mark) else { continue };
        let Some((_, text)) = said.split_once(": ").filter(|(how, _)| *how == "statement" || how.starts_with("execute ")) else {
            continue;
        };
        ours = true;
        texts.push(text.to_owned());
    }
    // What this run had no occasion for: changes that a lookup had no time for.
    let source = include_str!("../../../src/engine/columns.rs");
    let give_back =
        source.split_once("const GIVE_BACK: &str = \"").and_then(|(_, rest)| rest.split_once("\";")).expect("it is there").0;
    texts.push(give_back.to_owned());
    texts.sort();
    texts.dedup();
    assert!(texts.len() > 80, "{} statements", texts.len());
    let mut ran = Vec::new();
    for (number, text) in texts.into_iter().enumerate() {
        // A cursor's question is what can be explained.
        let asked = text.trim().strip_prefix("DECLARE digest NO SCROLL CURSOR FOR").unwrap_or(&text).to_owned();
        let name = format!("ran_{number}");
        if client.batch_execute(&format!("PREPARE {name} AS {asked}")).await.is_ok() {
            let count = "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = $1";
            let parameters: i32 = client.query_one(count, &[&name]).await.expect("it is prepared").get(0);
            ran.push(Ran { text: asked, name, parameters: usize::try_from(parameters).unwrap_or_default() });
        }
    }
    ran
}

/// The first statement about an object that is denied. PostgreSQL looks at the rights on tables and functions when a
/// statement begins, which EXPLAIN lets it do; at those on a sequence when it takes a number.
async fn failing(client: &Client, ran: &[Ran], object: &str, is_run: bool) -> Option<String> {
    for one in ran.iter().filter(|one| one.text.contains(object)) {
        for value in if is_run { &["NULL", "1"][..] } else { &["NULL"] } {
            let arguments = vec![*value; one.parameters].join(", ");
            let arguments = if arguments.is_empty() { arguments } else { format!("({arguments})") };
            let how = if is_run { "EXPLAIN ANALYZE" } else { "EXPLAIN" };
            let tried = client.batch_execute(&format!("BEGIN; {how} EXECUTE {}{arguments}", one.name)).await;
            client.batch_execute("ROLLBACK").await.expect("rolls back");
            let code = tried.err().and_then(|error| error.code().map(|code| code.code().to_owned()));
            if code.as_deref() == Some("42501") {
                return Some(one.text.clone());
            }
        }
    }
    None
}

/// A table that a migration adds must be thought of.
async fn all_tables_are_thought_of(world: &World) {
    let ours = "SELECT relname::text FROM pg_class WHERE relnamespace = 'items_listen'::regnamespace AND relkind IN ('r', 'v')";
    for row in world.database.client.query(ours, &[]).await.expect("the catalog") {
        let table: String = row.get(0);
        assert!(DAEMON.iter().any(|right| right.object == table), "src/db/rights.rs says nothing of {table}");
    }
}

/// What the script grants outside of our schema, as it stands there: privilege by privilege, column by column.
async fn outside(world: &World, script: &str) {
    let end = script.split_once("\n-- 4. ").expect("the part").1.split_once("\n-- 5. ").expect("its end").0;
    let mut lines: Vec<&str> = end.lines().filter(|line| line.starts_with("GRANT ") && line.contains(DAEMON_ROLE)).collect();
    lines.sort_unstable();
    lines.dedup();
    let mut seen = 0;
    for line in lines {
        let (what, rest) = line.strip_prefix("GRANT ").and_then(|rest| rest.split_once(" ON ")).expect("a grant");
        let on = rest.split_once(" TO ").expect("to somebody").0;
        let parts: Vec<String> = match what.split_once(" (") {
            Some((privilege, columns)) => {
                columns.trim_end_matches(')').split(", ").map(|column| format!("{privilege} ({column})")).collect()
            }
            None => what.split(", ").map(str::to_owned).collect(),
        };
        for part in parts {
            world.psql(super::DBA, &format!("REVOKE {part} ON {on} FROM {DAEMON_ROLE}")).await;
            let named = on.rsplit([' ', '.']).next().unwrap_or_default().trim_matches('"').split('(').next().unwrap_or_default();
            let told = errors(world).await;
            let mends = |(id, remedy): &(String, String)| {
                ["privileges", "database-connect"].contains(&id.as_str()) && remedy.contains("GRANT ") && remedy.contains(named)
            };
            assert!(told.iter().any(mends), "{part} on {on}: {told:?}");
            eprintln!("{part} on {on}: {:?}", told.iter().find(|told| mends(told)));
            world.psql(super::DBA, &format!("GRANT {part} ON {on} TO {DAEMON_ROLE}")).await;
            seen += 1;
        }
    }
    assert!(seen >= 12, "{seen}");
    assert_eq!(errors(world).await, []);
}

/// Id and remedy of each error that `check` finds.
async fn errors(world: &World) -> Vec<(String, String)> {
    let (_, out, err) = world.daemon.run(&["check", "--json"]).await;
    let report: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    let found = report["findings"].as_array().expect("findings").iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    found.filter(|finding| finding["level"] == "error").map(|finding| (text(&finding["id"]), text(&finding["remedy"]))).collect()
}

/// The functions that a watch's expressions call are called by the owner, too: in each writer's statement.
async fn owners(world: &World) {
    let writer = connect(&world.url("writer")).await;
    for (revoke, grant) in [
        ("REVOKE EXECUTE ON FUNCTION shop.is_open(text) FROM", "GRANT EXECUTE ON FUNCTION shop.is_open(text) TO"),
        ("REVOKE USAGE ON SCHEMA shop FROM", "GRANT USAGE ON SCHEMA shop TO"),
    ] {
        world.psql(super::DBA, &format!("{revoke} items_listen_owner")).await;
        writer.batch_execute("INSERT INTO shop.orders (tenant_id) VALUES (1)").await.expect("no writer fails");
        let broken = "SELECT count(*) FROM items_listen.marker WHERE watch = 1 AND sqlstate = '42501'";
        assert_eq!(world.database.one::<i64>(broken).await, 1, "{revoke}");
        let told = errors(world).await;
        assert!(told.iter().any(|(id, remedy)| id == "privileges" && remedy.contains("items_listen_owner")), "{told:?}");
        world.psql(super::DBA, &format!("{grant} items_listen_owner")).await;
        assert!(world.run(&["recount", "orders"]).await.contains("corrected"));
    }
}

/// Without anything, what `check` says mends it.
async fn all_at_once(world: &World, schema: &Schema) {
    for right in DAEMON {
        world.database.sql(&format!("REVOKE ALL ON {} FROM {DAEMON_ROLE}", right.on(schema))).await;
    }
    world.database.sql("GRANT SELECT ON items_listen.schema_history TO items_listen_daemon").await;
    let (code, out, _) = world.daemon.run(&["check", "--json"]).await;
    assert_eq!(code, 1);
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let found = report["findings"].as_array().expect("findings");
    let found = found.iter().find(|finding| finding["id"] == "schema-privileges").expect("it is found");
    world.database.sql(found["remedy"].as_str().expect("a remedy")).await;
    assert_eq!(errors(world).await, []);
}
