//! What tests, demo and benchmarks share: a real PostgreSQL, a receiver that checks signatures for itself, and
//! the real binary as a process.

pub mod certificates;
pub mod daemon;
pub mod http_proxy;
pub mod middle;
pub mod pgbouncer;
pub mod postgres;
pub mod proxy;
pub mod receiver;
pub mod systemd;

use std::time::Duration;

/// How long anything may take before a test fails: generous, since machines are shared; no test passes by it.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// Waits until `condition` gives something, looking again and again; fails with `what` when patience is over.
pub async fn eventually<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_or(|| what.to_owned(), condition).await
}

/// The same, where what to say is only known when patience is over.
pub async fn eventually_or<T>(what: impl Fn() -> String, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut look = tokio::time::interval(Duration::from_millis(10));
    loop {
        look.tick().await;
        if let Some(value) = condition().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}: not within {PATIENCE:?}", what());
    }
}
