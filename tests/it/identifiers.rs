//! Whatever schemas, tables and columns are called: the whole way, from `install --print` in a real psql to `uninstall`.

use serde_json::{Value, json};

use crate::support::postgres::{Database, shared};
use crate::support::receiver::Receiver;
use crate::*;

/// What a schema, a table and its columns are called, each in turn.
const NAMES: [&str; 22] = [
    "we.ird",
    "qu\"o\"te\"",
    "it's",
    "Capitals",
    "$items_listen$",
    "$triggers$",
    "items_listen.watch",
    r"back\slash\'",
    "with  space",
    "new\nline\r",
    "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}x",
    // The same to the eye, and two names.
    "caf\u{e9}",
    "cafe\u{301}",
    "select",
    "{key}{where}{id}",
    "x --? counts",
    "'; DROP SCHEMA alerts CASCADE; --",
    "%s %I %%",
    ":name :'name' \\gexec",
    "__proto__",
    "\u{202e}\u{1b}[31m",
    "漢字🦀",
];

/// What our own statements call things; and what PL/pgSQL knows.
const OURS: [&str; 24] = [
    "old_rows",
    "new_rows",
    "r",
    "key",
    "_key",
    "_many",
    "_keys",
    "_error",
    "rows",
    "sum",
    "measure",
    "n",
    "o",
    "one",
    "d",
    "truth",
    "watched",
    "generation",
    "found",
    "tg_op",
    "sqlstate",
    "columns",
    "what",
    "items_listen_row",
];

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn toml(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A name of at most 63 bytes that begins with a letter and goes on with that name.
fn with(letter: char, name: &str) -> String {
    let mut name = format!("{letter}{name}");
    while name.len() > 63 {
        name.pop();
    }
    name
}

/// A table whose every name is made of that one: rows of a key, and a level with a threshold of its own.
struct Table {
    name: &'static str,
    relation: String,
    id: String,
    quantity: String,
    least: String,
}

impl Table {
    fn of(name: &'static str) -> Table {
        let relation = format!("{}.{}", quoted(name), quoted(name));
        Table { name, relation, id: with('i', name), quantity: with('q', name), least: with('l', name) }
    }

    fn create(&self) -> String {
        let [id, key, quantity, least] = [&self.id, self.name, &self.quantity, &self.least].map(quoted);
        format!(
            "CREATE SCHEMA {}; CREATE TABLE {} ({id} bigint PRIMARY KEY, {key} text, {quantity} bigint, {least} bigint)",
            quoted(self.name),
            self.relation
        )
    }

    fn watches(&self, number: usize) -> String {
        let (relation, key) = (toml(&self.relation), toml(self.name));
        // Its texts hold what our templates, a dollar quote and a backslash would be taken for.
        let condition = format!(
            "{key} IS DISTINCT FROM 'no\\thing' AND {key} IS DISTINCT FROM '{{key}}$items_listen$ items_listen.x :a :''b''' -- end",
            key = quoted(self.name)
        );
        format!(
            "[[watch]]\nname = \"rows{number}\"\ntable = {relation}\nkey = [{key}]\nwhere = {}\nthreshold = 2\n\
             [[watch.publish]]\nchannels = [{}]\nevent = \"rows\"\n\
             [[watch]]\nname = \"changes{number}\"\ntable = {relation}\nkey = [{key}]\nwhere = {}\ninclude = [{}]\n\
             [[watch.publish]]\nchannels = [\"changes\"]\nevent = \"change\"\non = \"change\"\ncolumns = [{key}]\n\
             [[watch]]\nname = \"level{number}\"\ntable = {relation}\nkey = [{}]\nvalue = {}\nthreshold_column = {}\ncompare = \"<\"\n\
             include = [{key}]\n[[watch.publish]]\nchannels = [\"level\"]\nevent = \"level\"\n",
            toml(&condition),
            toml(&format!("rows.{{{{ key[{}]|length }}}}", Value::from(self.name))),
            toml(&condition),
            toml(&self.quantity),
            toml(&self.id),
            toml(&quoted(&self.quantity)),
            toml(&self.least),
        )
    }
}

/// The keys of a watch and how many rows each has, once all is folded and judged.
async fn counts(database: &Database, watch: &str) -> Value {
    support::eventually(&format!("{watch} is folded"), async || {
        let waiting: i64 = database
            .one(
                "SELECT (SELECT count(*) FROM alerts.journal) + (SELECT count(*) FROM alerts.marker)
                        + (SELECT count(*) FROM alerts.count WHERE dirty > 0)",
            )
            .await;
        (waiting == 0).then_some(())
    })
    .await;
    let sql =
        "SELECT coalesce(json_object_agg(c.key, c.rows), '{}')::text FROM alerts.count c JOIN alerts.watch w ON w.id = c.watch
               WHERE w.name = $1 AND c.rows <> 0";
    let row = database.client.query_one(sql, &[&watch]).await.expect("the counts");
    serde_json::from_str(row.get(0)).expect("JSON")
}

/// Runs a script in a real psql whose own settings are as unlike ours as can be.
fn psql(database: &Database, file: &std::path::Path) {
    let output = shared()
        .program("psql", &database.name)
        .env("PGOPTIONS", "-c standard_conforming_strings=off -c backslash_quote=on -c search_path=\"we.ird\"")
        .env("PGCLIENTENCODING", "LATIN1")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "name=injected", "-v", "a=injected", "-f"])
        .arg(file)
        .output()
        .expect("psql");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_schemas_tables_and_columns_are_called() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    let tables = NAMES.map(Table::of);
    for table in &tables {
        database.sql(&table.create()).await;
    }
    let watches: String = tables.iter().enumerate().map(|(number, table)| table.watches(number)).collect();
    let mut daemon = daemon(&config_with(&database, &receiver, "schema = \"alerts\"\ninstall = \"manual\"\n", &watches));
    let (code, script, err) = daemon.run(&["install", "--print"]).await;
    assert_eq!(code, 0, "{err}");
    let file = daemon.file.with_extension("sql");
    for script in [script, daemon.run(&["install", "--print"]).await.1] {
        std::fs::write(&file, script).expect("written");
        psql(&database, &file);
        psql(&database, &file);
    }
    let _removed = std::fs::remove_file(&file);
    daemon.start().await;
    let (code, out, _) = daemon.run(&["check", "--json"]).await;
    assert_eq!(code, 0, "what psql installed is what the daemon would: {out}");

    // A writer whose own settings are others, too.
    let writer = database.session().await;
    for table in &tables {
        let key = literal(&format!("v{}", table.name));
        let insert = format!("INSERT INTO {} VALUES (1, {key}, 1, 10), (2, {key}, 20, 10)", table.relation);
        writer.batch_execute(&insert).await.expect("the writer never fails");
    }
    writer
        .batch_execute("SET standard_conforming_strings = off; SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Tokyo'")
        .await
        .expect("its own");
    for table in &tables {
        let (key, id) = (quoted(table.name), quoted(&table.id));
        for sql in [
            format!("INSERT INTO {} VALUES (3, E'no\\\\thing', 50, 10), (4, 'other', 50, 10), (5, NULL, 50, 10)", table.relation),
            format!("INSERT INTO {} VALUES (6, E'no\\\\thing', 50, 10)", table.relation),
            format!("UPDATE {} SET {key} = 'moved' WHERE {id} = 4", table.relation),
            format!("DELETE FROM {} WHERE {id} = 5", table.relation),
        ] {
            writer.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }
    for (number, table) in tables.iter().enumerate() {
        let value = format!("v{}", table.name);
        let key = |value: Value| serde_json::to_string(&[value]).expect("JSON");
        assert_eq!(
            counts(&database, &format!("rows{number}")).await,
            json!({key(json!(value)): 2, key(json!("moved")): 1}),
            "{:?}",
            table.name
        );
        let events = receiver
            .wait("each rule of it", |events| {
                let of = |watch: &str, what: &str| {
                    events
                        .iter()
                        .any(|event| event.text("watch") == format!("{watch}{number}") && event.text("transition") == what)
                };
                of("rows", "raised") && of("level", "raised") && of("changes", "delete")
            })
            .await;
        let one = |watch: &str, what: &str| {
            let mut found = events
                .iter()
                .filter(|event| event.text("watch") == format!("{watch}{number}") && event.text("transition") == what);
            found.next().expect("it came").data.clone()
        };
        let raised = one("rows", "raised");
        assert_eq!((&raised["key"], &raised["count"]), (&json!({table.name: value}), &json!(2)));
        let channel = format!("rows.{}", value.chars().count());
        assert!(events.iter().any(|event| event.channels == [channel.as_str()] && event.data == raised), "a template reaches it");
        let level = one("level", "raised");
        assert_eq!((&level["key"], &level["count"], &level["threshold"]), (&json!({&table.id: 1}), &json!(1), &json!(10)));
        assert_eq!(level["row"][table.name], json!(value));
        assert_eq!(one("changes", "delete")["row"][&table.quantity], json!(50));
    }
    let (code, out, err) = daemon.run(&["recount"]).await;
    // (A recount of levels has each judged anew, since more than its count may have changed.)
    let exact = |line: &str| line.starts_with("level") || line.ends_with("exact, nothing to correct");
    assert!(code == 0 && out.lines().all(exact), "{out} {err}");
    let (code, out, _) = daemon.run(&["check", "--recount", "--json"]).await;
    assert_eq!(code, 0, "{out}");
    for table in &tables {
        database.sql(&format!("TRUNCATE {}", table.relation)).await;
    }
    for (number, table) in tables.iter().enumerate() {
        support::eventually(&format!("{:?} is empty", table.name), async || {
            (counts(&database, &format!("rows{number}")).await == json!({})).then_some(())
        })
        .await;
    }
    assert_eq!(daemon.lines("watch degraded"), 0);
    daemon.terminate().await;
    database.sql("DELETE FROM alerts.instance").await;
    let (code, _, err) = daemon.run(&["uninstall"]).await;
    assert_eq!(code, 0, "{err}");
    let left: i64 = database
        .one("SELECT (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal) + (SELECT count(*) FROM pg_namespace WHERE nspname = 'alerts')")
        .await;
    assert_eq!(left, 0, "nothing of ours is left");
}

/// Each of our names in turn is the key, the rest of the row is called as the others are.
#[tokio::test(flavor = "multi_thread")]
async fn columns_may_be_called_as_our_own_names_are() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    let columns: Vec<String> = OURS.iter().map(|name| format!("{} int DEFAULT 1", quoted(name))).collect();
    database.sql(&format!("CREATE TABLE ours (id serial PRIMARY KEY, {})", columns.join(", "))).await;
    let watches: String = OURS
        .iter()
        .map(|name| {
            let (column, where_) = (toml(name), toml(&format!("{0} = {0} AND {0} < 100", quoted(name))));
            format!(
                "[[watch]]\nname = \"{name}\"\ntable = \"ours\"\nkey = [{column}]\nwhere = {where_}\nsum = {}\nthreshold = 2\n\
                 [[watch.publish]]\nchannels = [\"c\"]\nevent = \"e\"\n\
                 [[watch.publish]]\nchannels = [\"d\"]\nevent = \"d\"\non = \"delete\"\n",
                toml(&quoted(name)),
            )
        })
        .collect();
    let mut daemon = daemon(&config_with(&database, &receiver, "schema = \"alerts\"\n", &watches));
    daemon.start().await;
    let all: Vec<String> = OURS.iter().map(|name| quoted(name)).collect();
    let set = |value: i32| all.iter().map(|name| format!("{name} = {value}")).collect::<Vec<_>>().join(", ");
    database.sql("INSERT INTO ours DEFAULT VALUES; INSERT INTO ours (id) VALUES (100), (101), (102)").await;
    database.sql(&format!("UPDATE ours SET {} WHERE id = 100; UPDATE ours SET {} WHERE id > 100", set(2), set(200))).await;
    database.sql("DELETE FROM ours WHERE id = 101").await;
    for name in OURS {
        assert_eq!(counts(&database, name).await, json!({"[1]": 1, "[2]": 1}), "{name}");
    }
    assert_eq!(daemon.lines("watch degraded") + daemon.lines("were lost"), 0);
    let (code, out, err) = daemon.run(&["recount"]).await;
    assert!(code == 0 && out.lines().all(|line| line.ends_with("exact, nothing to correct")), "{out} {err}");
}

/// What a name may be is said where it is wrong: nothing is cut, and nothing of others is taken for ours.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_cannot_be_are_refused_in_words() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let refused = async |lines: &str, watches: &str, wanted: &str| {
        let daemon = daemon(&config_with(&database, &receiver, lines, watches));
        let (code, out, err) = daemon.run(&["check", "--offline"]).await;
        assert!(code == 78 && format!("{out}{err}").contains(wanted), "{lines} {wanted}: {code} {out} {err}");
    };
    let reserved: Vec<String> = database
        .client
        .query("SELECT word::text FROM pg_get_keywords() WHERE catcode IN ('R', 'T') ORDER BY 1", &[])
        .await
        .expect("the words of SQL")
        .iter()
        .map(|row| row.get(0))
        .collect();
    for word in ["public", "pg_mine", "information_schema", "Capitals", "qu\"ote", "", "é", "a b", &"x".repeat(33), "1st"] {
        refused(&format!("schema = {}\n", toml(word)), ORDERS, "database.schema").await;
    }
    for word in &reserved {
        assert!(items_listen::db::schema::taken(word).is_some(), "{word} is a word of SQL");
    }
    for table in ["a.b.c", "", "\"open", &"é".repeat(32), "a\u{0}b"] {
        refused("", &ORDERS.replace("\"public.orders\"", &toml(table)), "watch.table").await;
    }
    for name in ["two words", "quo\"te", "", "line\nbreak", &"x".repeat(65)] {
        refused("", &ORDERS.replace("\"orders\"", &toml(name)), "watch.name").await;
    }
    let notify =
        ORDERS.replace("table = \"public.orders\"", "notify = \"items_listen\"").replace("where = \"status = 'open'\"", "");
    refused("", &notify, "our own doorbell").await;
    refused("", &notify.replace("items_listen", &"x".repeat(64)), "watch.notify").await;
    for name in ["", "esc\u{1b}[31m", &"x".repeat(101)] {
        let endpoint = format!("[endpoints.{}]\nurl = \"log:\"\n{ORDERS}", toml(name));
        refused("", &endpoint, "endpoints").await;
    }

    for (key, value) in [
        ("app_id", "../x"),
        ("app_id", "1?a=b"),
        ("app_id", ".."),
        ("key", "k&auth_version=2"),
        ("key", "a b"),
        ("app_id", "a\r\nX: y"),
    ] {
        let other = match key {
            "key" => "app_id = \"1\"",
            _ => "key = \"k\"",
        };
        let endpoint = format!(
            "[endpoints.aside]\nurl = \"http://127.0.0.1:9\"\n{other}\nsecret = \"s\"\n{key} = {}\n{ORDERS}",
            toml(value)
        );
        refused("", &endpoint, &format!("aside.{key}")).await;
    }

    // A schema that others use is not taken.
    database.sql("CREATE SCHEMA app; CREATE TABLE app.customers ()").await;
    let mut other = daemon(&config_with(&database, &receiver, "schema = \"app\"\n", ORDERS));
    for command in [&["install"][..], &["install", "--print"]] {
        let (code, _, err) = other.run(command).await;
        assert!(code == 1 && err.contains("customers") && err.contains("a schema of its own"), "{code} {err}");
    }
    let (code, out, _) = other.run(&["check"]).await;
    assert!(code == 1 && out.contains("customers"), "{code} {out}");
    other.spawn();
    other.logged("a schema of its own").await;
    assert_eq!(database.one::<i64>("SELECT count(*) FROM pg_class WHERE relnamespace = 'app'::regnamespace").await, 1);
}

/// Any name and any text comes back from a real server as it was, whatever the session's settings.
#[tokio::test(flavor = "multi_thread")]
async fn any_name_and_any_text_is_quoted() {
    use proptest::strategy::{Strategy as _, ValueTree as _};
    let database = Database::new().await;
    let strict = database.session().await;
    let lax = database.session().await;
    lax.batch_execute("SET standard_conforming_strings = off; SET escape_string_warning = off").await.expect("its settings");
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let texts = proptest::prop_oneof!["[\u{1}-\u{10ffff}]{1,63}", "['\"\\\\$%{}:;/*\\-\nE]{1,30}"];
    for _ in 0..300 {
        let text: String = texts.new_tree(&mut runner).expect("a text").current();
        let name = with('n', &text);
        let sql = format!("SELECT {}::text AS {}", items_listen::db::literal(&text), items_listen::db::quote(&name));
        for session in [&strict, &lax] {
            let row = session.query_one(sql.as_str(), &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            assert_eq!((row.columns()[0].name(), row.get::<_, String>(0)), (name.as_str(), text.clone()));
        }
    }
}
