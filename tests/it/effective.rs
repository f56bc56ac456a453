//! `items-listen config`: what is in force and where it comes from, no secret; and the table of keys, from which the JSON
//! Schema and docs/configuration.md are made, held to the reader.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use items_listen::config::environment::Variables;
use items_listen::config::keys::{Fallback, Key, Kind, ROOT, Table};
use items_listen::config::reader::parse_duration;
use items_listen::config::{Config, Mistake, read, reference, schema};
use serde_json::{Value as Json, json};

use crate::configuration::{GOOD, keys_of_code};

/// A directory of its own, removed at the end.
struct Room(PathBuf);

impl Room {
    fn new(name: &str) -> Room {
        let path = std::env::temp_dir().join(format!("items-listen-effective-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the directory is made");
        Room(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("the file is written");
        path
    }

    /// Runs the program here, with this environment and no other: exit code, stdout, stderr.
    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_items-listen"));
        command.current_dir(&self.0).env_clear().envs(environment.iter().copied()).args(arguments);
        let output = command.output().expect("the binary starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

fn read_text(text: &str, exists: bool, environment: &[(&str, &str)]) -> Result<Config, Vec<Mistake>> {
    let real: BTreeMap<String, String> = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    read::config("config.toml", exists, text, &Variables::new(&real, &BTreeMap::new()))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every table of the file, with the path at which the reader knows it.
fn tables() -> Vec<(Vec<&'static str>, &'static Table)> {
    fn walk(path: &[&'static str], table: &'static Table, found: &mut Vec<(Vec<&'static str>, &'static Table)>) {
        found.push((path.to_vec(), table));
        for key in table.keys {
            let (inner, name) = match key.kind {
                Kind::Table(inner) | Kind::Tables(inner) => (inner, vec![key.name]),
                Kind::Named(inner) => (inner, vec![key.name, "main"]),
                _ => continue,
            };
            walk(&[path, &name].concat(), inner, found);
        }
    }
    let mut found = Vec::new();
    walk(&[], &ROOT, &mut found);
    found
}

/// The configuration that other tests have, with a table for each that there is.
fn whole() -> Json {
    let mut config: Json = toml::from_str(GOOD).expect("it is TOML");
    config["watch"][0]["storm"] = json!({ "limit": 1, "per": "1s" });
    config
}

/// Puts a value to a key of a table at that path; the first of lists.
fn put(config: &mut Json, path: &[&str], key: &str, value: Json) {
    let mut at = config;
    for step in path {
        at = &mut at[*step];
        if at.is_array() {
            at = &mut at[0];
        }
    }
    at[key] = value;
}

/// What the reader finds wrong in that configuration.
fn verdict(config: &Json) -> Vec<String> {
    let text = toml::to_string(config).expect("it can be written as TOML");
    read_text(&text, true, &[]).err().unwrap_or_default().iter().map(Mistake::to_string).collect()
}

struct Schema {
    schemas: boon::Schemas,
    index: boon::SchemaIndex,
}

impl Schema {
    /// Compiled, which checks it against the meta-schema of draft 2020-12.
    fn new() -> Schema {
        let mut schemas = boon::Schemas::new();
        let mut compiler = boon::Compiler::new();
        compiler.add_resource("http://localhost/config.schema.json", schema::schema()).expect("it is a schema");
        let index = compiler.compile("http://localhost/config.schema.json", &mut schemas).expect("it is a good schema");
        Schema { schemas, index }
    }

    fn verdict(&self, config: &Json) -> Result<(), String> {
        self.schemas.validate(config, self.index).map_err(|error| error.to_string())
    }
}

#[test]
fn the_table_of_keys_is_what_the_reader_takes() {
    let keys: BTreeSet<String> = tables()
        .into_iter()
        .filter(|(path, _)| !path.is_empty())
        .flat_map(|(path, table)| {
            let path: Vec<&str> = path.into_iter().filter(|step| *step != "main").collect();
            table.keys.iter().map(move |key| format!("{}.{}", path.join("."), key.name))
        })
        .filter(|key| !["watch.publish", "database.retention"].contains(&key.as_str()))
        .collect();
    assert_eq!(keys, keys_of_code());
}

#[test]
fn reader_and_schema_refuse_the_same_keys_and_types() {
    let schema = Schema::new();
    schema.verdict(&whole()).expect("the configuration is right");
    assert_eq!(verdict(&whole()), Vec::<String>::new());
    for (path, table) in tables() {
        let mut unknown = whole();
        put(&mut unknown, &path, "zzz", json!(1));
        assert!(schema.verdict(&unknown).is_err(), "{path:?}: an unknown key");
        assert!(verdict(&unknown).iter().any(|line| line.contains("unknown key \"zzz\"")), "{path:?}: an unknown key");
        for key in table.keys {
            for wrong in wrong_values(key.kind) {
                let mut config = whole();
                put(&mut config, &path, key.name, wrong.clone());
                assert!(schema.verdict(&config).is_err(), "{path:?} {} = {wrong}: the schema takes it", key.name);
                let found = verdict(&config);
                assert!(found.iter().any(|line| line.contains(key.name)), "{path:?} {} = {wrong}: {found:?}", key.name);
            }
        }
    }
}

fn wrong_values(kind: Kind) -> Vec<Json> {
    match kind {
        Kind::Text | Kind::Address | Kind::Secret | Kind::SecretFile | Kind::File => vec![json!(7), json!(["a"])],
        Kind::Boolean => vec![json!("true"), json!(1)],
        Kind::Integer(i64::MIN, i64::MAX) => vec![json!("1"), json!(1.5)],
        Kind::Integer(min, max) => vec![json!("1"), json!(1.5), json!(min - 1), json!(max + 1)],
        Kind::Duration(..) => vec![json!(5), json!("5"), json!("1.5s"), json!("1w")],
        Kind::Word(_) => vec![json!("zzz"), json!(1), json!([])],
        Kind::Words(_) => vec![json!("zzz"), json!(["zzz"]), json!([]), json!(1)],
        Kind::Texts => vec![json!(7), json!([7])],
        Kind::Data => vec![json!(7), json!("fat"), json!([])],
        Kind::Overrides => vec![json!(7), json!([7]), json!([{}])],
        Kind::Table(_) | Kind::Named(_) | Kind::Tables(_) => vec![json!(7), json!("a")],
    }
}

#[test]
fn words_and_bounds_of_the_table_are_those_of_the_reader() {
    for (path, table) in tables() {
        for key in table.keys {
            for (value, fits) in edges(key) {
                let mut config = whole();
                // Its upper bound belongs to the comparisons that run downwards.
                if key.name == "recover" && value.as_i64() > Some(100) {
                    config["watch"][0]["compare"] = json!("<=");
                }
                put(&mut config, &path, key.name, value.clone());
                let found = verdict(&config);
                let of_it = |line: &&String| {
                    line.contains(&format!("{}: ", key.name)) && (line.contains("wanted") || line.contains("is none of"))
                };
                assert_eq!(found.iter().find(of_it).is_none(), fits, "{path:?} {} = {value}: {found:?}", key.name);
            }
        }
    }
}

/// Values at the edge of what a key may hold, and whether they may be.
fn edges(key: &Key) -> Vec<(Json, bool)> {
    match key.kind {
        Kind::Integer(min, max) if (min, max) != (i64::MIN, i64::MAX) => {
            vec![(json!(min), true), (json!(max), true), (json!(min - 1), false), (json!(max + 1), false)]
        }
        Kind::Duration(min, max) => {
            let millis = |text| parse_duration(text).map(|duration| duration.as_millis());
            let mut edges = vec![(json!(if min.is_empty() { "0s" } else { min }), true)];
            edges.extend(millis(min).map(|millis| (json!(format!("{}ms", millis - 1)), false)));
            if let Some(millis) = millis(max) {
                edges.extend([(json!(max), true), (json!(format!("{}ms", millis + 1)), false)]);
            }
            edges
        }
        Kind::Word(words) | Kind::Words(words) => words.iter().map(|word| (json!(word), true)).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn the_words_of_the_table_are_all_that_the_reader_knows() {
    for (path, table) in tables() {
        for key in table.keys {
            let (Kind::Word(words) | Kind::Words(words)) = key.kind else { continue };
            let mut config = whole();
            put(&mut config, &path, key.name, json!("zzz"));
            let found = verdict(&config);
            let known = found.iter().find_map(|line| line.split("is none of ").nth(1)).expect("the words are listed");
            let known: BTreeSet<&str> = known.split(", ").collect();
            assert_eq!(known, words.iter().copied().collect(), "{}", key.name);
        }
    }
}

/// The configurations of this repository, by name and text.
fn configurations() -> Vec<(String, String)> {
    let mut files = vec![root().join("config.example.toml")];
    for example in std::fs::read_dir(root().join("examples")).expect("there are examples").flatten() {
        let Ok(entries) = std::fs::read_dir(example.path()) else { continue };
        files.extend(entries.flatten().map(|entry| entry.path()).filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with("config") && name.ends_with(".toml"))
        }));
    }
    assert!(files.len() >= 9, "{files:?}");
    files.into_iter().map(|path| (path.display().to_string(), std::fs::read_to_string(&path).expect("it is read"))).collect()
}

#[test]
fn the_schema_takes_the_configurations_of_this_repository() {
    let schema = Schema::new();
    for (name, text) in configurations() {
        let config: Json = toml::from_str(&text).expect("it is TOML");
        if let Err(error) = schema.verdict(&config) {
            panic!("{name}: {error}");
        }
    }
}

#[test]
fn the_schema_says_every_default() {
    let schema = schema::schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["properties"]["database"]["properties"]["poll"]["default"], "1s");
    assert_eq!(schema["properties"]["endpoints"]["additionalProperties"]["properties"]["in_flight"]["default"], 8);
    assert_eq!(schema["properties"]["watch"]["items"]["required"], json!(["name", "publish"]));
}

/// What `config` prints, read as a configuration, is the same configuration: so every default that it says is the one that
/// the reader takes.
#[test]
fn what_config_prints_is_the_configuration_itself() {
    let room = Room::new("again");
    room.file("secret", "from-a-file\n");
    let good = GOOD.replace("secret = \"hush-hush\"", "secret_file = \"secret\"");
    let low = good.replace("threshold = 20", "threshold = 20\ncompare = \"<\"\nbands = { high = 40 }");
    let second = good.replace("[[watch]]", "[endpoints.\"a b\"]\nurl = \"log:\"\n[[watch]]").replace("event = \"items.many\"", "event = 'a\\\"b'\nendpoint = [\"a b\", \"main\"]\ndata = { z = 1, a = [1.5, true, \"{{ count }}\"] }\n[watch.storm]\nlimit = 3\nper = \"1s\"");
    let query = good.replace("table = \"public.items\"", "query = \"\"\"\nSELECT 1\n\"\"\"");
    let mut texts = vec![
        ("good".to_owned(), good),
        ("low".to_owned(), low),
        ("two endpoints".to_owned(), second),
        ("query".to_owned(), query),
    ];
    texts.extend(
        configurations()
            .into_iter()
            .map(|(name, text)| (name, text.replace("secret = \"app-secret\"", "secret_file = \"secret\""))),
    );
    let environment = [("BROADCAST_CONNECTION", "log"), ("INVENTORY_NOTIFICATION_THRESHOLD", "7")];
    for (name, text) in texts {
        room.file("config.toml", &text);
        same_again(&room, &name, &environment);
    }
    std::fs::remove_file(room.0.join("config.toml")).expect("it was there");
    same_again(&room, "no file", &environment);
}

fn same_again(room: &Room, name: &str, environment: &[(&str, &str)]) {
    let file = room.0.join("config.toml");
    let text = std::fs::read_to_string(&file);
    let (code, printed, errors) = room.run(&["config"], environment);
    assert_eq!((code, errors.as_str()), (0, ""), "{name}");
    // Files of secrets are named from where the program runs.
    let here = |text: &str| text.replace("\"secret\"", &format!("{:?}", room.0.join("secret")));
    let read = |text: &str, exists| {
        let config = read_text(&here(text), exists, environment).unwrap_or_else(|found| panic!("{name}: {found:#?}\n{text}"));
        format!("{config:#?}")
    };
    let before = text.as_ref().map_or_else(|_| read("", false), |text| read(text, true));
    pretty_eq(&before, &read(&printed, true), &format!("{name}\n{printed}"));
    let complete = missing_defaults(&printed);
    assert!(complete.is_empty(), "{name}: {complete:?}\n{printed}");
}

/// The first line that differs says more than two whole configurations.
fn pretty_eq(one: &str, other: &str, what: &str) {
    if let Some((one, other)) = one.lines().zip(other.lines()).find(|(one, other)| one != other) {
        panic!("{one}\n{other}\n{what}");
    }
    assert_eq!(one, other, "{what}");
}

/// Keys with a default that are not said in a table that is there.
fn missing_defaults(printed: &str) -> Vec<String> {
    let config: Json = toml::from_str(printed).expect("it is TOML");
    let mut missing = Vec::new();
    for (path, table) in tables() {
        let mut at = Some(&config);
        for step in &path {
            at = at.and_then(|at| at.get(*step)).map(|at| if at.is_array() { &at[0] } else { at });
        }
        let Some(at) = at else { continue };
        let wanted = table.keys.iter().filter(|key| matches!(key.fallback, Fallback::Value(_)) && at.get(key.name).is_none());
        missing.extend(wanted.map(|key| format!("{path:?} {}", key.name)));
    }
    missing
}

#[test]
fn every_value_has_its_source() {
    let room = Room::new("sources");
    room.file("config.toml", GOOD);
    room.file(".env", "INVENTORY_NOTIFICATION_THRESHOLD=9\nDB_URL=postgres://app:hush-hush@db/app\n");
    let environment = [("ITEMS_LISTEN_DATABASE__POOL_SIZE", "9"), ("ITEMS_LISTEN_WATCH__0__KEY", "a, b")];
    let (code, printed, _) = room.run(&["config", "--env-file", ".env"], &environment);
    assert_eq!(code, 0);
    for line in [
        "url       = \"postgres://app@localhost/app\"  # config.toml:3",
        "pool_size = 9                               # $ITEMS_LISTEN_DATABASE__POOL_SIZE",
        "poll      = \"1s\"                            # default",
        "# secret  = \"***\"                           # config.toml:8",
        "threshold = 20                              # config.toml:12",
        "key       = [\"a\", \"b\"]                    # $ITEMS_LISTEN_WATCH__0__KEY",
        "critical  = 150                             # default",
    ] {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(printed.lines().any(|printed| words(printed) == words(line)), "{line}\n{printed}");
    }
    room.file("config.toml", &GOOD.replace("threshold = 20\n", "").replace("url = \"postgres://app@localhost/app\"\n", ""));
    let (_, printed, _) = room.run(&["config", "--env-file", ".env", "--json"], &environment);
    let document: Json = serde_json::from_str(&printed).expect("it is JSON");
    let value = |key: &str| {
        let values = document["values"].as_array().expect("a list");
        values.iter().find(|value| value["key"] == key).unwrap_or_else(|| panic!("{key}: {printed}")).clone()
    };
    assert_eq!(document["file"], "config.toml");
    assert_eq!(document["hash"].as_str().map(str::len), Some(12), "{printed}");
    assert_eq!(
        value("watch.0.threshold"),
        json!({ "key": "watch.0.threshold", "value": 9, "hidden": false,
                "source": { "kind": "variable", "name": "INVENTORY_NOTIFICATION_THRESHOLD", "env_file": true } })
    );
    assert_eq!(value("database.url")["value"], "postgres://app:***@db/app");
    assert_eq!(value("database.url")["source"]["name"], "DB_URL");
    assert_eq!(
        value("database.pool_size")["source"],
        json!({ "kind": "variable", "name": "ITEMS_LISTEN_DATABASE__POOL_SIZE", "env_file": false })
    );
    assert_eq!(
        value("watch.0.publish.0.event")["source"],
        json!({ "kind": "file", "file": "config.toml", "line": 13, "column": 9 })
    );
    assert_eq!(
        (value("watch.0.repeat")["value"].clone(), value("watch.0.repeat")["source"]["kind"].clone()),
        (Json::Null, json!("default"))
    );
}

/// A name, a configuration, the environment, and what is to be said.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

#[test]
fn no_secret_is_printed_whatever_way_it_came() {
    const NEEDLE: &str = "hush";
    // 32 bytes in base64, of which a part is looked for.
    const KEY: &str = "aHVzaGh1c2hodXNoaHVzaGh1c2hodXNoaHVzaGh1c2g=";
    let room = Room::new("secrets");
    room.file("secret", "hush-in-a-file\n");
    room.file("url", "postgres://app:hush-in-a-file@localhost/app\n");
    room.file("push", "http://hush:hush@127.0.0.1:8080\n");
    room.file("key", KEY);
    room.file(".env", "REVERB_APP_ID=1\nREVERB_APP_KEY=k\nREVERB_APP_SECRET=hush-env\nREVERB_HOST=h\nBROADCAST_CONNECTION=reverb\nDB_DATABASE=shop\nDB_HOST=h\nDB_PASSWORD=hush-env\n");
    let inline = GOOD
        .replace("app@localhost", "app:hush%20hush@localhost")
        .replace("http://127", "http://token:hush@127")
        .replace("secret = \"hush-hush\"", &format!("secret = \"hush-hush\"\nencryption_key = \"{KEY}\""));
    let files = GOOD
        .replace("url = \"postgres://app@localhost/app\"", "url_file = \"url\"")
        .replace("url = \"http://127.0.0.1:8080\"", "url_file = \"push\"")
        .replace("secret = \"hush-hush\"", "secret_file = \"secret\"\nencryption_key_file = \"key\"");
    let pairs = GOOD.replace("postgres://app@localhost/app", r"host=localhost password='it\\'s hush' user=app");
    let query = GOOD.replace("postgres://app@localhost/app", "postgres://localhost/app?user=app&password=hush");
    let own = [
        ("ITEMS_LISTEN_DATABASE__URL", "postgres://app:hush-env@h/app"),
        ("ITEMS_LISTEN_ENDPOINTS__MAIN__SECRET", "hush-env"),
        ("ITEMS_LISTEN_ENDPOINTS__MAIN__URL", "https://token:hush-env@h"),
        ("ITEMS_LISTEN_ENDPOINTS__MAIN__ENCRYPTION_KEY", KEY),
    ];
    let borrowed_watch = GOOD.split("[[watch]]").nth(1).map(|watch| format!("[[watch]]{watch}")).expect("there is one");
    let libpq = [
        ("PGHOST", "h"),
        ("PGUSER", "app"),
        ("PGPASSWORD", "hush-env"),
        ("BROADCAST_DRIVER", "pusher"),
        ("PUSHER_APP_SECRET", "hush-env"),
        ("PUSHER_APP_ID", "1"),
        ("PUSHER_APP_KEY", "k"),
        ("PUSHER_APP_CLUSTER", "eu"),
    ];
    let cases: [Case<'_>; 7] = [
        ("inline", &inline, &[], &["# url", "config.toml:3", "# secret", "config.toml:8", "# encryption_key"]),
        ("files", &files, &[], &["url_file", "\"url\"", "secret_file", "encryption_key_file"]),
        ("pairs", &pairs, &[], &["host=localhost password=*** user=app"]),
        ("query", &query, &[], &["user=app&password=***"]),
        ("own variables", GOOD, &own, &["$ITEMS_LISTEN_ENDPOINTS__MAIN__SECRET", "postgres://app:***@h/app"]),
        (
            "a Laravel application's file",
            &borrowed_watch,
            &[],
            &["$REVERB_APP_SECRET of --env-file", "$DB_DATABASE of --env-file"],
        ),
        ("libpq and Pusher", &borrowed_watch, &libpq, &["$PGHOST", "$PUSHER_APP_SECRET", "$PUSHER_APP_CLUSTER"]),
    ];
    for (name, text, environment, expected) in cases {
        room.file("config.toml", text);
        let env_file: &[&str] = if name.contains("file") && name.contains("Laravel") { &["--env-file", ".env"] } else { &[] };
        for json in [&[][..], &["--json"]] {
            let (code, printed, errors) = room.run(&[&["config"], env_file, json].concat(), environment);
            assert_eq!((code, errors.as_str()), (0, ""), "{name}");
            assert!(!printed.contains(NEEDLE) && !printed.contains(&KEY[..8]), "{name}: {printed}");
            assert!(printed.contains("***") || name == "files", "{name}: {printed}");
            if json.is_empty() {
                expected.iter().for_each(|part| assert!(printed.contains(part), "{name}: {part}\n{printed}"));
            }
        }
    }
}

#[test]
fn a_wrong_configuration_is_refused_here_too_and_the_schema_needs_none() {
    let room = Room::new("wrong");
    room.file("config.toml", "[database]\npol = \"1s\"\n");
    let (code, printed, errors) = room.run(&["config"], &[]);
    assert_eq!((code, printed.as_str()), (78, ""));
    assert!(errors.contains("config.toml:2:1: unknown key \"pol\""), "{errors}");
    let (code, printed, errors) = room.run(&["config", "schema"], &[]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert_eq!(serde_json::from_str::<Json>(&printed).expect("it is JSON"), schema::schema());
    assert_eq!(room.run(&["config", "nothing"], &[]).0, 2);
}

#[test]
fn a_key_in_the_wrong_table_is_shown_the_right_one() {
    for (text, expected) in [
        (GOOD.replace("event = ", "threshold = 3\nevent = "), "it belongs under [[watch]]"),
        (GOOD.replace("[[watch]]", "[[watch]]\ngive_up_after = \"1h\""), "it belongs under [endpoints.NAME.retry]"),
        (GOOD.replace("[[watch]]", "[[watch]]\nurl = \"log:\""), "it belongs under [database] or [endpoints.NAME]"),
    ] {
        let found = read_text(&text, true, &[]).expect_err("it is in the wrong table");
        assert!(found[0].to_string().contains(expected), "{found:?}");
    }
}

#[test]
fn the_reference_is_what_the_code_says() {
    let page = std::fs::read_to_string(root().join("docs/configuration.md")).expect("there is a page");
    assert_eq!(page, reference::page(), "run `make docs`");
}
