//! How the endpoint stands: what closes and opens its gate, what is said of it, and what of it is written down.

use std::time::Duration;

use tokio::time::Instant;

use super::super::gate::Closed;
use super::super::settle::Row;
use super::super::{clock, lock};
use super::{Post, SUCCESS_TRUSTED_FOR, SUCCESS_WRITTEN_EVERY};
use crate::pusher::classify::Reason;

impl Post {
    /// Says once that the clocks differ, and once that they no longer do.
    pub(super) fn name_skew(&mut self) {
        let skew = self.sender.intolerable_skew();
        self.metrics.skewed(self.sender.skew());
        match skew {
            Some(seconds) if !self.skew_named => tracing::warn!(
                endpoint = self.endpoint.name,
                seconds,
                "the clock of this host differs from the endpoint's by more than 600 s, which endpoints refuse: set \
                 it; meanwhile what is refused for it is signed by the endpoint's"
            ),
            None if self.skew_named => {
                tracing::info!(endpoint = self.endpoint.name, "the clock of this host is right again");
            }
            _ => {}
        }
        self.skew_named = skew.is_some();
    }

    pub(super) fn failed(&mut self, reason: Reason, retry_after: Option<Duration>, excerpt: Option<&str>) {
        let news = self.gate.failed(reason, &self.endpoint.retry, rand::random(), retry_after, clock::now());
        let Some(closed) = self.gate.closed().cloned() else { return };
        if news {
            tracing::warn!(
                endpoint = self.endpoint.name,
                reason = reason.as_str(),
                answer = excerpt,
                "endpoint fails: backing off"
            );
        }
        self.closed("backing_off", &closed, excerpt);
    }

    pub(super) fn refused(&mut self, reason: Reason, status: Option<i32>, excerpt: Option<&str>) {
        if self.gate.refused(reason, clock::now()) {
            tracing::error!(
                endpoint = self.endpoint.name,
                reason = reason.as_str(),
                status,
                answer = excerpt,
                "endpoint refuses everything: paused, nothing is lost, probed every 60 s"
            );
        }
        if let Some(closed) = self.gate.closed().cloned() {
            self.closed("paused", &closed, excerpt);
        }
    }

    fn closed(&mut self, state: &'static str, closed: &Closed, excerpt: Option<&str>) {
        self.nothing_to_probe = false;
        lock(&self.held).open = false;
        self.give_all_back();
        if self.stopping {
            // Whoever comes after may have been told better, and finds out by itself.
            return;
        }
        self.row = Some(Row {
            state,
            reason: Some(closed.reason.as_str()),
            until: Some(closed.until.saturating_sub(clock::now())),
            error: excerpt.map(str::to_owned),
            ..Row::default()
        });
    }

    pub(super) fn told_paused(&mut self, until: Duration, reason: &str) {
        // What it read may be older than what we have just seen.
        let seen_better = self.success_written.is_some_and(|at| at.elapsed() < SUCCESS_TRUSTED_FOR);
        if !seen_better && self.gate.told_paused(clock::now() + until) {
            tracing::warn!(
                endpoint = self.endpoint.name,
                reason,
                "endpoint was found refusing everything by another replica: paused"
            );
            lock(&self.held).open = false;
            self.give_all_back();
        }
    }

    pub(super) fn opened(&mut self) {
        self.gate.succeeded();
        tracing::info!(endpoint = self.endpoint.name, "endpoint takes events again");
        lock(&self.held).open = true;
        self.row = Some(Row { state: "ok", hasten: true, ..Row::default() });
        self.claim_at = Some(Instant::now());
    }

    pub(super) fn note_success(&mut self) {
        if self.success_written.is_some_and(|at| at.elapsed() < SUCCESS_WRITTEN_EVERY) && self.row.is_none() {
            return;
        }
        self.success_written = Some(Instant::now());
        let row = self.row.get_or_insert(Row { state: "ok", ..Row::default() });
        row.succeeded = true;
    }
}
