//! Answers of endpoints as no library would write them, byte by byte from a socket: what was not certainly accepted is
//! sent again with the same bytes, nothing is waited for without end, and no endpoint holds another up.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::receiver::{APP_ID, KEY, Receiver, SECRET};
use crate::*;

/// A step of an answer.
#[derive(Clone, Debug)]
pub enum Say {
    Text(String),
    /// The same again and again, until nobody listens.
    Endlessly(&'static str),
    /// The same again and again, a second apart.
    Slowly(&'static str),
    /// Nothing more, with the connection open.
    Nothing,
    /// An orderly end of the connection.
    Close,
    /// RST.
    Reset,
}

pub fn text(text: &str) -> Say {
    Say::Text(text.to_owned())
}

pub fn good() -> Vec<Say> {
    vec![text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")]
}

/// A request, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Came {
    pub path: String,
    pub idempotency_key: String,
    pub body: String,
}

/// A request, and the second since 1970 at which it says it was signed, which no two attempts need to share.
type Signed = (Came, i64);

/// A server that gives its answers in turn, and then good ones.
pub struct Raw {
    port: u16,
    came: Arc<Mutex<Vec<Signed>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Raw {
    pub async fn start(answers: Vec<Vec<Say>>) -> Raw {
        Raw::on(TcpListener::bind("127.0.0.1:0").await.expect("a free port"), answers)
    }

    pub fn on(listener: TcpListener, answers: Vec<Vec<Say>>) -> Raw {
        let port = listener.local_addr().expect("an address").port();
        let came: Arc<Mutex<Vec<Signed>>> = Arc::default();
        let (seen, answers) = (Arc::clone(&came), Arc::new(answers));
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&seen), Arc::clone(&answers)));
            }
        });
        Raw { port, came, serving }
    }

    pub fn came(&self) -> Vec<Came> {
        self.came.lock().expect("no panic").iter().map(|(came, _)| came.clone()).collect()
    }

    /// When the requests say that they were signed, in seconds since 1970.
    pub fn signed_at(&self) -> Vec<i64> {
        self.came.lock().expect("no panic").iter().map(|(_, at)| *at).collect()
    }

    pub fn endpoint(&self, name: &str, lines: &str) -> String {
        endpoint(name, &format!("http://127.0.0.1:{}", self.port), lines)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(mut stream: TcpStream, came: Arc<Mutex<Vec<Signed>>>, answers: Arc<Vec<Vec<Say>>>) {
    let mut buffer = Vec::new();
    loop {
        let Some(request) = read(&mut stream, &mut buffer).await else { return };
        let number = {
            let mut came = came.lock().expect("no panic");
            came.push(request);
            came.len() - 1
        };
        for step in answers.get(number).cloned().unwrap_or_else(good) {
            let spoken = match step {
                Say::Text(text) => stream.write_all(text.as_bytes()).await,
                Say::Endlessly(text) => loop {
                    if let Err(error) = stream.write_all(text.as_bytes()).await {
                        break Err(error);
                    }
                },
                Say::Slowly(text) => loop {
                    if let Err(error) = stream.write_all(text.as_bytes()).await {
                        break Err(error);
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                },
                // Until the other side has had enough.
                Say::Nothing => stream.read(&mut [0; 1]).await.map(|_| ()),
                Say::Close => stream.shutdown().await,
                Say::Reset => {
                    stream.set_zero_linger().expect("a socket");
                    return;
                }
            };
            if spoken.is_err() {
                return;
            }
        }
    }
}

/// The next request on a connection.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Signed> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let header = |name: &str| {
                let found = head.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_owned()).unwrap_or_default()
            };
            let length: usize = header("content-length").parse().unwrap_or(0);
            if buffer.len() >= end + 4 + length {
                let body = String::from_utf8_lossy(&buffer[end + 4..end + 4 + length]).into_owned();
                buffer.drain(..end + 4 + length);
                let path = head.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
                let signed_at = head.split("auth_timestamp=").nth(1).and_then(|rest| rest.split(['&', ' ']).next()?.parse().ok());
                let came = Came { path, idempotency_key: header("x-idempotency-key"), body };
                return Some((came, signed_at.unwrap_or_default()));
            }
        }
        let mut some = [0; 4096];
        match stream.read(&mut some).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => buffer.extend_from_slice(&some[..read]),
        }
    }
}

pub fn endpoint(name: &str, url: &str, lines: &str) -> String {
    format!("[endpoints.{name}]\nurl = \"{url}\"\napp_id = \"{APP_ID}\"\nkey = \"{KEY}\"\nsecret = \"{SECRET}\"\n{lines}\n")
}

/// Tried again soon; a request takes no longer than a second.
pub const QUICK: &str = "retry = { initial = \"20ms\", max = \"200ms\" }\ntimeout = \"1s\"";

pub fn config_for(database: &Database, endpoints: &str, watches: &str) -> String {
    format!("[database]\nurl = \"{}\"\n\n{endpoints}{watches}", database.url())
}

/// attempts, state, reason and status of the one delivery, once it is as the condition wants it.
pub async fn delivery(database: &Database, what: &str, condition: &str) -> (i32, String, Option<String>, Option<i32>) {
    let sql = format!("SELECT attempts, state, reason, status FROM items_listen.delivery WHERE {condition} ORDER BY id LIMIT 1");
    let row = support::eventually(what, async || database.client.query_opt(sql.as_str(), &[]).await.expect("asks")).await;
    (row.get(0), row.get(1), row.get(2), row.get(3))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_in_an_odd_way_is_accepted() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answers: Vec<(&str, Vec<Say>)> = vec![
        ("HTTP/1.0, delimited by the close", vec![text("HTTP/1.0 200 OK\r\n\r\n{}"), Say::Close]),
        ("HTTP/1.1, delimited by the close", vec![text("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}"), Say::Close]),
        ("no content", vec![text("HTTP/1.1 204 No Content\r\n\r\n")]),
        ("accepted, without a reason phrase", vec![text("HTTP/1.1 202\r\nContent-Length: 0\r\n\r\n")]),
        ("100 first", [vec![text("HTTP/1.1 100 Continue\r\n\r\n")], good()].concat()),
        ("103 first", [vec![text("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")], good()].concat()),
        ("chunked", vec![text(&format!("{chunked}1\r\n{{\r\n1\r\n}}\r\n0\r\n\r\n"))]),
        (
            "what is said to be gzip is not unpacked",
            vec![text("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nno!!")],
        ),
        ("no text", vec![text("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\0\u{1}\u{7f}\n")]),
        ("an endless body", vec![text("HTTP/1.1 200 OK\r\n\r\n"), Say::Endlessly("nothing to see here, ")]),
        ("endless chunks", vec![text(chunked), Say::Endlessly("5\r\nabcde\r\n")]),
    ];
    for (what, answer) in answers {
        let database = shop().await;
        let server = Raw::start(vec![answer]).await;
        let mut daemon = daemon(&config_for(&database, &server.endpoint("main", QUICK), ORDERS));
        daemon.start().await;
        insert(&database, 1, 20).await;
        let (attempts, state, reason, status) = delivery(&database, what, "state <> 'pending' OR attempts > 0").await;
        assert_eq!((attempts, state.as_str(), reason), (1, "delivered", None), "{what}");
        assert!(status.is_some_and(|status| (200..300).contains(&status)), "{what}: {status:?}");
        assert_eq!(server.came().len(), 1, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_perhaps_accepted_is_sent_again_with_the_same_bytes() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    let answers: Vec<(&str, &str, Vec<Say>)> = vec![
        ("closed without an answer", "network", vec![Say::Close]),
        ("reset without an answer", "network", vec![Say::Reset]),
        ("closed within the status line", "network", vec![text("HTTP/1.1 20"), Say::Close]),
        ("closed within the headers", "network", vec![text("HTTP/1.1 200 OK\r\nContent-Le"), Say::Close]),
        (
            "reset within the body, which might have said an error",
            "network",
            vec![text(&format!("{length}{{\"error\"")), Say::Reset],
        ),
        ("a body that never begins, and might have said an error", "network", vec![text(length), Say::Reset]),
        ("closed within the body", "network", vec![text(&format!("{length}{{\"error\"")), Say::Close]),
        ("a broken chunk", "network", vec![text(&format!("{chunked}5\r\n{{\"err\r\nZZ\r\n")), Say::Close]),
        ("no HTTP", "network", vec![text("SSH-2.0-OpenSSH_9.2\r\n"), Say::Close]),
        ("two lengths", "network", vec![text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}")]),
        (
            "headers without end",
            "network",
            vec![text("HTTP/1.1 200 OK\r\n"), Say::Endlessly("X-Filler: filler filler filler\r\n")],
        ),
        ("no answer at all", "timeout", vec![Say::Nothing]),
        ("a header that comes a byte a second", "timeout", vec![text("HTTP/1.1 200 OK\r\nX-Slow: "), Say::Slowly("s")]),
        ("a body that comes a byte a second", "timeout", vec![text(length), Say::Slowly("{")]),
    ];
    for (what, wanted, answer) in answers {
        let database = shop().await;
        let server = Raw::start(vec![answer.clone(), answer]).await;
        let mut daemon = daemon(&config_for(&database, &server.endpoint("main", QUICK), ORDERS));
        daemon.start().await;
        insert(&database, 1, 20).await;
        let (attempts, state, _, _) = delivery(&database, what, "state <> 'pending'").await;
        assert_eq!((attempts, state.as_str()), (3, "delivered"), "{what}");
        let came = server.came();
        assert!(came.len() == 3 && came.iter().all(|one| *one == came[0]), "{what}: {came:?}");
        assert_eq!(came[0].idempotency_key.len(), 64, "{what}");
        let named: Vec<String> = daemon
            .log()
            .iter()
            .filter(|line| line["msg"] == "endpoint fails: backing off")
            .map(|line| line["reason"].as_str().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(named, [wanted], "{what}: it is named once, however often it fails");
        assert_eq!(daemon.lines("takes events again"), 1, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed_with_a_signature() {
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let (database, elsewhere) = (shop().await, Raw::start(Vec::new()).await);
        let moved = format!("HTTP/1.1 {status}\r\nLocation: http://127.0.0.1:{}/\r\nContent-Length: 0\r\n\r\n", elsewhere.port);
        let server = Raw::start(vec![vec![text(&moved)]]).await;
        let mut daemon = daemon(&config_for(&database, &server.endpoint("main", QUICK), ORDERS));
        daemon.start().await;
        insert(&database, 1, 20).await;
        daemon.logged("refuses everything").await;
        let (_, state, reason, code) = delivery(&database, "it is kept", "attempts > 0 AND lease IS NULL").await;
        assert_eq!((state.as_str(), reason.as_deref()), ("pending", Some("protocol")), "{status}");
        assert!(status.starts_with(&code.unwrap_or_default().to_string()), "{status}: {code:?}");
        insert(&database, 2, 20).await;
        exact(&database, "orders", TRUE_ORDERS).await;
        assert_eq!((server.came().len(), elsewhere.came().len()), (1, 0), "{status}");
        assert_eq!(daemon.lines("refuses everything"), 1, "{status}");
        // A start is a reload: what was refused is probed.
        assert!(daemon.terminate().await.success());
        daemon.start().await;
        delivery(&database, "it arrives", "state = 'delivered'").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_bounded_by_the_longest_delay() {
    let answer =
        |retry_after: &str| vec![text(&format!("HTTP/1.1 503 Busy\r\nRetry-After: {retry_after}\r\nContent-Length: 0\r\n\r\n"))];
    let (database, server) = (
        shop().await,
        Raw::start(vec![
            answer("Fri, 31 Dec 2199 23:59:59 GMT"),
            answer("Wed, 21 Oct 2015 07:28:00 GMT"),
            answer("4294967296"),
            answer("18446744073709551615"),
            answer("99999999999999999999999"),
            answer("-1"),
            answer("tomorrow"),
        ])
        .await,
    );
    let mut daemon = daemon(&config_for(&database, &server.endpoint("main", QUICK), ORDERS));
    daemon.start().await;
    insert(&database, 1, 20).await;
    let (attempts, ..) = delivery(&database, "it arrives", "state = 'delivered'").await;
    assert_eq!(attempts, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honoured_within_the_longest_delay() {
    // The clock of the test may tick between here and the answer: a minute is far more than that.
    let in_two_minutes = (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(120)).strftime("%a, %d %b %Y %H:%M:%S GMT");
    for retry_after in ["120".to_owned(), in_two_minutes.to_string()] {
        let database = shop().await;
        let busy = format!("HTTP/1.1 429 Too Many Requests\r\nRetry-After: {retry_after}\r\nContent-Length: 0\r\n\r\n");
        let server = Raw::start(vec![vec![text(&busy)]]).await;
        let patient = "retry = { initial = \"20ms\", max = \"5m\" }";
        let mut daemon = daemon(&config_for(&database, &server.endpoint("main", patient), ORDERS));
        daemon.start().await;
        insert(&database, 1, 20).await;
        let (_, state, reason, status) = delivery(&database, "it is put off", "attempts > 0").await;
        assert_eq!((state.as_str(), reason.as_deref(), status), ("pending", Some("rate_limited"), Some(429)), "{retry_after}");
        let later: bool = database.one("SELECT bool_and(due_at > created_at + interval '60 s') FROM items_listen.delivery").await;
        assert!(later, "{retry_after}");
        support::eventually("the whole endpoint is left alone", async || {
            let sql = "SELECT coalesce(bool_or(until > clock_timestamp() + interval '10 s'), false) FROM items_listen.endpoint";
            database.one::<bool>(sql).await.then_some(())
        })
        .await;
        insert(&database, 2, 20).await;
        exact(&database, "orders", TRUE_ORDERS).await;
        assert_eq!(server.came().len(), 1, "{retry_after}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_cannot_be_connected_to_is_tried_until_it_can() {
    let database = shop().await;
    // A listener that accepts nothing, and whose queue is full: who connects is not even refused.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let listener = socket.listen(0).expect("listens");
    let address = listener.local_addr().expect("an address");
    let mut queued = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(address)).await {
        queued.push(stream);
        assert!(queued.len() < 100, "the queue is never full");
    }
    let mut daemon = daemon(&config_for(&database, &endpoint("main", &format!("http://{address}"), QUICK), ORDERS));
    daemon.start().await;
    insert(&database, 1, 20).await;
    let (_, state, reason, _) = delivery(&database, "it is tried twice", "attempts > 1").await;
    assert_eq!((state.as_str(), reason.as_deref()), ("pending", Some("timeout")));
    assert_eq!(daemon.lines("endpoint fails: backing off"), 1);
    // The queue is worked off at last.
    drop(queued);
    let server = Raw::on(listener, Vec::new());
    delivery(&database, "it arrives", "state = 'delivered'").await;
    assert_eq!(server.came()[0].path, format!("/apps/{APP_ID}/events"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs_or_has_no_address_delays_no_other() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    // Every request hangs, and none of them is given up while the test lasts.
    let hanging = Raw::start(vec![vec![Say::Nothing]; 1_000]).await;
    let patient = "timeout = \"120s\"";
    let endpoints = format!(
        "{}{}{}",
        receiver.endpoint("main"),
        hanging.endpoint("hanging", patient),
        endpoint("nowhere", "http://does-not-exist.invalid", QUICK)
    );
    let rule = "endpoint = [\"hanging\", \"nowhere\", \"main\"]\n";
    let mut daemon = daemon(&config_for(&database, &endpoints, &format!("{ORDERS}{rule}")));
    daemon.start().await;
    for round in 0..4 {
        // raised, escalated, escalated, resolved, of each of twenty keys.
        let sql = match round {
            0 => "INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 20) t, generate_series(1, 20)",
            3 => "DELETE FROM orders",
            _ => "INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 20) t, generate_series(1, 5)",
        };
        database.sql(sql).await;
        receiver.wait_for((round + 1) * 20).await;
    }
    exact(&database, "orders", TRUE_ORDERS).await;
    support::eventually("the other two have all of theirs still to do", async || {
        let sql = "SELECT count(*) FILTER (WHERE endpoint = 'main' AND state = 'delivered') = 80
                      AND count(*) FILTER (WHERE endpoint = 'hanging' AND state = 'pending') = 80
                      AND count(*) FILTER (WHERE endpoint = 'nowhere' AND state = 'pending') = 80 FROM items_listen.delivery";
        database.one::<bool>(sql).await.then_some(())
    })
    .await;
    assert_eq!(receiver.all().len(), 80);
    assert!((1..=8).contains(&hanging.came().len()), "{} requests are under way", hanging.came().len());
    support::eventually("the name is looked up again and again", async || {
        let sql =
            "SELECT coalesce(max(attempts), 0) >= 3 AND bool_and(reason IN ('network', 'timeout')) FILTER (WHERE attempts > 0)
                   FROM items_listen.delivery WHERE endpoint = 'nowhere'";
        database.one::<Option<bool>>(sql).await.filter(|done| *done)
    })
    .await;
    let named = daemon.log().into_iter().filter(|line| line["endpoint"] == "nowhere" && line["msg"] != "ready");
    assert_eq!(named.count(), 1, "{:?}", daemon.log());
    assert_eq!(daemon.get("/readyz").await.map(|(status, _)| status), Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_date_that_nobody_minds_changes_no_signature() {
    // A proxy in between whose clock is wrong: what stands behind it accepts what is signed by ours.
    let database = shop().await;
    let late = jiff::Timestamp::now() + Duration::from_secs(1_200);
    let late = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&late).expect("a date");
    let answer = vec![text(&format!("HTTP/1.1 200 OK\r\nDate: {late}\r\nContent-Length: 2\r\n\r\n{{}}"))];
    let server = Raw::start(vec![answer; 3]).await;
    let mut daemon = daemon(&config_for(&database, &server.endpoint("main", QUICK), ORDERS));
    daemon.start().await;
    for tenant in 1..=3 {
        insert(&database, tenant, 20).await;
        support::eventually("it came", async || (server.came().len() >= usize::try_from(tenant).expect("few")).then_some(()))
            .await;
    }
    let now = jiff::Timestamp::now().as_second();
    assert!(server.signed_at().iter().all(|at| (now - 300..=now).contains(at)), "{now}: {:?}", server.signed_at());
    daemon.logged("the clock of this host differs").await;
    assert_eq!(daemon.lines("the clock of this host differs"), 1, "it is said once");
}
