//! What is to be done about triggers that are not as they should be, in words.

use std::collections::BTreeMap;

use super::database::Place;
use crate::journal::{install, trigger};

/// What is to be done about each thing that coverage found, in words; with the SQL of what is quickly done by hand.
pub(super) fn steps(place: &Place<'_>, id: i32, coverage: &[install::Finding]) -> Vec<(String, Option<String>)> {
    let mut by_relation: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for finding in coverage {
        let relation = finding.relation.as_deref().unwrap_or_default();
        by_relation.entry((&finding.kind, relation)).or_default().extend(finding.event.as_deref());
    }
    // Partitions of one table mostly lack the same.
    let mut grouped: BTreeMap<(&str, Vec<&str>), Vec<&str>> = BTreeMap::new();
    for ((kind, relation), events) in by_relation {
        grouped.entry((kind, events)).or_default().push(relation);
    }
    grouped.into_iter().map(|((kind, events), relations)| step(place, id, kind, &events, &relations)).collect()
}

fn step(place: &Place<'_>, id: i32, kind: &str, events: &[&str], relations: &[&str]) -> (String, Option<String>) {
    let (on, which) = (relations.join(", "), events.join(", "));
    match kind {
        "missing" => (
            format!("triggers are missing on {on} ({which}): what is written there is not counted; install would add them"),
            None,
        ),
        "disabled" => {
            let enable = |relation: &&str| {
                let names = events.iter().map(|event| format!("ENABLE TRIGGER {}", trigger::name(place.schema, id, event)));
                format!("ALTER TABLE {relation} {};", names.collect::<Vec<_>>().join(", "))
            };
            let sql = relations.iter().map(enable).collect::<Vec<_>>().join(" ");
            let what = format!(
                "triggers are disabled on {on} ({which}): what is written there is not counted; install would enable them"
            );
            (what, Some(format!("{sql} then items-listen recount; or items-listen install, which does both")))
        }
        "stray" => (
            format!("triggers are left on {on} ({which}), which belongs to the table no more; install would take them away"),
            None,
        ),
        "retyped" => (
            "a column of the key has another type now: install would make the triggers anew, and a recount follows".to_owned(),
            None,
        ),
        "changed" => ("partitions were attached or detached since it was counted: a recount follows".to_owned(), None),
        other => (format!("{other} {on}").trim().to_owned(), None),
    }
}
