//! The rows, in the order of the table of goals. A row is a module with one function; it stands here three times.

mod statements;

use crate::context::Context;
use crate::figure::Figure;

/// What `--only` may name.
pub const NAMES: [&str; 1] = ["statements"];

/// Measures a row.
pub async fn run(name: &str, context: &Context) -> Vec<Figure> {
    match name {
        "statements" => statements::run(context).await,
        _ => Vec::new(),
    }
}
