//! Query watches: when each is asked, by whom, and how its answer reaches the engine.
//!
//! Invariants. Of one watch no two questions are under way at once: the replica that asks holds the watch's advisory lock,
//! and asks again only when the last answer has been taken in.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::{Pipeline, refused};
use crate::daemon::Daemon;
use crate::db::session::Purpose;
use crate::engine::{Received, Served};
use crate::error::Error;
use crate::source::sweep::{Sweep, Swept};
use crate::watch::Source;

/// A query may take as long as its interval, and at least this.
const AT_MOST_MIN: Duration = Duration::from_secs(30);
/// Not all at the same moment: the interval is longer or shorter by up to this part of it.
const JITTER: f64 = 0.1;

/// A session and the question that it asks.
type Asking = (Client, Sweep);
/// What became of a question.
type Asked = (i32, Result<(Vec<Swept>, Asking), Error>);

/// The query watches that this replica serves.
#[derive(Default)]
pub(super) struct Sweeps {
    /// When each is asked next; `None` while it is being asked.
    next: HashMap<i32, Option<Instant>>,
    sessions: HashMap<i32, Asking>,
    under_way: JoinSet<Asked>,
    /// Those that were answered, or could not be, at least once.
    tried: HashSet<i32>,
    /// Why some cannot be asked, and why nobody serves some: notify watches, too.
    errors: HashMap<i32, String>,
    /// Those whose session was lost when they were asked last.
    lost: HashSet<i32>,
}

impl Sweeps {
    /// Whether this replica asks it.
    pub(super) fn has(&self, id: i32) -> bool {
        self.next.contains_key(&id)
    }

    /// Asks it from now on.
    pub(super) fn serve(&mut self, id: i32) {
        self.next.insert(id, Some(Instant::now()));
    }

    /// No longer asks it.
    pub(super) fn leave(&mut self, id: i32) {
        self.next.remove(&id);
        self.sessions.remove(&id);
        self.errors.remove(&id);
    }

    /// When the next is to be asked.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.next.values().flatten().min().copied()
    }

    /// Whether all have been tried.
    pub(super) fn are_tried(&self) -> bool {
        self.next.keys().all(|id| self.tried.contains(id))
    }

    /// Why nobody serves it, notify watches included; or that there is no such reason any more.
    pub(super) fn excuse(&mut self, id: i32, why: Option<String>) {
        match why {
            Some(why) => self.errors.insert(id, why),
            None => self.errors.remove(&id),
        };
    }

    /// Why some cannot be asked, and why nobody serves some.
    pub(super) fn errors(&self) -> &HashMap<i32, String> {
        &self.errors
    }

    /// Asks these at once: a threshold was edited, or a time is over. One that fails keeps its interval.
    pub(super) fn hasten(&mut self, ids: &[i32]) {
        for id in ids.iter().filter(|id| !self.errors.contains_key(id)) {
            if let Some(Some(at)) = self.next.get_mut(id) {
                *at = Instant::now();
            }
        }
    }

    /// Begins to ask those whose time has come.
    pub(super) fn start_due<'a>(&mut self, daemon: &Daemon, served: impl Iterator<Item = &'a Served>) {
        for served in served {
            let Source::Query { sql, every } = &served.watch.source else { continue };
            let Some(next) = self.next.get_mut(&served.id) else { continue };
            if next.is_none_or(|at| at > Instant::now()) {
                continue;
            }
            *next = None;
            let asking = self.sessions.remove(&served.id);
            let (daemon, served, sql, every) = (daemon.clone(), served.clone(), sql.clone(), *every);
            self.under_way.spawn(async move { (served.id, ask(&daemon, &served, &sql, every, asking).await) });
        }
    }

    /// Waits for an answer; never, if nothing is asked. What it gives must be handed to [`Pipeline::take_in_sweep`].
    pub(super) async fn answered(&mut self) -> Result<Asked, tokio::task::JoinError> {
        match self.under_way.join_next().await {
            Some(asked) => asked,
            None => std::future::pending().await,
        }
    }
}

async fn ask(
    daemon: &Daemon,
    served: &Served,
    sql: &str,
    every: Duration,
    asking: Option<Asking>,
) -> Result<(Vec<Swept>, Asking), Error> {
    let (client, sweep) = match asking {
        Some(asking) if !asking.0.is_closed() => asking,
        _ => {
            let client = daemon.connector.session(Purpose::Read { at_most: every.max(AT_MOST_MIN) }).await?;
            let sweep = Sweep::of(&client, &daemon.schema, &served.watch, sql).await?;
            (client, sweep)
        }
    };
    let swept = sweep.ask(&client).await?;
    Ok((swept, (client, sweep)))
}

impl Pipeline<'_> {
    /// Takes an answer in, and says when it is asked again.
    pub(super) async fn take_in_sweep(&mut self, asked: Result<Asked, tokio::task::JoinError>) -> Result<(), Error> {
        let (id, answer) = asked.map_err(|error| Error::Failed(format!("a sweep ended unexpectedly: {error}")))?;
        let Some(served) = self.engine.served().find(|served| served.id == id).cloned() else { return Ok(()) };
        if !self.sweeps.has(id) {
            return Ok(());
        }
        self.sweeps.tried.insert(id);
        match answer {
            Ok((swept, asking)) => {
                self.sweeps.sessions.insert(id, asking);
                self.sweeps.errors.remove(&id);
                self.sweeps.lost.remove(&id);
                let readings = swept.into_iter().map(|swept| received(&served, swept)).collect();
                // Where it is refused, the engine says why, and the next sweep brings it all again.
                if let Err(error) = self.engine.sweep(id, readings, || self.daemon.process.supervisor.alive()).await {
                    return Err(refused::explained(&self.listening.client, &self.daemon.schema, error).await);
                }
                self.look = true;
            }
            // Whoever holds the session that listens says so, unless it is this question alone that loses its own each time.
            Err(error) if error.is_lost() && self.sweeps.lost.insert(id) => {
                tracing::debug!(watch = served.watch.name, %error, "a sweep was lost")
            }
            Err(error) => {
                self.sweeps.errors.insert(id, error.to_string());
                // Whether all is done is said by a fold, and nothing else may be there to cause one.
                self.look |= !self.daemon.health.is_ready();
            }
        }
        if let Source::Query { every, .. } = &served.watch.source {
            let jittered = every.mul_f64(1.0 + JITTER * (2.0 * rand::random::<f64>() - 1.0));
            self.sweeps.next.insert(id, Some(Instant::now() + jittered));
        }
        Ok(())
    }
}

fn received(served: &Served, swept: Swept) -> Received {
    Received {
        watch: served.id,
        source: served.source(),
        key: served.watch.key_from_text(&swept.key),
        count: swept.count,
        gone: false,
        threshold: served.watch.threshold_column.is_some().then_some(swept.threshold),
        row: swept.row,
    }
}
