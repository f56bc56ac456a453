//! `items-listen check`: file, database, endpoints; every finding with its remedy, a verdict, and the next command.
//!
//! It changes nothing: what it asks the database is read only, rolled back, or a notification to itself.

mod database;
mod encryption;
mod endpoints;
mod file;
mod finding;
mod locked;
mod privileges;
mod progress;
mod report;
mod safety;
mod schema;
mod server;
mod steps;
mod watches;

use clap::Args;

use crate::config::{self, Location};
use crate::error::Error;
use finding::{Findings, Id, Level};
use report::Seen;

/// What to look at.
#[derive(Args, Debug, Clone, Copy)]
pub(super) struct Check {
    /// The file only
    #[arg(long)]
    offline: bool,
    /// Compare the counts with the tables, too: each is read once, in one snapshot
    #[arg(long, conflicts_with = "offline")]
    recount: bool,
    /// The findings as JSON
    #[arg(long)]
    json: bool,
}

/// Looks at everything: 1 if something needs a hand, 69 if something cannot be reached, 78 if the schema is newer.
pub(super) async fn run(location: &Location, args: Check) -> Result<u8, Error> {
    let config = match config::load(location) {
        Err(Error::Config(mistakes)) => return Err(mistaken(mistakes, location, args.json)),
        loaded => loaded?,
    };
    let (mut findings, mut seen) = (Findings::default(), Seen::default());
    file::look(&config, &mut findings);
    if !args.offline {
        // Side by side: whatever is in the way is said within seconds.
        let (database, endpoints) = tokio::join!(Box::pin(database::look(&config, args.recount)), endpoints::look(&config));
        seen = database.1;
        findings.extend(database.0);
        findings.extend(endpoints);
    }
    let next = report::next(&findings, seen, &config, location);
    report::show(&findings, &report::verdict(&findings), &next, args.json);
    let too_new = findings.all.iter().any(|finding| finding.id == Id::SchemaVersion && finding.level == Level::Error);
    Ok(match (too_new, findings.unreachable, findings.is_well()) {
        (true, _, _) => 78,
        (false, true, _) => 69,
        (false, false, false) => 1,
        (false, false, true) => 0,
    })
}

/// A configuration that is wrong: whoever wants JSON gets its mistakes as findings.
fn mistaken(mistakes: Vec<config::Mistake>, location: &Location, json: bool) -> Error {
    if json {
        let mut findings = Findings::default();
        for mistake in &mistakes {
            findings.error(Id::ConfigFile, "file", mistake.to_string(), "correct it in the configuration");
        }
        let next = format!("{} check --offline", report::program(location));
        report::show(&findings, &report::verdict(&findings), &next, true);
    }
    Error::Config(mistakes)
}
