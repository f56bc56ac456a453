//! What is known of the daemon's own health: `/readyz`, and the counters that explain it.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::folds::Folds;
use crate::dispatch::lock;

/// The daemon's health.
#[derive(Debug)]
pub struct Health {
    ready: AtomicBool,
    reason: Mutex<String>,
    /// The faults of the outage that lasts, as far as they were named.
    faults: Mutex<HashSet<String>>,
    /// The watches that cannot be served, whatever session found that out.
    degraded: Mutex<HashSet<String>>,
    skipped: AtomicU64,
    reload: Mutex<Option<Reload>>,
    changed: Notify,
    folds: Folds,
    started: Instant,
    /// Since when it is not ready.
    unready: Mutex<Instant>,
}

/// The last reload that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Its configuration is in force.
    pub successful: bool,
    /// When.
    pub at: Timestamp,
    /// When one last was in force.
    pub succeeded_at: Option<Timestamp>,
}

impl Default for Health {
    /// Not ready yet.
    fn default() -> Health {
        let now = Instant::now();
        Health {
            ready: AtomicBool::new(false),
            reason: Mutex::new("starting".to_owned()),
            faults: Mutex::default(),
            degraded: Mutex::default(),
            skipped: AtomicU64::new(0),
            reload: Mutex::default(),
            changed: Notify::new(),
            folds: Folds::default(),
            started: now,
            unready: Mutex::new(now),
        }
    }
}

impl Health {
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
        if self.ready.swap(false, Ordering::AcqRel) {
            *lock(&self.unready) = Instant::now();
        }
    }

    /// For how long it has not been ready; `None` while it is.
    pub fn unready_for(&self) -> Option<Duration> {
        (!self.is_ready()).then(|| lock(&self.unready).elapsed())
    }

    /// For how long this process has been up.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// What folds did.
    pub fn folds(&self) -> &Folds {
        &self.folds
    }

    /// There is no session, and this is why. Gives whether this outage has not been said to have that reason yet: one
    /// fault may show itself in two ways in turn.
    pub fn fault(&self, what: &str) -> bool {
        lock(&self.faults).insert(what.to_owned())
    }

    /// Everything works. Gives whether that ends an outage.
    pub fn mended(&self) -> bool {
        let mut faults = lock(&self.faults);
        let outage = !faults.is_empty();
        faults.clear();
        outage
    }

    /// A watch cannot be served. Gives whether that is news.
    pub fn degraded(&self, watch: &str) -> bool {
        lock(&self.degraded).insert(watch.to_owned())
    }

    /// A watch can be served. Gives whether that is news: it could not.
    pub fn served(&self, watch: &str) -> bool {
        lock(&self.degraded).remove(watch)
    }

    /// The watches that cannot be served, by name.
    pub fn degraded_watches(&self) -> Vec<String> {
        let mut names: Vec<String> = lock(&self.degraded).iter().cloned().collect();
        names.sort();
        names
    }

    /// Forgets watches that are no longer configured.
    pub fn forget_watches_but<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let names: HashSet<&str> = names.collect();
        lock(&self.degraded).retain(|name| names.contains(name.as_str()));
    }

    /// A reload was asked for, and this became of it.
    pub fn reloaded(&self, successful: bool) {
        let mut reload = lock(&self.reload);
        let at = Timestamp::now();
        let before = reload.and_then(|before| before.succeeded_at);
        *reload = Some(Reload { successful, at, succeeded_at: if successful { Some(at) } else { before } });
    }

    /// The last reload, if one was asked for.
    pub fn reload(&self) -> Option<Reload> {
        *lock(&self.reload)
    }

    /// A payload was neither a number nor an object with one.
    pub fn skip_payload(&self) -> u64 {
        self.skipped.fetch_add(1, Ordering::Relaxed) + 1
    }
}
