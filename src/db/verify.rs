//! Whether the server's certificate is what was asked for.

use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};

use crate::dispatch::lock;

/// What a certificate is compared with.
#[derive(Debug)]
pub struct Verifier {
    /// None: it is looked at, and whatever it is, accepted (`prefer`, `require`).
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// Whether it has to be for the host that we connect to (`verify-full`).
    name: bool,
    /// Certificates that are trusted as they stand: those in the file of issuers that are their own issuer.
    pinned: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
    /// The certificate that was shown last, accepted or not.
    shown: Shown,
}

/// Where the certificate is left that a server showed.
pub type Shown = Arc<Mutex<Option<CertificateDer<'static>>>>;

impl Verifier {
    /// Accepts every certificate whose key the server has.
    pub fn unverified(algorithms: WebPkiSupportedAlgorithms, shown: Shown) -> Verifier {
        Verifier { chain: None, name: false, pinned: Vec::new(), algorithms, shown }
    }

    /// Accepts those whose chain is verified; with `name` only those for our host. A server that shows one of `pinned`
    /// itself has shown what was asked for: PostgreSQL is often run with a certificate that is its own issuer, and that would
    /// not be accepted as one of a server.
    pub fn verified(
        chain: Arc<WebPkiServerVerifier>,
        name: bool,
        pinned: Vec<CertificateDer<'static>>,
        algorithms: WebPkiSupportedAlgorithms,
        shown: Shown,
    ) -> Verifier {
        let pinned = pinned.into_iter().filter(is_its_own_issuer).collect();
        Verifier { chain: Some(chain), name, pinned, algorithms, shown }
    }

    fn verify_pinned(&self, certificate: &CertificateDer<'_>, server: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        let parsed = parsed(certificate)?;
        let validity = parsed.tbs_certificate.validity;
        if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
            return Err(CertificateError::Expired.into());
        }
        if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
            return Err(CertificateError::NotValidYet.into());
        }
        if self.name { verify_server_name(&ParsedCertificate::try_from(certificate)?, server) } else { Ok(()) }
    }
}

fn parsed(certificate: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

fn is_its_own_issuer(certificate: &CertificateDer<'static>) -> bool {
    parsed(certificate).is_ok_and(|parsed| parsed.tbs_certificate.issuer == parsed.tbs_certificate.subject)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *lock(&self.shown) = Some(end_entity.clone().into_owned());
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        if self.pinned.iter().any(|pinned| pinned == end_entity) {
            self.verify_pinned(end_entity, server_name, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last: everything else is as it should be.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if ParsedCertificate::try_from(certificate).is_ok() {
            return verify_tls13_signature(message, certificate, signed, &self.algorithms);
        }
        // One of version 1, which the recipe of PostgreSQL's own documentation makes, is no certificate to the library. Where
        // it was accepted (unverified, or as it stands) its key is as good as another to show that the server has it.
        let key = parsed(certificate)?.tbs_certificate.subject_public_key_info.to_der();
        let key = key.map_err(|_| Error::from(CertificateError::BadEncoding))?;
        verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(key), signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
