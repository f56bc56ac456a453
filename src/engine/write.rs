//! Writes what was decided: episodes, events, deliveries, states; and, once the COMMIT is acknowledged,
//! hands the deliveries that were born leased to the dispatcher's memory.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use super::Served;
use super::columns::{self, DeliveryColumns, EpisodeColumns, EventColumns, StateColumns};
use super::decide::{Decision, Evaluated};
use super::digest;
use super::tell::{self, Told, all, lane, sendable};
use crate::chaos::{self, Mutation, point};
use crate::db::schema::Schema;
use crate::dispatch::Dispatch;
use crate::error::Error;
use crate::evaluate::Transition;
use crate::outbox::{Lane, Parcel};
use crate::pusher::classify::Reason;

/// So many decisions are told and inserted at a time.
const DECISIONS_PER_CHUNK: usize = 500;

type Parameters<'a> = [&'a (dyn ToSql + Sync)];

/// The prepared statements of the writing half.
pub(super) struct Writer {
    instance: Uuid,
    dispatch: Dispatch,
    unread: Statement,
    lanes: Statement,
    raise: Statement,
    change: Statement,
    events: Statement,
    deliveries: Statement,
    states: Statement,
    clean: Statement,
    empty: Statement,
    baseline: Statement,
    supersede: Statement,
    pub(super) storms: Statement,
    pub(super) storm: Statement,
    schema: Schema,
    pub(super) seqs: Statement,
}

impl Writer {
    pub(super) async fn prepare(client: &Client, schema: &Schema, instance: Uuid, dispatch: Dispatch) -> Result<Writer, Error> {
        let prepare = async |sql: &str| client.prepare(&schema.sql(sql)).await;
        Ok(Writer {
            instance,
            dispatch,
            unread: prepare(columns::UNREAD).await?,
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
        })
    }

    /// Writes everything and commits.
    pub(super) async fn write(
        &self,
        client: &Client,
        served: &HashMap<i32, Served>,
        mut evaluated: Evaluated,
        now: Timestamp,
    ) -> Result<(), Error> {
        let unread = self.unread(client, served, &evaluated).await?;
        let mut told = Telling::new(self, client);
        digest::tell_and_admit(&mut told, served, &mut evaluated, &unread, now).await?;
        // Chunk by chunk: a storm takes no more memory than one, and the server is not left waiting in a transaction.
        for chunk in evaluated.decisions.chunks(DECISIONS_PER_CHUNK) {
            let mut events = Vec::new();
            for decision in chunk.iter().filter(|decision| !decision.silent) {
                let Some(served) = served.get(&decision.watch) else { continue };
                events.extend(tell::decision(served, decision, unread.get(served.watch.name.as_str()).copied(), now));
            }
            told.store(&events).await?;
            point!("fold.deliveries");
            let messages = events.into_iter().filter_map(|told| Some((told.event.alert?, told.event.message?))).collect();
            self.store_episodes(client, served, chunk, &messages, now).await?;
            point!("fold.episodes");
            if !chaos::is(Mutation::StateOutsideTransaction) {
                self.store_states(client, chunk).await?;
            }
        }
        let born = told.born;
        point!("fold.states");
        self.store_watches(client, &evaluated).await?;
        point!("fold.written");
        if chaos::is(Mutation::StateOutsideTransaction) {
            client.batch_execute("COMMIT").await?;
            point!("fold.committed");
            self.store_states(client, &evaluated.decisions).await?;
            client.batch_execute("BEGIN").await?;
        }
        self.commit(client, born).await
    }

    /// Writes a manual trigger and commits; gives the ids of its deliveries.
    pub(super) async fn write_manual(
        &self,
        client: &Client,
        served: &HashMap<i32, Served>,
        evaluated: Evaluated,
        now: Timestamp,
    ) -> Result<Vec<i64>, Error> {
        let unread = self.unread(client, served, &evaluated).await?;
        let mut told = Telling::new(self, client);
        if let Some(manual) = &evaluated.manual
            && let Some(served) = served.get(&manual.watch)
        {
            told.store(&[tell::manual(served, manual, unread.get(served.watch.name.as_str()).copied(), now)]).await?;
        }
        let born = told.born;
        let ids = born.ids.clone();
        self.commit(client, born).await?;
        Ok(ids)
    }

    async fn commit(&self, client: &Client, born: Born) -> Result<(), Error> {
        // Until it is acknowledged it may have been committed or not; if we are never told, what this token leases is
        // freed by the next session, and not sent from here.
        if let Some(token) = born.token {
            self.dispatch.doubt(token);
        }
        client.batch_execute("COMMIT").await?;
        point!("fold.committed");
        self.dispatch.accept(born.parcels);
        point!("fold.accepted");
        if let Some(token) = born.token {
            self.dispatch.trust(token);
        }
        born.waiting.iter().for_each(|endpoint| self.dispatch.wake(endpoint));
        Ok(())
    }

    /// Alerts that nobody has read, per watch, as they will be once this transaction is committed.
    async fn unread(
        &self,
        client: &Client,
        served: &HashMap<i32, Served>,
        evaluated: &Evaluated,
    ) -> Result<HashMap<String, i64>, Error> {
        let watches = evaluated.decisions.iter().map(|decision| decision.watch);
        let watches = watches.chain(evaluated.manual.iter().map(|manual| manual.watch)).chain(evaluated.storms.iter().copied());
        let wanting = watches.filter_map(|id| served.get(&id)).filter(|served| served.watch.wants_unread());
        let mut names: Vec<&str> = wanting.map(|served| served.watch.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return Ok(HashMap::new());
        }
        let of = |transition: Transition| {
            let changed = evaluated
                .decisions
                .iter()
                .filter(move |decision| decision.change.is_some_and(|change| change.transition == transition));
            changed.filter(|decision| !decision.silent)
        };
        let escalated: Vec<Uuid> = of(Transition::Escalated).filter_map(|decision| decision.about).collect();
        let rows = client.query(&self.unread, &[&names, &escalated]).await?;
        let mut unread: HashMap<String, i64> = names.iter().map(|name| ((*name).to_owned(), 0)).collect();
        unread.extend(rows.iter().map(|row| (row.get::<_, String>(0), row.get::<_, i64>(1))));
        for raised in of(Transition::Raised) {
            if let Some(served) = served.get(&raised.watch) {
                *unread.entry(served.watch.name.clone()).or_default() += 1;
            }
        }
        Ok(unread)
    }

    /// Opens the cursor `digest` over a watch's window.
    pub(super) fn digest_cursor(&self, watch: &str, from_seq: i64) -> String {
        let sql = self.schema.sql(columns::DIGEST);
        sql.replace("{watch}", &crate::db::literal(watch)).replace("{from_seq}", &from_seq.to_string())
    }

    async fn insert_deliveries(
        &self,
        client: &Client,
        columns: &DeliveryColumns,
        token: Uuid,
    ) -> Result<Vec<i64>, tokio_postgres::Error> {
        if columns.bodies.is_empty() {
            return Ok(Vec::new());
        }
        let seconds = |lease: Duration| (!chaos::is(Mutation::BornUnleased)).then_some(lease.as_secs_f64());
        let leases: Vec<Option<f64>> = columns.leases.iter().map(|lease| lease.and_then(seconds)).collect();
        let parameters: &Parameters<'_> = &[
            &columns.event_ids,
            &columns.endpoints,
            &columns.watches,
            &columns.keys,
            &columns.channels,
            &columns.names,
            &columns.bodies,
            &leases,
            &columns.unsendable,
            &token,
            &self.instance,
            &Reason::Unsendable.as_str(),
            &columns.collapse,
        ];
        let rows = client.query(&self.deliveries, parameters).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
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
        if !raised.ids.is_empty() {
            client.execute(&self.raise, &raised.parameters()).await?;
        }
        if !changed.ids.is_empty() {
            client.execute(&self.change, &changed.parameters()).await?;
        }
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

/// The events of one transaction on their way into the database.
pub(super) struct Telling<'a> {
    pub(super) writer: &'a Writer,
    pub(super) client: &'a Client,
    /// One token for all that this transaction leases.
    token: Uuid,
    /// Leases are counted from before they are sent.
    before: Duration,
    lanes: HashMap<(String, Lane), Birth>,
    born: Born,
}

impl<'a> Telling<'a> {
    fn new(writer: &'a Writer, client: &'a Client) -> Telling<'a> {
        Telling {
            writer,
            client,
            token: Uuid::new_v4(),
            before: crate::dispatch::clock::now(),
            lanes: HashMap::new(),
            born: Born::default(),
        }
    }

    pub(super) async fn store(&mut self, chunk: &[Told]) -> Result<(), Error> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.look_up_lanes(chunk).await?;
        self.insert(chunk).await
    }

    /// Decides, for each lane that this chunk is the first to use, whether its deliveries are born leased:
    /// only if nothing earlier of the lane is unsettled but what is queued in this process's memory.
    async fn look_up_lanes(&mut self, chunk: &[Told]) -> Result<(), Error> {
        let dispatch = &self.writer.dispatch;
        let (mut endpoints, mut watches, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for (told, outgoing) in sendable(chunk) {
            let lane = (outgoing.endpoint.clone(), lane(told));
            if self.lanes.contains_key(&lane) {
                continue;
            }
            let room = dispatch.has_room(&outgoing.endpoint, self.born.parcels.len());
            if room {
                endpoints.push(outgoing.endpoint.clone());
                watches.push(told.event.watch.clone());
                keys.push(told.lane_key.clone());
            }
            self.lanes.insert(lane, Birth { leased: room, after: None });
        }
        if endpoints.is_empty() {
            return Ok(());
        }
        for row in self.client.query(&self.writer.lanes, &[&endpoints, &watches, &keys]).await? {
            let endpoint: String = row.get(0);
            let unsettled: Vec<i64> = row.get(3);
            let birth = Birth { leased: dispatch.holds_all(&endpoint, &unsettled), after: unsettled.iter().max().copied() };
            self.lanes.insert((endpoint, Lane { watch: row.get(1), key: row.get(2) }), birth);
        }
        Ok(())
    }

    async fn insert(&mut self, chunk: &[Told]) -> Result<(), Error> {
        let dispatch = &self.writer.dispatch;
        let events = EventColumns::of(chunk);
        let mut columns = DeliveryColumns::default();
        for (told, outgoing) in all(chunk) {
            let leased = outgoing.unsendable.is_none()
                && self.lanes.get(&(outgoing.endpoint.clone(), lane(told))).is_some_and(|birth| birth.leased);
            columns.push(told, outgoing, leased.then(|| dispatch.lease(&outgoing.endpoint)));
        }
        let event_parameters = events.parameters();
        let (stored, rows) = tokio::join!(biased;
            self.client.execute(&self.writer.events, &event_parameters),
            self.writer.insert_deliveries(self.client, &columns, self.token),
        );
        stored?;
        let ids = rows?;
        self.supersede(&ids, &columns).await?;
        for ((told, outgoing), (id, lease)) in all(chunk).zip(ids.iter().zip(&columns.leases)) {
            self.born.ids.push(*id);
            let Some(lease) = lease else {
                if outgoing.unsendable.is_none() && !dispatch.is_held() {
                    self.born.waiting.insert(outgoing.endpoint.clone());
                }
                continue;
            };
            let lane = lane(told);
            let birth = self.lanes.get_mut(&(outgoing.endpoint.clone(), lane.clone()));
            let parcel = Parcel {
                id: *id,
                event_id: told.event.id,
                lane,
                channels: outgoing.channels.len(),
                body: outgoing.body.clone(),
                attempts: 0,
                resent: 0,
                age: Duration::ZERO,
                lease: self.token,
                lease_end: self.before + *lease,
                after: birth.and_then(|birth| birth.after.replace(*id)),
                collapse: outgoing.collapse.clone(),
            };
            self.born.token = Some(self.token);
            self.born.parcels.push((outgoing.endpoint.clone(), parcel));
        }
        Ok(())
    }
}

impl Telling<'_> {
    /// What has to wait takes the place of what its rule said before of its key, and which waits as well.
    async fn supersede(&self, ids: &[i64], columns: &DeliveryColumns) -> Result<(), Error> {
        let waits = |index: usize| {
            columns.collapse[index].is_some() && columns.leases[index].is_none() && columns.unsendable[index].is_none()
        };
        let waiting: Vec<i64> = ids.iter().enumerate().filter(|(index, _)| waits(*index)).map(|(_, id)| *id).collect();
        if !waiting.is_empty() {
            self.client.execute(&self.writer.supersede, &[&waiting, &Reason::Superseded.as_str()]).await?;
        }
        Ok(())
    }
}

/// What was inserted.
#[derive(Default)]
struct Born {
    /// The lease's token, if anything was leased.
    token: Option<Uuid>,
    ids: Vec<i64>,
    parcels: Vec<(String, Parcel)>,
    /// Endpoints with deliveries that were not born leased: somebody has to claim them.
    waiting: HashSet<String>,
}

/// How the deliveries of a lane are born in this transaction.
struct Birth {
    leased: bool,
    after: Option<i64>,
}
