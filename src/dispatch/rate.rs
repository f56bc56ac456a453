//! How many requests an endpoint is sent in a span of time.
//!
//! Pure: `now` is an argument, in the time of [`super::clock`].

use std::collections::VecDeque;
use std::time::Duration;

/// At most so many requests in any span of so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests, at least one.
    pub requests: usize,
    /// The span.
    pub per: Duration,
}

/// The requests that count against a rate.
#[derive(Clone, Debug, Default)]
pub struct Window {
    rate: Option<Rate>,
    /// When each was over. The server counted it before that: what is counted from here is never too early.
    over: VecDeque<Duration>,
}

impl Window {
    /// Without a rate nothing is counted.
    pub fn new(rate: Option<Rate>) -> Window {
        Window { rate, over: VecDeque::new() }
    }

    /// How many may be under way now.
    pub fn allowed(&mut self, now: Duration) -> usize {
        let Some(rate) = self.rate else { return usize::MAX };
        while self.over.front().is_some_and(|over| *over + rate.per <= now) {
            self.over.pop_front();
        }
        rate.requests.saturating_sub(self.over.len())
    }

    /// When the next one may begin, if time alone decides that.
    pub fn next(&self) -> Option<Duration> {
        let rate = self.rate?;
        let first = self.over.front().filter(|_| self.over.len() >= rate.requests)?;
        Some(*first + rate.per)
    }

    /// A request is over.
    pub fn note(&mut self, now: Duration) {
        if self.rate.is_some() {
            self.over.push_back(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn without_a_rate_there_is_no_end() {
        let mut window = Window::new(None);
        window.note(SECOND);
        assert_eq!((window.allowed(SECOND), window.next()), (usize::MAX, None));
    }

    #[test]
    fn no_span_holds_more_than_its_requests() {
        let mut window = Window::new(Some(Rate { requests: 2, per: 10 * SECOND }));
        window.note(SECOND);
        assert_eq!((window.allowed(2 * SECOND), window.next()), (1, None));
        window.note(4 * SECOND);
        assert_eq!((window.allowed(5 * SECOND), window.next()), (0, Some(11 * SECOND)));
        assert_eq!(window.allowed(11 * SECOND - Duration::from_nanos(1)), 0);
        assert_eq!((window.allowed(11 * SECOND), window.next()), (1, None));
        assert_eq!(window.allowed(14 * SECOND), 2);
    }
}
