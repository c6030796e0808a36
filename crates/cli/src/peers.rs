//! How this server and the others of its database reach one another.

use std::net::SocketAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use clawfarm_client::Endpoint;
use clawfarm_model::Error;
use clawfarm_server::{PeerConnect, PeerStream};

/// Connects as a client does.
pub(crate) struct Connector {
    /// The authorities to trust; the system's when absent.
    pub(crate) ca: Option<PathBuf>,
}

#[async_trait]
impl PeerConnect for Connector {
    async fn connect(&self, address: &str) -> Result<Box<dyn PeerStream>, Error> {
        let mut endpoint = read(address)?;
        if let Endpoint::Https { ca, .. } = &mut endpoint {
            ca.clone_from(&self.ca);
        }
        Ok(Box::new(clawfarm_client::connect(&endpoint).await?))
    }
}

/// Where the others reach this server: what was said, or where it listens.
pub(crate) fn address(
    said: Option<&str>,
    listens: Option<SocketAddr>,
    tls: bool,
    allow_plaintext: bool,
) -> Result<Option<String>, Error> {
    if let Some(said) = said {
        let endpoint = read(said)?;
        if endpoint.in_the_clear() && !allow_plaintext {
            return Err(Error::invalid("--peer-address", format!("'{said}' can be read on the way"))
                .fix("give an https address (with --tls-cert), or insist with --allow-plaintext"));
        }
        return Ok(Some(endpoint.to_string()));
    }
    // Listening everywhere says nothing of where it can be reached.
    let Some(at) = listens.filter(|at| !at.ip().is_unspecified()) else { return Ok(None) };
    Ok(Some(format!("{}://{at}", if tls { "https" } else { "http" })))
}

fn read(address: &str) -> Result<Endpoint, Error> {
    match address.parse() {
        Ok(endpoint @ (Endpoint::Http { .. } | Endpoint::Https { .. })) => Ok(endpoint),
        _ => {
            let shown: String = address.chars().take(100).flat_map(char::escape_default).collect();
            Err(Error::invalid("--peer-address", format!("'{shown}' is no address of a server"))
                .fix("give https://host[:port], or http://127.0.0.1:port for servers of one machine"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_one_given_or_the_listeners() {
        let of = |said, listens: Option<&str>, tls| {
            address(said, listens.map(|l| l.parse().unwrap()), tls, false).unwrap()
        };
        assert_eq!(of(None, None, false), None);
        assert_eq!(of(None, Some("127.0.0.1:8420"), false).as_deref(), Some("http://127.0.0.1:8420"));
        assert_eq!(of(None, Some("[::1]:8420"), true).as_deref(), Some("https://[::1]:8420"));
        assert_eq!(of(None, Some("0.0.0.0:8420"), true), None);
        assert_eq!(
            of(Some("https://a.example"), Some("0.0.0.0:1"), true).as_deref(),
            Some("https://a.example:443")
        );
        for wrong in ["", "/run/x.sock", "http://10.0.0.1:80", "ftp://x:1", "https://u:p@h"] {
            let error = address(Some(wrong), None, false, false).unwrap_err();
            assert_eq!(error.field_name(), Some("--peer-address"), "{wrong}");
        }
    }
}
