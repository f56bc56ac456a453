//! When a failed delivery is tried again.
//!
//! Pure: the attempt is a column of the outbox and the delay is computed from it, so that a restart
//! does not begin again at the first delay; the random number is an argument. This is the one file
//! that knows the `backoff` crate.

use std::time::Duration;

use backoff::backoff::Backoff as _;
use backoff::exponential::ExponentialBackoff;

/// Half of the delay is certain, the other half is drawn, so that many senders do not march in step.
const JITTER: f64 = 0.5;
/// Each delay is this many times the one before.
const MULTIPLIER: f64 = 2.0;
/// Beyond so many attempts the delay has long been the longest; the schedule need not be walked on.
const ATTEMPTS_WALKED_MAX: u32 = 64;

/// The schedule of an endpoint: `retry = { initial, max, give_up_after }` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The delay before the second attempt.
    pub initial: Duration,
    /// No delay is longer, whatever the attempt and whatever a Retry-After asks for.
    pub max: Duration,
    /// A delivery older than this is not tried again: it is dead with the reason `expired`.
    pub give_up_after: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            initial: Duration::from_millis(500),
            max: Duration::from_secs(300),
            give_up_after: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl Retry {
    /// The delay after the given number of failed attempts (from 1), without jitter.
    pub fn delay_exact(&self, attempts: u32) -> Duration {
        let mut schedule = ExponentialBackoff {
            current_interval: self.initial,
            initial_interval: self.initial,
            randomization_factor: 0.0,
            multiplier: MULTIPLIER,
            max_interval: self.max,
            max_elapsed_time: None,
            ..ExponentialBackoff::<backoff::SystemClock>::default()
        };
        let walked = attempts.clamp(1, ATTEMPTS_WALKED_MAX);
        (0..walked).filter_map(|_| schedule.next_backoff()).last().unwrap_or(self.max).min(self.max)
    }

    /// The delay after `attempts` failed ones, where `random` is drawn from 0 to 1, and an endpoint's
    /// Retry-After is honoured up to [`Retry::max`].
    pub fn delay(&self, attempts: u32, random: f64, retry_after: Option<Duration>) -> Duration {
        let exact = self.delay_exact(attempts);
        let drawn = exact.mul_f64(1.0 - JITTER + JITTER * random.clamp(0.0, 1.0));
        drawn.max(retry_after.unwrap_or_default()).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn doubles_from_the_first_delay_to_the_longest() {
        let retry = Retry { initial: Duration::from_millis(500), max: Duration::from_secs(5), ..Retry::default() };
        let delays: Vec<u128> = (1..=6).map(|attempts| retry.delay_exact(attempts).as_millis()).collect();
        assert_eq!(delays, [500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(retry.delay_exact(0), retry.delay_exact(1));
    }

    #[test]
    fn retry_after_lengthens_the_delay_but_never_beyond_the_longest() {
        let retry = Retry { max: Duration::from_secs(60), ..Retry::default() };
        assert_eq!(retry.delay(1, 0.3, Some(Duration::from_secs(10))), Duration::from_secs(10));
        assert_eq!(retry.delay(1, 0.3, Some(Duration::from_secs(86_400))), Duration::from_secs(60));
        assert_eq!(retry.delay(1, 1.0, None), Duration::from_millis(500));
    }

    proptest! {
        #[test]
        fn is_bounded_and_grows(attempts in 1u32..10_000, random in 0.0f64..1.0, initial in 1u64..10_000, max in 1u64..1_000_000) {
            let retry = Retry { initial: Duration::from_millis(initial), max: Duration::from_millis(max), ..Retry::default() };
            let delay = retry.delay(attempts, random, None);
            prop_assert!(delay <= retry.max);
            prop_assert!(delay * 2 + Duration::from_nanos(2) >= retry.delay_exact(attempts));
            prop_assert!(retry.delay_exact(attempts) <= retry.delay_exact(attempts + 1));
        }
    }
}
