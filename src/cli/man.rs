//! `items-listen man`

use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use crate::error::Error;
use crate::version;

/// Prints the main page, or writes the pages of all commands into a directory.
pub(super) fn run(directory: Option<&Path>) -> Result<u8, Error> {
    // Its own option -V, not the long text: a page's foot has room for a number only.
    let mut main = super::Cli::command().version(version::VERSION).disable_help_subcommand(true);
    // Options that hold for all commands are then on each page, and names are whole: items-listen-deliveries-list.
    main.build();
    let Some(directory) = directory else {
        super::print_bytes(&page(&main)?);
        return Ok(0);
    };
    std::fs::create_dir_all(directory).map_err(|error| Error::Failed(format!("{}: {error}", directory.display())))?;
    write_all(&main, directory)?;
    Ok(0)
}

/// Writes the page of a command, and those of its own commands.
fn write_all(command: &Command, directory: &Path) -> Result<(), Error> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let path = directory.join(format!("{name}.1"));
    std::fs::write(&path, page(command)?).map_err(|error| Error::Failed(format!("{}: {error}", path.display())))?;
    command.get_subcommands().filter(|sub| sub.get_name() != "help").try_for_each(|sub| write_all(sub, directory))
}

fn page(command: &Command) -> Result<Vec<u8>, Error> {
    let mut page = Vec::new();
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let man = Man::new(command.clone().version(version::VERSION))
        .title(name.to_uppercase())
        .source(format!("items-listen {}", version::VERSION))
        // The commit's date and not today's: the same sources give the same page.
        .date(version::COMMIT_DATE)
        .manual("items-listen");
    man.render(&mut page).map_err(|error| Error::Failed(format!("the page of {name} cannot be made: {error}")))?;
    Ok(page)
}
