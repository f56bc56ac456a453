//! The binary: an exit code, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    items_listen::cli::main()
}
