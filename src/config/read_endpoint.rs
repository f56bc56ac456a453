//! `[endpoints.NAME]`

use std::ops::RangeInclusive;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::document::Node;
use super::read::secret;
use super::reader::{Mistakes, Section, parse_duration};
use super::{Endpoint, Pusher, Target, secret_file};
use crate::dispatch::rate::Rate;
use crate::pem;
use crate::pusher::encrypt::Key;
use crate::retry::Retry;

/// Reverb counts request line, headers and body against 10,000 bytes; this leaves room for the first two.
const MAX_REQUEST_BYTES_DEFAULT: i64 = 9_400;
/// A shorter one is over before TLS is set up; a longer one makes leases, and so a crash's delay, longer still.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
const TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// It is part of an index, beside a watch and a key.
const NAME_BYTES_MAX: usize = 100;
/// Each request of a span is remembered until it is over.
const RATE_REQUESTS: RangeInclusive<usize> = 1..=100_000;
const RATE_PER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);

/// All endpoints.
pub(super) fn endpoints(node: Option<&Node>, mistakes: &mut Mistakes) -> Vec<Endpoint> {
    let Some(node) = node else { return Vec::new() };
    let section = Section::new("endpoints", node, mistakes);
    section.all().iter().filter_map(|entry| endpoint(&entry.key, &entry.node, mistakes)).collect()
}

fn endpoint(name: &str, node: &Node, mistakes: &mut Mistakes) -> Option<Endpoint> {
    let mut section = Section::new(format!("endpoints.{name}"), node, mistakes);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(crate::plain::steers) {
        let what = format!(
            "a name of 1 to {NAME_BYTES_MAX} bytes without control characters is wanted, this is \"{}\"",
            name.escape_debug()
        );
        mistakes.add(section.origin(), format!("endpoints: {what}"));
        return None;
    }
    let target = target(&mut section, mistakes);
    let timeout = section.duration_within("timeout", TIMEOUT_MIN..=TIMEOUT_MAX, mistakes).unwrap_or(Duration::from_secs(10));
    let in_flight = section.integer("in_flight", 1..=1_000, mistakes).unwrap_or(8);
    let rate = rate(&mut section, mistakes);
    let max_batch = section.integer("max_batch", 1..=1_000, mistakes).unwrap_or(10);
    let max_request_bytes =
        section.integer("max_request_bytes", 500..=100_000_000, mistakes).unwrap_or(MAX_REQUEST_BYTES_DEFAULT);
    let retry = section.node("retry").map_or_else(Retry::default, |node| retry(name, node, mistakes));
    let encryption_key = secret(&mut section, "encryption_key", "encryption_key_file", mistakes).and_then(|(key, origin)| {
        Key::from_base64(key.expose())
            .map_err(|what| mistakes.add(origin, format!("{}: {what}", section.name("encryption_key"))))
            .ok()
    });
    section.finish(mistakes);
    Some(Endpoint {
        name: name.to_owned(),
        target: target?,
        timeout,
        in_flight: usize::try_from(in_flight).unwrap_or(8),
        rate,
        max_batch: usize::try_from(max_batch).unwrap_or(10),
        max_request_bytes: usize::try_from(max_request_bytes).unwrap_or(usize::MAX),
        retry,
        encryption_key,
    })
}

/// `"100/60s"`
fn rate(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Rate> {
    let (text, origin) = section.string("rate", mistakes)?;
    let rate = text.split_once('/').and_then(|(requests, per)| {
        let requests = requests.trim().parse().ok().filter(|requests| RATE_REQUESTS.contains(requests))?;
        Some(Rate { requests, per: parse_duration(per).filter(|per| RATE_PER.contains(per))? })
    });
    if rate.is_none() {
        let wanted = "requests per time are wanted, such as \"100/60s\": 1 to 100000 in 1s to 1h";
        mistakes.add(origin, format!("{}: {wanted}, not \"{text}\"", section.name("rate")));
    }
    rate
}

fn retry(name: &str, node: &Node, mistakes: &mut Mistakes) -> Retry {
    let default = Retry::default();
    let mut section = Section::new(format!("endpoints.{name}.retry"), node, mistakes);
    let retry = Retry {
        initial: section
            .duration_within("initial", Duration::from_millis(1)..=Duration::MAX, mistakes)
            .unwrap_or(default.initial),
        max: section.duration("max", mistakes).unwrap_or(default.max),
        give_up_after: section.duration("give_up_after", mistakes).unwrap_or(default.give_up_after),
    };
    if retry.initial > retry.max {
        mistakes.add(section.origin(), format!("{}: longer than retry.max", section.name("initial")));
    }
    section.finish(mistakes);
    retry
}

fn target(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Target> {
    let url = secret(section, "url", "url_file", mistakes);
    let cluster = section.string("cluster", mistakes);
    let app_id = section.string("app_id", mistakes);
    let key = section.string("key", mistakes);
    let secret = secret(section, "secret", "secret_file", mistakes);
    let sign_path = section.boolean("sign_path", mistakes).unwrap_or(false);
    let issuers = issuers(section, mistakes);

    let url = match (url, cluster) {
        (Some((url, _)), None) if url.expose() == "log:" => return Some(Target::Log),
        (Some((url, origin)), None) => match http_url(url.expose()) {
            Ok(url) => url,
            Err(what) => {
                mistakes.add(origin, format!("{}: {what}", section.name("url")));
                return None;
            }
        },
        (None, Some((cluster, origin))) => {
            let plain = !cluster.is_empty() && cluster.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            match url::Url::parse(&format!("https://api-{cluster}.pusher.com")) {
                Ok(url) if plain => url,
                _ => {
                    mistakes.add(origin, format!("{}: a cluster such as \"eu\" or \"mt1\" is wanted", section.name("cluster")));
                    return None;
                }
            }
        }
        (Some((_, origin)), Some(_)) => {
            mistakes.add(origin, format!("{}: url and cluster exclude each other", section.name("url")));
            return None;
        }
        (None, None) => {
            mistakes.add(
                section.origin(),
                format!("{}: missing; give url = \"http://host:port\", cluster = \"eu\", or url = \"log:\"", section.name("url")),
            );
            return None;
        }
    };
    let values = [
        ("app_id", app_id.as_ref().map(|(text, origin)| (text.as_str(), *origin))),
        ("key", key.as_ref().map(|(text, origin)| (text.as_str(), *origin))),
        ("secret", secret.as_ref().map(|(secret, origin)| (secret.expose(), *origin))),
    ];
    for (name, value) in values {
        let or_file = if name == "secret" { " (or secret_file)" } else { "" };
        match value {
            None => mistakes.add(section.origin(), format!("{}: missing{or_file}", section.name(name))),
            // It would sign, and be refused.
            Some((text, origin)) if text.trim().is_empty() => {
                mistakes.add(origin, format!("{}{or_file}: empty; the application's own is wanted", section.name(name)));
            }
            // They stand in the address that is asked for, and must not make another one of it.
            Some((text, origin)) if name != "secret" && !fits_an_address(text) => {
                let what = "letters, digits and marks other than / ? # % & + \\ are wanted, as the server gave it";
                mistakes.add(origin, format!("{}: {what}", section.name(name)));
            }
            Some(_) => {}
        }
    }
    Some(Target::Pusher(Pusher { url, app_id: app_id?.0, key: key?.0, secret: secret?.0, sign_path, issuers }))
}

/// What stands in `ca_file`, now: a reload reads it again.
fn issuers(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Vec<CertificateDer<'static>> {
    let Some((name, origin)) = section.string("ca_file", mistakes) else { return Vec::new() };
    let path = secret_file::find(&name, mistakes.file(), origin).display().to_string();
    let key = section.name("ca_file");
    let read = || {
        let certificates = pem::certificates(&key, &path, &pem::read(&key, &path)?)?;
        let mut store = rustls::RootCertStore::empty();
        for certificate in &certificates {
            store.add(certificate.clone()).map_err(|error| format!("{key}: {path}: {error}"))?;
        }
        Ok(certificates)
    };
    read().unwrap_or_else(|what: String| {
        mistakes.add(origin, what);
        Vec::new()
    })
}

fn fits_an_address(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_graphic() && !"/?#%&+\\".contains(c)) && text != "." && text != ".."
}

fn http_url(text: &str) -> Result<url::Url, String> {
    // The text itself may hold a password and is not repeated; nor is what only looks like a scheme: user:password@host.
    if !text.contains("://") {
        return Err("this is no URL; \"http://host:port\" or \"log:\" is wanted".to_owned());
    }
    let url =
        url::Url::parse(text).map_err(|error| format!("this is no URL ({error}); \"http://host:port\" or \"log:\" is wanted"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(format!("the scheme is \"{}\"; \"http://…\", \"https://…\" or \"log:\" is wanted", url.scheme()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a URL without ? and # is wanted".to_owned());
    }
    Ok(url)
}
