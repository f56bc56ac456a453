//! TLS to the database: what each `sslmode` accepts, against a real server and whoever is between.

use items_listen::config::Secret;
use items_listen::db::explain::{self, Cause};
use items_listen::db::session::{Connector, Purpose};
use items_listen::error::Error;

use crate::support::certificates::{Authority, Files, Issued, Validity, self_signed};
use crate::support::middle::{Middle, Trick};
use crate::support::postgres::{Database, Server};
use crate::*;

mod files;
mod hosts;
mod running;

const PASSWORD: &str = "kept-to-myself";

/// Who is admitted how. The first line is for the tests' own sessions.
const HBA: &str = "
local   all all       trust
host    all postgres  127.0.0.1/32 trust
hostssl all certified 127.0.0.1/32 scram-sha-256 clientcert=verify-full
hostssl all onlycert  127.0.0.1/32 cert
host    all clear     127.0.0.1/32 password
host    all app       127.0.0.1/32 scram-sha-256
";

/// A server of one's own, and who vouches for it.
struct Place {
    server: Server,
    ours: Authority,
    clients: Authority,
    files: Files,
    /// The issuer of the server's certificates, in a file.
    root: String,
}

impl Place {
    async fn new() -> Place {
        let (ours, clients, files) = (Authority::new("our issuer"), Authority::new("the clients' issuer"), Files::new());
        let server = Server::with_tls(&ours.server(&["localhost", "127.0.0.1"], Validity::Good), &clients.certificate, HBA);
        let admin = server.connect("postgres").await;
        for role in ["certified", "onlycert", "clear", "app"] {
            admin.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")).await.expect("a role");
        }
        let root = files.write("root.crt", &ours.certificate);
        Place { server, ours, clients, files, root }
    }

    fn url(&self, port: u16, user: &str, parameters: &str) -> String {
        format!("host=127.0.0.1 port={port} user={user} password={PASSWORD} dbname=postgres {parameters}")
    }

    /// What becomes of a connection straight to the server, as `app`.
    async fn straight(&self, parameters: &str) -> Outcome {
        connect(&self.url(self.server.port, "app", parameters)).await
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// By the server's own account.
    Encrypted,
    Plain,
    Refused(Option<Cause>),
    /// Before anything was connected.
    Unusable(String),
}

use Outcome::{Encrypted, Plain, Refused};

/// Connects as the daemon does. What goes wrong never tells the password, and has a remedy.
async fn connect(url: &str) -> Outcome {
    let connector = match Connector::new(&Secret::new(url), "items_listen") {
        Ok(connector) => connector,
        Err(error) => {
            assert!(!error.to_string().contains(PASSWORD), "{error}");
            return Outcome::Unusable(error.to_string());
        }
    };
    let failed = |error: Error| {
        let cause = Cause::of(&error);
        let remedy = explain::remedy(&error, &connector).unwrap_or_default();
        assert!(!format!("{error}{remedy}").contains(PASSWORD), "{error} {remedy}");
        assert!(!remedy.is_empty(), "no remedy: {error:?}");
        eprintln!("  {error}\n    → {remedy}");
        Refused(cause)
    };
    let client = match connector.bare(Purpose::Work).await {
        Ok(client) => client,
        Err(error) => return failed(error),
    };
    let ssl = client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await;
    match ssl {
        Ok(row) if row.get(0) => Encrypted,
        Ok(_) => Plain,
        // With TLS 1.3 the server's word about our certificate comes after the handshake.
        Err(error) => failed(Error::Database(error)),
    }
}

const NO_TLS: Outcome = Refused(Some(Cause::NoTls));
const CERTIFICATE: Outcome = Refused(Some(Cause::Certificate));

#[tokio::test(flavor = "multi_thread")]
async fn each_sslmode_accepts_what_it_says_and_nothing_else() {
    let place = Place::new().await;
    let stranger = Authority::new("somebody else's issuer");
    let root = format!("sslrootcert={}", place.root);
    let modes = |outcomes: [Outcome; 5]| {
        let parameters = [
            "sslmode=disable".to_owned(),
            "sslmode=prefer".to_owned(),
            "sslmode=require".to_owned(),
            format!("sslmode=verify-ca {root}"),
            format!("sslmode=verify-full {root}"),
        ];
        parameters.into_iter().zip(outcomes)
    };
    let names = ["localhost", "127.0.0.1"];
    for (what, issued, outcomes) in [
        ("good", place.ours.server(&names, Validity::Good), [Plain, Encrypted, Encrypted, Encrypted, Encrypted]),
        ("expired", place.ours.server(&names, Validity::Expired), [Plain, Encrypted, Encrypted, CERTIFICATE, CERTIFICATE]),
        ("not yet valid", place.ours.server(&names, Validity::Early), [Plain, Encrypted, Encrypted, CERTIFICATE, CERTIFICATE]),
        (
            "another host's",
            place.ours.server(&["db.example.org"], Validity::Good),
            [Plain, Encrypted, Encrypted, Encrypted, CERTIFICATE],
        ),
        (
            "only the name's, not the address's",
            place.ours.server(&["localhost"], Validity::Good),
            [Plain, Encrypted, Encrypted, Encrypted, CERTIFICATE],
        ),
        ("of another issuer", stranger.server(&names, Validity::Good), [Plain, Encrypted, Encrypted, CERTIFICATE, CERTIFICATE]),
        ("a client's", place.ours.client("127.0.0.1", Validity::Good), [Plain, Encrypted, Encrypted, CERTIFICATE, CERTIFICATE]),
        ("its own issuer's", self_signed(&names, Validity::Good), [Plain, Encrypted, Encrypted, CERTIFICATE, CERTIFICATE]),
    ] {
        place.server.show(&issued).await;
        for (parameters, outcome) in modes(outcomes) {
            eprintln!("{what}: {parameters}");
            assert_eq!(place.straight(&parameters).await, outcome, "{what}: {parameters}");
        }
    }

    // A server without TLS, and somebody between who takes it away: one cannot be told from the other.
    place.server.show(&place.ours.server(&names, Validity::Good)).await;
    let stripping = Middle::start(place.server.port, Trick::Strip).await;
    for (parameters, outcome) in modes([Plain, Plain, NO_TLS, NO_TLS, NO_TLS]) {
        let found = connect(&place.url(stripping.port, "app", &parameters)).await;
        assert_eq!(found, outcome, "stripped: {parameters}");
    }
    let plain = support::postgres::shared().port;
    for (parameters, outcome) in modes([Plain, Plain, NO_TLS, NO_TLS, NO_TLS]) {
        let url = format!("host=127.0.0.1 port={plain} user=postgres dbname=postgres {parameters}");
        assert_eq!(connect(&url).await, outcome, "no TLS: {parameters}");
    }

    // Somebody between with a certificate of his own, who reads everything: only verification keeps him out.
    let wrong = stranger.server(&names, Validity::Good);
    for (parameters, outcome) in modes([Plain, Plain, Plain, CERTIFICATE, CERTIFICATE]) {
        let middle = Middle::start(place.server.port, Trick::Terminate(wrong.clone())).await;
        assert_eq!(connect(&place.url(middle.port, "app", &parameters)).await, outcome, "in the middle: {parameters}");
        assert_eq!(middle.heard().contains("pg_stat_ssl"), outcome == Plain, "what he read: {parameters}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_issuers_means_that_they_are_asked() {
    let place = Place::new().await;
    let stranger = Authority::new("somebody else's issuer");
    let other = place.files.write("other.crt", &stranger.certificate);
    for (parameters, outcome) in [
        // Without a mode, and with every mode, a file of issuers means verify-full.
        (format!("sslrootcert={}", place.root), Encrypted),
        (format!("sslrootcert={other}"), CERTIFICATE),
        (format!("sslmode=prefer sslrootcert={other}"), CERTIFICATE),
        (format!("sslmode=require sslrootcert={other}"), CERTIFICATE),
        // This machine's issuers do not know ours.
        ("sslmode=verify-full".to_owned(), CERTIFICATE),
        ("sslrootcert=system".to_owned(), CERTIFICATE),
        (format!("sslrootcert={} ssl_min_protocol_version=TLSv1.3", place.root), Encrypted),
        (format!("sslrootcert={} sslsni=0", place.root), Encrypted),
    ] {
        assert_eq!(place.straight(&parameters).await, outcome, "{parameters}");
    }
    // What is verified is host; hostaddr is only where it is.
    place.server.show(&place.ours.server(&["db.example.org"], Validity::Good)).await;
    let hosts = |hosts: &str| format!("{hosts} user=app password={PASSWORD} dbname=postgres sslrootcert={}", place.root);
    let port = place.server.port;
    assert_eq!(connect(&hosts(&format!("host=db.example.org hostaddr=127.0.0.1 port={port}"))).await, Encrypted);
    assert_eq!(connect(&hosts(&format!("host=db.example.com hostaddr=127.0.0.1 port={port}"))).await, CERTIFICATE);
    // The next of several hosts is not let off because the first was not the one.
    let stripping = Middle::start(port, Trick::Strip).await;
    let several = |last: &str| {
        hosts(&format!(
            "host=127.0.0.1,127.0.0.1,{last} hostaddr=127.0.0.1,127.0.0.1,127.0.0.1 port={},{port},{port}",
            stripping.port
        ))
    };
    assert_eq!(connect(&several("db.example.org")).await, Encrypted);
    assert_eq!(connect(&several("localhost")).await, CERTIFICATE);
    // Over a Unix socket there is no TLS, whatever is asked for; with channel binding it is refused.
    let socket = format!("host={} port={} user=postgres dbname=postgres", place.server.directory.display(), place.server.port);
    assert_eq!(connect(&format!("{socket} sslrootcert={}", place.root)).await, Plain);
    assert_eq!(connect(&format!("{socket} sslrootcert={} channel_binding=require", place.root)).await, BINDING);
}

#[test]
fn the_environment_says_what_libpqs_does_and_a_url_is_taken_as_it_stands() {
    use items_listen::config::environment::Variables;
    let url = |text: &str, variables: &[(&str, &str)]| {
        let real = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let none = std::collections::BTreeMap::new();
        let text = format!("{text}\n[endpoints.main]\nurl = \"log:\"\n{ORDERS}");
        let config = items_listen::config::read::config("/etc/il/config.toml", true, &text, &Variables::new(&real, &none));
        config
            .map(|config| config.database.expect("a database").url.expose().to_owned())
            .map_err(|mistakes| format!("{mistakes:?}"))
    };
    let libpq = [("PGHOST", "db"), ("PGSSLMODE", "verify-ca"), ("PGSSLROOTCERT", "ca.crt"), ("PGCHANNELBINDING", "require")];
    let read = url("", &libpq).expect("it is right");
    // A name from the environment has no file to stand beside.
    assert_eq!(read, "host='db' sslmode='verify-ca' sslrootcert='ca.crt' channel_binding='require'");
    for (name, value, says) in [
        ("PGSSLMODE", "allow", "plain text"),
        ("PGSSLKEY", "k", "without sslcert"),
        ("PGSSLCERT", "c", "without sslkey"),
        ("PGSSLMINPROTOCOLVERSION", "SSLv3", "TLSv1.2"),
        ("PGSSLNEGOTIATION", "maybe", "direct"),
        ("PGSSLCRL", "x", "nothing is verified"),
        ("PGREQUIREAUTH", "gss", "scram-sha-256"),
        ("PGCHANNELBINDING", "maybe", "require"),
        ("PGREQUIREPEER", "x", "Unix socket"),
        ("PGGSSENCMODE", "require", "GSSAPI"),
        ("PGSSLCRLDIR", "x", "sslcrl"),
        ("PGSSLCOMPRESSION", "1", "never compressed"),
        ("PGSSLPASSWORD", "hush-hush", "without one"),
    ] {
        let said = url("", &[("PGHOST", "db"), (name, value)]).expect_err(name);
        assert!(said.contains(says) && said.contains("PGHOST") && !said.contains("hush"), "{name}: {said}");
    }
    // The old way to ask for TLS, which the new one has the last word about; as with libpq, only 1 asks for it.
    for (required, mode, read) in [
        ("1", "", Some("require")),
        ("1", "disable", Some("disable")),
        ("1", "verify-full", Some("verify-full")),
        ("0", "", None),
        ("yes", "", None),
    ] {
        let made = url("", &[("PGHOST", "db"), ("PGREQUIRESSL", required), ("PGSSLMODE", mode)]).expect("it is right");
        let sslmode = read.map(|read| format!(" sslmode='{read}'")).unwrap_or_default();
        assert_eq!(made, format!("host='db'{sslmode}"), "{required} {mode}");
    }
    let laravel = url("", &[("DB_DATABASE", "app"), ("DB_HOST", "db"), ("DB_SSLMODE", "require")]).expect("it is right");
    assert_eq!(laravel, "host='db' dbname='app' sslmode='require'");
    // One of the file is taken as it stands, and what it names is beside the file.
    let own = "[database]\nurl = \"postgres://h/d?sslrootcert=ca.crt\"";
    assert_eq!(url(own, &libpq), Ok("postgres://h/d?sslrootcert=/etc/il/ca.crt".to_owned()));
}

const BINDING: Outcome = Refused(Some(Cause::ChannelBinding));

#[tokio::test(flavor = "multi_thread")]
async fn channel_binding_keeps_out_who_ends_tls_between() {
    let place = Place::new().await;
    assert_eq!(place.straight("sslmode=require channel_binding=require").await, Encrypted);
    assert_eq!(place.straight("sslmode=prefer channel_binding=require").await, Encrypted);
    let wrong = Authority::new("somebody else's issuer").server(&["127.0.0.1"], Validity::Good);
    for (trick, binding, outcome) in [
        (Trick::Terminate(wrong.clone()), "require", BINDING),
        (Trick::Reencrypt(wrong.clone()), "require", BINDING),
        // The server wants it where it can be had: it sees another certificate than we do.
        (Trick::Reencrypt(wrong.clone()), "prefer", BINDING),
        (Trick::Reencrypt(wrong.clone()), "disable", Encrypted),
        (Trick::Terminate(wrong.clone()), "prefer", Plain),
        (Trick::Strip, "require", BINDING),
        (Trick::Strip, "prefer", Plain),
    ] {
        let middle = Middle::start(place.server.port, trick.clone()).await;
        let mode = if matches!(trick, Trick::Strip) { "prefer" } else { "require" };
        let url = place.url(middle.port, "app", &format!("sslmode={mode} channel_binding={binding}"));
        assert_eq!(connect(&url).await, outcome, "{trick:?} {binding}");
        assert!(!middle.heard().contains(PASSWORD));
    }
    // Ways without SCRAM have nothing to bind.
    for user in ["postgres", "clear"] {
        let url = place.url(place.server.port, user, "sslmode=require channel_binding=require");
        assert_eq!(connect(&url).await, BINDING, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_the_password_does_not_get_it_where_that_can_be_had() {
    const REFUSED: Outcome = Refused(Some(Cause::Authentication));
    const NO_POSTGRES: Outcome = Refused(Some(Cause::Proxy));
    const FAILED: Outcome = Refused(Some(Cause::Lost));
    let place = Place::new().await;
    let wrong = Authority::new("somebody else's issuer").server(&["127.0.0.1"], Validity::Good);
    let root = format!("sslrootcert={}", place.root);
    for (trick, parameters, expected) in [
        (Trick::AskInClear, "require_auth=scram-sha-256".to_owned(), Some(REFUSED)),
        (Trick::AskInClear, "require_auth=!password".to_owned(), Some(REFUSED)),
        (Trick::AskInClear, "channel_binding=require".to_owned(), Some(BINDING)),
        (Trick::AskInClear, "sslmode=require".to_owned(), Some(NO_TLS)),
        (Trick::AskInClear, root.clone(), Some(NO_TLS)),
        (Trick::AskInside(wrong.clone()), "sslmode=require require_auth=scram-sha-256".to_owned(), Some(REFUSED)),
        (Trick::AskInside(wrong.clone()), "sslmode=require channel_binding=require".to_owned(), Some(BINDING)),
        (Trick::AskInside(wrong.clone()), root, Some(CERTIFICATE)),
        // Neither yes nor no: tokio-postgres would go on in plain text. An E is a server that failed, for libpq as well.
        (Trick::AskAfter(b'X'), "require_auth=scram-sha-256".to_owned(), Some(NO_POSTGRES)),
        (Trick::AskAfter(b'X'), "sslmode=prefer".to_owned(), Some(NO_POSTGRES)),
        (Trick::AskAfter(b'X'), "sslmode=require".to_owned(), Some(NO_POSTGRES)),
        (Trick::AskAfter(0), "require_auth=scram-sha-256".to_owned(), Some(NO_POSTGRES)),
        (Trick::AskAfter(b'R'), "sslmode=prefer".to_owned(), Some(NO_POSTGRES)),
        (Trick::AskAfter(b'E'), "require_auth=scram-sha-256".to_owned(), Some(FAILED)),
        (Trick::AskAfter(b'E'), "sslmode=prefer".to_owned(), Some(FAILED)),
        // What these modes do not protect from. (Not on this machine, in clear text it would not be sent: see the guard.)
        (Trick::AskInClear, "sslmode=prefer".to_owned(), None),
        (Trick::AskInside(wrong), "sslmode=require".to_owned(), None),
    ] {
        let middle = Middle::start(place.server.port, trick.clone()).await;
        let url = place.url(middle.port, "app", &parameters);
        match expected {
            Some(outcome) => {
                assert_eq!(connect(&url).await, outcome, "{trick:?} {parameters}");
                assert!(!middle.heard().contains(PASSWORD), "{trick:?} {parameters}");
            }
            None => {
                let waiting = tokio::spawn(async move { connect(&url).await });
                support::eventually("he has it", async || middle.heard().contains(PASSWORD).then_some(())).await;
                waiting.abort();
            }
        }
    }
    // The real server, which asks for what pg_hba.conf says.
    for (user, list, outcome) in [
        ("app", "scram-sha-256", Encrypted),
        ("app", "password,md5", REFUSED),
        ("clear", "password", Encrypted),
        ("clear", "scram-sha-256", REFUSED),
        ("postgres", "none", Encrypted),
        ("postgres", "scram-sha-256", REFUSED),
    ] {
        let url = place.url(place.server.port, user, &format!("sslmode=require require_auth={list}"));
        assert_eq!(connect(&url).await, outcome, "{user} {list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_where_one_is_wanted() {
    let place = Place::new().await;
    let root = format!("sslrootcert={}", place.root);
    let good = place.files.client("good", &place.clients.client("certified", Validity::Good));
    let namesake = place.files.client("other-name", &place.clients.client("somebody", Validity::Good));
    let expired = place.files.client("expired", &place.clients.client("certified", Validity::Expired));
    let foreign = place.files.client("foreign", &Authority::new("x").client("certified", Validity::Good));
    let only = place.files.client("only", &place.clients.client("onlycert", Validity::Good));
    let admission = || Refused(Some(Cause::Admission));
    for (user, client, outcome) in [
        ("certified", good.as_str(), Encrypted),
        ("certified", "", admission()),
        ("certified", &format!("{good} sslcertmode=disable"), admission()),
        // PostgreSQL does not say more than that authentication failed.
        ("certified", &namesake, Refused(Some(Cause::Password))),
        ("certified", &expired, CERTIFICATE),
        ("certified", &foreign, CERTIFICATE),
        ("onlycert", &only, Encrypted),
        ("onlycert", &good, admission()),
        // A certificate that nobody asked for does no harm.
        ("app", &good, Encrypted),
    ] {
        let url = place.url(place.server.port, user, &format!("{root} {client}"));
        assert_eq!(connect(&url).await, outcome, "{user} {client}");
    }
    // Together with everything else that can be asked for.
    let all = format!(
        "sslmode=verify-full {root} {good} channel_binding=require require_auth=scram-sha-256 ssl_min_protocol_version=TLSv1.3"
    );
    assert_eq!(connect(&place.url(place.server.port, "certified", &all)).await, Encrypted);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_that_begins_without_asking() {
    let place = Place::new().await;
    let good = place.ours.server(&["127.0.0.1"], Validity::Good);
    let before = Middle::start(place.server.port, Trick::Direct(good)).await;
    let wrong = Authority::new("x").server(&["127.0.0.1"], Validity::Good);
    let between = Middle::start(place.server.port, Trick::Direct(wrong)).await;
    let direct = format!("sslrootcert={} sslnegotiation=direct", place.root);
    // What lies behind is plain.
    assert_eq!(connect(&place.url(before.port, "app", &direct)).await, Plain);
    assert_eq!(connect(&place.url(between.port, "app", &direct)).await, CERTIFICATE);
}
