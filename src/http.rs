//! Our own HTTP listener: `/healthz`, `/readyz`, `/metrics`, `/api/status`, and the status page. It changes nothing.

mod document;
mod host;
mod keys;
mod live;
mod page;

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::daemon::Current;
use crate::error::Error;
use crate::metrics::Exporter;

/// Whose turn it is to ask the database how everything stands.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// Serves until the process is to end. The task ends when the answers that are under way then have been given.
pub fn serve(listener: TcpListener, current: Current, exporter: Exporter, stop: CancellationToken) -> JoinHandle<()> {
    let metrics = Router::new().route("/metrics", get(metrics)).with_state((current.clone(), exporter));
    let page = page::routes(live::Live::new(current.clone(), stop.clone()));
    let app = Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .with_state(current.clone())
        .merge(Router::new().route("/api/status", get(status)).with_state((current, Turn::default())))
        .merge(metrics)
        .layer(middleware::from_fn(page::guard_from_sites))
        .merge(page);
    tokio::spawn(async move {
        let served = axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await }).await;
        if let Err(error) = served {
            tracing::error!(%error, "http");
        }
    })
}

async fn ready(State(current): State<Current>) -> impl IntoResponse {
    let daemon = current.daemon();
    if daemon.health.is_ready() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", daemon.health.reason()))
    }
}

async fn status(State((current, turn)): State<(Current, Turn)>) -> impl IntoResponse {
    let daemon = current.daemon();
    // To its end, though whoever asked may go: a session that is given back in the middle of an answer would keep the next
    // user of it, who delivers, waiting.
    let asked = tokio::spawn(async move {
        let _one_at_a_time = turn.lock().await;
        daemon.pool.run(async |client| crate::status::read(client, &daemon.schema).await).await
    });
    let asked = asked.await.unwrap_or_else(|error| Err(Error::Failed(error.to_string())));
    match asked {
        Ok(status) => (StatusCode::OK, Json(serde_json::to_value(status).unwrap_or_default())),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, Json(serde_json::json!({ "error": error.to_string() }))),
    }
}

/// The content type of Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

async fn metrics(State((current, exporter)): State<(Current, Exporter)>) -> impl IntoResponse {
    ([(CONTENT_TYPE, METRICS_TYPE)], exporter.render(&current.daemon()).await)
}
