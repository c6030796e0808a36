//! HTTP as downloads need it: any length of body with a limit on silence, few redirects and
//! none that leaves HTTPS, trust that can be said.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use clawfarm_model::{Code, Error};
use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::Limits;

/// How often an answer may send on to another address. Mirror networks need one or two.
const REDIRECTS: usize = 5;

/// Why something could not be got.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What happened.
    pub(crate) error: Error,
    /// Whether the same may well work in a moment: a connection that broke, a site that is busy.
    pub(crate) again: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, again: false }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

type Outcome<T> = std::result::Result<T, Failure>;

fn again(code: Code, message: String) -> Failure {
    Failure { error: unreachable(Error::new(code, message)), again: true }
}

fn unreachable(error: Error) -> Error {
    error.fix("look at the connection, or let the server have a mirror that it reaches (CLAWFARM_DEBIAN_IMAGES, CLAWFARM_UBUNTU_IMAGES); without any, take in a file (clawfarm image import) or build one (clawfarm image build debian:12)")
}

/// A client. It keeps no connection: what it asks for is large.
pub(crate) struct Http {
    tls: Arc<ClientConfig>,
    limits: Limits,
}

/// An answer whose body is still to come.
pub(crate) struct Answer {
    /// What the site says.
    pub(crate) status: StatusCode,
    /// With which headers.
    pub(crate) headers: HeaderMap,
    /// Who answered, in the end.
    pub(crate) host: String,
    body: Incoming,
    limits: Limits,
    _connection: AbortOnDrop,
}

/// Ends the task that drives a connection when nobody reads from it any more.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Http {
    /// Trusts what the system trusts, or the authorities of a PEM file alone.
    ///
    /// # Errors
    /// `InvalidInput` on `site_ca` for a file that can't be used.
    pub(crate) fn new(ca: Option<&Path>, limits: Limits) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = ca {
            let unusable = |why: String| {
                Error::invalid("site_ca", format!("'{}' can't be used: {why}", path.display()))
                    .fix("give a PEM file of the authorities that the mirror's certificate is from")
            };
            for certificate in
                CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?
            {
                let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
                roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(unusable("it has no certificate".to_owned()));
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal("TLS can't be set up", error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(tls), limits })
    }

    /// Asks for an address, and for what it sends on to.
    pub(crate) async fn get(&self, url: &str, headers: &HeaderMap) -> Outcome<Answer> {
        let mut at: Uri = url
            .parse()
            .map_err(|_| Error::invalid("image", format!("'{}' is no URL", url.escape_default())))?;
        for _ in 0..=REDIRECTS {
            let answer = self.one(&at, headers).await?;
            if !is_redirect(answer.status) {
                return Ok(answer);
            }
            let to = answer.headers.get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
            let next = join(&at, to).ok_or_else(|| {
                site_error(&answer.host, "sends on to an address that can't be one", Code::Unavailable)
            })?;
            if at.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(site_error(
                    &answer.host,
                    "sends on from https to an address without it, which is not followed",
                    Code::Forbidden,
                )
                .into());
            }
            at = next;
        }
        let host = at.host().unwrap_or_default();
        Err(site_error(host, "sends on from address to address without an end", Code::Unavailable).into())
    }

    /// Asks for a small file, and reads all of it.
    pub(crate) async fn get_small(&self, url: &str, max: usize) -> Outcome<Vec<u8>> {
        let mut answer = self.get(url, &HeaderMap::new()).await?;
        answer.expect(url, &[StatusCode::OK])?;
        let mut all = Vec::new();
        while let Some(piece) = answer.next().await? {
            if all.len() + piece.len() > max {
                let why = format!("answers '{}' with more than {max} bytes", path_of(url));
                return Err(site_error(&answer.host, &why, Code::Unavailable).into());
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    async fn one(&self, url: &Uri, headers: &HeaderMap) -> Outcome<Answer> {
        let host = url.host().unwrap_or_default().to_owned();
        let secure = match url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(site_error(&host, "has neither http nor https", Code::InvalidInput).into()),
        };
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        // An IPv6 address has brackets in a URL, and none elsewhere.
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let late = |what: &str| again(Code::Timeout, format!("{host} {what}"));
        let broken = |error: &dyn std::fmt::Display| {
            again(Code::Unavailable, format!("{host} can't be reached: {error}"))
        };
        let connected = timeout(self.limits.connect, TcpStream::connect((bare.as_str(), port))).await;
        let stream = connected
            .map_err(|_| late("did not take a connection in time"))?
            .map_err(|error| broken(&error))?;
        let request = self.request(url, headers)?;
        if !secure {
            return self.over(stream, request, host.clone()).await;
        }
        let name = ServerName::try_from(bare.clone())
            .map_err(|_| site_error(&host, "is no host's name", Code::InvalidInput))?;
        let shaking = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream);
        let stream = timeout(self.limits.connect, shaking)
            .await
            .map_err(|_| late("did not finish TLS in time"))?
            .map_err(|error| {
                let trust = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
                let message = format!("TLS with {host} failed: {error}");
                // Who is not trusted now is not trusted in a moment.
                Failure { error: unreachable(Error::new(Code::Unavailable, message)), again: !trust }
            })?;
        self.over(stream, request, host.clone()).await
    }

    fn request(&self, url: &Uri, headers: &HeaderMap) -> Result<Request<Empty<Bytes>>, Error> {
        let authority = url.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let mut request = Request::get(url.path_and_query().map_or("/", |path| path.as_str()))
            .header(header::HOST, authority)
            .header(header::USER_AGENT, concat!("clawfarm/", env!("CARGO_PKG_VERSION")))
            // Lengths and ranges are those of the file only where nothing compresses it.
            .header(header::ACCEPT_ENCODING, "identity")
            .body(Empty::new())
            .map_err(|error| Error::internal("a request can't be made", error))?;
        request.headers_mut().extend(headers.clone());
        Ok(request)
    }

    async fn over<S>(&self, stream: S, request: Request<Empty<Bytes>>, host: String) -> Outcome<Answer>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken =
            |error: hyper::Error| again(Code::Unavailable, format!("{host} broke off: {}", causes(&error)));
        let asked = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
            let driver = AbortOnDrop(tokio::spawn(async move {
                // What breaks it is told to whoever reads from it.
                let _ = connection.await;
            }));
            Ok::<_, Failure>((sender.send_request(request).await.map_err(broken)?, driver))
        };
        let (response, driver) = timeout(self.limits.head, asked)
            .await
            .map_err(|_| again(Code::Timeout, format!("{host} did not answer in time")))??;
        let (parts, body) = response.into_parts();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            host,
            body,
            limits: self.limits,
            _connection: driver,
        })
    }
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    pub(crate) async fn next(&mut self) -> Outcome<Option<Bytes>> {
        loop {
            let frame = timeout(self.limits.stall, self.body.frame()).await.map_err(|_| {
                let limit = self.limits.stall.as_secs();
                again(Code::Timeout, format!("{} sent nothing for {limit} s", self.host))
            })?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    // Trailers have nothing for us.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    let message = format!("{} broke off: {}", self.host, causes(&error));
                    return Err(again(Code::Unavailable, message));
                }
            }
        }
    }

    /// Refuses an answer that has another status than these.
    pub(crate) fn expect(&self, url: &str, good: &[StatusCode]) -> Outcome<()> {
        if good.contains(&self.status) {
            return Ok(());
        }
        let (host, path, status) = (&self.host, path_of(url), self.status.as_u16());
        Err(match status {
            404 | 410 => Error::new(Code::NotFound, format!("{host} has no '{path}' ({status})"))
                .field("image")
                .fix("look whether there is an image of that day; at a mirror, whether it has the layout of the maker's site")
                .into(),
            429 | 500..=599 => again(Code::Unavailable, format!("{host} answers {status} for '{path}'")),
            _ => unreachable(Error::new(Code::Unavailable, format!("{host} answers {status} for '{path}'")))
                .into(),
        })
    }
}

fn site_error(host: &str, why: &str, code: Code) -> Error {
    Error::new(code, format!("{host} {why}")).fix("name another mirror, or the maker's own site")
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn path_of(url: &str) -> String {
    url.parse::<Uri>().map_or_else(|_| String::new(), |uri| uri.path().to_owned())
}

/// An error with what caused it, which is where hyper says what happened.
fn causes(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut at = std::error::Error::source(error);
    while let Some(cause) = at {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        at = cause.source();
    }
    text
}

/// Where `to`, as a page at `from` names it, leads (RFC 3986, without dot segments, which
/// servers take out themselves).
fn join(from: &Uri, to: &str) -> Option<Uri> {
    let to = to.split('#').next().unwrap_or_default();
    if to.is_empty() {
        return None;
    }
    let scheme = from.scheme_str()?;
    let authority = from.authority()?;
    let text = if to.contains("://") {
        to.to_owned()
    } else if let Some(rest) = to.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if to.starts_with('/') {
        format!("{scheme}://{authority}{to}")
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{to}")
    };
    let uri: Uri = text.parse().ok()?;
    (matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty()))
        .then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_joined_as_browsers_do() {
        let from: Uri = "https://a.test:8443/x/y/z?q".parse().unwrap();
        for (to, leads) in [
            ("https://b.test/i", "https://b.test/i"),
            ("http://b.test/i", "http://b.test/i"),
            ("//b.test/i", "https://b.test/i"),
            ("/i", "https://a.test:8443/i"),
            ("i?a=b#c", "https://a.test:8443/x/y/i?a=b"),
        ] {
            assert_eq!(join(&from, to).expect(to).to_string(), leads);
        }
        for to in ["", "#x", "ftp://b/i", "file:///etc/shadow", "http:///x", "https://", "/\u{7f}"] {
            assert_eq!(join(&from, to), None, "{to}");
        }
    }

    #[test]
    fn fuzz_redirects() {
        let from: Uri = "https://a.test/x/y".parse().unwrap();
        clawfarm_fuzz::fuzz_text(&["https://b.test/i", "//b/i", "../i?x#y"], |to| {
            if let Some(to) = join(&from, to) {
                assert!(matches!(to.scheme_str(), Some("http" | "https")) && to.host().is_some());
            }
        });
    }
}
