//! When many keys of a watch cross at once: which transitions go out singly, and which wait for one digest.
//!
//! Pure. A window begins with the first transition and lasts for `per`. In it up to `limit` transitions go out
//! singly, the worst first; beyond them critical ones do, up to another `limit`; what is left is told in one digest
//! at the window's end.

use jiff::{SignedDuration, Timestamp};

use crate::severity::Severity;

/// `storm = { limit, per }` of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storm {
    /// So many transitions go out singly within `per`.
    pub limit: u32,
    /// How long a window lasts.
    pub per: SignedDuration,
}

/// The window that a watch is in, as `items_listen.storm` stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// When it began, by the database's clock.
    pub began_at: Timestamp,
    /// How many went out singly within the limit.
    pub told: i64,
    /// How many critical ones went out singly beyond it.
    pub critical: i64,
    /// When the digest of the others is due.
    pub due_at: Option<Timestamp>,
}

impl Storm {
    /// Decides of each of a fold's transitions, given by its severity after, whether it goes out singly.
    pub fn admit(&self, window: Option<Window>, severities: &[Severity], now: Timestamp) -> (Window, Vec<bool>) {
        let end = |window: &Window| window.began_at.checked_add(self.per).unwrap_or(Timestamp::MAX);
        let mut window =
            window.filter(|window| now < end(window)).unwrap_or(Window { began_at: now, told: 0, critical: 0, due_at: None });
        let mut worst_first: Vec<usize> = (0..severities.len()).collect();
        worst_first.sort_by_key(|&index| std::cmp::Reverse(severities[index]));
        let limit = i64::from(self.limit);
        let mut singly = vec![true; severities.len()];
        for index in worst_first {
            if window.told < limit {
                window.told += 1;
            } else if severities[index] == Severity::Critical && window.critical < limit {
                window.critical += 1;
            } else {
                singly[index] = false;
                window.due_at = Some(end(&window));
            }
        }
        (window, singly)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STORM: Storm = Storm { limit: 3, per: SignedDuration::from_secs(10) };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn the_worst_go_first_and_critical_ones_beyond_the_limit() {
        use Severity::{Critical, High, Warning};
        let (window, singly) = STORM.admit(None, &[Warning, High, Warning, Critical, Warning], at(0));
        assert_eq!(singly, [true, true, false, true, false]);
        assert_eq!(window.due_at, Some(at(10)));
        let (window, singly) = STORM.admit(Some(window), &[Warning, Critical, Critical, Critical, Critical], at(9));
        assert_eq!(singly, [false, true, true, true, false]);
        let (window, singly) = STORM.admit(Some(window), &[Warning], at(10));
        assert_eq!((singly, window.began_at, window.due_at), (vec![true], at(10), None));
    }

    proptest! {
        /// Whatever comes: in any window at most twice the limit goes out singly, and what does not is due.
        #[test]
        fn a_window_is_bounded(folds in prop::collection::vec((0i64..4, prop::collection::vec(0u8..4, 0..20)), 1..30)) {
            let (mut now, mut window): (i64, Option<Window>) = (0, None);
            let mut told = std::collections::HashMap::new();
            for (pause, ranks) in folds {
                now += pause;
                let severities: Vec<Severity> = ranks.into_iter().map(|rank| Severity::from_rank(i16::from(rank))).collect();
                let (next, singly) = STORM.admit(window, &severities, at(now));
                let count = told.entry(next.began_at).or_insert(0usize);
                *count += singly.iter().filter(|told| **told).count();
                prop_assert!(*count <= 6);
                prop_assert!(next.began_at <= at(now) && at(now) < next.began_at + STORM.per);
                prop_assert!(singly.iter().all(|told| *told) || next.due_at == Some(next.began_at + STORM.per));
                window = Some(next);
            }
        }
    }
}
