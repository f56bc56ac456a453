//! What comes before the loop, in the order that the promise needs.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::time::Instant;

use super::heard::Heard;
use super::refused::Refused;
use super::rest::HOUSEKEEPING_EVERY;
use super::sweeps::Sweeps;
use super::{Pipeline, WHOLE_SCAN_EVERY};
use crate::chaos::{self, Mutation, point};
use crate::daemon::housekeeping::House;
use crate::daemon::keep::Keeper;
use crate::daemon::start::{daemon_watch, doorbell_on, free_doubted, id_of, install_all};
use crate::daemon::summary::Reporter;
use crate::daemon::unwritten::{self, Unwritten};
use crate::daemon::{Daemon, POLL_WITHOUT_DOORBELL, instance};
use crate::db::session::Purpose;
use crate::engine::Engine;
use crate::error::Error;
use crate::journal::fold::Snapshot;
use crate::metrics;
use crate::source::doorbell::{Bell, Doorbell, Stream};
use crate::source::listen;
use crate::source::poll::{self, Beat, Telling};

pub(super) struct Prepared<'a, B> {
    pub(super) pipeline: Pipeline<'a>,
    pub(super) beating: B,
}

/// Installs; then LISTENs, opens the folding session, and begins to beat.
pub(super) async fn prepare(daemon: &Daemon) -> Result<Prepared<'_, impl Future<Output = Result<(), Error>>>, Error> {
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
    metrics::connected(true);
    daemon.process.supervisor.status("connected: counting and folding what is there");
    let engine = Engine::open(
        &daemon.connector,
        &daemon.schema,
        served.iter().filter_map(|(_, served)| served.clone()).collect(),
        daemon.instance,
        daemon.dispatch.clone(),
    )
    .await?
    .at_pace(Arc::clone(&daemon.process.pace));
    free_doubted(daemon, &client).await?;
    unwritten::look_for_others(&client, &daemon.schema).await?;
    let mut unwritten = Unwritten::default();
    unwritten.look(&client, &daemon.schema).await?;
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
        unwritten,
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
