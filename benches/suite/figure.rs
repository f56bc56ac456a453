//! One line of the table: what was measured of whom, beside whom, and whether it is good enough.

#![allow(dead_code, reason = "each row needs another part")]

use serde::Serialize;

/// What a figure has to be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The ratio to the other one.
    RatioAtLeast(f64),
    RatioAtMost(f64),
    /// Ahead of the other one, however little.
    RatioBelow(f64),
    RatioAbove(f64),
    /// The figure itself.
    AtMost(f64),
    AtLeast(f64),
}

/// What it is to be, and what it must be in any case.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Goal {
    pub wanted: Bound,
    pub bare_minimum: Option<Bound>,
}

impl Goal {
    pub fn new(wanted: Bound) -> Goal {
        Goal { wanted, bare_minimum: None }
    }

    pub fn or(self, bare_minimum: Bound) -> Goal {
        Goal { bare_minimum: Some(bare_minimum), ..self }
    }
}

/// Several measurements of the same.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    pub values: Vec<f64>,
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Series {
    /// Of these; a round in which nothing arrived has no value, and said so when it was measured.
    pub fn new(values: &[f64]) -> Series {
        let values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let ends = (sorted.first().copied().unwrap_or(f64::NAN), sorted.last().copied().unwrap_or(f64::NAN));
        Series { values, median: median(&sorted), min: ends.0, max: ends.1 }
    }
}

/// A line.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub row: String,
    /// What is measured, where a row has several: "16 clients", "p99".
    pub measure: String,
    pub contender: String,
    pub against: Option<String>,
    pub unit: &'static str,
    pub value: Series,
    pub other: Option<Series>,
    /// Of each pair, the first divided by the second.
    pub ratio: Option<Series>,
    pub goal: Option<Goal>,
    pub verdict: Option<&'static str>,
}

impl Figure {
    /// A contender beside another; the values are of the same rounds, in their order.
    pub fn beside(row: &str, measure: &str, unit: &'static str, ours: (&str, &[f64]), other: (&str, &[f64])) -> Figure {
        let ratios: Vec<f64> = ours.1.iter().zip(other.1).map(|(ours, other)| ours / other).collect();
        let alone = Figure::alone(row, measure, unit, ours.0, ours.1);
        Figure {
            against: Some(other.0.to_owned()),
            other: Some(Series::new(other.1)),
            ratio: Some(Series::new(&ratios)),
            ..alone
        }
    }

    /// A figure that stands for itself.
    pub fn alone(row: &str, measure: &str, unit: &'static str, contender: &str, values: &[f64]) -> Figure {
        Figure {
            row: row.to_owned(),
            measure: measure.to_owned(),
            contender: contender.to_owned(),
            against: None,
            unit,
            value: Series::new(values),
            other: None,
            ratio: None,
            goal: None,
            verdict: None,
        }
    }

    /// With a goal.
    pub fn goal(mut self, goal: Goal) -> Figure {
        self.verdict = Some(if self.holds(goal.wanted) {
            "met"
        } else if goal.bare_minimum.is_some_and(|minimum| self.holds(minimum)) {
            "bare minimum"
        } else {
            "missed"
        });
        self.goal = Some(goal);
        self
    }

    fn holds(&self, bound: Bound) -> bool {
        let ratio = self.ratio.as_ref().map_or(f64::NAN, |ratio| ratio.median);
        match bound {
            Bound::RatioAtLeast(least) => ratio >= least,
            Bound::RatioAtMost(most) => ratio <= most,
            Bound::RatioBelow(limit) => ratio < limit,
            Bound::RatioAbove(limit) => ratio > limit,
            Bound::AtMost(most) => self.value.median <= most,
            Bound::AtLeast(least) => self.value.median >= least,
        }
    }
}

/// Of sorted values; the mean of the two in the middle where there is no one.
fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// The value below which so many hundredths of the values are, each of which was measured: nothing is interpolated.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
    let place = ((percent / 100.0 * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}
