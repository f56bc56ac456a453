//! One session: the connection string, TLS, and the settings that every session of ours makes itself.

use std::str::FromStr as _;
use std::time::Duration;

use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use super::connect::{self, Driver};
use super::dsn::Dsn;
use super::sslmode::{FILES, Settings};
use super::tls::Tls;
use crate::config::Secret;
use crate::error::Error;

/// A session that installs or recounts rests no longer than this between two statements.
const IDLE_INSTALL: Duration = Duration::from_secs(20);
/// Connecting, TLS and authentication together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How a session differs from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It listens, and its poll is the heartbeat: the server puts it out after three silent beats.
    Listen {
        /// The time between two beats.
        beat: Duration,
    },
    /// It folds: short transactions, put out by the server if it stops in the middle of one.
    Fold,
    /// Claims, settlements, questions.
    Work,
    /// Schema and triggers: never waits long for a lock.
    Install,
    /// Migrations: an index on a large table takes its time.
    Migrate,
    /// A recount: long statements are its trade.
    Recount,
    /// SQL that a person wrote: it may only read, and for so long.
    Read {
        /// How long one statement may take.
        at_most: Duration,
    },
}

/// A plan made while a table is small must not be the one that later walks over all of it; and one plan for all arguments
/// is made once, where planning takes as long as running.
pub const INDEXES_ALWAYS: &str = " SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan;";

/// So much longer than its statements may take a session waits for an answer, before it takes the connection for lost.
const PATIENCE_MARGIN: Duration = Duration::from_secs(3);

impl Purpose {
    /// How long one statement may take; none: as long as it likes.
    fn statement_timeout(self) -> Option<Duration> {
        match self {
            Purpose::Listen { .. } | Purpose::Work => Some(Duration::from_secs(10)),
            // A changed policy marks every key of its watch.
            Purpose::Install => Some(Duration::from_secs(30)),
            Purpose::Fold => Some(Duration::from_secs(30)),
            Purpose::Recount | Purpose::Migrate => None,
            Purpose::Read { at_most } => Some(at_most),
        }
    }

    /// How long an answer may take.
    pub fn patience(self) -> Option<Duration> {
        self.statement_timeout().map(|timeout| timeout + PATIENCE_MARGIN)
    }
}

/// A connection string, understood.
#[derive(Debug)]
pub struct Parsed {
    config: Config,
    tls: Settings,
}

/// Reads a connection string. What libpq says about TLS, much of which tokio-postgres refuses, is understood.
///
/// # Errors
/// What is wrong, without repeating the string, which may hold a password.
pub fn parse_url(url: &Secret) -> Result<Parsed, String> {
    let mut dsn = Dsn::parse(url.expose())?;
    let tls = Settings::take(&mut dsn)?;
    let mut config = Config::from_str(&dsn.text()).map_err(|error| match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })?;
    tls.apply(&mut config);
    connect::refuse_unpaired(&config)?;
    config.connect_timeout(CONNECT_TIMEOUT);
    config.keepalives_idle(Duration::from_secs(15));
    config.keepalives_interval(Duration::from_secs(5));
    config.keepalives_retries(3);
    config.tcp_user_timeout(Duration::from_secs(30));
    if config.get_application_name().is_none() {
        config.application_name("items-listen");
    }
    Ok(Parsed { config, tls })
}

/// The connection string with the places of its files as `find` has them.
///
/// # Errors
/// What is wrong with it, without repeating it.
pub fn with_files(url: &Secret, find: impl Fn(&str) -> std::path::PathBuf) -> Result<Secret, String> {
    let mut dsn = Dsn::parse(url.expose())?;
    let before = dsn.clone();
    for name in FILES {
        dsn.replace(name, |file| {
            if name == "sslrootcert" && file == "system" { file.to_owned() } else { find(file).display().to_string() }
        });
    }
    Ok(if dsn == before { url.clone() } else { Secret::new(dsn.text()) })
}

/// What is needed to open sessions.
#[derive(Clone)]
pub struct Connector {
    config: Config,
    tls: Tls,
    schema: String,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl Connector {
    /// Prepares for connecting.
    ///
    /// # Errors
    /// A URL that is wrong, or certificates that cannot be read.
    pub fn new(url: &Secret, schema: &str) -> Result<Connector, Error> {
        let parsed = parse_url(url).map_err(|what| Error::Failed(format!("database.url: {what}")))?;
        let tls = Tls::new(parsed.tls).map_err(|error| Error::Failed(format!("database.url: {error}")))?;
        Ok(Connector { config: parsed.config, tls, schema: schema.to_owned() })
    }

    /// What a pool needs to open sessions by itself.
    pub fn parts(&self) -> (Config, Tls) {
        (self.config.clone(), self.tls.clone())
    }

    /// What is asked of TLS, and what was seen of it.
    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Whether nothing leaves this machine: every host is a Unix socket or loopback.
    pub fn is_local(&self) -> bool {
        let is_loopback = |ip: std::net::IpAddr| ip.is_loopback();
        let addresses = self.config.get_hostaddrs();
        if !addresses.is_empty() {
            return addresses.iter().copied().all(is_loopback);
        }
        self.config.get_hosts().iter().all(|host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(is_loopback),
        })
    }

    /// Whether a session may be over TCP, so that TLS can be asked for: not every host is a directory of Unix sockets.
    pub fn has_tcp(&self) -> bool {
        self.config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(_)))
    }

    /// Whether a session may be over a Unix socket.
    pub fn has_sockets(&self) -> bool {
        self.config.get_hosts().iter().any(|host| matches!(host, Host::Unix(_)))
    }

    /// `host:port/database`, for messages.
    pub fn describe(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "localhost".to_owned(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        format!("{host}:{port}/{}", self.config.get_dbname().unwrap_or_default())
    }

    /// Opens a session whose connection the caller drives, as whoever listens must: a connection that
    /// is merely spawned throws its notifications away. Its settings are not made yet.
    ///
    /// # Errors
    /// The database cannot be reached, or refuses.
    pub async fn open(&self, purpose: Purpose) -> Result<(Client, Driver), Error> {
        match tokio::time::timeout(CONNECT_TIMEOUT, Box::pin(connect::open(&self.config, &self.tls, purpose.patience()))).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(Error::Unavailable(format!("{} did not answer within {CONNECT_TIMEOUT:?}", self.describe()))),
        }
    }

    /// Refuses to work through a pooler that gives each transaction another server session: LISTEN, advisory locks and
    /// settings belong to a session, and would be left behind in one that is the application's a moment later. To be
    /// asked before anything of that kind is done.
    ///
    /// Two sessions of ours tell: while one is in a transaction, the other must still be where it was.
    ///
    /// # Errors
    /// What is in the way and what to do; or the database cannot be reached.
    pub async fn require_direct(&self) -> Result<(), Error> {
        if !self.is_pooled().await? {
            return Ok(());
        }
        Err(Error::Unavailable(format!(
            "{}: a pooler such as PgBouncer in transaction mode is in the way: LISTEN and session locks cannot work through it; \
             point database.url at the server itself, or at a pool in session mode",
            self.describe()
        )))
    }

    /// Whether a pooler gives each transaction another server session: see [`Connector::require_direct`].
    ///
    /// # Errors
    /// The database cannot be reached, or refuses.
    pub async fn is_pooled(&self) -> Result<bool, Error> {
        let (one, two) = (self.bare(Purpose::Work).await?, self.bare(Purpose::Work).await?);
        let first = backend(&one).await?;
        two.batch_execute("BEGIN").await?;
        let other = backend(&two).await?;
        let pooled = first == other || backend(&one).await? != first;
        two.batch_execute("ROLLBACK").await?;
        Ok(pooled)
    }

    /// Refuses a standby, on which nothing can be written.
    ///
    /// # Errors
    /// It is one, and what to do; or the database cannot be reached.
    pub async fn require_primary(&self) -> Result<(), Error> {
        let client = self.bare(Purpose::Work).await?;
        if client.query_one("SELECT pg_is_in_recovery()", &[]).await?.get(0) {
            return Err(Error::Unavailable(format!(
                "{} is a standby, on which nothing can be listened to or written; point database.url at the primary",
                self.describe()
            )));
        }
        Ok(())
    }

    /// A session without any settings.
    ///
    /// # Errors
    /// The database cannot be reached, or refuses.
    pub async fn bare(&self, purpose: Purpose) -> Result<Client, Error> {
        let (client, driver) = self.open(purpose).await?;
        tokio::spawn(async move {
            // Whoever uses the client sees the error there.
            let _ended = driver.await;
        });
        Ok(client)
    }

    /// Opens a session that drives itself, with its settings made.
    ///
    /// # Errors
    /// The database cannot be reached, or refuses.
    pub async fn session(&self, purpose: Purpose) -> Result<Client, Error> {
        let client = self.bare(purpose).await?;
        // A moment's work, whatever comes after: not every session has patience of its own.
        match tokio::time::timeout(CONNECT_TIMEOUT, set(&client, &self.settings(purpose))).await {
            Ok(made) => made?,
            Err(_) => return Err(Error::Unavailable(format!("{} did not answer within {CONNECT_TIMEOUT:?}", self.describe()))),
        }
        Ok(client)
    }

    /// What a session sets itself, whatever role, database or server say: see `concurrency.md`, Sessions.
    pub fn settings(&self, purpose: Purpose) -> String {
        let (lock, idle_in_transaction) = match purpose {
            Purpose::Listen { .. } => ("1s", "5s"),
            Purpose::Fold | Purpose::Work => ("5s", "5s"),
            Purpose::Install => ("100ms", "10s"),
            Purpose::Recount | Purpose::Migrate => ("1s", "10s"),
            Purpose::Read { .. } => ("500ms", "10s"),
        };
        let statement = purpose.statement_timeout().map_or(0, |timeout| timeout.as_millis());
        let isolation = if purpose == Purpose::Recount { "repeatable read" } else { "read committed" };
        let mut settings = format!(
            "SET default_transaction_isolation = '{isolation}'; SET default_transaction_read_only = off; \
             SET row_security = off; SET synchronous_commit = on; SET search_path = pg_catalog, pg_temp; \
             SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET lock_timeout = '{lock}'; SET statement_timeout = '{statement}'; \
             SET idle_in_transaction_session_timeout = '{idle_in_transaction}'; SET client_min_messages = warning; \
             SET standard_conforming_strings = on; \
             SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; \
             SET tcp_user_timeout = '30s';"
        );
        let idle = match purpose {
            Purpose::Listen { beat } => (beat * 3).as_millis(),
            // They hold locks that others wait for, and rest for moments only: one that is cut off must not keep them.
            Purpose::Install | Purpose::Migrate | Purpose::Recount => IDLE_INSTALL.as_millis(),
            Purpose::Fold | Purpose::Work | Purpose::Read { .. } => 0,
        };
        settings.push_str(&format!(" SET idle_session_timeout = {idle}; SET jit = off;"));
        if matches!(purpose, Purpose::Listen { .. } | Purpose::Fold) {
            settings.push_str(INDEXES_ALWAYS);
        }
        if purpose == Purpose::Fold {
            // One session of all replicas works at a time, and a backlog is sorted and added up in it.
            settings.push_str(" SET work_mem = '32MB';");
        }
        if let Purpose::Read { .. } = purpose {
            settings.push_str(&format!(" SET default_transaction_read_only = on; {};", crate::source::sweep::USER_PATH));
        }
        settings
    }
}

/// How often settings are tried that the settings which they replace cancel.
const SET_TRIES_MAX: u32 = 20;

/// Makes a session's settings. A `statement_timeout` that the role or the database has by default holds for the statements
/// that replace it, too, and one of a millisecond may be over before a busy machine is through with them: then they are
/// tried again.
///
/// # Errors
/// The session is lost, or refuses.
pub async fn set(client: &Client, settings: &str) -> Result<(), tokio_postgres::Error> {
    for _ in 1..SET_TRIES_MAX {
        match client.batch_execute(settings).await {
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {}
            done => return done,
        }
    }
    client.batch_execute(settings).await
}

/// Which server process answers. Without a prepared statement, which a pooler might not keep either.
async fn backend(client: &Client) -> Result<String, Error> {
    let messages = client.simple_query("SELECT pg_backend_pid()").await?;
    let pid = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    pid.ok_or_else(|| Error::Failed("the server did not say which process it is".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_is_wrong_without_being_repeated() {
        for (url, says) in [
            ("postgres:///d", "a host is missing"),
            ("hostaddr=127.0.0.1 password=hush", "hostaddr without host"),
            ("host=a hostaddr=127.0.0.1,127.0.0.2 password=hush", "1 host and 2 hostaddr"),
            ("postgres://u:hush@a,b/d?hostaddr=127.0.0.1", "2 host and 1 hostaddr"),
            ("host=/tmp,a hostaddr=127.0.0.1,127.0.0.2 password=hush", "a directory"),
            ("postgres://u:hush@%2Ftmp/d?hostaddr=127.0.0.1", "a directory"),
            ("host=a,b,c port=1,2 password=hush", "3 host and 2 port"),
            ("host=h sslmode=maybe password=hush", "sslmode=maybe"),
            ("postgres://u:hush@h/d?port=x", "port"),
            ("postgres://u:hush@h/d?sslmod=require", "\"sslmod\""),
        ] {
            let said = parse_url(&Secret::new(url)).expect_err(url);
            assert!(said.contains(says) && !said.contains("hush"), "{url}: {said}");
        }
    }

    #[test]
    fn files_are_where_the_configuration_says_and_nothing_else_changes() {
        let find = |file: &str| std::path::Path::new("/etc/x").join(file);
        let with = |url: &str| with_files(&Secret::new(url), find).expect(url).expose().to_owned();
        for untouched in ["postgres://u:p%20q@h/d?a=%20b", "host=h  user=u", "postgres://h/d?sslrootcert=system"] {
            assert_eq!(with(untouched), untouched);
        }
        assert_eq!(
            with("postgres://u:p%20q@h/d?sslrootcert=a b.pem&x=y&sslkey=%2Fk"),
            "postgres://u:p%20q@h/d?sslrootcert=/etc/x/a%20b.pem&x=y&sslkey=/k"
        );
        assert_eq!(with("host=h sslcert=c sslcrl=d"), "host='h' sslcert='/etc/x/c' sslcrl='/etc/x/d'");
    }
}
