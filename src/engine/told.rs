//! From decisions and changes to their events, as far as lookups can be asked in the time that a fold has.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::Served;
use super::ask::{Asker, NoAnswer};
use super::decide::{Changed, Decision};
use super::tell::{self, Seen, Told};
use super::unread::Unread;
use super::write::DECISIONS_PER_CHUNK;
use crate::error::Error;

/// Why nothing is written.
#[derive(Debug)]
pub(super) enum Untold {
    /// The lookup of this watch cannot be asked.
    Refused { watch: i32, why: String },
    /// Lookups took too long, all together.
    TooMuch,
}

impl Untold {
    pub(super) fn into_error(self) -> Error {
        match self {
            Untold::Refused { why, .. } => Error::Failed(why),
            Untold::TooMuch => Error::Unavailable("the lookup takes too long".to_owned()),
        }
    }
}

/// Of lookups no more is asked before the fold's session is used again: the server puts out one that rests in a transaction.
const ASKING_AT_MOST: Duration = Duration::from_secs(1);

/// The events of the next decisions, and of how many they are.
pub(super) async fn decided(
    asker: &mut Asker,
    served: &HashMap<i32, Served>,
    rest: &[Decision],
    unread: &Unread,
    now: Timestamp,
) -> Result<(Vec<Told>, usize), Untold> {
    let (mut events, mut taken, began) = (Vec::new(), 0, Instant::now());
    for decision in rest.iter().take(DECISIONS_PER_CHUNK) {
        if began.elapsed() > ASKING_AT_MOST {
            break;
        }
        taken += 1;
        let Some(served) = served.get(&decision.watch).filter(|_| !decision.silent) else { continue };
        let key = served.watch.key_from_text(&decision.key).object;
        let lookup = if served.watch.lookup.is_some() && tell::is_told(served, decision) {
            let row: Option<Map<String, Value>> = decision.row.as_deref().and_then(|row| crate::json::object(row).ok());
            let asked = match (&served.watch.lookup, &row) {
                (Some(lookup), Some(told)) if decision.recalled => {
                    answered(served, asker.ask_of_gone(served, lookup, &key, told).await)
                }
                _ => ask(asker, served, &key, row.as_ref()).await,
            };
            match asked {
                // What was asked before is told.
                Err(Untold::TooMuch) if taken > 1 => {
                    taken -= 1;
                    break;
                }
                asked => asked?,
            }
        } else {
            None
        };
        let seen = Seen { unread: unread.of(&served.watch, &key), lookup: lookup.as_ref() };
        events.extend(tell::decision(served, decision, seen, now));
    }
    Ok((events, taken))
}

/// The events of the next changes, and of how many they are.
pub(super) async fn changed(
    asker: &mut Asker,
    served: &HashMap<i32, Served>,
    rest: &[Changed],
    unread: &Unread,
    now: Timestamp,
) -> Result<(Vec<Told>, usize), Untold> {
    let (mut events, mut taken, began) = (Vec::new(), 0, Instant::now());
    for changed in rest.iter().take(DECISIONS_PER_CHUNK) {
        if began.elapsed() > ASKING_AT_MOST {
            break;
        }
        taken += 1;
        let Some(served) = served.get(&changed.watch) else { continue };
        let key = served.watch.key_from_text(&changed.key).object;
        let lookup = match ask(asker, served, &key, changed.row()).await {
            Err(Untold::TooMuch) if taken > 1 => {
                taken -= 1;
                break;
            }
            asked => asked?,
        };
        let seen = Seen { unread: unread.of(&served.watch, &key), lookup: lookup.as_ref() };
        events.extend(tell::change(served, changed, seen, now));
    }
    Ok((events, taken))
}

/// Asks the lookup of a watch that has one.
pub(super) async fn ask(
    asker: &mut Asker,
    served: &Served,
    key: &Map<String, Value>,
    row: Option<&Map<String, Value>>,
) -> Result<Option<Map<String, Value>>, Untold> {
    let Some(lookup) = &served.watch.lookup else { return Ok(None) };
    let value = |name: &str| key.get(name).or_else(|| row?.get(name)).cloned().unwrap_or_default();
    answered(served, asker.ask(served, lookup, value).await)
}

fn answered(served: &Served, answer: Result<Map<String, Value>, NoAnswer>) -> Result<Option<Map<String, Value>>, Untold> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(NoAnswer::Refused(error)) => Err(Untold::Refused { watch: served.id, why: format!("lookup: {error}") }),
        Err(NoAnswer::TooMuch) => Err(Untold::TooMuch),
    }
}
