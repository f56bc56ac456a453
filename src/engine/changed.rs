//! Whether the tables that a fold reads are still those that its statement was understood for.
//!
//! Invariants. The tables are locked when this is asked, and until the fold ends: so nobody puts a view into the place of a
//! table, or gives a column another type, between this and the reading, which would run the functions of their owner as us.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Client, Statement};

use super::Engine;
use super::facts::Facts;
use crate::db::schema::Schema;
use crate::error::Error;
use crate::journal::guard;

/// The watches ($1) whose table ($2, in whose place $3 was found before) is none any more, or has another type of a column
/// ($5 of the watch $4, $6); and whether it is no table.
const CHANGED: &str = "
    SELECT f.id, c.oid IS NULL OR c.relkind NOT IN ('r', 'p')
    FROM unnest($1::int[], $2::text[], $3::oid[]) AS f (id, relation, oid)
    LEFT JOIN pg_class c ON c.oid = to_regclass(f.relation)
    WHERE c.oid IS DISTINCT FROM f.oid OR c.relkind NOT IN ('r', 'p')
       OR EXISTS (SELECT FROM unnest($4::int[], $5::text[], $6::oid[]) AS k (id, name, type)
                  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = k.name AND NOT a.attisdropped
                  WHERE k.id = f.id AND a.atttypid IS DISTINCT FROM k.type)";

/// The question, and what is expected.
pub(super) struct Changed {
    statement: Statement,
    ids: Vec<i32>,
    relations: Vec<String>,
    oids: Vec<Option<u32>>,
    of: Vec<i32>,
    names: Vec<String>,
    types: Vec<u32>,
}

impl Changed {
    fn new(statement: Statement, facts: &BTreeMap<i32, Facts>) -> Changed {
        let columns = || facts.iter().flat_map(|(id, facts)| facts.columns.iter().map(|column| (*id, column)));
        Changed {
            statement,
            ids: facts.keys().copied().collect(),
            relations: facts.values().map(|facts| facts.relation.clone()).collect(),
            oids: facts.values().map(|facts| facts.oid).collect(),
            of: columns().map(|(id, _)| id).collect(),
            names: columns().map(|(_, (name, _))| name.clone()).collect(),
            types: columns().map(|(_, (_, kind))| *kind).collect(),
        }
    }

    /// The watches whose table is another, and whether it is no table.
    ///
    /// # Errors
    /// The session is lost, or its transaction failed before.
    pub(super) async fn ask(&self, client: &Client) -> Result<Vec<(i32, bool)>, Error> {
        let Changed { statement, ids, relations, oids, of, names, types } = self;
        let rows = client.query(statement, &[ids, relations, oids, of, names, types]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

/// Locks the table that a reading outside of a fold is about, and refuses what could run somebody's code as us: it has not been
/// read before, so nothing is known that it could be compared with.
///
/// # Errors
/// It is another, or has a column of such a type.
pub(super) async fn hold(client: &Client, schema: &Schema, facts: &Facts) -> Result<(), Error> {
    client.batch_execute(&format!("LOCK TABLE {} IN ACCESS SHARE MODE", facts.relation)).await?;
    let changed = Changed::new(client.prepare(CHANGED).await?, &BTreeMap::from([(0, facts.clone())]));
    let names: Vec<String> = facts.columns.iter().map(|(name, _)| name.clone()).collect();
    let strange = guard::strange(&guard::of_columns(client, schema, facts.oid.unwrap_or_default(), &names).await?);
    if !changed.ask(client).await?.is_empty() {
        return Err(Error::Failed(format!("{} became another table while it was looked at", facts.relation)));
    }
    match strange.is_empty() {
        true => Ok(()),
        false => Err(Error::Failed(format!("the rows of {} are not read: {}", facts.relation, strange.join("; ")))),
    }
}

impl Engine {
    /// The question whether the tables are what they were.
    pub(super) async fn changed(&mut self) -> Result<Changed, Error> {
        let statement = match &self.changed {
            Some(statement) => statement.clone(),
            None => self.changed.insert(self.client.prepare(CHANGED).await?).clone(),
        };
        Ok(Changed::new(statement, self.facts.as_ref().unwrap_or(&BTreeMap::new())))
    }

    /// What a watch reads now; what it read before while a column has another type that could run somebody's code as us: then
    /// its table stays a changed one.
    pub(super) async fn trusted(&self, id: i32, now: Facts) -> Result<Facts, Error> {
        let (Some(before), Some(oid)) = (self.facts_before.get(&id), now.oid) else { return Ok(now) };
        let others = now.columns.iter().filter(|column| !before.columns.contains(column));
        let others: Vec<String> = others.map(|(name, _)| name.clone()).collect();
        let typed = guard::of_columns(&self.client, &self.schema, oid, &others).await?;
        Ok(if typed.iter().any(|typed| typed.strange.is_some()) { before.clone() } else { now })
    }

    /// Lets those wait whose table is another: what they read is looked up anew before the next fold.
    pub(super) fn refuse_changed(&mut self, others: Vec<(i32, bool)>, waiting: &BTreeSet<i32>) -> Vec<i32> {
        let mut out = Vec::new();
        for (id, is_no_table) in others.into_iter().filter(|(id, _)| !waiting.contains(id)) {
            let relation = self.facts.as_ref().and_then(|facts| facts.get(&id)).map(|facts| facts.relation.clone());
            let why = match is_no_table {
                true => "is no table any more, and reading it could run anybody's code: put a table in its place, or use query",
                false => {
                    "is another table than it was, or has a column of another type: it is looked at anew, and read if that type can run \
                     nobody's code; if it can, and you trust its owner, restart the daemon"
                }
            };
            self.refusals.refuse(id, format!("its rows are not read: {} {why}", relation.unwrap_or_default()));
            out.push(id);
        }
        if !out.is_empty() {
            let facts = self.facts.take().unwrap_or_default();
            self.facts_before.extend(facts.into_iter().filter(|(id, _)| out.contains(id)));
            self.folds.clear();
        }
        out
    }
}
