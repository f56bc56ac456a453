//! The deleting statement, and what it says.

use futures_util::TryStreamExt as _;
use jiff::Timestamp;

use super::Engine;
use super::decide::{self, Changed, Evaluated, in_order};
use crate::chaos::point;
use crate::error::Error;
use crate::journal::fold::Snapshot;

/// So many changes one fold tells; of a backlog, which each fold has to sort, more and more.
pub(super) const CHANGES_MIN: i64 = 5_000;
pub(super) const CHANGES_MAX: i64 = 40_000;
impl Engine {
    /// Begins a transaction, takes the lock and runs the deleting statement; `None` where another replica has the lock.
    /// All three are sent before the first answer is awaited, unless tables of the application's are to be read, which
    /// are to be locked in between. Without the lock the statement does nothing.
    pub(super) async fn begin_and_take(&mut self) -> Result<Option<Took>, Error> {
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

    /// Takes the changes that somebody is to be told, and gives whether these were all; `None` where no watch has rules for
    /// any.
    pub(super) async fn take_changes(&self, waiting: &[i32], evaluated: &mut Evaluated) -> Result<Option<bool>, Error> {
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

    /// So many dirty keys, and so many changes, one fold tells of.
    pub(super) fn pace(&self) -> (i64, i64) {
        if self.served.values().any(|served| served.watch.lookup.is_some()) {
            (self.asker.pace(), self.asker.pace())
        } else {
            (self.keys_max, self.changes_max.min(self.keys_max))
        }
    }
}

/// A fold that has begun.
pub(super) struct Took {
    /// The watches whose tables it read.
    pub(super) fold: Vec<i32>,
    /// Those that wait.
    pub(super) waiting: Vec<i32>,
    /// What the deleting statement said; `None` where a table cannot be read as it is configured.
    pub(super) taken: Option<Result<Found, Error>>,
}

/// What the deleting statement said.
pub(super) struct Found {
    pub(super) rows: i64,
    pub(super) complete: bool,
    /// Keys are left dirty.
    pub(super) more: bool,
    pub(super) snapshot: String,
    pub(super) now: Timestamp,
    pub(super) served: Vec<i32>,
    pub(super) marked: Vec<i32>,
    pub(super) baseline: Vec<i32>,
    pub(super) evaluated: Evaluated,
    /// The lowest and the highest number that a reading has.
    pub(super) seqs: Option<(i64, i64)>,
    /// Alerts were read or removed.
    pub(super) unread_edited: bool,
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
