//! A PgBouncer of our own before a server. `scripts/pgbouncer` finds or fetches one.

use std::io::Write as _;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::postgres::{free_port, reaper, unprivileged};

/// How many server sessions there are to a database while it pools transactions.
pub const POOL: usize = 4;

/// A running PgBouncer.
pub struct PgBouncer {
    pub port: u16,
    directory: PathBuf,
    target: u16,
    child: Child,
    /// Ends it when this process ends in whatever way.
    reaper: Child,
}

fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("PGBOUNCER") {
        return PathBuf::from(named);
    }
    let home = std::env::var("HOME").unwrap_or_default();
    let cache = std::env::var("XDG_CACHE_HOME").unwrap_or(format!("{home}/.cache"));
    let path = std::env::var("PATH").unwrap_or_default();
    let named = path.split(':').map(|directory| PathBuf::from(directory).join("pgbouncer"));
    let others = ["/usr/sbin/pgbouncer".into(), PathBuf::from(cache).join("items-listen/pgbouncer/pgbouncer")];
    let found = named.chain(others).find(|program| program.exists());
    found.expect("no PgBouncer: run `make test`, or set PGBOUNCER to what scripts/pgbouncer prints")
}

impl PgBouncer {
    /// Starts one before the server on this port, pooling a `transaction` or a `session`.
    pub fn start(target: u16, mode: &str) -> PgBouncer {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("items-listen-pgbouncer-{}-{number}", std::process::id()));
        let _left_by_a_namesake = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).expect("a directory for PgBouncer");
        if let Some((uid, gid)) = unprivileged() {
            chown(&directory, Some(uid), Some(gid)).expect("the directory changes hands");
        }
        let mut reaper = reaper(&directory);
        let port = free_port();
        let child = launch(&directory, port, target, mode, &mut reaper);
        PgBouncer { port, directory, target, child, reaper }
    }

    /// Ends it, and starts it again on the same port in another mode.
    pub fn restart(&mut self, mode: &str) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
        self.child = launch(&self.directory, self.port, self.target, mode, &mut self.reaper);
    }
}

fn launch(directory: &std::path::Path, port: u16, target: u16, mode: &str, reaper: &mut Child) -> Child {
    let size = if mode == "transaction" { POOL } else { 50 };
    let settings = format!(
        "[databases]\n* = host=127.0.0.1 port={target} user=postgres\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
         pool_mode = {mode}\ndefault_pool_size = {size}\nlogfile = {}\n",
        directory.join("log").display()
    );
    let file = directory.join("pgbouncer.ini");
    std::fs::write(&file, settings).expect("pgbouncer.ini is written");
    let mut command = Command::new(program());
    // It refuses to run as root, but becomes somebody else by itself.
    if let Some((uid, _)) = unprivileged() {
        command.args(["-u", &name_of(uid)]);
    }
    command.arg(&file).current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("PgBouncer starts");
    let line = format!("{}\n", child.id());
    reaper.stdin.as_mut().map(|stdin| stdin.write_all(line.as_bytes()));
    child
}

fn name_of(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(uid.to_string().as_str()));
    line.and_then(|line| line.split(':').next()).expect("the user has a name").to_owned()
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
        drop(self.reaper.stdin.take());
        let _removed = self.reaper.wait();
    }
}
