//! What became of rule tests, for a person and for a program.

use serde_json::{Map, Value, json};

use super::compare::{Difference, Expected, Field};
use super::simulate::Sent;
use super::time::show;
use super::{Failure, Outcome};

/// The fields that say which event it is, where it differs as a whole.
const TELLING: [&str; 9] = ["at", "transition", "severity", "count", "key", "endpoint", "channels", "event", "data"];
/// A longer `data` would hide what it stands beside.
const DATA_CHARS_MAX: usize = 300;

/// One line, and for each step that failed what was expected (`-`) and what was sent (`+`).
pub fn text(outcome: &Outcome) -> Vec<String> {
    let verdict = if outcome.failures.is_empty() { "ok  " } else { "FAIL" };
    let mut lines = vec![format!("{verdict}  {}", outcome.name)];
    for failure in &outcome.failures {
        lines.push(format!("      {}: {}", failure.place, head(failure)));
        lines.extend(differences(failure).into_iter().map(|line| format!("      {line}")));
    }
    lines
}

/// The same as an object.
pub fn json(file: &str, outcome: &Outcome) -> Value {
    let failure = |failure: &Failure| {
        json!({
            "place": failure.place,
            "step": failure.step,
            "at": show(failure.at),
            "expected": failure.expected,
            "sent": failure.sent,
            "diff": differences(failure),
        })
    };
    json!({
        "file": file,
        "test": outcome.name,
        "ok": outcome.failures.is_empty(),
        "steps": outcome.steps,
        "failures": outcome.failures.iter().map(failure).collect::<Vec<_>>(),
    })
}

fn head(failure: &Failure) -> String {
    let step = format!("step {}, at {}", failure.step, show(failure.at));
    match failure.expected {
        Some(expected) => format!("{step}: {} expected, {} sent", events(expected), failure.sent),
        None => step,
    }
}

fn events(count: usize) -> String {
    if count == 1 { "1 event".to_owned() } else { format!("{count} events") }
}

fn differences(failure: &Failure) -> Vec<String> {
    let mut lines = Vec::new();
    for difference in &failure.differences {
        match difference {
            Difference::Fields { number, fields } => {
                lines.push(format!("event {number}"));
                lines.extend(fields.iter().flat_map(field));
            }
            Difference::Missing(Expected { fields }) => lines.push(format!("- {}", table(fields))),
            Difference::Surplus(sent) => lines.push(format!("+ {}", telling(sent))),
        }
    }
    lines.extend(failure.unsendable.iter().map(unsendable));
    lines
}

fn field(Field { path, expected, sent }: &Field) -> [String; 2] {
    let sent = sent.as_ref().map_or_else(|| "(there is none)".to_owned(), value);
    [format!("  - {path} = {}", value(expected)), format!("  + {path} = {sent}")]
}

fn unsendable(sent: &Sent) -> String {
    let why = sent.unsendable.as_deref().unwrap_or_default();
    format!("! {} to {} cannot be sent: {why}", sent.name, sent.endpoint)
}

fn telling(sent: &Sent) -> String {
    let fields = sent.fields();
    let told = TELLING.into_iter().filter_map(|name| Some((name, fields.get(name)?)));
    let told = told.filter(|(name, value)| !value.is_null() && (*name != "data" || value.to_string().len() <= DATA_CHARS_MAX));
    table(&told.map(|(name, value)| (name.to_owned(), value.clone())).collect())
}

/// As it would stand in the file.
fn table(fields: &Map<String, Value>) -> String {
    if fields.is_empty() {
        return "{}".to_owned();
    }
    let fields: Vec<String> = fields.iter().map(|(name, field)| format!("{} = {}", key(name), value(field))).collect();
    format!("{{ {} }}", fields.join(", "))
}

fn key(name: &str) -> String {
    let is_bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if is_bare { name.to_owned() } else { Value::from(name).to_string() }
}

fn value(json: &Value) -> String {
    match json {
        Value::Null => "\"{{ none }}\"".to_owned(),
        Value::Object(object) => table(object),
        Value::Array(items) => format!("[{}]", items.iter().map(value).collect::<Vec<_>>().join(", ")),
        scalar => scalar.to_string(),
    }
}
