//! The state machine against a model that keeps every reading and works out from the history alone what is to be said.

use items_listen::evaluate::{Policy, Reading, State, Transition, step};
use items_listen::severity::{Bands, Compare, Scale, Severity};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

/// One evaluation, as the model keeps it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: i64,
    /// What the reading alone would be, and down to what the open severity is still held.
    target: Severity,
    /// What was said last, before this evaluation.
    open: Severity,
}

/// What the model says: when, what, from where to where.
type Said = (i64, Transition, Severity, Severity);

struct Model {
    compare: Compare,
    edges: [i64; 3],
    hold: i64,
    clear_hold: i64,
    recover: i64,
    repeat: Option<i64>,
    seen: Vec<Seen>,
    said: Vec<Said>,
}

impl Model {
    fn open(&self) -> Severity {
        self.said.last().map_or(Severity::Info, |(_, _, _, severity)| *severity)
    }

    /// Beyond an edge that lies at `percent` hundredths of a percent of the threshold.
    fn beyond(&self, count: i64, threshold: i64, percent: i64) -> bool {
        // Everything here is small: no overflow to think of.
        let (left, right) = (count * 10_000, threshold * percent);
        match self.compare {
            Compare::AtLeast => left >= right,
            Compare::Above => left > right,
            Compare::AtMost => left <= right,
            Compare::Below => left < right,
        }
    }

    fn severity(&self, count: i64, threshold: i64, recover: i64, up_to: Severity) -> Severity {
        let levels = [(Severity::Critical, 2), (Severity::High, 1), (Severity::Warning, 0)];
        let empty = self.compare.is_low() && count <= 0;
        if empty {
            return up_to;
        }
        let reached = levels
            .into_iter()
            .find(|(severity, index)| *severity <= up_to && self.beyond(count, threshold, self.edges[*index] * recover));
        reached.map_or(Severity::Info, |(severity, _)| severity)
    }

    fn evaluate(&mut self, at: i64, count: i64, threshold: Option<i64>, gone: bool) {
        // Time never runs backwards along what was said.
        let at = self.said.last().map_or(at, |(last, ..)| at.max(*last));
        let open = self.open();
        let threshold = threshold.filter(|threshold| self.compare.is_low() || *threshold > 0);
        let Some(threshold) = threshold.filter(|_| !gone) else {
            // Nothing stays open, and what begins again after this is another breach.
            self.seen.clear();
            if open != Severity::Info {
                self.say(at, open, Severity::Info);
            }
            return;
        };
        let reached = self.severity(count, threshold, 100, Severity::Critical);
        let held = self.severity(count, threshold, self.recover, open);
        let target = reached.max(held);
        self.seen.push(Seen { at, target, open });
        let due = match (open, target) {
            (open, target) if open == target => false,
            (Severity::Info, _) => at - self.since(|seen| seen.target > Severity::Info) >= self.hold,
            (open, target) if target > open => true,
            (open, _) => at - self.since(|seen| seen.target < open) >= self.clear_hold,
        };
        if due {
            return self.say(at, open, target);
        }
        let last = self.said.last().map(|(last, ..)| *last);
        if open != Severity::Info
            && let (Some(repeat), Some(last)) = (self.repeat, last)
            && at - last >= repeat
        {
            self.said.push((at, Transition::Repeated, open, open));
        }
    }

    /// Since when, without interruption and since the last word, it has been so.
    fn since(&self, so: impl Fn(&Seen) -> bool) -> i64 {
        let open = self.open();
        let run = self.seen.iter().rev().take_while(|seen| seen.open == open && so(seen));
        run.last().map_or(i64::MAX, |seen| seen.at)
    }

    fn say(&mut self, at: i64, from: Severity, to: Severity) {
        let transition = match (from, to) {
            (Severity::Info, _) => Transition::Raised,
            (_, Severity::Info) => Transition::Resolved,
            (from, to) if to > from => Transition::Escalated,
            _ => Transition::Eased,
        };
        self.said.push((at, transition, from, to));
        // What was seen before counts for nothing any more.
        self.seen.clear();
    }
}

fn second(at: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + at).expect("in range")
}

proptest! {
    #![proptest_config(crate::thorough())]

    /// Whatever the policy and whatever comes: both say the same, at the same times.
    #[test]
    fn the_state_machine_says_what_the_history_says(
        which in 0usize..4,
        hold in 0i64..6,
        clear_hold in 0i64..6,
        recover in 60i64..=100,
        repeat in prop::option::of(1i64..8),
        history in prop::collection::vec((0i64..5, -3i64..60, 0u8..12), 1..40),
    ) {
        let compare = Compare::ALL[which];
        let low = compare.is_low();
        let (edges, recover) = if low { ([100, 50, 20], 200 - recover) } else { ([100, 120, 150], recover) };
        let duration = SignedDuration::from_secs;
        let policy = Policy {
            scale: Scale { compare, bands: if low { Bands::FALLING } else { Bands::RISING } },
            hold: duration(hold),
            recover: u32::try_from(recover).expect("small"),
            clear_hold: duration(clear_hold),
            repeat: repeat.map(duration),
        };
        let mut model = Model { compare, edges, hold, clear_hold, recover, repeat, seen: Vec::new(), said: Vec::new() };
        let (mut state, mut at, mut said): (State, i64, Vec<Said>) = (State::NEW, 0, Vec::new());
        for (pause, count, special) in history {
            at += pause;
            let (threshold, gone) = match special { 0 => (None, false), 1 => (Some(0), false), 2 => (Some(20), true), 3 => (Some(35), false), _ => (Some(20), false) };
            let reading = Reading { count, threshold, gone, rejudged: false };
            let (next, change) = step(&state, reading, &policy, second(at));
            if let Some(change) = change {
                prop_assert_eq!(change.previous, state.severity);
                prop_assert_eq!(change.severity, next.severity);
                let last = next.last_at.expect("it says when").as_second() - 1_700_000_000;
                said.push((last, change.transition, change.previous, change.severity));
            }
            model.evaluate(at, count, threshold, gone);
            prop_assert_eq!(&said, &model.said);
            state = next;
        }
    }

    /// Evaluated again at its deadline, a state moves; evaluated again before it, it does not.
    #[test]
    fn a_deadline_is_when_something_is_to_be_said_and_not_before(
        hold in 0i64..6, clear_hold in 0i64..6, repeat in prop::option::of(1i64..8),
        history in prop::collection::vec((0i64..5, 0i64..60), 1..20),
    ) {
        let duration = SignedDuration::from_secs;
        let policy = Policy {
            scale: Scale { compare: Compare::AtLeast, bands: Bands::RISING },
            hold: duration(hold), recover: 100, clear_hold: duration(clear_hold), repeat: repeat.map(duration),
        };
        let (mut state, mut at) = (State::NEW, 0);
        for (pause, count) in history {
            at += pause;
            let reading = Reading { count, threshold: Some(20), gone: false, rejudged: false };
            state = step(&state, reading, &policy, second(at)).0;
            if let Some(deadline) = state.deadline {
                prop_assert!(deadline >= second(at), "nothing that is due is left waiting");
                prop_assert!(step(&state, reading, &policy, deadline).1.is_some());
                let before = deadline - SignedDuration::from_millis(1);
                if before >= second(at) {
                    prop_assert_eq!(step(&state, reading, &policy, before).1, None);
                }
            } else {
                prop_assert_eq!(step(&state, reading, &policy, second(at + 1_000_000)).1, None);
            }
        }
    }
}
