//! Channel names: injective, and always legal to Pusher or refused.

use items_listen::event::channel::{NAME_CHARS_MAX, encode, expand};
use items_listen::event::template::Text;
use minijinja::{Value, context};
use proptest::prelude::*;

/// The other way round, as nobody but this test needs it.
fn decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'=' {
            let hex = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn is_legal_to_pusher(name: &str) -> bool {
    let plain = name.strip_prefix('#').unwrap_or(name);
    let legal = |c: char| c.is_ascii_alphanumeric() || "_-=@,.;".contains(c);
    !plain.is_empty() && plain.chars().all(legal) && name.chars().count() <= NAME_CHARS_MAX
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        ".{0,12}".prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::from(())),
        prop::collection::vec(".{0,6}", 0..4).prop_map(Value::from),
    ]
}

proptest! {
    #![proptest_config(crate::thorough())]

    #[test]
    fn an_encoding_can_be_decoded_so_no_two_values_share_one(value in any::<String>()) {
        let encoded = encode(&value);
        prop_assert_eq!(decode(&encoded), Some(value));
        prop_assert!(encoded.chars().all(|c| c.is_ascii_alphanumeric() || "_-=".contains(c)));
    }

    /// Whatever values come: each name is legal, or all are refused; and what separates values is never part of one.
    #[test]
    fn names_are_legal_or_refused(a in any_value(), b in any_value(), literal in "[a-z.]{0,8}") {
        let text = Text::try_new_for_channel(&format!("{literal}.{{{{ a }}}}.{{{{ b }}}}")).expect("it compiles");
        let rendered = text.render(&context! { a => a, b => b }).expect("scalars, lists and null render");
        if let Ok(names) = expand(&rendered) {
            let dots = literal.matches('.').count() + 2;
            for name in names {
                prop_assert!(is_legal_to_pusher(&name), "{}", name);
                prop_assert_eq!(name.matches('.').count(), dots, "{}", name);
            }
        }
    }

    /// Two pairs of values have one channel only if they are the same pair.
    #[test]
    fn no_value_forges_anothers_channel(a in "\\PC{1,8}", b in "\\PC{1,8}", c in "\\PC{1,8}", d in "\\PC{1,8}") {
        let name = |x: &str, y: &str| format!("t.{}.{}", encode(x), encode(y));
        prop_assert_eq!(name(&a, &b) == name(&c, &d), (&a, &b) == (&c, &d));
    }
}
