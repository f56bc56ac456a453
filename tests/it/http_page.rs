//! The status page: what it is made of, what it says, and how its stream begins and ends.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::faults::through;
use crate::support::PATIENCE;
use crate::support::postgres::Server;
use crate::support::proxy::{Mode, Proxy};
use crate::*;

/// An answer: status, headers in lower case, body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }
}

async fn ask(daemon: &Daemon, path: &str, host: &str) -> Answer {
    let address = daemon.address().expect("it listens");
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await.expect("asks");
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("it ends in time").expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let head = head
        .lines()
        .skip(1)
        .map(|line| line.split_once(": ").map_or(line.to_owned(), |(name, value)| format!("{}: {value}", name.to_lowercase())));
    Answer { status, head: head.collect::<Vec<_>>().join("\n"), body: body.to_owned() }
}

/// A stream of documents.
struct Stream {
    lines: BufReader<TcpStream>,
    head: String,
}

impl Stream {
    async fn open(daemon: &Daemon) -> Stream {
        let mut stream = TcpStream::connect(daemon.address().expect("it listens")).await.expect("connects");
        stream.write_all(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("asks");
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(lines.read_line(&mut head).await.expect("a line"), 0, "{head}");
        }
        Stream { lines, head }
    }

    /// The next line, without its end; `None` at the end of the stream.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.lines.read_line(&mut line)).await.expect("in time").expect("a line");
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// The next document; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(data) = self.line().await?.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).expect("JSON"));
            }
        }
    }

    /// The first document that satisfies the condition.
    async fn until(&mut self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                last = self.next().await.expect("another document");
                if condition(&last) {
                    return last.clone();
                }
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!("{what}: not in {last:#}"),
        }
    }
}

/// The watch of that name.
fn watch<'a>(document: &'a Value, name: &str) -> &'a Value {
    let watches = document["state"]["watches"].as_array().expect("watches");
    watches.iter().find(|watch| watch["name"] == name).unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_three_files_that_need_nothing_else_and_answer_to_no_foreign_name() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    for (path, kind) in [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")] {
        let answer = ask(&daemon, path, "127.0.0.1").await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), Some(format!("{kind}; charset=utf-8").as_str()), "{path}");
        let policy = answer.header("content-security-policy").expect("a policy");
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        for foreign in ["evil.example", "evil.example:9786", "127.0.0.1.evil.example"] {
            let refused = ask(&daemon, path, foreign).await;
            assert_eq!(refused.status, 421, "{path} for {foreign}");
            assert!(refused.body.contains("Open it by its address"), "{}", refused.body);
        }
    }
    let html = ask(&daemon, "/", "[::1]:9786").await.body;
    assert!(!html.contains("style=") && !html.contains("<style") && !html.contains("onload="), "nothing inline");
    assert!(html.contains("<noscript>") && html.contains("items-listen status") && html.contains("/api/status"));
    assert_eq!(ask(&daemon, "/api/live", "evil.example").await.status, 421);
}

/// What tells a browser. The first is like what Chromium sends for a page of the same origin over plain HTTP under a foreign
/// name: nothing of `Sec-Fetch-*`, and no `Origin`. Then each sign by itself, since a script may leave out or set some of them.
const BROWSERS: [&str; 8] = [
    "Referer: http://evil.example:9786/\r\nAccept-Language: en-US,en;q=0.9\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64)",
    "User-Agent: Prometheus/3.0\r\nAccept-Language: en",
    "User-Agent: Prometheus/3.0\r\nAccept-Language: ",
    "Referer: http://evil.example:9786/",
    "Origin: http://evil.example:9786",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-Mode: cors",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_lets_its_own_name_point_here_reads_nothing() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    // What names what is watched answers to no foreign name, whoever asks.
    for path in ["/", "/page.js", "/api/live", "/api/status"] {
        let refused = ask(&daemon, path, "monitoring.example").await;
        assert_eq!(refused.status, 421, "{path}");
        assert!(!refused.body.contains("orders") && refused.body.contains("Open it by its address"), "{}", refused.body);
    }
    // What probes and scrapers ask for answers to every name of theirs, and to no browser under a foreign one.
    for path in ["/metrics", "/readyz", "/healthz"] {
        for program in ["", "\r\nUser-Agent: Prometheus/3.0", "\r\nUser-Agent: kube-probe/1.31\r\nAccept: */*"] {
            assert_eq!(ask(&daemon, path, &format!("monitoring.example{program}")).await.status, 200, "{path} {program}");
        }
    }
    for headers in BROWSERS {
        for path in ["/api/status", "/metrics", "/readyz", "/healthz"] {
            assert_eq!(ask(&daemon, path, &format!("evil.example:9786\r\n{headers}")).await.status, 421, "{path} {headers}");
            assert_eq!(ask(&daemon, path, &format!("localhost:9786\r\n{headers}")).await.status, 200, "{path} {headers}");
            assert_eq!(ask(&daemon, path, &format!("127.0.0.1\r\n{headers}")).await.status, 200, "{path} {headers}");
        }
    }
}

/// Watches of every kind: by tenant, falling, of a column with NULL, unkeyed, changes alone, a NOTIFY, and one without its table.
const KINDS: &str = r#"
[[watch]]
name = "stock"
table = "public.stock"
key = ["sku"]
value = "quantity"
compare = "<"
threshold = 50
thresholds = [{ sku = "few", threshold = 10 }]
[[watch.publish]]
channels = ["stock"]
event = "stock.low"
[[watch]]
name = "all"
table = "public.orders"
threshold = 1000
[[watch.publish]]
channels = ["all"]
event = "all"
[[watch]]
name = "changes"
table = "public.stock"
[[watch.publish]]
channels = ["changes"]
event = "changed"
on = ["insert"]
[[watch]]
name = "told"
notify = "told_count"
threshold = 5
[[watch.publish]]
channels = ["told"]
event = "told"
[[watch]]
name = "nowhere"
table = "public.nowhere"
threshold = 5
[[watch.publish]]
channels = ["nowhere"]
event = "nowhere"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_document_says_of_every_kind_of_watch_where_it_stands() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE stock (sku text PRIMARY KEY, quantity int NOT NULL)").await;
    let mut daemon = daemon(&config(&database, &receiver, &format!("{ORDERS}{KINDS}")));
    daemon.start().await;
    let mut stream = Stream::open(&daemon).await;
    assert!(stream.head.starts_with("HTTP/1.1 200 "), "{}", stream.head);
    assert!(stream.head.to_lowercase().contains("content-type: text/event-stream"), "{}", stream.head);
    let first = stream.next().await.expect("a document at once");
    assert_eq!(first["process"]["ready"], true);
    assert_eq!(first["process"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(first["process"]["config_hash"].as_str().map(str::len), Some(12));
    assert!(first["process"]["config_file"].as_str().is_some_and(|file| file.ends_with(".toml")));
    let names: Vec<&str> =
        first["state"]["watches"].as_array().expect("watches").iter().filter_map(|watch| watch["name"].as_str()).collect();
    assert_eq!(names, ["orders", "stock", "all", "changes", "told", "nowhere"], "in the order of the configuration");
    assert_eq!(watch(&first, "orders")["keys"], 0);
    assert_eq!(watch(&first, "all")["shown"][0]["reading"], 0, "a watch without a key has one reading");
    assert_eq!(watch(&first, "changes")["counts"], false);
    assert!(watch(&first, "nowhere")["error"].as_str().is_some_and(|error| error.contains("does not exist")), "{first:#}");
    assert_eq!(
        watch(&first, "stock")["scale"],
        serde_json::json!({"compare": "<", "is_low": true, "edges": [100, 50, 20], "hold_seconds": 0, "clear_hold_seconds": 0})
    );

    insert(&database, 7, 20).await;
    // Folded together they would be one event.
    stream.until("the first is told", |document| watch(document, "orders")["open"] == serde_json::json!([1, 0, 0])).await;
    insert(&database, 7, 4).await;
    insert(&database, 8, 10).await;
    database.sql("INSERT INTO orders (tenant_id) SELECT NULL FROM generate_series(1, 30)").await;
    database.sql("INSERT INTO stock VALUES ('few', 9), ('plenty', 200), ('some', 40)").await;
    database.sql("NOTIFY told_count, '6'").await;
    let document = stream
        .until("all of it is told", |document| {
            let pending = document["state"]["endpoints"][0]["pending"] == 0;
            pending
                && watch(document, "stock")["keys"] == 3
                && watch(document, "told")["open"] == serde_json::json!([0, 1, 0])
                && watch(document, "orders")["open"] == serde_json::json!([0, 1, 1])
        })
        .await;
    let orders = watch(&document, "orders");
    let shown: Vec<(&Value, &Value, &Value)> = orders["shown"]
        .as_array()
        .expect("keys")
        .iter()
        .map(|key| (&key["key"]["tenant_id"], &key["percent"], &key["severity"]))
        .collect();
    assert_eq!(
        serde_json::json!(shown),
        serde_json::json!([[null, 150, 3], [7, 120, 2], [8, 50, 0]]),
        "the worst first, then the nearest"
    );
    let past: Vec<(&Value, &Value)> =
        orders["shown"][1]["past"].as_array().expect("past").iter().map(|event| (&event[1], &event[2])).collect();
    assert_eq!(serde_json::json!(past), serde_json::json!([[20, "warning"], [24, "high"]]));
    assert!(orders["last_transition_at"].is_string());
    let stock = watch(&document, "stock");
    let shown: Vec<(&Value, &Value, &Value)> = stock["shown"]
        .as_array()
        .expect("keys")
        .iter()
        .map(|key| (&key["key"]["sku"], &key["threshold"], &key["percent"]))
        .collect();
    assert_eq!(
        serde_json::json!(shown),
        serde_json::json!([["some", 50, 80], ["few", 10, 90], ["plenty", 50, 400]]),
        "low readings are the near ones"
    );
    let endpoint = &document["state"]["endpoints"][0];
    assert_eq!((&endpoint["name"], &endpoint["state"], &endpoint["dead"]), (&"main".into(), &"ok".into(), &0.into()));
    assert!(endpoint["last_success_at"].is_string());
    let alerts = document["state"]["alerts"].as_array().expect("alerts");
    let alert =
        alerts.iter().find(|alert| alert["severity"] == "high" && alert["watch"] == "orders").expect("the alert of tenant 7");
    assert_eq!(
        (&alert["transition"], &alert["count"], &alert["deliveries"][0]["state"]),
        (&"escalated".into(), &24.into(), &"delivered".into())
    );
    assert_eq!((&alert["deliveries"][0]["attempts"], &alert["deliveries"][0]["endpoint"]), (&1.into(), &"main".into()));
    assert!(document["state"]["database"]["heartbeat_at"].is_string());
    assert!(document["process"]["rows_folded"].as_u64().is_some_and(|rows| rows >= 4), "{}", document["process"]);

    // Thresholds that the application edits are in force here, too.
    database.sql("INSERT INTO items_listen.threshold VALUES ('orders', '{\"tenant_id\": 7}', 24), ('orders', '{}', 40)").await;
    let document = stream.until("they are", |document| watch(document, "orders")["shown"][0]["threshold"] == 24).await;
    assert_eq!(watch(&document, "orders")["shown"][1]["threshold"], 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_refuses_is_paused_on_the_page_and_its_dead_are_named() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let mut stream = Stream::open(&daemon).await;
    receiver.status(401);
    insert(&database, 7, 20).await;
    let document = stream.until("paused", |document| document["state"]["endpoints"][0]["state"] == "paused").await;
    let endpoint = &document["state"]["endpoints"][0];
    assert_eq!((&endpoint["reason"], &endpoint["pending"]), (&"auth".into(), &1.into()));
    assert!(endpoint["until"].is_string() && endpoint["oldest_pending_at"].is_string());
    let delivery = &document["state"]["alerts"][0]["deliveries"][0];
    assert_eq!(delivery["state"], "pending");
    receiver.status(422);
    daemon.terminate().await;
    daemon.start().await;
    let mut stream = Stream::open(&daemon).await;
    let document = stream.until("dead", |document| document["state"]["endpoints"][0]["dead"] == 1).await;
    let last = &document["state"]["endpoints"][0]["last_dead"];
    assert_eq!((&last["reason"], &last["status"], &last["watch"]), (&"rejected".into(), &422.into(), &"orders".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reader_for_all_and_no_more_than_sixteen_pages() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let readers = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%What the status page shows%' AND pid <> pg_backend_pid()";
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(Stream::open(&daemon).await);
    }
    for stream in &mut streams {
        stream.next().await.expect("each has a document");
    }
    assert_eq!(database.one::<i64>(readers).await, 1, "one session reads for all");
    let refused = ask(&daemon, "/api/live", "localhost").await;
    assert_eq!(refused.status, 503);
    assert!(refused.body.contains("16 status pages are open"), "{}", refused.body);
    streams.pop();
    support::eventually("a seat is free", async || {
        let stream = Stream::open(&daemon).await;
        stream.head.starts_with("HTTP/1.1 200 ").then_some(())
    })
    .await;
    drop(streams);
    support::eventually("nobody reads where nobody watches", async || (database.one::<i64>(readers).await == 0).then_some(()))
        .await;
    let mut again = Stream::open(&daemon).await;
    assert_eq!(again.next().await.expect("a document")["error"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_open_streams_and_is_not_held_up_by_them() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let mut streams = [Stream::open(&daemon).await, Stream::open(&daemon).await];
    for stream in &mut streams {
        stream.next().await.expect("a document");
    }
    assert_eq!(daemon.terminate().await.code(), Some(0));
    daemon.logged("stopped").await;
    assert_eq!(daemon.lines("an HTTP answer was still under way"), 0, "the streams ended by themselves");
    for mut stream in streams {
        let mut last = String::new();
        while let Some(line) = stream.line().await {
            if !line.is_empty() {
                last = line;
            }
        }
        assert_eq!(last, "0", "the last chunk: it was ended, not cut off");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_the_page_says_so_and_recovers_by_itself() {
    let mut server = Server::start(&[]);
    let (database, receiver) = (server.database().await, Receiver::start().await);
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let mut stream = Stream::open(&daemon).await;
    stream.until("it is well", |document| document["state"].is_object()).await;
    server.halt("immediate");
    let document = stream
        .until("the database is away", |document| document["state"].is_null() && document["process"]["ready"] == false)
        .await;
    assert!(document["error"].is_string(), "{document:#}");
    assert!(document["process"]["reason"].as_str().is_some_and(|reason| reason.starts_with("database: ")), "{document:#}");
    assert!(document["process"]["unready_since"].is_string() && document["process"]["started_at"].is_string());
    // Whoever comes now sees the same.
    assert_eq!(ask(&daemon, "/", "localhost").await.status, 200);
    let other = Stream::open(&daemon).await.next().await.expect("a document");
    assert_eq!(other["process"]["ready"], false);
    server.boot();
    let document =
        stream.until("it is back", |document| document["state"].is_object() && document["process"]["ready"] == true).await;
    assert_eq!(document["process"]["unready_since"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_silent_is_said_to_be_and_goes_on_by_itself() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let proxy = Proxy::start(database.port).await;
    let mut daemon = daemon(&through(&proxy, &database, &config(&database, &receiver, ORDERS)));
    daemon.start().await;
    let mut stream = Stream::open(&daemon).await;
    stream.until("it is well", |document| document["state"].is_object()).await;
    proxy.mode(Mode::Stall);
    stream
        .until("silence is said", |document| {
            document["error"].as_str().is_some_and(|error| error.contains("has not answered for"))
        })
        .await;
    proxy.pass();
    stream.until("it goes on", |document| document["state"].is_object()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_what_an_open_page_shows_and_a_refused_one_is_named() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let before = config(&database, &receiver, ORDERS);
    let mut daemon = daemon(&before);
    daemon.start().await;
    let mut stream = Stream::open(&daemon).await;
    let first = stream.until("it is well", |document| document["state"].is_object()).await;
    assert_eq!(first["process"]["reload"], Value::Null);
    daemon.configure("nonsense = true");
    daemon.signal("HUP");
    let refused = stream.until("it is refused", |document| document["process"]["reload"][1] == false).await;
    assert_eq!(refused["process"]["config_hash"], first["process"]["config_hash"]);
    daemon.configure(&before.replace("threshold = 20", "threshold = 40"));
    daemon.signal("HUP");
    let taken = stream
        .until("it is taken", |document| document["process"]["reload"][1] == true && document["process"]["ready"] == true)
        .await;
    assert_ne!(taken["process"]["config_hash"], first["process"]["config_hash"]);
    insert(&database, 7, 20).await;
    let document =
        stream.until("the new threshold is shown", |document| watch(document, "orders")["shown"][0]["reading"] == 20).await;
    assert_eq!(watch(&document, "orders")["shown"][0]["percent"], 50);
    assert_eq!(document["state"]["database"]["others"], serde_json::json!([]), "what this process was is no other daemon");
}
