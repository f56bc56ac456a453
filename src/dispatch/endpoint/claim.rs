//! When, and how much, is claimed from the outbox.

use std::time::Duration;

use tokio::time::Instant;

use super::{Done, Post};
use crate::chaos::point;
use crate::dispatch::{clock, lock};
use crate::outbox;

/// How many deliveries are claimed at once, of an endpoint that takes them as quickly as they are claimed.
pub(super) const CLAIM_MAX: usize = 2_000;
/// What was claimed is to be sent within so long: then more is claimed at once, otherwise less.
const CLAIM_LASTS: Duration = Duration::from_millis(200);
/// Whatever claims believe, so often they look at the whole outbox.
const WHOLE_CLAIM_EVERY: Duration = Duration::from_secs(60);

impl Post {
    pub(super) fn start_claim(&mut self) {
        let due = self.claim_at.is_some_and(|at| at <= Instant::now());
        // A closed gate claims nothing, but for its probe.
        let probing = self.gate.closed().is_some();
        let allowed = self.allowed(clock::now());
        let room = if probing { self.endpoint.max_batch } else { self.room() };
        let waits = self.claim_at.is_some_and(|at| at > Instant::now());
        let due =
            due || (probing && !waits && allowed > 0 && self.requests == 0 && !self.lanes.has_ready() && !self.nothing_to_probe);
        // Half of it at once: a claim costs the database much the same, whatever it gives.
        if self.stopping
            || self.claiming
            || !due
            || allowed == 0
            || self.lanes.len() > room / 2
            || self.unsettled.len() > CLAIM_MAX
        {
            return;
        }
        self.adapt_room();
        self.claiming = true;
        self.claim_at = None;
        let limit = i64::try_from((room - self.lanes.len()).min(CLAIM_MAX)).unwrap_or(1);
        let (context, endpoint, lease) = (self.context.clone(), self.endpoint.name.clone(), self.lease);
        if self.whole_claim_at.is_none_or(|at| at <= Instant::now()) {
            self.whole_claim_at = Some(Instant::now() + WHOLE_CLAIM_EVERY);
            lock(&self.held).floor = None;
        }
        let floor = lock(&self.held).floor;
        self.work.spawn(async move {
            let claimed = context.pool.run(async |client| {
                point!("claim.before");
                let claimed = outbox::claim(client, &context.schema, &endpoint, context.instance, lease, limit, floor).await;
                point!("claim.after");
                claimed
            });
            Done::Claimed(claimed.await)
        });
    }

    /// How many deliveries are to be in memory.
    fn room(&self) -> usize {
        self.room.max(self.endpoint.in_flight * self.endpoint.max_batch * 2)
    }

    /// Claims more at once while the endpoint takes it all in no time, and less when it does not: what waits in this memory
    /// is leased, and no other replica can send it.
    fn adapt_room(&mut self) {
        let quick = self.claimed_at.replace(Instant::now()).is_some_and(|at| at.elapsed() < CLAIM_LASTS);
        self.room = if quick && self.backlog { (self.room() * 2).min(CLAIM_MAX.max(self.room())) } else { self.room() / 2 };
    }
}
