//! What a connection string says about TLS and authentication: libpq's parameters, and what they mean here.
//!
//! Pure. No parameter that is about security is ignored: one that we cannot honour is refused, with the reason. Where we
//! differ from libpq we are stricter; `docs/tls.md` says where.

use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};

use super::authentication::Methods;
use super::dsn::Dsn;

/// `sslrootcert` with this value means the certificates of this machine.
const SYSTEM: &str = "system";

/// The parameters that name files.
pub const FILES: [&str; 4] = ["sslrootcert", "sslcert", "sslkey", "sslcrl"];

/// Parameters that are tokio-postgres' own to read.
const OTHERS: [&str; 15] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "options",
    "application_name",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
];

/// How much is asked of the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Plain text.
    Disable,
    /// TLS where the server has it. Whom we talk to is not verified.
    #[default]
    Prefer,
    /// TLS, or nothing. Whom we talk to is not verified.
    Require,
    /// … and the certificate is from an issuer that we know.
    VerifyCa,
    /// … and it is for the host that we connect to.
    VerifyFull,
}

impl Mode {
    /// All of them, from the weakest to the strongest.
    pub const ALL: [Mode; 5] = [Mode::Disable, Mode::Prefer, Mode::Require, Mode::VerifyCa, Mode::VerifyFull];

    /// The name in a connection string.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Disable => "disable",
            Mode::Prefer => "prefer",
            Mode::Require => "require",
            Mode::VerifyCa => "verify-ca",
            Mode::VerifyFull => "verify-full",
        }
    }

    /// Whether the server's certificate is verified.
    pub fn verifies(self) -> bool {
        matches!(self, Mode::VerifyCa | Mode::VerifyFull)
    }

    /// Whether there is no connection over TCP without TLS.
    pub fn insists(self) -> bool {
        !matches!(self, Mode::Disable | Mode::Prefer)
    }

    fn read(text: &str) -> Result<Mode, String> {
        let found = Mode::ALL.into_iter().find(|mode| mode.as_str() == text);
        found.ok_or_else(|| match text {
            "allow" => "sslmode=allow would begin in plain text: write prefer, which begins with TLS, or require".to_owned(),
            _ => format!("{} is none of disable, prefer, require, verify-ca, verify-full", given("sslmode", text)),
        })
    }
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 1.2
    Tls12,
    /// 1.3
    Tls13,
}

/// What is to be done about TLS, and with which files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How much is asked.
    pub mode: Mode,
    /// The issuers that are trusted; none: those of this machine, where anything is verified.
    pub roots: Option<String>,
    /// Our own certificate, and its key.
    pub client: Option<(String, String)>,
    /// Certificates that were revoked.
    pub revoked: Option<String>,
    /// The lowest and the highest version.
    pub versions: (Version, Version),
    /// Whether the server is told in plain text which name we want.
    pub sni: bool,
    /// Whether TLS begins without asking first.
    pub direct: bool,
    /// Whether authentication must be bound to the certificate.
    pub channel_binding: ChannelBinding,
    /// The ways of authentication that we take part in.
    pub methods: Option<Methods>,
}

impl Settings {
    /// Takes out what is about TLS. What is left are parameters for tokio-postgres.
    ///
    /// # Errors
    /// What is wrong, or cannot be honoured.
    pub fn take(dsn: &mut Dsn) -> Result<Settings, String> {
        refuse_what_is_not_to_be_had(dsn)?;
        let mode = dsn.take("sslmode")?.map(|text| Mode::read(&text)).transpose()?;
        let roots = dsn.take("sslrootcert")?;
        let mode = effective_mode(mode, roots.as_deref())?;
        let client = match (dsn.take("sslcert")?, dsn.take("sslkey")?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err("sslcert is given without sslkey".to_owned()),
            (None, Some(_)) => return Err("sslkey is given without sslcert".to_owned()),
        };
        let shows_certificate = one_of(dsn, "sslcertmode", &[("allow", true), ("disable", false)])?.unwrap_or(true);
        let lowest = one_of(dsn, "ssl_min_protocol_version", &VERSIONS)?.unwrap_or(Version::Tls12);
        let highest = one_of(dsn, "ssl_max_protocol_version", &VERSIONS[2..])?.unwrap_or(Version::Tls13);
        if lowest > highest {
            return Err("ssl_min_protocol_version is higher than ssl_max_protocol_version".to_owned());
        }
        let bindings =
            [("disable", ChannelBinding::Disable), ("prefer", ChannelBinding::Prefer), ("require", ChannelBinding::Require)];
        let settings = Settings {
            mode,
            roots: roots.filter(|roots| roots != SYSTEM),
            client: client.filter(|_| shows_certificate),
            revoked: dsn.take("sslcrl")?,
            versions: (lowest, highest),
            sni: one_of(dsn, "sslsni", &[("1", true), ("0", false)])?.unwrap_or(true),
            direct: one_of(dsn, "sslnegotiation", &[("postgres", false), ("direct", true)])?.unwrap_or(false),
            channel_binding: one_of(dsn, "channel_binding", &bindings)?.unwrap_or(ChannelBinding::Prefer),
            methods: dsn.take("require_auth")?.map(|text| Methods::read(&text)).transpose()?,
        };
        settings.refuse_contradictions()?;
        for name in dsn.names() {
            if !OTHERS.contains(&name) && name != "load_balance_hosts" {
                return Err(format!(
                    "{} is not known here; known are {}, and about TLS {} and those of docs/tls.md",
                    if is_a_word(name) { format!("the parameter \"{name}\"") } else { "a parameter".to_owned() },
                    OTHERS.join(", "),
                    FILES.join(", ")
                ));
            }
        }
        Ok(settings)
    }

    /// What would be without effect, or would never work.
    fn refuse_contradictions(&self) -> Result<(), String> {
        let files = [
            ("sslrootcert", self.roots.is_some()),
            ("sslcert", self.client.is_some()),
            ("sslcrl", self.revoked.is_some()),
            ("channel_binding=require", self.channel_binding == ChannelBinding::Require),
        ];
        if self.mode == Mode::Disable
            && let Some((name, _)) = files.into_iter().find(|(_, given)| *given)
        {
            return Err(format!("sslmode=disable and {name} contradict each other: one of them has to go"));
        }
        if self.revoked.is_some() && !self.mode.verifies() {
            return Err("sslcrl is of no use where nothing is verified: write sslmode=verify-full".to_owned());
        }
        if self.direct && matches!(self.mode, Mode::Disable | Mode::Prefer) {
            return Err("sslnegotiation=direct needs sslmode=require, verify-ca or verify-full".to_owned());
        }
        Ok(())
    }

    /// Tells tokio-postgres.
    pub fn apply(&self, config: &mut Config) {
        config.ssl_mode(match self.mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            // Never back to plain text.
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        });
        config.ssl_negotiation(if self.direct { SslNegotiation::Direct } else { SslNegotiation::Postgres });
        config.channel_binding(self.channel_binding);
    }
}

const VERSIONS: [(&str, Version); 4] =
    [("TLSv1", Version::Tls12), ("TLSv1.1", Version::Tls12), ("TLSv1.2", Version::Tls12), ("TLSv1.3", Version::Tls13)];

/// Whoever names an issuer wants it to be verified: then every mode but verify-ca means verify-full.
fn effective_mode(mode: Option<Mode>, roots: Option<&str>) -> Result<Mode, String> {
    match (mode, roots) {
        (None, None) => Ok(Mode::default()),
        (Some(Mode::VerifyCa), None) => {
            Err("sslmode=verify-ca needs sslrootcert=FILE: every certificate of a public issuer would be \
                                             accepted, whoever has it; write verify-full to use the certificates of this machine"
                .to_owned())
        }
        (Some(mode @ (Mode::Prefer | Mode::Require | Mode::VerifyCa)), Some(SYSTEM)) => {
            Err(format!("sslmode={} is too weak for sslrootcert=system: write verify-full", mode.as_str()))
        }
        (Some(mode @ (Mode::VerifyCa | Mode::Disable)), Some(_)) => Ok(mode),
        (Some(_) | None, Some(_)) => Ok(Mode::VerifyFull),
        (Some(mode), None) => Ok(mode),
    }
}

/// A parameter with a closed set of values.
/// Whether it may be repeated: no part of a password that something unencoded has led here.
fn is_a_word(text: &str) -> bool {
    text.len() <= 30 && text.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '-')
}

fn given(name: &str, text: &str) -> String {
    if is_a_word(text) { format!("{name}={text}") } else { format!("what is given for {name}") }
}

fn one_of<T: Copy>(dsn: &mut Dsn, name: &str, values: &[(&str, T)]) -> Result<Option<T>, String> {
    let Some(text) = dsn.take(name)? else { return Ok(None) };
    let found = values.iter().find(|(value, _)| *value == text).map(|(_, meaning)| *meaning);
    found.map(Some).ok_or_else(|| {
        let allowed = values.iter().map(|(value, _)| *value).collect::<Vec<_>>().join(", ");
        format!("{} is none of {allowed}", given(name, &text))
    })
}

/// What libpq has and we do not: refused, unless it is what happens anyway.
fn refuse_what_is_not_to_be_had(dsn: &mut Dsn) -> Result<(), String> {
    const ABSENT: [(&str, &[&str], &str); 8] = [
        ("gssencmode", &["disable", "prefer"], "GSSAPI is not spoken here; write gssencmode=disable, and use TLS"),
        ("sslcompression", &["0"], "TLS is never compressed here; leave it out"),
        (
            "sslpassword",
            &[],
            "keys with a passphrase are not read here: the daemon would have to keep that in a file as well; \
                              write the key without one: openssl pkey -in KEY -out NEW, mode 0600",
        ),
        ("sslcrldir", &[], "directories of revocation lists are not read here: put them into one file and name that with sslcrl"),
        ("sslkeylogfile", &[], "the keys of a connection are never written to a file; leave it out"),
        (
            "requirepeer",
            &[],
            "the owner of a Unix socket's server is not looked at here: leave it out, and see to the rights of its \
                              directory",
        ),
        ("passfile", &[], "files of passwords in libpq's format are not read here: use url_file or a password in url"),
        ("service", &[], "libpq's service files are not read here: write host, dbname and user"),
    ];
    for (name, harmless, reason) in ABSENT {
        if let Some(value) = dsn.take(name)?
            && !harmless.contains(&value.as_str())
        {
            return Err(format!("{name}: {reason}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(parameters: &str) -> Result<Settings, String> {
        Settings::take(&mut Dsn::parse(&format!("host=h {parameters}")).expect("pairs"))
    }

    fn mode(parameters: &str) -> Mode {
        settings(parameters).expect(parameters).mode
    }

    #[test]
    fn asked_to_verify_it_never_falls_back() {
        for (parameters, expected, wire) in [
            ("", Mode::Prefer, SslMode::Prefer),
            ("sslmode=disable", Mode::Disable, SslMode::Disable),
            ("sslmode=prefer", Mode::Prefer, SslMode::Prefer),
            ("sslmode=require", Mode::Require, SslMode::Require),
            ("sslmode=verify-full", Mode::VerifyFull, SslMode::Require),
            ("sslmode=verify-ca sslrootcert=x", Mode::VerifyCa, SslMode::Require),
            // Stricter than libpq, which would not look at the name.
            ("sslmode=require sslrootcert=x", Mode::VerifyFull, SslMode::Require),
            // … and would go on in plain text.
            ("sslmode=prefer sslrootcert=x", Mode::VerifyFull, SslMode::Require),
            ("sslrootcert=x", Mode::VerifyFull, SslMode::Require),
            ("sslrootcert=system", Mode::VerifyFull, SslMode::Require),
        ] {
            assert_eq!(mode(parameters), expected, "{parameters}");
            let mut config = Config::new();
            settings(parameters).expect(parameters).apply(&mut config);
            assert_eq!(config.get_ssl_mode(), wire, "{parameters}");
        }
        assert_eq!(settings("sslrootcert=system").expect("it").roots, None);
        assert_eq!(settings("sslmode=verify-full sslrootcert=x").expect("it").roots.as_deref(), Some("x"));
    }

    #[test]
    fn nothing_about_security_is_ignored() {
        for (parameters, says) in [
            ("sslmode=allow", "plain text"),
            ("sslmode=maybe", "none of disable, prefer"),
            ("sslmode=verify-ca", "sslrootcert=FILE"),
            ("sslmode=require sslrootcert=system", "verify-full"),
            ("sslmode=disable sslrootcert=x", "contradict"),
            ("sslmode=disable sslcert=x sslkey=y", "contradict"),
            ("sslmode=disable channel_binding=require", "contradict"),
            ("sslcert=x", "without sslkey"),
            ("sslkey=x", "without sslcert"),
            ("sslmode=require sslcrl=x", "nothing is verified"),
            ("sslnegotiation=direct", "needs sslmode=require"),
            ("sslnegotiation=perhaps", "none of postgres, direct"),
            ("channel_binding=maybe", "none of disable, prefer, require"),
            ("gssencmode=require", "GSSAPI"),
            ("sslpassword=hush", "without one"),
            ("sslcertmode=require", "none of allow, disable"),
            ("ssl_min_protocol_version=SSLv3", "none of TLSv1"),
            ("ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2", "higher than"),
            ("ssl_max_protocol_version=TLSv1.1", "none of TLSv1.2"),
            ("require_auth=gss", "gss"),
            ("requirepeer=postgres", "Unix socket"),
            ("krbsrvname=x", "not known here"),
            ("sslmode=verify-full sslmode=disable", "twice"),
        ] {
            let said = settings(parameters).expect_err(parameters);
            assert!(said.contains(says) && !said.contains("hush"), "{parameters}: {said}");
        }
    }

    #[test]
    fn what_changes_nothing_is_accepted() {
        let bare = settings("").expect("it");
        for parameters in [
            "gssencmode=prefer sslcompression=0",
            "ssl_min_protocol_version=TLSv1",
            "sslsni=1 sslnegotiation=postgres channel_binding=prefer",
            "sslmode=''",
            "sslcert=x sslkey=y sslcertmode=disable",
        ] {
            assert_eq!(settings(parameters), Ok(bare.clone()), "{parameters}");
        }
        let strict = settings("sslmode=require ssl_min_protocol_version=TLSv1.3 sslsni=0 sslnegotiation=direct").expect("it");
        assert_eq!((strict.versions, strict.sni, strict.direct), ((Version::Tls13, Version::Tls13), false, true));
    }
}
