//! The rows, in the order of the table of goals. A row is a module with one function; it stands here three times.

mod dead;
mod deliveries;
mod doorbell;
mod fold;
mod growth;
mod idle;
mod latency;
mod memory;
mod recount;
mod replicas;
mod start;
mod statements;
mod writes;

use crate::context::Context;
use crate::figure::Figure;

/// What `--only` may name.
pub const NAMES: [&str; 13] = [
    "writes",
    "statements",
    "latency",
    "deliveries",
    "fold",
    "dead",
    "recount",
    "idle",
    "memory",
    "start",
    "replicas",
    "doorbell",
    "growth",
];

/// Measures a row.
pub async fn run(name: &str, context: &Context) -> Vec<Figure> {
    match name {
        "writes" => writes::run(context).await,
        "statements" => statements::run(context).await,
        "latency" => latency::run(context).await,
        "deliveries" => deliveries::run(context).await,
        "fold" => fold::run(context).await,
        "dead" => dead::run(context).await,
        "recount" => recount::run(context).await,
        "idle" => idle::run(context).await,
        "memory" => memory::run(context).await,
        "start" => start::run(context).await,
        "replicas" => replicas::run(context).await,
        "doorbell" => doorbell::run(context).await,
        "growth" => growth::run(context).await,
        _ => Vec::new(),
    }
}
