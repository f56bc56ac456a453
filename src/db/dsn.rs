//! A connection string as names and values, in both of libpq's forms.
//!
//! Pure. tokio-postgres reads connection strings too, but refuses those parameters of libpq's that it does not know. So
//! what is about TLS is taken out here, by the same grammar, and the rest is given to it.

/// What a URL begins with.
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// A connection string, in parts. Its values may be secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Dsn {
    form: Form,
    /// Names and values, decoded, in the order in which they stand there.
    pairs: Vec<(String, String)>,
}

#[derive(Clone, PartialEq, Eq)]
enum Form {
    /// `postgres://user:password@host:port/database`, whose pairs are what follows `?`.
    Url(String),
    /// `name=value name='value'`
    Pairs,
}

impl std::fmt::Debug for Dsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dsn").finish_non_exhaustive()
    }
}

impl Dsn {
    /// Takes a connection string apart.
    ///
    /// # Errors
    /// What is wrong, without repeating anything that may be secret.
    pub fn parse(text: &str) -> Result<Dsn, String> {
        let text = text.trim();
        match SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)) {
            Some(rest) => Dsn::of_url(text, rest),
            None if text.contains("://") => {
                Err("the scheme is neither postgres:// nor postgresql://, and name=value pairs begin with no scheme".to_owned())
            }
            None => Ok(Dsn { form: Form::Pairs, pairs: pairs(text)? }),
        }
    }

    fn of_url(text: &str, rest: &str) -> Result<Dsn, String> {
        // The credentials end at the first @: a password may have any other character in it, a ? too.
        let credentials = rest.find('@').map_or("", |at| &rest[..=at]);
        let after = &rest[credentials.len()..];
        // What is meant for a part of the password would be taken for a host, a name or a parameter, and be shown.
        if after.contains('@') || credentials.split_once('/').is_some_and(|(_, after)| after.contains('?')) {
            return Err("there is an @ too many: write it as %40, and in a user or password / as %2F and ? as %3F".to_owned());
        }
        let Some((place, query)) = after.split_once('?') else {
            return Ok(Dsn { form: Form::Url(text.to_owned()), pairs: Vec::new() });
        };
        let base = text[..text.len() - after.len() + place.len()].to_owned();
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').ok_or("a parameter behind the ? has no =")?;
            Ok((decoded(name)?, decoded(value)?))
        };
        let pairs = query.split('&').filter(|part| !part.is_empty()).map(pair).collect::<Result<_, String>>()?;
        Ok(Dsn { form: Form::Url(base), pairs })
    }

    /// The names of its parameters.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pairs.iter().map(|(name, _)| name.as_str())
    }

    /// Takes a parameter out. One that is empty says nothing, as with libpq.
    ///
    /// # Errors
    /// It stands there twice.
    pub fn take(&mut self, name: &str) -> Result<Option<String>, String> {
        let mut found: Vec<String> = Vec::new();
        self.pairs.retain_mut(|(candidate, value)| {
            let is_it = candidate == name;
            if is_it {
                found.push(std::mem::take(value));
            }
            !is_it
        });
        match found.len() {
            0 | 1 => Ok(found.pop().filter(|value| !value.is_empty())),
            _ => Err(format!("{name} is given twice")),
        }
    }

    /// Gives every parameter of this name another value.
    pub fn replace(&mut self, name: &str, with: impl Fn(&str) -> String) {
        for (_, value) in self.pairs.iter_mut().filter(|(candidate, value)| candidate == name && !value.is_empty()) {
            *value = with(value);
        }
    }

    /// The connection string again.
    pub fn text(&self) -> String {
        let pairs = |encode: fn(&str) -> String, between: &str| {
            self.pairs.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join(between)
        };
        match &self.form {
            Form::Url(base) if self.pairs.is_empty() => base.clone(),
            Form::Url(base) => format!("{base}?{}", pairs(encoded, "&")),
            Form::Pairs => pairs(quoted, " "),
        }
    }
}

/// libpq's `name=value name = 'quoted value'`; a backslash takes the next character as it is.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let after = after.trim_start().strip_prefix('=').filter(|_| !name.is_empty());
        let after = after.ok_or("name=value pairs are wanted, or a URL that begins with postgres://")?;
        let (value, after) = value(after.trim_start())?;
        pairs.push((name.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// The value at the beginning, and what follows it.
fn value(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let quoted = text.starts_with('\'');
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => value.extend(characters.next().map(|(_, next)| next)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err("a quote is opened and not closed".to_owned()) } else { Ok((value, "")) }
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Percent-decoded; a + is a +, as with libpq.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(digits.ok_or("two hexadecimal digits are wanted behind each % (a % itself is %25)")?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| "what is percent-encoded is not UTF-8".to_owned())
}

fn encoded(value: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/:,".contains(byte);
    value.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str, name: &str) -> (Option<String>, String) {
        let mut dsn = Dsn::parse(text).expect("a connection string");
        let value = dsn.take(name).expect("once");
        (value, dsn.text())
    }

    #[test]
    fn a_parameter_is_found_where_it_stands_and_not_inside_another() {
        for (text, name, value, rest) in [
            ("postgres://u@h/d", "sslmode", None, "postgres://u@h/d"),
            ("postgres://u@h/d?sslmode=require", "sslmode", Some("require"), "postgres://u@h/d"),
            ("postgres://u@h/d?a=b&sslmode=require&c=%20d", "sslmode", Some("require"), "postgres://u@h/d?a=b&c=%20d"),
            ("postgres://u@h/d?sslrootcert=%2Fx%2By+z.pem", "sslrootcert", Some("/x+y+z.pem"), "postgres://u@h/d"),
            ("postgres://u:p?sslmode=x@h/d?sslmode=y", "sslmode", Some("y"), "postgres://u:p?sslmode=x@h/d"),
            ("postgres://u@h/d?options=-c%20sslmode=x", "sslmode", None, "postgres://u@h/d?options=-c%20sslmode%3Dx"),
            ("postgres://u@h/d?ssl%6Dode=disable", "sslmode", Some("disable"), "postgres://u@h/d"),
            (
                "host=h password='a sslmode=disable b' sslmode = require",
                "sslmode",
                Some("require"),
                "host='h' password='a sslmode=disable b'",
            ),
            (r"password='it\'s sslmode=x' host=h", "sslmode", None, r"password='it\'s sslmode=x' host='h'"),
            (r"password=a\ sslmode=x host=h", "sslmode", None, r"password='a sslmode=x' host='h'"),
            (r"sslkey='C:\\a b' host=h", "sslkey", Some(r"C:\a b"), "host='h'"),
            ("xsslmode=disable host=h", "sslmode", None, "xsslmode='disable' host='h'"),
            ("host=h sslrootcert=''", "sslrootcert", None, "host='h'"),
        ] {
            assert_eq!(taken(text, name), (value.map(str::to_owned), rest.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_refused_and_not_repeated() {
        for text in [
            "mysql://u:hush@h/d",
            "postgres://u:a/hush?b@h/d",
            "postgres://h/d?sslmode=verify-full&user=hush@b",
            "postgres://u@h/d?hush",
            "postgres://u@h/d?x=%zhush",
            "postgres://u@h/d?x=%ff",
            "host=h password='hush",
            "hush",
            "=hush",
        ] {
            let said = Dsn::parse(text).expect_err(text);
            assert!(!said.contains("hush"), "{text}: {said}");
        }
        let twice = Dsn::parse("host=h sslmode=verify-full sslmode=disable").expect("pairs").take("sslmode");
        assert_eq!(twice, Err("sslmode is given twice".to_owned()));
    }
}
