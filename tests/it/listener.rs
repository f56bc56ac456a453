//! Our own listener: what it costs whoever asks too much, and that it keeps nobody else out.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

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

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_or_no_question_is_refused_and_nothing_changes() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let ask = |line: &str, headers: &str| {
        format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n").into_bytes()
    };
    let filler = |name: &str, bytes: usize| format!("{name}: {}\r\n", "x".repeat(bytes));
    let many: String = (0..65).map(|number| format!("X-{number}: x\r\n")).collect();
    let long = |bytes: usize| format!("GET /{}", "x".repeat(bytes));
    for (what, bytes, status) in [
        ("an ordinary one", ask("GET /healthz", ""), Some(200)),
        ("many headers", ask("GET /healthz", &many), Some(431)),
        ("a long header", ask("GET /healthz", &filler("X", 40_000)), Some(431)),
        (
            "headers without end",
            [ask("GET /healthz", ""), filler("X", 4_000_000).into_bytes()].concat()[..3_000_000].to_vec(),
            Some(200),
        ),
        ("a header without end", format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(3_000_000)).into_bytes(), Some(431)),
        ("a long address", ask(&long(3_000), ""), Some(414)),
        ("a longer address", ask(&long(100_000), ""), Some(431)),
        ("a long query", ask(&format!("GET /metrics?{}", "x".repeat(3_000)), ""), Some(414)),
        ("HTTP/1.0", b"GET /healthz HTTP/1.0\r\n\r\n".to_vec(), Some(200)),
        ("HTTP/0.9", b"GET /healthz\r\n\r\n".to_vec(), Some(400)),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(), None),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\r\n\r\n".to_vec(), Some(400)),
        ("garbage", b"\0\xff\xfe garbage \r\n\r\n".to_vec(), Some(400)),
        ("a header with a zero", ask("GET /healthz", "X: a\0b\r\n"), Some(400)),
        ("a body that is announced and never comes", ask("GET /healthz", "Content-Length: 1000000000\r\n"), Some(200)),
        ("an unknown path", ask("GET /../../etc/passwd", ""), Some(404)),
    ] {
        let answer = say(connect(&daemon).await, &bytes, None).await;
        assert_eq!(answer.as_ref().map(|answer| answer.status), status, "{what}: {answer:?}");
    }
    // Half of a connection is enough to be answered; the other half may be closed before.
    for path in ["/healthz", "/api/status"] {
        let mut half = connect(&daemon).await;
        half.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.expect("asks");
        half.shutdown().await.expect("half closed");
        let heard = hear(&mut half, None).await;
        assert!(heard.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&heard));
    }
    let before: String = database.one("SELECT string_agg(w::text, ';') FROM items_listen.watch w").await;
    for path in ROUTES {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"] {
            let request = ask(&format!("{method} {path}"), "Origin: http://localhost\r\nContent-Length: 4\r\n");
            let answer = say(connect(&daemon).await, &[request, b"body".to_vec()].concat(), None).await;
            let answer = answer.unwrap_or_else(|| panic!("{method} {path}: no answer"));
            assert_eq!((answer.status, answer.header("allow")), (405, vec!["GET, HEAD"]), "{method} {path}: {answer:?}");
        }
        let answer = self::ask(&daemon, path, "Origin: http://localhost\r\n").await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.head.contains("access-control"), "no page of another site may read {path}: {}", answer.head);
        let head = say(connect(&daemon).await, &ask(&format!("HEAD {path}"), ""), None).await.expect("an answer");
        assert_eq!((head.status, head.body.as_str()), (200, ""), "HEAD {path}");
    }
    let after: String = database.one("SELECT string_agg(w::text, ';') FROM items_listen.watch w").await;
    assert_eq!(before, after);
    assert_eq!(daemon.lines("\"error\""), 0, "{:?}", daemon.log());
}

/// A request that comes a byte at a time and never ends.
async fn trickle(mut stream: TcpStream) {
    let bytes = format!("GET /{} HTTP/1.1\r\n", "x".repeat(100_000));
    for byte in bytes.bytes() {
        if stream.write_all(&[byte]).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_that_say_nothing_or_speak_slowly_keep_nobody_out() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    // Whoever watches the page stays connected all the while.
    let mut viewer = connect(&daemon).await;
    viewer.write_all(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("asks");
    assert!(String::from_utf8_lossy(&hear(&mut viewer, Some("\n\n")).await).contains("200 OK"));
    let (mut idle, mut slow) = (Vec::new(), tokio::task::JoinSet::new());
    for number in 0..2_000 {
        let stream = connect(&daemon).await;
        match number % 3 {
            0 => drop(slow.spawn(trickle(stream))),
            1 => idle.push(stream),
            // Asked once, and kept.
            _ => {
                let mut stream = stream;
                stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("asks");
                idle.push(stream);
            }
        }
        if number % 100 == 99 {
            for path in ["/readyz", "/healthz", "/metrics"] {
                assert_eq!(daemon.get(path).await.map(|(status, _)| status), Some(200), "{path} beside {number} others");
            }
        }
    }
    assert!(String::from_utf8_lossy(&hear(&mut viewer, Some("\n\n")).await).contains("data: "), "whoever is answered stays");
    // So many of theirs are kept, whatever they do; those that said nothing for longest were sent away.
    let (_, metrics) = daemon.get("/metrics").await.expect("metrics");
    let files = metrics.lines().find_map(|line| line.strip_prefix("process_open_fds ")).expect("open files");
    let files: f64 = files.parse().expect("a number");
    assert!((1.0..350.0).contains(&files), "{files} open files");
    let ended = hear(&mut idle[0], None).await;
    assert!(ended.is_empty(), "the first that said nothing has ended");
    // Deliveries are not held up by it either.
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    // And all of them end by themselves.
    for mut stream in idle.into_iter().rev().take(3) {
        hear(&mut stream, None).await;
    }
    slow.abort_all();
}

/// The server's side of a connection from this port, as the kernel has it: its state and whether it is still a process's.
fn is_established(from: u16, to: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = |field: &str| u16::from_str_radix(field.rsplit(':').next().unwrap_or_default(), 16).unwrap_or(0);
        port(fields[1]) == to && port(fields[2]) == from && fields[3] == "01"
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_is_let_go() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let address: std::net::SocketAddr = daemon.address().expect("it listens").parse().expect("an address");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small window");
    let mut stream = socket.connect(address).await.expect("connects");
    let port = stream.local_addr().expect("bound").port();
    // Far more than the kernel keeps for whoever does not read. What does not fit into our own send buffer waits.
    let asked = 2_000;
    let (mut read, mut write) = stream.split();
    let request = b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(asked);
    let send = async {
        let _refused = write.write_all(&request).await;
        std::future::pending::<()>().await;
    };
    let gone = eventually("the daemon has given it up", async || (!is_established(port, address.port())).then_some(()));
    tokio::select! {
        () = send => {}
        () = gone => {}
    }
    let heard = hear(&mut read, None).await;
    let answers = String::from_utf8_lossy(&heard).matches("HTTP/1.1 200").count();
    assert!((1..asked).contains(&answers), "{answers} answers");
    assert_eq!(daemon.get("/readyz").await.map(|(status, _)| status), Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_another_file_it_waits_and_goes_on() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    // A process that may open few files.
    let script = daemon.file.with_extension("sh");
    std::fs::write(&script, format!("#!/bin/sh\nulimit -n 60\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_items-listen")))
        .expect("written");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it may be run");
    daemon.binary.clone_from(&script);
    daemon.env("ITEMS_LISTEN_LOG", "debug");
    daemon.start().await;
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(connect(&daemon).await);
    }
    daemon.logged("HTTP connections cannot be taken; trying again").await;
    // It waits for nobody's time to run out: those that say nothing are sent away for the others.
    daemon.logged("HTTP: a connection without a request gives way").await;
    eventually("whoever asks is answered", async || daemon.get("/readyz").await.filter(|(status, _)| *status == 200)).await;
    drop(crowd);
    eventually("it goes on", async || {
        let request = b"GET /api/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        say(connect(&daemon).await, request, None).await.filter(|answer| answer.status == 200)
    })
    .await;
    assert!(daemon.lines("HTTP connections cannot be taken") < 10, "it is said now and then, not for each");
    assert!(!daemon.has_ended());
    let _removed = std::fs::remove_file(script);
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
