//! What is said of the findings: line by line, a verdict, and the next command.

use serde::Serialize;

use super::file::{argument, trigger};
use super::finding::{Finding, Findings, Level};
use crate::cli::terminal::{Colour, Terminal};
use crate::cli::{plain, print, print_json};
use crate::config::{Config, Install, Location};

/// What the next command depends on, besides the findings.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// The database was looked into.
    pub(super) database: bool,
    /// `install` has something to do.
    pub(super) to_install: bool,
    /// Daemons that were heard of in the last ten seconds.
    pub(super) daemons: i64,
}

/// What `check --json` says.
#[derive(Debug, Serialize)]
struct Report<'a> {
    ok: bool,
    verdict: &'a str,
    next: &'a str,
    findings: &'a [Finding],
}

/// Prints everything.
pub(super) fn show(findings: &Findings, verdict: &str, next: &str, json: bool) {
    if json {
        let report = Report { ok: findings.is_well(), verdict, next, findings: &findings.all };
        print_json(&report);
        return;
    }
    let terminal = Terminal::of_stdout();
    for finding in &findings.all {
        let (mark, colour) = match finding.level {
            Level::Ok => ("ok     ", Colour::Good),
            Level::Info => ("info   ", Colour::Faint),
            Level::Warning => ("warning", Colour::Warning),
            Level::Error => ("error  ", Colour::Critical),
        };
        print(&format!("{}  {}: {}", terminal.paint(colour, mark), plain(&finding.subject), plain(&finding.what)));
        if let Some(remedy) = &finding.remedy {
            print(&format!("         → {}", plain(remedy)));
        }
    }
    print(&format!("\n{}", terminal.paint(Colour::Strong, verdict)));
    print(&format!("Next: {}", plain(next)));
}

/// One sentence on all of them.
pub(super) fn verdict(findings: &Findings) -> String {
    let (errors, warnings) = (findings.count(Level::Error), findings.count(Level::Warning));
    let counted = |count: usize, what: &str| if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") };
    match (errors, warnings) {
        (0, 0) => "All is well.".to_owned(),
        (0, warnings) => format!("{}: mend as said above.", counted(warnings, "warning")),
        (errors, 0) => format!("{}: mend as said above.", counted(errors, "error")),
        (errors, warnings) => format!("{}, {}: mend as said above.", counted(errors, "error"), counted(warnings, "warning")),
    }
}

/// The command that comes next.
pub(super) fn next(findings: &Findings, seen: Seen, config: &Config, location: &Location) -> String {
    let program = program(location);
    let manual = config.database.as_ref().is_some_and(|database| database.install == Install::Manual);
    // A script that installs needs no more than the tables.
    if manual && seen.to_install && findings.count(Level::Error) == 0 {
        return format!("{program} install --print");
    }
    if !findings.is_well() || !seen.database {
        return format!("{program} check");
    }
    if seen.daemons == 0 {
        return if is_a_service() { "systemctl start items-listen".to_owned() } else { format!("{program} run") };
    }
    match config.watches.iter().find(|watch| watch.counts()) {
        Some(watch) => format!("{program} {}", trigger(watch)),
        None => format!("{program} status"),
    }
}

/// The program with the options that were given: what is said can be pasted.
pub(super) fn program(location: &Location) -> String {
    let mut program = "items-listen".to_owned();
    for (option, path) in [("--config", &location.config), ("--env-file", &location.env_file)] {
        if let Some(path) = path {
            program.push_str(&format!(" {option} {}", argument(&path.display().to_string())));
        }
    }
    program
}

/// Whether systemd runs this machine and knows our unit.
fn is_a_service() -> bool {
    let units = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
    std::path::Path::new("/run/systemd/system").exists()
        && units.iter().any(|directory| std::path::Path::new(directory).join("items-listen.service").exists())
}
