//! What systemd is told of this process, and when: the one place that knows its notify protocol.
//!
//! Invariants.
//! * `READY=1` is said once at the start: when the first session is ready, or when it is known and said why there is none.
//!   A database that is down is thus no failed start. Whether work is done is what `/readyz` says, and `STATUS=`.
//! * `WATCHDOG=1` comes from the pipeline's own turns ([`Supervisor::alive`]) and from the loop that looks for a session,
//!   never from a timer that would go on while they hang. [`SILENCE_MAX`] is how far apart two turns may be.
//! * Until `READY=1` each turn asks for more time instead: counting a large table for the first time is no failed start.
//! * A reload says `RELOADING=1` first and `READY=1` when it is over, whatever came of it; one that is asked for during the start
//!   says neither.
//!
//! Without `NOTIFY_SOCKET` in the environment, nobody is told anything. See systemd's `sd_notify(3)`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;

use super::session::FOLD_PATIENCE;
use crate::dispatch::lock;

/// Two turns of a pipeline that works are never further apart: a fold is given up after `FOLD_PATIENCE`; every other
/// statement of its sessions is cancelled by the server, or its connection given up, after some tens of seconds
/// (`Purpose::patience`), and what then fails is a turn, too. `WatchdogSec=` must be longer, or a database that is merely
/// slow has its daemon killed again and again.
pub const SILENCE_MAX: Duration = Duration::from_secs(FOLD_PATIENCE.as_secs() + 33);

/// Signs of life are given no more often than this: a flood has thousands of turns in a second.
const SIGN_EVERY: Duration = Duration::from_secs(1);
/// Where the watchdog's period is short, so many times in it.
const SIGNS_PER_PERIOD: u32 = 10;
/// So long a status line may be.
const STATUS_CHARS_MAX: usize = 400;

/// Whoever started this process, and watches over it.
#[derive(Debug)]
pub struct Supervisor {
    /// Somebody listens.
    present: bool,
    /// It wants signs of life.
    watches: bool,
    /// The least time between two.
    sign_every: Duration,
    signed_at: Mutex<Option<Instant>>,
    started: AtomicBool,
}

impl Default for Supervisor {
    fn default() -> Supervisor {
        Supervisor::from_environment()
    }
}

impl Supervisor {
    /// What the environment says of it: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    pub fn from_environment() -> Supervisor {
        let present = std::env::var_os("NOTIFY_SOCKET").is_some();
        let watchdog = sd_notify::watchdog_enabled().filter(|period| present && !period.is_zero());
        if let Some(period) = watchdog.filter(|period| *period <= SILENCE_MAX) {
            tracing::warn!(
                watchdog_seconds = period.as_secs_f64(),
                silence_max_seconds = SILENCE_MAX.as_secs(),
                "WatchdogSec is too short: this daemon may be killed while it works"
            );
        }
        Supervisor {
            present,
            watches: watchdog.is_some(),
            sign_every: watchdog.map_or(SIGN_EVERY, |period| SIGN_EVERY.min(period / SIGNS_PER_PERIOD)),
            signed_at: Mutex::default(),
            started: AtomicBool::new(false),
        }
    }

    /// Whether anybody listens: otherwise nothing need be found out for them.
    pub fn is_present(&self) -> bool {
        self.present
    }

    /// A turn of the pipeline is over.
    pub fn alive(&self) {
        let starting = !self.started.load(Ordering::Acquire);
        if !self.present || !(self.watches || starting) {
            return;
        }
        let mut signed_at = lock(&self.signed_at);
        if signed_at.is_some_and(|at| at.elapsed() < self.sign_every) {
            return;
        }
        *signed_at = Some(Instant::now());
        drop(signed_at);
        let mut states = Vec::new();
        if self.watches {
            states.push(NotifyState::Watchdog);
        }
        if starting {
            states.push(NotifyState::ExtendTimeoutUsec(u32::try_from(SILENCE_MAX.as_micros()).unwrap_or(u32::MAX)));
        }
        notify(&states);
    }

    /// Waits for work that the server alone does and that may take any time, such as an index that a migration makes. The
    /// connection is watched by TCP meanwhile: this ends when the server is gone.
    pub async fn alive_during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            self.alive();
            if let Ok(done) = tokio::time::timeout(SIGN_EVERY, &mut work).await {
                return done;
            }
        }
    }

    /// The start is over: everything works, or it is known what does not. Said with the status; later calls say the status
    /// alone, since `READY=1` would then end a reload that is under way.
    pub fn started(&self, text: &str) {
        if self.started.swap(true, Ordering::AcqRel) {
            self.status(text);
        } else {
            ready(text);
        }
    }

    /// The configuration is being read again. [`Supervisor::reloaded`] must follow, whatever comes of it.
    pub fn reloading(&self) {
        if self.started.load(Ordering::Acquire) {
            reloading();
        }
    }

    /// A reload is over, and this came of it. One that was asked for during the start ends no start: nothing is ready yet.
    pub fn reloaded(&self, text: &str) {
        if self.started.load(Ordering::Acquire) {
            ready(text);
        } else {
            self.status(text);
        }
    }

    /// What `systemctl status` shows.
    pub fn status(&self, text: &str) {
        if self.present {
            notify(&[NotifyState::Status(&one_line(text))]);
        }
    }
}

/// The configuration is being read again. [`ready`] must follow, whatever comes of it: `systemctl reload` waits for it.
fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // One message: by this time systemd 253 and later know that the answer is to their own request.
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "CLOCK_MONOTONIC"),
    }
}

/// The start, or a reload, is over; and what `systemctl status` is to show.
fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// The end has begun.
pub fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping: finishing what is under way")]);
}

/// A line break in a text from elsewhere would begin another message.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if crate::plain::steers(c) { ' ' } else { c }).take(STATUS_CHARS_MAX).collect()
}

fn notify(states: &[NotifyState<'_>]) {
    // Nobody to tell is no failure of ours, and nothing that we could mend.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "NOTIFY_SOCKET");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_cannot_begin_another_message() {
        assert_eq!(one_line("no database:\nMAINPID=1\r\n"), "no database: MAINPID=1  ");
        assert_eq!(one_line(&"é".repeat(1_000)).chars().count(), STATUS_CHARS_MAX);
    }
}
