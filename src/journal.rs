//! The journal: what triggers write, how it is folded into counts, and how counts are made exact.
//!
//! ```text
//!   definition ─▶ trigger ─▶ install        (what is put on the tables, and kept there)
//!   fold                                    (journal ─▶ count, and which keys to evaluate)
//!   recount                                 (the correction from one snapshot)
//! ```

pub mod columns;
pub mod definition;
mod expressions;
pub mod fold;
pub mod functions;
pub mod generation;
pub mod guard;
pub mod install;
pub mod locking;
pub mod reads;
pub mod recount;
pub mod retire;
pub mod roles;
pub mod script;
pub mod trigger;
