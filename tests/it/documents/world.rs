//! Where the commands of a page are run: a directory, a database, a receiver in the place of a push server.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::markdown::{Block, root};
use crate::support::postgres::Database;
use crate::support::receiver::{APP_ID, KEY, Receiver, SECRET};

/// What a page needs before its first command.
const ORDERS: &str = r#"
[endpoints.main]
url = "log:"
[[watch]]
name = "orders"
table = "public.orders"
threshold = 20
[[watch.publish]]
channels = ["orders"]
event = "orders.many"
"#;

pub(super) struct World {
    directory: PathBuf,
    pub database: Database,
    receiver: Receiver,
    running: Option<Child>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
        let _gone = std::fs::remove_dir_all(&self.directory);
    }
}

impl World {
    pub(super) async fn new() -> World {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("items-listen-documents-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("the directory is made");
        World { directory, database: Database::new().await, receiver: Receiver::start().await, running: None }
    }

    /// What the reader of that section of a page has already.
    pub(super) async fn prepare(&mut self, page: &str, section: &str) {
        match (page, section) {
            ("README.md", "The inbox") => {
                self.write("config.toml", &example("low-stock/config.toml"));
                self.export("BROADCAST_CONNECTION", "log");
                self.export("DATABASE_URL", &self.database.url());
                self.database.sql(&example("low-stock/schema.sql")).await;
                self.command("items-listen run", &[]).await;
                self.shown("… ready").await;
                self.database
                    .sql("INSERT INTO items (id, name, sku, quantity) OVERRIDING SYSTEM VALUE VALUES (7, 'Screws', 'S-7', 4)")
                    .await;
                self.shown("…NotificationCreated…").await;
            }
            ("README.md", _) => {
                self.database.sql("CREATE TABLE items (id serial PRIMARY KEY)").await;
                self.database.sql("INSERT INTO items SELECT FROM generate_series(1, 18)").await;
                self.write(".env", &self.laravel());
            }
            ("docs/configuration.md" | "docs/operating.md" | "docs/upgrading.md", _) => {
                self.database.sql("CREATE TABLE orders (id serial PRIMARY KEY)").await;
                self.write("config.toml", ORDERS);
                self.export("DATABASE_URL", &self.database.url());
                if page == "docs/operating.md" {
                    self.command("items-listen run", &[]).await;
                    self.shown("… ready").await;
                }
            }
            _ => {}
        }
    }

    /// The variables of a Laravel application with this database and this push server.
    fn laravel(&self) -> String {
        format!(
            "DB_CONNECTION=pgsql\nDB_HOST=127.0.0.1\nDB_PORT={}\nDB_DATABASE={}\nDB_USERNAME=postgres\nBROADCAST_CONNECTION=reverb\n\
             REVERB_APP_ID={APP_ID}\nREVERB_APP_KEY={KEY}\nREVERB_APP_SECRET={SECRET}\nREVERB_HOST=127.0.0.1\nREVERB_PORT={}\nREVERB_SCHEME=http\n",
            self.database.port, self.database.name, self.receiver.port
        )
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.join(name), text).expect("the file is written");
    }

    fn export(&self, name: &str, value: &str) {
        let path = self.directory.join(".exports");
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(path, format!("{before}export {name}='{value}'\n")).expect("the file is written");
    }

    /// Runs the commands of a block, and compares what they say where the page says it.
    pub(super) async fn run(&mut self, block: &Block) {
        if block.info == "sh" {
            return self.command(&block.text, &[]).await;
        }
        let shows_output = !block.info.is_empty();
        if !block.text.starts_with("$ ") {
            for line in block.text.lines() {
                self.shown(line).await;
            }
            return;
        }
        for step in block.text.split("\n$ ") {
            let mut lines = step.trim_start_matches("$ ").lines();
            let command = lines.next().unwrap_or_default();
            let expected: Vec<&str> = if shows_output { lines.collect() } else { Vec::new() };
            self.command(command, &expected).await;
        }
    }

    async fn command(&mut self, text: &str, expected: &[&str]) {
        let text = self.substituted(text);
        if text.starts_with("items-listen") && text.split_whitespace().last() == Some("run") {
            // One says Ctrl-C to the one before.
            self.stop();
            let log = File::create(self.log()).expect("the log is made");
            let log_too = log.try_clone().expect("the log is shared");
            let child = self.shell(&format!("exec {text}")).stdout(log).stderr(log_too).spawn();
            self.running = Some(child.expect("it starts"));
            self.shown("… ready").await;
            for line in expected {
                self.shown(line).await;
            }
            return;
        }
        let mut shell = self.shell(&format!("{text}\nexport -p > .exports"));
        let output = tokio::task::spawn_blocking(move || shell.output()).await.expect("no panic").expect("it starts");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{text}\n{said}");
        let mut lines = said.lines();
        for line in expected {
            let line = self.substituted(line);
            assert!(lines.any(|said| is_like(&line, said)), "{text}\nsays nothing like\n{line}\nbut\n{said}");
        }
    }

    /// Waits until events with these transitions, severities and counts have arrived.
    pub(super) async fn arrived(&self, expected: &[(&str, &str, i64)]) {
        let events = self.receiver.wait_for(expected.len()).await;
        assert_eq!(crate::said(&events), crate::expected(expected));
    }

    /// Waits until the running daemon has said this.
    async fn shown(&self, line: &str) {
        let line = self.substituted(line);
        let mut seen = 0;
        crate::support::eventually(&format!("the daemon says {line}"), async || {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            eprint!("{}", &log[seen..]);
            seen = log.len();
            log.lines().any(|said| is_like(&line, said) || is_like(&line, &for_a_person(said))).then_some(())
        })
        .await;
    }

    fn log(&self) -> PathBuf {
        self.directory.join("daemon.log")
    }

    fn shell(&self, script: &str) -> Command {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_items-listen"));
        let path = [
            program.parent().expect("a directory").to_path_buf(),
            crate::support::postgres::bin(),
            "/usr/bin".into(),
            "/bin".into(),
        ];
        let mut shell = Command::new("sh");
        shell.arg("-euc").arg(format!("[ ! -e .exports ] || . ./.exports\n{script}"));
        shell.env_clear().env("PATH", std::env::join_paths(path).expect("a path")).env("LANG", "C.UTF-8");
        shell.env("HOME", &self.directory).env("ITEMS_LISTEN_HTTP__LISTEN", "127.0.0.1:0");
        shell.current_dir(&self.directory).stdin(Stdio::null());
        shell
    }

    /// The addresses and names that a page uses, as they are here.
    fn substituted(&self, text: &str) -> String {
        [
            ("postgres://app@localhost/app", self.database.url().as_str()),
            ("http://127.0.0.1:6001", &format!("http://127.0.0.1:{}", self.receiver.port)),
            ("\"app-id\"", &format!("\"{APP_ID}\"")),
            ("\"app-key\"", &format!("\"{KEY}\"")),
            ("\"app-secret\"", &format!("\"{SECRET}\"")),
        ]
        .iter()
        .fold(text.to_owned(), |text, (here, there)| text.replace(here, there))
    }

    fn stop(&mut self) {
        let Some(mut child) = self.running.take() else { return };
        let pid = child.id().to_string();
        let _sent = Command::new("kill").args(["-INT", &pid]).status();
        let _ended = child.wait();
    }
}

fn example(name: &str) -> String {
    std::fs::read_to_string(root().join("examples").join(name)).expect("the example is read")
}

/// A line of the log as a terminal shows it, but for time and level.
fn for_a_person(line: &str) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(line) else { return String::new() };
    let mut shown = fields.get("msg").and_then(Value::as_str).unwrap_or_default().to_owned();
    for (name, value) in fields.iter().filter(|(name, _)| !["ts", "level", "msg"].contains(&name.as_str())) {
        shown.push_str(&format!("  {name}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
    }
    format!(" {shown}")
}

/// Whether a line is as the page says, in which "…" stands for anything. The fields behind a log line may be left out.
fn is_like(pattern: &str, line: &str) -> bool {
    let ends = |tail: &str| tail.is_empty() || tail.starts_with("  ");
    let Some((first, rest)) = pattern.split_once('…') else { return line.strip_prefix(pattern).is_some_and(ends) };
    let Some(mut line) = line.strip_prefix(first) else { return false };
    let (between, last) = rest.rsplit_once('…').unwrap_or(("", rest));
    for part in between.split('…') {
        let Some(at) = line.find(part) else { return false };
        line = &line[at + part.len()..];
    }
    last.is_empty() || line.match_indices(last).any(|(at, _)| ends(&line[at + last.len()..]))
}
