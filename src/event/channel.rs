//! Channel names: from a template to the legal names that it means, or a refusal.
//!
//! Pure. A value's bytes other than `A–Z a–z 0–9 _ -` become `=XX`, so that no value can add a `.`
//! and thereby name another's channel. A list makes one channel per element, null leaves it out.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, Output};

/// Pusher's limit, prefix included
/// (<https://pusher.com/docs/channels/using_channels/channels/#channel-naming-conventions>).
pub const NAME_CHARS_MAX: usize = 164;
/// How many channels one event may be published to.
pub const CHANNELS_MAX: usize = 100;

/// Marks, in rendered text, what a value meant; no value can contain it, since it is encoded.
const MARK: char = '\u{0}';

/// Whether a character may stand in a channel name.
pub fn is_legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-=@,.;".contains(c)
}

/// Writes a value of a channel template: encoded, and marked where it is a list or null.
pub fn format(out: &mut Output<'_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => write(out, &format!("{MARK}N")),
        ValueKind::Seq | ValueKind::Iterable => {
            write(out, &format!("{MARK}["))?;
            for (index, element) in value.try_iter()?.filter(|element| !element.is_none()).enumerate() {
                if index >= CHANNELS_MAX {
                    return Err(Error::new(ErrorKind::InvalidOperation, format!("a list of more than {CHANNELS_MAX} channels")));
                }
                if index > 0 {
                    write(out, &format!("{MARK},"))?;
                }
                write(out, &encode(&scalar(&element)?))?;
            }
            write(out, &format!("{MARK}]"))
        }
        _ => write(out, &encode(&scalar(value)?)),
    }
}

fn write(out: &mut Output<'_>, text: &str) -> Result<(), Error> {
    out.write_str(text).map_err(Error::from)
}

fn scalar(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::String | ValueKind::Number | ValueKind::Bool => Ok(value.to_string()),
        ValueKind::Undefined => Err(Error::new(ErrorKind::UndefinedError, "an undefined value in a channel name")),
        kind => Err(Error::new(ErrorKind::InvalidOperation, format!("a {kind} cannot be part of a channel name"))),
    }
}

/// Encodes one value.
pub fn encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("={byte:02X}"));
        }
    }
    encoded
}

/// The names that one rendered template means.
///
/// # Errors
/// The name that cannot be sent, and why.
pub fn expand(rendered: &str) -> Result<Vec<String>, String> {
    let mut names = vec![String::new()];
    let mut pieces = rendered.split(MARK);
    append(&mut names, pieces.next().unwrap_or_default());
    let mut elements: Option<Vec<String>> = None;
    for piece in pieces {
        let (mark, text) = piece.split_at(piece.chars().next().map_or(0, char::len_utf8));
        match mark {
            "N" => names.clear(),
            "[" => elements = Some(if text.is_empty() { Vec::new() } else { vec![text.to_owned()] }),
            "," => elements.get_or_insert_default().push(text.to_owned()),
            _ => {
                let values = elements.take().unwrap_or_default();
                if names.len().saturating_mul(values.len()) > CHANNELS_MAX {
                    return Err(format!("more than {CHANNELS_MAX} channels"));
                }
                names = names.iter().flat_map(|name| values.iter().map(move |value| format!("{name}{value}"))).collect();
                append(&mut names, text);
            }
        }
        if mark == "N" {
            append(&mut names, text);
        }
    }
    names.into_iter().map(checked).collect()
}

fn append(names: &mut [String], text: &str) {
    names.iter_mut().for_each(|name| name.push_str(text));
}

/// A name that can be sent.
///
/// # Errors
/// Why it cannot.
pub fn checked(name: String) -> Result<String, String> {
    let plain = name.strip_prefix('#').unwrap_or(&name);
    if plain.is_empty() {
        return Err("a channel name is empty".to_owned());
    }
    if let Some(illegal) = plain.chars().find(|&c| !is_legal(c)) {
        return Err(format!("the channel name \"{}\" has an illegal {illegal:?}", name.escape_debug()));
    }
    if name.chars().count() > NAME_CHARS_MAX {
        return Err(format!("the channel name {}… is longer than {NAME_CHARS_MAX} characters", &name[..40]));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::template::Text;
    use minijinja::context;
    use proptest::prelude::*;

    fn names(source: &str, context: &Value) -> Result<Vec<String>, String> {
        expand(&Text::try_new_for_channel(source)?.render(context)?)
    }

    #[test]
    fn values_are_encoded_lists_multiply_and_null_leaves_out() {
        let context = context! { a => "x.y", n => 7, list => vec!["1", "2"], none => (), empty => Vec::<i64>::new() };
        assert_eq!(names("private-t.{{ n }}.stock", &context), Ok(vec!["private-t.7.stock".into()]));
        assert_eq!(names("c.{{ a }}", &context), Ok(vec!["c.x=2Ey".into()]));
        assert_eq!(names("c.{{ list }}.d", &context), Ok(vec!["c.1.d".into(), "c.2.d".into()]));
        assert_eq!(names("{{ list }}.{{ list }}", &context), Ok(vec!["1.1".into(), "1.2".into(), "2.1".into(), "2.2".into()]));
        assert_eq!(names("c.{{ none }}.d", &context), Ok(vec![]));
        assert_eq!(names("c.{{ empty }}.d", &context), Ok(vec![]));
        assert!(names("c.{{ missing }}", &context).is_err());
        assert!(names("has space", &context).is_err());
        assert!(names(&"x".repeat(165), &context).is_err());
        // Found by fuzzing: the product is refused before it is made.
        let nine = context! { l => (0..9).collect::<Vec<i64>>() };
        assert!(names(&"{{ l }}.".repeat(12), &nine).is_err_and(|what| what.contains("more than 100 channels")));
        let many = context! { l => (0..1_000_000).collect::<Vec<i64>>() };
        assert!(names("{{ l }}", &many).is_err());
        assert_eq!(names("#server-to-user-{{ n }}", &context), Ok(vec!["#server-to-user-7".into()]));
    }

    proptest! {
        /// Two values never share an encoding, and an encoding is always legal.
        #[test]
        fn encoding_is_injective_and_legal(a in ".{0,20}", b in ".{0,20}") {
            prop_assert_eq!(encode(&a) == encode(&b), a == b);
            prop_assert!(encode(&a).chars().all(|c| is_legal(c) && c != '.'));
        }

        /// Values in a template separated by dots cannot forge one another's channel.
        #[test]
        fn dots_separate(a in ".{1,10}", b in ".{1,10}", c in ".{1,10}", d in ".{1,10}") {
            let render = |x: &str, y: &str| names("t.{{ x }}.{{ y }}", &context! { x => x, y => y });
            if let (Ok(left), Ok(right)) = (render(&a, &b), render(&c, &d)) {
                prop_assert_eq!(left == right, a == c && b == d);
            }
        }
    }
}
