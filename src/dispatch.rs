//! Dispatch: what is leased to this process is signed, sent, retried and settled.
//!
//! One task per endpoint, so that endpoints never wait for each other; in it lanes, so that keys never do;
//! and at most one event of a lane under way, so that a later one never overtakes an earlier one. A lane goes
//! on only when the settlement of its head is acknowledged by the database: after a crash the head may be
//! sent once more, but never after what follows it.
//!
//! ```text
//!   engine ── accept ─▶ ┌────────── endpoint task ──────────┐
//!   poll ──── wake ───▶ │ lanes ─▶ requests ─▶ settlements   │──▶ items_listen.delivery
//!   outbox ◀─ claim ──  └────────────────────────────────────┘
//! ```

pub mod clock;
pub mod endpoint;
pub mod gate;
pub mod lanes;
pub mod rate;
pub mod send;
mod settle;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::config::Endpoint;
use crate::db::pool::Pool;
use crate::db::schema::Schema;
use crate::error::Error;
use crate::outbox::{Floor, Parcel};

/// So many deliveries per endpoint wait in memory; the others wait in the database.
const HELD_MAX: usize = 20_480;
/// How long it is remembered that a delivery was given back, for one that was written meanwhile to follow it.
const RELEASED_KEPT: Duration = Duration::from_secs(300);

/// What all endpoints' tasks need.
#[derive(Clone, Debug)]
pub struct Context {
    /// Sessions for claims and settlements.
    pub pool: Pool,
    /// Where the outbox is.
    pub schema: Schema,
    /// This process.
    pub instance: Uuid,
}

/// The handle to all endpoints' tasks.
#[derive(Clone, Debug)]
pub struct Dispatch {
    endpoints: Arc<HashMap<String, Handle>>,
    /// Tokens of transactions whose COMMIT was not acknowledged.
    doubted: Arc<Mutex<HashSet<Uuid>>>,
    outbox_held: Arc<std::sync::atomic::AtomicBool>,
}

#[derive(Debug)]
struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    held: Arc<Mutex<Held>>,
    lease: Duration,
}

/// What an endpoint's task is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// These were born leased to us.
    Accept(Vec<Parcel>),
    /// Something in the database is due.
    Wake,
    /// Something in the database is due after so long.
    WakeAfter(Duration),
    /// The endpoint is paused by another replica, for so long.
    Paused(Duration, String),
    /// Finish what is under way, give the rest back, and end.
    Stop,
}

/// Which deliveries are in this process's memory, and whether more may be born there.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// The endpoint takes events at present.
    pub(crate) open: bool,
    /// From where claims look, and the poll with them.
    pub(crate) floor: Floor,
    ids: HashSet<i64>,
    released: HashMap<i64, Duration>,
}

impl Held {
    /// Notes that a delivery was given back to the database.
    pub(crate) fn release(&mut self, id: i64) {
        self.ids.remove(&id);
        let now = clock::now();
        self.released.retain(|_, at| now.saturating_sub(*at) < RELEASED_KEPT);
        self.released.insert(id, now);
    }

    /// Notes that a delivery is settled for good.
    pub(crate) fn settle(&mut self, id: i64) {
        self.ids.remove(&id);
    }

    /// Notes that a delivery was claimed.
    pub(crate) fn claim(&mut self, id: i64) {
        self.ids.insert(id);
        self.released.remove(&id);
    }

    /// Whether a delivery was given back lately.
    pub(crate) fn was_released(&self, id: i64) -> bool {
        self.released.contains_key(&id)
    }
}

/// The tasks, to be waited for. They end when this is dropped.
#[derive(Debug)]
pub struct Running {
    tasks: Vec<(String, AbortOnDropHandle<()>)>,
}

impl Dispatch {
    /// Starts a task per endpoint.
    ///
    /// # Errors
    /// An HTTP client that cannot be made.
    pub fn start(endpoints: &[Endpoint], context: &Context) -> Result<(Dispatch, Running), Error> {
        let mut handles = HashMap::new();
        let mut tasks = Vec::new();
        for endpoint in endpoints {
            let (commands, receiver) = mpsc::unbounded_channel();
            let held = Arc::new(Mutex::new(Held { open: true, ..Held::default() }));
            let lease = lease(endpoint);
            let task = endpoint::Post::new(endpoint.clone(), lease, context.clone(), Arc::clone(&held))?;
            tasks.push((endpoint.name.clone(), AbortOnDropHandle::new(tokio::spawn(task.run(receiver)))));
            handles.insert(endpoint.name.clone(), Handle { commands, held, lease });
        }
        let dispatch = Dispatch { endpoints: Arc::new(handles), doubted: Arc::default(), outbox_held: Arc::default() };
        Ok((dispatch, Running { tasks }))
    }

    /// How long a delivery of this endpoint is leased.
    pub fn lease(&self, endpoint: &str) -> Duration {
        self.endpoints.get(endpoint).map_or(Duration::ZERO, |handle| handle.lease)
    }

    /// Whether a new delivery of this endpoint may be born leased to us, beside so many that are being born.
    pub fn has_room(&self, endpoint: &str, unborn: usize) -> bool {
        let outbox_held = self.is_held();
        self.endpoints.get(endpoint).is_some_and(|handle| {
            let held = lock(&handle.held);
            !outbox_held && held.open && held.ids.len() + unborn < HELD_MAX
        })
    }

    /// Whether all of these are in our memory.
    pub fn holds_all(&self, endpoint: &str, ids: &[i64]) -> bool {
        self.endpoints.get(endpoint).is_some_and(|handle| {
            let held = lock(&handle.held);
            ids.iter().all(|id| held.ids.contains(id))
        })
    }

    /// Takes deliveries over that were born leased to us, once their transaction is committed.
    pub fn accept(&self, parcels: Vec<(String, Parcel)>) {
        let mut by_endpoint: HashMap<String, Vec<Parcel>> = HashMap::new();
        for (endpoint, parcel) in parcels {
            by_endpoint.entry(endpoint).or_default().push(parcel);
        }
        for (endpoint, parcels) in by_endpoint {
            let Some(handle) = self.endpoints.get(&endpoint) else { continue };
            // At once, so that the next fold already knows: the task may look at its commands later.
            lock(&handle.held).ids.extend(parcels.iter().map(|parcel| parcel.id));
            let _stopped = handle.commands.send(Command::Accept(parcels));
        }
    }

    /// Holds the outbox: nothing is born leased. (What is due is claimed only when somebody says so.)
    pub fn hold(&self, held: bool) {
        self.outbox_held.store(held, std::sync::atomic::Ordering::Release);
    }

    /// Whether the outbox is held.
    pub fn is_held(&self) -> bool {
        self.outbox_held.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Notes that what this token leases may be in the database without being in our memory.
    pub fn doubt(&self, token: Uuid) {
        lock(&self.doubted).insert(token);
    }

    /// Notes that it is in both.
    pub fn trust(&self, token: Uuid) {
        lock(&self.doubted).remove(&token);
    }

    /// The tokens of which it is not known.
    pub fn doubted(&self) -> Vec<Uuid> {
        lock(&self.doubted).iter().copied().collect()
    }

    /// Says that something of this endpoint is due.
    pub fn wake(&self, endpoint: &str) {
        if let Some(handle) = self.endpoints.get(endpoint) {
            let _stopped = handle.commands.send(Command::Wake);
        }
    }

    /// Says that something of this endpoint is due after so long.
    pub fn wake_after(&self, endpoint: &str, after: Duration) {
        if let Some(handle) = self.endpoints.get(endpoint) {
            let _stopped = handle.commands.send(Command::WakeAfter(after));
        }
    }

    /// Says that another replica found this endpoint refusing everything.
    pub fn paused(&self, endpoint: &str, until: Duration, reason: &str) {
        if let Some(handle) = self.endpoints.get(endpoint) {
            let _stopped = handle.commands.send(Command::Paused(until, reason.to_owned()));
        }
    }

    /// The endpoints that this process sends to, and from where claims of each look.
    pub fn floors(&self) -> (Vec<String>, Vec<Floor>) {
        self.endpoints.iter().map(|(name, handle)| (name.clone(), lock(&handle.held).floor)).unzip()
    }

    /// The endpoints that this process sends to.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.endpoints.keys().map(String::as_str)
    }

    /// So long a request that is under way may be leased at most.
    pub fn longest_lease(&self) -> Duration {
        self.endpoints.values().map(|handle| handle.lease).max().unwrap_or_default()
    }

    /// Asks every task to end.
    pub fn stop(&self) {
        for handle in self.endpoints.values() {
            let _stopped = handle.commands.send(Command::Stop);
        }
    }
}

impl Running {
    /// Waits for the tasks, but not longer than this; names those that did not end, and ends them. Gives whether all ended by
    /// themselves: only then is nothing under way any more that was leased.
    pub async fn wait(self, at_most: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + at_most;
        let mut drained = true;
        for (endpoint, task) in self.tasks {
            if tokio::time::timeout_at(deadline, task).await.is_err() {
                tracing::warn!(endpoint, "not drained within {at_most:?}: what is unsettled stays in the outbox");
                drained = false;
            }
        }
        drained
    }
}

/// Long enough for two attempts; after a crash, what was in memory waits for no longer than this.
fn lease(endpoint: &Endpoint) -> Duration {
    endpoint.timeout * 2 + Duration::from_secs(5)
}

/// A poisoned lock is only a panic elsewhere: the data in it is whole after each operation.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
