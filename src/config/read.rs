//! From the tree to a checked [`Config`].

use std::sync::Arc;

use zeroize::Zeroizing;

use super::document::{Entry, Mistake, Node, Origin, Value, parse};
use super::effective::Effective;
use super::environment::Variables;
use super::listen::{Hide, Http, LISTEN_DEFAULT, Listen};
use super::read_endpoint::endpoints;
use super::read_watch::{NO_ENDPOINT, default_watch, watches};
use super::reader::{Mistakes, Section, nearest};
use super::rehearse::rehearse;
use super::{Config, Database, Doorbell, Endpoint, Install, Secret, SecretPlaces, redact, secret_file};
use crate::db::session;
use crate::pusher::encrypt::Key;
use crate::retention::Retention;
use crate::watch::{Source, Watch, short_hash};

/// Reads a configuration. `exists` is whether there was a file at all.
///
/// # Errors
/// Everything that is wrong with it.
pub fn config(file: &str, exists: bool, text: &str, variables: &Variables<'_>) -> Result<Config, Vec<Mistake>> {
    let (mut root, found) = parse(file, text);
    variables.graft_own(&mut root);
    fill_broadcasting(&mut root, variables);
    let checked = checked(file, exists, &root, found, variables);
    root.erase();
    checked
}

/// Reads a configuration, and tells of every key what it is and where that comes from.
///
/// # Errors
/// Everything that is wrong with it.
pub fn effective(file: &str, exists: bool, text: &str, variables: &Variables<'_>) -> Result<(Config, Effective), Vec<Mistake>> {
    let (mut root, found) = parse(file, text);
    variables.graft_own(&mut root);
    fill_broadcasting(&mut root, variables);
    let checked = checked(file, exists, &root, found, variables);
    let effective = checked.map(|config| (config, Effective::of(&root, exists, variables)));
    root.erase();
    effective
}

/// Reads a configuration for rule tests, which send nothing: see `rehearse`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn rehearsal(file: &str, text: &str, variables: &Variables<'_>) -> Result<Config, Vec<Mistake>> {
    let (mut root, found) = parse(file, text);
    variables.graft_own(&mut root);
    rehearse(&mut root);
    let checked = checked(file, true, &root, found, variables);
    root.erase();
    checked
}

fn checked(
    file: &str,
    exists: bool,
    root: &Node,
    found: Vec<Mistake>,
    variables: &Variables<'_>,
) -> Result<Config, Vec<Mistake>> {
    let syntax = found.len();
    let mut mistakes = Mistakes::new(file, found);
    let mut section = Section::new("", root, &mut mistakes);
    let database = database(section.node("database"), variables, &mut mistakes);
    let endpoints = endpoints(section.node("endpoints"), &mut mistakes);
    let names: Vec<String> = endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
    let fallback = fallback_threshold(variables, &mut mistakes);
    let watch_nodes = section.tables("watch", &mut mistakes);
    let watches = if exists || !watch_nodes.is_empty() {
        watches(watch_nodes, &names, fallback, &mut mistakes)
    } else {
        if names.is_empty() {
            mistakes.add(&root.origin, NO_ENDPOINT);
        }
        vec![default_watch(&names, fallback)]
    };
    let watches: Vec<Watch> = watches.into_iter().map(|watch| with_keys(watch, &endpoints)).collect();
    for watch in &watches {
        if let (Source::Notify { channel }, Some(database)) = (&watch.source, &database)
            && *channel == database.schema
        {
            let what = format!("watch.notify: \"{channel}\" is the channel of our own doorbell (database.schema); take another");
            mistakes.add(&root.origin, what);
        }
    }
    let http = http(section.node("http"), &mut mistakes);
    section.finish(&mut mistakes);

    let secret_places = std::mem::take(mistakes.secrets());
    let mut found = mistakes.into_found();
    // After an error of syntax the rest of the tree is a guess: what seems missing there may just be unread.
    if syntax > 0 {
        found.truncate(syntax);
    }
    if !found.is_empty() {
        return Err(found);
    }
    let mut config = Config {
        file: file.to_owned(),
        database,
        endpoints,
        watches: watches.into_iter().map(Arc::new).collect(),
        http,
        secret_places: SecretPlaces::default(),
        hash: String::new(),
        whole: Secret::new(String::new()),
    };
    let (published, whole) = hashes(&config);
    config.hash = published;
    config.whole = whole;
    // Where they are is no part of it: replicas may keep them in different places.
    config.secret_places = secret_places;
    Ok(config)
}

/// What is published of a configuration to tell it from another, and what tells it from another in this process.
///
/// The first goes into metrics, status and the database, where who sees it and knows the rest of the configuration could try
/// secrets against it: so it covers what may be shown, and no secret at all. The second covers the secrets too.
fn hashes(config: &Config) -> (String, Secret) {
    let database = config.database.as_ref().map(|database| redact::address(database.url.expose()).0);
    // `Debug` says of a secret only that there is one, and of an endpoint's URL what may be shown.
    let published = format!("{config:?} {database:?}");
    let endpoint = |endpoint: &Endpoint| {
        let pusher = match &endpoint.target {
            super::Target::Pusher(pusher) => format!("{:?} {:?}", pusher.url.as_str(), pusher.secret.expose()),
            super::Target::Log => String::new(),
        };
        format!("{} {:?}", *Zeroizing::new(pusher), endpoint.encryption_key.as_ref().map(Key::fingerprint))
    };
    let endpoints = Zeroizing::new(config.endpoints.iter().map(endpoint).collect::<Vec<_>>().join(" "));
    let url = config.database.as_ref().map(|database| database.url.expose());
    let token = config.http.as_ref().and_then(|http| Some(http.token.as_ref()?.expose()));
    let whole = Zeroizing::new(format!("{published} {url:?} {token:?} {}", *endpoints));
    (short_hash(&published), Secret::new(short_hash(&whole)))
}

/// Gives every rule the master keys of its endpoints.
fn with_keys(mut watch: Watch, endpoints: &[Endpoint]) -> Watch {
    for rule in &mut watch.rules {
        let of = |name: &String| endpoints.iter().find(|endpoint| endpoint.name == *name)?.encryption_key.clone();
        rule.encryption = rule.endpoints.iter().filter_map(|name| Some((name.clone(), of(name)?))).collect();
    }
    watch
}

/// Other programs' names only fill gaps: they make the endpoint `main` where there is none.
fn fill_broadcasting(root: &mut Node, variables: &Variables<'_>) {
    let Value::Table(entries) = &mut root.value else { return };
    if entries.iter().any(|entry| entry.key == "endpoints") {
        return;
    }
    let Some((chosen_by, settings)) = variables.broadcasting() else { return };
    let entry = |key: &str, value, variable: &str| {
        let origin = Origin::Variable(variable.to_owned());
        Entry { key: key.to_owned(), origin: origin.clone(), node: Node { value, origin } }
    };
    let settings =
        settings.into_iter().map(|setting| entry(setting.key, Value::String(setting.value), &setting.variable)).collect();
    let main = entry("main", Value::Table(settings), chosen_by);
    entries.push(entry("endpoints", Value::Table(vec![main]), chosen_by));
}

/// The threshold of watches without one, under the name of another program.
pub(super) const FALLBACK_THRESHOLD: &str = "INVENTORY_NOTIFICATION_THRESHOLD";

fn fallback_threshold(variables: &Variables<'_>, mistakes: &mut Mistakes) -> Option<i64> {
    const NAME: &str = FALLBACK_THRESHOLD;
    let text = variables.get(NAME)?;
    let threshold = text.trim().parse().ok();
    if threshold.is_none() {
        mistakes
            .add(&Origin::Variable(NAME.to_owned()), format!("a whole number is wanted, this is \"{}\"", text.escape_debug()));
    }
    threshold
}

fn database(node: Option<&Node>, variables: &Variables<'_>, mistakes: &mut Mistakes) -> Option<Database> {
    let missing = Node { value: Value::Table(Vec::new()), origin: Origin::Variable("database".into()) };
    let mut section = Section::new("database", node.unwrap_or(&missing), mistakes);
    let own = secret(&mut section, "url", "url_file", mistakes).map(|(url, origin)| (url, origin.clone()));
    let borrowed = || variables.database_url().map(|(name, url)| (Secret::new(url), Origin::Variable(name.to_owned())));
    let url = own.or_else(borrowed);
    let schema = section.string("schema", mistakes);
    if let Some((schema, origin)) = &schema {
        check_schema(schema, origin, mistakes);
    }
    let install = section.word("install", &[("auto", Install::Auto), ("manual", Install::Manual)], mistakes);
    let pool_size = section.integer("pool_size", 1..=100, mistakes);
    let doorbell = section.word("doorbell", &[("auto", Doorbell::Auto), ("on", Doorbell::On), ("off", Doorbell::Off)], mistakes);
    let poll = section.duration_within("poll", POLL_MIN..=POLL_MAX, mistakes);
    let retention = section.node("retention").map_or_else(Retention::default, |node| retention(node, mistakes));
    section.finish(mistakes);
    // Certificates and keys that it names are found like files of secrets.
    let url = url.and_then(|(url, origin)| {
        let found = session::with_files(&url, |name| secret_file::find(name, mistakes.file(), &origin))
            .and_then(|url| session::parse_url(&url).map(|_| url));
        found.map_err(|what| mistakes.add(&origin, format!("database.url: {what}"))).ok()
    });
    Some(Database {
        url: url?,
        schema: schema.map_or_else(|| "items_listen".to_owned(), |(schema, _)| schema),
        install: install.unwrap_or(Install::Auto),
        pool_size: usize::try_from(pool_size.unwrap_or(4)).unwrap_or(4),
        doorbell: doorbell.unwrap_or(Doorbell::Auto),
        poll: poll.unwrap_or(std::time::Duration::from_secs(1)),
        retention,
    })
}

fn retention(node: &Node, mistakes: &mut Mistakes) -> Retention {
    let default = Retention::default();
    let mut section = Section::new("database.retention", node, mistakes);
    let retention = Retention {
        events: section.duration("events", mistakes).unwrap_or(default.events),
        delivered: section.duration("delivered", mistakes).unwrap_or(default.delivered),
        dead: section.duration("dead", mistakes).unwrap_or(default.dead),
    };
    section.finish(mistakes);
    retention
}

const POLL_MIN: std::time::Duration = std::time::Duration::from_millis(10);
const POLL_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// The schema's name becomes part of trigger names and is the NOTIFY channel.
fn check_schema(schema: &str, origin: &Origin, mistakes: &mut Mistakes) {
    const CHARS_MAX: usize = 32;
    let plain = schema.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !plain || schema.is_empty() || schema.len() > CHARS_MAX || schema.starts_with(|c: char| c.is_ascii_digit()) {
        mistakes.add(
            origin,
            format!(
                "database.schema: a name of a–z, 0–9 and _ with up to {CHARS_MAX} characters is wanted, this is \"{}\"",
                schema.escape_debug()
            ),
        );
    } else if let Some(why) = crate::db::schema::taken(schema) {
        mistakes.add(origin, format!("database.schema: \"{schema}\" {why}; give it a schema of its own, such as items_listen"));
    }
}

/// A secret given in place, or as the name of a file that holds it.
pub(super) fn secret<'a>(
    section: &mut Section<'a>,
    key: &'static str,
    file_key: &'static str,
    mistakes: &mut Mistakes,
) -> Option<(Secret, &'a Origin)> {
    let inline = section.secret(key, mistakes);
    let file = section.string(file_key, mistakes);
    match (inline, file) {
        (Some((_, origin)), Some(_)) => {
            mistakes.add(origin, format!("{} and {} exclude each other", section.name(key), section.name(file_key)));
            None
        }
        (Some((secret, origin)), None) => {
            // An address is a secret where it has one in it.
            let is_secret = key != "url" || redact::address(&secret).1;
            mistakes.secrets().in_file |= is_secret && matches!(origin, Origin::File { .. });
            Some((Secret::new(secret), origin))
        }
        (None, Some((path, origin))) => {
            let path = secret_file::find(&path, mistakes.file(), origin);
            let secret = secret_file::read(&path);
            mistakes.secrets().files.push(path.clone());
            match secret {
                Ok(secret) => Some((secret, origin)),
                Err(error) => {
                    mistakes.add(origin, format!("{}: {} {error}", section.name(file_key), path.display()));
                    None
                }
            }
        }
        (None, None) => None,
    }
}

fn http(node: Option<&Node>, mistakes: &mut Mistakes) -> Option<Http> {
    let missing = Node { value: Value::Table(Vec::new()), origin: Origin::Variable("http".into()) };
    let mut section = Section::new("http", node.unwrap_or(&missing), mistakes);
    let enabled = section.boolean("enabled", mistakes).unwrap_or(true);
    let listen = section.string("listen", mistakes);
    let token = secret(&mut section, "token", "token_file", mistakes).and_then(|(token, origin)| {
        // What else there may be could not be sent in a header.
        let is_sendable = !token.expose().is_empty() && token.expose().bytes().all(|byte| byte.is_ascii_graphic());
        if !is_sendable {
            let wanted = "one or more visible ASCII characters without spaces are wanted, such as openssl rand -hex 32 prints";
            mistakes.add(origin, format!("{} (or token_file): {wanted}", section.name("token")));
        }
        is_sendable.then_some(token)
    });
    let mut hide = Hide::default();
    let words = section.strings("hide", mistakes);
    if words.as_ref().is_some_and(Vec::is_empty) {
        mistakes.add(section.origin(), format!("{}: empty; {} are known", section.name("hide"), Hide::WORDS.join(" and ")));
    }
    for (word, origin) in words.unwrap_or_default() {
        if !hide.add(&word) {
            let hint = nearest(&word, Hide::WORDS.into_iter());
            let (name, known) = (section.name("hide"), Hide::WORDS.join(", "));
            mistakes.add(origin, format!("{name}: \"{}\" is none of {known}{hint}", word.escape_debug()));
        }
    }
    section.finish(mistakes);
    let (text, origin) = listen.map_or((LISTEN_DEFAULT.to_owned(), &missing.origin), |(text, origin)| (text, origin));
    match Listen::parse(&text) {
        Ok(listen) => enabled.then_some(Http { listen, token, hide }),
        Err(what) => {
            mistakes.add(origin, format!("http.listen: {what}"));
            None
        }
    }
}
