//! `items-listen [run]`

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::daemon;
use crate::error::Error;

/// Runs the daemon until SIGTERM or SIGINT.
pub(super) async fn run(config: Config) -> Result<u8, Error> {
    config.require_database()?;
    let http = match config.http {
        None => None,
        Some(address) => {
            let cannot = |error| Error::Failed(format!("http.listen: {address} cannot be bound: {error}"));
            let listener = TcpListener::bind(address).await.map_err(cannot)?;
            let bound = listener.local_addr().map_err(cannot)?;
            tracing::info!(addr = bound.to_string(), "listening for HTTP");
            Some(listener)
        }
    };
    let stop = CancellationToken::new();
    let cannot = |error| Error::Failed(format!("signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!("{name}: finishing what is under way");
        daemon::systemd::stopping();
        stopping.cancel();
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), watches = config.watches.len(), config = config.file, "starting");
    Box::pin(daemon::run(config, http, stop)).await.map(|()| 0)
}
