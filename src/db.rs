//! The database: how sessions are opened, what they set, and the schema they rely on.

pub mod answers;
pub mod connect;
pub mod explain;
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
pub mod tls;

/// Quotes an identifier for SQL.
pub fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// Quotes a string literal for SQL.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
