//! The session that listens: a connection of our own, driven by us, since a pooled or merely spawned one
//! throws its notifications away.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::db::connect::Driver;
use crate::db::session::{self, Connector, Purpose};
use crate::error::Error;

/// A notification, as it came.
#[derive(Clone, Debug)]
pub struct Notification {
    /// On which channel.
    pub channel: String,
    /// What it said; for the doorbell, nothing.
    pub payload: String,
}

/// The session: its client, what it hears, and whether it is still there.
#[derive(Debug)]
pub struct Listening {
    /// For queries on this session.
    pub client: Arc<Client>,
    /// What it hears. Unbounded: a socket that is not drained would hold the server back.
    pub heard: mpsc::UnboundedReceiver<Notification>,
    /// Cancelled when the connection ends.
    pub lost: CancellationToken,
    _driver: DropGuard,
}

/// Opens a listening session. The server puts it out when it is silent for three beats: an armed daemon
/// that was stopped or cut off must not tax every writer without limit.
///
/// # Errors
/// The database cannot be reached, or refuses.
pub async fn open(connector: &Connector, beat: Duration) -> Result<Listening, Error> {
    let (client, driver) = connector.open(Purpose::Listen { beat }).await?;
    let (sender, heard) = mpsc::unbounded_channel();
    let lost = CancellationToken::new();
    let stop = CancellationToken::new();
    tokio::spawn(drive(driver, sender, lost.clone(), stop.clone()));
    let guard = stop.drop_guard();
    session::set(&client, &connector.settings(Purpose::Listen { beat })).await?;
    Ok(Listening { client: Arc::new(client), heard, lost, _driver: guard })
}

async fn drive(mut driver: Driver, heard: mpsc::UnboundedSender<Notification>, lost: CancellationToken, stop: CancellationToken) {
    let _lost = lost.drop_guard();
    loop {
        let message = tokio::select! {
            message = std::future::poll_fn(|context| driver.poll_message(context)) => message,
            () = stop.cancelled() => return,
        };
        match message {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                let (channel, payload) = (notification.channel().to_owned(), notification.payload().to_owned());
                if heard.send(Notification { channel, payload }).is_err() {
                    return;
                }
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "the listening connection broke");
                return;
            }
            None => return,
        }
    }
}
