//! How much was folded lately: what the status page says of the pipeline's speed.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::dispatch::lock;

/// The rate is that of so many whole seconds, the current one not among them.
const SECONDS: usize = 10;

/// What folds did.
#[derive(Debug)]
pub struct Folds {
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The rows of each second, by its number modulo the length; the number tells whether it is an old one.
    seconds: [(u64, u64); SECONDS + 1],
    rows: u64,
    last: Option<Fold>,
}

/// The last fold that found rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fold {
    /// When it was done.
    pub at: Timestamp,
    /// How many rows of the journal it took.
    pub rows: u64,
}

impl Default for Folds {
    fn default() -> Folds {
        Folds { began: Instant::now(), inner: Mutex::default() }
    }
}

impl Folds {
    /// A fold took so many rows. One that took none is none.
    pub fn note(&self, rows: i64) {
        if let Some(rows) = u64::try_from(rows).ok().filter(|rows| *rows > 0) {
            lock(&self.inner).note(self.began.elapsed(), rows);
        }
    }

    /// Rows per second over the last ten seconds, or since the start where that is less long ago.
    pub fn rows_per_second(&self) -> f64 {
        lock(&self.inner).rows_per_second(self.began.elapsed())
    }

    /// All rows since the start.
    pub fn rows(&self) -> u64 {
        lock(&self.inner).rows
    }

    /// The last fold that took rows.
    pub fn last(&self) -> Option<Fold> {
        lock(&self.inner).last
    }
}

impl Inner {
    fn note(&mut self, now: Duration, rows: u64) {
        let second = now.as_secs();
        let slot = &mut self.seconds[usize::try_from(second).unwrap_or(0) % (SECONDS + 1)];
        if slot.0 != second {
            *slot = (second, 0);
        }
        slot.1 += rows;
        self.rows += rows;
        self.last = Some(Fold { at: Timestamp::now(), rows });
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate is shown with three digits")]
    fn rows_per_second(&self, now: Duration) -> f64 {
        let second = now.as_secs();
        let whole = second.min(SECONDS as u64);
        let recent = self.seconds.iter().filter(|(number, _)| *number < second && *number + SECONDS as u64 >= second);
        let rows: u64 = recent.map(|(_, rows)| rows).sum();
        if whole == 0 { 0.0 } else { rows as f64 / whole as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_ten_whole_seconds() {
        let at = |millis| Duration::from_millis(millis);
        let mut folds = Inner::default();
        folds.note(at(100), 40);
        assert_eq!(folds.rows_per_second(at(900)), 0.0, "no second is whole yet");
        assert_eq!(folds.rows_per_second(at(1_000)), 40.0);
        folds.note(at(1_500), 20);
        assert_eq!(folds.rows_per_second(at(2_000)), 30.0);
        assert_eq!(folds.rows_per_second(at(10_999)), 6.0);
        assert_eq!(folds.rows_per_second(at(11_000)), 2.0, "the first second is too long ago");
        assert_eq!(folds.rows_per_second(at(12_000)), 0.0);
        folds.note(at(11_500), 7);
        folds.note(at(12_500), 3);
        assert_eq!(folds.rows_per_second(at(13_000)), 1.0, "a slot that is used again holds nothing of before");
        assert_eq!(folds.rows, 70);
    }
}
