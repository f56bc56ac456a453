//! Which watches a fold evaluates: those whose own tables can be read at present.
//!
//! Invariants. Whatever is wrong with one watch's table fails no other's fold: it is locked without waiting, in a savepoint,
//! and the statement that reads it is prepared in one. None of this writes, so the transaction has no number yet (J6).

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use super::facts::{self, Facts};
use crate::chaos::{self, Mutation};
use crate::error::Error;

impl Engine {
    /// Whether there is nothing to choose: no watch reads a table of the application's, and the statement is there.
    pub(super) fn reads_no_table(&self) -> bool {
        self.facts.as_ref().is_some_and(BTreeMap::is_empty)
            && self.refusals.waiting().is_empty()
            && self.folds.contains_key::<[i32]>(&[])
    }

    /// The deleting statement that reads what can be read at present, and the watches that have to wait.
    pub(super) async fn choose_fold(&mut self) -> Result<Option<(Vec<i32>, Vec<i32>)>, Error> {
        if self.facts.is_none() {
            let mut facts = BTreeMap::new();
            for served in self.served.values() {
                if let Some(of) = Facts::of(&self.client, &self.schema, served).await? {
                    facts.insert(served.id, self.trusted(served.id, of).await?);
                }
            }
            self.facts = Some(facts);
        }
        let mut waiting: BTreeSet<i32> = self.refusals.waiting();
        waiting.extend(self.locked_out(&waiting).await?);
        if self.facts.is_none() {
            // A table is another than it was: what is read of all of them is found out anew before anything is evaluated.
            return Ok(None);
        }
        let facts = self.facts.as_ref().map(|facts| facts.keys().copied().collect::<Vec<_>>()).unwrap_or_default();
        let read: Vec<i32> = facts.into_iter().filter(|id| !waiting.contains(id)).collect();
        if !self.folds.contains_key(&read) && !self.prepare(&read).await? {
            return Ok(None);
        }
        Ok(Some((read, waiting.into_iter().collect())))
    }

    /// Locks the tables that are to be read, without waiting: whoever holds one against readers holds up its watch alone. So
    /// does whoever put something else into its place: a view would run its owner's functions as us.
    async fn locked_out(&mut self, waiting: &BTreeSet<i32>) -> Result<Vec<i32>, Error> {
        let facts = self.facts.iter().flatten().filter(|(id, _)| !waiting.contains(id));
        let tables: Vec<(i32, String)> = facts.map(|(id, facts)| (*id, facts.relation.clone())).collect();
        if tables.is_empty() {
            return Ok(Vec::new());
        }
        let lock = |tables: &str| format!("SAVEPOINT facts; LOCK TABLE {tables} IN ACCESS SHARE MODE NOWAIT; RELEASE facts");
        let all: Vec<&str> = tables.iter().map(|(_, relation)| relation.as_str()).collect();
        let changed = self.changed().await?;
        // Sent together: that they are locked is awaited before they are looked at, but by the server.
        let lock_all = lock(&all.join(", "));
        let (locked, others) = tokio::join!(biased; self.client.batch_execute(&lock_all), changed.ask(&self.client));
        if locked.is_ok() {
            return Ok(self.refuse_changed(others?, waiting));
        }
        self.client.batch_execute("ROLLBACK TO facts").await?;
        let mut out = Vec::new();
        for (id, relation) in tables {
            if let Err(error) = self.client.batch_execute(&lock(&relation)).await.map_err(Error::from) {
                self.client.batch_execute("ROLLBACK TO facts").await?;
                if error.sqlstate() != Some("55P03") {
                    self.refusals.refuse(id, format!("its rows cannot be read: {error}"));
                }
                out.push(id);
            }
        }
        let others = changed.ask(&self.client).await?;
        out.extend(self.refuse_changed(others, waiting));
        Ok(out)
    }

    /// Prepares the deleting statement that reads these watches' tables. Gives false where one of them cannot be read as
    /// it is configured: that one is refused, and the others are tried again without it.
    async fn prepare(&mut self, read: &[i32]) -> Result<bool, Error> {
        let facts = self.facts.clone().unwrap_or_default();
        let chosen = |ids: &[i32]| ids.iter().filter_map(|id| facts.get(id)).cloned().collect::<Vec<_>>();
        self.client.batch_execute("SAVEPOINT facts").await?;
        match self.client.prepare(&self.fold_sql(&chosen(read))).await.map_err(Error::from) {
            Ok(statement) => {
                self.client.batch_execute("RELEASE facts").await?;
                self.folds.insert(read.to_vec(), statement);
                return Ok(true);
            }
            Err(error) if read.is_empty() => return Err(error),
            Err(_) => self.client.batch_execute("ROLLBACK TO facts").await?,
        }
        for id in read {
            if let Err(error) = self.client.prepare(&self.fold_sql(&chosen(&[*id]))).await.map_err(Error::from) {
                self.client.batch_execute("ROLLBACK TO facts").await?;
                self.refusals.refuse(*id, format!("its rows cannot be read: {error}"));
            }
        }
        Ok(false)
    }

    fn fold_sql(&self, facts: &[Facts]) -> String {
        let fold = include_str!("../../sql/fold.sql");
        let wrong =
            chaos::is(Mutation::EvaluateBeforeDry).then(|| fold.replace("count(*) < $6::bigint AS complete", "true AS complete"));
        // What is configured comes last, so that nothing in it is replaced.
        let fold = self.schema.sql(wrong.as_deref().unwrap_or(fold));
        let thresholds = facts::lateral_thresholds(&self.schema, self.served.values());
        fold.replacen("LATERAL ({thresholds})", &format!("LATERAL ({thresholds})"), 1).replacen(
            "LATERAL ({rows})",
            &format!("LATERAL ({})", facts::lateral_rows(facts.iter())),
            1,
        )
    }
}
