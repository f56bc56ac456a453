//! How bad a reading is: bands in percent of a threshold, by integer arithmetic alone.
//!
//! Pure. Every product is taken in `i128`, so no `i64` reading or threshold can overflow, and no
//! float can make 119.999… into 120: with the default bands 119.9 % is a warning, 120 % is high.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The four severities, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The threshold is not reached: nothing is wrong.
    Info,
    /// The first band.
    Warning,
    /// The second band.
    High,
    /// The third band.
    Critical,
}

impl Severity {
    /// All four, in rising order.
    pub const ALL: [Severity; 4] = [Severity::Info, Severity::Warning, Severity::High, Severity::Critical];

    /// The name on the wire, in SQL and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }

    /// The severity of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Severity> {
        Severity::ALL.into_iter().find(|severity| severity.as_str() == name)
    }

    /// The number under which `items_listen.count` stores it: 0 to 3.
    pub fn rank(self) -> i16 {
        self as i16
    }

    /// The inverse of [`Severity::rank`]; what is out of range is the nearest severity.
    pub fn from_rank(rank: i16) -> Severity {
        Severity::ALL[usize::try_from(rank.clamp(0, 3)).unwrap_or(0)]
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a reading is compared with each edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compare {
    /// `>=`: too much is bad, and the edge itself is already too much. The default.
    AtLeast,
    /// `>`: too much is bad.
    Above,
    /// `<=`: too little is bad, and the edge itself is already too little.
    AtMost,
    /// `<`: too little is bad.
    Below,
}

impl Compare {
    /// All four operators.
    pub const ALL: [Compare; 4] = [Compare::AtLeast, Compare::Above, Compare::AtMost, Compare::Below];

    /// The operator as the configuration and every event spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Compare::AtLeast => ">=",
            Compare::Above => ">",
            Compare::AtMost => "<=",
            Compare::Below => "<",
        }
    }

    /// The operator of that spelling, if there is one.
    pub fn from_name(name: &str) -> Option<Compare> {
        Compare::ALL.into_iter().find(|compare| compare.as_str() == name)
    }

    /// Whether low readings are the bad ones (`<`, `<=`): the bands then run downwards.
    pub fn is_low(self) -> bool {
        matches!(self, Compare::AtMost | Compare::Below)
    }

    fn holds(self, left: i128, right: i128) -> bool {
        match self {
            Compare::AtLeast => left >= right,
            Compare::Above => left > right,
            Compare::AtMost => left <= right,
            Compare::Below => left < right,
        }
    }
}

/// Where the severities begin, each in percent of the threshold.
///
/// With `>=` and `>` the edges do not fall from warning to critical, with `<` and `<=` they do not
/// rise; [`Bands::try_new`] is the only way to make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bands {
    warning: u32,
    high: u32,
    critical: u32,
}

impl Bands {
    /// 100, 120 and 150 percent: the default where too much is bad.
    pub const RISING: Bands = Bands { warning: 100, high: 120, critical: 150 };
    /// 100, 50 and 20 percent: the default where too little is bad.
    pub const FALLING: Bands = Bands { warning: 100, high: 50, critical: 20 };

    /// Edges in percent, checked against the direction of `compare`.
    ///
    /// # Errors
    /// A sentence that says which order is wanted.
    pub fn try_new(compare: Compare, warning: u32, high: u32, critical: u32) -> Result<Bands, String> {
        let in_order = if compare.is_low() { warning >= high && high >= critical } else { warning <= high && high <= critical };
        if in_order {
            return Ok(Bands { warning, high, critical });
        }
        let wanted = if compare.is_low() { "warning >= high >= critical" } else { "warning <= high <= critical" };
        Err(format!(
            "bands are warning = {warning}, high = {high}, critical = {critical}, but compare = \"{}\" wants {wanted}",
            compare.as_str()
        ))
    }

    /// The default bands for this direction.
    pub fn default_for(compare: Compare) -> Bands {
        if compare.is_low() { Bands::FALLING } else { Bands::RISING }
    }

    /// The percentage at which `severity` begins; info has none.
    pub fn edge(self, severity: Severity) -> Option<u32> {
        match severity {
            Severity::Info => None,
            Severity::Warning => Some(self.warning),
            Severity::High => Some(self.high),
            Severity::Critical => Some(self.critical),
        }
    }
}

/// What is measured against what: comparison and bands together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scale {
    /// How a reading is compared with each edge.
    pub compare: Compare,
    /// Where the edges are.
    pub bands: Bands,
}

impl Scale {
    /// Whether a threshold is one at all: NULL never is, nor is one ≤ 0 where too much is bad.
    pub fn enables(self, threshold: Option<i64>) -> Option<i64> {
        threshold.filter(|&threshold| self.compare.is_low() || threshold > 0)
    }

    /// The severity of `count`; `None` where the threshold disables the key.
    pub fn classify(self, count: i64, threshold: Option<i64>) -> Option<Severity> {
        let threshold = self.enables(threshold)?;
        Some(self.highest_reached(count, threshold, Severity::Critical, 100))
    }

    /// The highest severity up to `from` that `count` has not yet left, where a severity is left
    /// only beyond `recover` percent of its edge. With `recover = 100` this is plain classification.
    pub fn still_within(self, count: i64, threshold: i64, from: Severity, recover: u32) -> Severity {
        self.highest_reached(count, threshold, from, recover)
    }

    fn highest_reached(self, count: i64, threshold: i64, from: Severity, recover: u32) -> Severity {
        // A stock of nothing is critical whatever the threshold: "out" is not a matter of degree.
        if self.compare.is_low() && count <= 0 {
            return from;
        }
        Severity::ALL
            .into_iter()
            .rev()
            .filter(|&severity| severity <= from)
            .find(|&severity| self.reaches(count, threshold, severity, recover))
            .unwrap_or(Severity::Info)
    }

    fn reaches(self, count: i64, threshold: i64, severity: Severity, recover: u32) -> bool {
        let Some(edge) = self.bands.edge(severity) else { return false };
        let left = i128::from(count) * 10_000;
        let right = i128::from(threshold) * i128::from(edge) * i128::from(recover);
        self.compare.holds(left, right)
    }
}

/// `count` in percent of `threshold`, rounded down; `None` without a threshold to divide by.
///
/// A percentage beyond `i64` is given as the nearest `i64`.
pub fn percent(count: i64, threshold: Option<i64>) -> Option<i64> {
    let threshold = i128::from(threshold.filter(|&threshold| threshold != 0)?);
    let hundredfold = i128::from(count) * 100;
    let mut quotient = hundredfold / threshold;
    if hundredfold % threshold != 0 && (hundredfold < 0) != (threshold < 0) {
        quotient -= 1;
    }
    Some(i64::try_from(quotient).unwrap_or(if quotient > 0 { i64::MAX } else { i64::MIN }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RISING: Scale = Scale { compare: Compare::AtLeast, bands: Bands::RISING };
    const FALLING: Scale = Scale { compare: Compare::Below, bands: Bands::FALLING };

    #[test]
    fn the_edges_are_exact() {
        let severity = |count| RISING.classify(count, Some(1000)).map(Severity::as_str);
        assert_eq!(severity(999), Some("info"));
        assert_eq!(severity(1000), Some("warning"));
        assert_eq!(severity(1199), Some("warning"), "119.9 % is not yet high");
        assert_eq!(severity(1200), Some("high"));
        assert_eq!(severity(1499), Some("high"));
        assert_eq!(severity(1500), Some("critical"));
    }

    #[test]
    fn each_operator_is_applied_at_each_edge() {
        let at = |compare, count| {
            Scale { compare, bands: Bands::default_for(compare) }.classify(count, Some(100)).map(Severity::as_str)
        };
        assert_eq!(at(Compare::Above, 100), Some("info"));
        assert_eq!(at(Compare::Above, 101), Some("warning"));
        assert_eq!(at(Compare::Above, 150), Some("high"));
        assert_eq!(at(Compare::Above, 151), Some("critical"));
        assert_eq!(at(Compare::AtMost, 101), Some("info"));
        assert_eq!(at(Compare::AtMost, 100), Some("warning"));
        assert_eq!(at(Compare::AtMost, 50), Some("high"));
        assert_eq!(at(Compare::AtMost, 20), Some("critical"));
        assert_eq!(at(Compare::Below, 100), Some("info"));
        assert_eq!(at(Compare::Below, 99), Some("warning"));
        assert_eq!(at(Compare::Below, 20), Some("high"));
        assert_eq!(at(Compare::Below, 19), Some("critical"));
    }

    #[test]
    fn nothing_left_is_critical_and_no_threshold_is_nothing() {
        assert_eq!(FALLING.classify(0, Some(50)), Some(Severity::Critical));
        assert_eq!(FALLING.classify(-3, Some(0)), Some(Severity::Critical));
        assert_eq!(FALLING.classify(0, None), None);
        assert_eq!(RISING.classify(5, None), None);
        assert_eq!(RISING.classify(5, Some(0)), None);
        assert_eq!(RISING.classify(5, Some(-1)), None);
    }

    #[test]
    fn percent_is_the_floor() {
        assert_eq!(percent(1199, Some(1000)), Some(119));
        assert_eq!(percent(-1, Some(3)), Some(-34));
        assert_eq!(percent(i64::MAX, Some(1)), Some(i64::MAX));
        assert_eq!(percent(i64::MIN, Some(1)), Some(i64::MIN));
        assert_eq!(percent(7, Some(0)), None);
        assert_eq!(percent(7, None), None);
    }

    fn any_scale() -> impl Strategy<Value = Scale> {
        (prop::sample::select(Compare::ALL.to_vec()), [0u32..400, 0u32..400, 0u32..400]).prop_map(|(compare, mut edges)| {
            edges.sort_unstable();
            if compare.is_low() {
                edges.reverse();
            }
            let bands = Bands::try_new(compare, edges[0], edges[1], edges[2]).expect("sorted edges are in order");
            Scale { compare, bands }
        })
    }

    proptest! {
        #[test]
        fn a_worse_reading_is_never_milder(scale in any_scale(), a: i64, b: i64, threshold: i64) {
            let (milder, worse) = if scale.compare.is_low() { (a.max(b), a.min(b)) } else { (a.min(b), a.max(b)) };
            prop_assert!(scale.classify(milder, Some(threshold)) <= scale.classify(worse, Some(threshold)));
        }

        #[test]
        fn agrees_with_exact_rationals(count in -100_000i64..100_000, threshold in 1i64..1000) {
            let naive = match (count * 100).div_euclid(threshold) {
                i64::MIN..100 => Severity::Info,
                100..120 => Severity::Warning,
                120..150 => Severity::High,
                _ => Severity::Critical,
            };
            prop_assert_eq!(RISING.classify(count, Some(threshold)), Some(naive));
            prop_assert_eq!(percent(count, Some(threshold)), Some((count * 100).div_euclid(threshold)));
        }
    }
}
