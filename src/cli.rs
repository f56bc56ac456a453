//! The command line: one file per command, and the exit codes of the design.

mod alerts;
mod check;
mod completions;
mod deliveries;
mod echo;
mod init;
mod install;
mod man;
mod recount;
mod run;
mod settings;
mod status;
mod terminal;
mod test;
mod trigger;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::reader::parse_duration;
use crate::config::{self, Location};
use crate::db::schema::Schema;
use crate::db::session::{Connector, Purpose};
use crate::error::Error;
use crate::logging::LogFormat;
use crate::plain::plain;
use crate::version;
use deliveries::Filter;

/// Watches counts in PostgreSQL and publishes threshold alerts to Pusher-compatible endpoints.
#[derive(Debug, Parser)]
#[command(name = "items-listen", version = version::SHORT, long_version = version::LONG, about)]
struct Cli {
    #[command(flatten)]
    location: LocationArgs,
    #[command(flatten)]
    trigger: TriggerArgs,
    /// How log lines look, on stderr
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args, Debug, Clone)]
struct LocationArgs {
    #[arg(
        help = "The configuration file [default: $ITEMS_LISTEN_CONFIG, ./config.toml, /etc/items-listen/config.toml]",
        long,
        global = true,
        value_name = "FILE"
    )]
    config: Option<PathBuf>,
    /// A file of other programs' settings, such as a Laravel application's .env; it only fills gaps
    #[arg(long, global = true, value_name = "FILE")]
    env_file: Option<PathBuf>,
}

/// One-shot: classify one count, send what it causes, wait for the answer.
#[derive(Args, Debug)]
struct TriggerArgs {
    /// Classify COUNT now, send what it causes, and wait for the answer
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    trigger: Option<i64>,
    /// The watch; may be left out where there is only one
    #[arg(long, requires = "trigger", value_name = "NAME")]
    watch: Option<String>,
    /// A column of the key and its value; once per column
    #[arg(long = "key", requires = "trigger", value_name = "COLUMN=VALUE")]
    keys: Vec<String>,
    /// Show what would be sent, send nothing
    #[arg(long, requires = "trigger")]
    dry_run: bool,
    /// The result as JSON
    #[arg(long, requires = "trigger")]
    json: bool,
    /// How long to wait for the answer
    #[arg(long, requires = "trigger", default_value = "30s", value_parser = duration)]
    timeout: Duration,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The daemon; what is done without a command
    Run,
    /// Print a first configuration and the next command
    Init {
        /// The table to watch
        #[arg(long, value_name = "SCHEMA.TABLE")]
        table: Option<String>,
    },
    /// Look at file, database and endpoints; every finding with its remedy
    Check(check::Check),
    /// Put schema and triggers for the configured watches in place; idempotent
    Install(install::Install),
    /// The configuration that is in force, with the source of each value; no secret is shown
    Config {
        #[command(subcommand)]
        command: Option<settings::ConfigCommand>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove triggers and schema
    Uninstall,
    /// Count the watched tables anew, while writers go on
    Recount {
        /// Only this watch
        watch: Option<String>,
    },
    /// How everything stands, from the database alone
    Status(status::Show),
    /// Rule tests: readings over time and the events expected of them; no database, no network
    Test {
        /// Files of tests; each names its configuration, unless --config does
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// One JSON object per test
        #[arg(long)]
        json: bool,
    },
    /// The inbox
    Alerts {
        #[command(subcommand)]
        command: AlertsCommand,
    },
    /// The outbox
    Deliveries {
        #[command(subcommand)]
        command: DeliveriesCommand,
    },
    /// Print a shell's completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the man page, or write one for every command
    Man {
        /// A directory for the pages of all commands; it is made if there is none
        directory: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum AlertsCommand {
    /// List alerts, newest first
    List(alerts::List),
    /// Mark alerts read: they are no longer counted as unread until they escalate
    Read(alerts::Read),
}

#[derive(Debug, Subcommand)]
enum DeliveriesCommand {
    /// List deliveries, newest first
    List {
        #[command(flatten)]
        filter: Filter,
        /// Only those in this state
        #[arg(long, value_parser = ["pending", "delivered", "dead", "superseded"])]
        state: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: i64,
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Show one delivery: body, attempts, the endpoint's answer, when and why
    Show {
        /// Its id
        id: i64,
        /// As a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Send dead deliveries again (and a held outbox, in a copied database)
    Retry {
        /// Their ids; without ids and filters, all dead ones
        ids: Vec<i64>,
        #[command(flatten)]
        filter: Filter,
        /// The result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Put dead deliveries away without sending them: they are kept as superseded, with the reason "discarded"
    Discard {
        /// Their ids
        ids: Vec<i64>,
        #[command(flatten)]
        filter: Filter,
        /// Those that wait to be sent, instead of dead ones
        #[arg(long)]
        pending: bool,
        /// All of them
        #[arg(long)]
        all: bool,
        /// The result as JSON
        #[arg(long)]
        json: bool,
    },
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a duration with its unit, such as 500ms, 10s or 5m".to_owned())
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    crate::memory::keep_private();
    let cli = Cli::parse();
    if cli.trigger.trigger.is_some() && cli.command.is_some() {
        use clap::CommandFactory as _;
        Cli::command()
            .error(clap::error::ErrorKind::ArgumentConflict, "--trigger is a command of its own; leave the other out")
            .exit();
    }
    #[cfg(feature = "chaos")]
    crate::chaos::begin();
    crate::logging::init(cli.log_format);
    // One thread: it mostly waits, and each alert would otherwise be handed from thread to thread several times.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&Error::Failed(format!("no runtime: {error}"))),
    };
    match runtime.block_on(dispatch(cli)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => complain(&error),
    }
}

fn complain(error: &Error) -> ExitCode {
    complain_of("items-listen", error);
    ExitCode::from(error.exit_code())
}

async fn dispatch(cli: Cli) -> Result<u8, Error> {
    let location = Location { config: cli.location.config, env_file: cli.location.env_file };
    if let Command::Init { table } = cli.command.as_ref().unwrap_or(&Command::Run) {
        return init::run(&location, table.as_deref());
    }
    if let Some(Command::Check(args)) = cli.command {
        return check::run(&location, args).await;
    }
    if let Some(Command::Test { files, json }) = &cli.command {
        return test::run(&location, files, *json);
    }
    if let Some(Command::Completions { shell }) = cli.command {
        return completions::run(shell);
    }
    if let Some(Command::Man { directory }) = &cli.command {
        return man::run(directory.as_deref());
    }
    if let Some(Command::Config { command, json }) = cli.command {
        return settings::run(&location, command, json);
    }
    let config = config::load(&location)?;
    match cli.command {
        None | Some(Command::Run) => match cli.trigger.trigger {
            Some(count) => trigger::run(&config, count, &cli.trigger).await,
            None => run::run(&location, config).await,
        },
        Some(Command::Install(args)) => install::run(&config, &args).await,
        Some(Command::Config { .. }) => Ok(0),
        Some(Command::Uninstall) => install::uninstall(&config).await,
        Some(Command::Recount { watch }) => recount::run(&config, watch.as_deref()).await,
        Some(Command::Status(args)) => status::run(&config, args).await,
        Some(Command::Alerts { command: AlertsCommand::List(args) }) => alerts::list(&config, &args).await,
        Some(Command::Alerts { command: AlertsCommand::Read(args) }) => alerts::read(&config, &args).await,
        Some(Command::Deliveries { command }) => match command {
            DeliveriesCommand::List { filter, state, limit, json } => {
                deliveries::list(&config, &filter, state.as_deref(), limit, json).await
            }
            DeliveriesCommand::Show { id, json } => deliveries::show(&config, id, json).await,
            DeliveriesCommand::Retry { ids, filter, json } => deliveries::retry(&config, &ids, &filter, json).await,
            DeliveriesCommand::Discard { ids, filter, pending, all, json } => {
                let which = deliveries::Discard { ids, filter, pending, all };
                deliveries::discard(&config, &which, json).await
            }
        },
        Some(
            Command::Init { .. } | Command::Check(_) | Command::Test { .. } | Command::Completions { .. } | Command::Man { .. },
        ) => Ok(0),
    }
}

/// A session for a command, and the schema it works in.
async fn connect(config: &config::Config, purpose: Purpose) -> Result<(tokio_postgres::Client, Connector, Schema), Error> {
    let database = config.require_database()?;
    let connector = Connector::new(&database.url, &database.schema)?;
    let unreachable = |error: Error| match error {
        error @ Error::Unavailable(_) => error,
        error if error.exit_code() == 69 => Error::Unavailable(format!("{}: {error}", connector.describe())),
        error => error,
    };
    connector.require_direct().await.map_err(unreachable)?;
    let client = connector.session(purpose).await.map_err(unreachable)?;
    Ok((client, connector, Schema::new(&database.schema)))
}

/// Refuses commands that need our tables where there are none.
async fn require_schema(client: &tokio_postgres::Client, schema: &Schema) -> Result<(), Error> {
    match crate::db::migrate::check_version(client, schema).await? {
        Some(_) => Ok(()),
        None => Err(Error::Failed("nothing is installed in this database; run items-listen install, or the daemon".to_owned())),
    }
}

/// Results go to stdout; a reader that went away is no failure of ours.
fn print(text: &str) {
    print_bytes(format!("{text}\n").as_bytes());
}

fn print_bytes(bytes: &[u8]) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let _closed = out.write_all(bytes).and_then(|()| out.flush());
}

/// The same for a program, as JSON: on a terminal it steers no more than what a person reads.
fn print_json(value: &impl serde::Serialize) {
    print(&crate::plain::json(&serde_json::to_string(value).unwrap_or_default()));
}

/// What went wrong, on stderr and on one line; what the database says of it may hold anything.
fn complain_of(what: &str, error: &Error) {
    match error {
        // One line for each mistake.
        Error::Config(mistakes) => mistakes.iter().for_each(|mistake| eprintln!("{what}: {}", plain(&mistake.to_string()))),
        error => eprintln!("{what}: {}", plain(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
