//! Who may read: whoever knows the token, where there is one.
//!
//! A program sends it as `Authorization: Bearer …`. A browser asks its user for a name and a password, and sends both as
//! `Authorization: Basic …` with every request of the page, its stream included: the name is of no account, the password is
//! the token.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::Secret;
use crate::daemon::{Current, Daemon};
use crate::dispatch::lock;

/// Whoever probes needs no token, and is told nothing but yes or no.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];
/// Refusals are said together, no more often than this.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Put on a request of somebody who may know everything: where nobody is asked, or who had the token, which is kept here.
#[derive(Clone)]
pub(super) struct Trusted(Option<Secret>);

impl Trusted {
    /// Whether it would be let in now: a reload may have brought another token, or the first.
    pub(super) fn holds(&self, daemon: &Daemon) -> bool {
        wanted(daemon).is_none_or(|token| self.0.as_ref() == Some(token))
    }
}

/// The token, where one is wanted.
fn wanted(daemon: &Daemon) -> Option<&Secret> {
    daemon.config.http.as_ref().and_then(|http| http.token.as_ref())
}

/// Put on a request that needs to be for no particular name, since no page of another site can bring it about.
#[derive(Clone, Copy)]
pub(super) struct AnyName;

/// What the door needs to know.
pub(super) struct Door {
    current: Current,
    /// It is a Unix socket, which no browser reaches.
    is_unix: bool,
    refused: Mutex<Refused>,
}

#[derive(Default)]
struct Refused {
    requests: u64,
    said: Option<Instant>,
}

impl Door {
    /// Nobody has been refused yet.
    pub(super) fn new(current: Current, is_unix: bool) -> Door {
        Door { current, is_unix, refused: Mutex::default() }
    }

    fn refuse(&self) -> Response {
        let mut refused = lock(&self.refused);
        refused.requests += 1;
        if refused.said.is_none_or(|at| at.elapsed() >= SAID_EVERY) {
            tracing::warn!(requests = refused.requests, "[http] refused: without the token, or with a wrong one");
            *refused = Refused { requests: 0, said: Some(Instant::now()) };
        }
        drop(refused);
        let why = "The token of [http] is wanted: as Authorization: Bearer, or as the password of any user.\n";
        let mut response = (StatusCode::UNAUTHORIZED, [(header::CACHE_CONTROL, "no-store")], why).into_response();
        for way in ["Basic realm=\"items-listen\", charset=\"UTF-8\"", "Bearer realm=\"items-listen\""] {
            response.headers_mut().append(header::WWW_AUTHENTICATE, HeaderValue::from_static(way));
        }
        response
    }
}

/// Lets in whoever has the token, and whoever needs none.
pub(super) async fn guard(State(door): State<std::sync::Arc<Door>>, mut request: Request, next: Next) -> Response {
    let daemon = door.current.daemon();
    match wanted(&daemon) {
        Some(token) if knows(request.headers(), token) => {
            request.extensions_mut().insert(AnyName);
            request.extensions_mut().insert(Trusted(Some(token.clone())));
        }
        Some(_) if !OPEN.contains(&request.uri().path()) => return door.refuse(),
        Some(_) => {}
        None => {
            request.extensions_mut().insert(Trusted(None));
        }
    }
    if door.is_unix {
        request.extensions_mut().insert(AnyName);
    }
    next.run(request).await
}

fn knows(headers: &HeaderMap, token: &Secret) -> bool {
    headers.get_all(header::AUTHORIZATION).iter().any(|value| said(value).is_some_and(|said| token.is(&said)))
}

/// What is given as the token.
fn said(value: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, said) = value.to_str().ok()?.split_once(' ')?;
    let said = said.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(said.as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = STANDARD.decode(said).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_read_as_programs_and_browsers_send_it() {
        let token = Secret::new("to:ken");
        let knows = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
            super::knows(&headers, &token)
        };
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for right in ["Bearer to:ken", "bearer  to:ken ", &basic("any:to:ken"), &basic(":to:ken")] {
            assert!(knows(right), "{right}");
        }
        for wrong in [
            "Bearer",
            "Bearer ",
            "Bearer to:ke",
            "Bearer to:ken2",
            "to:ken",
            "Digest to:ken",
            "Basic to:ken",
            &basic("to:ken"),
            &basic("any"),
        ] {
            assert!(!knows(wrong), "{wrong}");
        }
        assert!(!super::knows(&HeaderMap::new(), &token));
    }
}
