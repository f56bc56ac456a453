//! The third depth: whether each endpoint accepts a signed request, and why not.

use std::time::Duration;

use futures_util::future::join_all;

use super::finding::{Findings, Id};
use super::progress::told;
use crate::config::{Config, Endpoint, Target, redact};
use crate::db::explain;
use crate::pusher::classify::{Answer, SKEW_SECONDS_MAX, effective_status};
use crate::pusher::client::Client;
use crate::pusher::route;

/// A person waits: what has not answered by then is said not to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// Who has to renew a certificate wants to know so many days before.
pub(super) const CERTIFICATE_DAYS_MIN: i64 = 14;
/// A clock that is further off than this will be too far off soon.
const SKEW_SECONDS_WARNED: u64 = 60;

/// Asks all of them at once.
pub(super) async fn look(config: &Config) -> Findings {
    let mut all = Findings::default();
    for findings in join_all(config.endpoints.iter().map(one)).await {
        all.extend(findings);
    }
    all
}

async fn one(endpoint: &Endpoint) -> Findings {
    let mut findings = Findings::default();
    let subject = format!("endpoint {}", endpoint.name);
    let Target::Pusher(pusher) = &endpoint.target else {
        findings.ok(Id::Endpoint, &subject, "lines on stdout");
        return findings;
    };
    look_at_the_way(&pusher.url, &subject, &mut findings);
    let client = match Client::observing(pusher, endpoint.timeout.min(ANSWER_WITHIN)) {
        Ok(client) => client,
        Err(error) => {
            findings.error(
                Id::EndpointTls,
                &subject,
                error.to_string(),
                "mend what this machine has for TLS (its certificates), or give ca_file",
            );
            return findings;
        }
    };
    // Its user and password are nobody's business.
    let (url, _) = redact::address(pusher.url.as_str());
    let started = std::time::Instant::now();
    let answer = told(&format!("asking {url}"), client.get("channels", &[])).await;
    judge(&subject, &url, &answer, started.elapsed(), &mut findings);
    if let Some(certificate) = client.certificate() {
        if certificate.ends_within(CERTIFICATE_DAYS_MIN) {
            findings.warn(
                Id::EndpointCertificate,
                &subject,
                format!("its certificate is {certificate}: soon over"),
                "renew it on the server: then nothing is delivered any more, and all is kept and tried again",
            );
        } else {
            findings.ok(Id::EndpointCertificate, &subject, format!("its certificate is {certificate}"));
        }
    }
    findings
}

/// What lies between, by the address and the environment alone.
fn look_at_the_way(url: &url::Url, subject: &str, findings: &mut Findings) {
    if let Some(proxy) = route::proxy(url) {
        findings.info(
            Id::EndpointProxy,
            subject,
            format!("requests go through the proxy {proxy}, which the environment names"),
            Some("to go there directly, put its host into NO_PROXY".to_owned()),
        );
    }
    if url.scheme() != "http" || route::is_loopback(url) {
        return;
    }
    let what = "what is sent is signed, but not encrypted: whoever is in between reads it";
    if route::is_private(url) {
        findings.info(Id::EndpointPlain, subject, what, Some("use https:// where others share this network".to_owned()));
    } else {
        findings.warn(Id::EndpointPlain, subject, what, "use https://");
    }
}

fn judge(subject: &str, url: &str, answer: &Answer, took: Duration, findings: &mut Findings) {
    let (status, body, skew) = match answer {
        Answer::Http { status, body, skew, .. } => (effective_status(*status, body), body.as_str(), *skew),
        Answer::NoConnection(error) => return not_connected(subject, url, error, findings),
        Answer::TimedOut => {
            findings.unreachable = true;
            return findings.error(
                Id::EndpointSilent,
                subject,
                format!("{url} does not answer within {:.0} s", took.as_secs_f64()),
                "a firewall that drops packets, a wrong address, or a server that stands still",
            );
        }
    };
    let far = skew.filter(|skew| skew.unsigned_abs() > SKEW_SECONDS_MAX);
    match (status, far) {
        (200..=299, _) => {
            findings.ok(Id::Endpoint, subject, format!("{url} accepts our signature, {status} in {} ms", took.as_millis()));
        }
        (401, Some(skew)) => {
            return findings.error(
                Id::EndpointClock,
                subject,
                format!(
                    "{url} refuses our signature (401): by its clock we are {}, and {SKEW_SECONDS_MAX} s are allowed",
                    off(skew)
                ),
                "set the clock of this machine, or the endpoint's (NTP: timedatectl)",
            );
        }
        (407, _) => findings.error(
            Id::EndpointProxy,
            subject,
            format!("a proxy between wants to know who we are (407): {}", short(body)),
            "give its user and password in HTTP_PROXY (http://user:password@host:port), or put the host into NO_PROXY",
        ),
        (401 | 403, _) => findings.error(
            Id::EndpointSignature,
            subject,
            format!("{url} refuses our signature ({status}): {}", short(body)),
            "compare key and secret with the server's; behind a path, sign_path (Soketi wants it signed)",
        ),
        (404, _) => findings.error(
            Id::EndpointApplication,
            subject,
            format!("{url} knows no such application (404): {}", short(body)),
            "compare app_id with the server's; is there a path in url that is too much, or missing?",
        ),
        (300..=399, _) => findings.error(
            Id::EndpointAnswer,
            subject,
            format!("{url} redirects us ({status}), which is not followed"),
            "write the address that it leads to, such as https:// for http://",
        ),
        (429 | 500..=599, _) => findings.error(
            Id::EndpointAnswer,
            subject,
            format!("{url} answers {status}: {}", short(body)),
            "look at the server's own log; what is to be sent is kept and tried again",
        ),
        _ => findings.error(
            Id::EndpointAnswer,
            subject,
            format!("{url} answers {status}: {}", short(body)),
            "is this the HTTP API of a Pusher-compatible server (and not its WebSocket port, or a web page)?",
        ),
    }
    if let Some(skew) = skew.filter(|skew| skew.unsigned_abs() > SKEW_SECONDS_WARNED) {
        findings.warn(
            Id::EndpointClock,
            subject,
            format!("by its clock we are {}; signatures are refused beyond {SKEW_SECONDS_MAX} s", off(skew)),
            "set the clock of this machine, or the endpoint's (NTP: timedatectl)",
        );
    }
}

fn not_connected(subject: &str, url: &str, error: &str, findings: &mut Findings) {
    findings.unreachable = true;
    let what = format!("{url}: {error}");
    match explain::tls(error) {
        Some(remedy) => findings.error(Id::EndpointTls, subject, what, remedy),
        None if error.contains("tunnel error") => findings.error(
            Id::EndpointProxy,
            subject,
            what,
            "the proxy between refuses, or cannot reach it: correct HTTPS_PROXY (its user and password too), put the host into \
             NO_PROXY, or let the proxy allow it",
        ),
        None if error.contains("dns error") || error.contains("failed to lookup") => findings.error(
            Id::EndpointConnection,
            subject,
            what,
            "the host's name is not known here: correct it in url, or look at this machine's DNS",
        ),
        None => findings.error(
            Id::EndpointConnection,
            subject,
            what,
            "nothing listens there, or it broke off: start the server, correct host and port (http:// or https://?) in url",
        ),
    }
}

/// From by how much the endpoint is ahead of us.
fn off(skew: i64) -> String {
    if skew > 0 { format!("{skew} s behind") } else { format!("{} s ahead", skew.unsigned_abs()) }
}

/// A web page that answers in an API's place is recognised by its first words.
fn short(body: &str) -> String {
    const CHARS_MAX: usize = 200;
    let line: String = body.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= CHARS_MAX { line } else { line.chars().take(CHARS_MAX).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::finding::Level;

    fn found(answer: &Answer) -> Vec<(&'static str, Level)> {
        let mut findings = Findings::default();
        judge("endpoint main", "https://e.example/", answer, Duration::from_millis(3), &mut findings);
        findings.all.iter().map(|finding| (finding.id.as_str(), finding.level)).collect()
    }

    fn http(status: u16, skew: i64) -> Answer {
        Answer::Http { status, body: String::new(), retry_after: None, skew: Some(skew) }
    }

    #[test]
    fn each_answer_is_explained() {
        let error = |id| vec![(id, Level::Error)];
        assert_eq!(found(&http(200, 0)), [("endpoint", Level::Ok)]);
        assert_eq!(found(&http(200, 60)), [("endpoint", Level::Ok)]);
        assert_eq!(found(&http(200, -61)), [("endpoint", Level::Ok), ("endpoint-clock", Level::Warning)]);
        assert_eq!(found(&http(401, 0)), error("endpoint-signature"));
        assert_eq!(found(&http(401, 601)), error("endpoint-clock"));
        assert_eq!(found(&http(403, 0)), error("endpoint-signature"));
        assert_eq!(found(&http(404, 0)), error("endpoint-application"));
        assert_eq!(found(&http(407, 0)), error("endpoint-proxy"));
        assert_eq!(found(&Answer::NoConnection("tunnel error: unsuccessful".into())), error("endpoint-proxy"));
        for status in [301, 500, 429, 418] {
            assert_eq!(found(&http(status, 0)), error("endpoint-answer"));
        }
        assert_eq!(found(&Answer::TimedOut), error("endpoint-silent"));
        assert_eq!(found(&Answer::NoConnection("connection refused".into())), error("endpoint-connection"));
        assert_eq!(found(&Answer::NoConnection("invalid peer certificate: Expired".into())), error("endpoint-tls"));
    }
}
