//! The database: how sessions are opened, what they set, and the schema they rely on.

pub mod alive;
pub mod answers;
pub mod authentication;
pub mod connect;
pub mod dsn;
pub mod explain;
pub mod holder;
pub mod horizon;
pub mod locks;
pub mod migrate;
pub mod patience;
pub mod pool;
pub mod prepare;
pub mod rights;
pub mod schema;
pub mod session;
pub mod socket;
pub mod sslmode;
pub mod tls;
pub mod verify;

/// Quotes an identifier for SQL.
pub fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A dollar quote that nothing in the text ends.
pub fn unused_tag(name: &str, text: &str) -> String {
    let tags = std::iter::once(format!("${name}$")).chain((0..).map(|n| format!("${name}_{n}$")));
    tags.into_iter().find(|tag| !text.contains(tag.as_str())).unwrap_or_default()
}

/// Quotes a string literal for SQL, whatever `standard_conforming_strings` is where it is read: in a trigger that is the
/// writer's, and in a script a DBA's.
pub fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!("E'{}'", doubled.replace('\\', r"\\")) } else { format!("'{doubled}'") }
}
