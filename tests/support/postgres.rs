//! A throw-away PostgreSQL of our own, and a database per test.
//!
//! The server is a child of this process; a shell that reads from a pipe of ours ends it and removes its
//! files when this process ends in whatever way, kill -9 included.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::certificates::Issued;

/// A running server.
pub struct Server {
    pub port: u16,
    pub directory: PathBuf,
    bin: PathBuf,
    user: Option<(u32, u32)>,
    /// Its size in megabytes.
    small_disk: Option<u32>,
    reaper: Child,
}

/// Where distributions put the server programs.
pub fn bin() -> PathBuf {
    if let Some(named) = std::env::var_os("PG_BINDIR") {
        return PathBuf::from(named);
    }
    let home = std::env::var("HOME").unwrap_or_default();
    let cache = std::env::var("XDG_CACHE_HOME").unwrap_or(format!("{home}/.cache"));
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for root in [format!("{cache}/items-listen/postgresql/usr/lib/postgresql"), "/usr/lib/postgresql".into()] {
        for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
            let version = entry.file_name().to_string_lossy().parse().unwrap_or(0);
            found.push((version, entry.path().join("bin")));
        }
    }
    for path in
        std::env::var("PATH").unwrap_or_default().split(':').chain(["/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql/bin"])
    {
        found.push((0, PathBuf::from(path)));
    }
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let bin = found.into_iter().map(|(_, bin)| bin).find(|bin| bin.join("initdb").exists() && bin.join("postgres").exists());
    bin.expect(
        "no PostgreSQL server programs: run `make test`, which installs them, or set PG_BINDIR to the directory with initdb",
    )
}

/// initdb and postgres refuse to run as root: then they run as somebody else.
pub(super) fn unprivileged() -> Option<(u32, u32)> {
    let id = |what: &str| {
        Command::new("id").arg(what).output().ok().and_then(|out| String::from_utf8(out.stdout).ok()?.trim().parse().ok())
    };
    if id("-u") != Some(0u32) {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of = |name: &str| {
        let line = passwd.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(of("postgres").or_else(|| of("nobody")).expect("as root, a user postgres or nobody is needed to run PostgreSQL as"))
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

impl Server {
    /// Starts a server with further settings.
    pub fn start(settings: &[&str]) -> Server {
        let mut server = Server::prepare();
        server.initialise(settings);
        server.boot();
        server
    }

    /// Starts one with TLS and these lines of `pg_hba.conf`; it accepts client certificates of `issuer`.
    pub fn with_tls(issued: &Issued, issuer: &str, hba: &str) -> Server {
        let mut server = Server::prepare();
        server.initialise(&["ssl = on", "ssl_ca_file = 'clients.crt'", "password_encryption = 'scram-sha-256'"]);
        server.write("server.crt", &issued.certificate);
        server.write("server.key", &issued.key);
        server.write("clients.crt", issuer);
        server.write("pg_hba.conf", hba);
        server.boot();
        server
    }

    /// Shows another certificate from now on.
    pub async fn show(&self, issued: &Issued) {
        self.write("server.crt", &issued.certificate);
        self.write("server.key", &issued.key);
        let loaded = async || {
            let row = self.connect("postgres").await.query_one("SELECT pg_conf_load_time()::text", &[]).await;
            row.expect("a time").get::<_, String>(0)
        };
        let before = loaded().await;
        self.run("pg_ctl", &["-D", "data", "reload"]);
        super::eventually("the server has read its certificate", async || (loaded().await != before).then_some(())).await;
    }

    /// Writes a file of the data directory.
    fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.directory.join("data").join(name);
        std::fs::write(&path, text).expect("it is written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("it is the owner's alone");
        if let Some((uid, gid)) = self.user {
            chown(&path, Some(uid), Some(gid)).expect("it changes hands");
        }
    }

    /// Starts one that has a small disk of its own, `small` in its directory, which is gone when the server is; `None`
    /// where this process may not mount anything.
    pub fn with_small_disk(megabytes: u32) -> Option<Server> {
        let mut server = Server::prepare();
        std::fs::create_dir(server.directory.join("small")).expect("a directory for the disk");
        server.small_disk = Some(megabytes);
        if server.user.is_none() || !server.on_its_disk(Command::new("true")).status().is_ok_and(|status| status.success()) {
            return None;
        }
        server.initialise(&[]);
        server.boot();
        Some(server)
    }

    /// Starts a hot standby of this server.
    pub fn standby(&self) -> Server {
        let mut standby = Server::prepare();
        let port = self.port.to_string();
        standby.run(
            "pg_basebackup",
            &["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-D", "data", "-R", "-c", "fast", "--no-sync"],
        );
        standby.boot();
        standby
    }

    /// Makes the standby a primary.
    pub fn promote(&self) {
        self.run("pg_ctl", &["-D", "data", "-w", "promote"]);
    }

    fn prepare() -> Server {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (bin, user) = (bin(), unprivileged());
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("items-listen-pg-{}-{number}", std::process::id()));
        let _left_by_a_namesake = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).expect("a directory for the cluster");
        if let Some((uid, gid)) = user {
            chown(&directory, Some(uid), Some(gid)).expect("the directory changes hands");
        }
        let reaper = reaper(&directory);
        Server { port: 0, directory, bin, user, small_disk: None, reaper }
    }

    fn initialise(&self, settings: &[&str]) {
        self.run("initdb", &["-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        let mut lines = String::from(
            "listen_addresses = '127.0.0.1'\nmax_connections = 200\nfsync = off\nautovacuum_naptime = 5s\n\
             log_min_messages = warning\nlog_line_prefix = '%m [%p] %d '\nshared_buffers = 128MB\n",
        );
        settings.iter().for_each(|setting| lines.push_str(&format!("{setting}\n")));
        std::fs::OpenOptions::new()
            .append(true)
            .open(self.directory.join("data/postgresql.conf"))
            .and_then(|mut file| file.write_all(lines.as_bytes()))
            .expect("postgresql.conf is written");
    }

    /// Starts the stopped server, on the port that it had.
    pub fn boot(&mut self) {
        for _ in 0..5 {
            if self.port == 0 {
                self.port = free_port();
            }
            let options = format!("-p {} -c unix_socket_directories={}", self.port, self.directory.display());
            let command = self.command("pg_ctl", &["-D", "data", "-w", "-t", "60", "-l", "log", "-o", &options, "start"]);
            let mut command = if self.small_disk.is_some() { self.on_its_disk(command) } else { command };
            let started = command.status();
            if started.is_ok_and(|status| status.success()) {
                let pid = std::fs::read_to_string(self.directory.join("data/postmaster.pid")).unwrap_or_default();
                let line = format!("{}\n", pid.lines().next().unwrap_or_default());
                self.reaper.stdin.as_mut().map(|stdin| stdin.write_all(line.as_bytes()));
                return;
            }
            // Somebody took the port in between.
            self.port = 0;
        }
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        panic!("PostgreSQL does not start:\n{log}");
    }

    /// Stops it: `fast` or `immediate`.
    pub fn halt(&self, mode: &str) {
        self.run("pg_ctl", &["-D", "data", "-w", "-m", mode, "stop"]);
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.args(arguments).current_dir(&self.directory).env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG")) {
            command.env_remove(name);
        }
        if let Some((uid, gid)) = self.user {
            command.gid(gid).uid(uid);
        }
        command
    }

    /// The command in a mount namespace that has the small disk: nobody else sees it, and nothing is left of it.
    fn on_its_disk(&self, command: Command) -> Command {
        let script = r#"mount -t tmpfs -o "size=$1m,mode=0700,uid=$3,gid=$4" tmpfs "$2" && user=$3 group=$4 && shift 4 &&
            exec setpriv --reuid="$user" --regid="$group" --clear-groups "$@""#;
        let (user, group) = self.user.unwrap_or_default();
        let mut wrapped = Command::new("unshare");
        wrapped
            .args(["-m", "--propagation", "private", "sh", "-c", script, "sh"])
            .arg(self.small_disk.unwrap_or_default().to_string())
            .arg(self.directory.join("small"))
            .args([user.to_string(), group.to_string()])
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .env("LC_ALL", "C");
        for (name, _) in command.get_envs().filter(|(_, value)| value.is_none()) {
            wrapped.env_remove(name);
        }
        wrapped
    }

    /// How often something stands in the server's log about a database: proof that it was tried again.
    pub fn logged(&self, database: &str, text: &str) -> usize {
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(&format!("] {database} ")) && line.contains(text)).count()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let output = self.command(program, arguments).stderr(Stdio::piped()).output().expect("the program starts");
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A client program (psql, pgbench) with the server's address in its environment.
    pub fn program(&self, program: &str, database: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", database);
        command
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// A session in a database.
    pub async fn connect(&self, database: &str) -> Client {
        connect(&self.url(database)).await
    }

    /// A database of one's own on this server.
    pub async fn database(&self) -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let admin = self.connect("postgres").await;
        admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).await.expect("a database");
        Database { port: self.port, name: name.clone(), client: self.connect(&name).await }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        let _ended = self.reaper.wait();
    }
}

/// Reads the server's process id from us; when we are gone, ends the server and removes its files.
pub(super) fn reaper(directory: &Path) -> Child {
    let script = r#"trap '' INT TERM HUP
        while read -r line; do pid=$line; done
        if [ -n "$pid" ]; then kill -QUIT "$pid" 2>/dev/null; for i in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done; fi
        rm -rf "$1""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "reaper"]).arg(directory).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // A group of its own, so that Ctrl-C in a terminal does not end it first.
    command.process_group(0).spawn().expect("sh starts")
}

/// A session on any URL.
pub async fn connect(url: &str) -> Client {
    let started = Instant::now();
    loop {
        match tokio_postgres::connect(url, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(async move {
                    let _ended = connection.await;
                });
                return client;
            }
            Err(error) => assert!(started.elapsed() < Duration::from_secs(30), "{url}: {error}"),
        }
        tokio::task::yield_now().await;
    }
}

/// The server that all tests of this binary share.
pub fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(&[]))
}

/// A database of one's own.
pub struct Database {
    pub port: u16,
    pub name: String,
    pub client: Client,
}

impl Database {
    /// On the shared server.
    pub async fn new() -> Database {
        shared().database().await
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{}", self.port, self.name)
    }

    /// Another session in it.
    pub async fn session(&self) -> Client {
        connect(&self.url()).await
    }

    /// Runs SQL.
    pub async fn sql(&self, sql: &str) {
        if let Err(error) = self.client.batch_execute(sql).await {
            panic!("{sql}: {error:?}");
        }
    }

    /// The one value of a query.
    pub async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        match self.client.query_one(sql, &[]).await {
            Ok(row) => row.get(0),
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }
}
