//! The one transaction: fold, evaluate, write.
//!
//! Invariants.
//! * Whoever writes `count`, episodes, events or deliveries holds the fold's advisory lock, taken in a
//!   statement of its own before the statement that takes the snapshot. So folds are one at a time over all
//!   replicas, each sees all of the one before, and ids and `seq` grow in the order of the commits.
//! * A reading is evaluated only in a fold that found the journal dry, and only while its watch has no
//!   marker, both decided in the snapshot of the deleting statement.
//! * Nothing leaves this process before COMMIT is acknowledged; the snapshot S is replaced only then.
//! * After any error the session is thrown away, and with it S: the next fold looks at everything.

mod columns;
pub mod decide;
mod digest;
mod tell;
mod write;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use jiff::Timestamp;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use crate::chaos::{self, Mutation, point};
use crate::db::locks::Lock;
use crate::db::schema::Schema;
use crate::db::session::{Connector, Purpose};
use crate::dispatch::Dispatch;
use crate::error::Error;
use crate::evaluate::State;
use crate::journal::fold::{Limit, Snapshot};
use crate::severity::Severity;
use crate::watch::{Key, Watch};
use decide::{Evaluated, Manual};
use write::Writer;

/// So many dirty keys one fold evaluates: a recount of millions must not make a statement that takes longer than it may.
const DIRTY_MAX: i64 = 50_000;

/// A watch that this replica serves: the one in its configuration and the one in the database are the same.
#[derive(Clone, Debug)]
pub struct Served {
    /// `items_listen.watch.id`.
    pub id: i32,
    /// The generation of its definition.
    pub generation: i32,
    /// The watch.
    pub watch: Arc<Watch>,
    /// How its readings are judged, as the database has it; hashed once and not at every fold.
    policy: String,
}

impl Served {
    /// A watch of the configuration, as it stands in the database.
    pub fn new(id: i32, generation: i32, watch: Arc<Watch>) -> Served {
        let policy = watch.policy_hash();
        Served { id, generation, watch, policy }
    }

    /// The hash of its policy.
    pub fn policy(&self) -> &str {
        &self.policy
    }
}

/// A reading that an application sent.
#[derive(Clone, Debug)]
pub struct Received {
    /// `items_listen.watch.id`.
    pub watch: i32,
    /// Which key.
    pub key: Key,
    /// What it said.
    pub count: i64,
}

/// What a fold did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folded {
    /// Another replica is folding.
    Busy,
    /// It committed.
    Done {
        /// Journal rows taken.
        rows: i64,
        /// The journal was dry.
        complete: bool,
        /// Keys are still dirty: there were more than one fold evaluates.
        more: bool,
        /// Watches that wait to be counted anew.
        marked: Vec<i32>,
    },
}

/// The session that folds, and what it must remember between folds.
pub struct Engine {
    client: Client,
    schema: Schema,
    served: HashMap<i32, Served>,
    fold: Statement,
    lock: String,
    writer: Writer,
    snapshot: Snapshot,
    /// The watches that were ours in the fold that the snapshot is from: of another's rows it says nothing.
    snapshot_served: HashSet<i32>,
    limit: Limit,
}

impl Engine {
    /// Opens a session for folding the given watches.
    ///
    /// # Errors
    /// The database cannot be reached, or the schema is not there.
    pub async fn open(
        connector: &Connector,
        schema: &Schema,
        served: Vec<Served>,
        instance: Uuid,
        dispatch: Dispatch,
    ) -> Result<Engine, Error> {
        let client = connector.session(Purpose::Fold).await?;
        let fold = include_str!("../sql/fold.sql");
        let wrong =
            chaos::is(Mutation::EvaluateBeforeDry).then(|| fold.replace("count(*) < $6::bigint AS complete", "true AS complete"));
        let fold = client.prepare(&schema.sql(wrong.as_deref().unwrap_or(fold))).await?;
        let writer = Writer::prepare(&client, schema, instance, dispatch).await?;
        Ok(Engine {
            fold,
            writer,
            lock: Lock::Fold.sql(schema),
            schema: schema.clone(),
            served: served.into_iter().map(|served| (served.id, served)).collect(),
            snapshot: Snapshot::beginning(),
            snapshot_served: HashSet::new(),
            limit: Limit::first(),
            client,
        })
    }

    /// The watches that it serves.
    pub fn served(&self) -> impl Iterator<Item = &Served> {
        self.served.values()
    }

    /// Serves a watch from now on, or its new generation; the next fold looks at everything.
    pub fn serve(&mut self, served: Served) {
        self.served.insert(served.id, served);
        self.forget_snapshot();
    }

    /// The snapshot of the last complete fold.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Forgets the snapshot: the next fold looks at the whole journal.
    pub fn forget_snapshot(&mut self) {
        self.snapshot = Snapshot::beginning();
        self.snapshot_served.clear();
    }

    /// Folds once.
    ///
    /// # Errors
    /// After any error this engine must not be used again: open another.
    pub async fn fold(&mut self) -> Result<Folded, Error> {
        let lock = match chaos::is(Mutation::TwoFolders) {
            true => "SELECT true".to_owned(),
            false => format!("SELECT pg_try_advisory_xact_lock({})", self.lock),
        };
        if !self.begin(&lock).await? {
            self.client.batch_execute("ROLLBACK").await?;
            return Ok(Folded::Busy);
        }
        point!("fold.begun");
        let mut found = match self.take().await {
            // Too much for one statement: less next time.
            Err(error) if error.sqlstate() == Some("57014") => {
                self.limit = self.limit.halved();
                self.client.batch_execute("ROLLBACK").await?;
                return Ok(Folded::Done { rows: 0, complete: false, more: true, marked: Vec::new() });
            }
            found => found?,
        };
        point!("fold.taken");
        if chaos::is(Mutation::SnapshotInSecondStatement) {
            found.snapshot = self.client.query_one("SELECT pg_current_snapshot()::text", &[]).await?.get(0);
        }
        let stranger = found.served.iter().any(|id| !self.snapshot_served.contains(id));
        if stranger && self.snapshot != Snapshot::beginning() {
            // While it was not ours, complete folds went past its rows: look at everything.
            self.client.batch_execute("ROLLBACK").await?;
            self.forget_snapshot();
            return Ok(Folded::Done { rows: 0, complete: false, more: true, marked: found.marked });
        }
        let more = found.more;
        if more {
            // A baseline is taken when the last of its keys is.
            found.evaluated.baseline.clear();
        }
        self.writer.write(&self.client, &self.served, found.evaluated, found.now).await?;
        let dry = found.complete && (!chaos::is(Mutation::EvaluateBeforeDry) || found.rows < self.limit.rows());
        self.limit = self.limit.after(found.complete);
        if dry && let Some(snapshot) = Snapshot::parse(&found.snapshot) {
            self.snapshot = snapshot;
            self.snapshot_served = found.served.into_iter().collect();
        }
        Ok(Folded::Done { rows: found.rows, complete: found.complete, more, marked: found.marked })
    }

    /// Evaluates readings that an application sent, each in turn.
    ///
    /// # Errors
    /// As [`Engine::fold`].
    pub async fn receive(&mut self, readings: &[Received]) -> Result<(), Error> {
        self.begin(&format!("SELECT true FROM pg_advisory_xact_lock({})", self.lock)).await?;
        let now: Timestamp = self.client.query_one("SELECT clock_timestamp()", &[]).await?.get(0);
        let ours = self.still_ours().await?;
        let readings: Vec<Received> = readings.iter().filter(|reading| ours.contains(&reading.watch)).cloned().collect();
        let readings = readings.as_slice();
        let mut states = self.states(readings).await?;
        let mut evaluated = Evaluated::default();
        let mut seqs = self.next_seqs(readings.len()).await?.into_iter();
        for reading in readings {
            let Some(served) = self.served.get(&reading.watch) else { continue };
            let (state, episode) = states.entry((reading.watch, reading.key.text.clone())).or_insert((State::NEW, None));
            let Some(seq) = seqs.next() else { continue };
            let decision = decide::received(served, reading, state, *episode, seq, now);
            (*state, *episode) = (decision.state, decision.episode);
            evaluated.decisions.push(decision);
        }
        self.store(readings).await?;
        self.writer.write(&self.client, &self.served, evaluated, now).await
    }

    /// Writes a manual trigger, and gives the deliveries that it caused.
    ///
    /// # Errors
    /// As [`Engine::fold`].
    pub async fn trigger(&mut self, watch: i32, key: &Key, count: i64) -> Result<Vec<i64>, Error> {
        self.begin(&format!("SELECT true FROM pg_advisory_xact_lock({})", self.lock)).await?;
        let now: Timestamp = self.client.query_one("SELECT clock_timestamp()", &[]).await?.get(0);
        let seq = self.next_seqs(1).await?.first().copied().unwrap_or_default();
        let mut evaluated = Evaluated::default();
        if let Some(served) = self.served.get(&watch) {
            evaluated.manual = Some(Manual { watch: served.id, key: key.clone(), count, seq });
        }
        self.writer.write_manual(&self.client, &self.served, evaluated, now).await
    }

    async fn begin(&self, lock: &str) -> Result<bool, Error> {
        // Both are sent before the first answer is awaited.
        let (begun, locked) = tokio::join!(biased; self.client.batch_execute("BEGIN"), self.client.query_one(lock, &[]));
        begun?;
        Ok(locked?.get(0))
    }

    /// The watches whose definition and policy in the database are the ones that we know.
    async fn still_ours(&self) -> Result<HashSet<i32>, Error> {
        let (ids, generations, policies) = self.known();
        let sql = self.schema.sql(
            "SELECT w.id FROM items_listen.watch w
             JOIN unnest($1::int[], $2::int[], $3::text[]) AS known (id, generation, policy)
               ON w.id = known.id AND w.generation = known.generation AND w.policy = known.policy",
        );
        let rows = self.client.query(sql.as_str(), &[&ids, &generations, &policies]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    fn known(&self) -> (Vec<i32>, Vec<i32>, Vec<String>) {
        let mut known = (Vec::new(), Vec::new(), Vec::new());
        for served in self.served.values() {
            known.0.push(served.id);
            known.1.push(served.generation);
            known.2.push(served.policy.clone());
        }
        known
    }

    /// So many numbers, in rising order.
    async fn next_seqs(&self, count: usize) -> Result<Vec<i64>, Error> {
        let sql = self.schema.sql("SELECT nextval('items_listen.seq') FROM generate_series(1, $1::bigint)");
        let rows = self.client.query(sql.as_str(), &[&i64::try_from(count).unwrap_or(i64::MAX)]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn states(&self, readings: &[Received]) -> Result<HashMap<(i32, String), (State, Option<Uuid>)>, Error> {
        let (watches, keys): (Vec<i32>, Vec<&str>) =
            readings.iter().map(|reading| (reading.watch, reading.key.text.as_str())).unzip();
        let sql = self.schema.sql(
            "SELECT c.watch, c.key, c.severity, c.episode, c.breach_since, c.clear_since, c.said_at, c.deadline, c.last_at
             FROM items_listen.count c
             WHERE (c.watch, c.key) IN (SELECT * FROM unnest($1::int[], $2::text[]))",
        );
        let rows = self.client.query(sql.as_str(), &[&watches, &keys]).await?;
        let state = |row: &tokio_postgres::Row| State {
            severity: Severity::from_rank(row.get(2)),
            breach_since: row.get(4),
            clear_since: row.get(5),
            said_at: row.get(6),
            deadline: row.get(7),
            last_at: row.get(8),
        };
        Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), (state(row), row.get(3)))).collect())
    }

    /// Stores what was received as the counts of its keys: the last of each key stands.
    async fn store(&self, readings: &[Received]) -> Result<(), Error> {
        let last: HashMap<(i32, &str), i64> =
            readings.iter().map(|reading| ((reading.watch, reading.key.text.as_str()), reading.count)).collect();
        let (mut watches, mut keys, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for ((watch, key), count) in last {
            watches.push(watch);
            keys.push(key);
            counts.push(count);
        }
        let sql = self.schema.sql(
            "INSERT INTO items_listen.count AS c (watch, key, rows, dirty)
             SELECT r.watch, r.key, r.rows, 0 FROM unnest($1::int[], $2::text[], $3::bigint[]) AS r (watch, key, rows)
             ORDER BY r.watch, r.key COLLATE \"C\"
             ON CONFLICT (watch, key) DO UPDATE SET rows = excluded.rows, dirty = 0",
        );
        self.client.execute(sql.as_str(), &[&watches, &keys, &counts]).await?;
        Ok(())
    }

    /// Runs the deleting statement and evaluates what it says, row by row: only what has something to
    /// say is kept, so that a million keys that are fine take no memory.
    async fn take(&self) -> Result<Found, Error> {
        let (ids, generations, policies) = self.known();
        let limit = self.limit.rows();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
            [&ids, &generations, &policies, &self.snapshot.xmax, &self.snapshot.xip, &limit, &DIRTY_MAX];
        let rows = self.client.query_raw(&self.fold, parameters).await?;
        let mut rows = std::pin::pin!(rows);
        let mut found: Option<Found> = None;
        while let Some(row) = rows.try_next().await? {
            let found = found.get_or_insert_with(|| Found::head(&row));
            let Some(watch) = row.get::<_, Option<i32>>("watch") else { continue };
            let Some(served) = self.served.get(&watch) else { continue };
            decide::folded(served, &row, found.now, found.baseline.contains(&watch), &mut found.evaluated);
        }
        found.ok_or_else(|| Error::Failed("the fold gave no row".to_owned()))
    }
}

/// What the deleting statement said.
struct Found {
    rows: i64,
    complete: bool,
    /// Keys are left dirty.
    more: bool,
    snapshot: String,
    now: Timestamp,
    served: Vec<i32>,
    marked: Vec<i32>,
    baseline: Vec<i32>,
    evaluated: Evaluated,
}

impl Found {
    fn head(row: &tokio_postgres::Row) -> Found {
        let list = |name: &str| row.get::<_, Option<Vec<i32>>>(name).unwrap_or_default();
        let (complete, marked) = (row.get("complete"), list("marked"));
        let mut evaluated = Evaluated::default();
        if complete {
            evaluated.baseline = list("baseline");
            evaluated.storms = list("storms");
        }
        Found {
            rows: row.get("folded_rows"),
            complete,
            more: row.get("more"),
            snapshot: row.get("snapshot"),
            now: row.get("now"),
            served: list("served"),
            baseline: evaluated.baseline.clone(),
            marked,
            evaluated,
        }
    }
}
