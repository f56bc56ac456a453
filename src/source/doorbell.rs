//! The doorbell: whether writers NOTIFY at all.
//!
//! Invariants. The lock *doorbell* is held exclusively only by a session that listens, and either sleeps or answers a ring; a writer
//! that is refused it rings. The lock *awake* is held shared by every replica at work: a replica arms only
//! while it holds *awake* exclusively, that is, while nobody works; otherwise it sleeps unarmed, and is woken
//! by the poll alone. Locks are only ever tried: a queued one would make writers ring for nobody.
//!
//! Whoever is rung now and then answers without letting go of the bell: so every writer that the answer does not see yet
//! rings as well. Only a stream of rings is worth staying awake for, since each costs its writer a NOTIFY.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use crate::db::holder::Holder;
use crate::db::locks::Lock;
use crate::db::schema::Schema;
use crate::error::Error;

/// Writers that probe hold the lock for microseconds; so often it is tried before going to sleep unarmed.
pub const ARM_TRIES: u32 = 20;
const ARM_PAUSE: Duration = Duration::from_millis(1);
/// After so long without being able to arm, whoever holds the lock is named.
const REFUSED_NAMED_AFTER: Duration = Duration::from_secs(10);

/// The state of the bell, as `status` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bell {
    /// We work: writers need not ring.
    Awake,
    /// We sleep, or answer one ring: writers ring.
    Armed,
    /// We sleep, but another replica is awake, or the lock was not to be had: the poll wakes us.
    Unarmed,
    /// Never armed: the poll alone.
    Off,
}

impl Bell {
    /// The name in `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Bell::Awake => "awake",
            Bell::Armed => "armed",
            Bell::Unarmed => "unarmed",
            Bell::Off => "off",
        }
    }
}

/// So many commits within so long are a stream.
const STREAM_COMMITS: usize = 10;
const STREAM_WITHIN: Duration = Duration::from_millis(40);

/// How often something is committed that is for us: often enough to stay awake for it?
#[derive(Debug, Default)]
pub struct Stream(VecDeque<Instant>);

impl Stream {
    /// Notes so many commits, or rather that many at least.
    pub fn note(&mut self, commits: usize, now: Instant) {
        self.0.extend(std::iter::repeat_n(now, commits.min(STREAM_COMMITS)));
        while self.0.len() > STREAM_COMMITS {
            self.0.pop_front();
        }
    }

    /// Whether they come in a stream.
    pub fn is_one(&self, now: Instant) -> bool {
        self.0.len() == STREAM_COMMITS && self.0.front().is_some_and(|first| now.duration_since(*first) < STREAM_WITHIN)
    }
}

/// The doorbell of one listening session.
#[derive(Debug)]
pub struct Doorbell {
    client: Arc<Client>,
    enabled: bool,
    state: Bell,
    refused_since: Option<Instant>,
    named: bool,
    arm: String,
    disarm: String,
    awake: String,
    asleep: String,
    asleep_done: String,
    /// The lock's key.
    key: String,
}

impl Doorbell {
    /// The doorbell on this session.
    pub fn new(client: Arc<Client>, schema: &Schema, enabled: bool) -> Doorbell {
        let (bell, awake) = (Lock::Doorbell.sql(schema), Lock::Awake.sql(schema));
        Doorbell {
            client,
            enabled,
            state: if enabled { Bell::Unarmed } else { Bell::Off },
            refused_since: None,
            named: false,
            arm: format!("SELECT pg_try_advisory_lock({bell})"),
            disarm: format!("SELECT pg_advisory_unlock({bell}), pg_try_advisory_lock_shared({awake})"),
            awake: format!("SELECT true, pg_try_advisory_lock_shared({awake})"),
            asleep: format!("SELECT pg_advisory_unlock_shared({awake}), pg_try_advisory_lock({awake})"),
            asleep_done: format!("SELECT pg_advisory_unlock({awake})"),
            key: bell,
        }
    }

    /// How it stands.
    pub fn state(&self) -> Bell {
        self.state
    }

    /// To be called when work begins: writers need not ring any more. Idempotent.
    ///
    /// # Errors
    /// The session is lost, and with it all its locks.
    pub async fn wake(&mut self) -> Result<(), Error> {
        let sql = match self.state {
            Bell::Off | Bell::Awake => return Ok(()),
            Bell::Armed => &self.disarm,
            Bell::Unarmed => &self.awake,
        };
        // Shared, so only a replica that is just arming can refuse it; it will be rung at worst.
        self.client.query_one(sql.as_str(), &[]).await?;
        self.state = Bell::Awake;
        Ok(())
    }

    /// To be called before sleeping. After [`Bell::Armed`] the caller folds once more: a writer that
    /// looked before may have committed since the last fold.
    ///
    /// # Errors
    /// The session is lost.
    pub async fn sleep(&mut self, may_arm: bool, tries: u32) -> Result<Bell, Error> {
        if self.state == Bell::Off || self.state == Bell::Armed {
            return Ok(self.state);
        }
        // Whatever is not held is reported by unlock as a warning, and changes nothing.
        let alone: bool = self.client.query_one(self.asleep.as_str(), &[]).await?.get(1);
        self.state = Bell::Unarmed;
        if !alone {
            return Ok(self.state);
        }
        if may_arm && self.enabled && self.try_arm(tries).await? {
            self.state = Bell::Armed;
        }
        self.client.query_one(self.asleep_done.as_str(), &[]).await?;
        Ok(self.state)
    }

    async fn try_arm(&mut self, tries: u32) -> Result<bool, Error> {
        for attempt in 1..=tries {
            if self.client.query_one(self.arm.as_str(), &[]).await?.get(0) {
                self.refused_since = None;
                self.named = false;
                return Ok(true);
            }
            if attempt < tries {
                tokio::time::sleep(ARM_PAUSE).await;
            }
        }
        let since = *self.refused_since.get_or_insert_with(Instant::now);
        if since.elapsed() > REFUSED_NAMED_AFTER && !self.named {
            self.named = true;
            let holder = Holder::of_advisory(&self.client, &self.key).await?;
            let pid = holder.as_ref().and_then(|holder| holder.pid);
            let holder = holder.map(|holder| holder.to_string());
            tracing::warn!(pid, holder, "the doorbell cannot be armed, this session holds its lock; polling meanwhile");
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_now_and_then_is_no_stream() {
        let (begin, mut stream) = (Instant::now(), Stream::default());
        let mut note = |ms: u64, commits: usize| {
            stream.note(commits, begin + Duration::from_millis(ms));
            stream.is_one(begin + Duration::from_millis(ms))
        };
        assert!((0..100).all(|n| !note(n * 5, 1)), "200 a second");
        assert!((600..609).all(|n| !note(n, 1)));
        assert!(note(609, 1), "ten within nine milliseconds");
        assert!(!note(700, 1));
        assert!(note(800, 1_000));
    }
}
