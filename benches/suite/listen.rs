//! A session that LISTENs, as the simplest program beside a database does.

use futures_util::future::poll_fn;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::{AsyncMessage, Client, NoTls};

/// What is notified on one channel.
pub struct Listener {
    payloads: UnboundedReceiver<String>,
    _session: Client,
}

impl Listener {
    pub async fn new(url: &str, channel: &str) -> Listener {
        let (session, mut connection) = tokio_postgres::connect(url, NoTls).await.expect("a session");
        let (into, payloads) = unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message {
                    let _nobody_listens = into.send(notification.payload().to_owned());
                }
            }
        });
        session.batch_execute(&format!("LISTEN {channel}")).await.expect("LISTEN");
        Listener { payloads, _session: session }
    }

    /// The next payload; `None` once the session is lost.
    pub async fn next(&mut self) -> Option<String> {
        self.payloads.recv().await
    }
}
