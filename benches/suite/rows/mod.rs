//! The rows, in the order of the table of goals. A row is a module with one function; it stands here three times.

mod deliveries;
mod latency;
mod statements;
mod writes;

use crate::context::Context;
use crate::figure::Figure;

/// What `--only` may name.
pub const NAMES: [&str; 4] = ["writes", "statements", "latency", "deliveries"];

/// Measures a row.
pub async fn run(name: &str, context: &Context) -> Vec<Figure> {
    match name {
        "writes" => writes::run(context).await,
        "statements" => statements::run(context).await,
        "latency" => latency::run(context).await,
        "deliveries" => deliveries::run(context).await,
        _ => Vec::new(),
    }
}
