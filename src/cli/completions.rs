//! `items-listen completions`

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::error::Error;

/// Prints a script that makes a shell complete our commands and options.
pub(super) fn run(shell: Shell) -> Result<u8, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::Cli::command(), "items-listen", &mut script);
    super::print_bytes(&script);
    Ok(0)
}
