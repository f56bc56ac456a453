//! A service manager that only listens: a real `NOTIFY_SOCKET`, and what is said to it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::net::UnixDatagram;

use super::PATIENCE;
use super::daemon::Daemon;

/// The socket. Messages wait in it, in their order, until they are asked for.
pub struct Systemd {
    socket: UnixDatagram,
    directory: PathBuf,
}

impl Systemd {
    /// Binds a socket; a daemon is told of it by [`Systemd::watch_over`].
    pub fn new() -> Systemd {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("items-listen-systemd-{}-{number}", std::process::id()));
        let _left_by_a_namesake = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).expect("a directory for the socket");
        let socket = UnixDatagram::bind(directory.join("notify")).expect("a socket");
        Systemd { socket, directory }
    }

    /// Starts the daemon, from its next start on, as systemd does: with the socket, and a watchdog of its process id.
    pub fn watch_over(&self, daemon: &mut Daemon, watchdog_usec: &str) {
        let starter = self.directory.join("start");
        // The process id is known to the process alone before it runs.
        let script = format!("#!/bin/sh\nWATCHDOG_PID=$$ exec '{}' \"$@\"\n", daemon.binary.display());
        std::fs::write(&starter, script).expect("the starter is written");
        std::fs::set_permissions(&starter, std::fs::Permissions::from_mode(0o755)).expect("it may run");
        daemon.binary = starter;
        daemon.env("NOTIFY_SOCKET", &self.directory.join("notify").display().to_string());
        daemon.env("WATCHDOG_USEC", watchdog_usec);
    }

    /// The next message: one or more lines of `NAME=value`.
    pub async fn next(&self) -> String {
        let mut bytes = vec![0; 65_536];
        let received = tokio::time::timeout(PATIENCE, self.socket.recv(&mut bytes)).await;
        let length = received.expect("a message within the patience of tests").expect("the socket works");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// Everything up to the first message that contains this, with it.
    pub async fn until(&self, text: &str) -> Vec<String> {
        let mut messages = Vec::new();
        tokio::time::timeout(PATIENCE, async {
            loop {
                messages.push(self.next().await);
                if messages.last().is_some_and(|message| message.contains(text)) {
                    return;
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("nothing says {text:?}"));
        messages
    }

    /// What waits in the socket.
    pub fn waiting(&self) -> Vec<String> {
        let mut bytes = vec![0; 65_536];
        let mut messages = Vec::new();
        while let Ok(length) = self.socket.try_recv(&mut bytes) {
            messages.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        messages
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.directory);
    }
}
