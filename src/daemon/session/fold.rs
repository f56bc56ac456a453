//! Awake: folds until the journal is dry.

use std::time::Duration;

use tokio::time::Instant;

use super::{Pipeline, RECEIVE_FOR, WHOLE_SCAN_EVERY};
use crate::dispatch::lock;
use crate::engine::{Folded, Served};
use crate::error::Error;
use crate::metrics;

/// No fold takes so long: what is waited for is lost, though its socket may not know.
pub(in crate::daemon) const FOLD_PATIENCE: Duration = Duration::from_secs(300);
/// How long the daemon stays awake at least while another replica folds.
const LINGER: Duration = Duration::from_millis(20);
/// How often it looks while it is awake.
const LINGER_LOOK: Duration = Duration::from_millis(2);
/// From so many rows on a fold is part of a flood; it is then followed by a pause, in which more of it comes
/// together: the processor is the writers'. A few milliseconds are all that it costs an alert.
const FLOOD_ROWS: i64 = 50;
const FLOOD_PAUSE: Duration = Duration::from_millis(3);

/// How much a fold found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    None,
    /// Another replica folds, or writes: what it does not see is for us.
    Busy,
    Some,
    /// There is more than this fold did.
    More,
    /// A flood: worth a moment's pause, so that the next fold takes more at once.
    Much,
}

impl Work {
    /// Whether it was done, or is still to be.
    pub(super) fn is_any(self) -> bool {
        !matches!(self, Work::None | Work::Busy)
    }
}

impl Pipeline<'_> {
    /// Folds until the journal is dry, and for as long as so much is committed that it soon is not.
    pub(super) async fn work(&mut self) -> Result<(), Error> {
        let awake_since = Instant::now();
        while !self.daemon.stop.is_cancelled() {
            self.receive(Some(Instant::now() + RECEIVE_FOR)).await?;
            let work = self.fold().await?;
            let now = Instant::now();
            let pause = match work {
                // However many readings wait: tables are folded in between.
                Work::None | Work::Busy if self.readings_are_due() => Duration::ZERO,
                Work::None if !self.stream.is_one(now) => return Ok(()),
                // Whoever folds may not see what we were woken for.
                Work::Busy if now - awake_since >= LINGER && !self.stream.is_one(now) => return Ok(()),
                Work::None | Work::Busy => LINGER_LOOK,
                Work::Some | Work::More => Duration::ZERO,
                Work::Much => FLOOD_PAUSE,
            };
            match work {
                Work::None | Work::Busy => {}
                Work::Some | Work::More => self.stream.note(1, now),
                Work::Much => self.stream.note(usize::MAX, now),
            }
            // However much there is to fold: beats, news and readings are taken in between.
            self.listen_for(pause).await?;
        }
        Ok(())
    }

    /// One fold. Gives how much there was to do; none, if somebody else does it.
    pub(super) async fn fold(&mut self) -> Result<Work, Error> {
        if Instant::now() >= self.whole_scan_at {
            self.whole_scan_at = Instant::now() + WHOLE_SCAN_EVERY;
            self.engine.forget_snapshot();
        }
        let began = Instant::now();
        let folded = tokio::time::timeout(FOLD_PATIENCE, self.engine.fold());
        let silent = |_| Error::Unavailable(format!("the folding session has not come to an end for {FOLD_PATIENCE:?}"));
        let work = match folded.await.map_err(silent)?? {
            Folded::Busy => {
                self.refused.again(&self.listening.client, &self.daemon.schema).await?;
                Work::Busy
            }
            Folded::Done { rows, complete, more, marked } => {
                self.refused.had();
                if rows > 0 {
                    metrics::folded(rows, began.elapsed());
                }
                self.daemon.health.folds().note(rows);
                self.keeper.recount(&marked);
                self.marked = marked;
                if complete && !more {
                    self.ready_if_all_is_done().await?;
                }
                match rows {
                    0 if complete && !more => Work::None,
                    FLOOD_ROWS.. if complete => Work::Much,
                    _ if complete && !more => Work::Some,
                    _ => Work::More,
                }
            }
        };
        self.tell();
        self.daemon.process.supervisor.alive();
        Ok(work)
    }

    pub(super) fn tell(&self) {
        let mut telling = lock(&self.telling);
        let (snapshot, changes) = self.engine.snapshots();
        (telling.snapshot, telling.changes) = (snapshot.clone(), changes.clone());
        telling.ready = self.daemon.health.is_ready();
        telling.doorbell = self.doorbell.state().as_str();
    }

    /// Ready: every watch that can be served has been counted and folded. A degraded one does not hold it up.
    async fn ready_if_all_is_done(&mut self) -> Result<(), Error> {
        let waiting = self.marked.iter().any(|id| !self.keeper.is_degraded(*id)) || !self.sweeps.are_tried();
        if !waiting && !self.daemon.health.is_ready() {
            let daemon = self.daemon;
            let served: Vec<&Served> = self.engine.served().collect();
            daemon
                .pool
                .run(async |client| {
                    crate::status::say_watches(client, &daemon.schema, &served).await?;
                    // At once, and not with the next beat: whoever waited for /readyz may ask the database next.
                    let sql = daemon
                        .schema
                        .sql("UPDATE items_listen.instance SET ready = true, beat_at = clock_timestamp() WHERE id = $1");
                    client.execute(sql.as_str(), &[&daemon.instance]).await?;
                    Ok(())
                })
                .await?;
            // Said before it is so: whoever waits for /readyz finds it in the log.
            tracing::info!(watches = served.len(), "ready");
            if daemon.health.mended() {
                tracing::info!(database = daemon.connector.describe(), "the database is back");
            }
            daemon.health.set_ready();
            self.daemon.process.supervisor.started("ready");
            self.reporter.now();
        }
        Ok(())
    }
}
