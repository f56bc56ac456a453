//! The slow beat: one statement on the LISTEN session, which is its heartbeat as well.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::db::schema::Schema;
use crate::dispatch::{Dispatch, lock};
use crate::error::Error;
use crate::journal::fold::Snapshot;
use crate::journal::install;

/// What one beat found.
#[derive(Clone, Debug, Default)]
pub struct Beat {
    /// When it was asked for: what it found is no older. None before the first one.
    pub asked_at: Option<Instant>,
    /// The journal has rows that were not folded, keys are dirty, or a deadline is due.
    pub work: bool,
    /// When time alone will have something to say.
    pub next_deadline: Option<Duration>,
    /// Query watches whose keys are to be judged before their time.
    pub sweeps: Vec<i32>,
    /// Watches that wait to be counted anew.
    pub marked: Vec<i32>,
    /// Watches whose triggers are not as they should be.
    pub uncovered: Vec<i32>,
    /// Watches whose table does not exist.
    pub gone: Vec<i32>,
    /// Endpoints with something due.
    pub due: Vec<String>,
    /// Some endpoint is paused.
    pub any_paused: bool,
    /// This session still listens.
    pub listening: bool,
    /// How full the server's notification queue is, from 0 to 1.
    pub queue_usage: f64,
    /// Generation and policy of each installed watch.
    pub installed: HashMap<i32, (i32, String)>,
    /// The database is the one that the outbox was written in.
    pub same_cluster: bool,
    /// Some statement could write neither the journal nor a marker.
    pub unwritten: bool,
}

/// What the beat tells the database about this process.
#[derive(Clone, Debug)]
pub struct Telling {
    /// The last complete fold.
    pub snapshot: Snapshot,
    /// The last time that all changes were taken.
    pub changes: Snapshot,
    /// `/readyz` says yes.
    pub ready: bool,
    /// The doorbell's state.
    pub doorbell: &'static str,
}

/// Beats until the session is lost.
///
/// # Errors
/// Why it is lost: an error, or silence for three beats.
pub async fn beat(
    client: Arc<Client>,
    schema: Schema,
    instance: Uuid,
    dispatch: Dispatch,
    every: Duration,
    telling: Arc<Mutex<Telling>>,
    found: watch::Sender<Beat>,
) -> Result<(), Error> {
    let sql =
        include_str!("../../sql/poll.sql").replace("{coverage}", &install::coverage(&schema)).replace("{channel}", schema.name());
    let patience = (every * 3).max(Duration::from_secs(3));
    let silent = || Error::Unavailable(format!("the database has been silent for {patience:?}"));
    let statement = tokio::time::timeout(patience, client.prepare(&schema.sql(&sql))).await.map_err(|_| silent())??;
    loop {
        let Telling { snapshot, changes, ready, doorbell } = lock(&telling).clone();
        let (endpoints, floors) = dispatch.floors();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 9] =
            [&snapshot.xmax, &snapshot.xip, &endpoints, &instance, &ready, &doorbell, &floors, &changes.xmax, &changes.xip];
        let asked_at = Instant::now();
        let row = tokio::time::timeout(patience, client.query_one(&statement, &parameters)).await.map_err(|_| silent())??;
        if found.send(read(&row, asked_at)).is_err() {
            return Ok(());
        }
        tokio::time::sleep(every).await;
    }
}

fn read(row: &tokio_postgres::Row, asked_at: Instant) -> Beat {
    let flag = |name: &str| row.get::<_, Option<bool>>(name).unwrap_or(false);
    let installed: Vec<String> = row.get::<_, Option<_>>("installed").unwrap_or_default();
    let one = |text: &String| {
        let mut parts = text.splitn(3, ' ');
        let (id, generation) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some((id, (generation, parts.next().unwrap_or_default().to_owned())))
    };
    Beat {
        asked_at: Some(asked_at),
        work: flag("journal_waits") || flag("dirty") || flag("deadline_due"),
        next_deadline: row
            .get::<_, Option<f64>>("next_deadline_seconds")
            .map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)),
        sweeps: row.get::<_, Option<_>>("sweeps").unwrap_or_default(),
        marked: row.get::<_, Option<_>>("marked").unwrap_or_default(),
        uncovered: row.get::<_, Option<_>>("uncovered").unwrap_or_default(),
        gone: row.get::<_, Option<_>>("gone").unwrap_or_default(),
        due: row.get::<_, Option<_>>("due").unwrap_or_default(),
        any_paused: flag("any_paused"),
        listening: flag("listening"),
        queue_usage: row.get("queue_usage"),
        installed: installed.iter().filter_map(one).collect(),
        same_cluster: flag("same_cluster"),
        unwritten: flag("unwritten"),
    }
}
