//! Writes what was decided: episodes, events, deliveries, states; and, once the COMMIT is acknowledged,
//! hands the deliveries that were born leased to the dispatcher's memory.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio_postgres::types::{Json, ToSql};
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use super::Served;
use super::ask::Asker;
use super::columns::{self, EpisodeColumns, StateColumns};
use super::decide::{Changed, Decision, Evaluated, row_of_none};
use super::digest;
use super::said::Said;
use super::tell::{self, Seen, Told};
use super::telling::Telling;
use super::told::{Untold, ask, changed, decided};
use super::unread::Remembered;
use crate::chaos::{self, Mutation, point};
use crate::db::schema::Schema;
use crate::dispatch::Dispatch;
use crate::error::Error;
use crate::evaluate::{self, Transition};

/// So many decisions are told and inserted at a time.
pub(super) const DECISIONS_PER_CHUNK: usize = 500;

pub(super) type Parameters<'a> = [&'a (dyn ToSql + Sync)];

/// The prepared statements of the writing half.
pub(super) struct Writer {
    pub(super) instance: Uuid,
    pub(super) dispatch: Dispatch,
    pub(super) unread: Statement,
    rows: Statement,
    leave: Statement,
    give_back: Statement,
    pub(super) unread_whole: Statement,
    pub(super) unread_edits: Statement,
    pub(super) audiences: Statement,
    pub(super) replace: Statement,
    pub(super) audience: Statement,
    pub(super) lanes: Statement,
    raise: Statement,
    change: Statement,
    pub(super) events: Statement,
    pub(super) deliveries: Statement,
    states: Statement,
    clean: Statement,
    empty: Statement,
    baseline: Statement,
    pub(super) supersede: Statement,
    pub(super) storms: Statement,
    pub(super) storm: Statement,
    schema: Schema,
    pub(super) seqs: Statement,
    said: Said,
}

impl Writer {
    pub(super) async fn prepare(client: &Client, schema: &Schema, instance: Uuid, dispatch: Dispatch) -> Result<Writer, Error> {
        let prepare = async |sql: &str| client.prepare(&schema.sql(sql)).await;
        Ok(Writer {
            instance,
            dispatch,
            unread: prepare(columns::UNREAD).await?,
            rows: prepare(columns::ROWS).await?,
            leave: prepare(columns::LEAVE).await?,
            give_back: prepare(columns::GIVE_BACK).await?,
            unread_whole: prepare(columns::UNREAD_WHOLE).await?,
            unread_edits: prepare(columns::UNREAD_EDITS).await?,
            audiences: prepare(columns::AUDIENCES).await?,
            replace: prepare(columns::REPLACE).await?,
            audience: prepare(columns::AUDIENCE).await?,
            lanes: prepare(columns::LANES).await?,
            raise: prepare(columns::RAISE).await?,
            change: prepare(columns::CHANGE).await?,
            events: prepare(columns::EVENTS).await?,
            deliveries: prepare(columns::DELIVERIES).await?,
            states: prepare(columns::STATES).await?,
            clean: prepare(columns::CLEAN).await?,
            empty: prepare(columns::EMPTY).await?,
            baseline: prepare(columns::BASELINE).await?,
            supersede: prepare(columns::SUPERSEDE).await?,
            storms: prepare(columns::STORMS).await?,
            storm: prepare(columns::STORM).await?,
            schema: schema.clone(),
            seqs: prepare(columns::SEQS).await?,
            said: Said::default(),
        })
    }

    /// Writes everything and commits. Gives the watch whose lookup cannot be asked, if one cannot: nothing is committed then.
    pub(super) async fn write(
        &self,
        client: &Client,
        asker: &mut Asker,
        served: &HashMap<i32, Served>,
        mut evaluated: Evaluated,
        now: Timestamp,
        remembered: &mut Remembered,
    ) -> Result<Option<Untold>, Error> {
        self.recall_rows(client, served, &mut evaluated.decisions).await?;
        let unread = self.unread(client, served, &evaluated, remembered).await?;
        let mut told = Telling::new(self, client, now);
        let all = evaluated.decisions.len();
        digest::tell_and_admit(&mut told, served, &mut evaluated, now).await?;
        // Chunk by chunk: a storm takes no more memory than one, and the server is not left waiting in a transaction.
        let mut left = false;
        let mut rest = evaluated.decisions.as_slice();
        while !rest.is_empty() {
            let (events, taken) = match decided(asker, served, rest, &unread, now).await {
                Ok(decided) => decided,
                Err(Untold::TooMuch) => {
                    left = true;
                    self.leave(client, rest).await?;
                    break;
                }
                Err(untold) => return Ok(Some(untold)),
            };
            let (chunk, after) = rest.split_at(taken);
            rest = after;
            self.store_decisions(&mut told, served, chunk, events).await?;
        }
        let written = evaluated.decisions.len() - rest.len();
        let left_keys: HashSet<(i32, String)> = rest.iter().map(|decision| (decision.watch, decision.key.clone())).collect();
        let mut rest = evaluated.changes.as_slice();
        while !rest.is_empty() {
            let (events, taken) = match changed(asker, served, rest, &unread, now).await {
                Ok(changed) => changed,
                Err(Untold::TooMuch) => {
                    left = true;
                    self.give_back(client, served, rest).await?;
                    break;
                }
                Err(untold) => return Ok(Some(untold)),
            };
            rest = &rest[taken..];
            told.tell_audiences(events).await?;
        }
        if left {
            evaluated.clean.retain(|key| !left_keys.contains(key));
            evaluated.empty.retain(|key| !left_keys.contains(key));
            // A baseline is taken when the last of its keys is.
            evaluated.baseline.clear();
        }
        point!("fold.states");
        self.store_watches(client, &evaluated).await?;
        point!("fold.written");
        if chaos::is(Mutation::StateOutsideTransaction) {
            told.flush().await?;
            client.batch_execute("COMMIT").await?;
            point!("fold.committed");
            self.store_states(client, &evaluated.decisions).await?;
            client.batch_execute("BEGIN").await?;
        }
        // Others than were counted, or none that is told.
        let exact = !left && all == evaluated.decisions.len() && !evaluated.decisions.iter().any(|decision| decision.silent);
        told.commit().await?;
        self.said.say(served, &evaluated.decisions[..written]);
        if exact {
            remembered.committed(None, unread.whole());
        } else {
            remembered.forget();
        }
        Ok(left.then_some(Untold::TooMuch))
    }

    /// Stores decisions and what is told of them. All of it is sent before the first answer is awaited, but for the
    /// deliveries, which need one: they go together with what comes next, at last the COMMIT.
    async fn store_decisions(
        &self,
        told: &mut Telling<'_>,
        served: &HashMap<i32, Served>,
        chunk: &[Decision],
        events: Vec<Told>,
    ) -> Result<(), Error> {
        told.flush().await?;
        point!("fold.deliveries");
        let (client, now) = (told.client, told.now);
        let messages =
            events.iter().filter_map(|told| Some((told.event.alert?, told.event.message.clone()?))).collect::<HashMap<_, _>>();
        let states = if chaos::is(Mutation::StateOutsideTransaction) { &[] } else { chunk };
        let lanes = told.new_lanes(&events);
        let (unsettled, stored, episodes, states) = tokio::join!(biased;
            told.look_up(&lanes),
            told.insert_events(&events),
            self.store_episodes(client, served, chunk, &messages, now),
            self.store_states(client, states),
        );
        stored?;
        episodes?;
        states?;
        told.note_unsettled(unsettled?);
        point!("fold.episodes");
        told.put_off(events);
        Ok(())
    }

    /// Leaves keys to the next fold: there is no time to ask for what is to be told of them.
    async fn leave(&self, client: &Client, rest: &[Decision]) -> Result<(), Error> {
        let watches: Vec<i32> = rest.iter().map(|decision| decision.watch).collect();
        let keys: Vec<&str> = rest.iter().map(|decision| decision.key.as_str()).collect();
        let dirty: Vec<i16> = rest
            .iter()
            .map(
                |decision| if decision.change.is_some_and(|change| change.reason == evaluate::Reason::Threshold) { 2 } else { 1 },
            )
            .collect();
        client.execute(&self.leave, &[&watches, &keys, &dirty]).await?;
        Ok(())
    }

    /// Gives changes back: as they were, but for their transaction, which is this one.
    async fn give_back(&self, client: &Client, served: &HashMap<i32, Served>, rest: &[Changed]) -> Result<(), Error> {
        let json = |row: &Option<Map<String, Value>>| row.clone().map(|row| Json(Value::Object(row)));
        let generations: Vec<i32> =
            rest.iter().map(|changed| served.get(&changed.watch).map_or(0, |served| served.generation)).collect();
        let ats: Vec<Timestamp> = rest.iter().map(|changed| changed.began).collect();
        let whats: Vec<&str> = rest.iter().map(|changed| changed.change.as_str()).collect();
        let keys: Vec<&str> = rest.iter().map(|changed| changed.key.as_str()).collect();
        let olds: Vec<_> = rest.iter().map(|changed| json(&changed.old)).collect();
        let news: Vec<_> = rest.iter().map(|changed| json(&changed.new)).collect();
        client.execute(&self.give_back, &[&generations, &ats, &whats, &keys, &olds, &news]).await?;
        Ok(())
    }

    /// Writes a manual trigger and commits; gives the ids of its deliveries.
    pub(super) async fn write_manual(
        &self,
        client: &Client,
        asker: &mut Asker,
        served: &HashMap<i32, Served>,
        evaluated: Evaluated,
        now: Timestamp,
    ) -> Result<Vec<i64>, Error> {
        let unread = self.unread(client, served, &evaluated, &Remembered::default()).await?;
        let mut told = Telling::new(self, client, now);
        if let Some(manual) = &evaluated.manual
            && let Some(served) = served.get(&manual.watch)
        {
            let row = manual.row.as_ref().and_then(Value::as_object);
            let lookup = ask(asker, served, &manual.key.object, row).await.map_err(Untold::into_error)?;
            let seen = Seen { unread: unread.of(&served.watch, &manual.key.object), lookup: lookup.as_ref() };
            told.store(&[tell::manual(served, manual, seen, now)]).await?;
        }
        told.commit().await
    }

    /// A row that is gone is as it was when it was last told of: whoever had it is to hear of its end.
    async fn recall_rows(&self, client: &Client, served: &HashMap<i32, Served>, decisions: &mut [Decision]) -> Result<(), Error> {
        let has_row = |decision: &Decision| served.get(&decision.watch).is_some_and(|served| served.watch.has_row());
        let rowless =
            || decisions.iter().filter(|decision| decision.row.is_none() && decision.change.is_some() && has_row(decision));
        let episodes: Vec<Uuid> = rowless().filter_map(|decision| decision.about).collect();
        if episodes.is_empty() {
            return Ok(());
        }
        let rows = client.query(&self.rows, &[&episodes]).await?;
        let last: HashMap<Uuid, Option<String>> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for decision in decisions.iter_mut().filter(|decision| decision.row.is_none() && decision.change.is_some()) {
            let Some(served) = served.get(&decision.watch).filter(|served| served.watch.has_row()) else { continue };
            let known = decision.about.and_then(|episode| last.get(&episode).cloned().flatten());
            decision.recalled = known.is_some();
            decision.row = known.or_else(|| row_of_none(&served.watch));
        }
        Ok(())
    }

    /// Opens the cursor `digest` over a watch's window.
    pub(super) fn digest_cursor(&self, watch: &str, from_seq: i64) -> String {
        let sql = self.schema.sql(columns::DIGEST);
        sql.replace("{watch}", &crate::db::literal(watch)).replace("{from_seq}", &from_seq.to_string())
    }

    async fn store_episodes(
        &self,
        client: &Client,
        served: &HashMap<i32, Served>,
        decisions: &[Decision],
        messages: &HashMap<Uuid, String>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut raised = EpisodeColumns::default();
        let mut changed = EpisodeColumns::default();
        for decision in decisions {
            let (Some(change), Some(served)) = (decision.change, served.get(&decision.watch)) else { continue };
            let into = if change.transition == Transition::Raised { &mut raised } else { &mut changed };
            into.push(served, decision, messages, now);
        }
        let store = async |statement: &Statement, columns: &EpisodeColumns| match columns.ids.is_empty() {
            true => Ok(0),
            false => client.execute(statement, &columns.parameters()).await,
        };
        let (raised, changed) = tokio::join!(biased; store(&self.raise, &raised), store(&self.change, &changed));
        raised?;
        changed?;
        Ok(())
    }

    async fn store_states(&self, client: &Client, decisions: &[Decision]) -> Result<(), Error> {
        let states = StateColumns::of(decisions);
        if !states.watches.is_empty() {
            client.execute(&self.states, &states.parameters()).await?;
        }
        Ok(())
    }

    async fn store_watches(&self, client: &Client, evaluated: &Evaluated) -> Result<(), Error> {
        for (statement, keys) in [(&self.clean, &evaluated.clean), (&self.empty, &evaluated.empty)] {
            if !keys.is_empty() {
                let (watches, keys): (Vec<i32>, Vec<&str>) = keys.iter().map(|(watch, key)| (*watch, key.as_str())).unzip();
                client.execute(statement, &[&watches, &keys]).await?;
            }
        }
        if !evaluated.baseline.is_empty() {
            client.execute(&self.baseline, &[&evaluated.baseline]).await?;
        }
        Ok(())
    }
}
