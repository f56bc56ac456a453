//! `[[watch]]` and `[[watch.publish]]`

use jiff::SignedDuration;
use serde_json::{Map, Value as Json};

use super::document::{Node, Value};
use super::read_rule::{compile, constant, rule};
use super::reader::{Mistakes, Section};
use crate::evaluate::Policy;
use crate::event::rule::{Data, On, Rule};
use crate::event::template::Text;
use crate::severity::{Bands, Compare, Scale, Severity};
use crate::storm::Storm;
use crate::watch::{Override, Relation, Source, Watch};

/// The message of a watch that gives none.
const MESSAGE_DEFAULT: &str = "{{ watch }} {{ key }} at {{ count }} of {{ threshold }}";
/// The threshold of the one watch there is without a configuration file.
const THRESHOLD_DEFAULT: i64 = 20;
const NAME_CHARS_MAX: usize = 64;
/// A window shorter than a fold takes would bound nothing; one longer than a day would forget to tell.
const STORM_PER_MIN: std::time::Duration = std::time::Duration::from_millis(100);
const STORM_PER_MAX: std::time::Duration = std::time::Duration::from_secs(86_400);
/// What is missing where nothing could ever be sent.
pub(super) const NO_ENDPOINT: &str =
    "there is no endpoint; add [endpoints.main] with url, app_id, key and secret, or url = \"log:\", or set BROADCAST_CONNECTION";

/// All watches.
pub(super) fn watches(nodes: &[Node], endpoints: &[String], fallback: Option<i64>, mistakes: &mut Mistakes) -> Vec<Watch> {
    let mut names: Vec<String> = Vec::new();
    let mut watches = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let Some(watch) = watch(index, node, endpoints, fallback, mistakes) else { continue };
        if names.contains(&watch.name) {
            mistakes.add(&node.origin, format!("watch.name: there are two watches with the name \"{}\"", watch.name));
        }
        names.push(watch.name.clone());
        watches.push(watch);
    }
    watches
}

/// The one watch there is with no file at all.
pub(super) fn default_watch(endpoints: &[String], fallback: Option<i64>) -> Watch {
    let text = |source| Text::try_new(source).expect("the default templates compile");
    let rule = Rule {
        endpoints: endpoints.to_vec(),
        channels: vec![Text::try_new_for_channel("inventory").expect("the default channel compiles")],
        event: text(r"App\Events\ItemCountExceeded"),
        data: Data::Full,
        on: On::WORDS.iter().find(|(word, _)| *word == "reading").map_or(On::transitions(), |(_, on)| *on),
        min_severity: Severity::Warning,
        collapses: false,
    };
    Watch {
        name: "items".into(),
        source: Source::Notify { channel: "item_count".into() },
        key: Vec::new(),
        threshold: Some(fallback.unwrap_or(THRESHOLD_DEFAULT)),
        thresholds: Vec::new(),
        policy: policy_default(Compare::AtLeast),
        message: text(MESSAGE_DEFAULT),
        rules: vec![rule],
        storm: None,
    }
}

fn policy_default(compare: Compare) -> Policy {
    Policy {
        scale: Scale { compare, bands: Bands::default_for(compare) },
        hold: SignedDuration::ZERO,
        recover: 100,
        clear_hold: SignedDuration::ZERO,
        repeat: None,
    }
}

fn watch(index: usize, node: &Node, endpoints: &[String], fallback: Option<i64>, mistakes: &mut Mistakes) -> Option<Watch> {
    let mut section = Section::new("watch", node, mistakes);
    let name = name(&mut section, mistakes);
    let source = source(&mut section, mistakes);
    let key = key(&mut section, mistakes);
    let policy = policy(&mut section, mistakes);
    let own = section.integer("threshold", i64::MIN..=i64::MAX, mistakes);
    let threshold = own.or(fallback);
    let thresholds = thresholds(&mut section, &key, mistakes);
    let storm = section.node("storm").and_then(|node| storm(node, mistakes));
    let message = section.string("message", mistakes);
    let message = match message {
        None => Text::try_new(MESSAGE_DEFAULT).ok(),
        Some((source, origin)) => compile(&source, origin, "watch.message", &key, mistakes),
    };
    let rules: Vec<Rule> =
        section.tables("publish", mistakes).iter().filter_map(|node| rule(node, endpoints, &key, mistakes)).collect();
    if section.node("publish").is_none() {
        mistakes
            .add(section.origin(), format!("watch {}: there is no [[watch.publish]], so nothing would ever be sent", index + 1));
    }
    if threshold.is_none() && section.node("threshold").is_none() {
        mistakes.add(
            section.origin(),
            "watch.threshold: missing; a whole number, or INVENTORY_NOTIFICATION_THRESHOLD in the environment".to_owned(),
        );
    }
    section.finish(mistakes);
    Some(Watch { name: name?, source: source?, key, threshold, thresholds, policy: policy?, message: message?, rules, storm })
}

fn storm(node: &Node, mistakes: &mut Mistakes) -> Option<Storm> {
    let mut section = Section::new("watch.storm", node, mistakes);
    let limit = section.integer("limit", 1..=1_000_000, mistakes);
    let per = section.duration_within("per", STORM_PER_MIN..=STORM_PER_MAX, mistakes);
    for (key, given) in [("limit", limit.is_some()), ("per", per.is_some())] {
        if !given && section.node(key).is_none() {
            mistakes.add(
                section.origin(),
                format!("watch.storm.{key}: missing; storm = {{ limit = 100, per = \"10s\" }} is an example"),
            );
        }
    }
    section.finish(mistakes);
    let per = SignedDuration::try_from(per?).ok()?;
    Some(Storm { limit: u32::try_from(limit?).ok()?, per })
}

fn name(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<String> {
    let Some((name, origin)) = section.string("name", mistakes) else {
        if section.node("name").is_none() {
            mistakes.add(section.origin(), "watch.name: missing; every watch needs a name".to_owned());
        }
        return None;
    };
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    if !plain || name.is_empty() || name.len() > NAME_CHARS_MAX {
        mistakes.add(
            origin,
            format!(
                "watch.name: letters, digits, \"_\", \"-\" and \".\" are wanted, at most {NAME_CHARS_MAX}; this is \"{}\"",
                name.escape_debug()
            ),
        );
        return None;
    }
    Some(name)
}

fn source(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Source> {
    let table = section.string("table", mistakes);
    let notify = section.string("notify", mistakes);
    let condition = section.string("where", mistakes);
    match (table, notify) {
        (Some((table, origin)), None) => match Relation::parse(&table) {
            Ok(relation) => {
                let condition = condition.map(|(condition, _)| condition);
                Some(Source::Table { relation, condition })
            }
            Err(what) => {
                mistakes.add(origin, format!("watch.table: {what}"));
                None
            }
        },
        (None, Some((channel, origin))) => {
            if let Some((_, origin)) = condition {
                mistakes.add(origin, "watch.where: only a watch of a table has a condition".to_owned());
            }
            if channel.is_empty() || channel.len() > 63 {
                mistakes.add(origin, "watch.notify: the name of a channel is wanted, of 1 to 63 bytes".to_owned());
                return None;
            }
            Some(Source::Notify { channel })
        }
        (Some((_, origin)), Some(_)) => {
            mistakes.add(origin, "watch: table and notify exclude each other; a watch has exactly one source".to_owned());
            None
        }
        (None, None) => {
            mistakes.add(
                section.origin(),
                "watch: a source is missing; give table = \"schema.table\" or notify = \"channel\"".to_owned(),
            );
            None
        }
    }
}

fn key(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Vec<String> {
    let mut columns: Vec<String> = Vec::new();
    for (column, origin) in section.strings("key", mistakes).unwrap_or_default() {
        if column.is_empty() || columns.contains(&column) {
            mistakes.add(origin, format!("watch.key: \"{}\" is empty or there twice", column.escape_debug()));
        } else {
            columns.push(column);
        }
    }
    columns
}

fn policy(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Policy> {
    let words = Compare::ALL.map(|compare| (compare.as_str(), compare));
    let compare = section.word("compare", &words, mistakes).unwrap_or(Compare::AtLeast);
    let default = policy_default(compare);
    let bands = match section.node("bands") {
        None => Some(default.scale.bands),
        Some(node) => bands(node, compare, mistakes),
    };
    let recover = if compare.is_low() { 100..=1_000 } else { 1..=100 };
    let recover = section.integer("recover", recover, mistakes);
    let mut duration = |key| {
        let duration = section.duration(key, mistakes)?;
        Some(SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX))
    };
    let hold = duration("hold").unwrap_or_default();
    let clear_hold = duration("clear_hold").unwrap_or_default();
    let repeat = duration("repeat");
    if repeat.is_some_and(|repeat| repeat.is_zero()) {
        mistakes.add(section.origin(), "watch.repeat: longer than 0 is wanted; leave it out for never".to_owned());
    }
    Some(Policy {
        scale: Scale { compare, bands: bands? },
        hold,
        recover: recover.and_then(|recover| u32::try_from(recover).ok()).unwrap_or(default.recover),
        clear_hold,
        repeat,
    })
}

fn bands(node: &Node, compare: Compare, mistakes: &mut Mistakes) -> Option<Bands> {
    let default = Bands::default_for(compare);
    let mut section = Section::new("watch.bands", node, mistakes);
    let mut edge = |key, severity| {
        let edge = section.integer(key, 0..=1_000_000, mistakes);
        edge.and_then(|edge| u32::try_from(edge).ok()).or_else(|| default.edge(severity)).unwrap_or_default()
    };
    let (warning, high, critical) =
        (edge("warning", Severity::Warning), edge("high", Severity::High), edge("critical", Severity::Critical));
    section.finish(mistakes);
    Bands::try_new(compare, warning, high, critical).map_err(|what| mistakes.add(&node.origin, format!("watch.{what}"))).ok()
}

fn thresholds(section: &mut Section<'_>, key: &[String], mistakes: &mut Mistakes) -> Vec<Override> {
    let mut overrides = Vec::new();
    for node in section.tables("thresholds", mistakes) {
        let Value::Table(entries) = &node.value else {
            mistakes
                .add(&node.origin, "watch.thresholds: tables such as { tenant_id = 42, threshold = 100 } are wanted".to_owned());
            continue;
        };
        let mut over = Override { key: Map::new(), threshold: 0 };
        let mut has_threshold = false;
        for entry in entries {
            match &entry.node.value {
                Value::Integer(threshold) if entry.key == "threshold" => {
                    over.threshold = *threshold;
                    has_threshold = true;
                }
                value if key.contains(&entry.key) => {
                    over.key.insert(entry.key.clone(), constant(value).unwrap_or(Json::Null));
                }
                _ => mistakes.add(
                    &entry.origin,
                    format!("watch.thresholds: \"{}\" is neither threshold (a whole number) nor a column of the key", entry.key),
                ),
            }
        }
        if !has_threshold {
            mistakes.add(&node.origin, "watch.thresholds: threshold is missing".to_owned());
        }
        overrides.push(over);
    }
    overrides
}
