//! HTTP to authorities and DNS providers: one request a connection, with limits on time and size,
//! under trust that can be said.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clawfarm_model::{Code, Error, Result};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long a request may take, from the connection to the last byte of its answer.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest answer, in bytes.
const ANSWER_MAX: usize = 1 << 20;

/// A client of HTTPS, and of HTTP where an address says so.
#[derive(Clone)]
pub(crate) struct Client {
    tls: Arc<ClientConfig>,
    /// How long a request may take.
    limit: Duration,
}

impl Client {
    /// Trusts what the system trusts, or the authorities of a PEM file alone.
    ///
    /// # Errors
    /// `InvalidInput` on the field `acme_root` for a file that can't be used.
    pub(crate) fn new(root: Option<&Path>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        match root {
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
            Some(path) => {
                let unusable = |error: String| {
                    Error::invalid("acme_root", format!("{} can't be used: {error}", path.display())).fix(
                        "give a PEM file of the authorities that the ACME server's own certificate is from",
                    )
                };
                let certificates =
                    CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?;
                for certificate in certificates {
                    let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
                    roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(unusable("it has no certificate".to_owned()));
                }
            }
        }
        let mut tls = ClientConfig::builder_with_provider(crate::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal("TLS can't be set up", error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(tls), limit: LIMIT })
    }

    /// Sends a request with an absolute address, and reads its answer.
    ///
    /// # Errors
    /// `Unavailable` with the host's name when there is no answer, `Timeout`.
    pub(crate) async fn send<B>(&self, request: Request<B>) -> Result<Response<Bytes>>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let host = request.uri().host().unwrap_or_default().to_owned();
        timeout(self.limit, self.exchange(request, &host))
            .await
            .map_err(|_| {
                Error::new(Code::Timeout, format!("{host} did not answer within {} s", self.limit.as_secs()))
            })?
            .map_err(|why| Error::new(Code::Unavailable, format!("{host} can't be asked: {why}")))
    }

    async fn exchange<B>(
        &self,
        request: Request<B>,
        host: &str,
    ) -> std::result::Result<Response<Bytes>, String>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let text = |error: &dyn std::error::Error| error.to_string();
        let (mut parts, body) = request.into_parts();
        let secure = match parts.uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("its address is neither https nor http".to_owned()),
        };
        let port = parts.uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let authority = parts.uri.authority().map(|it| it.as_str().to_owned()).unwrap_or_default();
        let host_header = authority.parse().map_err(|_| "its address has no host".to_owned())?;
        parts.headers.insert(http::header::HOST, host_header);
        let path = parts.uri.path_and_query().map_or("/", |it| it.as_str()).to_owned();
        parts.uri = path.parse::<Uri>().map_err(|error| text(&error))?;
        let request = Request::from_parts(parts, body.boxed_unsync());
        // An IPv6 address has brackets in a URL, and none elsewhere.
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await.map_err(|error| text(&error))?;
        if !secure {
            return over(stream, request).await;
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(|error| text(&error))?;
        let stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, stream)
            .await
            .map_err(|error| format!("TLS failed: {error}"))?;
        over(stream, request).await
    }
}

async fn over<S, B>(stream: S, request: Request<B>) -> std::result::Result<Response<Bytes>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(|error| error.to_string())?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        // It ends when all has been read, or when it broke: then it knows why.
        ended = &mut connection => match (exchange.await, ended) {
            (Err(_), Err(error)) => Err(error.to_string()),
            (answer, _) => answer,
        },
    }
}

impl instant_acme::HttpClient for Client {
    fn request(
        &self,
        request: Request<instant_acme::BodyWrapper<Bytes>>,
    ) -> Pin<
        Box<
            dyn Future<Output = std::result::Result<instant_acme::BytesResponse, instant_acme::Error>> + Send,
        >,
    > {
        let this = self.clone();
        Box::pin(async move {
            match this.send(request).await {
                Ok(response) => Ok(instant_acme::BytesResponse::from(response.map(Full::new))),
                Err(error) => Err(instant_acme::Error::Other(Box::new(error))),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Asks a server that answers so and then waits.
    async fn ask(answer: Vec<u8>, limit: Duration) -> Result<Response<Bytes>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            // Who answers before it was asked is refused for that.
            while !heard.ends_with(b"\r\n\r\n") && stream.read_buf(&mut heard).await.unwrap() > 0 {}
            let _ = stream.write_all(&answer).await;
            let _ = stream.read_to_end(&mut heard).await;
            String::from_utf8(heard).unwrap()
        });
        let request = Request::get(format!("http://{address}/a?b")).body(Full::new(Bytes::new())).unwrap();
        let answer = Client { limit, ..Client::new(None).unwrap() }.send(request).await;
        let heard = server.await.unwrap();
        assert!(heard.starts_with("GET /a?b HTTP/1.1\r\n"), "{heard}");
        answer
    }

    #[tokio::test]
    async fn an_answer_is_read_whole() {
        let answer =
            ask(b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok".to_vec(), LIMIT).await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.body()[..]), (202, &b"ok"[..]));
    }

    #[tokio::test]
    async fn one_who_never_answers_is_not_waited_for() {
        let limit = Duration::from_millis(300);
        for answer in [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"] {
            let error = ask(answer.to_vec(), limit).await.unwrap_err();
            assert_eq!(error.code(), Code::Timeout, "{error:?}");
        }
    }

    #[tokio::test]
    async fn what_is_too_long_or_no_http_is_refused() {
        let mut long = b"HTTP/1.1 200 OK\r\ncontent-length: 1048577\r\n\r\n".to_vec();
        long.resize(long.len() + ANSWER_MAX + 1, b'x');
        assert_eq!(ask(long, LIMIT).await.unwrap_err().code(), Code::Unavailable);
        assert_eq!(ask(b"SSH-2.0-x\r\n\r\n".to_vec(), LIMIT).await.unwrap_err().code(), Code::Unavailable);
        let elsewhere = Request::get("ftp://a.test/").body(Full::new(Bytes::new())).unwrap();
        assert!(Client::new(None).unwrap().send(elsewhere).await.is_err());
    }
}
