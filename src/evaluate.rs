//! The state machine of one key of one watch: from a state and a reading to the next state and,
//! perhaps, a transition.
//!
//! Pure: no clock, no I/O; `now` is an argument. What must survive a restart is in [`State`], which
//! `items_listen.count` stores; unchanged state says nothing, however often it is evaluated.
//!
//! ```text
//!            reading reaches a band, and has for `hold`
//!   info ───────────────────────────────────────────────▶ open ──┐ escalated (at once)
//!     ◀──────────────────────────────────────────────────── │ ◀──┘ eased (beyond `recover`, for `clear_hold`)
//!            resolved (the same, down to info; or the key      repeated (every `repeat`)
//!            is gone, or its threshold is)
//! ```

use jiff::{SignedDuration, Timestamp};

use crate::severity::{Scale, Severity};

/// What happened to an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transition {
    /// It was opened.
    Raised,
    /// It became worse.
    Escalated,
    /// It became milder, but is still open.
    Eased,
    /// It was closed.
    Resolved,
    /// Nothing changed, and it is said again.
    Repeated,
}

impl Transition {
    /// All of them.
    pub const ALL: [Transition; 5] =
        [Transition::Raised, Transition::Escalated, Transition::Eased, Transition::Resolved, Transition::Repeated];

    /// The name on the wire, in SQL and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Transition::Raised => "raised",
            Transition::Escalated => "escalated",
            Transition::Eased => "eased",
            Transition::Resolved => "resolved",
            Transition::Repeated => "repeated",
        }
    }
}

/// Why it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The reading changed.
    Reading,
    /// The key has no rows any more.
    Gone,
    /// The threshold changed.
    Threshold,
    /// The threshold was taken away.
    Disabled,
    /// A hold ran out, or a repetition was due.
    Deadline,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 5] = [Reason::Reading, Reason::Gone, Reason::Threshold, Reason::Disabled, Reason::Deadline];

    /// The name on the wire and in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Reading => "reading",
            Reason::Gone => "gone",
            Reason::Threshold => "threshold",
            Reason::Disabled => "disabled",
            Reason::Deadline => "deadline",
        }
    }
}

/// What is known of a key after an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The severity last said: info means that no alert is open.
    pub severity: Severity,
    /// Since when a breach that has not lasted for `hold` yet is there.
    pub breach_since: Option<Timestamp>,
    /// Since when a milder reading that has not lasted for `clear_hold` yet is there.
    pub clear_since: Option<Timestamp>,
    /// When the severity was last said.
    pub said_at: Option<Timestamp>,
    /// When evaluation, though no reading comes, has something to say.
    pub deadline: Option<Timestamp>,
    /// The time of the last transition: time never runs backwards along a key.
    pub last_at: Option<Timestamp>,
}

impl State {
    /// A key never evaluated.
    pub const NEW: State =
        State { severity: Severity::Info, breach_since: None, clear_since: None, said_at: None, deadline: None, last_at: None };
}

/// One reading of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Rows, a sum, or a level.
    pub count: i64,
    /// The threshold in force for this key; `None` disables it.
    pub threshold: Option<i64>,
    /// The key exists no more: whatever its count, its alert is over.
    pub gone: bool,
    /// It is evaluated because the threshold or the policy changed, not because the count did.
    pub rejudged: bool,
}

/// How a watch judges its readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Comparison and bands.
    pub scale: Scale,
    /// A breach must last this long before an alert is opened.
    pub hold: SignedDuration,
    /// A severity is left only beyond this percentage of its edge.
    pub recover: u32,
    /// … and for this long.
    pub clear_hold: SignedDuration,
    /// Say it again after this long.
    pub repeat: Option<SignedDuration>,
}

/// A transition, and from where to where it led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub transition: Transition,
    /// Why.
    pub reason: Reason,
    /// The severity before.
    pub previous: Severity,
    /// The severity after.
    pub severity: Severity,
}

/// Evaluates one reading. `now` is the database's time of the fold.
pub fn step(state: &State, reading: Reading, policy: &Policy, now: Timestamp) -> (State, Option<Change>) {
    let now = state.last_at.map_or(now, |last| last.max(now));
    let threshold = policy.scale.enables(reading.threshold);
    let mut next = State { deadline: None, ..*state };

    let decided = match threshold {
        _ if reading.gone => Decided::now(Severity::Info, Reason::Gone),
        None => Decided::now(Severity::Info, Reason::Disabled),
        Some(threshold) => decide(state, &mut next, reading, threshold, policy, now),
    };

    if reading.gone || threshold.is_none() {
        // What begins again after this is another breach.
        (next.breach_since, next.clear_since) = (None, None);
    }
    let change = match decided {
        Decided::Wait => None,
        Decided::Now { severity, reason } => change_between(state.severity, severity, reason),
    };
    if let Some(change) = change {
        next.severity = change.severity;
        next.breach_since = None;
        next.clear_since = None;
        next.said_at = Some(now);
        next.last_at = Some(now);
    }
    let change = change.or_else(|| repetition(state, &mut next, policy, now));
    next.deadline = deadline(&next, policy);
    (next, change)
}

enum Decided {
    Now { severity: Severity, reason: Reason },
    Wait,
}

impl Decided {
    fn now(severity: Severity, reason: Reason) -> Decided {
        Decided::Now { severity, reason }
    }
}

/// The severity that is to be said now, or that it is not yet time.
fn decide(state: &State, next: &mut State, reading: Reading, threshold: i64, policy: &Policy, now: Timestamp) -> Decided {
    let count = reading.count;
    let reached = policy.scale.still_within(count, threshold, Severity::Critical, 100);
    let held = policy.scale.still_within(count, threshold, state.severity, policy.recover);
    let target = reached.max(held);
    let cause = if reading.rejudged { Reason::Threshold } else { Reason::Reading };

    if target == state.severity {
        next.breach_since = None;
        next.clear_since = None;
        return Decided::Wait;
    }
    let opens = state.severity == Severity::Info;
    if target > state.severity && !opens {
        // Once an alert is open, escalation is immediate.
        return Decided::now(target, cause);
    }
    let (wait, since) = if opens {
        next.clear_since = None;
        (policy.hold, next.breach_since.get_or_insert(now))
    } else {
        next.breach_since = None;
        (policy.clear_hold, next.clear_since.get_or_insert(now))
    };
    if now.duration_since(*since) < wait {
        return Decided::Wait;
    }
    Decided::now(target, if wait.is_zero() { cause } else { Reason::Deadline })
}

fn change_between(previous: Severity, severity: Severity, reason: Reason) -> Option<Change> {
    let transition = match (previous, severity) {
        (before, after) if before == after => return None,
        (Severity::Info, _) => Transition::Raised,
        (_, Severity::Info) => Transition::Resolved,
        (before, after) if after > before => Transition::Escalated,
        _ => Transition::Eased,
    };
    Some(Change { transition, reason, previous, severity })
}

fn repetition(state: &State, next: &mut State, policy: &Policy, now: Timestamp) -> Option<Change> {
    let repeat = policy.repeat?;
    let said_at = next.said_at?;
    if state.severity == Severity::Info || next.severity == Severity::Info || now.duration_since(said_at) < repeat {
        return None;
    }
    next.said_at = Some(now);
    next.last_at = Some(now);
    let severity = state.severity;
    Some(Change { transition: Transition::Repeated, reason: Reason::Deadline, previous: severity, severity })
}

/// The earliest moment at which time alone changes something.
fn deadline(state: &State, policy: &Policy) -> Option<Timestamp> {
    let after = |since: Option<Timestamp>, wait: SignedDuration| since.and_then(|since| since.checked_add(wait).ok());
    let repeat = policy.repeat.filter(|_| state.severity > Severity::Info);
    [
        after(state.breach_since, policy.hold),
        after(state.clear_since, policy.clear_hold),
        repeat.and_then(|repeat| after(state.said_at, repeat)),
    ]
    .into_iter()
    .flatten()
    .min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::severity::{Bands, Compare};
    use proptest::prelude::*;

    const PLAIN: Policy = Policy {
        scale: Scale { compare: Compare::AtLeast, bands: Bands::RISING },
        hold: SignedDuration::ZERO,
        recover: 100,
        clear_hold: SignedDuration::ZERO,
        repeat: None,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("a time in range")
    }

    fn reading(count: i64) -> Reading {
        Reading { count, threshold: Some(20), gone: false, rejudged: false }
    }

    /// Runs readings `(second, count)` and gives what was said.
    fn said(policy: &Policy, readings: &[(i64, i64)]) -> Vec<(i64, &'static str, &'static str)> {
        let mut state = State::NEW;
        let mut said = Vec::new();
        for &(second, count) in readings {
            let (next, change) = step(&state, reading(count), policy, at(second));
            state = next;
            if let Some(change) = change {
                said.push((second, change.transition.as_str(), change.reason.as_str()));
            }
        }
        said
    }

    #[test]
    fn one_episode_from_raised_to_resolved() {
        let readings = [(0, 19), (1, 20), (2, 24), (3, 30), (4, 29), (5, 0), (6, 0)];
        let expected = [
            (1, "raised", "reading"),
            (2, "escalated", "reading"),
            (3, "escalated", "reading"),
            (4, "eased", "reading"),
            (5, "resolved", "reading"),
        ];
        assert_eq!(said(&PLAIN, &readings), expected);
    }

    #[test]
    fn a_jump_is_one_transition() {
        let (_, change) = step(&State::NEW, reading(40), &PLAIN, at(0));
        let change = change.expect("a breach is said");
        assert_eq!((change.transition, change.severity), (Transition::Raised, Severity::Critical));
    }

    #[test]
    fn a_breach_must_last_for_hold() {
        let policy = Policy { hold: SignedDuration::from_secs(10), ..PLAIN };
        assert_eq!(said(&policy, &[(0, 25), (9, 40), (10, 40)]), [(10, "raised", "deadline")]);
        assert_eq!(said(&policy, &[(0, 25), (9, 0), (10, 25), (19, 25)]), []);
        let (state, _) = step(&State::NEW, reading(25), &policy, at(0));
        assert_eq!(state.deadline, Some(at(10)));
    }

    #[test]
    fn a_severity_is_left_only_beyond_recover_and_after_clear_hold() {
        let policy = Policy { recover: 90, ..PLAIN };
        assert_eq!(said(&policy, &[(0, 20), (1, 19), (2, 18), (3, 17)]), [(0, "raised", "reading"), (3, "resolved", "reading")]);
        let policy = Policy { clear_hold: SignedDuration::from_secs(5), ..PLAIN };
        assert_eq!(
            said(&policy, &[(0, 20), (1, 19), (2, 20), (3, 1), (7, 1), (8, 1)]),
            [(0, "raised", "reading"), (8, "resolved", "deadline"),]
        );
    }

    #[test]
    fn low_stock_recovers_above_its_edge() {
        let scale = Scale { compare: Compare::Below, bands: Bands::FALLING };
        let policy = Policy { scale, recover: 110, ..PLAIN };
        assert_eq!(said(&policy, &[(0, 19), (1, 21), (2, 22)]), [(0, "raised", "reading"), (2, "resolved", "reading")]);
    }

    #[test]
    fn an_open_alert_is_said_again() {
        let policy = Policy { repeat: Some(SignedDuration::from_secs(60)), ..PLAIN };
        assert_eq!(
            said(&policy, &[(0, 20), (59, 20), (60, 20), (119, 20), (120, 20)]),
            [(0, "raised", "reading"), (60, "repeated", "deadline"), (120, "repeated", "deadline"),]
        );
    }

    #[test]
    fn gone_disabled_and_threshold_are_named() {
        let (open, _) = step(&State::NEW, reading(40), &PLAIN, at(0));
        let reason = |reading| step(&open, reading, &PLAIN, at(1)).1.map(|change| change.reason);
        assert_eq!(reason(Reading { gone: true, ..reading_of(40, Some(20)) }), Some(Reason::Gone));
        assert_eq!(reason(reading_of(40, None)), Some(Reason::Disabled));
        assert_eq!(reason(reading_of(40, Some(100))), Some(Reason::Threshold));
        assert_eq!(reason(reading_of(40, Some(20))), None);
    }

    fn reading_of(count: i64, threshold: Option<i64>) -> Reading {
        Reading { count, threshold, gone: false, rejudged: true }
    }

    proptest! {
        /// Without holds, what is said is exactly the sequence of changes of the plain severity.
        #[test]
        fn without_holds_it_says_every_change_once(counts in prop::collection::vec(0i64..60, 0..60)) {
            let mut state = State::NEW;
            let mut naive = Severity::Info;
            for (second, count) in counts.into_iter().enumerate() {
                let (next, change) = step(&state, reading(count), &PLAIN, at(second as i64));
                let severity = PLAIN.scale.classify(count, Some(20)).unwrap_or(Severity::Info);
                prop_assert_eq!(change.is_some(), severity != naive);
                prop_assert_eq!(next.severity, severity);
                naive = severity;
                state = next;
                // Evaluating the same again says nothing.
                prop_assert_eq!(step(&state, reading(count), &PLAIN, at(second as i64)).1, None);
            }
        }

        /// Whatever the policy: time never runs backwards, transitions chain, and once the reading
        /// stands still the state settles at the severity of that reading (or above, within recover).
        #[test]
        fn histories_chain_and_settle(
            readings in prop::collection::vec((0i64..100, 0i64..60), 1..60),
            hold in 0i64..20, clear_hold in 0i64..20, recover in 50u32..=100,
        ) {
            let policy = Policy {
                hold: SignedDuration::from_secs(hold), clear_hold: SignedDuration::from_secs(clear_hold), recover, ..PLAIN
            };
            let mut state = State::NEW;
            let mut last = None;
            for &(second, count) in &readings {
                let (next, change) = step(&state, reading(count), &policy, at(second));
                if let Some(change) = change {
                    prop_assert_eq!(change.previous, state.severity);
                    prop_assert_eq!(change.severity, next.severity);
                    prop_assert!(next.last_at >= last);
                    last = next.last_at;
                }
                state = next;
            }
            let final_count = readings[readings.len() - 1].1;
            for _ in 0..3 {
                state = step(&state, reading(final_count), &policy, state.deadline.unwrap_or(at(1000))).0;
            }
            prop_assert_eq!(state.deadline, None);
            let plain = policy.scale.classify(final_count, Some(20)).unwrap_or(Severity::Info);
            prop_assert!(state.severity >= plain);
            if recover == 100 { prop_assert_eq!(state.severity, plain); }
        }
    }
}
