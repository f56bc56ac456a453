//! Our own HTTP listener: `/healthz`, `/readyz` and `/api/status`. It changes nothing.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use crate::daemon::Daemon;

/// Serves until the daemon ends.
pub fn serve(listener: TcpListener, daemon: &Daemon) {
    let stop = daemon.stop.clone();
    let app = Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/api/status", get(status))
        .with_state(daemon.clone());
    tokio::spawn(async move {
        let served = axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await }).await;
        if let Err(error) = served {
            tracing::error!(%error, "http");
        }
    });
}

async fn ready(State(daemon): State<Daemon>) -> impl IntoResponse {
    if daemon.health.is_ready() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", daemon.health.reason()))
    }
}

async fn status(State(daemon): State<Daemon>) -> impl IntoResponse {
    match daemon.pool.run(async |client| crate::status::read(client, &daemon.schema).await).await {
        Ok(status) => (StatusCode::OK, Json(serde_json::to_value(status).unwrap_or_default())),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, Json(serde_json::json!({ "error": error.to_string() }))),
    }
}
