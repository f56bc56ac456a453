//! `status --follow`: again and again, whatever becomes of the database, until Ctrl-C.

use std::io::Write as _;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio_postgres::Client;

use super::{Seen, json, read, screen};
use crate::cli::terminal::{Terminal, cut};
use crate::cli::{connect, plain, require_schema};
use crate::config::Config;
use crate::db::schema::Schema;
use crate::db::session::Purpose;
use crate::error::Error;

/// For a person.
const EVERY: Duration = Duration::from_secs(2);
/// For a program.
const EVERY_JSON: Duration = Duration::from_secs(1);
/// The pause is at least so many times as long as looking took: whoever watches large tables must not keep a server busy.
const PAUSE_FACTOR: u32 = 9;

/// A screen of its own, without a cursor, on which long lines are cut and not wrapped; and back.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l";
const LEAVE: &str = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";

/// Shows how everything stands until somebody ends it: then 0.
pub(super) async fn run(config: &Config, json: bool) -> Result<u8, Error> {
    // What cannot become right by itself is said at once.
    config.require_database()?;
    let failed = |error: std::io::Error| Error::Failed(format!("signals: {error}"));
    let (mut interrupted, mut terminated) =
        (signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::terminate()).map_err(failed)?);
    let mut output = Output::new(json, Terminal::of_stdout());
    tokio::select! {
        ended = show(config, &mut output) => ended?,
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    Ok(0)
}

/// Ends when nobody reads any more, or with what waiting does not mend.
async fn show(config: &Config, output: &mut Output) -> Result<(), Error> {
    let mut session = None;
    loop {
        let began = Instant::now();
        let seen = match look(config, &mut session, !output.json).await {
            Err(error) if error.exit_code() == 78 => return Err(error),
            seen => seen,
        };
        let took = began.elapsed();
        if output.put(seen).is_err() {
            return Ok(());
        }
        let every = if output.json { EVERY_JSON } else { EVERY };
        tokio::time::sleep(every.max(took * PAUSE_FACTOR)).await;
    }
}

/// Looks, on the session that there is, or on a new one.
async fn look(config: &Config, session: &mut Option<(Client, Schema)>, keys: bool) -> Result<Seen, Error> {
    let (client, schema) = match session.take().filter(|(client, _)| !client.is_closed()) {
        Some(session) => session,
        None => {
            let (client, _, schema) = connect(config, Purpose::Work).await?;
            require_schema(&client, &schema).await?;
            (client, schema)
        }
    };
    let seen = read(&client, &schema, config, keys).await?;
    *session = Some((client, schema));
    Ok(seen)
}

/// Where it goes.
struct Output {
    json: bool,
    terminal: Terminal,
    /// What was said last, without what changes by itself: off a terminal only a change is said.
    said: Option<Value>,
}

impl Output {
    fn new(json: bool, terminal: Terminal) -> Output {
        let output = Output { json, terminal, said: None };
        if output.is_screen() {
            // A terminal that went away is noticed when something is put there.
            let _gone = write(ENTER);
        }
        output
    }

    fn is_screen(&self) -> bool {
        self.terminal.interactive && !self.json
    }

    fn put(&mut self, seen: Result<Seen, Error>) -> std::io::Result<()> {
        if self.json {
            return self.put_json(seen);
        }
        if self.is_screen() {
            // It may have been made wider, or narrower.
            self.terminal = Terminal::of_stdout();
            return self.redraw(&self.block(&seen));
        }
        let lasting = match &seen {
            Ok(seen) => lasting(seen),
            Err(error) => Value::from(error.to_string()),
        };
        if self.said.as_ref() == Some(&lasting) {
            return Ok(());
        }
        self.said = Some(lasting);
        write(&format!("{}\n\n", self.block(&seen).join("\n")))
    }

    /// A line each second; while the database is away none, but a word on stderr, once.
    fn put_json(&mut self, seen: Result<Seen, Error>) -> std::io::Result<()> {
        match seen {
            Ok(seen) => {
                self.said = None;
                write(&format!("{}\n", json(&seen.status)))
            }
            Err(error) => {
                let message = Value::from(error.to_string());
                if self.said.as_ref() != Some(&message) {
                    eprintln!("items-listen: {}; trying again", plain(&error.to_string()));
                    self.said = Some(message);
                }
                // Whether anybody reads is found out by writing nothing.
                write("")
            }
        }
    }

    fn block(&self, seen: &Result<Seen, Error>) -> Vec<String> {
        let now = Timestamp::now();
        let clock = now.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S").to_string();
        let mut lines = vec![clock];
        match seen {
            Ok(seen) => lines.extend(screen::lines(seen, now, self.terminal)),
            Err(error) => lines.push(cut(
                &format!("no answer from the database; trying again: {}", plain(&error.to_string())),
                self.terminal.width,
            )),
        }
        lines
    }

    /// Each line over the old one, which is erased first (afterwards the cursor may stand on a full line's last character); what is too much for the screen is left out.
    fn redraw(&self, lines: &[String]) -> std::io::Result<()> {
        let height = self.terminal.height.unwrap_or(usize::MAX);
        let lines: Vec<String> = lines.iter().take(height).map(|line| format!("\u{1b}[K{line}")).collect();
        write(&format!("\u{1b}[H{}\u{1b}[J", lines.join("\r\n")))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.is_screen() {
            let _gone = write(LEAVE);
        }
    }
}

/// What is seen, without heartbeats.
fn lasting(seen: &Seen) -> Value {
    let mut status = serde_json::to_value(&seen.status).unwrap_or_default();
    status["database"]["listen_heartbeat_at"] = Value::Null;
    for instance in status["instances"].as_array_mut().into_iter().flatten() {
        instance["beat_at"] = Value::Null;
    }
    let counts: Vec<(&str, &str, i64)> =
        seen.worst.iter().map(|worst| (worst.watch.as_str(), worst.key.as_str(), worst.count)).collect();
    serde_json::json!([status, counts])
}

fn write(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}
