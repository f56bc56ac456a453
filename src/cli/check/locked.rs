//! What is locked cannot be looked at, which says nothing about the configuration: it is looked at again for a while, and then
//! said who is in the way.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::finding::{Findings, Id};
use crate::db::holder::{Holder, Unreadable};
use crate::db::literal;
use crate::error::Error;
use crate::watch::{Relation, Watch};

/// A person waits, for all watches together: most locks that nobody may read under are over by then.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(250);

/// How long is looked again, counted from the first time that something was locked.
#[derive(Debug, Default)]
pub(super) struct Patience {
    until: Option<Instant>,
}

impl Patience {
    /// Waits a moment, unless it is at its end. The first time, it is said.
    pub(super) async fn lasts(&mut self, subject: &str) -> bool {
        let until = *self.until.get_or_insert_with(|| {
            eprintln!("items-listen: {}: what it reads is locked; looking again for {PATIENCE:?} …", crate::cli::plain(subject));
            Instant::now() + PATIENCE
        });
        let lasts = Instant::now() < until;
        if lasts {
            tokio::time::sleep(PAUSE).await;
        }
        lasts
    }
}

/// What a watch reads is still locked, or a table of our own is, which is asked once.
pub(super) async fn found(
    client: &Client,
    subject: &str,
    watch: Option<&Watch>,
    error: &Error,
    findings: &mut Findings,
) -> Result<(), Error> {
    let relation = watch.and_then(|watch| watch.source.relation()).map(Relation::quoted);
    match Holder::of_unreadable(client, relation.as_deref()).await? {
        Some(unreadable) => add(findings, subject, format!("{error}; {unreadable}"), &remedy(&unreadable)),
        None => add(findings, subject, format!("{error}; by now no lock is in the way"), AGAIN),
    }
    Ok(())
}

const AGAIN: &str = "check again";

/// What cannot be looked at is out of reach, if only for now.
fn add(findings: &mut Findings, subject: &str, what: String, remedy: &str) {
    findings.error(Id::Locked, subject, format!("it could not be looked at now: {what}"), remedy);
    findings.unreachable = true;
}

fn remedy(unreadable: &Unreadable) -> String {
    let end = match unreadable.holder.pid {
        Some(pid) => format!("SELECT pg_terminate_backend({pid});"),
        None => format!("ROLLBACK PREPARED {};", literal(&unreadable.holder.application)),
    };
    format!("check again when that is over; if it should not go on: {end}")
}
