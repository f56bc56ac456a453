//! `items-listen [run]`

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::config::{Config, Location};
use crate::daemon::reload::Reloads;
use crate::daemon::{self, Process};
use crate::error::Error;
use crate::http::Bound;

/// Runs the daemon until SIGTERM or SIGINT; SIGHUP reloads the configuration from where it came.
pub(super) async fn run(location: &Location, config: Config) -> Result<u8, Error> {
    config.require_database()?;
    // Before anybody can see that it runs: a signal from then on is heeded.
    let process = Process::default();
    let reloads =
        heed_signals(location.settled(&config), &process).map_err(|error| Error::Failed(format!("signals: {error}")))?;
    let http = match &config.http {
        None => None,
        Some(http) => {
            let bound = Bound::bind(&http.listen).await?;
            tracing::info!(addr = bound.to_string(), "listening for HTTP");
            // Nobody can ask for metrics where there is no listener: then nothing is counted.
            Some((bound, crate::metrics::begin()?))
        }
    };
    tracing::info!(version = crate::version::VERSION, watches = config.watches.len(), config = config.file, "starting");
    Box::pin(daemon::run(config, http, process, reloads)).await.map(|()| 0)
}

fn heed_signals(location: Location, process: &Process) -> std::io::Result<Reloads> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (stop, asked) = (process.stop.clone(), Arc::new(Notify::new()));
    let reloads = Reloads::new(location, Arc::clone(&asked));
    tokio::spawn(async move {
        let name = loop {
            tokio::select! {
                _ = terminate.recv() => break "SIGTERM",
                _ = interrupt.recv() => break "SIGINT",
                // Several before the first is heeded are one.
                _ = hangup.recv() => asked.notify_one(),
            }
        };
        tracing::info!("{name}: finishing what is under way");
        daemon::systemd::stopping();
        stop.cancel();
    });
    Ok(reloads)
}
