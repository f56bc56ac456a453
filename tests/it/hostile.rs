//! Keys and rows are hostile: whatever an application's users write stays what it is, in channels and bodies, on terminals, in
//! logs, metrics and pages; two keys are never one; and no value stops a watch.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use items_listen::plain::steers;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::receiver::Event;
use crate::*;

/// What a writer may put into a text column.
const HOSTILE: [&str; 44] = [
    "'; DROP TABLE things; --",
    "\" OR \"\"=\"",
    "$items_listen$; SELECT 1 --",
    "{{ 7*7 }}",
    "{% for x in range(999999999) %}x",
    "{key} {where} {id}",
    "%s%n%I %%",
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "&amp;&lt;",
    "javascript:alert(1)",
    "\u{1b}]52;c;cm0gLXJm\u{7}",
    "\u{1b}]8;;http://evil\u{1b}\\x",
    "\u{1b}[2J\u{1b}[1;1H",
    "\u{9b}31m\u{85}\u{90}",
    "\u{7f}\u{8}\u{8}rm",
    "\u{202e}gnp.exe",
    "\u{2066}a\u{2069}\u{61c}\u{200f}",
    "a\u{200b}b\u{ad}c\u{feff}",
    "\u{e0041}\u{e0042}",
    "\u{2028}\u{2029}",
    "line\r\nfeed",
    "\n\nevent: x\ndata: {}\n\n",
    "STATUS=ok\nREADY=1\nMAINPID=1",
    "\r\nSet-Cookie: a=b\r\n\r\n",
    "a\"} 1\n# HELP x",
    "C:\\temp\\new 'it''s'",
    "emoji 🦀👩‍👩‍👧",
    "שלום עולם",
    "\u{301}\u{301}lone",
    "caf\u{e9}",
    "cafe\u{301}",
    "__proto__",
    "constructor",
    "{\"__proto__\": {\"x\": 1}}",
    "[\"x\", null]",
    "null",
    "true",
    "7",
    "",
    " ",
    "a.b",
    "a=2Eb",
    "../../etc/passwd?x=1&y#z",
];

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Too long for any index, and not to be made short by compressing it.
fn long(seed: &str, bytes: usize) -> String {
    let mut text = seed.to_owned();
    let mut block = seed.to_owned();
    while text.len() < bytes {
        block = Sha256::digest(block.as_bytes()).iter().map(|byte| char::from(b'!' + byte % 90)).collect();
        text.push_str(&block);
    }
    text
}

/// As the key of a row is told.
fn told_as(text: &str) -> String {
    let key = json!([text]).to_string();
    if key.len() <= 2000 && !text.starts_with("long:sha256:") {
        return text.to_owned();
    }
    let hash: String = Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("long:sha256:{hash}")
}

/// The value that a channel's name was made of.
fn decoded(encoded: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), encoded.bytes());
    while let Some(byte) = rest.next() {
        let hex = |digit: Option<u8>| char::from(digit.expect("two digits")).to_digit(16).expect("hexadecimal");
        bytes.push(if byte == b'=' { u8::try_from(hex(rest.next()) * 16 + hex(rest.next())).expect("a byte") } else { byte });
    }
    String::from_utf8(bytes).expect("UTF-8")
}

const THINGS: &str = r#"
[[watch]]
name = "things"
table = "things"
key = ["k"]
threshold = 2
message = "{{ key.k }} has {{ count }}"
[[watch.publish]]
channels = ["private-k.{{ key.k }}"]
event = "e {{ key.k }}"
[[watch]]
name = "rows"
table = "things"
key = ["id"]
include = ["note", "more"]
[[watch.publish]]
channels = ["notes"]
event = "note"
on = "insert"
[[watch]]
name = "level"
table = "things"
key = ["id"]
value = "1"
threshold = 1
lookup = "SELECT note AS said, upper(:note) IS NOT NULL AS is_there FROM things WHERE k = :k AND id = :id"
[[watch.publish]]
channels = ["level"]
event = "level"
data = { id = "{{ key.id }}", said = "{{ lookup.said }}", is_there = "{{ lookup.is_there }}", k = "{{ row.k }}" }
[[watch]]
name = "swept"
query = "SELECT k FROM things"
every = "1s"
key = ["k"]
threshold = 2
[[watch.publish]]
channels = ["swept.{{ key.k }}"]
event = "swept"
[[watch]]
name = "sent"
notify = "sent \"here\""
key = ["k"]
threshold = 2
[[watch.publish]]
channels = ["sent.{{ key.k }}"]
event = "sent"
"#;

async fn things() -> Database {
    let database = Database::new().await;
    database.sql("CREATE TABLE things (id bigserial PRIMARY KEY, k text, note text, more json)").await;
    database
}

/// Every value twice, as key, as text and in JSON; and one that is in no channel by itself.
async fn write(database: &Database, values: &[String]) {
    for value in values {
        let insert = "INSERT INTO things (k, note, more) SELECT $1, $1, json_build_object('v', $1::text, $1::text, 1) FROM generate_series(1, 2)";
        database.client.execute(insert, &[value]).await.expect("the writer never fails");
    }
}

fn corpus() -> Vec<String> {
    HOSTILE.iter().map(|text| (*text).to_owned()).chain([long("7 KB", 7_000), "long:sha256:0".to_owned()]).collect()
}

/// The events of a watch, by the value that each key is told as: one each.
fn by_key<'a>(events: &'a [Event], watch: &str) -> BTreeMap<String, &'a Event> {
    let mut found = BTreeMap::new();
    for event in events.iter().filter(|event| event.text("watch") == watch && event.text("transition") == "raised") {
        let key = event.data["key"]["k"].as_str().expect("a text").to_owned();
        assert!(found.insert(key, event).is_none(), "twice: {}", event.data);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_written_stays_what_it_is() {
    let (database, receiver) = (things().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, THINGS).replace("retry =", "max_request_bytes = 100000\nretry ="));
    daemon.start().await;
    let values = corpus();
    write(&database, &values).await;
    for value in values.iter().filter(|value| value.len() < 2_000) {
        let payload = json!({"count": 2, "key": {"k": value}}).to_string();
        database.sql(&format!("SELECT pg_notify('sent \"here\"', {})", literal(&payload))).await;
    }
    let expected: BTreeSet<String> = values.iter().map(|value| told_as(value)).collect();
    assert_eq!(expected.len(), values.len(), "no two are one");
    let rows = 2 * values.len();
    let events = receiver
        .wait("everything is told", |events| {
            let count = |name: &str| events.iter().filter(|event| event.name == name).count();
            let raised = |watch: &str| events.iter().filter(|event| event.text("watch") == watch).count();
            raised("things") >= values.len()
                && count("note") >= rows
                && count("level") >= rows
                && raised("swept") >= values.len()
                && raised("sent") >= values.len() - 1
        })
        .await;

    // Each key has its own alert, channel and words, from which it can be read again.
    for (watch, channel) in [("things", "private-k."), ("swept", "swept."), ("sent", "sent.")] {
        let found = by_key(&events, watch);
        let sent = |value: &&String| watch != "sent" || value.len() < 2_000;
        let wanted: BTreeSet<String> =
            values.iter().filter(sent).map(|value| if watch == "sent" { value.clone() } else { told_as(value) }).collect();
        assert_eq!(found.keys().cloned().collect::<BTreeSet<_>>(), wanted, "{watch}");
        let channels: BTreeSet<&String> = found.values().map(|event| &event.channels[0]).collect();
        assert_eq!(channels.len(), found.len(), "no two keys of {watch} have one channel");
        for (key, event) in found {
            assert_eq!(decoded(event.channels[0].strip_prefix(channel).expect("its channel")), key);
            assert_eq!((event.channels.len(), event.number("count")), (1, 2));
            if watch == "things" {
                assert_eq!((event.name.clone(), event.text("message")), (format!("e {key}"), format!("{key} has 2")));
            }
        }
    }
    let notes = |of: fn(&Event) -> String| {
        let mut notes: Vec<String> = events.iter().filter(|event| event.name == "note").map(of).collect();
        notes.sort();
        notes
    };
    let mut twice: Vec<String> = values.iter().flat_map(|value| [value.clone(), value.clone()]).collect();
    twice.sort();
    assert_eq!(notes(|event| event.data["row"]["note"].as_str().expect("a text").to_owned()), twice);
    assert_eq!(notes(|event| event.data["row"]["more"]["v"].as_str().expect("a text").to_owned()), twice);
    let mut levels: Vec<String> = events
        .iter()
        .filter(|event| event.name == "level")
        .map(|event| {
            assert_eq!((&event.data["said"], &event.data["is_there"]), (&event.data["k"], &json!(true)), "{}", event.data);
            event.text("said")
        })
        .collect();
    levels.sort();
    assert_eq!(levels, twice, "a lookup was asked with it, and gave it");

    // A threshold for exactly one of them, whatever it is: the others are as they were.
    all_delivered(&database).await;
    let before = receiver.all().len();
    for value in &values {
        let edit = "INSERT INTO items_listen.threshold VALUES ('things', jsonb_build_object('k', $1::text), 1)";
        database.client.execute(edit, &[&told_as(value)]).await.expect("the application edits it");
    }
    let edited = receiver.wait("each threshold is heard of", |events| events.len() >= before + values.len()).await;
    let edited: BTreeSet<String> =
        edited[before..].iter().map(|event| event.data["key"]["k"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(edited, expected);
    assert_eq!(database.one::<i64>("SELECT count(*) FROM things").await, i64::try_from(rows).expect("few"));
    outputs(&database, &mut daemon, &expected).await;
}

/// Everything that shows them to a person or a program.
async fn outputs(database: &Database, daemon: &mut Daemon, keys: &BTreeSet<String>) {
    all_delivered(database).await;
    database.sql("INSERT INTO items_listen.delivery (event_id, endpoint, watch, key, channels, event, body, due_at, created_at, state, settled_at, reason, answer)
        SELECT event_id, E'en\\x1bd', watch, key, channels, E'e\\x1b[2J', body, due_at, created_at, 'dead', settled_at, 'rejected', E'no\\x1b]0;x\\x07\\r\\nfaked  line'
        FROM items_listen.delivery LIMIT 1; UPDATE items_listen.watch SET error = E'it\\x1b[2J\\u202e broke' WHERE name = 'sent'").await;
    let dead: i64 = database.one("SELECT id FROM items_listen.delivery WHERE state = 'dead'").await;
    let dead = dead.to_string();
    let key = format!("k={}", HOSTILE[11]);
    for arguments in [
        &["status"][..],
        &["alerts", "list", "--limit", "1000"],
        &["deliveries", "list", "--limit", "1000"],
        &["deliveries", "show", &dead],
        &["check"],
        &["--trigger", "5", "--watch", "things", "--key", &key, "--dry-run"],
        // What is wrong is said in its own words, which no more steer.
        &["alerts", "list", "--key", "\u{1b}[2J"],
        &["recount", "\u{1b}[2J\u{202e}"],
        &["alerts", "list", "--limit", "1000", "--json"],
        &["deliveries", "list", "--limit", "1000", "--json"],
        &["deliveries", "show", &dead, "--json"],
        &["check", "--json"],
        &["status", "--json"],
        &["--trigger", "5", "--watch", "things", "--key", &key, "--dry-run", "--json"],
    ] {
        let shown = on_a_terminal(daemon, arguments);
        assert!(!shown.is_empty(), "{arguments:?} says nothing");
        let found: Vec<char> = shown.chars().filter(|c| steers(*c) && *c != '\n').collect();
        assert!(found.is_empty(), "{arguments:?} steers with {found:?}: {shown}");
    }
    // For a program it is exactly what it was.
    let (_, out, _) = daemon.run(&["alerts", "list", "--watch", "things", "--limit", "1000", "--json"]).await;
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let listed: BTreeSet<String> = lines.iter().map(|line| line["key"]["k"].as_str().expect("a text").to_owned()).collect();
    assert_eq!(&listed, keys);
    let (_, out, _) = daemon.run(&["deliveries", "list", "--limit", "1000", "--json"]).await;
    assert!(out.lines().all(|line| serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object())));

    let (status, metrics) = daemon.get("/metrics").await.expect("an answer");
    assert_eq!(status, 200);
    promtool(&metrics);
    let (status, document) = daemon.get("/api/status").await.expect("an answer");
    assert!(status == 200 && serde_json::from_str::<Value>(&document).is_ok_and(|document| document.is_object()), "{document}");
    let live = first_of_stream(daemon).await;
    let shown = live["state"]["watches"][0]["shown"].as_array().expect("keys").clone();
    assert!(
        !shown.is_empty() && shown.iter().all(|row| row["key"]["k"].as_str().is_some_and(|key| keys.contains(key))),
        "{shown:?}"
    );
    assert!(live["state"]["alerts"].as_array().is_some_and(|alerts| !alerts.is_empty()));

    let text = std::fs::read_to_string(daemon.file.with_extension("log")).expect("its log is UTF-8");
    assert!(daemon.log().iter().all(Value::is_object), "each line of the log is one JSON object");
    let found: Vec<char> = text.chars().filter(|c| steers(*c) && *c != '\n').collect();
    assert!(found.is_empty(), "the log steers with {found:?}");
}

/// What a command prints on a terminal, less its own colours.
fn on_a_terminal(daemon: &Daemon, arguments: &[&str]) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let command = daemon.command(arguments);
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(|word| quoted(&word.to_string_lossy()));
    let line = words.collect::<Vec<_>>().join(" ");
    let output = Command::new("script")
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .output()
        .expect("script, of util-linux, runs it on a terminal");
    let shown = String::from_utf8(output.stdout).expect("UTF-8").replace("\r\n", "\n");
    // Those that are ours: digits and semicolons between ESC [ and m.
    let mut parts = shown.split("\u{1b}[");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('m') {
            Some((code, rest)) if code.chars().all(|c| c.is_ascii_digit() || c == ';') => text.push_str(rest),
            _ => text.push_str(&format!("\u{1b}[{part}")),
        }
    }
    text
}

fn promtool(text: &str) {
    let program = std::env::var("PROMTOOL").expect("PROMTOOL: make test sets it, by scripts/promtool");
    let child = Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("promtool starts");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
}

/// The first document of the status page's stream, of which each frame must be one event with one line of data.
async fn first_of_stream(daemon: &Daemon) -> Value {
    let mut stream = tokio::net::TcpStream::connect(daemon.address().expect("it listens")).await.expect("it answers");
    stream.write_all(b"GET /api/live HTTP/1.0\r\nHost: localhost\r\n\r\n").await.expect("it reads");
    let mut answer = Vec::new();
    loop {
        let mut piece = vec![0; 65_536];
        let length = stream.read(&mut piece).await.expect("it goes on");
        assert!(length > 0, "it ended: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..length]);
        let text = String::from_utf8_lossy(&answer);
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        if let Some((frame, _)) = body.split_once("\n\n") {
            assert!(frame.lines().all(|line| line.starts_with("retry:") || line.starts_with("data:")), "{frame}");
            let data: Vec<&str> = frame.lines().filter_map(|line| line.strip_prefix("data:")).collect();
            assert_eq!(data.len(), 1, "{frame}");
            return serde_json::from_str(data[0]).expect("JSON");
        }
    }
}

/// Whatever the length of a key, and whatever it looks like: it is its own, and its watch and all others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_any_length_and_looks_is_its_own() {
    let (database, receiver) = (things().await, Receiver::start().await);
    database
        .sql("CREATE TABLE numbers (n numeric); CREATE TABLE orders (id serial, tenant_id int, status text DEFAULT 'open')")
        .await;
    let numbers = r#"
        [[watch]]
        name = "numbers"
        table = "numbers"
        key = ["n"]
        threshold = 2
        [[watch.publish]]
        channels = ["n.{{ key.n }}"]
        event = "n"
    "#;
    let watches = format!("{}{numbers}{ORDERS}", THINGS.split("[[watch]]\nname = \"rows\"").next().unwrap_or_default());
    let mut daemon = daemon(&config(&database, &receiver, &watches));
    daemon.start().await;
    let big = long("big", 1 << 20);
    let kb = long("kb", 10_000);
    let values = [
        big.clone(),
        kb.clone(),
        // What those two are stored as, written by somebody who knows it; and what a container image is called.
        told_as(&big),
        told_as(&kb),
        told_as(&told_as(&kb)),
        format!("sha256:{}", "0".repeat(64)),
    ];
    for value in &values {
        let insert = "INSERT INTO things (k) SELECT $1 FROM generate_series(1, 2)";
        database.client.execute(insert, &[value]).await.expect("the writer never fails");
    }
    let digits: String = long("digits", 9_000).bytes().map(|byte| char::from(b'0' + byte % 10)).collect();
    for number in [format!("1{digits}"), format!("0.{digits}1"), "NaN".into(), "Infinity".into(), "-0".into(), "0.00".into()] {
        database.sql(&format!("INSERT INTO numbers VALUES ('{number}'), ('{number}')")).await;
    }
    insert(&database, 1, 20).await;
    let events = receiver
        .wait("all are told", |events| {
            let of = |watch: &str| {
                events.iter().filter(|event| event.text("watch") == watch && event.text("transition") == "raised").count()
            };
            of("things") >= values.len() && of("numbers") >= 5 && of("orders") >= 1
        })
        .await;
    let told: BTreeSet<String> = by_key(&events, "things").into_keys().collect();
    assert_eq!(told, values.iter().map(|value| told_as(value)).collect());
    let numbers: BTreeMap<String, i64> = events
        .iter()
        .filter(|event| event.text("watch") == "numbers")
        .map(|event| (event.data["key"]["n"].as_str().expect("a text").to_owned(), event.number("count")))
        .collect();
    assert_eq!(numbers.len(), 5, "minus zero and 0.00 are zero: {numbers:?}");
    assert!(numbers.contains_key("NaN") && numbers.contains_key("Infinity") && numbers.contains_key("0"), "{numbers:?}");
    for watch in ["things", "numbers"] {
        let (code, out, err) = daemon.run(&["recount", watch]).await;
        assert!(code == 0 && out.ends_with("exact, nothing to correct\n"), "{out} {err}");
    }
    // One of them goes, the others stay.
    let delete = "DELETE FROM things WHERE k = $1";
    database.client.execute(delete, &[&told_as(&kb)]).await.expect("the writer never fails");
    let before = events.len();
    let resolved =
        receiver.wait("it is resolved", |events| events.iter().any(|event| event.text("transition") == "resolved")).await;
    assert_eq!(resolved[before..].iter().filter(|event| event.text("transition") == "resolved").count(), 1);
    let last = resolved.iter().find(|event| event.text("transition") == "resolved").expect("it came");
    assert_eq!(last.data["key"]["k"], json!(told_as(&told_as(&kb))));
}

const JSON: &str = r#"
[[watch]]
name = "rows"
table = "things"
key = ["id"]
include = ["note", "more"]
[[watch.publish]]
channels = ["notes"]
event = "change"
on = "insert"
[[watch]]
name = "level"
table = "things"
key = ["id"]
value = "1"
threshold = 1
include = ["note", "more"]
lookup = "SELECT more AS found, note AS said FROM things WHERE id = :id"
message = "{{ row.more }} {{ lookup.found }}"
[[watch.publish]]
channels = ["level"]
event = "level"
data = { row = { note = "{{ lookup.said }}", more = "{{ lookup.found }}", again = "{{ row.more }}" } }
[[watch]]
name = "swept"
query = "SELECT * FROM things"
every = "1s"
key = ["id"]
value = "1"
threshold = 1
[[watch.publish]]
channels = ["swept"]
event = "swept"
"#;

/// A column of type json holds what PostgreSQL alone can read: the rest of its row is told all the same, and nothing waits.
#[tokio::test(flavor = "multi_thread")]
async fn json_that_cannot_be_read_takes_nothing_else_away() {
    let (database, receiver) = (things().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, JSON));
    daemon.start().await;
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let cases = [
        (deep.clone(), json!(deep)),
        (r#""\ud800 half""#.to_owned(), json!("\u{fffd} half")),
        (r#"{"a": "\udc00\u0000"}"#.to_owned(), json!({"a": "\u{fffd}\u{0}"})),
        ("[1e400, 1]".to_owned(), json!(["1e400", 1])),
        (r#"{"__proto__": {"x": 1}, "a": 1, "a": 2}"#.to_owned(), json!({"__proto__": {"x": 1}, "a": 2})),
    ];
    for (number, (text, _)) in cases.iter().enumerate() {
        let insert = "INSERT INTO things (note, more) VALUES ($1, $2::text::json)";
        database.client.execute(insert, &[&format!("note {number}"), text]).await.expect("the writer never fails");
    }
    let events = receiver
        .wait("each is told three times", |events| {
            let count = |name: &str| events.iter().filter(|event| event.name == name).count();
            ["change", "level", "swept"].iter().all(|name| count(name) >= cases.len())
        })
        .await;
    for (number, (_, read)) in cases.iter().enumerate() {
        for name in ["change", "level", "swept"] {
            let note = json!(format!("note {number}"));
            let event = events.iter().find(|event| event.name == name && event.data["row"]["note"] == note);
            let row = &event.unwrap_or_else(|| panic!("{name} {number}")).data["row"];
            assert_eq!(&row["more"], read, "{name}");
            assert!(name != "level" || &row["again"] == read, "{name}");
        }
    }
    let (code, out, err) = daemon.run(&["--trigger", "5", "--watch", "level", "--key", "id=2", "--dry-run", "--json"]).await;
    assert!(code == 0 && out.contains("critical"), "{code} {out} {err}");
    assert_eq!(daemon.lines("degraded") + daemon.lines("panic"), 0);
}
