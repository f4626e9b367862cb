//! TLS for the listener, from PEM files.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;
use crate::error::{Error, Result};

/// Reads the certificate chain and the key, and checks that they belong together.
///
/// # Errors
/// `Invalid`, naming the setting, when a file cannot be read, holds no certificate or key, or the two do not match.
pub fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor> {
    let cert_at_fault = |reason: String| {
        Error::invalid_field("tls_cert", format!("the TLS certificate {}: {reason}", files.cert.display()))
    };
    let key_at_fault = |reason: String| {
        Error::invalid_field("tls_key", format!("the TLS key {}: {reason}", files.key.display()))
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .map_err(|e| cert_at_fault(e.to_string()))?;
    if chain.is_empty() {
        return Err(cert_at_fault("holds no certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| key_at_fault(e.to_string()))?;
    // The provider is named here, not installed for the process: a second one among the dependencies could then
    // not make rustls panic over which to take.
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| cert_at_fault(e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| key_at_fault(e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_another_certificate_is_refused_by_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let pair = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let (one, other) = (pair(), pair());
        let cert = write("cert.pem", &one.cert.pem());
        let own = write("key.pem", &one.signing_key.serialize_pem());
        let foreign = write("other.pem", &other.signing_key.serialize_pem());
        acceptor(&TlsFiles { cert: cert.clone(), key: own.clone() }).expect("a pair");
        let reason = |cert, key| acceptor(&TlsFiles { cert, key }).err().expect("refused").to_string();
        assert!(reason(cert.clone(), foreign).starts_with("the TLS key "));
        assert!(reason(own.clone(), own.clone()).ends_with("holds no certificate"));
        assert!(reason(cert.clone(), cert).starts_with("the TLS key "));
        assert!(reason(directory.path().join("none"), own).starts_with("the TLS certificate "));
    }
}
