//! Logs go to stderr: for a person where it is a terminal, as JSON lines otherwise, or as `--log-format` says.
//!
//! The same thing has the same field everywhere: `watch`, `key`, `alert_id`, `endpoint`, `attempt`, `error`. Where stderr is
//! journald's, each line begins with its priority, which journald takes off again; see `sd-daemon(3)`.

use std::fmt;
use std::fs::File;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::plain::plain;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For a person where stderr is a terminal, JSON otherwise
    #[default]
    Auto,
    /// For a person
    Human,
    /// One JSON object per line
    Json,
}

/// Begins logging. `$ITEMS_LISTEN_LOG` (or `$RUST_LOG`) filters, as `info` or `items_listen=debug`.
pub fn init(format: LogFormat) {
    let filter = ["ITEMS_LISTEN_LOG", "RUST_LOG"].into_iter().find_map(|name| EnvFilter::try_from_env(name).ok());
    // What refinery and the pool log we say in our own words.
    let filter = filter.unwrap_or_else(|| EnvFilter::new("info,refinery_core=warn,deadpool_postgres=error"));
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let journal = std::env::var("JOURNAL_STREAM").is_ok_and(|stream| is_stderr(&stream));
    // A second call, as in tests, changes nothing.
    let _already = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // What cannot be written cannot be complained of either: a full disk under a log must not end the daemon.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
        .event_format(Format { json, journal })
        .try_init();
    // In the log's own format: what reads it need not understand a second one.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let what = panic.payload_as_str().unwrap_or("without a message");
        tracing::error!(place, error = what, "panic: this is a defect of items-listen; please report it");
    }));
}

/// Whether a file, as `device:inode`, is what stderr is: the variable is inherited by processes whose stderr is another.
fn is_stderr(stream: &str) -> bool {
    let Ok(metadata) = std::io::stderr().as_fd().try_clone_to_owned().and_then(|stderr| File::from(stderr).metadata()) else {
        return false;
    };
    stream == format!("{}:{}", metadata.dev(), metadata.ino())
}

struct Format {
    json: bool,
    /// Lines begin with their priority.
    journal: bool,
}

/// As syslog has it: 3 is an error, 7 is for debugging.
fn priority(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = event.metadata().level();
        let now = jiff::Timestamp::now();
        if self.journal {
            write!(writer, "<{}>", priority(level))?;
        }
        if self.json {
            let mut line = Map::new();
            line.insert("ts".into(), Value::from(format!("{now:.6}")));
            line.insert("level".into(), Value::from(level.as_str().to_lowercase()));
            line.insert("msg".into(), Value::from(fields.message));
            line.extend(fields.others);
            return writeln!(writer, "{}", crate::plain::json(&Value::Object(line).to_string()));
        }
        let clock = now.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S%.3f").to_string();
        write!(writer, "{clock} {} {}", coloured(level, writer.has_ansi_escapes()), plain(&fields.message))?;
        for (name, value) in fields.others {
            match value {
                Value::String(text) => write!(writer, "  {name}={}", plain(&text))?,
                other => write!(writer, "  {name}={other}")?,
            }
        }
        writeln!(writer)
    }
}

fn coloured(level: &Level, colours: bool) -> String {
    let name = format!("{:5}", level.as_str().to_lowercase());
    let colour = match *level {
        _ if !colours => return name,
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        _ => 90,
    };
    format!("\u{1b}[{colour}m{name}\u{1b}[0m")
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        } else {
            self.others.insert(field.name().to_owned(), value);
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::from(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::from(value));
    }
}
