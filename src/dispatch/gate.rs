//! Whether an endpoint is sent to at all.
//!
//! Pure: `now` is an argument, in the time of [`super::clock`]. An endpoint that fails is left alone as a
//! whole, with one probe at a time, instead of being hammered by every delivery.

use std::time::Duration;

use crate::pusher::classify::Reason;
use crate::retry::Retry;

/// So many failures of single requests in a row, without a success between, close the gate although each
/// might be its own event's fault (5xx).
const SERVER_FAILURES_MAX: u32 = 3;
/// An endpoint that fails is probed at least this often, however long it has been failing: one request is no burden to
/// it, and everything that waits for it goes out as soon as one succeeds.
const PROBE_FAILING_EVERY: Duration = Duration::from_secs(30);
/// A paused endpoint is probed this often.
pub const PROBE_EVERY: Duration = Duration::from_secs(60);

/// The state of an endpoint's gate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gate {
    failures: u32,
    server_failures: u32,
    closed: Option<Closed>,
}

/// Why, and until when.
#[derive(Clone, Debug, PartialEq)]
pub struct Closed {
    /// It refuses everything, rather than failing.
    pub paused: bool,
    /// Why.
    pub reason: Reason,
    /// When it is probed.
    pub until: Duration,
}

impl Gate {
    /// How many requests may be under way: all, one probe, or none.
    pub fn allowed(&self, now: Duration, in_flight: usize) -> usize {
        match &self.closed {
            None => in_flight,
            Some(closed) if now >= closed.until => 1,
            Some(_) => 0,
        }
    }

    /// Why it is closed, if it is.
    pub fn closed(&self) -> Option<&Closed> {
        self.closed.as_ref()
    }

    /// A request was answered well. Gives whether the gate had been closed.
    pub fn succeeded(&mut self) -> bool {
        let was_closed = self.closed.is_some();
        *self = Gate::default();
        was_closed
    }

    /// A request failed in a way that is worth a retry. Gives whether the gate's state changed in kind.
    pub fn failed(&mut self, reason: Reason, retry: &Retry, random: f64, retry_after: Option<Duration>, now: Duration) -> bool {
        if matches!(reason, Reason::InProgress | Reason::ClockSkew) && self.closed.is_none() {
            // It answers, and about this request only.
            return false;
        }
        if reason == Reason::Server && retry_after.is_none() && self.closed.is_none() {
            self.server_failures += 1;
            if self.server_failures < SERVER_FAILURES_MAX {
                return false;
            }
        }
        self.failures += 1;
        let asked = retry_after.unwrap_or_default().min(retry.max);
        let until = now + retry.delay(self.failures, random, None).min(PROBE_FAILING_EVERY).max(asked);
        self.close(Closed { paused: false, reason, until })
    }

    /// The endpoint refuses everything.
    pub fn refused(&mut self, reason: Reason, now: Duration) -> bool {
        self.close(Closed { paused: true, reason, until: now + PROBE_EVERY })
    }

    /// Another replica found it refusing everything.
    pub fn told_paused(&mut self, until: Duration) -> bool {
        self.closed.is_none() && self.close(Closed { paused: true, reason: Reason::Auth, until })
    }

    fn close(&mut self, closed: Closed) -> bool {
        let same = self.closed.as_ref().is_some_and(|before| (before.paused, before.reason) == (closed.paused, closed.reason));
        self.closed = Some(closed);
        !same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_failing_endpoint_is_probed_by_one_request_at_a_time() {
        let (mut gate, retry) = (Gate::default(), Retry::default());
        assert_eq!(gate.allowed(SECOND, 8), 8);
        assert!(gate.failed(Reason::Network, &retry, 1.0, None, SECOND), "a change of state is said");
        assert_eq!(gate.allowed(SECOND, 8), 0);
        assert_eq!(gate.allowed(SECOND * 2, 8), 1);
        assert!(!gate.failed(Reason::Network, &retry, 1.0, None, SECOND * 2), "and not said again");
        assert_eq!(gate.allowed(SECOND * 2 + SECOND / 2, 8), 0, "the delay doubles");
        assert!(gate.succeeded());
        assert_eq!(gate.allowed(SECOND * 2, 8), 8);
    }

    #[test]
    fn one_poisonous_event_does_not_close_the_gate() {
        let (mut gate, retry) = (Gate::default(), Retry::default());
        for _ in 0..10 {
            gate.failed(Reason::Server, &retry, 0.5, None, SECOND);
            gate.failed(Reason::Server, &retry, 0.5, None, SECOND);
            assert_eq!(gate.closed(), None);
            gate.succeeded();
        }
        for _ in 0..SERVER_FAILURES_MAX {
            gate.failed(Reason::Server, &retry, 0.5, None, SECOND);
        }
        assert!(gate.closed().is_some());
    }

    #[test]
    fn however_long_it_fails_it_is_probed_but_not_before_it_asks_to_be() {
        let (mut gate, retry) = (Gate::default(), Retry::default());
        let mut now = Duration::ZERO;
        for _ in 0..50 {
            gate.failed(Reason::Network, &retry, 1.0, None, now);
            now = gate.closed().expect("closed").until;
        }
        gate.failed(Reason::Network, &retry, 1.0, None, now);
        assert_eq!(gate.closed().expect("closed").until, now + PROBE_FAILING_EVERY);
        gate.failed(Reason::RateLimited, &retry, 1.0, Some(SECOND * 100), now);
        assert_eq!(gate.closed().expect("closed").until, now + SECOND * 100);
        gate.failed(Reason::RateLimited, &retry, 1.0, Some(SECOND * 100_000), now);
        assert_eq!(gate.closed().expect("closed").until, now + retry.max, "bounded");
    }

    #[test]
    fn what_is_about_one_request_closes_nothing() {
        let (mut gate, retry) = (Gate::default(), Retry::default());
        for reason in [Reason::InProgress, Reason::ClockSkew].into_iter().cycle().take(20) {
            assert!(!gate.failed(reason, &retry, 0.5, Some(SECOND), SECOND));
            assert_eq!(gate.allowed(SECOND, 8), 8);
        }
    }

    #[test]
    fn a_pause_lasts_until_its_probe() {
        let mut gate = Gate::default();
        assert!(gate.refused(Reason::Auth, SECOND));
        assert_eq!(gate.allowed(SECOND + PROBE_EVERY / 2, 8), 0);
        assert_eq!(gate.allowed(SECOND + PROBE_EVERY, 8), 1);
    }
}
