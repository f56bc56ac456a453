//! Coalescing: what waits to be told to audiences that are told no more often than so.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;

use super::Sent;
use crate::coalesce;
use crate::engine::tell::{Outgoing, united};
use crate::event::Event;

/// An endpoint, and one event name on one channel.
pub(super) type Who = (String, String);

/// An event on its way.
pub(super) struct Parcel {
    pub(super) event: Event,
    pub(super) outgoing: Outgoing,
}

/// When each audience was told last, or is to be, and what waits for that.
#[derive(Default)]
pub(super) struct Audiences(BTreeMap<Who, Audience>);

#[derive(Default)]
struct Audience {
    last_due: Option<Timestamp>,
    waiting: VecDeque<(Timestamp, Parcel)>,
}

impl Audiences {
    /// Sends it at once, puts it into what waits, or lets it wait itself.
    pub(super) fn put(&mut self, mut parcel: Parcel, now: Timestamp) -> Option<Sent> {
        let who = (parcel.outgoing.endpoint.clone(), parcel.outgoing.audience());
        let audience = self.0.entry(who).or_default();
        if let Some((_, waiting)) = audience.waiting.back_mut()
            && let Some(body) = united(&waiting.outgoing.body, &parcel.outgoing)
        {
            parcel.outgoing.body = body;
            *waiting = parcel;
            return None;
        }
        let due = coalesce::due(audience.last_due, parcel.outgoing.coalesce.unwrap_or_default(), now);
        audience.last_due = Some(due);
        if due > now {
            audience.waiting.push_back((due, parcel));
            return None;
        }
        Some(Sent::of(now, &parcel.event, parcel.outgoing))
    }

    /// When something is due to whom.
    pub(super) fn due(&self) -> impl Iterator<Item = (Timestamp, Who)> {
        self.0.iter().filter_map(|(who, audience)| Some((audience.waiting.front()?.0, who.clone())))
    }

    /// Sends what has waited longest.
    pub(super) fn take(&mut self, who: &Who, now: Timestamp) -> Option<Sent> {
        let (_, parcel) = self.0.get_mut(who)?.waiting.pop_front()?;
        Some(Sent::of(now, &parcel.event, parcel.outgoing))
    }
}
