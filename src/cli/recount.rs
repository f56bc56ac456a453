//! `items-listen recount [WATCH]`

use std::time::Duration;

use crate::config::Config;
use crate::db::session::Purpose;
use crate::error::Error;
use crate::journal::recount::{self, Outcome};
use crate::watch::Source;

/// How often a recount that another does, or that has to give way, is tried.
const TRIES_MAX: u32 = 60;
const PAUSE: Duration = Duration::from_millis(500);

/// Counts one watch anew, or all.
pub(super) async fn run(config: &Config, name: Option<&str>) -> Result<u8, Error> {
    let (client, connector, schema) = super::connect(config, Purpose::Work).await?;
    super::require_schema(&client, &schema).await?;
    if let Some(name) = name
        && config.watch(name).is_none()
    {
        let names: Vec<&str> = config.watches.iter().map(|watch| watch.name.as_str()).collect();
        return Err(Error::Usage(format!("there is no watch \"{name}\"; there are {}", names.join(", "))));
    }
    for watch in config.watches.iter().filter(|watch| name.is_none_or(|name| name == watch.name)) {
        if !matches!(watch.source, Source::Table { .. }) {
            super::print(&format!("{}: not a watch of a table, nothing to count", watch.name));
            continue;
        }
        super::print(&format!("{}: {}", watch.name, count(&connector, &schema, watch).await?));
    }
    Ok(0)
}

async fn count(
    connector: &crate::db::session::Connector,
    schema: &crate::db::schema::Schema,
    watch: &crate::watch::Watch,
) -> Result<String, Error> {
    for attempt in 1..=TRIES_MAX {
        match recount::run(connector, schema, watch).await {
            Ok(Outcome::Done { corrected: 0 }) => return Ok("exact, nothing to correct".to_owned()),
            Ok(Outcome::Done { corrected: 1 }) => return Ok("1 key corrected".to_owned()),
            Ok(Outcome::Done { corrected }) => return Ok(format!("{corrected} keys corrected")),
            Ok(Outcome::Uncovered) => {
                return Err(Error::Failed(format!(
                    "{}: its triggers are not all in place; run items-listen install",
                    watch.name
                )));
            }
            // Somebody else counts it, or needs the table more.
            Ok(Outcome::Busy) => {}
            Err(error) if error.sqlstate() == Some("57014") || error.sqlstate() == Some("55P03") => {}
            Err(error) => return Err(error),
        }
        if attempt == 2 {
            eprintln!("{}: somebody else uses the table, or counts it; waiting", watch.name);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(Error::Failed(format!("{}: the table was never free long enough; try again", watch.name)))
}
