//! How the daemon stands, in one line: what `systemctl status` shows.

use std::fmt;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Daemon;
use crate::error::Error;

/// How often the line is made anew, where somebody is there to read it.
const REPORT_EVERY: Duration = Duration::from_secs(3);
/// Nothing is counted beyond this.
const COUNT_MAX: i64 = 10_000;

/// What the line says.
#[derive(Debug, Default, PartialEq)]
struct Summary {
    watches: usize,
    /// The names of those that cannot be served.
    degraded: Vec<String>,
    open: i64,
    pending: i64,
    oldest: Option<Duration>,
    dead: i64,
    /// `main paused: auth`.
    troubles: Vec<String>,
    /// The last reload was refused.
    refused: bool,
    /// The outbox is a copy of another database's, and nothing is sent.
    held: bool,
}

/// Makes the line now and then, beside the pipeline and without ever holding it up. It ends with the session that began it.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    work: JoinSet<()>,
    /// When it is made next; none before everything is ready.
    due_at: Option<Instant>,
}

impl Reporter {
    /// Everything is ready: from now on the line is made.
    pub(super) fn now(&mut self) {
        self.due_at = Some(Instant::now());
    }

    /// When [`Reporter::report`] has something to do.
    pub(super) fn report(&mut self, daemon: &Daemon) {
        while self.work.try_join_next().is_some() {}
        let due = self.due_at.is_some_and(|at| at <= Instant::now());
        if !due || !daemon.process.supervisor.is_present() || !self.work.is_empty() {
            return;
        }
        self.due_at = Some(Instant::now() + REPORT_EVERY);
        let daemon = daemon.clone();
        self.work.spawn(async move {
            match summary(&daemon).await {
                Ok(summary) => daemon.process.supervisor.status(&summary.to_string()),
                // The session is lost, or soon will be: whoever holds it says so.
                Err(error) => tracing::debug!(%error, "the status line"),
            }
        });
    }
}

async fn summary(daemon: &Daemon) -> Result<Summary, Error> {
    let sql = daemon.schema.sql(include_str!("../../sql/summary.sql"));
    let endpoints: Vec<&str> = daemon.dispatch.names().collect();
    let beyond = COUNT_MAX + 1;
    let row = daemon.pool.run(async |client| Ok(client.query_one(sql.as_str(), &[&endpoints, &beyond]).await?)).await?;
    Ok(Summary {
        watches: daemon.config.watches.len(),
        degraded: daemon.health.degraded_watches(),
        open: row.get("open"),
        pending: row.get("pending"),
        oldest: row
            .get::<_, Option<f64>>("oldest_seconds")
            .and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok()),
        dead: row.get("dead"),
        troubles: row.get::<_, Option<_>>("troubles").unwrap_or_default(),
        refused: daemon.health.reload().is_some_and(|reload| !reload.successful),
        held: daemon.dispatch.is_held(),
    })
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let watches = i64::try_from(self.watches).unwrap_or(i64::MAX);
        write!(f, "{}", counted(watches, "watch", "watches"))?;
        if !self.degraded.is_empty() {
            write!(f, " ({} degraded: {})", self.degraded.len(), self.degraded.join(", "))?;
        }
        write!(f, ", {} open", counted(self.open, "alert", "alerts"))?;
        match (self.pending, self.oldest) {
            (0, _) => f.write_str(", nothing pending")?,
            (pending, Some(oldest)) if pending <= COUNT_MAX => write!(f, ", {pending} pending, oldest {}", age(oldest))?,
            // Not all were looked at: which is the oldest is not known.
            (pending, _) => write!(f, ", {} pending", number(pending))?,
        }
        if self.dead > 0 {
            write!(f, ", {} dead", number(self.dead))?;
        }
        for trouble in &self.troubles {
            write!(f, "; {trouble}")?;
        }
        if self.refused {
            f.write_str("; the last reload was refused: see the log")?;
        }
        if self.held {
            f.write_str("; outbox held: the database is a copy made elsewhere")?;
        }
        Ok(())
    }
}

fn counted(count: i64, one: &str, many: &str) -> String {
    format!("{} {}", number(count), if count == 1 { one } else { many })
}

fn number(count: i64) -> String {
    if count > COUNT_MAX { format!("more than {COUNT_MAX}") } else { count.to_string() }
}

/// In the largest unit of which there is a whole one: `4 s`, `3 min`, `2 h`, `5 d`.
fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min", seconds / 60),
        seconds @ 3_600..86_400 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_the_matter_and_no_more() {
        let well = Summary { watches: 1, ..Summary::default() };
        assert_eq!(well.to_string(), "1 watch, 0 alerts open, nothing pending");
        let waits = Summary { watches: 3, open: 2, pending: 12, oldest: Some(Duration::from_secs(4)), ..Summary::default() };
        assert_eq!(waits.to_string(), "3 watches, 2 alerts open, 12 pending, oldest 4 s");
        let bad = Summary {
            degraded: vec!["orders".to_owned()],
            dead: 5,
            troubles: vec!["main paused: auth".to_owned(), "log backing off: network".to_owned()],
            oldest: Some(Duration::from_secs(7_300)),
            refused: true,
            held: true,
            ..waits
        };
        assert_eq!(
            bad.to_string(),
            "3 watches (1 degraded: orders), 2 alerts open, 12 pending, oldest 2 h, 5 dead; main paused: auth; \
             log backing off: network; the last reload was refused: see the log; outbox held: the database is a copy made elsewhere"
        );
        let flood =
            Summary { watches: 1, open: 10_001, pending: 10_001, oldest: Some(Duration::from_secs(1)), ..Summary::default() };
        assert_eq!(flood.to_string(), "1 watch, more than 10000 alerts open, more than 10000 pending");
    }
}
