//! What a flood on an application's channel may cost: a bounded number of readings that wait, and no line for each.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::Received;

/// So many readings may wait to be evaluated; of more, the oldest are dropped: what was said last stays.
const READINGS_MAX: usize = 100_000;
/// About each watch one line of a kind in so long.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// What is wrong with what was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wrong {
    /// It is no reading.
    Payload,
    /// More came than can be evaluated.
    TooMany,
}

/// When each was last said, and how many readings were dropped.
#[derive(Debug, Default)]
pub(super) struct Heard {
    said: HashMap<(i32, Wrong), Instant>,
    dropped: u64,
}

impl Heard {
    /// Whether it may be said again of this watch.
    pub(super) fn may_say(&mut self, watch: i32, wrong: Wrong) -> bool {
        let now = Instant::now();
        let may = self.said.get(&(watch, wrong)).is_none_or(|at| now.duration_since(*at) >= SAID_EVERY);
        if may {
            self.said.insert((watch, wrong), now);
        }
        may
    }

    /// Puts a reading behind the others. Gives how many were dropped so far, if one had to be now.
    pub(super) fn take_in(&mut self, readings: &mut VecDeque<Received>, reading: Received) -> Option<u64> {
        readings.push_back(reading);
        if readings.len() <= READINGS_MAX {
            return None;
        }
        readings.pop_front();
        self.dropped += 1;
        Some(self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_readings_the_last_ones_stay() {
        let (mut heard, mut readings) = (Heard::default(), VecDeque::new());
        let mut take_in = |count: i64| heard.take_in(&mut readings, Received { count, ..Received::default() });
        let most = i64::try_from(READINGS_MAX).expect("small");
        assert!((0..most).all(|count| take_in(count).is_none()));
        assert_eq!((take_in(most), take_in(most + 1)), (Some(1), Some(2)));
        assert_eq!((readings.len(), readings[0].count, readings[READINGS_MAX - 1].count), (READINGS_MAX, 2, most + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_said_once_in_a_while() {
        let mut heard = Heard::default();
        assert!(heard.may_say(1, Wrong::Payload) && !heard.may_say(1, Wrong::Payload));
        assert!(heard.may_say(2, Wrong::Payload) && heard.may_say(1, Wrong::TooMany));
        tokio::time::advance(SAID_EVERY).await;
        assert!(heard.may_say(1, Wrong::Payload));
    }
}
