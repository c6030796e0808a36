//! TLS to a server. Trust is loaded at the first use, so that commands over the socket do
//! not pay for it.

use std::path::Path;
use std::sync::Arc;

use clawfarm_model::{Code, Error, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Shakes hands over `stream` with the server called `host`.
pub(crate) async fn wrap(stream: TcpStream, host: &str, ca: Option<&Path>) -> Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Error::invalid("server", format!("'{host}' is no host's name")))?;
    let config = config(roots(ca)?)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| {
        Error::new(Code::Unavailable, format!("TLS with {host} failed: {error}")).source(error)
    })
}

fn config(roots: RootCertStore) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal("TLS can't be set up", error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(Error::new(Code::Unavailable, "this system has no certificate authorities to trust")
                .fix("install the package ca-certificates, or give the authority's PEM file"));
        }
        return Ok(roots);
    };
    let unreadable = |error: rustls::pki_types::pem::Error| {
        Error::invalid("ca", format!("{} can't be read as PEM certificates: {error}", path.display()))
    };
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        roots.add(certificate.map_err(unreadable)?).map_err(|error| {
            Error::invalid("ca", format!("{} has an unusable certificate: {error}", path.display()))
        })?;
    }
    if roots.is_empty() {
        return Err(Error::invalid("ca", format!("{} has no certificates", path.display())));
    }
    Ok(roots)
}
