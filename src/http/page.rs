//! The status page: three files that are part of the program, and the stream of documents that they show.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
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
    let why = "A browser is answered under an address, localhost and this machine's own name only, so that no other site can read \
               this through a name of its own. Open it by its address, or let the proxy send one of these as Host.\n";
    (StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

/// What a browser says of itself whenever a page asks: probes and scrapers do not.
const OF_BROWSERS: [&str; 3] = ["sec-fetch-site", "sec-fetch-mode", "origin"];

/// For what is read by programs: they may call us whatever they like, but pages of other sites may not.
pub(super) async fn guard_from_sites(request: Request, next: Next) -> Response {
    let browser = OF_BROWSERS.iter().any(|name| request.headers().contains_key(*name));
    if browser && !is_for_us(&request) { refusal() } else { next.run(request).await }
}

/// Answers only to a name that is ours, and puts the headers on every answer.
async fn guard(request: Request, next: Next) -> Response {
    let mut response = if is_for_us(&request) { next.run(request).await } else { refusal() };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
