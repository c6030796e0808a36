//! TLS on the TCP listener.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clawfarm_model::{Error, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Where the certificate is. Read once, at the start.
#[derive(Clone, Debug)]
pub struct Tls {
    /// A PEM file of the certificate and those that lead to its authority.
    pub certificate: PathBuf,
    /// A PEM file of its private key.
    pub key: PathBuf,
}

pub(super) fn acceptor(tls: &Tls) -> Result<TlsAcceptor> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect)
        .map_err(|error| unusable("tls.cert", &tls.certificate, error))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| unusable("tls.key", &tls.key, error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal("TLS can't be set up", error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| unusable("tls.cert", &tls.certificate, error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn unusable(field: &str, path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::invalid(field, format!("{} can't be used: {error}", path.display()))
        .fix("give PEM files of a certificate chain and of its own private key")
        .source(error)
}
