//! TLS to the database: verified, or merely encrypted.

use std::sync::Arc;

use crate::error::Error;

/// How to talk: as libpq's modes mean it.
///
/// # Errors
/// Certificates that cannot be read.
pub fn config(roots: Option<&str>, verify: bool) -> Result<rustls::ClientConfig, Error> {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Failed(format!("TLS: {error}")))?;
    if !verify {
        // As libpq's prefer and require: encrypted, but whom we talk to is not checked.
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(unverified::Unverified::new()))
            .with_no_client_auth());
    }
    let mut store = rustls::RootCertStore::empty();
    match roots {
        Some(path) => {
            use rustls::pki_types::pem::PemObject as _;
            let unreadable =
                |error: &dyn std::fmt::Display| Error::Failed(format!("sslrootcert: {path} cannot be read: {error}"));
            let certificates = rustls::pki_types::CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| unreadable(&error))?;
                store.add(certificate).map_err(|error| unreadable(&error))?;
            }
        }
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(builder.with_root_certificates(store).with_no_client_auth())
}

/// Certificates that are looked at, but not verified: what `sslmode=prefer` and `require` mean.
mod unverified {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub(super) struct Unverified {
        algorithms: WebPkiSupportedAlgorithms,
    }

    impl Unverified {
        pub(super) fn new() -> Unverified {
            Unverified { algorithms: rustls::crypto::ring::default_provider().signature_verification_algorithms }
        }
    }

    impl ServerCertVerifier for Unverified {
        fn verify_server_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    }
}
