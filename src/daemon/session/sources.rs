//! What an application sends itself: which replica hears it, and how its readings reach the engine.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::heard::Wrong;
use super::{Pipeline, RECEIVE_MAX, refused};
use crate::chaos::point;
use crate::db::locks::Lock;
use crate::dispatch::lock;
use crate::engine::Received;
use crate::error::Error;
use crate::metrics;
use crate::source::listen::Notification;
use crate::source::payload;
use crate::watch::Source;

impl Pipeline<'_> {
    pub(super) fn hear(&mut self, notification: Notification) {
        if notification.channel == self.daemon.schema.name() {
            point!("bell.heard");
            metrics::rung();
            self.rung = true;
        }
        let Some(watches) = self.heard_on.get(&notification.channel) else { return };
        for id in watches {
            let Some(served) = self.engine.served().find(|served| served.id == *id) else { continue };
            let parsed = payload::parse(&notification.payload, served.watch.key());
            metrics::heard(&served.watch.name, parsed.is_ok());
            match parsed {
                Ok((key, count)) => {
                    let reading = Received { watch: *id, source: served.source(), key, count, ..Received::default() };
                    let dropped = self.heard.take_in(&mut lock(&self.daemon.process.readings), reading);
                    if let Some(dropped) = dropped.filter(|_| self.heard.may_say(*id, Wrong::TooMany)) {
                        let watch = &served.watch.name;
                        tracing::warn!(watch, dropped, "more readings come than can be evaluated: the oldest are dropped");
                    }
                }
                Err(what) => {
                    let skipped = self.daemon.health.skip_payload();
                    if !self.heard.may_say(*id, Wrong::Payload) {
                        continue;
                    }
                    let payload: String = notification.payload.chars().take(100).collect();
                    tracing::warn!(
                        watch = served.watch.name,
                        skipped,
                        payload = payload.escape_debug().to_string(),
                        "payload skipped: {what}"
                    );
                }
            }
        }
    }

    /// Takes in whatever was heard so far.
    pub(super) fn hear_all(&mut self) {
        while let Ok(notification) = self.listening.heard.try_recv() {
            self.hear(notification);
        }
    }

    /// Evaluates the readings that came, until this time at most; those of one key one after another. They are forgotten only
    /// when what they caused is committed.
    pub(super) async fn receive(&mut self, until: Option<Instant>) -> Result<(), Error> {
        while self.readings_are_due() && until.is_none_or(|until| Instant::now() < until) {
            let (places, now) = self.next_readings();
            let taken = match self.engine.receive(&now).await {
                Err(error) => {
                    return Err(refused::explained(&self.listening.client, &self.daemon.schema, error).await);
                }
                Ok(taken) => taken,
            };
            self.daemon.process.supervisor.alive();
            let mut readings = lock(&self.daemon.process.readings);
            if places[..taken].iter().enumerate().all(|(at, place)| at == *place) {
                readings.drain(..taken);
                continue;
            }
            // Those of the watches that wait stay where they are; the order matters along a watch alone.
            for place in places[..taken].iter().rev() {
                readings.remove(*place);
            }
        }
        Ok(())
    }

    /// The readings that one transaction evaluates, and where they stand among those that wait.
    fn next_readings(&self) -> (Vec<usize>, Vec<Received>) {
        let mut keys = HashSet::new();
        lock(&self.daemon.process.readings)
            .iter()
            .enumerate()
            .filter(|(_, reading)| !self.engine.waits(reading.watch))
            .take_while(|(_, reading)| keys.insert((reading.watch, &reading.key.text)))
            .take(RECEIVE_MAX)
            .map(|(place, reading)| (place, reading.clone()))
            .unzip()
    }

    /// Whether readings came that can be evaluated now.
    pub(super) fn readings_are_due(&self) -> bool {
        lock(&self.daemon.process.readings).iter().any(|reading| !self.engine.waits(reading.watch))
    }

    /// Tries for the notify and query watches that nobody serves.
    pub(super) async fn serve_sources(&mut self) -> Result<(), Error> {
        let heard: HashSet<i32> = self.heard_on.values().flatten().copied().collect();
        let wanted: Vec<(i32, Option<String>)> = self
            .engine
            .served()
            .filter(|served| !heard.contains(&served.id) && !self.sweeps.has(served.id) && !self.foreign.contains(&served.id))
            .filter_map(|served| match &served.watch.source {
                Source::Notify { channel } => Some((served.id, Some(channel.clone()))),
                Source::Query { .. } => Some((served.id, None)),
                Source::Table { .. } => None,
            })
            .collect();
        for id in self.refused.forget_sources(&wanted.iter().map(|(id, _)| *id).collect()) {
            self.sweeps.excuse(id, None);
        }
        for (id, channel) in wanted {
            // Re-entrant: a session that holds it already would hold it twice, which changes nothing.
            let try_lock = format!("SELECT pg_try_advisory_lock({})", Lock::Source(id).sql(&self.daemon.schema));
            if !self.listening.client.query_one(try_lock.as_str(), &[]).await?.get::<_, bool>(0) {
                match self.refused.source(&self.listening.client, &self.daemon.schema, id).await? {
                    refused::Source::Unknown => {}
                    refused::Source::Served => self.sweeps.excuse(id, None),
                    refused::Source::Held(why) => self.sweeps.excuse(id, Some(why)),
                }
                continue;
            }
            match channel {
                Some(channel) => {
                    self.listening.client.batch_execute(&format!("LISTEN {}", crate::db::quote(&channel))).await?;
                    self.heard_on.entry(channel).or_default().push(id);
                }
                None => self.sweeps.serve(id),
            }
        }
        Ok(())
    }

    /// Lets go of notify and query watches that another configuration has taken over.
    pub(super) async fn leave_foreign_sources(&mut self) -> Result<(), Error> {
        let client = Arc::clone(&self.listening.client);
        let unlock = |id: i32| format!("SELECT pg_advisory_unlock({})", Lock::Source(id).sql(&self.daemon.schema));
        for (channel, watches) in &mut self.heard_on {
            for id in watches.extract_if(.., |id| self.foreign.contains(id)) {
                client.batch_execute(&unlock(id)).await?;
            }
            if watches.is_empty() {
                client.batch_execute(&format!("UNLISTEN {}", crate::db::quote(channel))).await?;
            }
        }
        self.heard_on.retain(|_, watches| !watches.is_empty());
        for id in self.foreign.iter().filter(|id| self.sweeps.has(**id)).copied().collect::<Vec<_>>() {
            self.sweeps.leave(id);
            client.batch_execute(&unlock(id)).await?;
        }
        Ok(())
    }
}
