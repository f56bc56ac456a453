//! What this program is: its version, the commit it was built from, the compiler and the target. `build.rs` finds it out.

/// The version, by semantic versioning: `0.1.0`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, nine digits, with `-dirty` where the sources differed from it; `unknown` in a build without git.
pub const COMMIT: &str = env!("BUILD_COMMIT");

/// The commit's date, `2026-11-21`; `unknown` in a build without git.
pub const COMMIT_DATE: &str = env!("BUILD_COMMIT_DATE");

/// The compiler's version, as it names itself: `1.95.0 (f2d3ce0bd 2026-03-21)`.
pub const RUSTC: &str = env!("BUILD_RUSTC");

/// What it was built for: `x86_64-unknown-linux-gnu`.
pub const TARGET: &str = env!("BUILD_TARGET");

/// One line, for `-V`: `0.1.0 (28d9c67ab 2026-11-21)`.
pub const SHORT: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILD_COMMIT"), " ", env!("BUILD_COMMIT_DATE"), ")");

/// All of it, a line each, for `--version`.
pub const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("BUILD_COMMIT"),
    "\ncommit date: ",
    env!("BUILD_COMMIT_DATE"),
    "\nrustc: ",
    env!("BUILD_RUSTC"),
    "\ntarget: ",
    env!("BUILD_TARGET")
);
