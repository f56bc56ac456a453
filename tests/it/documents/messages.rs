//! What the program says in its log, found in its source.

use std::collections::BTreeSet;
use std::path::Path;

/// The messages of every `tracing` line of that level, with "…" for what varies.
pub(super) fn of_level(directory: &Path, level: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory).expect("the source is read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(of_level(&path, level));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("the source is read");
            let begin = format!("tracing::{level}!(");
            let calls = text.split(&begin).skip(1);
            let literal = |rest| message(rest).unwrap_or_else(|| panic!("{}: no message in {rest:.200}", path.display()));
            found.extend(calls.map(literal).map(|literal| varying(&named(&text, &literal).unwrap_or(literal))));
        }
    }
    found
}

/// The first string literal among the macro's own arguments.
fn message(arguments: &str) -> Option<String> {
    let mut depth = 0;
    let mut rest = arguments.chars();
    loop {
        match rest.next()? {
            '(' => depth += 1,
            ')' if depth == 0 => return None,
            ')' => depth -= 1,
            '"' => {
                let literal = literal(&mut rest)?;
                if depth == 0 {
                    return Some(literal);
                }
            }
            _ => {}
        }
    }
}

/// The text of a message that is all in a variable, as `let` gives it.
fn named(source: &str, message: &str) -> Option<String> {
    let name = message.strip_prefix('{')?.strip_suffix('}')?;
    let (_, value) = source.split_once(&format!("let {name} = \""))?;
    literal(&mut value.chars())
}

/// The rest of a string literal, of which the quote has been read.
fn literal(rest: &mut std::str::Chars<'_>) -> Option<String> {
    let mut text = String::new();
    loop {
        match rest.next()? {
            '"' => return Some(text),
            '\\' => match rest.next()? {
                // A line that goes on.
                '\n' => {
                    let after = rest.as_str().trim_start();
                    *rest = after.chars();
                }
                escaped => text.push(escaped),
            },
            plain => text.push(plain),
        }
    }
}

/// "…" in the place of each `{}`.
fn varying(text: &str) -> String {
    let mut parts = text.split('{');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| format!("{text}…{}", part.split_once('}').map_or("", |(_, rest)| rest)))
}
