//! How many keys one fold evaluates.
//!
//! Pure: how long a fold took is an argument. A fold is one transaction, and all of this process waits while it evaluates: on
//! a slow machine, or one that is given a tenth of a processor, a fold of fifty thousand keys would be cut off by the timeouts
//! of its own sessions, and done again, for ever. So a fold that took long is followed by smaller ones, and one that did not
//! come to its end by much smaller ones.

use std::time::Duration;

/// How many keys one fold evaluates, as folds before it went. It outlives the sessions that fold.
#[derive(Debug)]
pub struct Pace {
    keys: i64,
    under_way: bool,
}

impl Pace {
    const LEAST: i64 = 100;
    const MOST: i64 = 50_000;
    /// A fold that takes less may be followed by a larger one.
    const QUICK: Duration = Duration::from_millis(300);
    /// A fold that takes more is followed by a smaller one: the shortest patience with a session of ours is 3 s.
    const LONG: Duration = Duration::from_secs(1);

    /// So many, of the fold that is under way or was last.
    pub fn keys(&self) -> i64 {
        self.keys
    }

    /// So many keys the fold that begins now evaluates at most.
    pub fn begin(&mut self) -> i64 {
        if std::mem::replace(&mut self.under_way, true) {
            // The one before did not come to its end.
            self.keys = (self.keys / 8).max(Self::LEAST);
        }
        self.keys
    }

    /// The fold came to its end, and took so long, if it evaluated anything; `full` if it left keys for the next one.
    pub fn ended(&mut self, took: Option<Duration>, full: bool) {
        self.under_way = false;
        let Some(took) = took else { return };
        if took > Self::LONG {
            self.keys = (self.keys / 2).max(Self::LEAST);
        } else if full && took < Self::QUICK {
            self.keys = (self.keys * 2).min(Self::MOST);
        }
    }
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { keys: Pace::MOST, under_way: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_what_folds_took() {
        let mut pace = Pace::default();
        let mut after = |took: u64, full| {
            let keys = pace.begin();
            pace.ended(Some(Duration::from_millis(took)), full);
            keys
        };
        let took = [(10, true), (1_001, true), (1_001, false), (1_000, true), (300, true), (299, true), (299, true), (0, true)];
        let keys: Vec<i64> = took.map(|(took, full)| after(took, full)).into();
        assert_eq!(keys, [50_000, 50_000, 25_000, 12_500, 12_500, 12_500, 25_000, 50_000]);
    }

    #[test]
    fn what_is_cut_off_again_and_again_becomes_small_enough() {
        let mut pace = Pace::default();
        let tried: Vec<i64> = (0..6).map(|_| pace.begin()).collect();
        assert_eq!(tried, [50_000, 6_250, 781, 100, 100, 100]);
        // One that is not full says nothing of what can be done.
        pace.ended(Some(Duration::from_millis(1)), false);
        pace.ended(None, true);
        assert_eq!(pace.begin(), 100);
        pace.ended(Some(Duration::from_millis(1)), true);
        assert_eq!(pace.begin(), 200);
    }
}
