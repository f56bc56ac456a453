//! The configuration: from a TOML file, the environment and other programs' names to a checked
//! [`Config`], or to the list of everything that is wrong.
//!
//! Two steps. A tree in which each value knows its origin ([`document`], [`environment`]), then typed
//! reading that collects mistakes instead of stopping at the first ([`reader`], [`read`]). Nothing
//! downstream validates again.

pub mod document;
pub mod effective;
pub mod environment;
pub mod exposure;
pub mod keys;
pub mod listen;
pub mod read;
mod read_endpoint;
mod read_rule;
mod read_watch;
pub mod reader;
pub mod redact;
pub mod reference;
mod rehearse;
pub mod schema;
pub mod secret;
pub(crate) mod secret_file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zeroize::{Zeroize as _, Zeroizing};

pub use document::Mistake;
pub use effective::Effective;
pub use listen::{Hide, Http, Listen};
pub use reader::SecretPlaces;
pub use secret::Secret;

use crate::dispatch::rate::Rate;
use crate::error::Error;
use crate::pusher::encrypt::Key;
use crate::retention::Retention;
use crate::retry::Retry;
use crate::watch::Watch;

/// Everything that the program was told, checked.
#[derive(Debug)]
pub struct Config {
    /// The file it was read from, or what is said in its place.
    pub file: String,
    /// The database; without one only `--trigger` works, and sends directly.
    pub database: Option<Database>,
    /// The endpoints, in the order of the file.
    pub endpoints: Vec<Endpoint>,
    /// The watches, in the order of the file.
    pub watches: Vec<Arc<Watch>>,
    /// Health and status over HTTP; `None` where `enabled = false`.
    pub http: Option<Http>,
    /// Where its secrets are.
    pub secret_places: SecretPlaces,
    /// Changes whenever anything in it does but a secret. It is published: no secret can be tried against it.
    pub hash: String,
    /// Changes whenever anything in it does, secrets included. It stays in this process.
    pub whole: Secret,
}

impl Config {
    /// The watch of that name.
    pub fn watch(&self, name: &str) -> Option<&Watch> {
        self.watches.iter().map(Arc::as_ref).find(|watch| watch.name == name)
    }

    /// The database, for commands that cannot do without.
    ///
    /// # Errors
    /// A configuration error that says how to name one.
    pub fn require_database(&self) -> Result<&Database, Error> {
        self.database.as_ref().ok_or_else(|| {
            Error::Config(vec![Mistake {
                place: self.file.clone(),
                what: "database.url: missing; set it under [database], or set DATABASE_URL".to_owned(),
            }])
        })
    }
}

/// `[database]`
#[derive(Clone, Debug)]
pub struct Database {
    /// How to connect.
    pub url: Secret,
    /// Where our tables are.
    pub schema: String,
    /// Whether the daemon installs schema and triggers itself.
    pub install: Install,
    /// Connections besides the two that listen and fold.
    pub pool_size: usize,
    /// Whether writers may be made to NOTIFY.
    pub doorbell: Doorbell,
    /// The slow beat.
    pub poll: Duration,
    /// How long what is over is kept.
    pub retention: Retention,
}

/// `[database] install`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Install {
    /// The daemon does it, at start and whenever something is missing.
    Auto,
    /// Somebody runs `items-listen install`.
    Manual,
}

/// `[database] doorbell`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doorbell {
    /// On, unless the server allows prepared transactions, which NOTIFY would break.
    Auto,
    /// On.
    On,
    /// Off: a quicker poll instead.
    Off,
}

/// `[endpoints.NAME]`
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its name.
    pub name: String,
    /// Where events go.
    pub target: Target,
    /// The whole request must be over in this time.
    pub timeout: Duration,
    /// How many requests may be under way at once.
    pub in_flight: usize,
    /// How many requests in which span of time; without it, as many as it takes.
    pub rate: Option<Rate>,
    /// How many events one request may carry.
    pub max_batch: usize,
    /// How many bytes the body of one request may have.
    pub max_request_bytes: usize,
    /// When a failed delivery is tried again.
    pub retry: Retry,
    /// The master key of encrypted channels.
    pub encryption_key: Option<Key>,
}

/// Where an endpoint's events go.
#[derive(Clone, Debug)]
pub enum Target {
    /// A Pusher-compatible HTTP API.
    Pusher(Pusher),
    /// One JSON object per line to stdout.
    Log,
}

/// The HTTP API of one application on a Pusher-compatible server.
#[derive(Clone)]
pub struct Pusher {
    /// Scheme, host, port and perhaps a path that precedes `/apps/…`.
    pub url: url::Url,
    /// The application's id.
    pub app_id: String,
    /// Its key.
    pub key: String,
    /// Its secret.
    pub secret: Secret,
    /// Whether the path of `url` is signed too (Soketi wants that).
    pub sign_path: bool,
    /// Certificates of issuers that are accepted besides those that this machine knows.
    pub issuers: Vec<rustls::pki_types::CertificateDer<'static>>,
}

impl std::fmt::Debug for Pusher {
    /// Its URL may have a name and a password in it, which are not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Pusher { url, app_id, key, secret, sign_path, issuers } = self;
        let url = redact::address(url.as_str()).0;
        let mut told = f.debug_struct("Pusher");
        told.field("url", &url).field("app_id", app_id).field("key", key).field("secret", secret);
        told.field("sign_path", sign_path).field("issuers", issuers).finish()
    }
}

/// What the command line says about where the configuration is.
#[derive(Clone, Debug, Default)]
pub struct Location {
    /// `--config`, or `$ITEMS_LISTEN_CONFIG`.
    pub config: Option<PathBuf>,
    /// `--env-file`: a file of other programs' names, such as a Laravel application's .env.
    pub env_file: Option<PathBuf>,
}

impl Location {
    /// The same place, once it is known which file it is: a file that goes must not give way to another one, or to none.
    #[must_use]
    pub fn settled(&self, config: &Config) -> Location {
        let found = DEFAULT_FILES.iter().find(|file| **file == config.file).map(PathBuf::from);
        Location { config: self.config.clone().or(found), env_file: self.env_file.clone() }
    }
}

/// Where a file is looked for when none is named.
const DEFAULT_FILES: [&str; 2] = ["config.toml", "/etc/items-listen/config.toml"];

/// Loads the configuration.
///
/// # Errors
/// [`Error::Config`] with everything that is wrong.
pub fn load(location: &Location) -> Result<Config, Error> {
    load_from(location, &Environment::of_this_process().0)
}

/// The environment of this process, whose copy is overwritten when it is no longer needed.
struct Environment(BTreeMap<String, String>);

impl Environment {
    fn of_this_process() -> Environment {
        Environment(std::env::vars().collect())
    }

    /// What stands in the file given with `--env-file`, if one was.
    fn borrowed(location: &Location) -> Result<Environment, Error> {
        Ok(Environment(location.env_file.as_deref().map(environment::read_env_file).transpose()?.unwrap_or_default()))
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        self.0.values_mut().for_each(|value| value.zeroize());
    }
}

/// Loads the configuration, and tells of every key what it is and where that comes from.
///
/// # Errors
/// [`Error::Config`] with everything that is wrong.
pub fn load_effective(location: &Location) -> Result<(Config, Effective), Error> {
    let environment = Environment::of_this_process();
    let (name, exists, text) = find(location, &environment.0)?;
    let borrowed = Environment::borrowed(location)?;
    read::effective(&name, exists, &text, &environment::Variables::new(&environment.0, &borrowed.0)).map_err(Error::Config)
}

/// Loads the configuration from the given environment.
///
/// # Errors
/// [`Error::Config`] with everything that is wrong.
pub fn load_from(location: &Location, environment: &BTreeMap<String, String>) -> Result<Config, Error> {
    let (name, exists, text) = find(location, environment)?;
    let borrowed = Environment::borrowed(location)?;
    let variables = environment::Variables::new(environment, &borrowed.0);
    let mut config = read::config(&name, exists, &text, &variables).map_err(Error::Config)?;
    config.secret_places.env_file.clone_from(&location.env_file);
    Ok(config)
}

/// The name of the file, whether there is one, and its text.
fn find(location: &Location, environment: &BTreeMap<String, String>) -> Result<(String, bool, Zeroizing<String>), Error> {
    let named = location.config.clone().or_else(|| environment.get("ITEMS_LISTEN_CONFIG").map(PathBuf::from));
    match named.or_else(|| DEFAULT_FILES.iter().map(PathBuf::from).find(|path| path.exists())) {
        Some(path) => Ok((path.display().to_string(), true, Zeroizing::new(read_file(&path)?))),
        None => Ok(("(no configuration file)".to_owned(), false, Zeroizing::default())),
    }
}

/// Loads the named configuration for rule tests, which send nothing and reach nothing: it may be without an endpoint, and
/// files that hold secrets are not read.
///
/// # Errors
/// [`Error::Config`] with everything that is wrong.
pub fn load_rehearsal(path: &Path, env_file: Option<&Path>, environment: &BTreeMap<String, String>) -> Result<Config, Error> {
    let text = Zeroizing::new(read_file(path)?);
    let borrowed = env_file.map(environment::read_env_file).transpose()?.unwrap_or_default();
    let variables = environment::Variables::new(environment, &borrowed);
    read::rehearsal(&path.display().to_string(), &text, &variables).map_err(Error::Config)
}

/// Reads a whole text file.
///
/// # Errors
/// [`Error::Config`] with its name.
pub fn read_file(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|error| {
        Error::Config(vec![Mistake { place: path.display().to_string(), what: format!("cannot be read: {error}") }])
    })
}
