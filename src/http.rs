//! Our own HTTP listener: `/healthz`, `/readyz`, `/metrics`, `/api/status`, and the status page. It changes nothing.
//!
//! What a request passes, from outside in: the limits of a connection (`connection`), the method and the length of what it
//! asks for, the token (`token`), the name that it is for (`host`); and on its way out what is not told (`hide`).

mod bind;
mod connection;
mod document;
mod hide;
mod host;
mod keys;
mod live;
mod page;
mod places;
mod token;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use bind::{Bound, SocketFile};

use crate::config::Hide;
use crate::daemon::{Current, Daemon};
use crate::error::Error;
use crate::metrics::Exporter;

/// What is asked for may be so long, in bytes.
const TARGET_BYTES_MAX: usize = 2_048;
/// So many may wait to be told by the database how everything stands.
const WAITING_MAX: usize = 16;
/// … and so long.
const STATUS_MAX: Duration = Duration::from_secs(20);

/// Whose turn it is to ask the database how everything stands, and who may wait for it.
#[derive(Clone)]
struct Turn {
    one: Arc<Mutex<()>>,
    seats: Arc<Semaphore>,
}

/// Serves until the process is to end. The task ends when the answers that are under way then have been given.
pub fn serve(listener: Bound, current: Current, exporter: Exporter, stop: CancellationToken) -> JoinHandle<()> {
    let door = Arc::new(token::Door::new(current.clone(), listener.is_unix()));
    let turn = Turn { one: Arc::default(), seats: Arc::new(Semaphore::new(WAITING_MAX)) };
    let metrics = Router::new().route("/metrics", get(metrics)).with_state((current.clone(), exporter));
    let page = page::routes(live::Live::new(current.clone(), stop.clone()));
    let status = Router::new().route("/api/status", get(status)).with_state((current.clone(), turn));
    let app = Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .with_state(current)
        .merge(metrics)
        .layer(middleware::from_fn(page::guard_from_browsers))
        .merge(status.layer(middleware::from_fn(page::guard)))
        .merge(page)
        .layer(middleware::from_fn_with_state(door, token::guard))
        .layer(middleware::from_fn(only_reading));
    tokio::spawn(connection::take(listener, app, stop))
}

/// Nothing can be changed here, and no name is long.
async fn only_reading(request: Request, next: Next) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")], "nothing can be changed here\n").into_response();
    }
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > TARGET_BYTES_MAX {
        return (StatusCode::URI_TOO_LONG, "nothing here has so long a name\n").into_response();
    }
    next.run(request).await
}

/// What this daemon does not tell.
fn hidden(daemon: &Daemon) -> Hide {
    daemon.config.http.as_ref().map_or_else(Hide::default, |http| http.hide)
}

async fn ready(State(current): State<Current>, trusted: Option<Extension<token::Trusted>>) -> impl IntoResponse {
    let daemon = current.daemon();
    if daemon.health.is_ready() {
        (StatusCode::OK, "ready\n".to_owned())
    } else if trusted.is_none() {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned())
    } else {
        let reason = hide::text(hidden(&daemon), &daemon.health.reason());
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n"))
    }
}

async fn status(State((current, turn)): State<(Current, Turn)>) -> Response {
    let Ok(seat) = turn.seats.try_acquire_owned() else {
        let full = Json(serde_json::json!({ "error": format!("{WAITING_MAX} others wait for the same answer already") }));
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], full).into_response();
    };
    let daemon = current.daemon();
    let hide = hidden(&daemon);
    // To its end, though whoever asked may go: a session that is given back in the middle of an answer would keep the next
    // user of it, who delivers, waiting.
    let asked = tokio::spawn(async move {
        let (_seat, _one_at_a_time) = (seat, turn.one.lock().await);
        daemon.pool.run(async |client| crate::status::read(client, &daemon.schema).await).await
    });
    let asked = match tokio::time::timeout(STATUS_MAX, asked).await {
        Ok(asked) => asked.unwrap_or_else(|error| Err(Error::Failed(error.to_string()))),
        Err(_) => Err(Error::Unavailable(format!("the database has not answered for {} s", STATUS_MAX.as_secs()))),
    };
    match asked {
        Ok(status) => {
            let mut status = serde_json::to_value(status).unwrap_or_default();
            hide::status(hide, &mut status);
            Json(status).into_response()
        }
        Err(error) => {
            let error = hide::text(hide, &error.to_string());
            (StatusCode::SERVICE_UNAVAILABLE, Json(serde_json::json!({ "error": error }))).into_response()
        }
    }
}

/// The content type of Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

async fn metrics(State((current, exporter)): State<(Current, Exporter)>) -> impl IntoResponse {
    let daemon = current.daemon();
    ([(CONTENT_TYPE, METRICS_TYPE)], exporter.render(&daemon, hidden(&daemon)).await)
}
