//! Logs go to stderr: for a person where it is a terminal, as JSON lines otherwise.

use std::fmt;
use std::io::IsTerminal as _;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Begins logging. `$ITEMS_LISTEN_LOG` (or `$RUST_LOG`) filters, as `info` or `items_listen=debug`.
pub fn init() {
    let filter = ["ITEMS_LISTEN_LOG", "RUST_LOG"].into_iter().find_map(|name| EnvFilter::try_from_env(name).ok());
    // What refinery and the pool log we say in our own words.
    let filter = filter.unwrap_or_else(|| EnvFilter::new("info,refinery_core=warn,deadpool_postgres=error"));
    let terminal = std::io::stderr().is_terminal();
    // A second call, as in tests, changes nothing.
    let _already = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // What cannot be written cannot be complained of either: a full disk under a log must not end the daemon.
        .log_internal_errors(false)
        .event_format(Format { json: !terminal })
        .try_init();
}

struct Format {
    json: bool,
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
        if self.json {
            let mut line = Map::new();
            line.insert("ts".into(), Value::from(format!("{now:.6}")));
            line.insert("level".into(), Value::from(level.as_str().to_lowercase()));
            line.insert("msg".into(), Value::from(fields.message));
            line.extend(fields.others);
            return writeln!(writer, "{}", Value::Object(line));
        }
        let clock = now.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S%.3f").to_string();
        write!(writer, "{clock} {} {}", coloured(level, writer.has_ansi_escapes()), escaped(&fields.message))?;
        for (name, value) in fields.others {
            match value {
                Value::String(text) => write!(writer, "  {name}={}", escaped(&text))?,
                other => write!(writer, "  {name}={other}")?,
            }
        }
        writeln!(writer)
    }
}

/// What comes from a database or an endpoint must not steer the terminal.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
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
