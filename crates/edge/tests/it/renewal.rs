//! Another certificate while connections are open.

use std::sync::Arc;

use bytes::Bytes;
use clawfarm_certs::{LocalSource, Source as _, server_config};
use clawfarm_edge::EdgeTls;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::claw::Claw;
use crate::farm::{Farm, LIMIT, State, bearer};

/// Certificates of an authority of its own, and an edge that shows them.
pub(crate) struct Secure {
    pub(crate) farm: Farm,
    source: Arc<LocalSource>,
    trust: Arc<RootCertStore>,
    _home: TempDir,
}

impl Secure {
    pub(crate) async fn new(change: impl FnOnce(&mut clawfarm_edge::Limits)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let source = LocalSource::open(home.path(), "claws.test").unwrap();
        let mut trust = RootCertStore::empty();
        let file = clawfarm_certs::Authority::file(home.path(), "claws.test");
        trust.add(CertificateDer::from_pem_file(file).unwrap()).unwrap();
        let tls = EdgeTls { config: server_config(source.table()).unwrap(), certificates: None };
        let farm = Farm::over(Some(tls), |mut config| {
            change(&mut config.limits);
            config
        })
        .await;
        Self { farm, source, trust: Arc::new(trust), _home: home }
    }

    /// Shakes hands on a connection, as who speaks this HTTP.
    pub(crate) async fn over(&self, tcp: TcpStream, http: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config =
            ClientConfig::builder().with_root_certificates(self.trust.clone()).with_no_client_auth();
        // A session that is taken up again shows nothing.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![http.to_vec()];
        let name = ServerName::try_from("a-1.claws.test").unwrap();
        let hands = TlsConnector::from(Arc::new(config)).connect(name, tcp);
        timeout(LIMIT, hands).await.expect("it answers")
    }

    async fn connect(&self, http: &[u8]) -> TlsStream<TcpStream> {
        self.over(TcpStream::connect(self.farm.address).await.unwrap(), http).await.unwrap()
    }

    async fn shown(&self) -> Vec<u8> {
        self.connect(b"h2").await.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }
}

/// The next event of a stream.
async fn event(body: &mut Incoming) -> Bytes {
    timeout(LIMIT, body.frame()).await.expect("it comes").unwrap().unwrap().into_data().unwrap()
}

#[tokio::test]
async fn open_connections_go_on_while_the_certificate_is_replaced() {
    let (secure, claw) = (Secure::new(|_| {}).await, Claw::new().await);
    let farm = &secure.farm;
    farm.put("a-1", State::Awake, claw.address);
    let first = secure.shown().await;

    let request = farm
        .request("GET", "a-1", "/ws")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("authorization", bearer("a-1"));
    let stream = TokioIo::new(secure.connect(b"http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let mut answer = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 101);
    let mut socket = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());

    let events = || farm.request("GET", "a-1", "/sse").header("authorization", bearer("a-1"));
    let stream = TokioIo::new(secure.connect(b"http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let one = sender.send_request(events().body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    let stream = TokioIo::new(secure.connect(b"h2").await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let address = format!("https://{}/sse", farm.host("a-1"));
    let events = http::Request::get(address).header("authorization", bearer("a-1"));
    let two = sender.send_request(events.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    assert_eq!((one.status().as_u16(), two.status().as_u16()), (200, 200));
    let (mut one, mut two) = (one.into_body(), two.into_body());

    let mut shown = vec![first];
    for round in 0..3 {
        socket.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        timeout(LIMIT, socket.read_exact(&mut heard)).await.expect("an echo").unwrap();
        assert_eq!(&heard, b"hello");
        claw.say.add_permits(2);
        let said = format!("data: {round}\n\n");
        assert_eq!((event(&mut one).await, event(&mut two).await), (said.clone().into(), said.into()));
        secure.source.renew("claws.test").await.unwrap();
        let now = secure.shown().await;
        assert!(!shown.contains(&now), "who comes now is shown the new one");
        shown.push(now);
    }
    socket.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    timeout(LIMIT, socket.read_exact(&mut heard)).await.expect("an echo").unwrap();
}
