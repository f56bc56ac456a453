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
mod choose;
mod columns;
pub mod decide;
mod digest;
pub mod facts;
mod receive;
mod refusal;
mod said;
pub(crate) mod tell;
mod telling;
mod told;
mod unread;
mod write;

use std::collections::{BTreeMap, HashMap, HashSet};
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
use crate::journal::fold::{Limit, Snapshot};
use crate::watch::{Key, Watch};
use ask::Asker;
use decide::{Changed, Evaluated, Manual, in_order};
use facts::Facts;
use refusal::Refusals;
use told::Untold;
use unread::Remembered;
use write::Writer;

/// So many changes one fold tells; of a backlog, which each fold has to sort, more and more.
const CHANGES_MIN: i64 = 5_000;
const CHANGES_MAX: i64 = 40_000;
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
    /// Its events tell how many alerts are unread; looked for once and not at every fold.
    wants_unread: bool,
}

impl Served {
    /// A watch of the configuration, as it stands in the database.
    pub fn new(id: i32, generation: i32, watch: Arc<Watch>) -> Served {
        let policy = watch.policy_hash();
        let wants_unread = watch.wants_unread();
        Served { id, generation, watch, policy, wants_unread }
    }

    /// Whether any of its events tells how many alerts are unread.
    pub fn wants_unread(&self) -> bool {
        self.wants_unread
    }

    /// The hash of its policy.
    pub fn policy(&self) -> &str {
        &self.policy
    }
}

/// A reading that an application sent, or that a query gave.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// `items_listen.watch.id`.
    pub watch: i32,
    /// Which key.
    pub key: Key,
    /// What it said.
    pub count: i64,
    /// The key exists no more.
    pub gone: bool,
    /// The threshold of its own row, where the watch has a column for it: `Some(None)` is NULL.
    pub threshold: Option<Option<i64>>,
    /// Its row, where it has one.
    pub row: Option<serde_json::Map<String, serde_json::Value>>,
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
        /// There is more than one fold does.
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
    /// What watches read of their own tables; `None` while it is not known for the watches that are served now.
    facts: Option<BTreeMap<i32, Facts>>,
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

    /// Begins a transaction, takes the lock and runs the deleting statement; `None` where another replica has the lock.
    /// All three are sent before the first answer is awaited, unless tables of the application's are to be read, which
    /// are to be locked in between. Without the lock the statement does nothing.
    async fn begin_and_take(&mut self) -> Result<Option<Took>, Error> {
        self.asker.begin();
        if self.reads_no_table() {
            let (locked, taken) = tokio::join!(biased; self.try_begin(), self.take(&[], &[]));
            point!("fold.begun");
            return Ok(locked?.then_some(Took { fold: Vec::new(), waiting: Vec::new(), taken: Some(taken) }));
        }
        if !self.try_begin().await? {
            return Ok(None);
        }
        point!("fold.begun");
        let Some((fold, waiting)) = self.choose_fold().await? else {
            return Ok(Some(Took { fold: Vec::new(), waiting: Vec::new(), taken: None }));
        };
        let taken = Some(self.take(&fold, &waiting).await);
        Ok(Some(Took { fold, waiting, taken }))
    }

    async fn try_begin(&self) -> Result<bool, Error> {
        let (begun, locked) =
            tokio::join!(biased; self.client.batch_execute("BEGIN"), self.client.query_one(&self.try_lock, &[]));
        begun?;
        Ok(locked?.get(0))
    }

    fn note_untold(&mut self, untold: &Untold) {
        match untold {
            Untold::Refused { watch, why } => self.refusals.refuse(*watch, why.clone()),
            Untold::TooMuch => tracing::info!("lookups take their time: fewer at once from now on"),
        }
    }

    /// So many dirty keys, and so many changes, one fold tells of.
    fn pace(&self) -> (i64, i64) {
        if self.served.values().any(|served| served.watch.lookup.is_some()) {
            (self.asker.pace(), self.asker.pace())
        } else {
            (DIRTY_MAX, self.changes_max)
        }
    }

    /// Rolls the fold back.
    async fn take_back(&self, more: bool, marked: Vec<i32>) -> Result<Folded, Error> {
        self.client.batch_execute("ROLLBACK").await?;
        Ok(Folded::Done { rows: 0, complete: false, more, marked })
    }

    /// Takes the changes that somebody is to be told, and gives whether these were all; `None` where no watch has rules for
    /// any.
    async fn take_changes(&self, waiting: &[i32], evaluated: &mut Evaluated) -> Result<Option<bool>, Error> {
        if !self.served.values().any(|served| served.watch.tells_changes()) {
            return Ok(None);
        }
        let (ids, generations, policies) = self.known();
        let (_, changes_max) = self.pace();
        let Snapshot { xmax, xip } = &self.changes_snapshot;
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
            [&ids, &generations, &policies, xmax, xip, &changes_max, &waiting];
        let rows = self.client.query(&self.changes, &parameters).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        for row in &rows {
            let Some(served) = row.get::<_, Option<i32>>("watch").and_then(|id| self.served.get(&id)) else { continue };
            evaluated.changes.extend(Changed::read(served, row));
        }
        in_order(&mut evaluated.changes);
        Ok(Some(first.get("complete")))
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

    /// Runs the deleting statement and evaluates what it says, row by row: only what has something to
    /// say is kept, so that a million keys that are fine take no memory.
    async fn take(&self, read: &[i32], waiting: &[i32]) -> Result<Found, Error> {
        let statement = self.folds.get(read).ok_or_else(|| Error::Failed("the fold was not prepared".to_owned()))?;
        let (ids, generations, policies) = self.known();
        let limit = self.limit.rows();
        let (dirty_max, _) = self.pace();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 8] =
            [&ids, &generations, &policies, &self.snapshot.xmax, &self.snapshot.xip, &limit, &dirty_max, &waiting];
        let rows = self.client.query_raw(statement, parameters).await?;
        let mut rows = std::pin::pin!(rows);
        let mut found: Option<Found> = None;
        while let Some(row) = rows.try_next().await? {
            let found = found.get_or_insert_with(|| Found::head(&row));
            let Some(watch) = row.get::<_, Option<i32>>("watch") else { continue };
            found.note_seq(row.get("seq"));
            let Some(served) = self.served.get(&watch) else { continue };
            decide::folded(served, &row, found.now, found.baseline.contains(&watch), &mut found.evaluated);
        }
        found.ok_or_else(|| Error::Failed("the fold gave no row".to_owned()))
    }
}

/// A fold that has begun.
struct Took {
    /// The watches whose tables it read.
    fold: Vec<i32>,
    /// Those that wait.
    waiting: Vec<i32>,
    /// What the deleting statement said; `None` where a table cannot be read as it is configured.
    taken: Option<Result<Found, Error>>,
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
    /// The lowest and the highest number that a reading has.
    seqs: Option<(i64, i64)>,
    /// Alerts were read or removed.
    unread_edited: bool,
}

impl Found {
    fn note_seq(&mut self, seq: Option<i64>) {
        if let Some(seq) = seq {
            let (first, last) = self.seqs.unwrap_or((seq, seq));
            self.seqs = Some((first.min(seq), last.max(seq)));
        }
    }

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
            seqs: None,
            unread_edited: row.get("unread_edited"),
        }
    }
}
