//! What is known of the daemon's own health: `/readyz`, and the counters that explain it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::dispatch::lock;

/// The daemon's health.
#[derive(Debug, Default)]
pub struct Health {
    ready: AtomicBool,
    reason: Mutex<String>,
    fault: Mutex<Option<String>>,
    connections: AtomicU64,
    skipped: AtomicU64,
    changed: Notify,
}

impl Health {
    /// Not ready yet.
    pub fn new() -> Health {
        Health { reason: Mutex::new("starting".to_owned()), ..Health::default() }
    }

    /// Whether triggers are in place, the first recount and fold are done and LISTEN is confirmed.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Why not, in words.
    pub fn reason(&self) -> String {
        lock(&self.reason).clone()
    }

    /// It is. Gives whether that is news.
    pub fn set_ready(&self) -> bool {
        let news = !self.ready.swap(true, Ordering::AcqRel);
        self.changed.notify_waiters();
        news
    }

    /// It is not.
    pub fn set_not_ready(&self, reason: &str) {
        reason.clone_into(&mut lock(&self.reason));
        self.ready.store(false, Ordering::Release);
    }

    /// A session listens. Gives whether that is news: there was a fault before.
    pub fn connected(&self) -> bool {
        self.connections.fetch_add(1, Ordering::Relaxed);
        lock(&self.fault).take().is_some()
    }

    /// There is no session, and this is why. Gives whether it is another fault than before.
    pub fn fault(&self, what: &str) -> bool {
        let mut fault = lock(&self.fault);
        let news = fault.as_deref() != Some(what);
        *fault = Some(what.to_owned());
        news
    }

    /// How many sessions have listened so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// A payload was neither a number nor an object with one.
    pub fn skip_payload(&self) -> u64 {
        self.skipped.fetch_add(1, Ordering::Relaxed) + 1
    }
}
