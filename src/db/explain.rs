//! Why a session is not to be had, and what to do about it: one remedy per cause, said by `check` and by the daemon alike.

use std::error::Error as _;
use std::io::ErrorKind;

use tokio_postgres::config::Host;

use super::quote;
use super::session::Connector;
use crate::error::Error;

/// Why a session is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// SQLSTATE 28P01: the password is wrong, or there is no such role (the server does not say which).
    Password,
    /// SQLSTATE 28000 of the role: it does not exist, or may not log in.
    Role,
    /// SQLSTATE 28000 of `pg_hba.conf`: no line admits us.
    Admission,
    /// SQLSTATE 3D000: there is no such database.
    Database,
    /// SQLSTATE 42501 on connecting: the role has no CONNECT.
    Connect,
    /// SQLSTATE 57P03: it starts up, shuts down, or recovers.
    Starting,
    /// SQLSTATE 53300: too many connections.
    Connections,
    /// SQLSTATE 53100: the server's disk is full.
    Disk,
    /// SQLSTATE 08P01, or an answer that PostgreSQL never gives: what answers is not PostgreSQL itself, or does not know us.
    Proxy,
    /// The port is closed.
    Refused,
    /// There is no socket in that directory, or it may not be used.
    Socket,
    /// The host's name is not known.
    Host,
    /// There is no way to the host.
    Unreachable,
    /// Nobody answers.
    Silent,
    /// TLS is asked for, and the server has none.
    NoTls,
    /// The server's certificate is not accepted, or ours is not.
    Certificate,
    /// A file of certificates or keys is not what it should be.
    TlsFile,
    /// Channel binding is asked for, and not to be had, or broken.
    ChannelBinding,
    /// The server asks for a way of authentication that we do not take part in.
    Authentication,
    /// The connection broke.
    Lost,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 20] = [
        Cause::Password,
        Cause::Role,
        Cause::Admission,
        Cause::Database,
        Cause::Connect,
        Cause::Starting,
        Cause::Connections,
        Cause::Disk,
        Cause::Proxy,
        Cause::Refused,
        Cause::Socket,
        Cause::Host,
        Cause::Unreachable,
        Cause::Silent,
        Cause::NoTls,
        Cause::Certificate,
        Cause::TlsFile,
        Cause::ChannelBinding,
        Cause::Authentication,
        Cause::Lost,
    ];

    /// The name in `check --json` and in `docs/check.md`.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Password => "database-password",
            Cause::Role => "database-role",
            Cause::Admission => "database-admission",
            Cause::Database => "database-name",
            Cause::Connect => "database-connect",
            Cause::Starting => "database-starting",
            Cause::Connections => "database-connections",
            Cause::Disk => "database-disk",
            Cause::Proxy => "database-proxy",
            Cause::Refused => "database-refused",
            Cause::Socket => "database-socket",
            Cause::Host => "database-host",
            Cause::Unreachable => "database-unreachable",
            Cause::Silent => "database-silent",
            Cause::NoTls => "database-no-tls",
            Cause::Certificate => "database-certificate",
            Cause::TlsFile => "database-tls-file",
            Cause::ChannelBinding => "database-channel-binding",
            Cause::Authentication => "database-authentication",
            Cause::Lost => "database-lost",
        }
    }

    /// The cause of an error on connecting; `None` where the error says itself what to do, or is about something else.
    pub fn of(error: &Error) -> Option<Cause> {
        match error {
            Error::Unavailable(what) if what.contains("did not answer within") => Some(Cause::Silent),
            Error::Database(error) => match error.as_db_error() {
                Some(said) => Cause::of_answer(said.code().code(), said.routine()),
                None => Some(Cause::of_connection(error)),
            },
            _ => None,
        }
    }

    /// From the server's SQLSTATE. The routine tells those of one SQLSTATE apart: unlike the message, it is not translated.
    fn of_answer(sqlstate: &str, routine: Option<&str>) -> Option<Cause> {
        Some(match (sqlstate, routine) {
            ("28P01", _) => Cause::Password,
            ("28000", Some("InitializeSessionUserId" | "InitializeSessionUserIdStandalone")) => Cause::Role,
            // The server has seen another certificate than we have.
            ("28000", Some("read_client_final_message")) => Cause::ChannelBinding,
            ("28000", _) => Cause::Admission,
            ("3D000", _) => Cause::Database,
            ("42501", Some("CheckMyDatabase")) => Cause::Connect,
            ("57P03", _) => Cause::Starting,
            ("53300", _) => Cause::Connections,
            ("53100", _) => Cause::Disk,
            ("08P01", _) => Cause::Proxy,
            _ => return None,
        })
    }

    /// From what happened to the connection.
    fn of_connection(error: &tokio_postgres::Error) -> Cause {
        let text = Error::chain(error);
        if text.contains("server does not support TLS") {
            return Cause::NoTls;
        }
        if text.contains("server did not use channel binding") {
            return Cause::ChannelBinding;
        }
        if tls(&text).is_some() {
            return Cause::Certificate;
        }
        let mut source = error.source();
        while let Some(cause) = source {
            if let Some(io) = cause.downcast_ref::<std::io::Error>() {
                return Cause::of_io(io);
            }
            source = cause.source();
        }
        Cause::Lost
    }

    fn of_io(error: &std::io::Error) -> Cause {
        let inner = error.get_ref();
        if inner.is_some_and(|inner| inner.is::<super::tls::Unusable>()) {
            return Cause::TlsFile;
        }
        if inner.is_some_and(|inner| inner.is::<super::authentication::Refused>()) {
            return Cause::Authentication;
        }
        if inner.is_some_and(|inner| inner.is::<super::patience::NotPostgres>()) {
            return Cause::Proxy;
        }
        match error.kind() {
            ErrorKind::ConnectionRefused => Cause::Refused,
            ErrorKind::NotFound | ErrorKind::PermissionDenied => Cause::Socket,
            ErrorKind::TimedOut => Cause::Silent,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => Cause::Unreachable,
            // The resolver's errors have no kind of their own; this is the standard library's text.
            _ if error.to_string().contains("failed to lookup address") => Cause::Host,
            _ => Cause::Lost,
        }
    }
}

/// What to do about an error on connecting, in one line; `None` where the error says it itself.
pub fn remedy(error: &Error, connector: &Connector) -> Option<String> {
    let (config, _) = connector.parts();
    let user = config.get_user().unwrap_or("…");
    let who = Who { user, database: config.get_dbname().unwrap_or(user), host: config.get_hosts().first() };
    Some(who.remedy(Cause::of(error)?, &error.to_string()))
}

/// Who connects to what.
struct Who<'a> {
    user: &'a str,
    database: &'a str,
    host: Option<&'a Host>,
}

impl Who<'_> {
    fn remedy(&self, cause: Cause, said: &str) -> String {
        let (user, database) = (quote(self.user), quote(self.database));
        match cause {
            Cause::Password => format!(
                "correct the password in database.url, or set it on the server: ALTER ROLE {user} PASSWORD '…'; (a role that does not \
                 exist is refused in the same words)"
            ),
            Cause::Role => format!(
                "correct the user in database.url, or on the server: CREATE ROLE {user} LOGIN PASSWORD '…'; (ALTER ROLE {user} LOGIN; \
                 where it exists)"
            ),
            Cause::Admission => format!(
                "on the server, add to pg_hba.conf, above lines that refuse: host {database} {user} OUR-ADDRESS/32 scram-sha-256, and \
                 run SELECT pg_reload_conf(); a server that wants TLS is satisfied with sslmode=require in database.url, one that wants a client \
                 certificate with sslcert and sslkey"
            ),
            Cause::Database => format!("correct the database in database.url, or make it: CREATE DATABASE {database};"),
            Cause::Connect => format!("GRANT CONNECT ON DATABASE {database} TO {user};"),
            Cause::Starting => {
                "wait: the server is starting up, shutting down or recovering; its log says how far it is".to_owned()
            }
            Cause::Connections => {
                "close sessions (SELECT count(*), usename, application_name FROM pg_stat_activity GROUP BY 2, 3) or raise \
                 max_connections, or the role's or database's CONNECTION LIMIT"
                    .to_owned()
            }
            Cause::Disk => {
                "make room on the disk of the server: its data directory, pg_wal and tablespaces; its log says which".to_owned()
            }
            Cause::Proxy => "what answers at this port is not PostgreSQL itself: a pooler or proxy that refuses (look at its own log \
                             and list of databases and users), or something else; point database.url at PostgreSQL"
                .to_owned(),
            Cause::Refused => format!(
                "nothing listens at this port: start PostgreSQL, correct host and port in database.url{}",
                if self.is_loopback() { "" } else { ", or let it listen there (listen_addresses, firewall)" }
            ),
            Cause::Socket => {
                "there is no socket of PostgreSQL in this directory, or it may not be used: correct host (a directory) \
                              and port in database.url, or start PostgreSQL"
                    .to_owned()
            }
            Cause::Host => {
                "the host's name is not known here: correct it in database.url, or look at this machine's DNS".to_owned()
            }
            Cause::Unreachable => {
                "there is no way to this address: correct it in database.url, or look at routes and VPN".to_owned()
            }
            Cause::Silent => {
                "nobody answers: a firewall that drops packets, a wrong address, or a server that stands still".to_owned()
            }
            Cause::NoTls => "the server says that it has no TLS: set ssl = on there; where it is on, something in between says so, and \
                             is to be found before sslmode asks for less"
                .to_owned(),
            Cause::TlsFile => {
                "mend the file that is named: it is read again for every connection, nothing has to be restarted".to_owned()
            }
            Cause::ChannelBinding => "channel_binding=require wants a SCRAM password over TLS that ends at PostgreSQL itself: set ssl = on \
                                      and password_encryption = 'scram-sha-256' there and the role's password anew, give it a certificate \
                                      that is signed with SHA-256 or longer (not Ed25519, not RSA-PSS); a proxy that ends TLS, or \
                                      somebody in the middle, is refused on purpose"
                .to_owned(),
            Cause::Authentication => "let pg_hba.conf ask for scram-sha-256, or use TLS (sslmode=verify-full); require_auth in database.url \
                                      names what is allowed, and require_auth=password allows a password in clear text"
                .to_owned(),
            Cause::Certificate => tls(said).unwrap_or(CERTIFICATE).to_owned(),
            Cause::Lost => {
                "the connection broke: the server's log says why, or what lies between (proxy, firewall) does".to_owned()
            }
        }
    }

    fn is_loopback(&self) -> bool {
        match self.host {
            Some(Host::Tcp(host)) => host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
            _ => true,
        }
    }
}

const CERTIFICATE: &str = "TLS failed: compare what the server offers (openssl s_client) with what is asked for";
const EXPIRED: &str = "the certificate has expired: renew it on the server; or is this machine's clock wrong?";
const EARLY: &str = "the certificate is not valid yet: is this machine's clock wrong?";
const NAME: &str = "the certificate is for another name: connect by a name that stands in its subjectAltName (a common name alone does \
                    not count), or renew it with this one; for a database whose issuer is your own, sslmode=verify-ca does not look at \
                    names";
const REVOCATION: &str =
    "the revocation list says nothing valid about it: get a new one from every issuer of the chain into sslcrl";
const OLD: &str = "what answers speaks TLS 1.1 or older, or no cipher of today: 1.2 is the least; renew its TLS settings";
const OURS: &str =
    "the server does not accept our certificate: give sslcert one that is valid and from an issuer in its ssl_ca_file";

/// What to do about an error of TLS, by a sign in its text. The first that fits is taken.
const REMEDIES: [(&str, &str); 26] = [
    // What the other side says of us.
    ("received fatal alert: UnknownCA", OURS),
    ("received fatal alert: CertificateUnknown", OURS),
    ("received fatal alert: CertificateExpired", OURS),
    ("received fatal alert: CertificateRevoked", OURS),
    ("received fatal alert: BadCertificate", OURS),
    ("received fatal alert: DecryptError", OURS),
    (
        "received fatal alert: CertificateRequired",
        "the server wants a certificate of ours: give sslcert and sslkey in database.url",
    ),
    ("received fatal alert: ProtocolVersion", OLD),
    ("received fatal alert: HandshakeFailure", OLD),
    ("peer is incompatible", OLD),
    // What we say of it.
    (
        "UnknownIssuer",
        "the certificate's issuer is not known here: give the issuer's certificate (database: sslrootcert in database.url; \
         endpoint: ca_file), or renew it from an issuer that is known; where it was known before, somebody may be in the middle",
    ),
    ("certificate expired", EXPIRED),
    ("ExpiredRevocationList", REVOCATION),
    ("revocation list expired", REVOCATION),
    ("UnknownRevocationStatus", REVOCATION),
    ("Expired", EXPIRED),
    ("NotValidYet", EARLY),
    ("not valid yet", EARLY),
    ("NotValidForName", NAME),
    ("not valid for name", NAME),
    ("Revoked", "the certificate was revoked by its issuer: renew it on the server, and find out why"),
    ("InvalidContentType", "what answers speaks no TLS: use http:// or the port for https, and sslmode=disable for a database"),
    (
        "CaUsedAsEndEntity",
        "the server's own certificate is one of an issuer: give it an ordinary one; a database's is accepted if sslrootcert names \
         exactly this one",
    ),
    (
        "UnsupportedCertVersion",
        "the certificate is of version 1, without the names that it is for: make it anew with a subjectAltName \
         (openssl x509 -req … -extfile); one that is its own issuer is accepted with sslmode=verify-ca if sslrootcert names it",
    ),
    ("invalid peer certificate", CERTIFICATE),
    ("TLS handshake", CERTIFICATE),
];

/// What to do about an error of TLS, from its text, which is our own library's and not translated; `None` where it is
/// about something else.
pub fn tls(said: &str) -> Option<&'static str> {
    let known = REMEDIES.iter().find(|(sign, _)| said.contains(sign)).map(|(_, remedy)| *remedy);
    known.or_else(|| said.contains("received fatal alert").then_some(CERTIFICATE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_causes_have_one_name_and_each_has_a_remedy() {
        let names: std::collections::HashSet<&str> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
        assert_eq!(names.len(), Cause::ALL.len());
        let who = Who { user: "o\"dd", database: "shop", host: None };
        for cause in Cause::ALL {
            assert!(!who.remedy(cause, "").is_empty());
        }
        assert!(who.remedy(Cause::Connect, "").contains(r#"TO "o""dd";"#));
    }

    #[test]
    fn causes_of_one_sqlstate_are_told_apart_by_the_routine() {
        assert_eq!(Cause::of_answer("28000", Some("InitializeSessionUserId")), Some(Cause::Role));
        assert_eq!(Cause::of_answer("28000", Some("ClientAuthentication")), Some(Cause::Admission));
        assert_eq!(Cause::of_answer("42501", Some("aclcheck_error")), None);
    }

    #[test]
    fn errors_of_sockets_have_a_cause() {
        let of = |kind| Cause::of_io(&std::io::Error::from(kind));
        assert_eq!(of(ErrorKind::ConnectionRefused), Cause::Refused);
        assert_eq!(of(ErrorKind::TimedOut), Cause::Silent);
        assert_eq!(of(ErrorKind::NetworkUnreachable), Cause::Unreachable);
        assert_eq!(of(ErrorKind::NotFound), Cause::Socket);
        assert_eq!(of(ErrorKind::ConnectionReset), Cause::Lost);
    }

    #[test]
    fn certificates_are_explained() {
        assert!(tls("error: invalid peer certificate: UnknownIssuer").is_some_and(|remedy| remedy.contains("sslrootcert")));
        assert!(tls("received corrupt message of type InvalidContentType").is_some_and(|remedy| remedy.contains("no TLS")));
        assert_eq!(tls("connection refused"), None);
    }
}
