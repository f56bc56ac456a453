//! What the beat brings: the database's own view of what is to be done.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Pipeline;
use crate::chaos::{self, Mutation, point};
use crate::config::Install;
use crate::error::Error;
use crate::metrics;
use crate::source::poll::Beat;

impl Pipeline<'_> {
    pub(super) async fn on_beat(&mut self, beat: Beat) -> Result<(), Error> {
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
        self.unwritten.at_beat(self.daemon, beat.unwritten).await?;
        self.keeper.recount(&beat.marked);
        self.keeper.done_elsewhere(beat.asked_at, &beat.marked, &beat.uncovered);
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
        // Whether all is done is said by a fold. One that was to say so may have been refused, since another replica folded just
        // then, and that one left nothing that would cause another.
        self.look |= beat.work || !self.daemon.health.is_ready();
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
