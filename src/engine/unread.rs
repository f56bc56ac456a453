//! How many alerts nobody has read: counted from the rows, under the fold's lock, as they will be once it is committed (D6).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value, json};
use tokio_postgres::Client;
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

impl Unread {
    fn add(&mut self, watch: &Watch, key: &Map<String, Value>) {
        if let Some(count) = self.0.get_mut(&(watch.name.clone(), watch.unread_within(key))) {
            *count += 1;
        }
    }

    /// Within the values of this key; `None` where nobody asked.
    pub(super) fn of(&self, watch: &Watch, key: &Map<String, Value>) -> Option<i64> {
        self.0.get(&(watch.name.clone(), watch.unread_within(key))).copied()
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
    ) -> Result<Unread, Error> {
        let decided = evaluated.decisions.iter().map(|decision| (decision.watch, decision.key.as_str()));
        let changed = evaluated.changes.iter().map(|changed| (changed.watch, changed.key.as_str()));
        let manual = evaluated.manual.iter().map(|manual| (manual.watch, manual.key.text.as_str()));
        let mut wanted = Vec::new();
        for (watch, key) in decided.chain(changed).chain(manual) {
            let Some(served) = served.get(&watch).filter(|served| served.wants_unread()) else { continue };
            wanted.push((served, served.watch.key_from_text(key).object));
        }
        self.count_unread(client, served, &wanted, evaluated).await
    }

    /// The same for these watches and keys.
    pub(super) async fn count_unread(
        &self,
        client: &Client,
        served: &HashMap<i32, Served>,
        wanted: &[(&Served, Map<String, Value>)],
        evaluated: &Evaluated,
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
        if !whole.is_empty() {
            let names: Vec<&str> = whole.into_iter().collect();
            unread.0.extend(names.iter().map(|name| (((*name).to_owned(), "[]".to_owned()), 0)));
            let rows = client.query(&self.unread_whole, &[&names, &escalated]).await?;
            unread.0.extend(rows.iter().map(|row| ((row.get(0), "[]".to_owned()), row.get(1))));
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
