//! `items-listen test FILE…`: rule tests, without a database, a network or a clock.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{plain, print, print_json};
use crate::config::{self, Location, Mistake};
use crate::error::Error;
use crate::ruletest::{self, Outcome, read, report};

/// Runs all tests of all files. Nothing is said of any of them while something cannot be read.
pub(super) fn run(location: &Location, files: &[PathBuf], json: bool) -> Result<u8, Error> {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let (mut all, mut mistakes) = (Vec::new(), Vec::<Mistake>::new());
    for file in files {
        match outcomes(location, file, &environment) {
            Ok(outcomes) => all.extend(outcomes.into_iter().map(|outcome| (file, outcome))),
            // Files that share a configuration share its mistakes.
            Err(Error::Config(found)) => found.into_iter().for_each(|mistake| {
                if !mistakes.contains(&mistake) {
                    mistakes.push(mistake);
                }
            }),
            Err(other) => return Err(other),
        }
    }
    if !mistakes.is_empty() {
        return Err(Error::Config(mistakes));
    }
    for (file, outcome) in &all {
        if json {
            print_json(&report::json(&file.display().to_string(), outcome));
        } else {
            report::text(outcome).iter().for_each(|line| print(&plain(line)));
        }
    }
    let failed = all.iter().filter(|(_, outcome)| !outcome.failures.is_empty()).count();
    if !json {
        print(&summary(all.len(), failed));
    }
    Ok(u8::from(failed > 0))
}

fn summary(all: usize, failed: usize) -> String {
    let tests = if all == 1 { "1 test".to_owned() } else { format!("{all} tests") };
    if failed == 0 { format!("{tests}, all as expected") } else { format!("{tests}, {failed} failed") }
}

fn outcomes(location: &Location, file: &Path, environment: &BTreeMap<String, String>) -> Result<Vec<Outcome>, Error> {
    let name = file.display().to_string();
    let suite = read::suite(&name, &config::read_file(file)?).map_err(Error::Config)?;
    let beside = file.parent().unwrap_or(Path::new("")).join(&suite.config);
    let config = location.config.as_ref().unwrap_or(&beside);
    let mut environment = environment.clone();
    environment.extend(suite.environment.clone());
    ruletest::run(&name, &suite, || config::load_rehearsal(config, location.env_file.as_deref(), &environment))
}
