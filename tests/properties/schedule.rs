//! The schedule of retries against a multiplication.

use std::time::Duration;

use items_listen::pusher::classify::{Answer, Reason, Verdict, classify, retry_after};
use items_listen::retry::Retry;
use proptest::prelude::*;

proptest! {
    #![proptest_config(crate::thorough())]

    /// The delay is `initial * 2^(n-1)`, at most `max`; at least half of it, never more; and never less than an endpoint
    /// asks for, within `max`.
    #[test]
    fn the_delay_is_a_multiplication(
        attempts in 1u32..40, random in 0.0f64..=1.0, initial in 1u64..5_000, max in 1u64..600_000, asked in prop::option::of(0u64..1_000_000),
    ) {
        let max = max.max(initial);
        let retry = Retry { initial: Duration::from_millis(initial), max: Duration::from_millis(max), ..Retry::default() };
        let exact = u128::from(initial).saturating_mul(1 << (attempts - 1)).min(u128::from(max));
        prop_assert!(retry.delay_exact(attempts).as_millis().abs_diff(exact) <= 1);
        let delay = retry.delay(attempts, random, asked.map(Duration::from_millis)).as_millis();
        prop_assert!(delay <= u128::from(max));
        let asked = u128::from(asked.unwrap_or(0)).min(u128::from(max));
        prop_assert!(delay + 1 >= (exact / 2).max(asked));
        prop_assert!(delay <= exact.max(asked) + 1);
    }

    /// Every status has one verdict, and only what helps is tried again.
    #[test]
    fn every_answer_has_one_verdict(status in 0u16..=1_000, body in ".{0,60}", skew in prop::option::of(any::<i64>()), after in prop::option::of(0u64..100_000)) {
        let verdict = classify(&Answer::Http { status, body: body.clone(), retry_after: after.map(Duration::from_secs), skew });
        match verdict {
            Verdict::Delivered => prop_assert!((200..300).contains(&status)),
            Verdict::Retry(reason, _) => prop_assert!(
                matches!(status, 407 | 408 | 429 | 500..=599) || (status == 401 && reason == Reason::ClockSkew)
            ),
            Verdict::Dead(reason) => prop_assert!(matches!(status, 400 | 413 | 422) && reason == Reason::Rejected),
            Verdict::Pause(_) => prop_assert!(!matches!(status, 200..=299 | 400 | 407 | 408 | 413 | 422 | 429 | 500..=599)),
        }
    }

    /// A Retry-After is what it says, or nothing.
    #[test]
    fn a_retry_after_is_read_or_left(text in ".{0,40}", seconds in any::<u64>(), now in any::<i64>()) {
        prop_assert_eq!(retry_after(&seconds.to_string(), now), Some(Duration::from_secs(seconds)));
        if let Some(after) = retry_after(&text, now) {
            prop_assert!(text.trim().parse() == Ok(after.as_secs()) || items_listen::pusher::classify::date(&text).is_some());
        }
    }
}
