//! What was expected against what was sent: which events are the same, and in what the others differ.

use serde_json::{Map, Value};

use super::simulate::Sent;

/// An event that is expected: of its fields those that are given.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// `at`, `channels`, `event`, `endpoint`, `data`, `socket_id`, and those of the full event.
    pub fields: Map<String, Value>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq)]
pub enum Difference {
    /// The event has this number among those sent, and these fields are others.
    Fields {
        /// From 1.
        number: usize,
        /// In the order of the file.
        fields: Vec<Field>,
    },
    /// It was expected, and not sent.
    Missing(Expected),
    /// It was sent, and not expected.
    Surplus(Box<Sent>),
}

/// A field that is another than expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// With the fields that it is in: `data.unread_count`.
    pub path: String,
    /// What was expected.
    pub expected: Value,
    /// What was sent; `None`: it has no such field.
    pub sent: Option<Value>,
}

/// Compares the events of one step; none where all is as expected.
pub fn compare(expected: &[Expected], sent: &[Sent]) -> Vec<Difference> {
    let views: Vec<Map<String, Value>> = sent.iter().map(Sent::fields).collect();
    let same = longest_common(expected, &views);
    let mut differences = Vec::new();
    let (mut next_expected, mut next_sent) = (0, 0);
    // Between two events that are as expected, what is left is taken for each other in turn.
    for (at_expected, at_sent) in same.into_iter().chain([(expected.len(), sent.len())]) {
        let (left, right) = (next_expected..at_expected, next_sent..at_sent);
        let pairs = left.len().min(right.len());
        for (left, right) in left.clone().zip(right.clone()) {
            let fields = fields(&expected[left], &views[right]);
            differences.push(Difference::Fields { number: right + 1, fields });
        }
        differences.extend(expected[left].iter().skip(pairs).cloned().map(Difference::Missing));
        differences.extend(sent[right].iter().skip(pairs).cloned().map(Box::new).map(Difference::Surplus));
        (next_expected, next_sent) = (at_expected + 1, at_sent + 1);
    }
    differences
}

/// The longest row of events that are as expected, as pairs of places.
fn longest_common(expected: &[Expected], sent: &[Map<String, Value>]) -> Vec<(usize, usize)> {
    let is_same: Vec<Vec<bool>> =
        expected.iter().map(|expected| sent.iter().map(|sent| fields(expected, sent).is_empty()).collect()).collect();
    // lengths[i][j]: of those from i and j on.
    let mut lengths = vec![vec![0_usize; sent.len() + 1]; expected.len() + 1];
    for i in (0..expected.len()).rev() {
        for j in (0..sent.len()).rev() {
            let skipped = lengths[i + 1][j].max(lengths[i][j + 1]);
            lengths[i][j] = if is_same[i][j] { skipped.max(lengths[i + 1][j + 1] + 1) } else { skipped };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < expected.len() && j < sent.len() {
        if is_same[i][j] && lengths[i][j] == lengths[i + 1][j + 1] + 1 {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if lengths[i][j] == lengths[i + 1][j] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

/// The fields that are others than expected.
fn fields(expected: &Expected, sent: &Map<String, Value>) -> Vec<Field> {
    let mut found = Vec::new();
    for (name, expected) in &expected.fields {
        differ(name, expected, sent.get(name), &mut found);
    }
    found
}

/// Of tables only the given entries are looked at; everything else must be equal.
fn differ(path: &str, expected: &Value, sent: Option<&Value>, found: &mut Vec<Field>) {
    match (expected, sent) {
        (Value::Object(expected), Some(Value::Object(sent))) => {
            for (name, expected) in expected {
                differ(&format!("{path}.{name}"), expected, sent.get(name), found);
            }
        }
        (expected, Some(sent)) if equal(expected, sent) => {}
        (expected, sent) => found.push(Field { path: path.to_owned(), expected: expected.clone(), sent: sent.cloned() }),
    }
}

/// 1 and 1.0 are one number.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) if one.is_f64() || other.is_f64() => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(name, one)| other.get(name).is_some_and(|other| equal(one, other)))
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn expected(fields: Value) -> Expected {
        Expected { fields: fields.as_object().expect("an object").clone() }
    }

    fn sent(transition: &str, data: Value) -> Sent {
        Sent::example(json!({ "transition": transition, "severity": "high" }), data)
    }

    fn paths(difference: &Difference) -> Vec<&str> {
        match difference {
            Difference::Fields { fields, .. } => fields.iter().map(|field| field.path.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn only_what_is_given_is_looked_at_and_lists_are_equal_as_a_whole() {
        let sent = [sent("raised", json!({ "n": 1, "deep": { "a": 1.0, "b": 2 }, "list": [{ "x": 1, "y": 2 }] }))];
        let same = |data: Value| compare(&[expected(json!({ "transition": "raised", "data": data }))], &sent).is_empty();
        assert!(same(json!({})) && same(json!({ "n": 1 })) && same(json!({ "deep": { "a": 1 } })));
        assert!(same(json!({ "list": [{ "x": 1, "y": 2 }] })));
        assert!(!same(json!({ "list": [{ "x": 1 }] })), "a list is equal or it is not");
        assert!(!same(json!({ "n": "1" })) && !same(json!({ "none": null })) && !same(json!({ "deep": 1 })));
        let different = compare(&[expected(json!({ "severity": "low", "data": { "n": 1, "deep": { "b": 3 } } }))], &sent);
        assert_eq!(different.iter().map(paths).collect::<Vec<_>>(), [["severity", "data.deep.b"]]);
        assert!(compare(&[], &[]).is_empty());
    }

    #[test]
    fn one_event_too_many_or_too_few_does_not_make_all_others_differ() {
        let all = ["raised", "escalated", "resolved"].map(|transition| sent(transition, json!({})));
        let wanted = ["raised", "resolved"].map(|transition| expected(json!({ "transition": transition })));
        assert_eq!(compare(&wanted, &all), [Difference::Surplus(Box::new(all[1].clone()))]);
        let more = ["raised", "eased", "resolved", "raised"].map(|transition| expected(json!({ "transition": transition })));
        let found = compare(&more, &all);
        assert_eq!(found.iter().map(paths).collect::<Vec<_>>(), [vec!["transition"], vec![]]);
        assert_eq!(found[1], Difference::Missing(more[3].clone()));
        assert_eq!(compare(&[], &all).len(), 3);
    }
}
