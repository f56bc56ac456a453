//! Coalescing: of changes that follow one another the first is told at once, and the others as one event at the end of
//! the time given.
//!
//! Pure. Times are the database's and come as arguments.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

/// When the next event of an audience may go out: at once, or when the time since the last one is over.
pub fn due(last_due: Option<Timestamp>, coalesce: SignedDuration, now: Timestamp) -> Timestamp {
    let Some(next) = last_due.and_then(|last| last.checked_add(coalesce).ok()) else { return now };
    // A clock that was set back must not hold anything up for longer than was asked for.
    let latest = now.checked_add(coalesce).unwrap_or(now);
    next.clamp(now, latest)
}

/// What two events say together: lists are united, other leaves are the later one's.
pub fn unite(earlier: Value, later: Value) -> Value {
    match (earlier, later) {
        (Value::Object(earlier), Value::Object(later)) => Value::Object(unite_objects(earlier, later)),
        (Value::Array(earlier), Value::Array(later)) => {
            let mut united = earlier;
            for element in later {
                if !united.contains(&element) {
                    united.push(element);
                }
            }
            Value::Array(united)
        }
        (_, later) => later,
    }
}

fn unite_objects(earlier: Map<String, Value>, later: Map<String, Value>) -> Map<String, Value> {
    let mut united = earlier;
    for (name, value) in later {
        match united.get_mut(&name) {
            Some(before) => *before = unite(before.take(), value),
            None => drop(united.insert(name, value)),
        }
    }
    united
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + millis).expect("a time in range")
    }

    #[test]
    fn the_first_goes_at_once_and_the_next_when_the_time_is_over() {
        let half = SignedDuration::from_millis(500);
        assert_eq!(due(None, half, at(0)), at(0));
        assert_eq!(due(Some(at(0)), half, at(100)), at(500));
        assert_eq!(due(Some(at(500)), half, at(600)), at(1_000), "not before the last one's time is over");
        assert_eq!(due(Some(at(500)), half, at(1_000)), at(1_000));
        assert_eq!(due(Some(at(500)), half, at(9_000)), at(9_000));
        assert_eq!(due(Some(at(90_000)), half, at(0)), at(500), "a clock that was set back holds nothing up");
    }

    #[test]
    fn lists_are_united_and_the_later_wins() {
        assert_eq!(
            unite(
                json!({"contexts": ["a", "b"], "at": 1, "in": {"l": [1]}}),
                json!({"contexts": ["b", "c"], "at": 2, "in": {"l": [2]}})
            ),
            json!({"contexts": ["a", "b", "c"], "at": 2, "in": {"l": [1, 2]}})
        );
        assert_eq!(unite(json!([1]), json!("x")), json!("x"));
    }

    proptest! {
        #[test]
        fn whatever_came_when_no_two_are_closer_than_asked_and_none_later(gaps in prop::collection::vec(0i64..700, 1..50)) {
            let half = SignedDuration::from_millis(500);
            let (mut now, mut last) = (0, None);
            for gap in gaps {
                now += gap;
                let due = due(last, half, at(now));
                prop_assert!(due >= at(now) && due <= at(now + 500));
                // One that waits already takes this change in.
                if last.is_some_and(|last| last > at(now)) {
                    continue;
                }
                prop_assert!(last.is_none_or(|last| due.duration_since(last) >= half));
                last = Some(due);
            }
        }
    }
}
