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

mod ask;
mod audience;
mod changed;
mod choose;
mod columns;
pub mod decide;
mod digest;
pub mod facts;
mod pace;
mod receive;
mod refusal;
mod said;
mod served;
mod take;
pub(crate) mod tell;
mod telling;
mod told;
mod unread;
mod write;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use crate::chaos::{self, Mutation, point};
use crate::db::locks::Lock;
use crate::db::schema::Schema;
use crate::db::session::{Connector, Purpose};
use crate::dispatch::{Dispatch, lock};
use crate::error::Error;
use crate::journal::fold::{Limit, Snapshot};
use crate::watch::Key;
use ask::Asker;
use decide::{Evaluated, Manual};
use facts::Facts;
pub use pace::Pace;
use refusal::Refusals;
pub use served::{Folded, Received, Served};
use take::{CHANGES_MAX, CHANGES_MIN, Took};
use told::Untold;
use unread::Remembered;
use write::Writer;

/// The session that folds, and what it must remember between folds.
pub struct Engine {
    client: Client,
    schema: Schema,
    served: HashMap<i32, Served>,
    /// What watches read of their own tables; `None` while it is not known for the watches that are served now.
    facts: Option<BTreeMap<i32, Facts>>,
    /// What they read before, of those whose table was changed since.
    facts_before: HashMap<i32, Facts>,
    /// Asks whether a table was changed.
    changed: Option<Statement>,
    /// The deleting statement, for each set of watches whose tables it reads.
    folds: HashMap<Vec<i32>, Statement>,
    changes: Statement,
    lock: String,
    /// Tries for the lock, and says in the transaction whether it was to be had.
    try_lock: Statement,
    writer: Writer,
    asker: Asker,
    refusals: Refusals,
    remembered: Remembered,
    snapshot: Snapshot,
    /// Of the last time that all changes were taken.
    changes_snapshot: Snapshot,
    /// The watches that were ours in the fold that the snapshot is from: of another's rows it says nothing.
    snapshot_served: HashSet<i32>,
    limit: Limit,
    /// So many changes the next fold takes.
    changes_max: i64,
    /// So many keys folds evaluate.
    pace: Arc<Mutex<Pace>>,
    /// That is, this one.
    keys_max: i64,
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
        let lock = Lock::Fold.sql(schema);
        let tried = match chaos::is(Mutation::TwoFolders) {
            true => "true".to_owned(),
            false => format!("pg_try_advisory_xact_lock({lock})"),
        };
        let try_lock =
            client.prepare(&format!("SELECT set_config('{}.folding', ({tried})::text, true)::boolean", schema.name())).await?;
        let writer = Writer::prepare(&client, schema, instance, dispatch).await?;
        Ok(Engine {
            facts: None,
            facts_before: HashMap::new(),
            changed: None,
            folds: HashMap::new(),
            changes: client.prepare(&schema.sql(include_str!("../sql/changes.sql"))).await?,
            writer,
            asker: Asker::new(connector),
            refusals: Refusals::default(),
            remembered: Remembered::default(),
            lock,
            try_lock,
            schema: schema.clone(),
            served: served.into_iter().map(|served| (served.id, served)).collect(),
            snapshot: Snapshot::beginning(),
            changes_snapshot: Snapshot::beginning(),
            snapshot_served: HashSet::new(),
            limit: Limit::first(),
            changes_max: CHANGES_MIN,
            pace: Arc::default(),
            keys_max: Pace::default().keys(),
            client,
        })
    }

    /// Folds at the pace of folds before it, in other sessions.
    pub fn at_pace(self, pace: Arc<Mutex<Pace>>) -> Engine {
        let keys_max = lock(&pace).keys();
        Engine { pace, keys_max, ..self }
    }

    /// The watches that it serves.
    pub fn served(&self) -> impl Iterator<Item = &Served> {
        self.served.values()
    }

    /// Serves a watch from now on, or its new generation; the next fold looks at everything.
    pub fn serve(&mut self, served: Served) {
        self.facts_before.remove(&served.id);
        self.served.insert(served.id, served);
        (self.facts, self.folds) = (None, HashMap::new());
        self.forget_snapshot();
    }

    /// The snapshot of the last complete fold, and that of the last time that all changes were taken.
    pub fn snapshots(&self) -> (&Snapshot, &Snapshot) {
        (&self.snapshot, &self.changes_snapshot)
    }

    /// Whether a watch waits, since what it reads could not be read.
    pub fn waits(&self, watch: i32) -> bool {
        self.refusals.waiting().contains(&watch)
    }

    /// Why some watches are not evaluated at present, though the others are.
    pub fn troubles(&self) -> HashMap<i32, String> {
        self.refusals.troubles()
    }

    /// Forgets the snapshot: the next fold looks at the whole journal.
    pub fn forget_snapshot(&mut self) {
        self.snapshot = Snapshot::beginning();
        self.changes_snapshot = Snapshot::beginning();
        self.snapshot_served.clear();
    }

    /// Folds once.
    ///
    /// # Errors
    /// After any error this engine must not be used again: open another.
    pub async fn fold(&mut self) -> Result<Folded, Error> {
        let began = Instant::now();
        self.keys_max = lock(&self.pace).begin();
        let folded = self.fold_once().await?;
        let (evaluated, full) = match &folded {
            Folded::Busy => (false, false),
            Folded::Done { complete, more, .. } => (*complete, *more),
        };
        lock(&self.pace).ended(evaluated.then(|| began.elapsed()), full);
        Ok(folded)
    }

    async fn fold_once(&mut self) -> Result<Folded, Error> {
        let Some(Took { fold, waiting, taken }) = self.begin_and_take().await? else {
            self.client.batch_execute("ROLLBACK").await?;
            return Ok(Folded::Busy);
        };
        let Some(taken) = taken else { return self.take_back(true, Vec::new()).await };
        let mut found = match taken {
            // Too much for one statement: less next time.
            Err(error) if error.sqlstate() == Some("57014") => {
                self.limit = self.limit.halved();
                return self.take_back(true, Vec::new()).await;
            }
            // A table that it reads is another than it was when the statement was made.
            Err(error) if !fold.is_empty() && error.is_about_a_definition() => {
                self.folds.clear();
                return self.take_back(true, Vec::new()).await;
            }
            found => found?,
        };
        point!("fold.taken");
        if chaos::is(Mutation::SnapshotInSecondStatement) {
            found.snapshot = self.client.query_one("SELECT pg_current_snapshot()::text", &[]).await?.get(0);
        }
        let stranger = found.served.iter().any(|id| !self.snapshot_served.contains(id));
        if stranger && (self.snapshot != Snapshot::beginning() || self.changes_snapshot != Snapshot::beginning()) {
            // While it was not ours, complete folds went past its rows: look at everything.
            let marked = std::mem::take(&mut found.marked);
            self.forget_snapshot();
            return self.take_back(true, marked).await;
        }
        let mut changes = self.take_changes(&waiting, &mut found.evaluated).await?;
        let mut more = found.more || changes == Some(false);
        if found.more {
            // A baseline is taken when the last of its keys is.
            found.evaluated.baseline.clear();
        }
        self.remembered.begin(found.seqs, found.unread_edited);
        // The larger half: on the heap, so that whoever waits for a fold stays small.
        let written = Box::pin(self.writer.write(
            &self.client,
            &mut self.asker,
            &self.served,
            found.evaluated,
            found.now,
            &mut self.remembered,
        ))
        .await?;
        if let Some(untold) = written {
            self.note_untold(&untold);
            if let Untold::Refused { .. } = untold {
                return self.take_back(true, found.marked).await;
            }
            // What was told is committed; the rest waits for the next fold.
            (more, changes) = (true, changes.map(|_| false));
        }
        self.remembered.committed(found.seqs, HashMap::new());
        self.refusals.heal(&waiting);
        let dry = found.complete && (!chaos::is(Mutation::EvaluateBeforeDry) || found.rows < self.limit.rows());
        self.limit = self.limit.after(found.complete);
        self.changes_max = if changes == Some(false) { (self.changes_max * 2).min(CHANGES_MAX) } else { CHANGES_MIN };
        if dry && let Some(snapshot) = Snapshot::parse(&found.snapshot) {
            self.snapshot = snapshot;
            self.snapshot_served = found.served.into_iter().collect();
        }
        // What waits for a lookup is to be found again.
        // That of the deleting statement, in which this transaction had no number yet: what it causes itself comes after (J6).
        if changes == Some(true)
            && waiting.is_empty()
            && let Some(snapshot) = Snapshot::parse(&found.snapshot)
        {
            self.changes_snapshot = snapshot;
        }
        Ok(Folded::Done { rows: found.rows, complete: found.complete, more, marked: found.marked })
    }

    fn note_untold(&mut self, untold: &Untold) {
        match untold {
            Untold::Refused { watch, why } => self.refusals.refuse(*watch, why.clone()),
            Untold::TooMuch => tracing::info!("lookups take their time: fewer at once from now on"),
        }
    }

    /// Rolls the fold back.
    async fn take_back(&self, more: bool, marked: Vec<i32>) -> Result<Folded, Error> {
        self.client.batch_execute("ROLLBACK").await?;
        Ok(Folded::Done { rows: 0, complete: false, more, marked })
    }

    /// Writes a manual trigger, and gives the deliveries that it caused.
    ///
    /// # Errors
    /// As [`Engine::fold`].
    pub async fn trigger(
        &mut self,
        watch: i32,
        key: &Key,
        count: i64,
        threshold: Option<i64>,
        row: Option<serde_json::Value>,
    ) -> Result<Vec<i64>, Error> {
        self.begin(&format!("SELECT true FROM pg_advisory_xact_lock({})", self.lock)).await?;
        let now: Timestamp = self.client.query_one("SELECT clock_timestamp()", &[]).await?.get(0);
        let seq = self.next_seqs(1).await?.first().copied().unwrap_or_default();
        let mut evaluated = Evaluated::default();
        if let Some(served) = self.served.get(&watch) {
            evaluated.manual = Some(Manual { watch: served.id, key: key.clone(), count, threshold, row, seq });
        }
        self.writer.write_manual(&self.client, &mut self.asker, &self.served, evaluated, now).await
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
            known.2.push(served.policy().to_owned());
        }
        known
    }

    /// So many numbers, in rising order.
    async fn next_seqs(&self, count: usize) -> Result<Vec<i64>, Error> {
        let sql = self.schema.sql("SELECT nextval('items_listen.seq') FROM generate_series(1, $1::bigint)");
        let rows = self.client.query(sql.as_str(), &[&i64::try_from(count).unwrap_or(i64::MAX)]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
