//! Certificates and keys: from files, and those of this machine.

use std::os::unix::fs::MetadataExt as _;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// What to say where this machine has no certificates.
const NO_MACHINE: &str = "no certificates of issuers are found on this machine: install its package of them \
                              (ca-certificates), or name a file with SSL_CERT_FILE, or one of your own in the configuration";

/// The certificates of this machine's issuers, or of what `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
///
/// # Errors
/// There are none, and why.
pub fn machine() -> Result<Vec<CertificateDer<'static>>, String> {
    let found = rustls_native_certs::load_native_certs();
    if !found.certs.is_empty() {
        return Ok(found.certs);
    }
    let why: String = found.errors.iter().map(|error| format!(" ({error})")).collect();
    Err(format!("{NO_MACHINE}{why}"))
}

/// What a person wants to know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Who gave it out, as it says itself; without characters that a terminal would obey.
    pub issuer: String,
    /// The last second of its validity.
    pub until: jiff::Timestamp,
}

impl About {
    /// Of a certificate that can be read.
    pub fn of(certificate: &[u8]) -> Option<About> {
        use x509_cert::der::Decode as _;
        let certificate = x509_cert::Certificate::from_der(certificate).ok()?.tbs_certificate;
        let until = certificate.validity.not_after.to_unix_duration().as_secs();
        let issuer = certificate.issuer.to_string().chars().filter(|c| !c.is_control()).take(200).collect();
        Some(About { issuer, until: jiff::Timestamp::from_second(i64::try_from(until).ok()?).ok()? })
    }

    /// Whether it is over within these days, or already.
    pub fn ends_within(&self, days: i64) -> bool {
        self.until.as_second() - jiff::Timestamp::now().as_second() < days * 86_400
    }
}

impl std::fmt::Display for About {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "from {}, valid until {}", self.issuer, self.until)
    }
}

/// A private key, as it stands in its file.
#[derive(PartialEq, Eq)]
pub struct Key(PrivateKeyDer<'static>);

impl Key {
    /// The key.
    pub fn der(&self) -> PrivateKeyDer<'static> {
        self.0.clone_key()
    }
}

impl Clone for Key {
    fn clone(&self) -> Key {
        Key(self.der())
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<key>")
    }
}

/// Reads a file; `name` is what names it in the configuration.
///
/// # Errors
/// It cannot be read.
pub fn read(name: &str, path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{name}: {path} cannot be read: {error}"))
}

/// The certificates in a file's text.
///
/// # Errors
/// There is none, or something that is none.
pub fn certificates(name: &str, path: &str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    all(name, path, found, "certificate", "CERTIFICATE")
}

/// The revocation lists in a file's text.
///
/// # Errors
/// There is none, or something that is none.
pub fn revocations(name: &str, path: &str, text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let found = CertificateRevocationListDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    all(name, path, found, "revocation list", "X509 CRL")
}

fn all<T>(
    name: &str,
    path: &str,
    found: Result<Vec<T>, rustls::pki_types::pem::Error>,
    what: &str,
    label: &str,
) -> Result<Vec<T>, String> {
    match found {
        Ok(found) if found.is_empty() => {
            Err(format!("{name}: {path} holds no {what}: PEM is wanted, -----BEGIN {label}----- and so on"))
        }
        Ok(found) => Ok(found),
        Err(error) => Err(format!("{name}: {path} holds a {what} that cannot be read: {error}")),
    }
}

/// Reads a private key. As with libpq its file is its owner's alone, or root's, who may let a group read it.
///
/// # Errors
/// It cannot be read, others may read it, or it has a passphrase.
pub fn private_key(name: &str, path: &str) -> Result<Key, String> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("{name}: {path} cannot be read: {error}"))?;
    if !is_private(metadata.uid(), metadata.mode()) {
        return Err(format!(
            "{name}: others may read {path} (mode {:03o}): chmod 600 {path}, or chown root and chmod 640 for a group",
            metadata.mode() & 0o777
        ));
    }
    let text = read(name, path)?;
    if [b"BEGIN ENCRYPTED PRIVATE KEY".as_slice(), b"Proc-Type: 4,ENCRYPTED"].iter().any(|sign| contains(&text, sign)) {
        return Err(format!(
            "{name}: {path} has a passphrase, and nobody is there to type it: write the key without one, \
             openssl pkey -in {path} -out NEW, and chmod 600 NEW"
        ));
    }
    let found = PrivateKeyDer::from_pem_slice(&text);
    found.map(Key).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => {
            format!("{name}: {path} holds no key: PEM is wanted (PKCS#8, PKCS#1 or SEC1), -----BEGIN PRIVATE KEY----- and so on")
        }
        // The error of a damaged one may repeat some of it.
        _ => format!("{name}: {path} holds a key that cannot be read"),
    })
}

fn contains(text: &[u8], sign: &[u8]) -> bool {
    text.windows(sign.len()).any(|window| window == sign)
}

/// libpq's rule; systemd's credentials are root's, with a mode of 0440 at most.
fn is_private(owner: u32, mode: u32) -> bool {
    const NO_GROUP_AND_OTHERS: u32 = 0o077;
    const NO_GROUP_WRITES_AND_OTHERS: u32 = 0o037;
    mode & if owner == 0 { NO_GROUP_WRITES_AND_OTHERS } else { NO_GROUP_AND_OTHERS } == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_owners_alone() {
        for (owner, mode, private) in [
            (1_000, 0o100_600, true),
            (1_000, 0o100_400, true),
            (1_000, 0o100_640, false),
            (1_000, 0o100_604, false),
            (0, 0o100_640, true),
            (0, 0o100_440, true),
            (0, 0o100_660, false),
            (0, 0o100_644, false),
        ] {
            assert_eq!(is_private(owner, mode), private, "{owner} {mode:o}");
        }
    }
}
