//! Sessions whose statements take as long as they like: an index that a migration makes, a table that is counted anew.
//!
//! Such a session may be silent for hours and be well, so that nothing follows from its silence ([`Purpose::patience`]). But a
//! second one can ask the server whether it is still there: PostgreSQL puts a session out that has nothing to do for longer than
//! its `idle_session_timeout` or `idle_in_transaction_session_timeout`. So one whose question, or answer, was lost on the way,
//! over a connection that TCP thinks well of, is gone on the server within some tens of seconds.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use super::session::{Connector, Purpose};
use crate::error::Error;

/// If for so long nobody could be asked, the network or the server is gone, and the session with it.
const UNCONFIRMED_MAX: Duration = Duration::from_secs(60);
/// After the session that asks was lost, or could not be opened.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it asks, if it has nothing else to do.
const BEAT: Duration = Duration::from_secs(1);

/// A session, as the server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The number of its process.
    pub pid: i32,
    /// When that was started: numbers of processes come again.
    started: String,
}

impl Backend {
    /// Of this client. A moment's work, and taken for lost if it takes longer.
    ///
    /// # Errors
    /// The session is lost.
    pub async fn of(client: &Client) -> Result<Backend, Error> {
        let own = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        let row = soon(async { Ok(client.query_one(own, &[]).await?) }).await?;
        Ok(Backend { pid: row.get(0), started: row.get(1) })
    }

    async fn is_there(&self, client: &Client) -> Result<bool, Error> {
        let there = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2)";
        Ok(client.query_one(there, &[&self.pid, &self.started]).await?.get(0))
    }
}

/// What is a moment's work on a session without patience is given some.
///
/// # Errors
/// Its own, or that there was no answer.
pub async fn soon<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let silent = |_| Error::Unavailable(format!("the database has been silent for {UNCONFIRMED_MAX:?}"));
    tokio::time::timeout(UNCONFIRMED_MAX, work).await.map_err(silent)?
}

/// Work on a session that may be silent, until it is done or the server has no such session any more.
///
/// # Errors
/// The work's own, or that the session is lost.
pub async fn with<T>(connector: &Connector, backend: &Backend, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let looking = async {
        let mut lookout = Lookout::new(connector, backend);
        loop {
            lookout.look().await?;
            tokio::time::sleep(BEAT).await;
        }
    };
    tokio::select! {
        done = work => done,
        lost = looking => lost,
    }
}

/// Looks after a session from another one.
pub struct Lookout<'a> {
    connector: &'a Connector,
    backend: &'a Backend,
    client: Option<Client>,
    confirmed: Instant,
}

impl<'a> Lookout<'a> {
    /// Of this session, which is there now.
    pub fn new(connector: &'a Connector, backend: &'a Backend) -> Lookout<'a> {
        Lookout { connector, backend, client: None, confirmed: Instant::now() }
    }

    /// Asks whether it still is there. Gives the session that asked, for whatever else is to be looked at; none, where nobody
    /// can be asked at present.
    ///
    /// # Errors
    /// The session is gone, or nobody could be asked for too long.
    pub async fn look(&mut self) -> Result<Option<&Client>, Error> {
        match self.ask().await {
            Ok(true) => {
                self.confirmed = Instant::now();
                Ok(self.client.as_ref())
            }
            Ok(false) => Err(Error::Unavailable("the server no longer has this session: its connection was lost".to_owned())),
            Err(error) if self.confirmed.elapsed() > UNCONFIRMED_MAX => Err(Error::Unavailable(format!(
                "nobody could say for {UNCONFIRMED_MAX:?} whether the session is still there: {error}"
            ))),
            Err(error) => {
                tracing::debug!(%error, "looking after a session that may be silent");
                tokio::time::sleep(PAUSE).await;
                Ok(None)
            }
        }
    }

    async fn ask(&mut self) -> Result<bool, Error> {
        let client = match self.client.take() {
            Some(client) => client,
            None => self.connector.session(Purpose::Work).await?,
        };
        let is_there = self.backend.is_there(&client).await?;
        self.client = Some(client);
        Ok(is_there)
    }
}
