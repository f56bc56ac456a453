//! TLS to an endpoint: 1.2 or 1.3, and a certificate for its host from an issuer that is known.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::config::Pusher;
use crate::pem;

/// How to talk to this endpoint. The issuers that are known are this machine's, or those of `SSL_CERT_FILE` and
/// `SSL_CERT_DIR`, and those of `ca_file`.
///
/// # Errors
/// It is to be talked to with TLS, and no issuer is known.
pub(super) fn config(pusher: &Pusher) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in &pusher.issuers {
        roots.add(certificate.clone()).map_err(|error| format!("ca_file: {error}"))?;
    }
    match pem::machine() {
        Ok(machine) => drop(roots.add_parsable_certificates(machine)),
        Err(what) if roots.is_empty() && pusher.url.scheme() == "https" => return Err(what),
        Err(_) => {}
    }
    // Older versions than 1.2 are not in the library.
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
