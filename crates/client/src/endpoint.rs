//! Where a server is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clawfarm_model::Error;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// At a unix socket, however long its path.
    Unix(PathBuf),
    /// At a TCP port, in the clear: everyone on the way can read the token. For loopback.
    Http {
        /// The host's name or address; IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// At a TCP port, with TLS.
    Https {
        /// The host's name or address; IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
        /// A PEM file of the authorities to trust; the system's when absent.
        ca: Option<PathBuf>,
    },
}

impl Endpoint {
    /// Whether the token would cross a network in the clear.
    #[must_use]
    pub fn in_the_clear(&self) -> bool {
        match self {
            Self::Http { host, .. } => {
                host != "localhost"
                    && !host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            }
            Self::Unix(_) | Self::Https { .. } => false,
        }
    }

    /// The value of the `Host` header.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Http { host, port } | Self::Https { host, port, .. } if host.contains(':') => {
                format!("[{host}]:{port}")
            }
            Self::Http { host, port } | Self::Https { host, port, .. } => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Http { .. } => write!(f, "http://{}", self.authority()),
            Self::Https { .. } => write!(f, "https://{}", self.authority()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    /// Takes `/path/of/socket`, `unix:/path/of/socket`, `http://host:port` and
    /// `https://host[:port]`.
    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(path) = text.strip_prefix("unix:").or(text.starts_with('/').then_some(text)) {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let uri: http::Uri = text.parse().map_err(|_| refused(text))?;
        let host = uri.host().ok_or_else(|| refused(text))?.trim_matches(['[', ']']).to_owned();
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none() && !text.contains('@');
        match (uri.scheme_str(), uri.port_u16()) {
            (Some("http"), Some(port)) if bare => Ok(Self::Http { host, port }),
            (Some("https"), port) if bare => Ok(Self::Https { host, port: port.unwrap_or(443), ca: None }),
            _ => Err(refused(text)),
        }
    }
}

fn refused(text: &str) -> Error {
    let shown: String = text.chars().take(100).flat_map(char::escape_default).collect();
    Error::invalid("server", format!("'{shown}' is no server's address"))
        .fix("give https://host[:port], http://127.0.0.1:port, or the path of a server's socket")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_kind_of_address() {
        let read = |text: &str| text.parse::<Endpoint>().unwrap();
        assert_eq!(read("/a b/c.sock"), Endpoint::Unix("/a b/c.sock".into()));
        assert_eq!(read("unix:/c.sock"), Endpoint::Unix("/c.sock".into()));
        assert_eq!(read("http://127.0.0.1:8080"), Endpoint::Http { host: "127.0.0.1".into(), port: 8080 });
        assert_eq!(read("https://farm.example/").authority(), "farm.example:443");
        assert_eq!(read("https://[::1]:9").authority(), "[::1]:9");
        for wrong in
            ["", "farm", "http://x", "ftp://x:1", "http://x:1/path", "http://u:p@x:1", "http://x:1?q"]
        {
            let error = wrong.parse::<Endpoint>().expect_err(wrong);
            assert_eq!(error.field_name(), Some("server"), "{wrong}");
        }
    }

    #[test]
    fn only_plain_http_beyond_loopback_is_in_the_clear() {
        let clear = |text: &str| text.parse::<Endpoint>().unwrap().in_the_clear();
        assert!(clear("http://10.0.0.1:80"));
        assert!(clear("http://farm.example:80"));
        assert!(!clear("http://127.0.0.1:80"));
        assert!(!clear("http://[::1]:80"));
        assert!(!clear("http://localhost:80"));
        assert!(!clear("https://farm.example"));
        assert!(!clear("/s.sock"));
    }
}
