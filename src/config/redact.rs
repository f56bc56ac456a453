//! What may be shown of a connection string or URL.
//!
//! Pure, and cautious: what is not understood is not shown at all.

/// What stands in the place of a secret.
pub const HIDDEN: &str = "***";

/// A database's connection string or an endpoint's URL without what is secret in it, and whether anything was.
///
/// Of a database's user and password only the password is secret, of an endpoint's both, since a name may be a token there;
/// of parameters, those whose name speaks of a password.
pub fn address(text: &str) -> (String, bool) {
    let text = text.trim();
    let shown = match text.split_once("://") {
        Some((scheme, rest)) => url(rest, scheme.starts_with("postgres")).map(|rest| format!("{scheme}://{rest}")),
        None if text.contains('=') => pairs(text),
        // "log:" and the like: no room for a secret.
        None => Some(text.to_owned()).filter(|text| !text.contains('@')),
    };
    let shown = shown.unwrap_or_else(|| HIDDEN.to_owned());
    let hidden = shown != text;
    (shown, hidden)
}

/// What follows `scheme://`. tokio-postgres ends the credentials at the first `@`, a URL at the last before the path: so the
/// last `@` of all is taken, and everything between the first colon and it is hidden.
fn url(rest: &str, shows_user: bool) -> Option<String> {
    let (base, query) = rest.split_once('?').map_or((rest, None), |(base, query)| (base, Some(query)));
    // An `@` in the query may belong to a password that has a `?` in it.
    if query.is_some_and(|query| query.contains('@')) {
        return None;
    }
    let base = match base.rsplit_once('@') {
        Some((_, place)) if !shows_user => format!("{HIDDEN}@{place}"),
        Some((credentials, place)) => match credentials.split_once(':') {
            Some((user, _)) => format!("{user}:{HIDDEN}@{place}"),
            None => base.to_owned(),
        },
        None => base.to_owned(),
    };
    Some(match query {
        Some(query) => format!("{base}?{}", query.split('&').map(parameter).collect::<Vec<_>>().join("&")),
        None => base,
    })
}

fn parameter(pair: &str) -> String {
    match pair.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={HIDDEN}"),
        _ => pair.to_owned(),
    }
}

/// A name may be percent-encoded: one that is, is not trusted.
fn is_secret(name: &str) -> bool {
    name.contains('%') || name.to_ascii_lowercase().contains("pass")
}

/// libpq's `name=value name='quoted value'`, by the grammar that tokio-postgres reads.
fn pairs(text: &str) -> Option<String> {
    let mut shown: Vec<String> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = value(after.trim_start())?;
        let name = name.trim();
        if name.contains(char::is_whitespace) {
            return None;
        }
        shown.push(if is_secret(name) { format!("{name}={HIDDEN}") } else { format!("{name}={value}") });
        rest = after.trim_start();
    }
    Some(shown.join(" "))
}

/// The value at the beginning, as it is written, and what follows it.
fn value(text: &str) -> Option<(&str, &str)> {
    let quoted = text.starts_with('\'');
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(usize::from(quoted)) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return Some(text.split_at(at + 1)),
            c if !quoted && c.is_whitespace() => return Some(text.split_at(at)),
            _ => {}
        }
    }
    // A quote that does not end is nothing that could be read.
    (!quoted && !escaped).then_some((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown_wherever_it_stands() {
        for (text, shown) in [
            ("postgres://app@db/shop", "postgres://app@db/shop"),
            ("postgres://app:hush@db/shop?sslmode=require", "postgres://app:***@db/shop?sslmode=require"),
            ("postgresql://app:hu@sh@db:5433/shop", "postgresql://app:***@db:5433/shop"),
            ("postgres://app:hu/sh:hush@db/shop", "postgres://app:***@db/shop"),
            ("postgres://:hush@db/shop", "postgres://:***@db/shop"),
            ("postgres://db/shop?user=app&password=hush", "postgres://db/shop?user=app&password=***"),
            ("postgres://db/shop?PassWord=hush", "postgres://db/shop?PassWord=***"),
            ("postgres://db/shop?p%61ssword=hush", "postgres://db/shop?p%61ssword=***"),
            ("postgres://app:hu?sh@db/shop", "***"),
            ("host=db user=app password=hush dbname=shop", "host=db user=app password=*** dbname=shop"),
            (r"host='d b' password = 'it\'s hush' user=app", "host='d b' password=*** user=app"),
            (r"password=hu\ sh host=db", "password=*** host=db"),
            ("host=db password='hush", "***"),
            ("host=db hush password=x", "***"),
            ("https://user:hush@push.example.org/app", "https://***@push.example.org/app"),
            ("https://hush@push.example.org/app", "https://***@push.example.org/app"),
            ("log:", "log:"),
            ("app:hush@db", "***"),
        ] {
            assert_eq!(address(text), (shown.to_owned(), shown != text), "{text}");
        }
    }
}
