//! The status page: three files that are part of the program, and the stream of documents that they show.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::live::{self, Live};
use super::{host, token};

/// Nothing inline, nothing from elsewhere, no frame around it, no form.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The page, its files, and what it listens to.
pub(super) fn routes(live: Live) -> Router {
    Router::new()
        .route("/", get(|| file("text/html; charset=utf-8", include_str!("page/index.html"))))
        .route("/page.css", get(|| file("text/css; charset=utf-8", include_str!("page/style.css"))))
        .route("/page.js", get(|| file("text/javascript; charset=utf-8", include_str!("page/app.js"))))
        .route("/api/live", get(live::listen))
        .layer(middleware::from_fn(guard))
        .with_state(live)
}

async fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], text)
}

/// Whether the request is for a name that is ours (see [`host`]). No browser leaves it out. Where no other site can bring the
/// request about, since it had the token or came through a Unix socket, any name will do: that of a proxy.
fn is_for_us(request: &Request) -> bool {
    if request.extensions().get::<token::AnyName>().is_some() {
        return true;
    }
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = request.headers().get(header::HOST);
    host.is_none_or(|host| host.to_str().is_ok_and(|host| host::is_ours(host, machine.trim())))
}

fn refusal() -> Response {
    let why = "This is answered under an address, localhost and this machine's own name only, so that no other site can have a \
               browser read it through a name of its own. Open it by its address, let the proxy send one of these as Host, or \
               give the token of [http].\n";
    (StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

/// What a browser says of itself, and probes and scrapers do not. Over plain HTTP under a foreign name it leaves out
/// `Sec-Fetch-…`, and for a page that asks its own site `Origin`. A script may leave out `Referer`; it may set
/// `Accept-Language` to what it likes, but cannot keep it from being sent.
const OF_BROWSERS: [&str; 5] = ["accept-language", "referer", "origin", "sec-fetch-site", "sec-fetch-mode"];
/// … and every browser's name has this in it.
const IN_BROWSERS_NAME: &[u8] = b"Mozilla/";

fn is_of_a_browser(headers: &HeaderMap) -> bool {
    let has_its_name =
        |agent: &HeaderValue| agent.as_bytes().windows(IN_BROWSERS_NAME.len()).any(|part| part == IN_BROWSERS_NAME);
    OF_BROWSERS.iter().any(|name| headers.contains_key(*name)) || headers.get_all(header::USER_AGENT).iter().any(has_its_name)
}

/// For what probes and scrapers read: they may call us whatever they like, but a browser may not.
pub(super) async fn guard_from_browsers(request: Request, next: Next) -> Response {
    if is_of_a_browser(request.headers()) && !is_for_us(&request) { refusal() } else { next.run(request).await }
}

/// Answers only to a name that is ours, and puts the headers on every answer.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let mut response = if is_for_us(&request) { next.run(request).await } else { refusal() };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
