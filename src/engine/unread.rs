//! How many alerts nobody has read: counted from the rows, under the fold's lock, as they will be once it is committed (D6).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value, json};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::Served;
use super::decide::{Decision, Evaluated};
use super::write::Writer;
use crate::error::Error;
use crate::evaluate::Transition;
use crate::watch::Watch;

/// Alerts that nobody has read, by watch and by the values that they are counted within.
#[derive(Debug, Default)]
pub(super) struct Unread(HashMap<(String, String), i64>);

/// Within a whole watch.
const WHOLE: &str = "[]";

impl Unread {
    fn add(&mut self, watch: &Watch, key: &Map<String, Value>) {
        if let Some(count) = self.0.get_mut(&(watch.name.clone(), watch.unread_within(key))) {
            *count += 1;
        }
    }

    /// Those of whole watches, for the next fold.
    pub(super) fn whole(&self) -> HashMap<String, i64> {
        let whole = self.0.iter().filter(|((_, within), _)| within == WHOLE);
        whole.map(|((watch, _), count)| (watch.clone(), *count)).collect()
    }

    /// Within the values of this key; `None` where nobody asked.
    pub(super) fn of(&self, watch: &Watch, key: &Map<String, Value>) -> Option<i64> {
        self.0.get(&(watch.name.clone(), watch.unread_within(key))).copied()
    }
}

/// By so much `items_listen.seq` grows.
const SEQ_STEP: i64 = 8;

/// How many alerts of whole watches are unread, as the last fold left it: all there are would be counted otherwise.
///
/// It is only known while nobody else may have changed it. Whoever raises an alert or makes one unread again holds the
/// fold's lock and takes a number of `items_listen.seq`: so if a fold's numbers follow on those of ours before it, nobody
/// did. Whoever reads an alert, or removes one, leaves a row in `items_listen.unread_edit` in the same transaction.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    counts: HashMap<String, i64>,
    last_seq: Option<i64>,
    /// Somebody has read or removed alerts since.
    edited: bool,
}

impl Remembered {
    /// Begins a fold whose readings have these numbers.
    pub(super) fn begin(&mut self, seqs: Option<(i64, i64)>, edited: bool) {
        let follows = seqs.is_none_or(|(first, _)| self.last_seq.is_some_and(|last| last + SEQ_STEP == first));
        if edited || !follows {
            self.counts.clear();
        }
        self.edited = edited;
    }

    /// Takes over what a fold said that is committed.
    pub(super) fn committed(&mut self, seqs: Option<(i64, i64)>, counts: HashMap<String, i64>) {
        if let Some((_, last)) = seqs {
            self.last_seq = Some(last);
        }
        self.counts.extend(counts);
    }

    /// Forgets everything.
    pub(super) fn forget(&mut self) {
        *self = Remembered::default();
    }
}

/// The decisions with this transition that are told.
fn of(evaluated: &Evaluated, transition: Transition) -> impl Iterator<Item = &Decision> {
    let changed =
        evaluated.decisions.iter().filter(move |decision| decision.change.is_some_and(|change| change.transition == transition));
    changed.filter(|decision| !decision.silent)
}

impl Writer {
    /// Alerts that nobody has read, as they will be once this transaction is committed.
    pub(super) async fn unread(
        &self,
        client: &Client,
        served: &HashMap<i32, Served>,
        evaluated: &Evaluated,
        remembered: &Remembered,
    ) -> Result<Unread, Error> {
        let decided = evaluated.decisions.iter().map(|decision| (decision.watch, decision.key.as_str()));
        let changed = evaluated.changes.iter().map(|changed| (changed.watch, changed.key.as_str()));
        let manual = evaluated.manual.iter().map(|manual| (manual.watch, manual.key.text.as_str()));
        let mut wanted = Vec::new();
        for (watch, key) in decided.chain(changed).chain(manual) {
            let Some(served) = served.get(&watch).filter(|served| served.wants_unread()) else { continue };
            wanted.push((served, served.watch.key_from_text(key).object));
        }
        self.count_unread(client, served, &wanted, evaluated, remembered).await
    }

    /// The same for these watches and keys.
    pub(super) async fn count_unread(
        &self,
        client: &Client,
        served: &HashMap<i32, Served>,
        wanted: &[(&Served, Map<String, Value>)],
        evaluated: &Evaluated,
        remembered: &Remembered,
    ) -> Result<Unread, Error> {
        let escalated: Vec<Uuid> = of(evaluated, Transition::Escalated).filter_map(|decision| decision.about).collect();
        let mut unread = Unread::default();
        let (mut by, mut within, mut whole) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        for (served, key) in wanted {
            let watch = &served.watch;
            if watch.unread_by.is_empty() {
                whole.insert(watch.name.as_str());
                continue;
            }
            by.entry(watch.name.clone()).or_insert_with(|| json!(watch.unread_by));
            within.insert((watch.name.clone(), watch.unread_within(key)));
        }
        // Whether one that escalates was read is not remembered.
        let known = |name: &str| remembered.counts.get(name).copied().filter(|_| escalated.is_empty());
        unread.0.extend(whole.iter().filter_map(|name| Some((((*name).to_owned(), WHOLE.to_owned()), known(name)?))));
        let names: Vec<&str> = whole.into_iter().filter(|name| known(name).is_none()).collect();
        if !names.is_empty() {
            // Taken first: what is edited between the two is counted, and counted once more by the next fold.
            let taken = async {
                match remembered.edited {
                    true => client.execute(&self.unread_edits, &[]).await,
                    false => Ok(0),
                }
            };
            let parameters: [&(dyn ToSql + Sync); 2] = [&names, &escalated];
            let (taken, rows) = tokio::join!(biased; taken, client.query(&self.unread_whole, &parameters));
            taken?;
            unread.0.extend(rows?.iter().map(|row| ((row.get(0), WHOLE.to_owned()), row.get(1))));
        }
        if !by.is_empty() {
            self.count_within(client, by, within, &escalated, &mut unread).await?;
        }
        for raised in of(evaluated, Transition::Raised) {
            if let Some(served) = served.get(&raised.watch) {
                unread.add(&served.watch, &served.watch.key_from_text(&raised.key).object);
            }
        }
        Ok(unread)
    }

    async fn count_within(
        &self,
        client: &Client,
        by: BTreeMap<String, Value>,
        within: BTreeSet<(String, String)>,
        escalated: &[Uuid],
        unread: &mut Unread,
    ) -> Result<(), Error> {
        let (watches, columns): (Vec<String>, Vec<Value>) = by.into_iter().unzip();
        let parts: Vec<Value> = within.iter().map(|(_, within)| serde_json::from_str(within).unwrap_or_default()).collect();
        let names: Vec<&str> = within.iter().map(|(watch, _)| watch.as_str()).collect();
        let rows = client.query(&self.unread, &[&watches, &columns, &names, &parts, &escalated]).await?;
        for row in rows {
            // As we write it, not as jsonb does.
            let parts: Value = serde_json::from_str(row.get(1)).unwrap_or_default();
            unread.0.insert((row.get(0), parts.to_string()), row.get(2));
        }
        for group in within {
            unread.0.entry(group).or_insert(0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_only_while_nobody_else_may_have_changed_it() {
        let known = |step: &dyn Fn(&mut Remembered)| {
            let mut remembered = Remembered::default();
            remembered.committed(Some((80, 96)), HashMap::from([("items".to_owned(), 7)]));
            step(&mut remembered);
            remembered.counts.get("items").copied()
        };
        assert_eq!(known(&|remembered| remembered.begin(Some((104, 104)), false)), Some(7));
        assert_eq!(known(&|remembered| remembered.begin(None, false)), Some(7));
        assert_eq!(known(&|remembered| remembered.begin(Some((112, 120)), false)), None, "another replica took 104");
        assert_eq!(known(&|remembered| remembered.begin(Some((104, 104)), true)), None, "one was read");
        assert_eq!(known(&Remembered::forget), None);
    }
}
