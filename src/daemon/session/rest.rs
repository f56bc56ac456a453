//! Asleep: the doorbell is armed, and whatever happens meanwhile is taken in.

use std::time::Duration;

use tokio::time::Instant;

use super::Pipeline;
use super::fold::Work;
use crate::chaos::{self, Mutation, point};
use crate::daemon::keep::News;
use crate::error::Error;
use crate::source::doorbell::{ARM_TRIES, Bell};

/// After arming: a writer that looked while we were awake may commit a moment later.
const CATCH_UPS: [Duration; 3] = [Duration::from_millis(5), Duration::from_millis(25), Duration::from_millis(100)];
/// Above this, ringing could fail the writers' COMMIT: the queue is full at 1.
const QUEUE_USAGE_MAX: f64 = 0.1;
/// How often what was leased to ended processes is looked for, and what is too old.
pub(super) const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(10);

impl Pipeline<'_> {
    /// Sleeps until something is to be done; then it is awake again.
    pub(super) async fn rest(&mut self) -> Result<(), Error> {
        let mut tries = ARM_TRIES;
        loop {
            let may_arm = self.beats.borrow().queue_usage <= QUEUE_USAGE_MAX;
            let bell = self.doorbell.sleep(may_arm, tries).await?;
            self.tell();
            if bell == Bell::Armed {
                // A probe before arming may belong to a commit after the last fold.
                self.rung = false;
                point!("bell.armed");
                if !chaos::is(Mutation::ArmWithoutLastFold) && self.fold().await?.is_any() {
                    return self.doorbell.wake().await;
                }
            }
            if self.doze(bell).await? {
                return self.doorbell.wake().await;
            }
            // Unarmed, and a beat has passed: whoever was awake, or held the lock, may be gone.
            tries = 1;
        }
    }

    /// Waits. Gives true when there is something to do, false when arming is to be tried again.
    async fn doze(&mut self, bell: Bell) -> Result<bool, Error> {
        let armed_at = Instant::now();
        let may_lag = bell == Bell::Armed && !chaos::is(Mutation::ArmWithoutLastFold);
        let mut catch_ups = CATCH_UPS.iter().filter(|_| may_lag);
        let mut look_at = catch_ups.next().map(|after| armed_at + *after);
        self.beaten = false;
        loop {
            let pause = look_at.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
            self.listen_for(pause).await?;
            let rung = std::mem::take(&mut self.rung) && bell == Bell::Armed;
            let waiting = std::mem::take(&mut self.look) || self.readings_are_due();
            if waiting || self.daemon.stop.is_cancelled() {
                return Ok(true);
            }
            if rung {
                self.stream.note(1, Instant::now());
            }
            // Answered with the bell armed: whoever commits after this fold's snapshot rings again.
            let catches_up = look_at.is_some_and(|at| at <= Instant::now());
            let streams = rung && self.stream.is_one(Instant::now());
            if streams || (rung || catches_up) && !matches!(self.fold().await?, Work::None | Work::Some) {
                return Ok(true);
            }
            if catches_up {
                look_at = catch_ups.next().map(|after| armed_at + *after);
                if look_at.is_none() && chaos::is(Mutation::ListenAfterFold) {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    self.listening.client.batch_execute(&format!("LISTEN {}", self.daemon.schema.name())).await?;
                }
            }
            if bell == Bell::Unarmed && self.beaten {
                return Ok(false);
            }
        }
    }

    /// Waits for at most so long, and takes in whatever happens meanwhile.
    pub(super) async fn listen_for(&mut self, at_most: Duration) -> Result<(), Error> {
        let until = Instant::now().checked_add(at_most).unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400));
        self.sweeps.start_due(self.daemon, self.engine.served());
        let retry = [self.keeper.next_try(), self.deadline_at, Some(self.housekeeping_at), self.sweeps.next_at()]
            .into_iter()
            .flatten()
            .fold(until, Instant::min);
        tokio::select! {
            heard = self.listening.heard.recv() => match heard {
                Some(notification) => self.hear(notification),
                None => return Err(Error::Unavailable("the listening connection was lost".to_owned())),
            },
            () = self.daemon.stop.cancelled() => {}
            done = self.keeper.done() => match self.keeper.take_in(done).await {
                News::Look => self.look = true,
                News::Serve(served) => { self.engine.serve(served); self.serve_sources().await?; self.look = true; }
                News::Nothing => {}
            },
            asked = self.sweeps.answered() => self.take_in_sweep(asked).await?,
            changed = self.beats.changed() => {
                changed.map_err(|_| Error::Unavailable("the beat ended".to_owned()))?;
                let beat = self.beats.borrow_and_update().clone();
                self.on_beat(beat).await?;
            }
            () = tokio::time::sleep_until(retry) => {}
        }
        self.hear_all();
        if self.deadline_at.is_some_and(|at| at <= Instant::now()) {
            self.deadline_at = None;
            self.look = true;
        }
        self.keeper.retry(&self.marked);
        if Instant::now() >= self.housekeeping_at {
            self.housekeeping_at = Instant::now() + HOUSEKEEPING_EVERY;
            self.house.keep(self.daemon);
        }
        self.reporter.report(self.daemon);
        // Here, and not by a timer: what is said is that the pipeline still turns.
        self.daemon.process.supervisor.alive();
        Ok(())
    }
}
