//! Rule tests: readings over time and the events expected of them, for `items-listen test`.
//!
//! [`read`] takes a file apart, [`simulate`] runs its steps in virtual time through the code that the daemon runs them
//! through, [`mod@compare`] tells what is sent from what is expected, [`report`] says so. Pure, except that a test has its configuration loaded.

pub mod compare;
pub mod read;
pub mod report;
pub mod simulate;
pub mod time;

use jiff::SignedDuration;

use crate::config::Config;
use crate::config::document::{Mistake, place};
use crate::config::reader::Mistakes;
use crate::error::Error;
use compare::{Difference, compare};
use read::{Step, Suite, Test};
use simulate::{Sent, Simulation, Wrong};

/// What became of a test.
#[derive(Debug)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// How many steps it has.
    pub steps: usize,
    /// The steps in which something else was sent than expected.
    pub failures: Vec<Failure>,
}

/// A step in which something else was sent than expected.
#[derive(Debug)]
pub struct Failure {
    /// `file:line:column`
    pub place: String,
    /// From 1.
    pub step: usize,
    /// When, since the beginning of the test.
    pub at: SignedDuration,
    /// How many events were expected, where that is said.
    pub expected: Option<usize>,
    /// How many were sent.
    pub sent: usize,
    /// In what they differ.
    pub differences: Vec<Difference>,
    /// What could not be sent at all: a delivery that would be dead, whatever is expected.
    pub unsendable: Vec<Sent>,
}

/// Runs all tests of a file. Each has its configuration to itself.
///
/// # Errors
/// The configuration is wrong, or steps do not fit it: every mistake.
pub fn run(file: &str, suite: &Suite, load: impl Fn() -> Result<Config, Error>) -> Result<Vec<Outcome>, Error> {
    let mut mistakes = Mistakes::new(file, Vec::new());
    let mut outcomes = Vec::new();
    for test in &suite.tests {
        match run_one(file, test, &load()?) {
            Ok(outcome) => outcomes.push(outcome),
            Err(Wrong { origin, what }) => mistakes.add(&origin, what),
        }
    }
    let found: Vec<Mistake> = mistakes.into_found();
    if found.is_empty() { Ok(outcomes) } else { Err(Error::Config(found)) }
}

fn run_one(file: &str, test: &Test, config: &Config) -> Result<Outcome, Wrong> {
    let mut simulation = Simulation::new(config, test)?;
    let mut failures = Vec::new();
    for (index, step) in test.steps.iter().enumerate() {
        let sent = simulation.step(test, step)?;
        failures.extend(failure(file, index + 1, step, sent));
    }
    Ok(Outcome { name: test.name.clone(), steps: test.steps.len(), failures })
}

fn failure(file: &str, number: usize, step: &Step, sent: Vec<Sent>) -> Option<Failure> {
    let (unsendable, sent): (Vec<Sent>, Vec<Sent>) = sent.into_iter().partition(|sent| sent.unsendable.is_some());
    let differences = step.expect.as_ref().map(|expected| compare(expected, &sent)).unwrap_or_default();
    if differences.is_empty() && unsendable.is_empty() {
        return None;
    }
    Some(Failure {
        place: place(file, &step.origin),
        step: number,
        at: step.at,
        expected: step.expect.as_ref().map(Vec::len),
        sent: sent.len(),
        differences,
        unsendable,
    })
}

#[cfg(test)]
mod tests;
