//! One signed request to a Pusher-compatible HTTP API, and what came back.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use super::classify::{Answer, SKEW_SECONDS_MAX, date, effective_status, retry_after};
use super::{route, sign, tls};
use crate::config::Pusher;
use crate::dispatch::lock;
use crate::error::Error;
use crate::pem::About;

/// Nothing that an endpoint answers is worth reading further; an endless body must not be.
const ANSWER_BYTES_MAX: usize = 4_096;
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(5);
const LIBRARY: &str = concat!("items-listen ", env!("CARGO_PKG_VERSION"));

/// A client for one application on one server.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    pusher: Arc<Pusher>,
    base: String,
    signed_prefix: String,
    /// By how many seconds the endpoint's clock was ahead of ours at its last answer.
    skew: Arc<AtomicI64>,
    /// By how many seconds ours is corrected, since the endpoint refused a signature by it.
    correction: Arc<AtomicI64>,
    /// The endpoint's certificate at its last answer, where anybody wants to know.
    shown: Option<Shown>,
}

type Shown = Arc<Mutex<Option<About>>>;

impl Client {
    /// Makes a client whose requests, from connecting to the end of the answer, take no longer than `timeout`.
    ///
    /// # Errors
    /// TLS that cannot be set up.
    pub fn new(pusher: &Pusher, timeout: Duration) -> Result<Client, Error> {
        Client::build(pusher, timeout, None)
    }

    /// One that also looks at the endpoint's certificate.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn observing(pusher: &Pusher, timeout: Duration) -> Result<Client, Error> {
        Client::build(pusher, timeout, Some(Arc::default()))
    }

    fn build(pusher: &Pusher, timeout: Duration, shown: Option<Shown>) -> Result<Client, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Failed(format!("HTTP client: {error}"));
        let mut http = reqwest::Client::builder();
        if route::is_loopback(&pusher.url) {
            // A proxy would look for it on its own machine.
            http = http.no_proxy();
        }
        let http = http
            .tls_info(shown.is_some())
            .tls_backend_preconfigured(tls::config(pusher).map_err(|error| failed(&error))?)
            // A signed request is for the host that it was signed for.
            .redirect(reqwest::redirect::Policy::none())
            .timeout(timeout)
            .connect_timeout(timeout.min(CONNECT_TIMEOUT_MAX))
            .user_agent(concat!("items-listen/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| failed(&error))?;
        let prefix = pusher.url.path().trim_end_matches('/').to_owned();
        let mut origin = pusher.url.clone();
        origin.set_path("");
        Ok(Client {
            http,
            base: format!("{}{prefix}", origin.as_str().trim_end_matches('/')),
            signed_prefix: if pusher.sign_path { prefix } else { String::new() },
            pusher: Arc::new(pusher.clone()),
            skew: Arc::default(),
            correction: Arc::default(),
            shown,
        })
    }

    /// Publishes: `POST /apps/{app_id}/{resource}`, signed for this moment. `carries` tells this body's events from
    /// others with the same bytes.
    pub async fn post(&self, resource: &str, body: String, carries: &[u8]) -> Answer {
        let path = format!("/apps/{}/{resource}", self.pusher.app_id);
        let key = sign::idempotency_key(body.as_bytes(), carries);
        let signed_at = self.now();
        let url = self.url("POST", &path, &[], body.as_bytes(), signed_at);
        let request = self
            .http
            .post(url)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header("X-Pusher-Library", LIBRARY)
            .header("X-Idempotency-Key", key)
            .body(body);
        self.learn(self.answer(request, signed_at).await, signed_at)
    }

    /// Asks: `GET /apps/{app_id}/{resource}`.
    pub async fn get(&self, resource: &str, query: &[(&str, &str)]) -> Answer {
        let path = format!("/apps/{}/{resource}", self.pusher.app_id);
        let signed_at = self.now();
        let url = self.url("GET", &path, query, b"", signed_at);
        let request = self.http.get(url).header("X-Pusher-Library", LIBRARY);
        self.learn(self.answer(request, signed_at).await, signed_at)
    }

    /// The endpoint's certificate, where it answered with TLS and this client looks at it.
    pub fn certificate(&self) -> Option<About> {
        lock(self.shown.as_ref()?).clone()
    }

    async fn answer(&self, request: reqwest::RequestBuilder, signed_at: i64) -> Answer {
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return failure(error),
        };
        if let Some(shown) = &self.shown {
            let info = response.extensions().get::<reqwest::tls::TlsInfo>();
            *lock(shown) = info.and_then(|info| About::of(info.peer_certificate()?));
        }
        read(response, signed_at).await
    }

    /// By how many seconds the endpoint's clock is ahead of this host's, as far as its answers tell.
    pub fn skew(&self) -> i64 {
        self.skew.load(Ordering::Relaxed)
    }

    /// … if that is more than endpoints allow.
    pub fn intolerable_skew(&self) -> Option<i64> {
        Some(self.skew()).filter(|skew| skew.unsigned_abs() > SKEW_SECONDS_MAX)
    }

    /// The time to sign for: by the endpoint's clock, if it has refused ours.
    fn now(&self) -> i64 {
        Timestamp::now().as_second().saturating_add(self.correction.load(Ordering::Relaxed))
    }

    /// A Date may be a proxy's, which knows nothing of the application's clock. So it is believed only once a signature
    /// was refused that was far from it, and no longer when one close to it is refused as well.
    fn learn(&self, answer: Answer, signed_at: i64) -> Answer {
        if let Answer::Http { skew: Some(off), status, ref body, .. } = answer {
            let skew = signed_at.saturating_add(off).saturating_sub(Timestamp::now().as_second());
            self.skew.store(skew, Ordering::Relaxed);
            if effective_status(status, body) == 401 {
                let correction = if off.unsigned_abs() > SKEW_SECONDS_MAX { skew } else { 0 };
                self.correction.store(correction, Ordering::Relaxed);
            }
        }
        answer
    }

    fn url(&self, method: &str, path: &str, query: &[(&str, &str)], body: &[u8], now: i64) -> String {
        let signed = format!("{}{path}", self.signed_prefix);
        let query = sign::signed_query(method, &signed, &self.pusher.key, self.pusher.secret.expose(), query, body, now);
        format!("{}{path}?{query}", self.base)
    }
}

async fn read(mut response: reqwest::Response, signed_at: i64) -> Answer {
    let status = response.status().as_u16();
    let answered_at = header(response.headers(), &DATE).and_then(date);
    // A date is one by the endpoint's clock, whatever ours says.
    let now = answered_at.unwrap_or_else(|| Timestamp::now().as_second());
    let retry_after = header(response.headers(), &RETRY_AFTER).and_then(|value| retry_after(value, now));
    let skew = answered_at.map(|date| date.saturating_sub(signed_at));
    let mut body = Vec::new();
    while body.len() < ANSWER_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES_MAX - body.len())]),
            Ok(None) => break,
            // The status stands even where the body breaks off, unless the body might have overruled it.
            Err(error) if (200..300).contains(&status) => return failure(error),
            Err(_) => break,
        }
    }
    Answer::Http { status, body: String::from_utf8_lossy(&body).into_owned(), retry_after, skew }
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn failure(error: reqwest::Error) -> Answer {
    if error.is_timeout() {
        return Answer::TimedOut;
    }
    // Its URL holds the signature.
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Answer::NoConnection(text)
}
