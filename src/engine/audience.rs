//! Coalescing: changes on their way to audiences (one event name on one channel) that are told no more often than so.
//!
//! Invariants. The first change goes out at once. One that comes before the time is over has a delivery that waits for it,
//! or is put into the one that waits; only while nobody has tried that one: its row is locked for it, and a claim
//! skips locked rows. What was once tried never changes. Order along an audience is that of its lane.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use super::tell::{Outgoing, Told, united};
use super::telling::Telling;
use crate::coalesce;
use crate::error::Error;

/// Who is told: an endpoint, and a lane of it.
type Who = (String, String);

/// What is known of an audience.
struct Audience {
    last_due: Option<Timestamp>,
    waiting: Waiting,
}

/// What waits to be told to it.
enum Waiting {
    Nothing,
    /// A delivery in the database.
    Stored {
        id: i64,
        body: String,
        news: Option<(Uuid, Option<Value>, SignedDuration)>,
    },
    /// One that is about to be inserted: the place of its event in the chunk, and its own there.
    New(usize, usize),
}

impl Telling<'_> {
    /// Stores the events of changes. Of those that go to an audience that is told at its own times, some are put together.
    pub(super) async fn tell_audiences(&mut self, mut chunk: Vec<Told>) -> Result<(), Error> {
        let mut audiences = self.look_up_audiences(&chunk).await?;
        for at in 0..chunk.len() {
            let parcels = std::mem::take(&mut chunk[at].parcels);
            for outgoing in parcels {
                let who = (outgoing.endpoint.clone(), outgoing.audience());
                let (Some(_), None, Some(audience)) = (outgoing.coalesce, &outgoing.unsendable, audiences.get_mut(&who)) else {
                    chunk[at].parcels.push(outgoing);
                    continue;
                };
                self.put(&mut chunk, at, outgoing, audience);
            }
        }
        self.store_waiting(&audiences).await?;
        let placed: Vec<(Who, Option<Timestamp>)> = super::tell::all(&chunk)
            .map(|(_, outgoing)| ((outgoing.endpoint.clone(), outgoing.audience()), outgoing.due))
            .collect();
        let timed: Vec<bool> =
            super::tell::all(&chunk).map(|(_, outgoing)| outgoing.coalesce.is_some() && outgoing.unsendable.is_none()).collect();
        let ids = self.store(&chunk).await?;
        let told = placed.into_iter().zip(ids).zip(timed).filter(|(_, timed)| *timed).map(|(told, _)| told);
        self.note_audiences(told).await
    }

    /// Puts one delivery where it belongs: out at once, into what waits, or waiting itself.
    fn put(&self, chunk: &mut [Told], at: usize, mut outgoing: Outgoing, audience: &mut Audience) {
        let event = chunk[at].event.id;
        let about = outgoing.about(&chunk[at]);
        match &mut audience.waiting {
            Waiting::New(event_at, parcel_at) => {
                let (event_at, parcel_at) = (*event_at, *parcel_at);
                if let Some(united) = united(&chunk[event_at].parcels[parcel_at].body, &outgoing) {
                    chunk[event_at].parcels[parcel_at].body = united;
                    return;
                }
            }
            Waiting::Stored { body, news, .. } => {
                if let Some(united) = united(body, &outgoing) {
                    *body = united;
                    *news = Some((event, about, outgoing.coalesce.unwrap_or_default()));
                    return;
                }
            }
            Waiting::Nothing => {}
        }
        let due = coalesce::due(audience.last_due, outgoing.coalesce.unwrap_or_default(), self.now);
        audience.last_due = Some(due);
        if due > self.now {
            outgoing.due = Some(due);
            audience.waiting = Waiting::New(at, chunk[at].parcels.len());
        } else {
            audience.waiting = Waiting::Nothing;
        }
        chunk[at].parcels.push(outgoing);
    }

    async fn look_up_audiences(&self, chunk: &[Told]) -> Result<HashMap<Who, Audience>, Error> {
        let timed = super::tell::sendable(chunk).filter(|(_, outgoing)| outgoing.coalesce.is_some());
        let mut audiences: HashMap<Who, Audience> = timed
            .map(|(_, outgoing)| {
                ((outgoing.endpoint.clone(), outgoing.audience()), Audience { last_due: None, waiting: Waiting::Nothing })
            })
            .collect();
        if audiences.is_empty() {
            return Ok(audiences);
        }
        let (endpoints, lanes): (Vec<&str>, Vec<&str>) =
            audiences.keys().map(|(endpoint, lane)| (endpoint.as_str(), lane.as_str())).unzip();
        for row in self.client.query(&self.writer.audiences, &[&endpoints, &lanes]).await? {
            let waiting = match row.get::<_, Option<i64>>(3) {
                Some(id) => Waiting::Stored { id, body: row.get(4), news: None },
                None => Waiting::Nothing,
            };
            audiences.insert((row.get(0), row.get(1)), Audience { last_due: Some(row.get(2)), waiting });
        }
        Ok(audiences)
    }

    async fn store_waiting(&mut self, audiences: &HashMap<Who, Audience>) -> Result<(), Error> {
        let (mut ids, mut bodies, mut events, mut abouts, mut seconds) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut later = Vec::new();
        for (who, audience) in audiences {
            if let Waiting::Stored { id, body, news: Some((event, about, coalesce)) } = &audience.waiting {
                ids.push(*id);
                bodies.push(body.as_str());
                events.push(*event);
                abouts.push(about);
                seconds.push(coalesce.as_secs_f64());
                later.push((who.0.clone(), std::time::Duration::try_from(*coalesce).unwrap_or_default()));
            }
        }
        if !ids.is_empty() {
            self.client.execute(&self.writer.replace, &[&ids, &bodies, &events, &abouts, &seconds]).await?;
            self.born.later.extend(later);
        }
        Ok(())
    }

    /// Notes when each audience was told, or is to be: the last of it in this chunk.
    async fn note_audiences(&self, told: impl Iterator<Item = ((Who, Option<Timestamp>), i64)>) -> Result<(), Error> {
        let last: HashMap<Who, (Option<Timestamp>, i64)> = told.map(|((who, due), id)| (who, (due, id))).collect();
        if last.is_empty() {
            return Ok(());
        }
        let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for ((endpoint, lane), (due, id)) in last {
            columns.0.push(endpoint);
            columns.1.push(lane);
            columns.2.push(due);
            columns.3.push(id);
        }
        self.client.execute(&self.writer.audience, &[&columns.0, &columns.1, &columns.2, &columns.3]).await?;
        Ok(())
    }
}
