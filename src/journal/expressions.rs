//! What a person wrote about a table's rows, and the columns that it uses, as PostgreSQL understands them.
//!
//! Invariants. The table is locked against ALTER TABLE from the look at its columns until the last of the expressions is parsed:
//! see [`guard`]. What was understood is only valid as long as nobody changes the table.

use tokio_postgres::Client;

use super::columns::{self, Column, Measured};
use super::definition::{Changes, Definition};
use super::guard::{self, Kinds, Typed};
use crate::db::schema::Schema;
use crate::error::Error;
use crate::watch::{Measure, Relation, Source, Watch};

/// A table whose expressions are to be understood.
pub(super) struct Understanding<'a> {
    /// The session.
    pub(super) client: &'a Client,
    /// Our schema.
    pub(super) schema: &'a Schema,
    /// The table.
    pub(super) relation: &'a Relation,
    /// Its number in the catalog.
    pub(super) oid: u32,
    /// Its columns.
    pub(super) table: &'a [Column],
    /// Of which kind the columns are to be; `None` where they are trusted as they are.
    pub(super) known: Option<&'a Kinds>,
}

impl Understanding<'_> {
    /// The columns that the triggers of a watch use, and what is summed up of one row.
    ///
    /// # Errors
    /// A column of another kind, or an expression that cannot be understood or is no number.
    pub(super) async fn of(
        &self,
        watch: &Watch,
        primary: &[String],
        changes: Option<&Changes>,
    ) -> Result<(Vec<Typed>, Option<Measured>), Error> {
        let condition = match &watch.source {
            Source::Table { condition, .. } => condition.as_deref(),
            _ => None,
        };
        let expressions: Vec<&str> = condition.into_iter().chain(watch.measure.expression()).collect();
        let mut columns = guard::used(&expressions, self.table.iter().map(|column| column.name.as_str()));
        columns.extend(watch.key().iter().cloned());
        if changes.is_some() {
            columns.extend(primary.iter().cloned());
            columns.extend(super::definition::columns_told(watch, self.table));
            columns.extend(watch.rules.iter().flat_map(|rule| rule.columns.iter().cloned()));
        }
        columns.sort_unstable();
        columns.dedup();
        if expressions.is_empty() {
            return Ok((self.trusted(&columns).await?, None));
        }
        self.hold().await?;
        let understood = async {
            let typed = self.trusted(&columns).await?;
            let measure = self.understand(condition, &watch.measure).await?;
            Ok::<_, Error>((typed, measure))
        };
        let understood = understood.await;
        // Nothing was written; what is lost with the session says so itself.
        let ended = self.client.batch_execute("ROLLBACK").await;
        let understood = understood?;
        ended?;
        Ok(understood)
    }

    /// Begins a transaction that keeps the table as it is. Who may not read it may not lock it either, but parses a statement
    /// about nothing, which keeps it as well: its owner may have taken the right away to have it changed in between.
    async fn hold(&self) -> Result<(), Error> {
        let may = "SELECT has_table_privilege($1::oid, 'SELECT')";
        let may: bool = self.client.query_one(may, &[&self.oid]).await?.get(0);
        self.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE", self.relation.quoted());
        let same =
            "SELECT to_regclass($1)::oid IS NOT DISTINCT FROM $2 AND (SELECT relkind IN ('r', 'p') FROM pg_class WHERE oid = $2)";
        let held = async {
            match may {
                true => self.client.batch_execute(&lock).await?,
                false => drop(self.client.prepare(&format!("SELECT FROM ONLY {}", self.relation.quoted())).await?),
            }
            let same = self.client.query_one(same, &[&self.relation.quoted(), &self.oid]).await?;
            if same.get::<_, Option<bool>>(0) == Some(true) {
                return Ok(());
            }
            Err(Error::Failed(format!("{} became another table while it was looked at", self.relation)))
        };
        let held = held.await;
        if held.is_err() {
            // The first error says more.
            let _ended = self.client.batch_execute("ROLLBACK").await;
        }
        held
    }

    async fn trusted(&self, columns: &[String]) -> Result<Vec<Typed>, Error> {
        let typed = guard::of_columns(self.client, self.schema, self.oid, columns).await?;
        if let Some(known) = self.known {
            guard::refuse_strange(&self.relation.quoted(), known, &typed)?;
        }
        Ok(typed)
    }

    async fn understand(&self, condition: Option<&str>, measure: &Measure) -> Result<Option<Measured>, Error> {
        let quoted = self.relation.quoted();
        if let Some(condition) = condition {
            self.client.batch_execute("SAVEPOINT understood").await?;
            let said = columns::stands_alone(self.client, condition, &quoted).await;
            said.map_err(|error| Error::about("where", error))?;
            // It may have been understood but not allowed, which the transaction would not go on after.
            self.client.batch_execute("ROLLBACK TO understood").await?;
        }
        let Some(expression) = measure.expression() else { return Ok(None) };
        let word = measure.word();
        let kind = columns::type_of(self.client, expression, &quoted).await.map_err(|error| Error::about(word, error))?;
        Measured::of(expression, &kind).map(Some).map_err(|what| Error::Failed(format!("{word}: {what}")))
    }
}

impl Definition {
    /// Proves that condition and measure are immutable, by using them in an index on an empty copy that is rolled back:
    /// `expires_at < now()` would drift for ever, since no statement runs when it turns.
    ///
    /// # Errors
    /// What PostgreSQL says about it.
    pub async fn prove_immutable(&self, client: &mut Client, schema: &Schema) -> Result<(), Error> {
        if self.is_conditional() {
            self.prove(client, schema, "where", &format!("((1)) WHERE {}", self.condition)).await?;
        }
        if let Some(measure) = &self.measure {
            self.prove(client, schema, "sum or value", &format!("((\n{}\n))", measure.expression)).await?;
        }
        Ok(())
    }

    /// Twice, under settings that a writer's session may have: a date or a time that is written in another way there would
    /// be another one, and the counts would drift.
    async fn prove(&self, client: &mut Client, schema: &Schema, what: &str, index: &str) -> Result<(), Error> {
        let here = self.understood(client, schema, what, index, "'ISO, MDY'", "'<-12>+12'").await?;
        let there = self.understood(client, schema, what, index, "'ISO, DMY'", "'<+14>-14'").await?;
        if here == there {
            return Ok(());
        }
        Err(Error::Failed(format!(
            "{what}: a date or time in it means something else in sessions with another DateStyle or TimeZone, and a trigger runs in the \
             writer's; write dates as '2026-11-21', times with their zone as '2026-11-21 12:00Z', and neither now nor today"
        )))
    }

    /// The expression as PostgreSQL understood it.
    async fn understood(
        &self,
        client: &mut Client,
        schema: &Schema,
        what: &str,
        index: &str,
        dates: &str,
        zone: &str,
    ) -> Result<String, Error> {
        let transaction = client.transaction().await?;
        transaction
            .batch_execute(&format!(
                "SET LOCAL DateStyle = {dates}; SET LOCAL TimeZone = {zone};
                 CREATE TEMP TABLE items_listen_proof (LIKE {}) ON COMMIT DROP",
                self.relation
            ))
            .await?;
        // A transaction that is dropped is rolled back.
        guard::refuse_copy(transaction.client(), schema, "pg_temp.items_listen_proof", &self.guarded).await?;
        let proven = async {
            transaction.batch_execute(&format!("CREATE INDEX ON pg_temp.items_listen_proof {index}")).await?;
            transaction.batch_execute("SET LOCAL DateStyle = 'ISO, MDY'; SET LOCAL TimeZone = 'UTC'").await?;
            let shown =
                "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'pg_temp.items_listen_proof'::regclass";
            transaction.query_one(shown, &[]).await
        };
        let proven = proven.await;
        transaction.rollback().await?;
        proven.map(|row| row.get(0)).map_err(|error| {
            let said = Error::from(error);
            if said.is_locked() {
                return Error::about(what, said);
            }
            Error::Failed(format!(
                "{what}: {said}; an expression may use the row's own columns and immutable functions only (with their schema, \
                 unless they are PostgreSQL's own), since nothing tells us when now() makes it another; for anything else there \
                 is query = \"SELECT …\""
            ))
        })
    }
}
