//! A receiver for signed events: a real HTTP server that checks every signature for itself (with the crates, not
//! with the code under test), keeps what came, and answers as it is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::IntoResponse;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::Digest as _;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub const APP_ID: &str = "app-1";
pub const KEY: &str = "key-1";
pub const SECRET: &str = "secret-1";

/// An event, as it came.
#[derive(Clone, Debug)]
pub struct Event {
    pub name: String,
    pub channels: Vec<String>,
    pub data: Value,
    pub at: Instant,
    /// Which request brought it, from 0.
    pub request: usize,
    /// What the receiver answered.
    pub status: u16,
}

impl Event {
    pub fn text(&self, field: &str) -> String {
        self.data[field].as_str().unwrap_or_default().to_owned()
    }

    pub fn number(&self, field: &str) -> i64 {
        self.data[field].as_i64().unwrap_or(i64::MIN)
    }
}

/// A request, as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub idempotency_key: String,
    pub body: String,
    pub events: usize,
}

/// How to answer a request: its bodies' events are given.
type Answer = dyn Fn(&[Event]) -> (u16, String) + Send + Sync;

struct Inner {
    events: Mutex<Vec<Event>>,
    requests: Mutex<Vec<Request>>,
    answer: Mutex<Arc<Answer>>,
    delay: Mutex<Duration>,
    came: Notify,
    refused_signatures: Mutex<u32>,
}

/// The receiver.
#[derive(Clone)]
pub struct Receiver {
    inner: Arc<Inner>,
    pub port: u16,
    stop: CancellationToken,
}

impl Receiver {
    /// Starts one that answers 200.
    pub async fn start() -> Receiver {
        Receiver::start_on(0).await
    }

    /// Starts one on a port.
    pub async fn start_on(port: u16) -> Receiver {
        let inner = Arc::new(Inner {
            events: Mutex::default(),
            requests: Mutex::default(),
            answer: Mutex::new(Arc::new(|_| (200, "{}".into()))),
            delay: Mutex::default(),
            came: Notify::new(),
            refused_signatures: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        let port = listener.local_addr().expect("an address").port();
        let stop = CancellationToken::new();
        let app = Router::new().fallback(receive).with_state(Arc::clone(&inner));
        let stopped = stop.clone();
        tokio::spawn(async move {
            let server = axum::serve(listener, app).with_graceful_shutdown(async move { stopped.cancelled().await });
            let _ended = server.await;
        });
        Receiver { inner, port, stop }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Stops listening.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Answers every request like this from now on.
    pub fn answer(&self, answer: impl Fn(&[Event]) -> (u16, String) + Send + Sync + 'static) {
        *self.inner.answer.lock().expect("no panic") = Arc::new(answer);
    }

    /// Answers with this status from now on.
    pub fn status(&self, status: u16) {
        self.answer(move |_| (status, "{}".into()));
    }

    /// Waits so long before every answer.
    pub fn delay(&self, delay: Duration) {
        *self.inner.delay.lock().expect("no panic") = delay;
    }

    /// Everything that came, whatever was answered.
    pub fn all(&self) -> Vec<Event> {
        self.inner.events.lock().expect("no panic").clone()
    }

    /// What was accepted.
    pub fn accepted(&self) -> Vec<Event> {
        self.all().into_iter().filter(|event| (200..300).contains(&event.status)).collect()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.inner.requests.lock().expect("no panic").clone()
    }

    pub fn refused_signatures(&self) -> u32 {
        *self.inner.refused_signatures.lock().expect("no panic")
    }

    pub fn forget(&self) {
        self.inner.events.lock().expect("no panic").clear();
        self.inner.requests.lock().expect("no panic").clear();
    }

    /// Waits until the accepted events satisfy the condition, for as long as more of them come.
    pub async fn wait(&self, what: &str, condition: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        self.wait_from(0, what, condition).await
    }

    /// Waits for so many accepted events.
    pub async fn wait_for(&self, count: usize) -> Vec<Event> {
        self.wait_from(count, &format!("{count} events"), |events| events.len() >= count).await
    }

    /// The condition is asked from so many events on: thousands are not copied for each that comes.
    pub async fn wait_from(&self, count: usize, what: &str, condition: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        loop {
            let came = self.inner.came.notified();
            if self.inner.events.lock().expect("no panic").len() >= count {
                let accepted = self.accepted();
                if condition(&accepted) {
                    return accepted;
                }
            }
            if tokio::time::timeout(super::PATIENCE, came).await.is_err() {
                let accepted = self.accepted();
                if condition(&accepted) {
                    return accepted;
                }
                panic!("{what}: nothing came for {:?}; seen were {:#?}", super::PATIENCE, self.seen());
            }
        }
    }

    /// What came, in words.
    fn seen(&self) -> Vec<String> {
        let said = |event: &Event| {
            let [watch, transition] = ["watch", "transition"].map(|field| event.text(field));
            format!("{watch} {} {transition} {} → {}", event.data["key"], event.data["count"], event.status)
        };
        self.all().iter().map(said).collect()
    }

    /// Waits, for as long as it takes, until more than so many were accepted.
    pub async fn wait_for_more(&self, known: usize) -> Vec<Event> {
        loop {
            let came = self.inner.came.notified();
            let accepted = self.accepted();
            if accepted.len() > known {
                return accepted;
            }
            came.await;
        }
    }

    /// `[endpoints.NAME]` for this receiver.
    pub fn endpoint(&self, name: &str) -> String {
        format!("[endpoints.{name}]\nurl = \"{}\"\napp_id = \"{APP_ID}\"\nkey = \"{KEY}\"\nsecret = \"{SECRET}\"\n", self.url())
    }
}

async fn receive(
    State(inner): State<Arc<Inner>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    if !is_signed(&method, &uri, &body, 0) {
        *inner.refused_signatures.lock().expect("no panic") += 1;
        return (StatusCode::UNAUTHORIZED, "bad signature".to_owned());
    }
    if method == Method::GET {
        return (StatusCode::OK, r#"{"channels":{},"occupied":false}"#.to_owned());
    }
    let document: Value = serde_json::from_slice(&body).unwrap_or_default();
    let request = inner.requests.lock().expect("no panic").len();
    let mut events = Vec::new();
    let batch = document["batch"].as_array().cloned();
    for item in batch.unwrap_or_else(|| vec![document.clone()]) {
        let channels = match (&item["channels"], &item["channel"]) {
            (Value::Array(channels), _) => channels.iter().filter_map(|channel| channel.as_str().map(str::to_owned)).collect(),
            (_, Value::String(channel)) => vec![channel.clone()],
            _ => Vec::new(),
        };
        let data = item["data"].as_str().and_then(|data| serde_json::from_str(data).ok()).unwrap_or_default();
        let name = item["name"].as_str().unwrap_or_default().to_owned();
        events.push(Event { name, channels, data, at: Instant::now(), request, status: 0 });
    }
    inner.requests.lock().expect("no panic").push(Request {
        path: uri.path().to_owned(),
        idempotency_key: headers.get("x-idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default().to_owned(),
        body: String::from_utf8_lossy(&body).into_owned(),
        events: events.len(),
    });
    // A slow endpoint is what is being tested then.
    let delay = *inner.delay.lock().expect("no panic");
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let answer = Arc::clone(&inner.answer.lock().expect("no panic"));
    let (status, text) = answer(&events);
    for event in &mut events {
        event.status = status;
    }
    inner.events.lock().expect("no panic").extend(events);
    inner.came.notify_waiters();
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), text)
}

/// Checks the signature as the published protocol has it, by a clock that is so many seconds ahead.
pub fn is_signed(method: &Method, uri: &Uri, body: &[u8], ahead: i64) -> bool {
    let query = uri.query().unwrap_or_default();
    let mut parameters: HashMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let Some(signature) = parameters.remove("auth_signature") else { return false };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if !body.is_empty() && parameters.get("body_md5") != Some(&hex(&md5::Md5::digest(body)).as_str()) {
        return false;
    }
    let fresh = parameters
        .get("auth_timestamp")
        .and_then(|text| text.parse::<i64>().ok())
        .is_some_and(|at| (at - ahead - jiff::Timestamp::now().as_second()).abs() < 600);
    let mut pairs: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.sort();
    let text = format!("{method}\n{}\n{}", uri.path(), pairs.join("&"));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).expect("any key");
    mac.update(text.as_bytes());
    fresh
        && parameters.get("auth_key") == Some(&KEY)
        && uri.path().starts_with(&format!("/apps/{APP_ID}/"))
        && hex(&mac.finalize().into_bytes()) == signature
}
