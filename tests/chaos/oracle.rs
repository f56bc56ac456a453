//! What must be true, worked out from the application's own history and from what arrived: nothing of the daemon's
//! state is believed, but for `unread_count`, which must equal its rows.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Client;

use crate::endpoint::Arrival;
use crate::shop::{KEYS, POISON};
use crate::world::Faults;

/// The watch's threshold and bands, once more.
pub fn severity(count: i64) -> &'static str {
    match count {
        ..20 => "info",
        20..24 => "warning",
        24..30 => "high",
        _ => "critical",
    }
}

/// The counts of each key, in the order of the commits, from the history.
pub async fn history(client: &Client) -> BTreeMap<i32, Vec<i64>> {
    let sql = "SELECT k, sum(sum(delta)) OVER (PARTITION BY k ORDER BY min(id))::bigint FROM oracle.change GROUP BY k, xid ORDER BY min(id)";
    let mut history: BTreeMap<i32, Vec<i64>> = KEYS.map(|key| (key, vec![0])).collect();
    for row in client.query(sql, &[]).await.expect("the history is there") {
        history.entry(row.get(0)).or_default().push(row.get(1));
    }
    history
}

/// What one endpoint was told about one key so far: carried from epoch to epoch.
#[derive(Clone, Debug)]
pub struct Told {
    severity: String,
    seq: i64,
    /// How much of the key's history has been told.
    position: usize,
}

impl Told {
    /// A history that begins with what stands now: the row that says so is its only one.
    pub fn begin(&mut self) {
        self.position = 0;
    }
}

impl Default for Told {
    fn default() -> Told {
        Told { severity: "info".into(), seq: 0, position: 0 }
    }
}

/// What was found of an endpoint's arrivals.
#[derive(Debug, Default)]
pub struct Findings {
    pub violations: Vec<String>,
    pub alerts: usize,
    pub duplicates: usize,
}

/// Checks what arrived at one endpoint. `told` is what it knew before.
pub fn check(
    name: &str,
    arrivals: &[Arrival],
    history: &BTreeMap<i32, Vec<i64>>,
    told: &mut HashMap<i32, Told>,
    faults: &Faults,
    refused: bool,
) -> Findings {
    let mut findings = Findings::default();
    let mut first: HashMap<&str, &Arrival> = HashMap::new();
    let mut last: HashMap<&str, (&Arrival, usize)> = HashMap::new();
    for arrival in arrivals {
        let first = *first.entry(&arrival.id).or_insert(arrival);
        if first.data != arrival.data {
            findings.violations.push(format!("{name}: {} came with two bodies: {} and {}", arrival.id, first.data, arrival.data));
        }
        let last = last.entry(&arrival.id).or_insert((arrival, 0));
        last.0 = arrival;
        last.1 += 1;
    }
    // At most one duplicate per fault.
    for (id, (last, times)) in &last {
        let allowed = faults.between(first[id].at, last.at);
        let published = arrivals.iter().filter(|arrival| arrival.id == **id && arrival.published).count();
        findings.duplicates += published.saturating_sub(1);
        if times - 1 > allowed {
            let what = format!("{name}: {id} (key {}) came {times} times, and only {allowed} faults explain that", last.key);
            findings.violations.push(what);
        }
        // Accepted, but never published: an idempotency key that stood for something else.
        let accepted = arrivals.iter().any(|arrival| arrival.id == **id && arrival.accepted);
        let published = arrivals.iter().any(|arrival| arrival.id == **id && arrival.published);
        if accepted && !published {
            findings.violations.push(format!("{name}: {id} (key {}) was accepted and never published: lost", last.key));
        }
    }
    for key in history.keys() {
        let known = told.entry(*key).or_default();
        let mut seen = std::collections::HashSet::new();
        let of_key = |arrival: &&Arrival| arrival.key == *key;
        // Whether it was accepted or not, a later one is not sent before an earlier one.
        let mut seq = known.seq;
        for arrival in arrivals.iter().filter(of_key).filter(|arrival| seen.insert(arrival.id.as_str())) {
            if arrival.seq <= seq {
                findings.violations.push(format!("{name}: key {key}: {} came first after seq {seq}", arrival.line()));
            }
            seq = seq.max(arrival.seq);
        }
        seen.clear();
        let published = arrivals.iter().filter(of_key).filter(|arrival| arrival.published);
        for arrival in published.filter(|arrival| seen.insert(arrival.id.as_str())) {
            findings.alerts += 1;
            let true_chain = arrival.previous == known.severity || (refused && *key == POISON);
            if !true_chain {
                let what = format!(
                    "{name}: key {key}: {} says it was {}, but {} was said last: one is lost, or was never true",
                    arrival.line(),
                    arrival.previous,
                    known.severity
                );
                findings.violations.push(what);
            }
            if arrival.severity != severity(arrival.count) {
                findings.violations.push(format!(
                    "{name}: key {key}: {}: that count is {}",
                    arrival.line(),
                    severity(arrival.count)
                ));
            }
            match history[key][known.position..].iter().position(|count| *count == arrival.count) {
                Some(ahead) => known.position += ahead,
                None => {
                    let rest = &history[key][known.position..];
                    let what = format!(
                        "{name}: key {key}: {} is a count that never stood after what was said before; since then {rest:?}",
                        arrival.line()
                    );
                    findings.violations.push(what);
                }
            }
            known.severity.clone_from(&arrival.severity);
            known.seq = known.seq.max(arrival.seq);
        }
        let truth = severity(history[key].last().copied().unwrap_or(0));
        if known.severity != truth && !(refused && *key == POISON) {
            findings.violations.push(format!("{name}: key {key} is {truth}, and {} was said last", known.severity));
        }
        // What was dead for this endpoint is no longer missed.
        known.severity = truth.into();
        known.position = history[key].len() - 1;
    }
    findings
}

/// What was said last about each key, as far as it was published.
pub fn said(arrivals: &[Arrival], told: &HashMap<i32, Told>) -> HashMap<i32, String> {
    let mut said: HashMap<i32, (i64, String)> =
        told.iter().map(|(key, told)| (*key, (told.seq, told.severity.clone()))).collect();
    for arrival in arrivals.iter().filter(|arrival| arrival.published) {
        let entry = said.entry(arrival.key).or_insert((0, "info".into()));
        if arrival.seq > entry.0 {
            *entry = (arrival.seq, arrival.severity.clone());
        }
    }
    said.into_iter().map(|(key, (_, severity))| (key, severity)).collect()
}
