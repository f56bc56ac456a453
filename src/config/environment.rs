//! What the environment says: our own variables, and other programs' names, which only fill gaps.

use std::collections::BTreeMap;
use std::path::Path;

use zeroize::Zeroizing;

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

    /// Whether a variable's value comes from the file given with `--env-file`.
    pub fn is_borrowed(&self, name: &str) -> bool {
        self.real.get(name).is_none_or(String::is_empty) && self.borrowed.contains_key(name)
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

    /// A database URL made of other programs' names, and the variable that decided.
    pub fn database_url(&self) -> Option<(&'static str, String)> {
        ["DATABASE_URL", "DB_URL"]
            .into_iter()
            .find_map(|name| Some((name, self.get(name).filter(|url| is_postgres(url))?.to_owned())))
            .or_else(|| Some(("DB_DATABASE", self.laravel_database()?)))
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
            ("sslmode", self.get("DB_SSLMODE")),
        ]))
    }

    fn libpq_database(&self) -> Option<(&'static str, String)> {
        let named = ["PGHOST", "PGDATABASE", "PGUSER"].into_iter().find(|name| self.get(name).is_some())?;
        // The old way to ask for TLS: libpq, too, looks at it only where there is no mode, and only at its first character.
        let required = self.get("PGREQUIRESSL").filter(|text| text.starts_with('1')).map(|_| "require");
        let pairs = assemble([
            ("host", self.get("PGHOST")),
            ("port", self.get("PGPORT")),
            ("dbname", self.get("PGDATABASE")),
            ("user", self.get("PGUSER")),
            ("password", self.get("PGPASSWORD")),
            ("sslmode", self.get("PGSSLMODE").or(required)),
            ("sslrootcert", self.get("PGSSLROOTCERT")),
            ("sslcert", self.get("PGSSLCERT")),
            ("sslkey", self.get("PGSSLKEY")),
            ("sslcrl", self.get("PGSSLCRL")),
            ("sslcrldir", self.get("PGSSLCRLDIR")),
            ("sslcompression", self.get("PGSSLCOMPRESSION")),
            ("sslsni", self.get("PGSSLSNI")),
            ("sslnegotiation", self.get("PGSSLNEGOTIATION")),
            ("ssl_min_protocol_version", self.get("PGSSLMINPROTOCOLVERSION")),
            ("ssl_max_protocol_version", self.get("PGSSLMAXPROTOCOLVERSION")),
            // Not read by libpq itself, but by whoever expects it to be: refused as in a URL, rather than forgotten.
            ("sslpassword", self.get("PGSSLPASSWORD")),
            ("sslcertmode", self.get("PGSSLCERTMODE")),
            ("channel_binding", self.get("PGCHANNELBINDING")),
            ("require_auth", self.get("PGREQUIREAUTH")),
            ("gssencmode", self.get("PGGSSENCMODE")),
            ("requirepeer", self.get("PGREQUIREPEER")),
            ("hostaddr", self.get("PGHOSTADDR")),
        ]);
        Some((named, pairs))
    }

    /// The entries of `[endpoints.main]` that the application's broadcasting settings give, and the
    /// variable that chose them.
    pub fn broadcasting(&self) -> Option<(&'static str, Vec<Borrowed>)> {
        let (chosen_by, driver) =
            ["BROADCAST_CONNECTION", "BROADCAST_DRIVER"].into_iter().find_map(|name| Some((name, self.get(name)?)))?;
        let entries = match driver {
            "log" => vec![Borrowed { key: "url", value: "log:".to_owned(), variable: chosen_by.to_owned() }],
            "reverb" => self.pusher_entries("REVERB"),
            "pusher" => self.pusher_entries("PUSHER"),
            _ => return None,
        };
        Some((chosen_by, entries))
    }

    fn pusher_entries(&self, prefix: &str) -> Vec<Borrowed> {
        let named = |name: &str| format!("{prefix}_{name}");
        let part = |name: &str| self.get(&named(name));
        let mut entries: Vec<Borrowed> = [("app_id", "APP_ID"), ("key", "APP_KEY"), ("secret", "APP_SECRET")]
            .into_iter()
            .filter_map(|(key, name)| Some(Borrowed { key, value: part(name)?.to_owned(), variable: named(name) }))
            .collect();
        match (part("HOST"), part("APP_CLUSTER")) {
            (Some(host), _) => {
                let scheme = part("SCHEME").unwrap_or("https");
                let port = part("PORT").unwrap_or(if scheme == "https" { "443" } else { "80" });
                entries.push(Borrowed { key: "url", value: format!("{scheme}://{host}:{port}"), variable: named("HOST") });
            }
            (None, Some(cluster)) => {
                entries.push(Borrowed { key: "cluster", value: cluster.to_owned(), variable: named("APP_CLUSTER") });
            }
            (None, None) => {}
        }
        entries
    }
}

/// A value that stands in a variable of another program.
#[derive(Debug)]
pub struct Borrowed {
    /// The key of ours that it is for.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// The variable that it stands in, or the first of those that it is made of.
    pub variable: String,
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
    let wrong = |place: String, what: String| Error::Config(vec![Mistake { place, what }]);
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| wrong(file.clone(), format!("cannot be read: {error}")))?;
    dotenvy::from_read_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(|error| match error {
        // The line is not repeated: it may hold a secret.
        dotenvy::Error::LineParse(line, _) => {
            let number = text.lines().position(|candidate| candidate.contains(line.trim())).map_or(0, |at| at + 1);
            wrong(
                format!("{file}:{number}"),
                "NAME=value is wanted; a value with spaces, # or quotes in it stands in quotes".to_owned(),
            )
        }
        error => wrong(file.clone(), format!("cannot be read: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_cannot_be_read_is_named_and_not_repeated() {
        for line in ["DB_PASSWORD=CANARY secret", "DB_PASSWORD=\"CANARYunclosed", "CANARY"] {
            let file = std::env::temp_dir().join(format!("items-listen-env-{}", std::process::id()));
            std::fs::write(&file, format!("A=1\n# none\n{line}\n")).expect("written");
            let Err(Error::Config(mistakes)) = read_env_file(&file) else { panic!("{line}") };
            std::fs::remove_file(&file).expect("removed");
            let said = mistakes[0].to_string();
            assert!(said.contains(&format!("{}:3", file.display())) && !said.contains("CANARY"), "{line}: {said}");
        }
    }
}
