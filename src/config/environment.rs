//! What the environment says: our own variables, and other programs' names, which only fill gaps.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::document::{Mistake, Node, graft};
use crate::error::Error;

/// The prefix of our own variables; `__` stands for a dot.
const PREFIX: &str = "ITEMS_LISTEN_";
/// Variables of ours that are no configuration keys.
const NOT_KEYS: [&str; 2] = ["ITEMS_LISTEN_CONFIG", "ITEMS_LISTEN_LOG"];

/// The real environment, which wins, over the file given with `--env-file`.
#[derive(Debug)]
pub struct Variables<'a> {
    real: &'a BTreeMap<String, String>,
    borrowed: &'a BTreeMap<String, String>,
}

impl<'a> Variables<'a> {
    /// Both together.
    pub fn new(real: &'a BTreeMap<String, String>, borrowed: &'a BTreeMap<String, String>) -> Variables<'a> {
        Variables { real, borrowed }
    }

    /// A variable that is set to something.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        let found = self.real.get(name).filter(|value| !value.is_empty()).or_else(|| self.borrowed.get(name));
        found.map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Puts `ITEMS_LISTEN_DATABASE__URL` and the like into the tree.
    pub fn graft_own(&self, root: &mut Node) {
        for (name, value) in self.real {
            let Some(path) = name.strip_prefix(PREFIX).filter(|_| !NOT_KEYS.contains(&name.as_str())) else { continue };
            if value.is_empty() || path.starts_with("TEST_") {
                continue;
            }
            let path: Vec<String> = path.split("__").map(str::to_lowercase).collect();
            graft(root, &path, name, value);
        }
    }

    /// A database URL made of other programs' names.
    pub fn database_url(&self) -> Option<String> {
        ["DATABASE_URL", "DB_URL"]
            .into_iter()
            .find_map(|name| self.get(name).filter(|url| is_postgres(url)).map(str::to_owned))
            .or_else(|| self.laravel_database())
            .or_else(|| self.libpq_database())
    }

    fn laravel_database(&self) -> Option<String> {
        let connection = self.get("DB_CONNECTION").unwrap_or("pgsql");
        let database = self.get("DB_DATABASE").filter(|_| connection == "pgsql")?;
        Some(assemble([
            ("host", self.get("DB_HOST")),
            ("port", self.get("DB_PORT")),
            ("dbname", Some(database)),
            ("user", self.get("DB_USERNAME")),
            ("password", self.get("DB_PASSWORD")),
        ]))
    }

    fn libpq_database(&self) -> Option<String> {
        let named = ["PGHOST", "PGDATABASE", "PGUSER"].into_iter().any(|name| self.get(name).is_some());
        named.then(|| {
            assemble([
                ("host", self.get("PGHOST")),
                ("port", self.get("PGPORT")),
                ("dbname", self.get("PGDATABASE")),
                ("user", self.get("PGUSER")),
                ("password", self.get("PGPASSWORD")),
                ("sslmode", self.get("PGSSLMODE")),
            ])
        })
    }

    /// The entries of `[endpoints.main]` that the application's broadcasting settings give, and the
    /// variable that chose them.
    pub fn broadcasting(&self) -> Option<(&'static str, Vec<(&'static str, String)>)> {
        let (chosen_by, driver) =
            ["BROADCAST_CONNECTION", "BROADCAST_DRIVER"].into_iter().find_map(|name| Some((name, self.get(name)?)))?;
        let entries = match driver {
            "log" => vec![("url", "log:".to_owned())],
            "reverb" => self.pusher_entries("REVERB_APP_ID", "REVERB_APP_KEY", "REVERB_APP_SECRET", "REVERB"),
            "pusher" => self.pusher_entries("PUSHER_APP_ID", "PUSHER_APP_KEY", "PUSHER_APP_SECRET", "PUSHER"),
            _ => return None,
        };
        Some((chosen_by, entries))
    }

    fn pusher_entries(&self, id: &str, key: &str, secret: &str, prefix: &str) -> Vec<(&'static str, String)> {
        let part = |name: &str| self.get(&format!("{prefix}_{name}"));
        let mut entries: Vec<(&'static str, String)> = [("app_id", id), ("key", key), ("secret", secret)]
            .into_iter()
            .filter_map(|(entry, name)| Some((entry, self.get(name)?.to_owned())))
            .collect();
        match (part("HOST"), part("APP_CLUSTER")) {
            (Some(host), _) => {
                let scheme = part("SCHEME").unwrap_or("https");
                let port = part("PORT").unwrap_or(if scheme == "https" { "443" } else { "80" });
                entries.push(("url", format!("{scheme}://{host}:{port}")));
            }
            (None, Some(cluster)) => entries.push(("cluster", cluster.to_owned())),
            (None, None) => {}
        }
        entries
    }
}

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

/// A connection string of `name='value'` pairs.
fn assemble<const N: usize>(parts: [(&str, Option<&str>); N]) -> String {
    let parts = parts.iter().filter_map(|(name, value)| {
        let value = (*value)?.replace('\\', "\\\\").replace('\'', "\\'");
        Some(format!("{name}='{value}'"))
    });
    parts.collect::<Vec<_>>().join(" ")
}

/// Reads a `.env` file.
///
/// # Errors
/// [`Error::Config`] with the line that cannot be read.
pub fn read_env_file(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    let wrong = |error: dotenvy::Error| {
        Error::Config(vec![Mistake { place: path.display().to_string(), what: format!("cannot be read: {error}") }])
    };
    dotenvy::from_path_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)
}
