//! The real daemon, as a process of its own.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// A configuration file and the binary that runs it.
pub struct Daemon {
    pub binary: PathBuf,
    pub file: PathBuf,
    /// Further variables of its environment.
    pub environment: Vec<(String, String)>,
    /// What follows the configuration when it is started.
    pub arguments: &'static [&'static str],
    child: Option<Child>,
}

impl Daemon {
    /// Writes the configuration; nothing runs yet. HTTP gets a free port.
    pub fn new(binary: impl Into<PathBuf>, config: &str) -> Daemon {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("items-listen-{}-{number}.toml", std::process::id()));
        let daemon = Daemon { binary: binary.into(), file, environment: Vec::new(), arguments: &["run"], child: None };
        daemon.configure(config);
        daemon
    }

    /// Writes another configuration, for the next start.
    pub fn configure(&self, config: &str) {
        let http = if config.contains("[http]") { "" } else { "\n[http]\nlisten = \"127.0.0.1:0\"\n" };
        std::fs::write(&self.file, format!("{config}{http}")).expect("the configuration is written");
        // A secret stands in it.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&self.file, private).expect("it is the owner's alone");
    }

    /// Gives it another environment variable, from the next start on.
    pub fn env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The program with this configuration, and an environment that says nothing else but what a test wants.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars() {
            if ["PG", "DB_", "DATABASE_", "BROADCAST", "PUSHER", "REVERB", "ITEMS_LISTEN", "INVENTORY", "SSL_CERT_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
                || name.to_lowercase().ends_with("_proxy")
            {
                command.env_remove(name);
            }
        }
        command.arg("--config").arg(&self.file).args(arguments).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end: exit code, stdout, stderr.
    pub async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("the binary starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// Starts it, without waiting.
    pub fn spawn(&mut self) {
        self.show();
        // A file, and no pipe: what it has logged is there as soon as it goes on, and needs nobody to read it.
        let log = std::fs::File::create(self.log_file()).expect("the log is made");
        let child = self.command(self.arguments).stdout(Stdio::null()).stderr(log).spawn().expect("the binary starts");
        self.child = Some(child);
    }

    fn log_file(&self) -> PathBuf {
        self.file.with_extension("log")
    }

    /// `ITEMS_LISTEN_TEST_LOG=1` shows what it logged, at its end.
    fn show(&self) {
        if std::env::var_os("ITEMS_LISTEN_TEST_LOG").is_some() {
            self.log().iter().for_each(|line| eprintln!("{line}"));
        }
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&mut self) {
        self.spawn();
        self.ready().await;
    }

    /// Waits until `/readyz` says so.
    pub async fn ready(&self) {
        super::eventually_or(
            || format!("ready; {:?}", self.log_tail()),
            async || {
                if self.child.is_some() { self.get("/readyz").await.filter(|(status, _)| *status == 200) } else { None }
            },
        )
        .await;
    }

    fn log_tail(&self) -> Vec<Value> {
        self.log().into_iter().rev().take(10).collect()
    }

    /// The address of its HTTP listener, once it is logged.
    pub fn address(&self) -> Option<String> {
        self.log().iter().find_map(|line| line["addr"].as_str().map(str::to_owned))
    }

    /// Asks its HTTP listener.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let address = self.address()?;
        let mut stream = tokio::net::TcpStream::connect(&address).await.ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// What it logged so far.
    pub fn log(&self) -> Vec<Value> {
        let text = std::fs::read(self.log_file()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        // A line that has no end yet is still being written.
        let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|_| Value::String(line.to_owned()))).collect()
    }

    /// How many lines of its log contain this.
    pub fn lines(&self, text: &str) -> usize {
        self.log().iter().filter(|line| line.to_string().contains(text)).count()
    }

    /// Waits for a log line that contains this.
    pub async fn logged(&self, text: &str) -> Value {
        super::eventually_or(
            || format!("a log line with \"{text}\"; last were {:?}", self.log_tail()),
            async || self.log().into_iter().find(|line| line.to_string().contains(text)),
        )
        .await
    }

    /// Whether it has ended by itself, or was never started.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends a signal by name.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{signal}");
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _ended = child.wait().expect("it ends");
        }
    }

    /// SIGTERM, and its end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        let mut child = self.child.take().expect("it runs");
        tokio::task::spawn_blocking(move || child.wait()).await.expect("no panic").expect("it ends")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _ended = child.wait();
        }
        self.show();
        let _removed = (std::fs::remove_file(&self.file), std::fs::remove_file(self.log_file()));
    }
}
