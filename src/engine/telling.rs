//! The events of one transaction on their way into the database, and out of it to whoever sends them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Client;
use uuid::Uuid;

use super::columns::{DeliveryColumns, EventColumns};
use super::tell::{Told, all, sendable};
use super::write::{Parameters, Writer};
use crate::chaos::{self, Mutation, point};
use crate::error::Error;
use crate::outbox::{Lane, Parcel};
use crate::pusher::classify::Reason;

/// The events of one transaction on their way into the database.
pub(super) struct Telling<'a> {
    pub(super) writer: &'a Writer,
    pub(super) client: &'a Client,
    /// One token for all that this transaction leases.
    token: Uuid,
    /// Leases are counted from before they are sent.
    before: Duration,
    lanes: HashMap<(String, Lane), Birth>,
    /// Told, but for their deliveries.
    put_off: Vec<Told>,
    pub(super) born: Born,
    /// The database's time of the fold.
    pub(super) now: Timestamp,
}

impl<'a> Telling<'a> {
    pub(super) fn new(writer: &'a Writer, client: &'a Client, now: Timestamp) -> Telling<'a> {
        Telling {
            writer,
            client,
            token: Uuid::new_v4(),
            before: crate::dispatch::clock::now(),
            lanes: HashMap::new(),
            put_off: Vec::new(),
            born: Born::default(),
            now,
        }
    }

    /// Stores events and deliveries. Gives the deliveries' ids, in the order of the chunk.
    pub(super) async fn store(&mut self, chunk: &[Told]) -> Result<Vec<i64>, Error> {
        if chunk.is_empty() {
            return Ok(Vec::new());
        }
        self.flush().await?;
        let lanes = self.new_lanes(chunk);
        let unsettled = self.look_up(&lanes).await?;
        self.note_unsettled(unsettled);
        self.insert_events(chunk).await?;
        self.insert(chunk).await
    }

    /// The lanes that this chunk is the first to use, and of which it is to be looked up whether anything earlier is
    /// unsettled. Whatever is to be found, its deliveries are born leased only if there is room for them.
    pub(super) fn new_lanes(&mut self, chunk: &[Told]) -> LaneColumns {
        let dispatch = &self.writer.dispatch;
        let mut columns = LaneColumns::default();
        for (told, outgoing) in sendable(chunk) {
            let lane = (outgoing.endpoint.clone(), outgoing.lane(told));
            if self.lanes.contains_key(&lane) {
                continue;
            }
            let room = dispatch.has_room(&outgoing.endpoint, self.born.parcels.len() + columns.keys.len());
            if room {
                columns.endpoints.push(outgoing.endpoint.clone());
                columns.watches.push(lane.1.watch.to_string());
                columns.keys.push(lane.1.key.to_string());
            }
            self.lanes.insert(lane, Birth { leased: room, after: None });
        }
        columns
    }

    /// What is unsettled in these lanes.
    pub(super) async fn look_up(&self, lanes: &LaneColumns) -> Result<Vec<tokio_postgres::Row>, Error> {
        if lanes.keys.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.client.query(&self.writer.lanes, &[&lanes.endpoints, &lanes.watches, &lanes.keys]).await?)
    }

    /// Decides how the deliveries of lanes are born in which something is unsettled: leased only if all of that is queued
    /// in this process's memory.
    pub(super) fn note_unsettled(&mut self, rows: Vec<tokio_postgres::Row>) {
        for row in rows {
            let endpoint: String = row.get(0);
            let unsettled: Vec<i64> = row.get(3);
            let leased = self.writer.dispatch.holds_all(&endpoint, &unsettled);
            let birth = Birth { leased, after: unsettled.iter().max().copied() };
            self.lanes.insert((endpoint, Lane { watch: row.get::<_, &str>(1).into(), key: row.get::<_, &str>(2).into() }), birth);
        }
    }

    /// Stores the history of these.
    pub(super) async fn insert_events(&self, chunk: &[Told]) -> Result<(), Error> {
        let events = EventColumns::of(chunk);
        if !events.ids.is_empty() {
            self.client.execute(&self.writer.events, &events.parameters()).await?;
        }
        Ok(())
    }

    /// Leaves the deliveries of these to be inserted together with what comes next.
    pub(super) fn put_off(&mut self, chunk: Vec<Told>) {
        self.put_off = chunk;
    }

    /// Inserts what was put off.
    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        let chunk = std::mem::take(&mut self.put_off);
        if !chunk.is_empty() {
            self.insert(&chunk).await?;
        }
        Ok(())
    }

    /// Commits, and hands what was born leased to the dispatcher. Gives the ids of all deliveries.
    pub(super) async fn commit(mut self) -> Result<Vec<i64>, Error> {
        let chunk = std::mem::take(&mut self.put_off);
        let columns = self.columns(&chunk);
        if columns.collapse.iter().any(Option::is_some) {
            // What it takes the place of is found by its id.
            self.insert(&chunk).await?;
            self.doubt();
            self.client.batch_execute("COMMIT").await?;
        } else {
            // Until it is acknowledged it may have been committed or not; if we are never told, what this token leases is
            // freed by the next session, and not sent from here.
            self.born.leased |= columns.leases.iter().any(Option::is_some);
            self.doubt();
            // Both are sent before the first answer is awaited: if the first fails, the second rolls back.
            let (ids, committed) = tokio::join!(biased; self.insert_deliveries(&columns), self.client.batch_execute("COMMIT"));
            let ids = ids?;
            committed?;
            self.give_birth(&chunk, &ids, &columns);
        }
        Ok(self.accept())
    }

    fn doubt(&self) {
        if self.born.leased {
            self.writer.dispatch.doubt(self.token);
        }
    }

    fn accept(self) -> Vec<i64> {
        let (dispatch, born) = (&self.writer.dispatch, self.born);
        point!("fold.committed");
        dispatch.accept(born.parcels);
        point!("fold.accepted");
        if born.leased {
            dispatch.trust(self.token);
        }
        born.waiting.iter().for_each(|endpoint| dispatch.wake(endpoint));
        born.later.iter().for_each(|(endpoint, after)| dispatch.wake_after(endpoint, *after));
        born.ids
    }

    /// What is to be inserted, and what of it is leased.
    fn columns(&self, chunk: &[Told]) -> DeliveryColumns {
        let dispatch = &self.writer.dispatch;
        let mut columns = DeliveryColumns::default();
        for (told, outgoing) in all(chunk) {
            let leased = outgoing.unsendable.is_none()
                && outgoing.due.is_none()
                && self.lanes.get(&(outgoing.endpoint.clone(), outgoing.lane(told))).is_some_and(|birth| birth.leased);
            columns.push(told, outgoing, leased.then(|| dispatch.lease(&outgoing.endpoint)));
        }
        columns
    }

    async fn insert(&mut self, chunk: &[Told]) -> Result<Vec<i64>, Error> {
        let columns = self.columns(chunk);
        let ids = self.insert_deliveries(&columns).await?;
        self.supersede(&ids, &columns).await?;
        self.give_birth(chunk, &ids, &columns);
        Ok(ids)
    }

    async fn insert_deliveries(&self, columns: &DeliveryColumns) -> Result<Vec<i64>, Error> {
        if columns.bodies.is_empty() {
            return Ok(Vec::new());
        }
        let seconds = |lease: Duration| (!chaos::is(Mutation::BornUnleased)).then_some(lease.as_secs_f64());
        let leases: Vec<Option<f64>> = columns.leases.iter().map(|lease| lease.and_then(seconds)).collect();
        let (due, about) = columns.waiting();
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
            &self.token,
            &self.writer.instance,
            &Reason::Unsendable.as_str(),
            &columns.collapse,
            due,
            about,
        ];
        let rows = self.client.query(&self.writer.deliveries, parameters).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Notes what was inserted: parcels of what is leased, and whom to wake for the rest.
    fn give_birth(&mut self, chunk: &[Told], ids: &[i64], columns: &DeliveryColumns) {
        let dispatch = &self.writer.dispatch;
        for ((told, outgoing), (id, lease)) in all(chunk).zip(ids.iter().zip(&columns.leases)) {
            self.born.ids.push(*id);
            let Some(lease) = lease else {
                if let Some(due) = outgoing.due {
                    let after = Duration::try_from(due.duration_since(self.now)).unwrap_or_default();
                    self.born.later.push((outgoing.endpoint.clone(), after));
                } else if outgoing.unsendable.is_none() && !dispatch.is_held() {
                    self.born.waiting.insert(outgoing.endpoint.clone());
                }
                continue;
            };
            let lane = outgoing.lane(told);
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
            self.born.leased = true;
            self.born.parcels.push((outgoing.endpoint.clone(), parcel));
        }
    }

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
pub(super) struct Born {
    /// Something was leased.
    leased: bool,
    ids: Vec<i64>,
    parcels: Vec<(String, Parcel)>,
    /// Endpoints with deliveries that were not born leased: somebody has to claim them.
    waiting: HashSet<String>,
    /// Endpoints with deliveries that are due later, and after how long.
    pub(super) later: Vec<(String, Duration)>,
}

/// How the deliveries of a lane are born in this transaction.
struct Birth {
    leased: bool,
    after: Option<i64>,
}

/// Lanes that are looked up.
#[derive(Default)]
pub(super) struct LaneColumns {
    endpoints: Vec<String>,
    watches: Vec<String>,
    keys: Vec<String>,
}
