//! `[[watch]]` and `[[watch.publish]]`

use jiff::SignedDuration;
use serde_json::{Map, Value as Json};

use super::document::{Node, Origin, Value};
use super::read_rule::{Hand, compile, constant, rule};
use super::reader::{Mistakes, Section};
use crate::evaluate::Policy;
use crate::event::rule::{Data, On, Rule};
use crate::event::template::Text;
use crate::lookup::Lookup;
use crate::severity::{Bands, Compare, Scale, Severity};
use crate::storm::Storm;
use crate::watch::{KeyColumns, MESSAGE_DEFAULT, Measure, Override, Relation, Source, Watch};

/// The threshold of the one watch there is without a configuration file.
pub(super) const THRESHOLD_DEFAULT: i64 = 20;
const NAME_CHARS_MAX: usize = 64;
/// A query is asked no more often than this, and no less often.
const EVERY_MIN: std::time::Duration = std::time::Duration::from_millis(100);
const EVERY_MAX: std::time::Duration = std::time::Duration::from_secs(86_400);
const EVERY_DEFAULT: std::time::Duration = std::time::Duration::from_secs(30);
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
        columns: Vec::new(),
        coalesce: None,
        socket_id: None,
        encryption: std::collections::HashMap::new(),
    };
    Watch {
        name: "items".into(),
        source: Source::Notify { channel: "item_count".into() },
        measure: Measure::Rows,
        key: KeyColumns::configured(Vec::new()),
        threshold: Some(fallback.unwrap_or(THRESHOLD_DEFAULT)),
        threshold_column: None,
        thresholds: Vec::new(),
        include: Vec::new(),
        lookup: None,
        unread_by: Vec::new(),
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
    let measure = measure(&mut section, source.as_ref(), mistakes);
    let given = key(&mut section, mistakes);
    let policy = policy(&mut section, mistakes);
    let own = section.integer("threshold", i64::MIN..=i64::MAX, mistakes);
    let threshold = own.or(fallback);
    let threshold_column = threshold_column(&mut section, source.as_ref(), &measure, mistakes);
    let storm = section.node("storm").and_then(|node| storm(node, mistakes));
    let message = section.string("message", mistakes);
    let rule_nodes = section.tables("publish", mistakes);
    let counts = rule_nodes.is_empty() || rule_nodes.iter().any(listens_to_counts);
    // Where each row has a reading of its own, or is told of itself, it is known by its primary key.
    let primary = given.is_none() && matches!(source, Some(Source::Table { .. })) && (measure.is_value() || !counts);
    let columns = given.unwrap_or_default();
    let lookup = lookup(&mut section, mistakes);
    let hand =
        Hand { key: (!primary).then_some(columns.as_slice()), row: measure.is_value(), lookup: lookup.is_some(), change: false };
    let thresholds = thresholds(&mut section, hand.key, mistakes);
    let unread_by = columns_of(&mut section, "unread_by", mistakes);
    if let Some(strange) = unread_by.iter().find(|column| hand.key.is_some_and(|key| !key.contains(column))) {
        mistakes
            .add(section.origin(), format!("watch.unread_by: \"{strange}\" is no column of the key ({})", columns.join(", ")));
    }
    let include = include(&mut section, source.as_ref(), &measure, counts, mistakes);
    let message = match message {
        None => Text::try_new(MESSAGE_DEFAULT).ok(),
        Some((source, origin)) => compile(&source, origin, "watch.message", Hand { change: !counts, ..hand }, mistakes),
    };
    let rules: Vec<Rule> = rule_nodes.iter().filter_map(|node| rule(node, endpoints, hand, mistakes)).collect();
    if section.node("publish").is_none() {
        mistakes
            .add(section.origin(), format!("watch {}: there is no [[watch.publish]], so nothing would ever be sent", index + 1));
    }
    if counts && threshold.is_none() && threshold_column.is_none() && thresholds.is_empty() && section.node("threshold").is_none()
    {
        mistakes.add(
            section.origin(),
            "watch.threshold: missing; a whole number, or INVENTORY_NOTIFICATION_THRESHOLD in the environment".to_owned(),
        );
    }
    if !matches!(source, Some(Source::Table { .. }) | None) && rules.iter().any(|rule| rule.on.changes()) {
        mistakes.add(
            section.origin(),
            "watch.publish.on: only a table's rows are seen to change; transitions and readings are at hand",
        );
    }
    check_lookup(lookup.as_ref(), hand, counts, section.origin(), mistakes);
    section.finish(mistakes);
    Some(Watch {
        name: name?,
        source: source?,
        measure,
        key: if primary { KeyColumns::primary() } else { KeyColumns::configured(columns) },
        threshold,
        threshold_column,
        thresholds,
        include,
        lookup,
        unread_by,
        policy: policy?,
        message: message?,
        rules,
        storm,
    })
}

/// Whether a rule is about a count; one that cannot be read is taken to be.
fn listens_to_counts(node: &Node) -> bool {
    let Value::Table(entries) = &node.value else { return true };
    let Some(on) = entries.iter().find(|entry| entry.key == "on") else { return true };
    let is_change =
        |value: &Value| matches!(value, Value::String(word) if On::WORDS.iter().any(|(known, on)| known == word && on.changes()));
    match &on.node.value {
        Value::Array(words) => !words.iter().any(|word| is_change(&word.value)),
        word => !is_change(word),
    }
}

fn measure(section: &mut Section<'_>, source: Option<&Source>, mistakes: &mut Mistakes) -> Measure {
    let sum = section.string("sum", mistakes);
    let value = section.string("value", mistakes);
    let place = sum.as_ref().or(value.as_ref()).map(|(_, origin)| *origin);
    if let (Some(origin), Some(Source::Notify { .. })) = (place, source) {
        mistakes
            .add(origin, "watch: sum and value are of a table's or a query's rows; what is sent with NOTIFY is the count itself");
    }
    match (sum, value) {
        (Some((_, origin)), Some(_)) => {
            mistakes.add(origin, "watch: sum and value exclude each other; without either, rows are counted");
            Measure::Rows
        }
        (Some((expression, _)), None) => Measure::Sum(expression),
        (None, Some((expression, _))) => Measure::Value(expression),
        (None, None) => Measure::Rows,
    }
}

fn threshold_column(
    section: &mut Section<'_>,
    source: Option<&Source>,
    measure: &Measure,
    mistakes: &mut Mistakes,
) -> Option<String> {
    let (column, origin) = section.string("threshold_column", mistakes)?;
    match source {
        Some(Source::Notify { .. }) => {
            mistakes.add(origin, "watch.threshold_column: what is sent with NOTIFY has no columns");
        }
        Some(Source::Table { .. }) if !measure.is_value() => mistakes.add(
            origin,
            "watch.threshold_column: needs value: rows that are counted or summed up share a key, and have no one threshold; \
             use thresholds, or the table items_listen.threshold",
        ),
        _ => {}
    }
    Some(column)
}

fn lookup(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Lookup> {
    let (text, origin) = section.string("lookup", mistakes)?;
    Lookup::parse(&text).map_err(|what| mistakes.add(origin, format!("watch.lookup: {what}"))).ok()
}

/// Its parameters must be columns that are at hand wherever it is asked.
fn check_lookup(lookup: Option<&Lookup>, hand: Hand<'_>, counts: bool, origin: &Origin, mistakes: &mut Mistakes) {
    let (Some(lookup), Some(key)) = (lookup, hand.key) else { return };
    if hand.row || !counts {
        return;
    }
    for strange in lookup.parameters.iter().filter(|name| !key.contains(name)) {
        let known = if key.is_empty() { "has no key".to_owned() } else { format!("has the key {}", key.join(", ")) };
        mistakes.add(origin, format!("watch.lookup: :{strange} is not at hand: the watch {known}"));
    }
}

fn include(
    section: &mut Section<'_>,
    source: Option<&Source>,
    measure: &Measure,
    counts: bool,
    mistakes: &mut Mistakes,
) -> Vec<String> {
    let columns = columns_of(section, "include", mistakes);
    let has_rows = matches!(source, Some(Source::Table { .. } | Source::Query { .. }) | None) && (measure.is_value() || !counts);
    if !columns.is_empty() && !has_rows {
        mistakes.add(
            section.origin(),
            "watch.include: a count of rows, or their sum, has no single row; it needs value, or rules that listen to changes",
        );
    }
    columns
}

fn columns_of(section: &mut Section<'_>, key: &'static str, mistakes: &mut Mistakes) -> Vec<String> {
    section.strings(key, mistakes).unwrap_or_default().into_iter().map(|(column, _)| column).collect()
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
    let query = section.string("query", mistakes);
    let notify = section.string("notify", mistakes);
    let condition = section.string("where", mistakes);
    let every =
        section.node("every").map(|node| (section.duration_within("every", EVERY_MIN..=EVERY_MAX, mistakes), &node.origin));
    if [table.is_some(), query.is_some(), notify.is_some()].into_iter().filter(|given| *given).count() > 1 {
        let origin = [&table, &query, &notify].into_iter().flatten().nth(1).map_or(section.origin(), |(_, origin)| origin);
        mistakes.add(origin, "watch: table, query and notify exclude each other; a watch has exactly one source".to_owned());
        return None;
    }
    if let (Some((_, origin)), None) = (&condition, &table) {
        mistakes.add(origin, "watch.where: only a watch of a table has a condition".to_owned());
    }
    if let (Some((_, origin)), None) = (&every, &query) {
        mistakes.add(origin, "watch.every: only a query is asked again and again".to_owned());
    }
    if let Some((table, origin)) = table {
        let relation = Relation::parse(&table).map_err(|what| mistakes.add(origin, format!("watch.table: {what}"))).ok()?;
        return Some(Source::Table { relation, condition: condition.map(|(condition, _)| condition) });
    }
    if let Some((sql, origin)) = query {
        let sql = sql.trim().trim_end_matches(';').to_owned();
        if sql.is_empty() {
            mistakes.add(origin, "watch.query: a SELECT is wanted");
            return None;
        }
        return Some(Source::Query { sql, every: every.and_then(|(every, _)| every).unwrap_or(EVERY_DEFAULT) });
    }
    if let Some((channel, origin)) = notify {
        if channel.is_empty() || channel.len() > 63 {
            mistakes.add(origin, "watch.notify: the name of a channel is wanted, of 1 to 63 bytes".to_owned());
            return None;
        }
        return Some(Source::Notify { channel });
    }
    mistakes.add(
        section.origin(),
        "watch: a source is missing; give table = \"schema.table\", query = \"SELECT …\" or notify = \"channel\"".to_owned(),
    );
    None
}

fn key(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Vec<String>> {
    let mut columns: Vec<String> = Vec::new();
    for (column, origin) in section.strings("key", mistakes)? {
        if column.is_empty() || columns.contains(&column) {
            mistakes.add(origin, format!("watch.key: \"{}\" is empty or there twice", column.escape_debug()));
        } else {
            columns.push(column);
        }
    }
    Some(columns)
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

fn thresholds(section: &mut Section<'_>, key: Option<&[String]>, mistakes: &mut Mistakes) -> Vec<Override> {
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
                value if entry.key != "threshold" && key.is_none_or(|key| key.contains(&entry.key)) => {
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
