//! `items-listen install` and `uninstall`

use crate::config::Config;
use crate::db::migrate::{self, InstallLock};
use crate::db::session::Purpose;
use crate::error::Error;
use crate::journal::{install, retire, script};

/// How often a table that is in use is tried again.
const ROUNDS: u32 = 20;

/// Puts everything in place, or prints how.
pub(super) async fn run(config: &Config, print: bool, baseline: bool, allow_publication: bool) -> Result<u8, Error> {
    let (mut patient, connector, schema) = super::connect(config, Purpose::Migrate).await?;
    migrate::check_version(&patient, &schema).await?;
    install::check_publications(&patient, &schema, allow_publication).await?;
    if print {
        super::print(&script::script(&patient, &schema, &config.watches, allow_publication).await?);
        return Ok(0);
    }
    // Each on the session that holds its lock: one that rested meanwhile would be put out.
    let lock = InstallLock::take(&patient, &schema).await?;
    migrate::run(&mut patient, &schema).await?;
    lock.release(&patient).await;
    let mut client = connector.session(Purpose::Install).await?;
    let lock = InstallLock::take(&client, &schema).await?;
    if allow_publication {
        client.batch_execute(&schema.sql("UPDATE items_listen.cluster SET allow_publication = true")).await?;
    }
    let mut failed = 0;
    for watch in &config.watches {
        match patiently(&mut client, &schema, watch, baseline).await {
            Ok(_) => {
                install::record_error(&client, &schema, watch, None).await?;
                super::print(&format!("{}: in place", watch.name));
            }
            Err(error) if error.exit_code() == 69 => return Err(error),
            Err(error) => {
                failed += 1;
                super::complain_of(&watch.name, &error);
            }
        }
    }
    let names: Vec<String> = config.watches.iter().map(|watch| watch.name.clone()).collect();
    for (id, name) in retire::strangers(&client, &schema, &names, &[]).await? {
        retire::watch(&mut client, &schema, id, &name).await?;
        super::print(&format!("{}: removed, it is not in the configuration", super::plain(&name)));
    }
    lock.release(&client).await;
    Ok(u8::from(failed > 0))
}

/// A person waits longer than a daemon: about a minute for a table that is in use.
async fn patiently(
    client: &mut tokio_postgres::Client,
    schema: &crate::db::schema::Schema,
    watch: &crate::watch::Watch,
    baseline: bool,
) -> Result<install::Installed, Error> {
    for _ in 0..ROUNDS {
        match install::ensure(client, schema, watch, baseline).await {
            Err(error) if error.is_busy() => eprintln!("{}: {}; trying again", watch.name, super::plain(&error.to_string())),
            done => return done,
        }
    }
    install::ensure(client, schema, watch, baseline).await
}

/// Removes triggers and schema.
pub(super) async fn uninstall(config: &Config) -> Result<u8, Error> {
    let (client, _, schema) = super::connect(config, Purpose::Install).await?;
    if migrate::check_version(&client, &schema).await?.is_none() {
        super::print("nothing is installed");
        return Ok(0);
    }
    let lock = InstallLock::take(&client, &schema).await?;
    let live = schema.sql("SELECT count(*) FROM items_listen.instance WHERE beat_at > clock_timestamp() - interval '5 s'");
    let live: i64 = client.query_one(live.as_str(), &[]).await?.get(0);
    if live > 0 {
        lock.release(&client).await;
        return Err(Error::Failed(format!("{live} daemon(s) are running and would install everything again; stop them first")));
    }
    retire::everything(&client, &schema).await?;
    super::print(&format!("triggers and the schema {} are removed", schema.name()));
    Ok(0)
}
