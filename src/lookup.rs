//! A lookup: a question that an event asks the database before it is told, with the event's own values for parameters.
//!
//! Pure. `SELECT name FROM items WHERE id = :item_id` becomes `SELECT name FROM items WHERE id = $1`, with `item_id`
//! for its first parameter. What stands in quotes or in a comment is no parameter, nor is the `::` of a cast.

/// A lookup, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// With `$1`, `$2`, … for parameters.
    pub sql: String,
    /// The column that each of them stands for.
    pub parameters: Vec<String>,
}

/// A lookup may give so many rows; the columns of several are lists.
pub const ROWS_MAX: usize = 100;

impl Lookup {
    /// The statement around it: the answer's rows as JSON, and its columns, to know their names.
    pub fn statement(&self) -> String {
        format!(
            "SELECT row_to_json(items_listen_answer)::text, items_listen_answer.* FROM (\n{}\n) AS items_listen_answer LIMIT {}",
            self.sql,
            ROWS_MAX + 1
        )
    }

    /// Reads `:name` parameters.
    ///
    /// # Errors
    /// What is wrong with the text, in one line.
    pub fn parse(text: &str) -> Result<Lookup, String> {
        let text = text.trim().trim_end_matches(';');
        if text.trim().is_empty() {
            return Err("a SELECT is wanted".to_owned());
        }
        let mut lookup = Lookup { sql: String::with_capacity(text.len()), parameters: Vec::new() };
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let taken = opaque(rest)?.unwrap_or_else(|| match rest.strip_prefix(':').map(name_length) {
                Some(length) if length > 0 => {
                    let number = lookup.parameter(&rest[1..=length]);
                    rest = &rest[1 + length..];
                    // Beside a word or another dollar sign it would be read as part of it.
                    let joins = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$');
                    let before = if joins(lookup.sql.chars().last()) { " " } else { "" };
                    let after = if joins(rest.chars().next()) { " " } else { "" };
                    lookup.sql.push_str(&format!("{before}${number}{after}"));
                    0
                }
                // The second colon of a cast begins no parameter.
                Some(_) if rest.starts_with("::") => 2,
                _ => c.len_utf8(),
            });
            lookup.sql.push_str(&rest[..taken]);
            rest = &rest[taken..];
        }
        Ok(lookup)
    }

    fn parameter(&mut self, name: &str) -> usize {
        match self.parameters.iter().position(|known| known == name) {
            Some(at) => at + 1,
            None => {
                self.parameters.push(name.to_owned());
                self.parameters.len()
            }
        }
    }
}

/// How many bytes of a name a text begins with.
fn name_length(text: &str) -> usize {
    let starts = text.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    if starts { end } else { 0 }
}

/// How many bytes of quoted text or comment a text begins with, in which nothing means anything.
fn opaque(text: &str) -> Result<Option<usize>, String> {
    let within = |begin: usize, end: &str, what: &str| match text[begin..].find(end) {
        Some(at) => Ok(Some(begin + at + end.len())),
        None => Err(format!("{what} does not end")),
    };
    if text.starts_with('\'') {
        // A doubled quote ends one text and begins the next, which comes to the same.
        return within(1, "'", "a text in single quotes");
    }
    if let Some(escaped) = text.strip_prefix("E'").or_else(|| text.strip_prefix("e'")) {
        let mut characters = escaped.char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '\\' => drop(characters.next()),
                '\'' => return Ok(Some(2 + at + 1)),
                _ => {}
            }
        }
        return Err("a text in single quotes does not end".to_owned());
    }
    if text.starts_with('"') {
        return within(1, "\"", "a name in double quotes");
    }
    if text.starts_with("--") {
        return Ok(Some(text.find('\n').map_or(text.len(), |at| at + 1)));
    }
    if text.starts_with("/*") {
        return nested_comment(text).map(Some).ok_or_else(|| "a comment does not end".to_owned());
    }
    if let Some(after) = text.strip_prefix('$') {
        let tag = name_length(after);
        if after[tag..].starts_with('$') {
            let mark = &text[..tag + 2];
            return within(mark.len(), mark, "a text in dollar quotes");
        }
    }
    // A whole word at once, so that the E of a name is not taken for that of a text, nor a colon within a number.
    let word = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    Ok((word > 0).then_some(word))
}

fn nested_comment(text: &str) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> (String, Vec<String>) {
        let lookup = Lookup::parse(text).expect("a lookup");
        (lookup.sql, lookup.parameters)
    }

    #[test]
    fn names_become_numbers_and_the_rest_stays() {
        assert_eq!(
            parse("SELECT a::text, :id FROM t WHERE x = :id AND y=:tenant_id"),
            ("SELECT a::text, $1 FROM t WHERE x = $1 AND y=$2".into(), vec!["id".into(), "tenant_id".into()])
        );
        // Found by fuzzing: LIMIT$1 is a name, and $$1 begins a text.
        assert_eq!(parse("LIMIT:n").0, "LIMIT $1");
        assert_eq!(parse("$:n$ 'x'").0, "$ $1 $ 'x'");
        for same in [
            "SELECT ':no', \":no\", E'\\':no', $$:no$$, $x$ :no $x$ -- :no",
            "SELECT /* :no /* :no */ :no */ 1::int, x[1:2], '12:30'::time, 'it''s :no'",
            "SELECT name'x' :: text",
        ] {
            assert_eq!(parse(same), (same.to_owned(), vec![]), "{same}");
        }
        for bad in ["", " ", "SELECT ':id", "SELECT \"x", "SELECT $a$ x", "/* /* */", "SELECT E'\\'"] {
            assert!(Lookup::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_nothing_panics(text in "[-a'E\"$:/*\\\\ \u{e9}\n1]{0,40}") {
            let _either = Lookup::parse(&text);
        }
    }
}
