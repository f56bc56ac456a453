//! Statements that are run again and again: parsed once per session, where it is one that remembers.

use tokio_postgres::{Client, Statement};

/// A session.
pub trait Session {
    /// The session itself.
    fn client(&self) -> &Client;

    /// The statement, prepared.
    fn statement(&self, sql: &str) -> impl Future<Output = Result<Statement, tokio_postgres::Error>> + Send;
}

/// One of the pool's remembers its statements.
impl Session for deadpool_postgres::Client {
    fn client(&self) -> &Client {
        self
    }

    async fn statement(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        self.prepare_cached(sql).await
    }
}

impl Session for Client {
    fn client(&self) -> &Client {
        self
    }

    async fn statement(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        self.prepare(sql).await
    }
}
