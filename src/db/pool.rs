//! The pool of ordinary sessions: claims, settlements, questions. Whoever listens or folds has a
//! connection of its own.

use std::time::Duration;

use deadpool_postgres::{Client, Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};

use super::session::{Connector, Purpose};
use crate::error::Error;

/// How long somebody waits for a free session.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes a pool whose sessions have their settings made.
///
/// # Errors
/// None in practice: nothing is connected yet.
pub fn pool(connector: &Connector, size: usize) -> Result<Pool, Error> {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let (config, tls) = connector.parts();
    let manager = Manager::from_config(config, tls, recycling);
    let settings = connector.settings(Purpose::Work);
    Pool::builder(manager)
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(WAIT_TIMEOUT))
        .create_timeout(Some(WAIT_TIMEOUT))
        .post_create(Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
            let settings = settings.clone();
            Box::pin(async move { client.batch_execute(&settings).await.map_err(HookError::Backend) })
        }))
        .build()
        .map_err(|error| Error::Failed(format!("pool: {error}")))
}

/// A session from the pool.
///
/// # Errors
/// None was free in time, or the database cannot be reached.
pub async fn get(pool: &Pool) -> Result<Client, Error> {
    Ok(pool.get().await?)
}
