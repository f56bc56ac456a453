//! Virtual time: a duration since the beginning of the test, written as it is in the file.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// When every test begins, for what tells a time of day: 2000-01-01T00:00:00Z.
const BEGINNING: Timestamp = Timestamp::constant(946_684_800, 0);

/// No test goes on for longer: a thousand years would still be within what a timestamp can be.
pub const LONGEST: SignedDuration = SignedDuration::from_hours(24 * 36_500);

/// The time of day.
pub fn timestamp(at: SignedDuration) -> Timestamp {
    BEGINNING.checked_add(at).unwrap_or(Timestamp::MAX)
}

/// The time since the beginning.
pub fn since_beginning(at: Timestamp) -> SignedDuration {
    at.duration_since(BEGINNING)
}

/// In the largest unit that divides it: "500ms", "10s", "5m", "24h", "30d".
pub fn show(at: SignedDuration) -> String {
    const UNITS: [(i128, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let millis = at.as_millis();
    match UNITS.into_iter().find(|(unit, _)| millis % unit == 0) {
        Some(_) if millis == 0 => "0s".to_owned(),
        Some((unit, name)) => format!("{}{name}", millis / unit),
        None => format!("{millis}ms"),
    }
}

/// The same as a value that can be compared.
pub fn shown(at: SignedDuration) -> Value {
    Value::from(show(at))
}
