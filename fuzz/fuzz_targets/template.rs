//! Templates over an event: the template is the administrator's, the values are anybody's.
//!
//! The input has four parts, with a line `---` between them: the template of a channel, that of the event's name, that of
//! the data, and the event's values as JSON. That it takes no more than bounded time and memory is what libFuzzer's own
//! limits judge, on a stack of the size that a thread of the daemon has; see scripts/fuzz.
#![no_main]

use std::collections::HashMap;

use items_listen::event::rule::{Data, EVENT_NAME_CHARS_MAX, On, Rule, Tree};
use items_listen::event::template::{Leaf, Text};
use items_listen::event::{Event, Facts, channel};
use items_listen::severity::Severity;
use jiff::Timestamp;
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::Value;
use uuid::Uuid;

/// Filters that write as much as their argument says, and multiplication, which repeats a text or a list. Only the author
/// of a template can ask for it, and no fuel of the engine's pays for it: a finding that is known, and would be the only one.
const UNBOUNDED: [&str; 6] = ["indent", "format", "batch", "slice", "tojson(", "*"];

fuzz_target!(init: let_engine_unwind(), |bytes: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(bytes) else { return Corpus::Reject };
    if UNBOUNDED.iter().any(|word| text.contains(word)) {
        return Corpus::Reject;
    }
    let mut parts = text.splitn(4, "\n---\n");
    let mut part = || parts.next().unwrap_or_default();
    let (channels, name, data, values) = (part(), part(), part(), part());
    let Ok(channels) = Text::try_new_for_channel(channels) else { return Corpus::Keep };
    let Ok(name) = Text::try_new(name) else { return Corpus::Keep };
    let Ok(leaf) = Leaf::try_new(data) else { return Corpus::Keep };
    let data = match data {
        "full" => Data::Full,
        "thin" => Data::Thin,
        _ if data.trim().starts_with("{{") => Data::Expression(leaf),
        _ => Data::Own(Tree::Object(vec![("leaf".to_owned(), Tree::Leaf(leaf))])),
    };
    let rule = Rule {
        endpoints: Vec::new(),
        channels: vec![channels],
        event: name,
        data,
        on: On::transitions(),
        min_severity: Severity::Warning,
        collapses: false,
        columns: Vec::new(),
        coalesce: None,
        socket_id: None,
        encryption: HashMap::new(),
    };
    let _names = rule.variables();
    let values: Value = serde_json::from_str(values).unwrap_or_default();
    let event = event(&values);
    let object = |name: &str| values.get(name).and_then(Value::as_object).cloned();
    let facts = Facts { old: object("old"), moved: object("old").is_some(), lookup: object("lookup") };
    let rendered = rule.render(&event, &facts);
    assert_eq!(rendered, rule.render(&event, &facts), "rendered twice, two results");
    let Ok(Some(message)) = rendered else { return Corpus::Keep };
    assert!((1..=channel::CHANNELS_MAX).contains(&message.channels.len()), "{} channels", message.channels.len());
    message.channels.iter().for_each(|name| assert!(is_legal(name), "the channel {name:?}"));
    assert!((1..=EVENT_NAME_CHARS_MAX).contains(&message.event.chars().count()), "the event name {:?}", message.event);
    let data: Value = serde_json::from_str(&message.data).expect("data is JSON");
    assert!(data.is_object(), "the data {data}");
    Corpus::Keep
});

/// libFuzzer's hook ends the process at every panic. One in the engine may be caught by whoever called it; if nobody does,
/// that ends the process all the same.
fn let_engine_unwind() {
    let end = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|place| place.file().contains("/minijinja-")) {
            end(panic);
        }
    }));
}

/// Pusher's own rule, written down a second time: its characters, its length, and `#` at the beginning alone.
fn is_legal(name: &str) -> bool {
    let plain = name.strip_prefix('#').unwrap_or(name);
    let legal =
        |byte: u8| matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'=' | b'@' | b',' | b'.' | b';');
    !plain.is_empty() && plain.bytes().all(legal) && name.len() <= 164
}

fn event(values: &Value) -> Event {
    let text = |name: &str| values.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |name: &str| values.get(name).and_then(Value::as_i64);
    Event {
        id: Uuid::nil(),
        alert: None,
        seq: number("seq").unwrap_or_default(),
        watch: text("watch").unwrap_or_default(),
        key: values.get("key").and_then(Value::as_object).cloned().unwrap_or_default(),
        transition: "raised",
        reason: None,
        severity: Some(Severity::High),
        previous: Some(Severity::Info),
        count: number("count"),
        threshold: number("threshold"),
        percent: number("percent"),
        compare: Some(">="),
        message: text("message"),
        row: values.get("row").cloned(),
        at: Timestamp::UNIX_EPOCH,
        unread_count: number("unread_count"),
    }
}
