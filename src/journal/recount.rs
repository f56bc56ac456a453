//! A recount: one statement that corrects a watch from one snapshot, while writers and folds go on.
//!
//! Invariants. `count` plus `journal` is the same in every snapshot but for what writers commit, since a
//! fold moves rows atomically; so `truth(S) − count(S) − journal(S)`, appended to the journal, makes the
//! sum equal to the truth, whatever is committed meanwhile. Two recounts of one watch would correct
//! twice: hence the session lock, taken before the snapshot. TRUNCATE is not MVCC-safe: hence ACCESS
//! SHARE on the table before the snapshot, and since whoever wants a stronger lock would wait for us, a
//! second session watches for that and cancels the recount.

use std::time::Duration;

use tokio_postgres::Client;

use super::definition::Definition;
use super::install::Installed;
use super::{guard, trigger};
use crate::chaos::point;
use crate::db::alive::{self, Backend, Lookout};
use crate::db::locks::Lock;
use crate::db::schema::Schema;
use crate::db::session::{Connector, Purpose};
use crate::error::Error;
use crate::watch::Watch;

/// How often somebody who waits for a stronger lock is looked for.
const GUARD_BEAT: Duration = Duration::from_millis(100);
/// How long somebody may wait for us before we give way.
const GUARD_PATIENCE: Duration = Duration::from_millis(200);

/// How a recount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The watch is exact: so many keys were corrected.
    Done {
        /// Keys whose count was wrong.
        corrected: u64,
    },
    /// Somebody else is recounting it.
    Busy,
    /// The triggers are not all in place: nothing can be promised yet.
    Uncovered,
}

/// Recounts one table watch.
///
/// # Errors
/// A table that is gone, an expression that fails, a missing privilege; or somebody needed the table.
pub async fn run(connector: &Connector, schema: &Schema, watch: &Watch) -> Result<Outcome, Error> {
    let client = connector.session(Purpose::Recount).await?;
    let (installed, definition) = match alive::soon(begin(&client, schema, watch)).await? {
        Ok(begun) => begun,
        Err(outcome) => return Ok(outcome),
    };
    let backend = Backend::of(&client).await?;
    let guarded = Guarded::new(connector, &backend);
    // The session ends with this function, and with it the lock.
    let outcome = guarded.during(correct(&client, schema, &watch.name, &installed, &definition), &definition.relation).await;
    guarded.end();
    outcome
}

/// What is counted, under the lock of its recounts; or why it is not.
async fn begin(client: &Client, schema: &Schema, watch: &Watch) -> Result<Result<(Installed, Definition), Outcome>, Error> {
    let Some((installed, text)) = super::install::find(client, schema, &watch.name).await? else {
        return Err(Error::Failed(format!("the watch {} is not installed; run items-listen install", watch.name)));
    };
    let definition = Definition::of_installed(client, schema, watch).await?;
    if super::install::text(watch, definition.as_ref()) != text {
        return Ok(Err(Outcome::Uncovered));
    }
    let Some(definition) = definition else {
        // Left behind by a table that it watched before: nothing else would take them away.
        let markers = schema.sql("DELETE FROM items_listen.marker WHERE watch = $1");
        client.execute(markers.as_str(), &[&installed.id]).await?;
        return Ok(Err(Outcome::Done { corrected: 0 }));
    };
    let lock = format!("SELECT pg_try_advisory_lock({})", Lock::Recount(installed.id).sql(schema));
    let is_ours = client.query_one(lock.as_str(), &[]).await?.get::<_, bool>(0);
    Ok(if is_ours { Ok((installed, definition)) } else { Err(Outcome::Busy) })
}

async fn correct(
    client: &Client,
    schema: &Schema,
    watch: &str,
    installed: &Installed,
    definition: &Definition,
) -> Result<Outcome, Error> {
    let Installed { id, generation } = *installed;
    client
        .batch_execute(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; LOCK TABLE {} IN ACCESS SHARE MODE", definition.relation))
        .await?;
    let uncovered = format!(
        "SELECT EXISTS (SELECT FROM ({}) AS c WHERE watch = $1)
             OR NOT EXISTS (SELECT FROM {}.watch WHERE id = $1 AND generation = $2)",
        super::install::coverage(schema),
        schema.name()
    );
    if client.query_one(uncovered.as_str(), &[&id, &generation]).await?.get(0) {
        client.batch_execute("ROLLBACK").await?;
        return Ok(Outcome::Uncovered);
    }
    guard::refuse_changed(client, schema, watch, &definition.relation).await?;
    point!("recount.begun");
    // Where nothing is counted there is nothing to correct: a marker only tells of a statement whose changes are not known.
    let corrected = if definition.counts {
        let [truth, correction] = trigger::recount(schema, id, generation, definition);
        client.batch_execute(&truth).await?;
        client.execute(correction.as_str(), &[]).await?
    } else {
        0
    };
    // In this snapshot: a marker that came later stays, and causes another recount.
    let seen =
        schema.sql("DELETE FROM items_listen.marker WHERE watch = $1 RETURNING CASE WHEN reason = 'broken' THEN sqlstate END");
    let seen = client.query(seen.as_str(), &[&id]).await?;
    for sqlstate in seen.iter().filter_map(|row| row.get::<_, Option<String>>(0)).filter(|_| definition.changes.is_some()) {
        // Counts are made good; what a statement did to rows nobody can tell any more.
        tracing::error!(
            relation = definition.relation,
            sqlstate,
            "changes of a statement were lost: its where failed on a row, or it was too large"
        );
    }
    client.batch_execute(&format!("NOTIFY {}; COMMIT", schema.name())).await?;
    point!("recount.committed");
    Ok(Outcome::Done { corrected })
}

/// How the counts of a watch compare with its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compared {
    /// They are exact.
    Exact,
    /// So many keys are wrong, and these most.
    Drift {
        /// How many.
        keys: i64,
        /// Some of them, in words.
        worst: Vec<String>,
    },
    /// It cannot be said: why.
    Unknown(String),
}

/// Compares the counts of a watch with its table, in one snapshot in which what is not folded yet counts as folded. It
/// changes nothing, and gives way to whoever needs a strong lock on the table.
///
/// # Errors
/// A table that is gone, an expression that fails, a missing privilege.
pub async fn compare(
    connector: &Connector,
    schema: &Schema,
    watch: &str,
    installed: &Installed,
    definition: &Definition,
) -> Result<Compared, Error> {
    if !definition.counts {
        return Ok(Compared::Unknown("it keeps no counts: its rules tell changes of rows".to_owned()));
    }
    let client = connector.session(Purpose::Recount).await?;
    let backend = Backend::of(&client).await?;
    let guarded = Guarded::new(connector, &backend);
    let compared = guarded.during(look(&client, schema, watch, installed, definition), &definition.relation).await;
    guarded.end();
    match compared {
        Err(error) if error.sqlstate() == Some("57014") => {
            Ok(Compared::Unknown("another session needed the table, and the comparison gave way".to_owned()))
        }
        Err(error) if error.sqlstate() == Some("55P03") => {
            Ok(Compared::Unknown("another session has the table locked".to_owned()))
        }
        compared => compared,
    }
}

async fn look(
    client: &Client,
    schema: &Schema,
    watch: &str,
    installed: &Installed,
    definition: &Definition,
) -> Result<Compared, Error> {
    // TRUNCATE is not MVCC-safe: the lock comes before the snapshot.
    let begin =
        format!("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; LOCK TABLE {} IN ACCESS SHARE MODE", definition.relation);
    client.batch_execute(&begin).await?;
    guard::refuse_changed(client, schema, watch, &definition.relation).await?;
    let due = schema.sql(
        "SELECT (SELECT min(reason) FROM items_listen.marker WHERE watch = $1),
                EXISTS (SELECT FROM items_listen.watch WHERE id = $1 AND generation = $2)",
    );
    let row = client.query_one(due.as_str(), &[&installed.id, &installed.generation]).await?;
    if let Some(reason) = row.get::<_, Option<String>>(0) {
        return Ok(Compared::Unknown(format!("a recount is due anyway ({reason}), which the daemon does")));
    }
    if !row.get::<_, bool>(1) {
        return Ok(Compared::Unknown("its definition was changed meanwhile".to_owned()));
    }
    let sql = trigger::drift(schema, installed.id, installed.generation, definition);
    let rows = client.query(sql.as_str(), &[]).await?;
    client.batch_execute("COMMIT").await?;
    let Some(first) = rows.first() else { return Ok(Compared::Exact) };
    let summed = definition.measure.is_some();
    let word = |row: &tokio_postgres::Row| {
        let (key, truth, known): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let sums = format!(", sum {} and not {}", row.get::<_, String>(3), row.get::<_, String>(4));
        format!("key {key}: {truth} rows and not {known}{}", if summed { sums } else { String::new() })
    };
    Ok(Compared::Drift { keys: first.get(5), worst: rows.iter().map(word).collect() })
}

/// A count under way. Whoever drops it before its end (a reload, a session that is lost) cancels the count on the server as well:
/// it would read the whole table for nobody, and hold its locks.
struct Guarded<'a> {
    connector: &'a Connector,
    backend: &'a Backend,
    ended: bool,
}

impl<'a> Guarded<'a> {
    fn new(connector: &'a Connector, backend: &'a Backend) -> Guarded<'a> {
        Guarded { connector, backend, ended: false }
    }

    /// Counts, while a second session looks who waits for the table, and whether the one that counts is still there.
    async fn during<T>(&self, counting: impl Future<Output = Result<T, Error>>, relation: &str) -> Result<T, Error> {
        let guard = async {
            let mut lookout = Lookout::new(self.connector, self.backend);
            loop {
                tokio::time::sleep(GUARD_BEAT).await;
                if let Some(client) = lookout.look().await?
                    && let Err(error) = give_way(client, relation, self.backend.pid).await
                {
                    tracing::debug!(%error, "looking who waits for a table that is counted");
                }
            }
        };
        tokio::select! {
            counted = counting => counted,
            lost = guard => lost,
        }
    }

    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Guarded<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (connector, pid) = (self.connector.clone(), self.backend.pid);
        tokio::spawn(async move {
            // Only if it still is a session of ours, whatever we are called: numbers of processes come again.
            let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
                          WHERE pid = $1 AND application_name = current_setting('application_name') AND usename = current_user";
            let cancelled = async { Ok::<u64, Error>(connector.session(Purpose::Work).await?.execute(cancel, &[&pid]).await?) };
            if let Err(error) = cancelled.await {
                tracing::debug!(%error, "cancelling a count that nobody waits for");
            }
        });
    }
}

/// Cancels the recount when somebody has waited for a stronger lock on the table for too long.
async fn give_way(client: &Client, relation: &str, pid: i32) -> Result<(), Error> {
    let waiting = "SELECT l.pid FROM pg_locks l
                   WHERE NOT l.granted AND l.mode = 'AccessExclusiveLock'
                     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.relation IN (
                       SELECT relation FROM pg_locks WHERE pid = $1 AND granted AND locktype = 'relation' AND mode = 'AccessShareLock')
                     AND l.waitstart < clock_timestamp() - make_interval(secs => $2) LIMIT 1";
    if let Some(row) = client.query_opt(waiting, &[&pid, &GUARD_PATIENCE.as_secs_f64()]).await? {
        let waiter: i32 = row.get(0);
        tracing::info!(relation, waiter, "the recount gives way to a session that waits for the table");
        // The recount sees "canceling statement due to user request", and is tried again later.
        client.execute("SELECT pg_cancel_backend($1)", &[&pid]).await?;
    }
    Ok(())
}
