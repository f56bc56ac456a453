//! The task of one endpoint: claims, sends, settles.

mod answered;
mod claim;
mod standing;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::gate::Gate;
use super::lanes::Lanes;
use super::rate::Window;
use super::send::{Load, Sender};
use super::settle::{Row, given_back, settle, settled};
use super::{Command, Context, Held, clock, lock};
use crate::chaos::{self, Mutation, point};
use crate::config::Endpoint;
use crate::error::Error;
use crate::metrics;
use crate::outbox::{Floor, Parcel, Settlement};
use crate::pusher::classify::Answer;

/// No attempt is started that could end less than this before its lease.
const LEASE_MARGIN: Duration = Duration::from_millis(500);
/// Our timers and the database's clock do not tick together: a claim that comes a moment early finds nothing.
const DUE_MARGIN: Duration = Duration::from_millis(2);
/// The pause after a database error.
const DATABASE_PAUSE: Duration = Duration::from_millis(500);
/// The time of the last success is written no more often than this.
const SUCCESS_WRITTEN_EVERY: Duration = Duration::from_secs(1);
/// So long a success of our own outweighs a pause that another replica wrote.
const SUCCESS_TRUSTED_FOR: Duration = Duration::from_secs(5);

/// An endpoint's task.
pub(super) struct Post {
    endpoint: Endpoint,
    lease: Duration,
    context: Context,
    held: Arc<Mutex<Held>>,
    sender: Sender,
    metrics: metrics::Endpoint,
    lanes: Lanes,
    gate: Gate,
    rate: Window,
    work: JoinSet<Done>,
    requests: usize,
    settling: bool,
    claiming: bool,
    unsettled: Vec<Settlement>,
    claim_at: Option<Instant>,
    /// So many deliveries are to be in memory, as far as they are claimed.
    room: usize,
    claimed_at: Option<Instant>,
    /// When something that waits for its time is due.
    due_at: BTreeSet<Instant>,
    /// The last claim found something: there may be more behind it in its lanes.
    backlog: bool,
    /// A probe found nothing to send: the next waits until something is due.
    nothing_to_probe: bool,
    /// When the next claim looks from the beginning of the outbox.
    whole_claim_at: Option<Instant>,
    row: Option<Row>,
    success_written: Option<Instant>,
    /// It was said that the clocks differ.
    skew_named: bool,
    stopping: bool,
    /// Nobody tells it anything any more.
    abandoned: bool,
}

/// What a piece of work ended with.
enum Done {
    Answered {
        request: Vec<Parcel>,
        answer: Answer,
        took: Duration,
    },
    /// With the ids that were still ours to settle; `None` when stopping and the database was not there.
    Settled(Vec<Settlement>, Vec<i64>),
    Claimed(Result<(Vec<Parcel>, Floor), Error>),
}

impl Post {
    pub(super) fn new(endpoint: Endpoint, lease: Duration, context: Context, held: Arc<Mutex<Held>>) -> Result<Post, Error> {
        Ok(Post {
            sender: Sender::new(&endpoint)?,
            metrics: metrics::Endpoint::new(&endpoint.name),
            rate: Window::new(endpoint.rate),
            endpoint,
            lease,
            context,
            held,
            lanes: Lanes::default(),
            gate: Gate::default(),
            work: JoinSet::new(),
            requests: 0,
            settling: false,
            claiming: false,
            unsettled: Vec::new(),
            claim_at: None,
            room: 0,
            claimed_at: None,
            due_at: BTreeSet::new(),
            backlog: false,
            nothing_to_probe: false,
            whole_claim_at: None,
            row: None,
            success_written: None,
            skew_named: false,
            stopping: false,
            abandoned: false,
        })
    }

    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            self.note_what_is_due();
            self.start_requests();
            self.start_settling();
            self.start_claim();
            if self.stopping && self.work.is_empty() && self.unsettled.is_empty() {
                return;
            }
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                Some(done) = self.work.join_next(), if !self.work.is_empty() => match done {
                    Ok(done) => self.done(done),
                    Err(error) => {
                        // A panic in a settlement or claim: its leases end by themselves.
                        tracing::error!(endpoint = self.endpoint.name, %error, "work ended unexpectedly");
                        (self.settling, self.claiming) = (false, false);
                    }
                },
                command = commands.recv(), if !self.abandoned => match command {
                    Some(Command::Accept(parcels)) => parcels.into_iter().for_each(|parcel| self.accept(parcel)),
                    Some(Command::Wake) => self.claim_at = Some(Instant::now()),
                    Some(Command::WakeAfter(after)) => drop(self.due_at.insert(Instant::now() + after + DUE_MARGIN)),
                    Some(Command::Paused(until, reason)) => self.told_paused(until, &reason),
                    Some(Command::Stop) => self.stop(),
                    None => {
                        self.abandoned = true;
                        self.stop();
                    }
                },
                () = tokio::time::sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
                // Nothing is under way, nobody is there, and time changes nothing.
                else => return,
            }
        }
    }

    /// What waited for its time is to be claimed.
    fn note_what_is_due(&mut self) {
        let now = Instant::now();
        while self.due_at.first().is_some_and(|due| *due <= now) {
            self.due_at.pop_first();
            self.claim_at = Some(now);
        }
    }

    /// When time alone lets something begin.
    fn wake_at(&self) -> Option<Instant> {
        if self.stopping {
            return None;
        }
        let now = clock::now();
        let probe = self.gate.closed().map(|closed| Instant::now() + closed.until.saturating_sub(now));
        // While requests wait for the rate.
        let free = self.rate.next().map(|free| Instant::now() + free.saturating_sub(now));
        let due = self.due_at.first().copied();
        let claim = self.claim_at.filter(|_| !self.claiming).filter(|claim| *claim > Instant::now());
        match (probe, claim.into_iter().chain(due).min()) {
            // While the gate is closed only its probe matters.
            (Some(probe), _) if self.gate.allowed(now, 1) == 0 => Some(probe),
            (_, claim) => claim.into_iter().chain(free).min(),
        }
    }

    /// How many requests may be under way: as many as the gate, the configuration and the rate allow.
    fn allowed(&mut self, now: Duration) -> usize {
        self.gate.allowed(now, self.endpoint.in_flight).min(self.rate.allowed(now))
    }

    fn start_requests(&mut self) {
        while !self.stopping && self.requests < self.allowed(clock::now()) {
            let request = self.lanes.next_request(self.endpoint.max_batch, self.endpoint.max_request_bytes);
            if request.is_empty() {
                return;
            }
            let latest = request.iter().map(|parcel| parcel.lease_end).min().unwrap_or_default();
            if clock::now() + self.endpoint.timeout + LEASE_MARGIN > latest {
                // Waited too long in memory: another may have it by now.
                request.iter().for_each(|parcel| self.give_back(&parcel.clone(), Duration::ZERO, None));
                continue;
            }
            self.requests += 1;
            let sender = self.sender.clone();
            let early = chaos::is(Mutation::SettleBeforeSending).then(|| (self.context.clone(), self.endpoint.name.clone()));
            self.work.spawn(async move {
                let started = Instant::now();
                if let Some((context, endpoint)) = early {
                    let settled: Vec<_> = request.iter().map(|parcel| settled(parcel, "delivered", None, None)).collect();
                    let _wrong_on_purpose = settle(&context, &endpoint, &settled, None).await;
                }
                point!("send.before");
                // A panic is no answer: the lanes that wait for one must go on.
                let sent = std::panic::AssertUnwindSafe(sender.send(Load::of(&request))).catch_unwind().await;
                let answer = sent.unwrap_or_else(|_| Answer::NoConnection("sending panicked; see the log".to_owned()));
                point!("send.after");
                Done::Answered { request, answer, took: started.elapsed() }
            });
        }
    }

    fn start_settling(&mut self) {
        if self.settling || (self.unsettled.is_empty() && self.row.is_none()) {
            return;
        }
        self.settling = true;
        let (settlements, row) = (std::mem::take(&mut self.unsettled), self.row.take());
        let (context, endpoint) = (self.context.clone(), self.endpoint.name.clone());
        // When stopping, what cannot be settled soon is left to the lease.
        let tries = if self.stopping { 10 } else { u32::MAX };
        self.work.spawn(async move {
            let mut matched = Vec::new();
            let mut named = false;
            for _ in 0..tries {
                match settle(&context, &endpoint, &settlements, row.as_ref()).await {
                    Ok(ids) => {
                        matched = ids;
                        break;
                    }
                    Err(error) => {
                        // A connection that is lost is named elsewhere; what only this statement meets, here, and once.
                        if error.is_lost() {
                            tracing::debug!(endpoint, %error, "settling waits for the database");
                        } else if !std::mem::replace(&mut named, true) {
                            tracing::warn!(endpoint, %error, "deliveries cannot be settled; trying again for as long as it takes");
                        }
                        tokio::time::sleep(DATABASE_PAUSE).await;
                    }
                }
            }
            Done::Settled(settlements, matched)
        });
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Answered { request, answer, took } => {
                self.requests -= 1;
                self.rate.note(clock::now());
                self.answered(request, &answer, took);
            }
            Done::Settled(settlements, matched) => {
                self.settling = false;
                for settlement in settlements.iter().filter(|settlement| settlement.state != "pending") {
                    let ours = matched.contains(&settlement.id);
                    if ours {
                        self.metrics.settled(settlement.state);
                    }
                    self.settled(settlement.id, ours);
                }
                if self.backlog {
                    // What was settled was the head of its lane: the next may be claimed now.
                    self.claim_at = Some(Instant::now());
                }
            }
            Done::Claimed(Ok((parcels, floor))) => {
                lock(&self.held).floor = floor;
                self.claiming = false;
                self.backlog = !parcels.is_empty() || (self.backlog && !self.lanes.is_empty());
                // An endpoint that nothing was sent to is not called well.
                self.nothing_to_probe = parcels.is_empty();
                if !parcels.is_empty() {
                    // There may be more, and what follows these in their lanes.
                    self.claim_at = Some(Instant::now());
                }
                for parcel in parcels {
                    lock(&self.held).claim(parcel.id);
                    self.lanes.push(parcel);
                }
            }
            Done::Claimed(Err(error)) => {
                self.claiming = false;
                self.claim_at = Some(Instant::now() + DATABASE_PAUSE);
                tracing::debug!(endpoint = self.endpoint.name, %error, "claiming waits for the database");
            }
        }
    }

    /// A delivery is settled, or another has it: then its lane is the other's, too.
    fn settled(&mut self, id: i64, ours: bool) {
        let Some(lane) = self.lanes.lane_of(id) else { return lock(&self.held).settle(id) };
        if ours {
            self.lanes.settled(&lane, id);
            return lock(&self.held).settle(id);
        }
        for member in self.lanes.take(&lane) {
            lock(&self.held).release(member.id);
            self.unsettled.push(given_back(&member, Duration::ZERO, None, 0));
        }
    }

    fn accept(&mut self, parcel: Parcel) {
        let overtaken =
            parcel.after.is_some_and(|after| !self.lanes.contains(&parcel.lane, after) && lock(&self.held).was_released(after));
        if overtaken || self.stopping || self.gate.closed().is_some() {
            // What it follows was given back meanwhile: it must not go first.
            self.unsettled.push(given_back(&parcel, Duration::ZERO, None, 0));
            lock(&self.held).release(parcel.id);
            self.claim_at.get_or_insert(Instant::now() + DATABASE_PAUSE);
            return;
        }
        self.lanes.push(parcel);
    }

    fn stop(&mut self) {
        if !self.stopping {
            self.stopping = true;
            self.give_all_back();
        }
    }
}
