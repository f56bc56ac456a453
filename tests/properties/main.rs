//! What is pure, over a hundred thousand random histories each, against models that are too simple to be wrong.
//!
//! The models say the same in another way: the state machine's looks back over the whole history at every step instead
//! of remembering, the schedule's multiplies, the encoding's decodes.

mod machine;
mod names;
mod schedule;

use proptest::prelude::ProptestConfig;

/// So many histories per property.
pub(crate) fn thorough() -> ProptestConfig {
    ProptestConfig { cases: 100_000, failure_persistence: None, ..ProptestConfig::default() }
}
