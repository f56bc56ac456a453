//! Readings that come from elsewhere: from an application's NOTIFY, or from a query's sweep.
//!
//! Invariants. They are evaluated, and stored as the counts of their keys, under the fold's lock (J12). Nothing of them is
//! kept before the COMMIT: whoever brought them brings them again if there was none.

use std::collections::HashMap;

use jiff::Timestamp;

use super::decide::{self, Evaluated, Known};
use super::told::Untold;
use super::unread::Remembered;
use super::{Engine, Received, facts};
use crate::error::Error;
use crate::evaluate::State;
use crate::severity::Severity;
use crate::watch::Measure;

impl Engine {
    /// Evaluates readings that were received, each in turn, and gives how many of them; none, where a lookup cannot be
    /// asked. The others are to be brought again.
    ///
    /// # Errors
    /// As [`Engine::fold`].
    pub async fn receive(&mut self, readings: &[Received]) -> Result<usize, Error> {
        let now = &readings[..readings.len().min(usize::try_from(self.pace().1).unwrap_or(1))];
        self.begin(&format!("SELECT true FROM pg_advisory_xact_lock({})", self.lock)).await?;
        // What could not be asked for is dirty, and the next fold tells it.
        Ok(if matches!(self.evaluate_received(now).await?, Some(Untold::Refused { .. })) { 0 } else { now.len() })
    }

    /// Evaluates everything that a query watch's sweep gave; a key of which it says nothing is gone. `after_each` is called
    /// after each of its transactions, of which a large answer takes many.
    ///
    /// # Errors
    /// As [`Engine::fold`].
    pub async fn sweep(&mut self, id: i32, mut readings: Vec<Received>, after_each: impl Fn()) -> Result<bool, Error> {
        let Some(served) = self.served.get(&id).cloned() else { return Ok(true) };
        let lock = format!("SELECT true FROM pg_advisory_xact_lock({})", self.lock);
        self.begin(&lock).await?;
        let keys: Vec<&str> = readings.iter().map(|reading| reading.key.text.as_str()).collect();
        let sql = self
            .schema
            .sql("SELECT c.key FROM items_listen.count c WHERE c.watch = $1 AND c.key NOT IN (SELECT unnest($2::text[]))");
        let gone = self.client.query(sql.as_str(), &[&id, &keys]).await?;
        self.client.batch_execute("COMMIT").await?;
        readings.extend(gone.iter().map(|row| Received {
            watch: id,
            source: served.source(),
            key: served.watch.key_from_text(row.get(0)),
            gone: true,
            ..Received::default()
        }));
        // One transaction after another: keys do not depend on each other, and nobody is held up for long.
        let mut rest = readings.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(usize::try_from(self.pace().1).unwrap_or(1).min(rest.len()));
            self.begin(&lock).await?;
            let untold = self.evaluate_received(now).await?;
            after_each();
            match untold {
                // What could not be asked for is dirty, and the next sweep, which comes at once, tells it.
                None | Some(Untold::TooMuch) => rest = later,
                Some(Untold::Refused { .. }) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// In a transaction that has begun; gives why nothing was written, if nothing was.
    async fn evaluate_received(&mut self, readings: &[Received]) -> Result<Option<Untold>, Error> {
        self.asker.begin();
        let now: Timestamp = self.client.query_one("SELECT clock_timestamp()", &[]).await?.get(0);
        let ours = self.still_ours().await?;
        let readings = self.of_this_definition(readings.iter().filter(|reading| ours.contains(&reading.watch)));
        let mut known = self.known_of(&readings).await?;
        let mut evaluated = Evaluated::default();
        let mut seqs = self.next_seqs(readings.len()).await?.into_iter();
        for reading in &readings {
            let Some(served) = self.served.get(&reading.watch) else { continue };
            let Some(known) = known.get_mut(&(reading.watch, reading.key.text.clone())) else { continue };
            let Some(seq) = seqs.next() else { continue };
            evaluated.decisions.extend(decide::received(served, reading, known, seq, now));
            if reading.gone && known.state.severity == Severity::Info && known.state.deadline.is_none() {
                evaluated.empty.push((reading.watch, reading.key.text.clone()));
            }
        }
        self.store(&readings).await?;
        let baseline = "SELECT id FROM items_listen.watch WHERE baseline AND id = ANY ($1)";
        let watches: Vec<i32> = readings.iter().map(|reading| reading.watch).collect();
        for row in self.client.query(self.schema.sql(baseline).as_str(), &[&watches]).await? {
            let id: i32 = row.get(0);
            evaluated.decisions.iter_mut().filter(|decision| decision.watch == id).for_each(|decision| decision.silent = true);
            evaluated.baseline.push(id);
        }
        match Box::pin(self.writer.write(&self.client, &mut self.asker, &self.served, evaluated, now, &mut Remembered::default()))
            .await?
        {
            None => Ok(None),
            Some(untold) => {
                self.note_untold(&untold);
                if let Untold::Refused { .. } = untold {
                    self.client.batch_execute("ROLLBACK").await?;
                }
                Ok(Some(untold))
            }
        }
    }

    /// Those that came under the definition that their watch has now. Readings outlive the session that heard them, and so a
    /// reload: what was said of one thing is not judged as if it had been said of another.
    fn of_this_definition<'a>(&self, readings: impl Iterator<Item = &'a Received>) -> Vec<&'a Received> {
        let mut dropped: HashMap<&str, u64> = HashMap::new();
        let mut kept = Vec::new();
        for reading in readings {
            let Some(served) = self.served.get(&reading.watch) else { continue };
            if served.source() == reading.source {
                kept.push(reading);
            } else {
                *dropped.entry(&served.watch.name).or_default() += 1;
            }
        }
        for (watch, dropped) in dropped {
            tracing::warn!(watch, dropped, "readings that came under another definition of this watch are dropped");
        }
        kept
    }

    /// What is known of the keys of these readings.
    async fn known_of(&self, readings: &[&Received]) -> Result<HashMap<(i32, String), Known>, Error> {
        let (watches, keys): (Vec<i32>, Vec<&str>) =
            readings.iter().map(|reading| (reading.watch, reading.key.text.as_str())).unzip();
        let sql = self.schema.sql(
            "SELECT r.watch, r.key, c.severity, c.episode, c.breach_since, c.clear_since, c.said_at, c.deadline, c.last_at, c.dirty,
                    coalesce(t.found, false), t.threshold
             FROM (SELECT DISTINCT * FROM unnest($1::int[], $2::text[]) AS r (watch, key)) AS r
             LEFT JOIN items_listen.count c ON c.watch = r.watch AND c.key = r.key
             LEFT JOIN LATERAL ({thresholds}) AS t (threshold, found) ON true",
        );
        let sql = sql.replacen("{thresholds}", &facts::lateral_thresholds(&self.schema, self.served.values()), 1);
        let rows = self.client.query(sql.as_str(), &[&watches, &keys]).await?;
        let state = |row: &tokio_postgres::Row| match row.get::<_, Option<i16>>(2) {
            None => State::NEW,
            Some(severity) => State {
                severity: Severity::from_rank(severity),
                breach_since: row.get(4),
                clear_since: row.get(5),
                said_at: row.get(6),
                deadline: row.get(7),
                last_at: row.get(8),
            },
        };
        let known = |row: &tokio_postgres::Row| Known {
            state: state(row),
            episode: row.get(3),
            rejudged: row.get::<_, Option<i16>>(9).unwrap_or_default() == decide::DIRTY_REJUDGED,
            edited: row.get::<_, bool>(10).then(|| row.get(11)),
        };
        Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), known(row))).collect())
    }

    /// Stores what was received as the counts of its keys: the last of each key stands.
    async fn store(&self, readings: &[&Received]) -> Result<(), Error> {
        let last: HashMap<(i32, &str), &Received> =
            readings.iter().map(|reading| ((reading.watch, reading.key.text.as_str()), *reading)).collect();
        let (mut watches, mut keys, mut rows, mut sums) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for ((watch, key), reading) in last {
            let measured = self.served.get(&watch).is_some_and(|served| served.watch.measure != Measure::Rows);
            watches.push(watch);
            keys.push(key);
            rows.push(if measured { i64::from(!reading.gone) } else { reading.count });
            sums.push(if measured { reading.count } else { 0 });
        }
        let sql = self.schema.sql(
            "INSERT INTO items_listen.count AS c (watch, key, rows, sum, dirty)
             SELECT r.watch, r.key, r.rows, r.sum, 0
             FROM unnest($1::int[], $2::text[], $3::bigint[], $4::bigint[]) AS r (watch, key, rows, sum)
             ORDER BY r.watch, r.key COLLATE \"C\"
             ON CONFLICT (watch, key) DO UPDATE SET rows = excluded.rows, sum = excluded.sum, dirty = 0
             WHERE (c.rows, c.sum, c.dirty) IS DISTINCT FROM (excluded.rows, excluded.sum, 0)",
        );
        self.client.execute(sql.as_str(), &[&watches, &keys, &rows, &sums]).await?;
        Ok(())
    }
}
