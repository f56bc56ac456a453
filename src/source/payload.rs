//! The payload of a notify watch: a bare integer, or JSON `{"count": 25, "key": {…}}`.
//!
//! Pure. What is neither is refused with a sentence; the caller logs, counts and skips it.

use serde_json::{Map, Value};

use crate::watch::Key;

/// Reads a payload for a watch with these key columns.
///
/// # Errors
/// Why it is neither.
pub fn parse(payload: &str, columns: &[String]) -> Result<(Key, i64), String> {
    let payload = payload.trim();
    if let Ok(count) = payload.parse::<i64>() {
        return Ok((key(&Map::new(), columns)?, count));
    }
    let Ok(Value::Object(object)) = serde_json::from_str::<Value>(payload) else {
        return Err("neither a whole number nor a JSON object with count".to_owned());
    };
    let count = match object.get("count") {
        Some(Value::Number(number)) => number.as_i64().ok_or("count is no whole number that fits 64 bits")?,
        Some(_) => return Err("count is no number".to_owned()),
        None => return Err("count is missing".to_owned()),
    };
    match object.get("key") {
        None | Some(Value::Null) => Ok((key(&Map::new(), columns)?, count)),
        Some(Value::Object(given)) => Ok((key(given, columns)?, count)),
        Some(_) => Err("key is no object".to_owned()),
    }
}

fn key(given: &Map<String, Value>, columns: &[String]) -> Result<Key, String> {
    if columns.is_empty() && !given.is_empty() {
        return Err("it has a key, but the watch has none: add key = [\"…\"] to it".to_owned());
    }
    Key::from_object(columns, given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bare_integer_or_an_object() {
        let whole: [String; 0] = [];
        let keyed = ["tenant_id".to_owned()];
        assert_eq!(parse(" 25\n", &whole).map(|(key, count)| (key.text, count)), Ok(("[]".into(), 25)));
        assert_eq!(parse(r#"{"count":-3}"#, &whole).map(|(_, count)| count), Ok(-3));
        let (key, count) = parse(r#"{"count":25,"key":{"tenant_id":7},"more":1}"#, &keyed).expect("a keyed reading");
        assert_eq!((key.text.as_str(), count), ("[7]", 25));
        for bad in [
            "",
            "x",
            "1.5",
            "[1]",
            "{}",
            r#"{"count":"1"}"#,
            r#"{"count":1.5}"#,
            r#"{"count":1,"key":3}"#,
            "99999999999999999999",
        ] {
            assert!(parse(bad, &whole).is_err(), "{bad}");
        }
        assert!(parse("25", &keyed).is_err(), "which tenant's?");
        assert!(parse(r#"{"count":1,"key":{"tenant_id":7}}"#, &whole).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(payload in ".{0,200}") {
            let _either = parse(&payload, &[]);
        }

        #[test]
        fn every_integer_is_a_reading(count: i64) {
            prop_assert_eq!(parse(&count.to_string(), &[]).map(|(_, count)| count), Ok(count));
        }
    }
}
