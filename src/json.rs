//! Reading JSON that PostgreSQL wrote: its numbers may be larger than any that we have, a column of type `json` may be nested
//! deeper than can be read, and hold halves of a character (`\ud800`).
//!
//! Pure.

use serde_json::{Map, Value};

/// A value that is nested deeper is given as text.
const DEPTH_MAX: usize = 100;

/// An object. A number that does not fit, and a value that is nested too deep, are given as text, and half a character is
/// U+FFFD: nothing that somebody wrote into one column takes the others away.
///
/// # Errors
/// It is no object.
pub fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).or_else(|_| serde_json::from_str(&readable(text))).map_err(|error| error.to_string())
}

fn readable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let (mut rest, mut depth, mut deepest) = (text, 0_usize, 0);
    // Where the value of a column begins, here and there.
    let mut begun = (0, 0);
    while let Some(c) = rest.chars().next() {
        let at = text.len() - rest.len();
        let taken = match c {
            '"' => string_length(rest),
            '-' | '0'..='9' => rest.find(|c: char| !c.is_ascii_digit() && !"+-.eE".contains(c)).unwrap_or(rest.len()),
            _ => c.len_utf8(),
        };
        let (token, after) = rest.split_at(taken);
        rest = after;
        match c {
            '"' => shown.push_str(&whole_characters(token)),
            '-' | '0'..='9' if is_large(token) => shown.push_str(&format!("\"{token}\"")),
            '{' | '[' => {
                if depth == 1 {
                    (begun, deepest) = ((at, shown.len()), depth);
                }
                depth += 1;
                deepest = deepest.max(depth);
                shown.push(c);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                shown.push(c);
                if depth == 1 && deepest > DEPTH_MAX {
                    shown.truncate(begun.1);
                    shown.push_str(&Value::from(&text[begun.0..=at]).to_string());
                }
            }
            _ => shown.push_str(token),
        }
    }
    shown
}

fn is_large(number: &str) -> bool {
    /// Longer ones, and those with an exponent, may be too large; shorter ones are not.
    const DIGITS_SAFE: usize = 15;
    (number.len() > DIGITS_SAFE || number.contains(['e', 'E'])) && serde_json::from_str::<Value>(number).is_err()
}

/// A text in quotes in which what is escaped is whole: a high surrogate that no low one follows, or the reverse, is none.
fn whole_characters(quoted: &str) -> String {
    let unit = |text: &str| u32::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok();
    let mut whole = String::with_capacity(quoted.len());
    let mut rest = quoted;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        whole.push_str(before);
        let taken = match unit(escape) {
            Some(0xd800..0xdc00) if matches!(escape.get(6..).and_then(unit), Some(0xdc00..0xe000)) => 12,
            Some(0xd800..0xe000) => {
                whole.push('\u{fffd}');
                rest = &escape[6..];
                continue;
            }
            Some(_) => 6,
            None => 1 + escape[1..].chars().next().map_or(0, char::len_utf8),
        };
        whole.push_str(&escape[..taken]);
        rest = &escape[taken..];
    }
    whole + rest
}

/// How many bytes the text in quotes has that a text begins with.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return at + 1,
            _ => escaped = false,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_number_that_does_not_fit_is_text() {
        let read = |text: &str| object(text).map(Value::Object);
        assert_eq!(read(r#"{"a": 1.5, "b": "1e400 \" 1e999"}"#), Ok(json!({"a": 1.5, "b": "1e400 \" 1e999"})));
        assert_eq!(
            read(r#"{"a": 1e400, "b": [-2e999, 7], "c": "\\"}"#),
            Ok(json!({"a": "1e400", "b": ["-2e999", 7], "c": "\\"}))
        );
        let long = format!("1{}", "0".repeat(400));
        assert_eq!(read(&format!("{{\"a\": {long}}}")), Ok(json!({"a": long})));
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        assert_eq!(
            read(&format!(r#"{{"a": {{"b": [[7]]}}, "c": {deep}, "d": 1}}"#)),
            Ok(json!({"a": {"b": [[7]]}, "c": deep, "d": 1}))
        );
        assert_eq!(
            read(r#"{"a": "\ud800x \udc00 \ud83e\udd80 \ud83e\\ud83e \\ud800 \u0000", "n": 1e400}"#),
            Ok(json!({"a": "\u{fffd}x \u{fffd} 🦀 \u{fffd}\\ud83e \\ud800 \u{0}", "n": "1e400"}))
        );
        assert!(object("[1]").is_err() && object("").is_err());
    }

    proptest! {
        #[test]
        fn whatever_comes_nothing_panics(text in "[-\\[\\]{}\"\\\\ud8c09:,1eE. \u{e9}]{0,60}") {
            let _either = object(&text);
        }
    }
}
