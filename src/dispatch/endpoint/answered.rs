//! What an answer means for the deliveries that it is about.

use std::time::Duration;

use tokio::time::Instant;

use super::Post;
use crate::dispatch::settle::{describe, given_back, is_superseded, settled};
use crate::dispatch::{clock, lock};
use crate::outbox::{Parcel, Settlement};
use crate::pusher::classify::{Answer, Reason, Verdict, classify};

impl Post {
    pub(super) fn answered(&mut self, request: Vec<Parcel>, answer: &Answer, took: Duration) {
        let verdict = classify(answer);
        let (status, excerpt) = describe(answer);
        tracing::debug!(
            endpoint = self.endpoint.name,
            events = request.len(),
            ?verdict,
            status,
            ms = took.as_millis(),
            "answered"
        );
        self.name_skew();
        self.metrics.attempted(took, verdict.reason());
        match verdict {
            Verdict::Delivered => {
                if self.gate.succeeded() {
                    self.opened();
                }
                self.note_success();
                for parcel in request {
                    let here = clock::now().saturating_sub(parcel.lease_end.saturating_sub(self.lease));
                    self.metrics.accepted(parcel.age + here);
                    self.unsettled.push(Settlement { status, ..settled(&parcel, "delivered", None, excerpt.clone()) });
                }
            }
            Verdict::Dead(_) if request.len() > 1 => {
                // The server refused the batch as a whole; only the culprit is to die.
                request.iter().for_each(|parcel| self.lanes.again_alone(&parcel.lane, parcel.id));
            }
            Verdict::Dead(reason) => {
                // It answers, and for this event only.
                if self.gate.succeeded() {
                    self.opened();
                }
                for parcel in request {
                    tracing::error!(
                        endpoint = self.endpoint.name,
                        watch = &*parcel.lane.watch,
                        key = &*parcel.lane.key,
                        delivery = parcel.id,
                        status,
                        answer = excerpt,
                        "delivery dead: {}",
                        reason.as_str()
                    );
                    self.unsettled.push(Settlement { status, ..settled(&parcel, "dead", Some(reason), excerpt.clone()) });
                }
            }
            Verdict::Retry(reason, retry_after) => {
                self.failed(reason, retry_after, excerpt.as_deref());
                for parcel in request {
                    self.retry(&parcel, reason, retry_after, status, excerpt.clone());
                }
            }
            Verdict::Pause(reason) => {
                for parcel in &request {
                    let answer = (reason, status, excerpt.clone());
                    self.give_back(parcel, Duration::ZERO, Some(answer));
                }
                self.refused(reason, status, excerpt.as_deref());
            }
        }
    }

    fn retry(
        &mut self,
        parcel: &Parcel,
        reason: Reason,
        retry_after: Option<Duration>,
        status: Option<i32>,
        excerpt: Option<String>,
    ) {
        let attempts = u32::try_from(parcel.attempts + parcel.resent).unwrap_or(0) + 1;
        if parcel.age > self.endpoint.retry.give_up_after {
            tracing::error!(
                endpoint = self.endpoint.name,
                watch = &*parcel.lane.watch,
                key = &*parcel.lane.key,
                delivery = parcel.id,
                attempt = attempts,
                "delivery dead: expired"
            );
            self.unsettled.push(Settlement { status, ..settled(parcel, "dead", Some(Reason::Expired), excerpt) });
            return;
        }
        let delay = self.endpoint.retry.delay(attempts, rand::random(), retry_after);
        self.give_back(parcel, delay, Some((reason, status, excerpt)));
    }

    /// Gives a delivery, and with it what follows in its lane, back to the database.
    pub(super) fn give_back(&mut self, parcel: &Parcel, delay: Duration, answer: Option<(Reason, Option<i32>, Option<String>)>) {
        let lane = self.lanes.take(&parcel.lane);
        for (index, member) in lane.iter().enumerate() {
            let answer = answer.clone().filter(|_| member.id == parcel.id);
            let attempted = if answer.is_some() { member.resent + 1 } else { 0 };
            let settlement = if is_superseded(member, &lane[index + 1..]) {
                Settlement { attempted, ..settled(member, "superseded", Some(Reason::Superseded), None) }
            } else {
                given_back(member, if member.id == parcel.id { delay } else { Duration::ZERO }, answer, attempted)
            };
            lock(&self.held).release(member.id);
            self.unsettled.push(settlement);
        }
        let at = Instant::now() + delay;
        self.claim_at = Some(self.claim_at.map_or(at, |before| before.min(at)));
    }

    pub(super) fn give_all_back(&mut self) {
        for lane in self.lanes.take_idle() {
            for (index, parcel) in lane.iter().enumerate() {
                lock(&self.held).release(parcel.id);
                self.unsettled.push(if is_superseded(parcel, &lane[index + 1..]) {
                    Settlement { attempted: 0, ..settled(parcel, "superseded", Some(Reason::Superseded), None) }
                } else {
                    given_back(parcel, Duration::ZERO, None, 0)
                });
            }
        }
    }
}
