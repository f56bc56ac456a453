//! The pool of ordinary sessions: claims, settlements, questions. Whoever listens or folds has a
//! connection of its own.
//!
//! When one connection was lost, those that the pool has may be silent as well: they are thrown away instead of being
//! found out one by one.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deadpool_postgres::{Client, Connect, Hook, HookError, Manager, ManagerConfig, RecyclingMethod, Runtime};

use super::connect;
use super::session;
use super::session::{Connector, INDEXES_ALWAYS, Purpose};
use super::tls::Tls;
use crate::dispatch::lock;
use crate::error::Error;

/// How long somebody waits for a free session.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);

type Opening<'a> = Pin<
    Box<dyn Future<Output = Result<(tokio_postgres::Client, tokio::task::JoinHandle<()>), tokio_postgres::Error>> + Send + 'a>,
>;

/// Opens the pool's sessions over our own sockets, which notice silence.
struct Opener(Tls);

impl Connect for Opener {
    fn connect(&self, config: &tokio_postgres::Config) -> Opening<'_> {
        let config = config.clone();
        Box::pin(async move {
            let (client, driver) = connect::open(&config, &self.0, Purpose::Work.patience()).await?;
            let driving = tokio::spawn(async move {
                // Whoever uses the client sees the error there.
                let _ended = driver.await;
            });
            Ok((client, driving))
        })
    }
}

/// The pool.
#[derive(Clone, Debug)]
pub struct Pool {
    inner: deadpool_postgres::Pool,
    /// Sessions that are older are thrown away.
    trusted_since: Arc<Mutex<Instant>>,
}

impl Pool {
    /// Makes a pool whose sessions have their settings made.
    ///
    /// # Errors
    /// None in practice: nothing is connected yet.
    pub fn new(connector: &Connector, size: usize) -> Result<Pool, Error> {
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let (config, tls) = connector.parts();
        let manager = Manager::from_connect(config, Opener(tls), recycling);
        let settings = connector.settings(Purpose::Work) + INDEXES_ALWAYS;
        let trusted_since = Arc::new(Mutex::new(Instant::now()));
        let since = Arc::clone(&trusted_since);
        let inner = deadpool_postgres::Pool::builder(manager)
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(WAIT_TIMEOUT))
            .create_timeout(Some(WAIT_TIMEOUT))
            .post_create(Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
                let settings = settings.clone();
                Box::pin(async move { session::set(client, &settings).await.map_err(HookError::Backend) })
            }))
            .pre_recycle(Hook::sync_fn(move |_, metrics| {
                let trusted = metrics.created >= *lock(&since);
                trusted.then_some(()).ok_or_else(|| HookError::message("it is from before a fault"))
            }))
            .build()
            .map_err(|error| Error::Failed(format!("pool: {error}")))?;
        Ok(Pool { inner, trusted_since })
    }

    /// A session.
    ///
    /// # Errors
    /// None was free in time, or the database cannot be reached.
    pub async fn get(&self) -> Result<Client, Error> {
        Ok(self.inner.get().await?)
    }

    /// Does some work on a session.
    ///
    /// # Errors
    /// As [`Pool::get`], or the work's own.
    pub async fn run<T>(&self, work: impl AsyncFnOnce(&Client) -> Result<T, Error>) -> Result<T, Error> {
        work(&self.get().await?).await
    }

    /// Throws away every session that there is, once it is not in use: one was lost, and others may be silent.
    pub fn renew(&self) {
        *lock(&self.trusted_since) = Instant::now();
        self.inner.retain(|_, _| false);
    }
}
