//! What comes from elsewhere, as it may be shown: a key, a row, an answer or an error may hold characters that steer a
//! terminal, begin another line, or make one name look like another.
//!
//! Pure. The one place that decides which characters those are: for what a person reads on a terminal or in a log they
//! are spelt out (`\u{1b}`); in JSON they are escaped as JSON has it, which changes nothing of what it says.

/// Whether a character is not itself shown: control characters of both sets (C0, DEL, C1), line separators, marks that turn
/// the direction of a text, and what takes no room.
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text on one line, with what steers spelt out.
pub fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// JSON with what steers escaped in it. Its line breaks stay: in JSON text they are never part of a value.
pub fn json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || !steers(c) {
            shown.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            shown.push_str(&format!("\\u{unit:04x}"));
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_steers_is_spelt_out() {
        assert_eq!(plain("a\u{1b}]52;c;x\u{7}\r\n\u{9b}2J"), "a\\u{1b}]52;c;x\\u{7}\\r\\n\\u{9b}2J");
        assert_eq!(plain("Grüße, 漢字 🦀 שלום e\u{301} \\n"), "Grüße, 漢字 🦀 שלום e\u{301} \\n");
        assert_eq!(plain("gnp.\u{202e}exe\u{2066}\u{e0041}"), "gnp.\\u{202e}exe\\u{2066}\\u{e0041}");
        assert_eq!(json("{\n\"a\": \"\u{7f}\u{85}\u{202e}\u{e0041}\"}"), "{\n\"a\": \"\\u007f\\u0085\\u202e\\udb40\\udc41\"}");
    }

    proptest! {
        #[test]
        fn nothing_that_steers_is_left_and_json_says_the_same(text in prop_oneof![any::<String>(), "[\u{0}-\u{200}\u{2000}-\u{206f}\u{e0000}-\u{e007f}]{0,40}"]) {
            prop_assert!(!plain(&text).chars().any(steers));
            let value = serde_json::json!({ text.as_str(): [text.as_str()] });
            let shown = json(&value.to_string());
            prop_assert!(!shown.chars().any(steers));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), value);
        }
    }
}
