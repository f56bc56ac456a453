//! The status page: three files that are part of the program, and the stream of documents that they show.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::host;
use super::live::{self, Live};

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

/// Answers only to a name that is ours (see [`host`]), and puts the headers on every answer.
async fn guard(request: Request, next: Next) -> Response {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let named =
        request.headers().get(header::HOST).map(|host| host.to_str().is_ok_and(|host| host::is_ours(host, machine.trim())));
    let mut response = match named {
        Some(false) => (
            StatusCode::MISDIRECTED_REQUEST,
            "The status page answers to an address, to localhost and to this machine's own name only, so that no other site can read \
             it through a name of its own. Open it by its address, or let the proxy send one of these as Host.\n",
        )
            .into_response(),
        // No browser leaves it out.
        Some(true) | None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
