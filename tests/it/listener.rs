//! Our own listener: what it costs whoever asks too much, and that it keeps nobody else out.

mod limits;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::support::{PATIENCE, eventually};
use crate::*;

/// All that is served.
const ROUTES: [&str; 8] = ["/", "/page.css", "/page.js", "/api/live", "/api/status", "/metrics", "/healthz", "/readyz"];

/// An answer: its head in lower case, and its body as far as it was read.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Vec<&str> {
        self.head.lines().filter_map(|line| line.strip_prefix(&format!("{name}: "))).collect()
    }
}

/// What was said until the other side had said all; with `until`, until that was among it.
async fn hear(stream: &mut (impl AsyncRead + Unpin), until: Option<&str>) -> Vec<u8> {
    let mut heard = Vec::new();
    let all = async {
        let mut some = vec![0; 16 * 1024];
        loop {
            // Whoever is cut off while it still talks may get a reset.
            let read = stream.read(&mut some).await.unwrap_or(0);
            heard.extend_from_slice(&some[..read]);
            let text = String::from_utf8_lossy(&heard);
            if read == 0 || until.is_some_and(|until| text.contains(until)) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("the connection ends, or says what is waited for");
    heard
}

/// Says something and reads the answer, if there is one.
async fn say(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8], until: Option<&str>) -> Option<Answer> {
    // It may be refused before it has said all.
    let _refused = stream.write_all(bytes).await;
    let heard = hear(&mut stream, until).await;
    let text = String::from_utf8_lossy(&heard).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let lower =
        |line: &str| line.split_once(": ").map_or(line.to_owned(), |(name, value)| format!("{}: {value}", name.to_lowercase()));
    Some(Answer { status, head: head.lines().map(lower).collect::<Vec<_>>().join("\n"), body: body.to_owned() })
}

async fn connect(daemon: &Daemon) -> TcpStream {
    TcpStream::connect(daemon.address().expect("it listens")).await.expect("connects")
}

/// Asks for a path with further headers. Of the stream it reads the first document.
async fn ask(daemon: &Daemon, path: &str, headers: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    let until = (path == "/api/live").then_some("\n\n");
    say(connect(daemon).await, request.as_bytes(), until).await.expect("an answer")
}

async fn ask_socket(path: &std::path::Path, request: &str) -> Option<Answer> {
    say(UnixStream::connect(path).await.ok()?, request.as_bytes(), None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_for_owner_and_group_and_goes_with_its_daemon() {
    use std::os::unix::fs::PermissionsExt as _;
    let (database, receiver) = (shop().await, Receiver::start().await);
    let directory = std::env::temp_dir().join(format!("items-listen-socket-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let socket = directory.join("http.sock");
    let text =
        |more: &str| format!("{}[http]\nlisten = \"unix:{}\"\n{more}", config(&database, &receiver, ORDERS), socket.display());
    let mut daemon = daemon(&text(""));
    daemon.spawn();
    let line = daemon.logged("listening for HTTP").await;
    assert_eq!(line["addr"], format!("unix:{}", socket.display()));
    // Through a proxy, which has a name of its own.
    let get =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: status.example\r\nSec-Fetch-Site: none\r\nConnection: close\r\n\r\n");
    let ready = async || ask_socket(&socket, &get("/readyz")).await.filter(|answer| answer.status == 200);
    eventually("ready", ready).await;
    for path in ["/", "/page.js", "/api/status", "/metrics", "/healthz"] {
        assert_eq!(ask_socket(&socket, &get(path)).await.map(|answer| answer.status), Some(200), "{path}");
    }
    let mode = std::fs::metadata(&socket).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o660);
    // A program that everybody has speaks to it, too.
    if let Ok(curl) =
        std::process::Command::new("curl").args(["-fsS", "--unix-socket"]).arg(&socket).arg("http://x/healthz").output()
    {
        assert_eq!(String::from_utf8_lossy(&curl.stdout), "alive\n", "{curl:?}");
    }
    // A second one does not take it away.
    let (code, _, error) = daemon.run(&["run"]).await;
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("cannot be bound: somebody listens there"), "{error}");
    eventually("the first goes on", ready).await;
    // It stays over a reload, and what is new beside it holds.
    daemon.configure(&text("token = \"only-for-this-test\"\n"));
    daemon.signal("HUP");
    eventually("a token is wanted", async || ask_socket(&socket, &get("/metrics")).await.filter(|answer| answer.status == 401))
        .await;
    assert_eq!(daemon.lines("cannot be reloaded"), 0);
    // What was killed leaves its file, which is in nobody's way.
    daemon.kill();
    assert!(socket.exists());
    daemon.spawn();
    daemon.logged("listening for HTTP").await;
    eventually("ready again", ready).await;
    daemon.terminate().await;
    assert!(!socket.exists(), "it is removed with its daemon");
    std::fs::write(&socket, "not a socket").expect("written");
    let (code, _, error) = daemon.run(&["run"]).await;
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("something that is no socket has that name"), "{error}");
    std::fs::remove_dir_all(directory).expect("removed");
}

const TOKEN: &str = "correct-horse-battery-staple";

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_wanted_for_everything_but_the_probes() {
    use base64::Engine as _;
    let (database, receiver) = (shop().await, Receiver::start().await);
    let text = |token: &str| format!("{}[http]\nlisten = \"127.0.0.1:0\"\n{token}", config(&database, &receiver, ORDERS));
    let mut daemon = daemon(&text(&format!("token = \"{TOKEN}\"\n")));
    daemon.start().await;
    let basic = |pair: &str| format!("Authorization: Basic {}\r\n", base64::engine::general_purpose::STANDARD.encode(pair));
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    for path in ROUTES {
        let is_open = ["/healthz", "/readyz"].contains(&path);
        let wrong =
            [String::new(), bearer("wrong"), bearer(&TOKEN[..10]), basic("any:wrong"), "Authorization: Basic !!\r\n".to_owned()];
        for headers in wrong {
            let answer = ask(&daemon, path, &headers).await;
            assert_eq!(answer.status, if is_open { 200 } else { 401 }, "{path} {headers}");
            assert!(is_open || answer.header("www-authenticate").iter().any(|way| way.starts_with("Basic ")), "{answer:?}");
            assert!(is_open || !answer.body.contains("orders"), "{answer:?}");
        }
        // A proxy may call us what it likes: no other site has the token.
        for headers in [bearer(TOKEN), basic(&format!("any:{TOKEN}")), format!("{}Sec-Fetch-Site: none\r\n", bearer(TOKEN))] {
            let answer = ask(&daemon, path, &headers).await;
            assert_eq!(answer.status, 200, "{path} {headers}");
        }
        let request = format!("GET {path} HTTP/1.1\r\nHost: status.example\r\nConnection: close\r\n{}\r\n", bearer(TOKEN));
        let answer = say(connect(&daemon).await, request.as_bytes(), (path == "/api/live").then_some("\n\n")).await;
        assert_eq!(answer.map(|answer| answer.status), Some(200), "{path} under another name");
    }
    assert_eq!(ask(&daemon, "/nowhere", "").await.status, 401);
    assert_eq!(ask(&daemon, "/nowhere", &bearer(TOKEN)).await.status, 404);
    // Refusals are said together.
    assert_eq!(daemon.lines("[http] refused: without the token, or with a wrong one"), 1);
    assert_eq!(daemon.lines(TOKEN), 0);
    // Another token holds with the next reload, without a restart.
    daemon.configure(&text("token = \"another-one-for-this\"\n"));
    daemon.signal("HUP");
    let refused = async || (ask(&daemon, "/metrics", &bearer(TOKEN)).await.status == 401).then_some(());
    eventually("the former token is no good", refused).await;
    assert_eq!(ask(&daemon, "/metrics", &bearer("another-one-for-this")).await.status, 200);
}

/// Opens the stream of documents and reads the first of them.
async fn watch_live(daemon: &Daemon, headers: &str) -> TcpStream {
    let mut stream = connect(daemon).await;
    let request = format!("GET /api/live HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("asks");
    let heard = hear(&mut stream, Some("\n\n")).await;
    assert!(heard.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&heard));
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_what_let_it_in_is_no_longer_the_token() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let text = |http: &str| format!("{}[http]\nlisten = \"127.0.0.1:0\"\n{http}", config(&database, &receiver, ORDERS));
    let mut daemon = daemon(&text(""));
    daemon.start().await;
    let reload = |http: &str| {
        daemon.configure(&text(http));
        daemon.signal("HUP");
    };
    // Nobody was asked for a token, and now everybody is.
    let mut stream = watch_live(&daemon, "").await;
    reload(&format!("token = \"{TOKEN}\"\n"));
    hear(&mut stream, None).await;
    assert_eq!(ask(&daemon, "/api/live", "").await.status, 401);
    // A reload that changes something else is seen, and ends nothing.
    let mut stream = watch_live(&daemon, &format!("Authorization: Bearer {TOKEN}\r\n")).await;
    reload(&format!("token = \"{TOKEN}\"\nhide = [\"keys\"]\n"));
    let heard = hear(&mut stream, Some("\"hidden\":[\"keys\"]")).await;
    assert!(String::from_utf8_lossy(&heard).contains("\"hidden\":[\"keys\"]"), "it goes on");
    // Another token.
    reload("token = \"another-one-for-this\"\n");
    hear(&mut stream, None).await;
    // Whoever had one may stay where nobody is asked any more.
    let mut stream = watch_live(&daemon, "Authorization: Bearer another-one-for-this\r\n").await;
    reload("hide = [\"counts\"]\n");
    let heard = hear(&mut stream, Some("\"hidden\":[\"counts\"]")).await;
    assert!(String::from_utf8_lossy(&heard).contains("\"hidden\":[\"counts\"]"), "it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_it_is_not_ready_is_for_those_with_the_token() {
    let receiver = Receiver::start().await;
    let text = format!(
        "[database]\nurl = \"postgres://somebody@127.0.0.1:1/nowhere\"\n{}{ORDERS}[http]\nlisten = \"127.0.0.1:0\"\ntoken = \"{TOKEN}\"\n",
        receiver.endpoint("main")
    );
    let mut daemon = daemon(&text);
    daemon.spawn();
    daemon.logged("no database session").await;
    let anybody = ask(&daemon, "/readyz", "").await;
    assert_eq!((anybody.status, anybody.body.as_str()), (503, "not ready\n"));
    let known = ask(&daemon, "/readyz", &format!("Authorization: Bearer {TOKEN}\r\n")).await;
    assert!(known.status == 503 && known.body.contains("refused"), "{known:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hidden_is_on_no_route() {
    let receiver = Receiver::start().await;
    let database = Database::new().await;
    database.sql("CREATE TABLE letters (owner text, bytes bigint)").await;
    let watches = r#"
[[watch]]
name = "letters"
table = "public.letters"
key = ["owner"]
where = "owner <> 'canary-sql'"
sum = "bytes"
threshold = 2718281828459045235
[[watch.publish]]
channels = ["private-{{ key.owner }}.letters"]
event = "letters.{{ key.owner }}"
[[watch]]
name = "broken"
query = "SELECT 'canary-error'::int AS count"
threshold = 7
[[watch.publish]]
channels = ["broken"]
event = "broken"
"#;
    let text = |hide: &str| format!("{}[http]\nlisten = \"127.0.0.1:0\"\n{hide}", config(&database, &receiver, watches));
    let mut daemon = daemon(&text(""));
    daemon.start().await;
    database.sql("INSERT INTO letters VALUES ('canary-key', 7182818284590452353), ('canary-other', 7182818284590452353)").await;
    receiver.wait_for(2).await;
    // (`ask` reads the first document only: another one may be needed until all is in it.)
    let shown = async |needles: &[&str]| {
        let mut found = Vec::new();
        for path in ROUTES {
            let text = ask(&daemon, path, "").await.body;
            found.extend(needles.iter().filter(|needle| text.contains(**needle)).map(|needle| format!("{path} {needle}")));
        }
        found
    };
    // (A number of 19 digits is in no other number by chance.)
    let (reading, threshold) = ("7182818284590452353", "2718281828459045235");
    let (keys, counts) = (
        ["canary-key", "canary-error", "canary-sql", "canary"],
        [
            reading,
            threshold,
            "items_listen_keys",
            "items_listen_alerts_open",
            "items_listen_transitions_total",
            "items_listen_storm_collapsed_total",
            "items_listen_folded_rows_total",
        ],
    );
    let document = async || {
        let live = ask(&daemon, "/api/live", "").await.body;
        let data = live.split("data: ").nth(1).and_then(|data| data.lines().next()).expect("a document").to_owned();
        serde_json::from_str::<serde_json::Value>(&data).expect("JSON")
    };
    eventually("nothing is hidden: the page tells all", async || {
        let live = ask(&daemon, "/api/live", "").await.body;
        (keys.iter().chain(&[reading, threshold]).all(|needle| live.contains(needle))).then_some(())
    })
    .await;
    let told = shown(&counts).await;
    for series in &counts[2..] {
        assert!(told.contains(&format!("/metrics {series}")), "{series} is there to be hidden: {told:?}");
    }
    let told = document().await;
    assert_eq!(told["state"]["alerts"].as_array().map(Vec::len), Some(2), "{told:#}");
    assert!(told["process"]["rows_folded"].is_number() && told["process"]["last_fold"]["rows"].is_number(), "{told:#}");
    let reload = async |words: &[&str]| {
        daemon.configure(&text(&format!("hide = {words:?}\n")));
        daemon.signal("HUP");
        let expected = format!("\"hidden\":{}", serde_json::json!(words));
        let in_force = async || ask(&daemon, "/api/live", "").await.body.contains(&expected).then_some(());
        eventually("what is hidden is another", in_force).await;
        daemon.ready().await;
    };
    reload(&["keys"]).await;
    assert_eq!(shown(&keys).await, Vec::<String>::new());
    eventually("counts are told still", async || ask(&daemon, "/api/live", "").await.body.contains(reading).then_some(())).await;
    reload(&["counts"]).await;
    assert_eq!(shown(&counts).await, Vec::<String>::new());
    assert!(ask(&daemon, "/metrics", "").await.body.contains("\nitems_listen_ready 1"), "the others are told still");
    let quiet = document().await;
    assert_eq!(quiet["state"]["alerts"].as_array().map(Vec::len), Some(1), "the last of a watch, not one for each: {quiet:#}");
    let process = &quiet["process"];
    assert!(process["rows_folded"].is_null() && process["rows_per_second"].is_null(), "{process:#}");
    assert!(process["last_fold"]["rows"].is_null() && process["last_fold"]["at"].is_string(), "{process:#}");
    let key = &quiet["state"]["alerts"][0]["key"]["owner"];
    assert!(key == "canary-key" || key == "canary-other", "keys are told still: {quiet:#}");
    reload(&["keys", "counts"]).await;
    assert_eq!(shown(&[keys.as_slice(), &counts].concat()).await, Vec::<String>::new());
    // What is broken is still seen to be.
    let status: serde_json::Value = serde_json::from_str(&ask(&daemon, "/api/status", "").await.body).expect("JSON");
    let broken = status["watches"].as_array().and_then(|watches| watches.iter().find(|watch| watch["name"] == "broken"));
    assert_eq!(broken.map(|watch| (watch["error"].as_str(), watch["keys"].is_null())), Some((Some("(hidden)"), true)));
    assert_eq!(document().await["process"]["hidden"], serde_json::json!(["keys", "counts"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_others_reach_is_warned_of_unless_a_token_is_wanted() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let text = |http: &str| format!("{}[http]\n{http}\n", config(&database, &receiver, ORDERS));
    let mut daemon = daemon(&text("listen = \"0.0.0.0:0\""));
    let (code, out, _) = daemon.run(&["check", "--offline", "--json"]).await;
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("\"http-open\"") && out.contains("0.0.0.0:0"), "{out}");
    daemon.spawn();
    daemon.logged("[http] other machines may reach it, and nobody is asked for a token").await;
    daemon.terminate().await;
    daemon.configure(&text(&format!("listen = \"0.0.0.0:0\"\ntoken = \"{TOKEN}\"")));
    assert_eq!(daemon.run(&["check", "--offline"]).await.0, 0);
    daemon.configure(&text("token = \"short\""));
    let (code, out, _) = daemon.run(&["check", "--offline"]).await;
    assert!(code == 1 && out.contains("can be guessed") && !out.contains("short\""), "{out}");
    for (http, says) in [
        ("token = \"\"", "http.token"),
        ("token = \"two words\"", "http.token"),
        ("token_file = \"/nowhere/token\"", "http.token_file: /nowhere/token cannot be read"),
        ("hide = []", "http.hide: empty; keys and counts are known"),
        ("hide = [\"key\"]", "http.hide: \"key\" is none of keys, counts, did you mean \"keys\"?"),
        ("listen = \"unix:http.sock\"", "http.listen: the whole path of a socket is wanted"),
        ("listen = \"localhost:80\"", "http.listen: an address and port"),
    ] {
        daemon.configure(&text(http));
        let (code, _, error) = daemon.run(&["check", "--offline"]).await;
        assert_eq!(code, 78, "{http}: {error}");
        assert!(error.contains(says), "{http}: {error}");
    }
}
