//! Who may be connected: so many at once, and whoever comes last comes in.
//!
//! A listener that is full and waits is closed to the probe that asks whether we live, by anybody who opens connections and says
//! nothing. So nobody waits: for a newcomer the one gives way that has kept its place for longest without having sent a
//! request; only where everybody is being answered it is the one whose answer takes longest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use crate::dispatch::lock;

/// The places of a listener.
pub(super) struct Places {
    max: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    /// Grows with everything that happens: an order in time, without a clock.
    now: u64,
    connections: HashMap<u64, Connection>,
}

struct Connection {
    is_answered: bool,
    since: u64,
    gone: CancellationToken,
}

/// A connection's place; it is given back when this is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    id: u64,
    /// Cancelled when it has to give way.
    pub(super) gone: CancellationToken,
}

/// A request is being answered for as long as this is kept.
pub(super) struct Answering(Arc<Place>);

impl Taken {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// Sends one away, if there is one that may have to go; whether there was.
    fn shed(&mut self, only_waiting: bool) -> bool {
        let may_go = self.connections.iter().filter(|(_, connection)| !(only_waiting && connection.is_answered));
        let oldest = may_go.min_by_key(|(_, connection)| (connection.is_answered, connection.since));
        let sent_away = oldest.map(|(id, _)| *id).and_then(|id| self.connections.remove(&id));
        sent_away.is_some_and(|connection| {
            connection.gone.cancel();
            true
        })
    }
}

impl Places {
    /// So many.
    pub(super) fn new(max: usize) -> Arc<Places> {
        Arc::new(Places { max, taken: Mutex::default() })
    }

    /// A place for a newcomer; where there is none, another gives way.
    pub(super) fn take(self: &Arc<Places>) -> Arc<Place> {
        let mut taken = lock(&self.taken);
        if taken.connections.len() >= self.max {
            taken.shed(false);
        }
        let (id, gone) = (taken.tick(), CancellationToken::new());
        taken.connections.insert(id, Connection { is_answered: false, since: id, gone: gone.clone() });
        Arc::new(Place { places: Arc::clone(self), id, gone })
    }

    /// One that has sent no request gives way, since the process has no room for another file; whether there was one.
    pub(super) fn shed(&self) -> bool {
        lock(&self.taken).shed(true)
    }
}

impl Place {
    /// A request has come whole.
    pub(super) fn answer(self: &Arc<Place>) -> Answering {
        self.note(true);
        Answering(Arc::clone(self))
    }

    /// Whether a request is being answered.
    pub(super) fn is_answered(&self) -> bool {
        lock(&self.places.taken).connections.get(&self.id).is_some_and(|connection| connection.is_answered)
    }

    fn note(&self, is_answered: bool) {
        let mut taken = lock(&self.places.taken);
        let since = taken.tick();
        if let Some(connection) = taken.connections.get_mut(&self.id) {
            (connection.is_answered, connection.since) = (is_answered, since);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.places.taken).connections.remove(&self.id);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.note(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(places: &[&Arc<Place>]) -> Vec<bool> {
        places.iter().map(|place| place.gone.is_cancelled()).collect()
    }

    #[test]
    fn whoever_has_said_nothing_for_longest_gives_way() {
        let places = Places::new(3);
        let (a, b, c) = (places.take(), places.take(), places.take());
        // The first is answered, and waits again: it is the youngest now.
        drop(a.answer());
        let d = places.take();
        assert_eq!(gone(&[&a, &b, &c, &d]), [false, true, false, false]);
        let _answering = c.answer();
        let e = places.take();
        assert_eq!(gone(&[&a, &c, &d, &e]), [true, false, false, false]);
        assert!(c.is_answered() && !d.is_answered() && !a.is_answered());
    }

    #[test]
    fn where_everybody_is_answered_the_longest_answer_gives_way() {
        let places = Places::new(2);
        let (a, b) = (places.take(), places.take());
        let _answering = (b.answer(), a.answer());
        let c = places.take();
        assert_eq!(gone(&[&a, &b, &c]), [false, true, false]);
        drop(c);
        places.shed();
        assert_eq!(gone(&[&a]), [false], "for want of files nobody goes who is answered");
        let d = places.take();
        places.shed();
        assert_eq!(gone(&[&a, &d]), [false, true]);
    }

    #[test]
    fn a_place_that_is_given_back_is_free() {
        let places = Places::new(1);
        for _ in 0..3 {
            assert!(!places.take().gone.is_cancelled());
        }
        assert!(lock(&places.taken).connections.is_empty());
    }
}
