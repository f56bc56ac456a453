//! Reading JSON that PostgreSQL wrote: its numbers may be larger than any that we have.
//!
//! Pure.

use serde_json::{Map, Value};

/// An object. A number that does not fit is given as text, rather than nothing at all.
///
/// # Errors
/// It is no object, or is nested deeper than can be read.
pub fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text)
        .or_else(|_| serde_json::from_str(&with_large_numbers_quoted(text)))
        .map_err(|error| error.to_string())
}

fn with_large_numbers_quoted(text: &str) -> String {
    /// Longer ones, and those with an exponent, may be too large; shorter ones are not.
    const DIGITS_SAFE: usize = 15;
    let mut quoted = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            '"' => string_length(rest),
            '-' | '0'..='9' => {
                let length = rest.find(|c: char| !c.is_ascii_digit() && !"+-.eE".contains(c)).unwrap_or(rest.len());
                let number = &rest[..length];
                let is_large = length > DIGITS_SAFE || number.contains(['e', 'E']);
                if is_large && serde_json::from_str::<Value>(number).is_err() {
                    quoted.push_str(&format!("\"{number}\""));
                    rest = &rest[length..];
                    continue;
                }
                length
            }
            _ => c.len_utf8(),
        };
        quoted.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    quoted
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
        assert!(object("[1]").is_err() && object("").is_err());
    }
}
