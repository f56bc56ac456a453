//! This process in the database, and the proof that another has ended.
//!
//! A lease protects against a process that may still be sending. Of a process of this very kernel and PID
//! namespace it can be known for certain that it has ended; what was leased to it is then free at once, so
//! that a daemon that was killed and started again does not wait for its own leases.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_postgres::Client;

use super::Daemon;
use crate::db::migrate;
use crate::db::schema::Schema;
use crate::error::Error;
use crate::outbox;

/// Rows of daemons that were not heard of for so long are removed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What tells one process from another that has its number: kernel, namespace, number, start.
pub fn identity(pid: u32) -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let started = started(pid)?;
    Some(format!("{}/{}/{pid}/{started}", boot.trim(), namespace.display()))
}

/// A process that has ended, but was not waited for yet: it sends nothing any more.
fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, after)| after.trim_start().starts_with(['Z', 'X']))
}

/// When a process started, in ticks since boot: the 22nd field of its stat, after the name in parentheses.
fn started(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace();
    if matches!(fields.next(), Some("Z" | "X")) {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

/// Whether the process of that identity has certainly ended: only what is on this kernel and in this
/// namespace can be known.
pub fn has_ended(process: &str) -> bool {
    let parts: Vec<&str> = process.split('/').collect();
    let [boot, namespace, pid, _started] = parts[..] else { return false };
    let Some(own) = identity(std::process::id()) else { return false };
    if !own.starts_with(&format!("{boot}/{namespace}/")) {
        return false;
    }
    let Ok(pid) = pid.parse::<u32>() else { return false };
    match identity(pid) {
        Some(found) => found != process,
        None if is_zombie(pid) => true,
        // /proc may hide others' processes: only the kernel's word that there is none counts.
        None => i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH)),
    }
}

/// Enters this process, and frees what is leased to those that have ended.
///
/// # Errors
/// The database cannot be reached.
pub async fn enter(client: &Client, daemon: &Daemon) -> Result<(), Error> {
    bury(client, &daemon.schema).await?;
    if !daemon.entered.load(Ordering::Acquire) {
        // At a start, and after a reload: what was refused may have been mended, so it is probed at once.
        let probe = daemon.schema.sql("UPDATE items_listen.endpoint SET until = NULL WHERE state = 'paused' AND name = ANY ($1)");
        client.execute(probe.as_str(), &[&daemon.dispatch.names().collect::<Vec<_>>()]).await?;
        daemon.entered.store(true, Ordering::Release);
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let sql = daemon.schema.sql(
        "INSERT INTO items_listen.instance (id, host, pid, process, version, config_hash, watches, endpoints, doorbell, schema_version)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'awake', $9)
         ON CONFLICT (id) DO UPDATE SET beat_at = clock_timestamp(), ready = false",
    );
    let pid = std::process::id();
    let watches: Vec<&str> = daemon.config.watches.iter().map(|watch| watch.name.as_str()).collect();
    let endpoints: Vec<&str> = daemon.config.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
    client
        .execute(
            sql.as_str(),
            &[
                &daemon.instance,
                &host.trim(),
                &i32::try_from(pid).unwrap_or(0),
                &identity(pid).unwrap_or_default(),
                &crate::version::VERSION,
                &daemon.config.hash,
                &watches,
                &endpoints,
                &migrate::newest(),
            ],
        )
        .await?;
    Ok(())
}

/// Frees what is leased to processes that have certainly ended, and removes their rows.
///
/// # Errors
/// The database cannot be reached.
pub async fn bury(client: &Client, schema: &Schema) -> Result<(), Error> {
    let all = schema.sql("SELECT id, process FROM items_listen.instance");
    for row in client.query(all.as_str(), &[]).await? {
        let (id, process): (uuid::Uuid, String) = (row.get(0), row.get(1));
        if has_ended(&process) {
            let freed = outbox::free(client, schema, id).await?;
            let delete = schema.sql("DELETE FROM items_listen.instance WHERE id = $1");
            client.execute(delete.as_str(), &[&id]).await?;
            tracing::info!(freed, "a daemon that ended without saying so left deliveries behind");
        }
    }
    let forget = schema.sql("DELETE FROM items_listen.instance WHERE beat_at < clock_timestamp() - make_interval(secs => $1)");
    client.execute(forget.as_str(), &[&FORGOTTEN_AFTER.as_secs_f64()]).await?;
    Ok(())
}

/// Takes this instance out again; whatever it still has leased is free, if nothing of it is under way any more.
///
/// # Errors
/// The database cannot be reached: its leases end by themselves.
pub async fn leave(daemon: &Daemon, drained: bool) -> Result<(), Error> {
    daemon
        .pool
        .run(async |client| {
            if drained {
                outbox::free(client, &daemon.schema, daemon.instance).await?;
            }
            let delete = daemon.schema.sql("DELETE FROM items_listen.instance WHERE id = $1");
            client.execute(delete.as_str(), &[&daemon.instance]).await?;
            Ok(())
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certain_has_ended() {
        let own = identity(std::process::id()).expect("/proc is there");
        assert!(!has_ended(&own));
        let mut child = std::process::Command::new("true").spawn().expect("true starts");
        let pid = child.id();
        let parts: Vec<&str> = own.split('/').collect();
        child.wait().expect("it ends");
        assert!(has_ended(&format!("{}/{}/{pid}/1", parts[0], parts[1])));
        assert!(has_ended(&format!("{}/{}/{}/1", parts[0], parts[1], parts[2])), "the same number, another start");
        assert!(!has_ended(&format!("another-boot/{}/{pid}/1", parts[1])));
        assert!(!has_ended("nonsense"));
    }
}
