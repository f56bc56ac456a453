//! One database session's worth of work: connect, LISTEN, install, fold to the end, then wait and work.
//!
//! The order on connecting is the rule: LISTEN first, then fold, then read. What is committed before LISTEN is
//! found by the fold, what is committed after it rings.

mod beat;
mod fold;
mod heard;
mod prepare;
mod refused;
mod rest;
mod sources;
mod sweeps;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::time::Instant;

pub(super) use self::fold::FOLD_PATIENCE;
use self::heard::Heard;
use self::prepare::{Prepared, prepare};
use self::refused::Refused;
use self::sweeps::Sweeps;
use super::Daemon;
use super::housekeeping::House;
use super::keep::Keeper;
use super::summary::Reporter;
use super::unwritten::Unwritten;
use crate::engine::Engine;
use crate::error::Error;
use crate::source::doorbell::{Doorbell, Stream};
use crate::source::listen::Listening;
use crate::source::poll::{Beat, Telling};

/// A whole scan of the journal, whatever the snapshot says: restores and logical copies.
const WHOLE_SCAN_EVERY: Duration = Duration::from_secs(60);
/// So many readings are evaluated in one transaction.
const RECEIVE_MAX: usize = 1_000;
/// For so long readings are evaluated before the journal is looked at again.
const RECEIVE_FOR: Duration = Duration::from_millis(100);

/// Runs until the session is lost or the daemon is to end.
pub(super) async fn run(daemon: &Daemon) -> Result<(), Error> {
    let Prepared { mut pipeline, beating } = tokio::select! {
        prepared = prepare(daemon) => prepared?,
        // Nothing is under way yet that would have to be finished.
        () = daemon.stop.cancelled() => return Ok(()),
    };
    let lost = pipeline.listening.lost.clone();
    let ended = tokio::select! {
        ended = pipeline.run() => ended,
        ended = beating => ended.and(Err(Error::Unavailable("the beat ended".to_owned()))),
        () = lost.cancelled() => Err(Error::Unavailable("the listening connection was lost".to_owned())),
    };
    // What was heard outlives the session that heard it.
    pipeline.hear_all();
    ended
}

/// The loop: awake while there is something, asleep while there is not.
struct Pipeline<'a> {
    daemon: &'a Daemon,
    engine: Engine,
    doorbell: Doorbell,
    listening: Listening,
    beats: channel::Receiver<Beat>,
    keeper: Keeper,
    telling: Arc<Mutex<Telling>>,
    /// Application's channels that this session listens to, and the watches behind each.
    heard_on: HashMap<String, Vec<i32>>,
    sweeps: Sweeps,
    refused: Refused,
    unwritten: Unwritten,
    heard: Heard,
    rung: bool,
    stream: Stream,
    foreign: HashSet<i32>,
    marked: Vec<i32>,
    whole_scan_at: Instant,
    housekeeping_at: Instant,
    house: House,
    reporter: Reporter,
    /// When time alone will have something to say.
    deadline_at: Option<Instant>,
    /// Something is to be folded, whether the bell rang or not.
    look: bool,
    /// A beat was taken in.
    beaten: bool,
    held: bool,
}

impl Pipeline<'_> {
    async fn run(&mut self) -> Result<(), Error> {
        self.serve_sources().await?;
        self.doorbell.wake().await?;
        loop {
            self.work().await?;
            if self.daemon.stop.is_cancelled() {
                return self.end().await;
            }
            self.rest().await?;
        }
    }

    /// The orderly end: what was heard is evaluated, and whoever comes next need not wait for the server to notice that this
    /// session is gone.
    async fn end(&mut self) -> Result<(), Error> {
        self.hear_all();
        self.receive(None).await?;
        Ok(self.listening.client.batch_execute("UNLISTEN *; SELECT pg_advisory_unlock_all()").await?)
    }
}
