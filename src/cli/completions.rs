//! `items-listen completions`

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::error::Error;

const NAME: &str = "items-listen";
/// In bash's script `clap_complete` 4.6 spells a program with a dash in its name in two ways, so that nothing is completed
/// after a command. It gets a name without one, and the script is then registered for ours.
const NAME_FOR_BASH: &str = "items_listen";

/// Prints a script that makes a shell complete our commands and options.
pub(super) fn run(shell: Shell) -> Result<u8, Error> {
    let name = if shell == Shell::Bash { NAME_FOR_BASH } else { NAME };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::Cli::command(), name, &mut script);
    let script = String::from_utf8_lossy(&script).replace(&format!(" default {NAME_FOR_BASH}\n"), &format!(" default {NAME}\n"));
    super::print(script.trim_end());
    Ok(0)
}
