//! One database session's worth of work: connect, LISTEN, install, fold to the end, then wait and work.
//!
//! The order on connecting is the rule: LISTEN first, then fold, then read. What is committed before LISTEN is
//! found by the fold, what is committed after it rings.

mod heard;
mod refused;
mod sources;
mod sweeps;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::time::Instant;

use self::heard::Heard;
use self::refused::Refused;
use self::sweeps::Sweeps;
use super::housekeeping::House;
use super::keep::{Keeper, News};
use super::start::{daemon_watch, doorbell_on, free_doubted, id_of, install_all};
use super::summary::Reporter;
use super::{Daemon, POLL_WITHOUT_DOORBELL, doubt, instance};
use crate::chaos::{self, Mutation, point};
use crate::config::Install;
use crate::db::session::Purpose;
use crate::dispatch::lock;
use crate::engine::{Engine, Folded, Served};
use crate::error::Error;
use crate::journal::fold::Snapshot;
use crate::metrics;
use crate::source::doorbell::{ARM_TRIES, Bell, Doorbell, Stream};
use crate::source::listen::{self, Listening};
use crate::source::poll::{self, Beat, Telling};

/// No fold takes so long: what is waited for is lost, though its socket may not know.
pub(super) const FOLD_PATIENCE: Duration = Duration::from_secs(300);
/// How long the daemon stays awake at least while another replica folds.
const LINGER: Duration = Duration::from_millis(20);
/// How often it looks while it is awake.
const LINGER_LOOK: Duration = Duration::from_millis(2);
/// From so many rows on a fold is part of a flood; it is then followed by a pause, in which more of it comes
/// together: the processor is the writers'. A few milliseconds are all that it costs an alert.
const FLOOD_ROWS: i64 = 50;
const FLOOD_PAUSE: Duration = Duration::from_millis(3);
/// After arming: a writer that looked while we were awake may commit a moment later.
const CATCH_UPS: [Duration; 3] = [Duration::from_millis(5), Duration::from_millis(25), Duration::from_millis(100)];
/// Above this, ringing could fail the writers' COMMIT: the queue is full at 1.
const QUEUE_USAGE_MAX: f64 = 0.1;
/// A whole scan of the journal, whatever the snapshot says: restores and logical copies.
const WHOLE_SCAN_EVERY: Duration = Duration::from_secs(60);
/// So many readings are evaluated in one transaction.
const RECEIVE_MAX: usize = 1_000;
/// For so long readings are evaluated before the journal is looked at again.
const RECEIVE_FOR: Duration = Duration::from_millis(100);
/// How often what was leased to ended processes is looked for, and what is too old.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(10);

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

struct Prepared<'a, B> {
    pipeline: Pipeline<'a>,
    beating: B,
}

/// Installs; then LISTENs, opens the folding session, and begins to beat.
async fn prepare(daemon: &Daemon) -> Result<Prepared<'_, impl Future<Output = Result<(), Error>>>, Error> {
    daemon.connector.require_direct().await?;
    daemon.connector.require_primary().await?;
    let served = install_all(daemon).await?;
    let client = daemon.connector.session(Purpose::Work).await?;
    instance::enter(&client, daemon).await?;
    point!("session.entered");

    // Not before: the server puts this session out when it is silent for three beats.
    let listening = listen::open(&daemon.connector, daemon.database.poll.max(Duration::from_secs(1))).await?;
    if !chaos::is(Mutation::ListenAfterFold) {
        listening.client.batch_execute(&format!("LISTEN {}", daemon.schema.name())).await?;
    }
    point!("session.listening");
    let doorbell_on = doorbell_on(daemon, &listening).await?;
    let poll_every = if doorbell_on { daemon.database.poll } else { daemon.database.poll.min(POLL_WITHOUT_DOORBELL) };
    let telling = Arc::new(Mutex::new(Telling {
        snapshot: Snapshot::beginning(),
        changes: Snapshot::beginning(),
        ready: false,
        doorbell: Bell::Awake.as_str(),
    }));
    let (found, beats) = channel::channel(Beat::default());
    let beating = poll::beat(
        Arc::clone(&listening.client),
        daemon.schema.clone(),
        daemon.instance,
        daemon.dispatch.clone(),
        poll_every,
        Arc::clone(&telling),
        found,
    );
    daemon.health.connected();
    metrics::connected(true);
    daemon.process.supervisor.status("connected: counting and folding what is there");
    let engine = Engine::open(
        &daemon.connector,
        &daemon.schema,
        served.iter().filter_map(|(_, served)| served.clone()).collect(),
        daemon.instance,
        daemon.dispatch.clone(),
    )
    .await?;
    free_doubted(daemon, &client).await?;
    doubt::resolve(&client, daemon).await?;
    // Before the first fold, so that nothing is born leased in a copy of somebody else's outbox.
    let same =
        daemon.schema.sql("SELECT c.system_identifier = s.system_identifier FROM items_listen.cluster c, pg_control_system() s");
    daemon.dispatch.hold(!client.query_one(same.as_str(), &[]).await?.get::<_, bool>(0));
    drop(client);

    let mut keeper = Keeper::new(daemon.clone());
    for (watch, served) in &served {
        if let Some(served) = served {
            keeper.know(served.id, Arc::clone(&served.watch));
        } else if let Some(id) = id_of(daemon, watch).await? {
            keeper.want(id, daemon_watch(daemon, watch));
        }
    }
    let doorbell = Doorbell::new(Arc::clone(&listening.client), &daemon.schema, doorbell_on);
    let pipeline = Pipeline {
        daemon,
        engine,
        doorbell,
        listening,
        beats,
        keeper,
        telling,
        heard_on: HashMap::new(),
        sweeps: Sweeps::default(),
        refused: Refused::default(),
        heard: Heard::default(),
        rung: false,
        stream: Stream::default(),
        foreign: HashSet::new(),
        marked: Vec::new(),
        whole_scan_at: Instant::now() + WHOLE_SCAN_EVERY,
        housekeeping_at: Instant::now() + HOUSEKEEPING_EVERY,
        house: House::default(),
        reporter: Reporter::default(),
        deadline_at: None,
        look: false,
        beaten: false,
        held: false,
    };
    Ok(Prepared { pipeline, beating })
}

/// How much a fold found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
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
    fn is_any(self) -> bool {
        !matches!(self, Work::None | Work::Busy)
    }
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

    /// Folds until the journal is dry, and for as long as so much is committed that it soon is not.
    async fn work(&mut self) -> Result<(), Error> {
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
    async fn fold(&mut self) -> Result<Work, Error> {
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

    fn tell(&self) {
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

    /// Sleeps until something is to be done; then it is awake again.
    async fn rest(&mut self) -> Result<(), Error> {
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
    async fn listen_for(&mut self, at_most: Duration) -> Result<(), Error> {
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

    async fn on_beat(&mut self, beat: Beat) -> Result<(), Error> {
        point!("session.beat");
        metrics::beat(beat.queue_usage);
        if !beat.listening && !chaos::is(Mutation::ListenAfterFold) {
            tracing::warn!("this session no longer listened; listening again");
            self.listening.client.batch_execute(&format!("LISTEN {}", self.daemon.schema.name())).await?;
            self.heard_on.clear();
            self.look = true;
        }
        if !beat.same_cluster && !self.held {
            self.hold(true);
            tracing::error!(
                "this database is a copy made elsewhere: its outbox is held, since its alerts are about the original; \
                 items-listen deliveries retry sends it all the same"
            );
        }
        if beat.same_cluster && self.held {
            self.hold(false);
        }
        self.beaten = true;
        self.keeper.recount(&beat.marked);
        let gone = "its table does not exist; it is watched again as soon as there is one";
        let mut lacking: HashMap<i32, String> = self.engine.troubles();
        lacking.extend(self.sweeps.errors().iter().map(|(id, error)| (*id, error.clone())));
        lacking.extend(beat.gone.iter().map(|id| (*id, gone.to_owned())));
        if self.daemon.database.install == Install::Auto {
            self.keeper.install(&beat.uncovered);
        } else {
            let remedy = "its triggers are not as they should be, and install = \"manual\": run items-listen install";
            lacking.extend(beat.uncovered.iter().map(|id| (*id, remedy.to_owned())));
        }
        self.keeper.lack(&lacking).await;
        self.sweeps.hasten(&beat.sweeps);
        for endpoint in beat.due.iter().filter(|_| !self.held) {
            self.daemon.dispatch.wake(endpoint);
        }
        if beat.any_paused {
            self.share_pauses().await?;
        }
        self.name_foreign(&beat);
        self.leave_foreign_sources().await?;
        self.serve_sources().await?;
        self.deadline_at = beat.next_deadline.and_then(|after| Instant::now().checked_add(after));
        self.look |= beat.work;
        Ok(())
    }

    /// Says once that a newer configuration installed another definition: it stands, and we leave it alone.
    fn name_foreign(&mut self, beat: &Beat) {
        for served in self.engine.served() {
            let own = (served.generation, served.policy().to_owned());
            let same = beat.installed.get(&served.id) == Some(&own);
            if !same && self.foreign.insert(served.id) {
                tracing::warn!(
                    watch = served.watch.name,
                    "another configuration has installed another definition of this watch: it stands, and this daemon no longer serves it"
                );
            }
            if same {
                self.foreign.remove(&served.id);
            }
        }
    }

    fn hold(&mut self, held: bool) {
        self.held = held;
        self.daemon.dispatch.hold(held);
    }

    async fn share_pauses(&self) -> Result<(), Error> {
        let sql = self.daemon.schema.sql(
            "SELECT name, coalesce(reason, ''), extract(epoch FROM until - clock_timestamp())::float8
             FROM items_listen.endpoint WHERE state = 'paused' AND until > clock_timestamp()",
        );
        for row in self.listening.client.query(sql.as_str(), &[]).await? {
            let until = Duration::try_from_secs_f64(row.get(2)).unwrap_or_default();
            self.daemon.dispatch.paused(row.get(0), until, row.get(1));
        }
        Ok(())
    }
}
