//! The lanes of one endpoint in memory: what waits, what is under way, and what may go next.
//!
//! Pure. At most one delivery of a lane is under way; a batch therefore never holds two of one lane.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::outbox::{Lane, Parcel};
use crate::pusher::body::BATCH_FRAME_BYTES;

/// After so many attempts a delivery is sent alone: whatever was wrong, only the culprit is to suffer.
const ATTEMPTS_IN_BATCH_MAX: i32 = 2;

/// The lanes.
#[derive(Debug, Default)]
pub struct Lanes {
    queues: HashMap<Lane, VecDeque<Parcel>>,
    ready: VecDeque<Lane>,
    under_way: HashSet<Lane>,
    alone: HashSet<i64>,
    lane_of: HashMap<i64, Lane>,
    len: usize,
}

impl Lanes {
    /// Deliveries in memory.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether something could be sent now.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether this delivery is in its lane.
    pub fn contains(&self, lane: &Lane, id: i64) -> bool {
        self.queues.get(lane).is_some_and(|queue| queue.iter().any(|parcel| parcel.id == id))
    }

    /// The lane of a delivery in memory.
    pub fn lane_of(&self, id: i64) -> Option<Lane> {
        self.lane_of.get(&id).cloned()
    }

    /// Adds a delivery at the end of its lane. One that is already there, and was claimed anew, takes
    /// the place of the old.
    pub fn push(&mut self, parcel: Parcel) {
        let lane = parcel.lane.clone();
        let queue = self.queues.entry(lane.clone()).or_default();
        if let Some(same) = queue.iter_mut().find(|queued| queued.id == parcel.id) {
            *same = parcel;
            return;
        }
        self.lane_of.insert(parcel.id, lane.clone());
        queue.push_back(parcel);
        self.len += 1;
        if queue.len() == 1 && !self.under_way.contains(&lane) {
            self.ready.push_back(lane);
        }
    }

    /// Takes what one request may carry: heads of different lanes, up to `max_batch` of them and
    /// `max_bytes` of body; or one that must go alone.
    pub fn next_request(&mut self, max_batch: usize, max_bytes: usize) -> Vec<Parcel> {
        let mut request: Vec<Parcel> = Vec::new();
        let mut bytes = BATCH_FRAME_BYTES;
        let mut skipped = VecDeque::new();
        while request.len() < max_batch {
            let Some(lane) = self.ready.pop_front() else { break };
            let Some(head) = self.queues.get(&lane).and_then(VecDeque::front) else { continue };
            let alone =
                head.channels != 1 || head.attempts + head.resent >= ATTEMPTS_IN_BATCH_MAX || self.alone.contains(&head.id);
            let fits = request.is_empty() || (!alone && bytes + head.body.len() < max_bytes);
            if !fits {
                skipped.push_back(lane);
                if !alone {
                    break;
                }
                continue;
            }
            bytes += head.body.len() + 1;
            request.push(head.clone());
            self.under_way.insert(lane);
            if alone {
                break;
            }
        }
        // What did not fit keeps its turn.
        while let Some(lane) = skipped.pop_back() {
            self.ready.push_front(lane);
        }
        request
    }

    /// The head of this lane is settled for good: the next may go.
    pub fn settled(&mut self, lane: &Lane, id: i64) {
        self.under_way.remove(lane);
        self.alone.remove(&id);
        self.lane_of.remove(&id);
        let Some(queue) = self.queues.get_mut(lane) else { return };
        if queue.front().is_some_and(|head| head.id == id) {
            queue.pop_front();
            self.len -= 1;
        }
        if queue.is_empty() {
            self.queues.remove(lane);
        } else {
            self.ready.push_back(lane.clone());
        }
    }

    /// The head of this lane is to be sent again at once, and alone.
    pub fn again_alone(&mut self, lane: &Lane, id: i64) {
        self.under_way.remove(lane);
        self.alone.insert(id);
        if let Some(head) = self.queues.get_mut(lane).and_then(VecDeque::front_mut) {
            head.resent += 1;
            self.ready.push_back(lane.clone());
        }
    }

    /// Takes a whole lane out of memory, to give it back.
    pub fn take(&mut self, lane: &Lane) -> Vec<Parcel> {
        self.under_way.remove(lane);
        self.ready.retain(|ready| ready != lane);
        let taken: Vec<Parcel> = self.queues.remove(lane).into_iter().flatten().collect();
        self.len -= taken.len();
        for parcel in &taken {
            self.alone.remove(&parcel.id);
            self.lane_of.remove(&parcel.id);
        }
        taken
    }

    /// Takes every lane of which nothing is under way.
    pub fn take_idle(&mut self) -> Vec<Vec<Parcel>> {
        let idle: Vec<Lane> = self.queues.keys().filter(|lane| !self.under_way.contains(*lane)).cloned().collect();
        idle.iter().map(|lane| self.take(lane)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;
    use uuid::Uuid;

    fn parcel(id: i64, key: &str) -> Parcel {
        Parcel {
            id,
            event_id: Uuid::nil(),
            lane: Lane { watch: "w".into(), key: key.into() },
            channels: 1,
            body: "x".repeat(100),
            attempts: 0,
            resent: 0,
            age: Duration::ZERO,
            lease: Uuid::nil(),
            lease_end: Duration::MAX,
            after: None,
            collapse: None,
        }
    }

    fn ids(request: &[Parcel]) -> Vec<i64> {
        request.iter().map(|parcel| parcel.id).collect()
    }

    #[test]
    fn a_batch_never_holds_two_of_one_lane() {
        let mut lanes = Lanes::default();
        [parcel(1, "a"), parcel(2, "a"), parcel(3, "b")].into_iter().for_each(|parcel| lanes.push(parcel));
        assert_eq!(ids(&lanes.next_request(10, 10_000)), [1, 3]);
        assert_eq!(ids(&lanes.next_request(10, 10_000)), [0i64; 0], "its lane is under way");
        lanes.settled(&parcel(1, "a").lane, 1);
        assert_eq!(ids(&lanes.next_request(10, 10_000)), [2]);
        lanes.settled(&parcel(2, "a").lane, 2);
        lanes.settled(&parcel(3, "b").lane, 3);
        assert!(lanes.is_empty());
    }

    #[test]
    fn bytes_channels_and_failures_bound_a_batch() {
        let mut lanes = Lanes::default();
        lanes.push(parcel(1, "a"));
        lanes.push(Parcel { channels: 2, ..parcel(2, "b") });
        lanes.push(Parcel { attempts: 2, ..parcel(3, "c") });
        lanes.push(parcel(4, "d"));
        lanes.push(parcel(5, "e"));
        assert_eq!(ids(&lanes.next_request(10, BATCH_FRAME_BYTES + 202)), [1, 4]);
        assert_eq!(ids(&lanes.next_request(10, 10_000)), [2]);
        assert_eq!(ids(&lanes.next_request(10, 10_000)), [3]);
        assert_eq!(ids(&lanes.next_request(10, 1)), [5], "what is too long for any batch still goes, alone");
    }

    #[test]
    fn what_is_sent_again_goes_alone() {
        let mut lanes = Lanes::default();
        lanes.push(parcel(1, "a"));
        lanes.push(parcel(2, "b"));
        let request = lanes.next_request(10, 10_000);
        request.iter().for_each(|parcel| lanes.again_alone(&parcel.lane, parcel.id));
        assert_eq!(ids(&lanes.next_request(10, 10_000)), [1]);
        assert_eq!(ids(&lanes.next_request(10, 10_000)), [2]);
    }

    proptest! {
        /// Whatever is pushed, sent, settled and given back: ids of a lane go in order, one at a time.
        #[test]
        fn lanes_keep_their_order(steps in prop::collection::vec((0u8..4, 0u8..3), 1..200)) {
            let mut lanes = Lanes::default();
            let (mut next_id, mut under_way, mut last) = (1, Vec::<Parcel>::new(), HashMap::new());
            for (action, key) in steps {
                let key = key.to_string();
                match action {
                    0 | 1 => { lanes.push(parcel(next_id, &key)); next_id += 1; }
                    2 => for sent in lanes.next_request(2, 10_000) {
                        prop_assert!(under_way.iter().all(|other| other.lane != sent.lane), "one of a lane at a time");
                        prop_assert!(last.get(&sent.lane).is_none_or(|&last| last < sent.id));
                        under_way.push(sent);
                    },
                    _ => if let Some(done) = under_way.pop() {
                        last.insert(done.lane.clone(), done.id);
                        lanes.settled(&done.lane, done.id);
                    },
                }
            }
            for done in under_way.drain(..) { last.insert(done.lane.clone(), done.id); lanes.settled(&done.lane, done.id); }
            loop {
                let request = lanes.next_request(10, 10_000);
                if request.is_empty() { break; }
                for sent in request {
                    prop_assert!(last.get(&sent.lane).is_none_or(|&last| last < sent.id));
                    last.insert(sent.lane.clone(), sent.id);
                    lanes.settled(&sent.lane, sent.id);
                }
            }
            prop_assert!(lanes.is_empty());
        }
    }
}
