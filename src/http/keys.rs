//! Which keys of a watch the status page shows, against which threshold, and with which past. Pure.

use std::cmp::Reverse;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::severity::percent;
use crate::watch::{Key, Watch};

/// So many keys of a watch are shown.
const KEYS_SHOWN: usize = 5;
/// So many events of a key are shown.
const PAST_SHOWN: usize = 30;
/// With more thresholds than this in `items_listen.threshold`, `sql/page.sql` does not give all of them.
const THRESHOLDS_KNOWN: usize = 200;

/// A key of `items_listen.count`.
#[derive(Debug, Deserialize)]
pub(super) struct FoundKey {
    key: String,
    reading: i64,
    severity: i16,
    raised_at: Option<Timestamp>,
    /// That of its open episode.
    threshold: Option<i64>,
    breach_since: Option<Timestamp>,
    clear_since: Option<Timestamp>,
    deadline: Option<Timestamp>,
}

/// An event: key, time, count, severity, threshold.
#[derive(Debug, Deserialize)]
pub(super) struct Past(Map<String, Value>, Timestamp, i64, String, Option<i64>);

/// Rows of `items_listen.threshold`: of which keys, and what.
pub(super) type FoundThresholds = Vec<(Map<String, Value>, Option<i64>)>;

/// A key, as it is shown.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct ShownKey {
    key: Map<String, Value>,
    reading: i64,
    /// 0 to 3.
    severity: i16,
    threshold: Option<i64>,
    percent: Option<i64>,
    raised_at: Option<Timestamp>,
    breach_since: Option<Timestamp>,
    clear_since: Option<Timestamp>,
    deadline: Option<Timestamp>,
    /// Time, count and severity of its last events, the oldest first.
    past: Vec<(Timestamp, i64, String)>,
}

/// The keys that matter most: open ones, the worst first, then those nearest to their thresholds.
pub(super) fn shown(
    watch: Option<&Watch>,
    columns: &[String],
    found: Vec<FoundKey>,
    thresholds: &FoundThresholds,
    events: Vec<Past>,
) -> Vec<ShownKey> {
    let mut keys: Vec<(String, ShownKey)> = found
        .into_iter()
        .map(|found| {
            let key = Key::from_text(columns, &found.key);
            let last = events.iter().rev().find(|event| event.0 == key.object).map(|event| event.4);
            let known = last.or(found.raised_at.map(|_| found.threshold)).flatten();
            let threshold = watch.and_then(|watch| threshold_of(watch, &key, thresholds, known));
            let shown = ShownKey {
                percent: percent(found.reading, threshold),
                key: key.object,
                reading: found.reading,
                severity: found.severity,
                threshold,
                raised_at: found.raised_at,
                breach_since: found.breach_since,
                clear_since: found.clear_since,
                deadline: found.deadline,
                past: Vec::new(),
            };
            (found.key, shown)
        })
        .collect();
    let low = watch.is_some_and(|watch| watch.policy.scale.compare.is_low());
    let nearness = |key: &ShownKey| key.percent.map(|percent| if low { percent.saturating_neg() } else { percent });
    keys.sort_by_cached_key(|(text, key)| (Reverse((key.severity, nearness(key))), text.clone()));
    keys.truncate(KEYS_SHOWN);
    let mut keys: Vec<ShownKey> = keys.into_iter().map(|(_, key)| key).collect();
    for Past(object, at, count, severity, ..) in events.into_iter().rev() {
        if let Some(key) = keys.iter_mut().find(|key| key.key == object && key.past.len() < PAST_SHOWN) {
            key.past.push((at, count, severity));
        }
    }
    keys.iter_mut().for_each(|key| key.past.reverse());
    keys
}

/// The threshold of a key, as far as it is known without asking the application's tables: where a row has its own, or
/// too many were edited to have them all here, it is what the key's last event says.
fn threshold_of(watch: &Watch, key: &Key, edited: &FoundThresholds, known: Option<i64>) -> Option<i64> {
    if watch.threshold_column.is_some() || edited.len() > THRESHOLDS_KNOWN {
        return known;
    }
    let is_about = |object: &Map<String, Value>| object.iter().all(|(name, value)| key.object.get(name) == Some(value));
    let most_specific = edited.iter().filter(|(object, _)| is_about(object)).max_by_key(|(object, _)| object.len());
    most_specific.map_or_else(|| watch.threshold_of(key), |(_, threshold)| *threshold)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::config::environment::Variables;
    use crate::config::{Config, read};

    fn config(watch: &str) -> Config {
        let text =
            format!("[[watch]]\nname = \"w\"\ntable = \"t\"\n{watch}\n[[watch.publish]]\nchannels = [\"c\"]\nevent = \"e\"\n");
        let none = BTreeMap::new();
        read::rehearsal("test.toml", &text, &Variables::new(&none, &none)).expect("a configuration")
    }

    fn found(key: &str, reading: i64, severity: i16) -> FoundKey {
        let at = (severity > 0).then_some(Timestamp::UNIX_EPOCH);
        let threshold = at.map(|_| 77);
        FoundKey {
            key: key.to_owned(),
            reading,
            severity,
            raised_at: at,
            threshold,
            breach_since: None,
            clear_since: None,
            deadline: None,
        }
    }

    fn event(key: i64, count: i64, threshold: Option<i64>) -> Past {
        let object = json!({ "id": key }).as_object().cloned().unwrap_or_default();
        Past(object, Timestamp::UNIX_EPOCH, count, "warning".to_owned(), threshold)
    }

    /// Key, threshold and number of events of what is shown.
    fn list(watch: &str, keys: Vec<FoundKey>, thresholds: &FoundThresholds, events: Vec<Past>) -> Vec<(i64, Option<i64>, usize)> {
        let config = config(watch);
        let shown = shown(config.watch("w"), &["id".to_owned()], keys, thresholds, events);
        shown.iter().map(|key| (key.key["id"].as_i64().unwrap_or(-1), key.threshold, key.past.len())).collect()
    }

    const RISING: &str = "key = [\"id\"]\nthreshold = 20\nthresholds = [{ id = 3, threshold = 1000 }]";

    #[test]
    fn open_keys_come_first_then_those_nearest_to_their_own_thresholds() {
        let keys =
            || vec![found("[1]", 5, 0), found("[2]", 19, 0), found("[3]", 500, 0), found("[4]", 21, 1), found("[5]", 30, 3)];
        let order = |list: Vec<(i64, Option<i64>, usize)>| list.iter().map(|(key, ..)| *key).collect::<Vec<_>>();
        assert_eq!(order(list(RISING, keys(), &vec![], vec![])), [5, 4, 2, 3, 1]);
        let falling = format!("{RISING}\ncompare = \"<\"");
        assert_eq!(order(list(&falling, keys(), &vec![], vec![])), [5, 4, 1, 3, 2], "low readings are the near ones");
        let many = (0..20).map(|key| found(&format!("[{key}]"), key, 0)).collect();
        assert_eq!(list(RISING, many, &vec![], vec![]).len(), KEYS_SHOWN);
    }

    #[test]
    fn edited_thresholds_come_before_configured_ones_and_the_most_specific_wins() {
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        let edited =
            vec![(object(json!({})), Some(40)), (object(json!({ "id": 2 })), Some(50)), (object(json!({ "id": 4 })), None)];
        let keys = vec![found("[2]", 20, 0), found("[3]", 20, 0), found("[4]", 20, 0)];
        assert_eq!(list(RISING, keys, &edited, vec![]), [(3, Some(40), 0), (2, Some(50), 0), (4, None, 0)]);
    }

    #[test]
    fn where_the_threshold_is_not_at_hand_it_is_what_was_told_last() {
        let own = "key = [\"id\"]\nvalue = \"n\"\nthreshold_column = \"t\"";
        let events = || vec![event(1, 8, Some(10)), event(1, 9, Some(12))];
        let keys = || vec![found("[1]", 9, 0), found("[2]", 9, 2), found("[3]", 9, 0)];
        let expected = [(2, Some(77), 0), (1, Some(12), 2), (3, None, 0)];
        assert_eq!(list(own, keys(), &vec![], events()), expected, "from the episode, the last event, nowhere");
        let too_many = vec![(Map::new(), Some(1)); THRESHOLDS_KNOWN + 1];
        assert_eq!(list(RISING, keys(), &too_many, events()), expected);
    }

    #[test]
    fn a_watch_of_another_configuration_is_shown_without_thresholds_and_a_long_key_by_its_hash() {
        let columns = ["a".to_owned(), "b".to_owned()];
        let shown = shown(
            None,
            &columns,
            vec![found("[\"long:sha256:00\"]", 1, 0)],
            &vec![],
            (0..50)
                .map(|count| {
                    Past(
                        json!({ "b": null, "a": "long:sha256:00" }).as_object().cloned().unwrap_or_default(),
                        Timestamp::UNIX_EPOCH,
                        count,
                        "info".to_owned(),
                        None,
                    )
                })
                .collect(),
        );
        assert_eq!((shown[0].threshold, shown[0].percent, &shown[0].key["a"]), (None, None, &json!("long:sha256:00")));
        let counts: Vec<i64> = shown[0].past.iter().map(|(_, count, _)| *count).collect();
        assert_eq!(counts, (20..50).collect::<Vec<_>>(), "the last thirty, the oldest first");
    }
}
