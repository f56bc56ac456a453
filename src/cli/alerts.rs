//! `items-listen alerts list|read`: the inbox.

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::deliveries::{PAGE, in_pages};
use super::{plain, print, print_json};
use crate::config::Config;
use crate::db::schema::Schema;
use crate::db::session::Purpose;
use crate::error::Error;

/// Which alerts; what is not given does not matter.
#[derive(Debug, Default, Args)]
pub(super) struct Filter {
    /// Only those of this watch
    #[arg(long, value_name = "NAME")]
    watch: Option<String>,
    /// Only those with this value in this column of their key; once per column
    #[arg(long = "key", value_name = "COLUMN=VALUE")]
    keys: Vec<String>,
}

/// What `alerts list` is to show.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    filter: Filter,
    /// Only those that are not resolved
    #[arg(long)]
    open: bool,
    /// Only those that nobody has read
    #[arg(long)]
    unread: bool,
    /// Only those that are so severe, or were at their worst before they were resolved
    #[arg(long, value_parser = ["info", "warning", "high", "critical"])]
    severity: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    limit: i64,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// What `alerts read` is to mark.
#[derive(Debug, Args)]
pub(super) struct Read {
    /// Their ids
    ids: Vec<Uuid>,
    #[command(flatten)]
    filter: Filter,
    /// All of them
    #[arg(long)]
    all: bool,
    /// The result as JSON
    #[arg(long)]
    json: bool,
}

/// A line of `alerts list --json`. The names are stable.
#[derive(Debug, Serialize)]
struct Line {
    id: Uuid,
    watch: String,
    key: Value,
    severity: String,
    peak: String,
    count: i64,
    threshold: Option<i64>,
    percent: Option<i64>,
    message: Option<String>,
    raised_at: Timestamp,
    changed_at: Timestamp,
    resolved_at: Option<Timestamp>,
    reason: String,
    read_at: Option<Timestamp>,
}

/// The columns of [`Line`]. `read_at` is the application's, who may say infinity: it is shown as the nearest time that there is.
const LINES: &str = "SELECT a.id, a.watch, a.key, a.severity, a.peak, a.count, a.threshold, a.percent, a.message, a.raised_at,
                            a.changed_at, a.resolved_at, a.reason,
                            CASE WHEN a.read_at IS NOT NULL THEN greatest(least(a.read_at, '9999-12-01 00:00:00+00'), '0001-01-01 00:00:00+00') END
                     FROM items_listen.alert a";

/// The filter as an SQL condition on `a`: a watch, and columns of the key with their values as text.
const MATCHES: &str = "($1::text IS NULL OR a.watch = $1)
    AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::text[]) AS k (name, value)
                    WHERE NOT a.key ? k.name OR a.key ->> k.name IS DISTINCT FROM k.value)";

impl Line {
    fn read(row: &Row) -> Line {
        Line {
            id: row.get(0),
            watch: row.get(1),
            key: row.get(2),
            severity: row.get(3),
            peak: row.get(4),
            count: row.get(5),
            threshold: row.get(6),
            percent: row.get(7),
            message: row.get(8),
            raised_at: row.get(9),
            changed_at: row.get(10),
            resolved_at: row.get(11),
            reason: row.get(12),
            read_at: row.get(13),
        }
    }

    /// What a person sees of it, column by column; the last has no end to be aligned.
    fn cells(&self) -> [String; 7] {
        let of = self.threshold.map_or_else(|| "no threshold".to_owned(), |threshold| threshold.to_string());
        let percent = self.percent.map_or(String::new(), |percent| format!(" ({percent} %)"));
        let severity = match self.resolved_at {
            None => self.severity.clone(),
            Some(_) => format!("resolved, was {}", self.peak),
        };
        [
            self.id.to_string(),
            self.raised_at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            severity,
            if self.read_at.is_some() { "read" } else { "unread" }.to_owned(),
            format!("{} {}", self.watch, self.key),
            format!("{} of {of}{percent}", self.count),
            self.message.clone().unwrap_or_default(),
        ]
    }
}

/// The columns and values of `--key COLUMN=VALUE`; a value that is `null` is none.
struct Keys {
    names: Vec<String>,
    values: Vec<Option<String>>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.watch.is_none() && self.keys.is_empty()
    }

    fn keys(&self) -> Result<Keys, Error> {
        let mut keys = Keys { names: Vec::new(), values: Vec::new() };
        for pair in &self.keys {
            let Some((column, value)) = pair.split_once('=') else {
                return Err(Error::Usage(format!("--key {pair}: COLUMN=VALUE is wanted")));
            };
            keys.names.push(column.to_owned());
            keys.values.push(match serde_json::from_str(value) {
                Ok(Value::Null) => None,
                Ok(Value::String(text)) => Some(text),
                _ => Some(value.to_owned()),
            });
        }
        Ok(keys)
    }
}

/// Lists alerts, newest first.
pub(super) async fn list(config: &Config, args: &List) -> Result<u8, Error> {
    let Keys { names, values } = args.filter.keys()?;
    let (client, _, schema) = super::connect(config, Purpose::Work).await?;
    super::require_schema(&client, &schema).await?;
    let sql = schema.sql(&format!(
        "{LINES} WHERE {MATCHES} AND (NOT $4 OR a.resolved_at IS NULL) AND (NOT $5 OR a.read_at IS NULL)
             AND ($6::text IS NULL OR a.severity = $6 OR a.resolved_at IS NOT NULL AND a.peak = $6)
         ORDER BY a.raised_at DESC, a.id DESC LIMIT $7"
    ));
    let parameters: [&(dyn ToSql + Sync); 7] =
        [&args.filter.watch, &names, &values, &args.open, &args.unread, &args.severity, &args.limit.max(0)];
    let lines: Vec<Line> = client.query(sql.as_str(), &parameters).await?.iter().map(Line::read).collect();
    if args.json {
        lines.iter().for_each(print_json);
    } else if lines.is_empty() {
        print("no such alerts");
    } else {
        aligned(lines.iter().map(Line::cells).collect()).iter().for_each(|line| print(line));
    }
    Ok(0)
}

/// Cells under each other, and nothing in them that could steer the terminal.
fn aligned<const N: usize>(mut lines: Vec<[String; N]>) -> Vec<String> {
    let mut widths = [0; N];
    for line in &mut lines {
        for (cell, width) in line.iter_mut().zip(&mut widths) {
            *cell = plain(cell);
            *width = cell.chars().count().max(*width);
        }
    }
    let padded = |line: &[String; N]| {
        let cells: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    lines.iter().map(padded).collect()
}

/// Marks alerts read. Where an id is of no alert, none is marked.
pub(super) async fn read(config: &Config, args: &Read) -> Result<u8, Error> {
    if args.ids.is_empty() && args.filter.is_empty() && !args.all {
        let what = "say which alerts: their ids, --watch NAME, --key COLUMN=VALUE, or --all";
        return Err(Error::Usage(what.to_owned()));
    }
    let Keys { names, values } = args.filter.keys()?;
    let (client, _, schema) = super::connect(config, Purpose::Work).await?;
    super::require_schema(&client, &schema).await?;
    let parameters: [&(dyn ToSql + Sync); 4] = [&args.filter.watch, &names, &values, &args.ids];
    refuse_unknown(&client, &schema, args, &parameters).await?;
    let mark = schema.sql(&format!(
        "UPDATE items_listen.alert SET read_at = now()
         WHERE id IN (SELECT a.id FROM items_listen.alert a
                      WHERE {MATCHES} AND (cardinality($4::uuid[]) = 0 OR a.id = ANY ($4)) AND a.read_at IS NULL LIMIT {PAGE})"
    ));
    let marked = in_pages(&client, &mark, &parameters).await?;
    print(&match (args.json, marked) {
        (true, _) => serde_json::json!({ "read": marked }).to_string(),
        (false, 1) => "1 alert marked read".to_owned(),
        (false, _) => format!("{marked} alerts marked read"),
    });
    Ok(0)
}

async fn refuse_unknown(client: &Client, schema: &Schema, args: &Read, parameters: &[&(dyn ToSql + Sync)]) -> Result<(), Error> {
    let sql = schema.sql(&format!(
        "SELECT i.id::text FROM unnest($4::uuid[]) AS i (id)
         WHERE NOT EXISTS (SELECT FROM items_listen.alert a WHERE a.id = i.id AND {MATCHES})"
    ));
    let unknown: Vec<String> = client.query(sql.as_str(), parameters).await?.iter().map(|row| row.get(0)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let such = if args.filter.is_empty() { "alert" } else { "such alert" };
    let these = if unknown.len() == 1 { format!("is no {such}") } else { format!("are no {such}s") };
    let unknown = unknown.join(", ");
    Err(Error::Failed(format!("nothing was marked: {unknown} {these}; items-listen alerts list shows those that there are")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_steer_no_terminal() {
        let lines = vec![["a", "b\u{1b}[31m", "c"], ["long", "ü", ""]].into_iter().map(|line| line.map(str::to_owned)).collect();
        assert_eq!(aligned(lines), ["a     b\\u{1b}[31m  c", "long  ü"]);
    }

    #[test]
    fn a_value_of_a_key_is_compared_as_text() {
        let filter = |pairs: &[&str]| Filter { watch: None, keys: pairs.iter().map(|pair| (*pair).to_owned()).collect() };
        let keys = filter(&["id=7", "name=\"7\"", "none=null", "text=a=b"]).keys().expect("keys");
        assert_eq!(keys.names, ["id", "name", "none", "text"]);
        assert_eq!(keys.values.iter().map(Option::as_deref).collect::<Vec<_>>(), [Some("7"), Some("7"), None, Some("a=b")]);
        assert!(filter(&["id"]).keys().is_err());
    }
}
