//! An endpoint that answers in every way that servers do, and keeps what came. It treats idempotency keys as Sockudo
//! does: an answered one is answered again from the cache, one that failed is claimed for a while, and a batch is not
//! atomic.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::PATIENCE;
use crate::support::receiver::is_signed;
use crate::world::Faults;

/// How long a failed request's key stays claimed, and an answered one's is remembered.
const CLAIMED_FOR: Duration = Duration::from_secs(2);

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    Ok,
    /// HTTP/1.0, and the body ends with the connection.
    CloseDelimited,
    /// 200, and the body says that it was an error.
    SoketiError,
    InternalError,
    BadGateway,
    Unavailable,
    TooMany,
    RequestTimeout,
    /// It publishes, and the answer never arrives.
    Unheard,
    /// It publishes, and says 500.
    PublishedThenError,
    /// It publishes the first of a batch, and says 500.
    PartlyPublished,
    /// It closes the connection without a word.
    HangUp,
    /// Not HTTP at all.
    Garbage,
    /// It publishes, and answers when nobody waits any more.
    Late,
    Unauthorized,
    Forbidden,
    UnknownApp,
    Redirect,
    Teapot,
    /// 400 to whatever contains the poisonous key.
    Rejected,
    /// 503 because of a claimed key.
    InProgress,
    /// 200 from the cache of keys.
    Cached,
    /// 401 because its clock and ours differ.
    ClockSkew,
}

impl Answer {
    /// Those after which a retry helps.
    pub const TRANSIENT: [Answer; 12] = [
        Answer::SoketiError,
        Answer::InternalError,
        Answer::BadGateway,
        Answer::Unavailable,
        Answer::TooMany,
        Answer::RequestTimeout,
        Answer::Unheard,
        Answer::PublishedThenError,
        Answer::PartlyPublished,
        Answer::HangUp,
        Answer::Garbage,
        Answer::Late,
    ];
    /// Those after which the endpoint is paused.
    pub const REFUSING: [Answer; 5] =
        [Answer::Unauthorized, Answer::Forbidden, Answer::UnknownApp, Answer::Redirect, Answer::Teapot];
    /// What the runner must have seen, besides those that are transient.
    const ALSO: [Answer; 6] =
        [Answer::Ok, Answer::CloseDelimited, Answer::Rejected, Answer::InProgress, Answer::Cached, Answer::ClockSkew];

    /// What the runner must have seen.
    pub fn to_be_hit() -> impl Iterator<Item = Answer> {
        Answer::TRANSIENT.into_iter().chain(Answer::ALSO)
    }
}

/// In what mood it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    Well,
    /// So many of a hundred requests fail, each in a way of its own.
    Failing(u32),
    /// It refuses everything in this way.
    Refusing(Answer),
    /// It takes so long, and is well.
    Slow(Duration),
    /// It is always unavailable.
    Down,
}

/// An event, as it came.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub at: Instant,
    pub id: String,
    pub key: i32,
    pub seq: i64,
    pub count: i64,
    pub severity: String,
    pub previous: String,
    pub unread: Option<i64>,
    pub data: String,
    /// Its subscribers were told.
    pub published: bool,
    /// The sender was told so.
    pub accepted: bool,
}

impl Arrival {
    pub fn line(&self) -> String {
        format!("seq {} {} → {} at {}", self.seq, self.previous, self.severity, self.count)
    }
}

#[derive(Default)]
struct Keys {
    /// Since when, and whether it was answered.
    claims: HashMap<String, (Instant, bool)>,
    items: HashSet<String>,
    of_body: HashMap<String, String>,
}

struct Inner {
    arrivals: Mutex<Vec<Arrival>>,
    mood: Mutex<Mood>,
    /// The poisonous key is refused.
    rejects: Mutex<bool>,
    /// By how many seconds its clock is ahead.
    clock: Mutex<i64>,
    keys: Mutex<Keys>,
    random: Mutex<StdRng>,
    hits: Mutex<BTreeMap<Answer, u64>>,
    wrong: Mutex<Vec<String>>,
    faults: Faults,
}

/// The endpoint.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
    pub port: u16,
}

/// A request.
struct Request {
    path: String,
    key: String,
    body: String,
}

impl Endpoint {
    pub async fn start(faults: &Faults, random: &mut StdRng) -> Endpoint {
        let inner = Arc::new(Inner {
            arrivals: Mutex::default(),
            mood: Mutex::new(Mood::Well),
            rejects: Mutex::default(),
            clock: Mutex::default(),
            keys: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(random.random())),
            hits: Mutex::default(),
            wrong: Mutex::default(),
            faults: faults.clone(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let serving = Arc::clone(&inner);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let inner = Arc::clone(&serving);
                tokio::spawn(async move {
                    let _gone = serve(stream, &inner).await;
                });
            }
        });
        Endpoint { inner, port }
    }

    pub fn mood(&self, mood: Mood) {
        *self.inner.mood.lock().expect("no panic") = mood;
    }

    pub fn rejects(&self, rejects: bool) {
        *self.inner.rejects.lock().expect("no panic") = rejects;
    }

    pub fn clock(&self, ahead: i64) {
        *self.inner.clock.lock().expect("no panic") = ahead;
    }

    pub fn arrivals(&self) -> Vec<Arrival> {
        self.inner.arrivals.lock().expect("no panic").clone()
    }

    pub fn forget(&self) {
        self.inner.arrivals.lock().expect("no panic").clear();
    }

    pub fn hits(&self) -> BTreeMap<Answer, u64> {
        self.inner.hits.lock().expect("no panic").clone()
    }

    /// What no endpoint should see: a wrong signature, a key that changed.
    pub fn wrong(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.wrong.lock().expect("no panic"))
    }
}

async fn serve(mut stream: TcpStream, inner: &Inner) -> std::io::Result<()> {
    let Some(request) = read(&mut stream).await? else { return Ok(()) };
    let answer = receive(inner, &request).await;
    let date = jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(
            &(jiff::Timestamp::now() + jiff::SignedDuration::from_secs(*inner.clock.lock().expect("no panic"))),
        )
        .expect("a date");
    if answer == Answer::Late {
        // Until nobody waits any more: the sender has gone when there is nothing left to read.
        let _gone = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await;
    }
    let text = match answer {
        Answer::Unheard | Answer::HangUp => return Ok(()),
        Answer::Garbage => "220 mail.example ESMTP\r\n".to_owned(),
        Answer::CloseDelimited => "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{}".to_owned(),
        answer => {
            let (status, more, body) = match answer {
                Answer::SoketiError => (200, "", r#"{"error":"no","code":503}"#),
                Answer::InternalError | Answer::PublishedThenError | Answer::PartlyPublished => {
                    (500, "", "Internal server error.")
                }
                Answer::BadGateway => (502, "", "<html>"),
                Answer::Unavailable => (503, "Retry-After: 1\r\n", "draining"),
                Answer::InProgress => {
                    (503, "Retry-After: 1\r\n", r#"{"error":"Idempotent publish is still in progress","code":"backpressure"}"#)
                }
                Answer::TooMany => (429, "Retry-After: 1\r\n", "slower"),
                Answer::RequestTimeout => (408, "", ""),
                Answer::Unauthorized | Answer::ClockSkew => (401, "", "who are you"),
                Answer::Forbidden => (403, "", "over quota"),
                Answer::UnknownApp => (404, "", "no such application"),
                Answer::Redirect => (301, "Location: http://127.0.0.1:1/\r\n", ""),
                Answer::Teapot => (418, "", "short and stout"),
                Answer::Rejected => (400, "", "this event is not acceptable"),
                _ => (200, "", "{}"),
            };
            format!(
                "HTTP/1.1 {status} X\r\nDate: {date}\r\nConnection: close\r\n{more}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
        }
    };
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

async fn read(stream: &mut TcpStream) -> std::io::Result<Option<Request>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(&buffer[..read]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let header = |name: &str| {
            head.lines().find_map(|line| {
                line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
            })
        };
        let length: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if bytes.len() < end + 4 + length {
            continue;
        }
        return Ok(Some(Request {
            path: head.split(' ').nth(1).unwrap_or_default().to_owned(),
            key: header("x-idempotency-key").unwrap_or_default(),
            body: String::from_utf8_lossy(&bytes[end + 4..end + 4 + length]).into_owned(),
        }));
    }
}

async fn receive(inner: &Inner, request: &Request) -> Answer {
    let answer = decide(inner, request).await;
    *inner.hits.lock().expect("no panic").entry(answer).or_default() += 1;
    if !matches!(answer, Answer::Ok | Answer::CloseDelimited | Answer::Cached) {
        inner.faults.note("answer");
    }
    answer
}

async fn decide(inner: &Inner, request: &Request) -> Answer {
    let clock = *inner.clock.lock().expect("no panic");
    let uri = request.path.parse().unwrap_or_default();
    if !is_signed(&axum::http::Method::POST, &uri, request.body.as_bytes(), clock) {
        // With a clock of its own that is to be expected, once or twice; otherwise never.
        if is_signed(&axum::http::Method::POST, &uri, request.body.as_bytes(), 0) || clock != 0 || inner.faults.lately("clock") {
            return Answer::ClockSkew;
        }
        inner.wrong.lock().expect("no panic").push(format!("a signature that is wrong: {}", request.path));
        return Answer::Unauthorized;
    }
    let document: Value = serde_json::from_str(&request.body).unwrap_or_default();
    let items = document["batch"].as_array().cloned().unwrap_or_else(|| vec![document.clone()]);
    let mood = *inner.mood.lock().expect("no panic");
    if let Mood::Slow(delay) = mood {
        tokio::time::sleep(delay).await;
    }
    if let Mood::Refusing(answer) = mood {
        return answer;
    }
    if mood == Mood::Down {
        return Answer::Unavailable;
    }
    let chosen = {
        let mut random = inner.random.lock().expect("no panic");
        match mood {
            Mood::Failing(percent) if random.random_ratio(percent, 100) => *Answer::TRANSIENT.choose(&mut *random).expect("some"),
            _ if random.random_ratio(1, 5) => Answer::CloseDelimited,
            _ => Answer::Ok,
        }
    };
    if let Some(claimed) = claim(inner, request) {
        let accepted = claimed == Answer::Cached;
        record(inner, &items, |_| (false, accepted));
        return claimed;
    }
    let poisonous =
        *inner.rejects.lock().expect("no panic") && items.iter().any(|item| data(item)["key"]["k"] == crate::shop::POISON);
    let answer = if poisonous { Answer::Rejected } else { chosen };
    let done = matches!(answer, Answer::Ok | Answer::CloseDelimited | Answer::Unheard | Answer::Late);
    let fails_whole = !done && !matches!(answer, Answer::PublishedThenError | Answer::PartlyPublished);
    let mut keys_of_items = Vec::new();
    {
        let mut keys = inner.keys.lock().expect("no panic");
        for item in &items {
            // A key of an item's own that was seen before, in whatever request: it is not published again.
            let fresh = item["idempotency_key"].as_str().is_none_or(|key| keys.items.insert(key.to_owned()));
            keys_of_items.push(fresh);
        }
        let claim = keys.claims.get_mut(&request.key);
        match (claim, answer) {
            (Some(claim), _) if done => claim.1 = true,
            // Only an error in the midst of it leaves the claim behind.
            (Some(_), Answer::InternalError | Answer::PublishedThenError | Answer::PartlyPublished) => {}
            _ => {
                keys.claims.remove(&request.key);
            }
        }
    }
    let accepted = matches!(answer, Answer::Ok | Answer::CloseDelimited);
    record(inner, &items, |index| {
        let published = !fails_whole && (answer != Answer::PartlyPublished || index == 0) && keys_of_items[index];
        (published, accepted)
    });
    answer
}

/// Looks a request's key up, and claims it.
fn claim(inner: &Inner, request: &Request) -> Option<Answer> {
    let mut keys = inner.keys.lock().expect("no panic");
    let before = keys.of_body.insert(request.body.clone(), request.key.clone());
    if before.is_some_and(|before| before != request.key) {
        inner.wrong.lock().expect("no panic").push("one body came with two idempotency keys".to_owned());
    }
    keys.claims.retain(|_, (since, _)| since.elapsed() < CLAIMED_FOR);
    match keys.claims.get(&request.key) {
        Some((_, true)) => Some(Answer::Cached),
        Some((_, false)) => Some(Answer::InProgress),
        None => {
            keys.claims.insert(request.key.clone(), (Instant::now(), false));
            None
        }
    }
}

fn data(item: &Value) -> Value {
    item["data"].as_str().and_then(|data| serde_json::from_str(data).ok()).unwrap_or_default()
}

fn record(inner: &Inner, items: &[Value], outcome: impl Fn(usize) -> (bool, bool)) {
    let mut arrivals = inner.arrivals.lock().expect("no panic");
    for (index, item) in items.iter().enumerate() {
        let data = data(item);
        let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        let (published, accepted) = outcome(index);
        arrivals.push(Arrival {
            at: Instant::now(),
            id: text("id"),
            key: data["key"]["k"].as_i64().and_then(|key| i32::try_from(key).ok()).unwrap_or(-1),
            seq: data["seq"].as_i64().unwrap_or(-1),
            count: data["count"].as_i64().unwrap_or(-1),
            severity: text("severity"),
            previous: text("previous"),
            unread: data["unread_count"].as_i64(),
            data: item["data"].as_str().unwrap_or_default().to_owned(),
            published,
            accepted,
        });
    }
}
