//! TLS to the database: what the connection string asks for, with the files that it names.
//!
//! The files are read again for every connection, so that a certificate that was renewed is in use with the next one. What
//! cannot be read is said when the program starts or is reloaded; later, as an error of that connection, which is tried again.

use std::io;
use std::sync::{Arc, Mutex};

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::sslmode::{Mode, Settings, Version};
use super::verify::{Shown, Verifier};
use crate::dispatch::lock;
use crate::error::Error;
use crate::pem;

/// What PostgreSQL 17 wants to hear where TLS begins without asking first.
const ALPN: &[u8] = b"postgresql";

/// Makes TLS for one connection after the other.
#[derive(Clone)]
pub struct Tls {
    settings: Arc<Settings>,
    /// Certificates of this machine, where they are what is trusted.
    machine: Arc<Vec<CertificateDer<'static>>>,
    last: Arc<Mutex<Option<(Files, MakeRustlsConnect)>>>,
    shown: Shown,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What stands in the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Files {
    roots: Option<Vec<u8>>,
    client: Option<(Vec<u8>, pem::Key)>,
    revoked: Option<Vec<u8>>,
}

impl Tls {
    /// Looks at the files once, and at this machine's certificates if they are needed.
    ///
    /// # Errors
    /// What cannot be read, or does not fit together.
    pub fn new(settings: Settings) -> Result<Tls, Error> {
        let from_machine = settings.mode.verifies() && settings.roots.is_none();
        let machine = if from_machine { pem::machine() } else { Ok(Vec::new()) };
        let machine = machine.map_err(|what| Error::Failed(format!("sslmode={}: {what}", settings.mode.as_str())))?;
        let tls = Tls { settings: Arc::new(settings), machine: Arc::new(machine), last: Arc::default(), shown: Shown::default() };
        tls.make().map_err(Error::Failed)?;
        Ok(tls)
    }

    /// What is asked for.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether a server has shown a certificate. Where a session stands under a mode that insists on TLS, it was accepted.
    pub fn was_shown(&self) -> bool {
        lock(&self.shown).is_some()
    }

    /// The certificates that are in use: the server's, as it was shown last, and our own.
    pub fn certificates(&self) -> Vec<(&'static str, pem::About)> {
        let server = lock(&self.shown).as_ref().and_then(|certificate| pem::About::of(certificate));
        let ours = lock(&self.last).as_ref().and_then(|(files, _)| {
            let certificates = pem::certificates("sslcert", "", &files.client.as_ref()?.0).ok()?;
            pem::About::of(certificates.first()?)
        });
        [("the server's certificate", server), ("our certificate (sslcert)", ours)]
            .into_iter()
            .filter_map(|(what, about)| Some((what, about?)))
            .collect()
    }

    /// TLS for the next connection, by what stands in the files now.
    ///
    /// # Errors
    /// What cannot be read, or does not fit together.
    pub async fn connector(&self) -> io::Result<MakeRustlsConnect> {
        let tls = self.clone();
        let made = tokio::task::spawn_blocking(move || tls.make()).await.map_err(io::Error::other)?;
        made.map_err(|what| io::Error::new(io::ErrorKind::InvalidInput, Unusable(what)))
    }

    fn make(&self) -> Result<MakeRustlsConnect, String> {
        let files = self.read()?;
        let mut last = lock(&self.last);
        if let Some((read, made)) = &*last
            && *read == files
        {
            return Ok(made.clone());
        }
        let made = MakeRustlsConnect::new(self.config(&files)?);
        *last = Some((files, made.clone()));
        Ok(made)
    }

    fn read(&self) -> Result<Files, String> {
        if self.settings.mode == Mode::Disable {
            return Ok(Files::default());
        }
        let read = |name: &str, path: &Option<String>| path.as_ref().map(|path| pem::read(name, path)).transpose();
        let client = match &self.settings.client {
            Some((certificate, key)) => Some((pem::read("sslcert", certificate)?, pem::private_key("sslkey", key)?)),
            None => None,
        };
        Ok(Files { roots: read("sslrootcert", &self.settings.roots)?, client, revoked: read("sslcrl", &self.settings.revoked)? })
    }

    fn config(&self, files: &Files) -> Result<ClientConfig, String> {
        let settings = &self.settings;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions(settings.versions))
            .map_err(|error| format!("TLS: {error}"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.verifier(files, provider)?));
        let mut config = match (&settings.client, &files.client) {
            (Some((path, key_path)), Some((certificate, key))) => {
                let certificates = pem::certificates("sslcert", path, certificate)?;
                builder
                    .with_client_auth_cert(certificates, key.der())
                    .map_err(|error| format!("sslcert {path} and sslkey {key_path} do not go together: {error}"))?
            }
            _ => builder.with_no_client_auth(),
        };
        config.enable_sni = settings.sni;
        if settings.direct {
            config.alpn_protocols = vec![ALPN.to_vec()];
        }
        Ok(config)
    }

    fn verifier(&self, files: &Files, provider: Arc<CryptoProvider>) -> Result<Verifier, String> {
        let (settings, algorithms) = (&self.settings, provider.signature_verification_algorithms);
        if !settings.mode.verifies() {
            return Ok(Verifier::unverified(algorithms, Arc::clone(&self.shown)));
        }
        let mut store = RootCertStore::empty();
        let mut pinned = Vec::new();
        match (&settings.roots, &files.roots) {
            (Some(path), Some(text)) => {
                for certificate in pem::certificates("sslrootcert", path, text)? {
                    store.add(certificate.clone()).map_err(|error| format!("sslrootcert: {path}: {error}"))?;
                    pinned.push(certificate);
                }
            }
            _ => drop(store.add_parsable_certificates(self.machine.iter().cloned())),
        }
        let mut chain = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider);
        if let (Some(path), Some(text)) = (&settings.revoked, &files.revoked) {
            // A list that says nothing of a certificate, or is no longer valid, says that nothing is known: as with libpq.
            chain = chain.with_crls(pem::revocations("sslcrl", path, text)?).enforce_revocation_expiration();
            // One that is its own issuer cannot be looked up in a list of its issuer's.
            pinned.clear();
        }
        let chain = chain.build().map_err(|error| format!("TLS: {error}"))?;
        Ok(Verifier::verified(chain, settings.mode == Mode::VerifyFull, pinned, algorithms, Arc::clone(&self.shown)))
    }
}

/// For a connection that is not to be had: it trusts nobody.
pub fn none() -> MakeRustlsConnect {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("the provider has them");
    MakeRustlsConnect::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn versions((lowest, highest): (Version, Version)) -> Vec<&'static SupportedProtocolVersion> {
    [(Version::Tls12, &rustls::version::TLS12), (Version::Tls13, &rustls::version::TLS13)]
        .into_iter()
        .filter(|(version, _)| (lowest..=highest).contains(version))
        .map(|(_, version)| version)
        .collect()
}

/// A file that is needed for TLS is not what it should be.
#[derive(Debug)]
pub struct Unusable(String);

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unusable {}
