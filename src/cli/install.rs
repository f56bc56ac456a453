//! `items-listen install` and `uninstall`

use crate::config::Config;
use crate::db::migrate::{self, InstallLock};
use crate::db::session::Purpose;
use crate::error::Error;
use crate::journal::definition::Definition;
use crate::journal::guard;
use crate::journal::roles::Roles;
use crate::journal::{install, retire, script};

/// What is to be put in place, and how.
#[derive(clap::Args, Debug)]
pub(super) struct Install {
    /// Print the SQL for a DBA instead
    #[arg(long)]
    print: bool,
    /// What is beyond its threshold now counts as already said
    #[arg(long, conflicts_with = "print")]
    baseline: bool,
    /// Install although a FOR ALL TABLES publication would carry our tables
    #[arg(long)]
    allow_publication: bool,
    /// With --print: let the script create three roles with no more rights than each needs
    #[arg(long, requires = "print")]
    roles: bool,
    /// The role that owns schema, tables and functions
    #[arg(long, requires = "roles", value_name = "ROLE", default_value = "items_listen_owner")]
    owner: String,
    /// The role that the daemon and its commands connect as
    #[arg(long, requires = "roles", value_name = "ROLE", default_value = "items_listen_daemon")]
    daemon: String,
    /// The role for applications that read alerts or edit thresholds
    #[arg(long, requires = "roles", value_name = "ROLE", default_value = "items_listen_app")]
    application: String,
}

impl Install {
    /// The roles that the script is to create, if any.
    fn roles(&self) -> Result<Option<Roles>, Error> {
        self.roles.then(|| Roles::new(&self.owner, &self.daemon, &self.application)).transpose()
    }
}

/// How often a table that is in use is tried again.
const ROUNDS: u32 = 20;

/// Puts everything in place, or prints how.
pub(super) async fn run(config: &Config, args: &Install) -> Result<u8, Error> {
    let Install { print, baseline, allow_publication, .. } = *args;
    let roles = args.roles()?;
    let (mut patient, connector, schema) = super::connect(config, Purpose::Migrate).await?;
    migrate::check_version(&patient, &schema).await?;
    install::check_publications(&patient, &schema, allow_publication).await?;
    if print {
        super::print(&script::script(&mut patient, &schema, &config.watches, allow_publication, roles.as_ref()).await?);
        return Ok(0);
    }
    // Each on the session that holds its lock: one that rested meanwhile would be put out.
    migrate::locked(&connector, &mut patient, &schema).await?;
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
                for strange in trusted(&client, &schema, watch).await? {
                    super::print(&format!("{}: {}", watch.name, super::plain(&strange)));
                }
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

/// What is trusted from now on, since a person has installed it.
async fn trusted(
    client: &tokio_postgres::Client,
    schema: &crate::db::schema::Schema,
    watch: &crate::watch::Watch,
) -> Result<Vec<String>, Error> {
    let Some(definition) = Definition::of(client, schema, watch).await? else { return Ok(Vec::new()) };
    let strange = guard::strange(&definition.guarded).into_iter();
    Ok(strange.map(|strange| format!("{strange} as our roles: it is trusted from now on (items-listen check)")).collect())
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
    retire::everything(&client, &schema).await.map_err(|error| match error.sqlstate() {
        Some("42501") => Error::Failed(format!(
            "{error}; let who owns schema and tables run items-listen uninstall, or a DBA: SET lock_timeout = '1s'; DROP SCHEMA {} CASCADE; \
             which takes the triggers away, too",
            schema.name()
        )),
        _ => error,
    })?;
    super::print(&format!("triggers and the schema {} are removed", schema.name()));
    Ok(0)
}
