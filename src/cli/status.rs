//! `items-listen status`

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{plain, print};
use crate::config::Config;
use crate::db::session::Purpose;
use crate::error::Error;
use crate::status::{self, Status};

/// Prints how everything stands; 1 if something is paused, dead or degraded, or no daemon lives.
pub(super) async fn run(config: &Config, json: bool) -> Result<u8, Error> {
    let (client, _, schema) = super::connect(config, Purpose::Work).await?;
    super::require_schema(&client, &schema).await?;
    let status = status::read(&client, &schema).await?;
    if json {
        print(&serde_json::to_string(&status).unwrap_or_default());
    } else {
        print(text(&status, Timestamp::now()).trim_end());
    }
    Ok(u8::from(!status.is_well()))
}

fn text(status: &Status, now: Timestamp) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        let _infallible = writeln!(text, "{line}");
    };
    match status.instances.as_slice() {
        [] => line("no live daemon: start items-listen; until then the journal grows".to_owned()),
        instances => {
            for instance in instances {
                let ready = if status.ready { "ready" } else { "not ready" };
                line(format!("{ready}: {} pid {}, version {}", plain(&instance.host), instance.pid, instance.version));
            }
        }
    }
    line(format!(
        "database: doorbell {}, {} journal rows{}",
        status.database.doorbell.as_deref().unwrap_or("–"),
        status.database.journal_rows,
        status.database.listen_heartbeat_at.map_or(String::new(), |at| format!(", heartbeat {}", ago(at, now)))
    ));
    let width = status.watches.iter().map(|watch| watch.name.len()).max().unwrap_or(0);
    for watch in &status.watches {
        let open = &watch.open;
        let last = watch.last_transition_at.map_or("never".to_owned(), |at| ago(at, now));
        line(format!(
            "watch     {:width$}  {:>8} keys   {} warning  {} high  {} critical   last transition {last}",
            watch.name, watch.keys, open.warning, open.high, open.critical
        ));
        if let Some(error) = &watch.error {
            line(format!("          {:width$}  degraded: {}", "", plain(error)));
        }
    }
    let width = status.endpoints.iter().map(|endpoint| endpoint.name.len()).max().unwrap_or(0);
    for endpoint in &status.endpoints {
        let oldest = endpoint.oldest_pending_at.map_or(String::new(), |at| format!(", oldest {}", ago(at, now)));
        let success = endpoint.last_success_at.map_or("never".to_owned(), |at| ago(at, now));
        let reason = endpoint.reason.as_deref().map_or(String::new(), |reason| format!(" ({reason})"));
        line(format!(
            "endpoint  {:width$}  {}{reason}   {} pending{oldest}   {} dead   last success {success}",
            endpoint.name, endpoint.state, endpoint.pending, endpoint.dead
        ));
        if let Some(error) = endpoint.last_error.as_ref().filter(|_| endpoint.state != "ok") {
            line(format!("          {:width$}  {}", "", plain(error)));
        }
    }
    text
}

fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}
