//! An edge in a process of its own, before one claw that is awake.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use clawfarm_edge::{
    BaseDomain, Connection, Directory, Edge, EdgeConfig, EdgeTls, Limits, Listener, Person, Site, SiteState,
};
use clawfarm_model::edge::{Identity, PathRules};
use clawfarm_model::{ClawId, Code, Error};
use secrecy::SecretString;
use tokio::net::TcpStream;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

/// The one claw.
pub(crate) const CLAW: &str = "bench-1";
pub(crate) const DOMAIN: &str = "claws.test";
pub(crate) const TOKEN: &str = "a-token-of-the-length-that-gateway-tokens-have-0123456789abcdef0";

/// Serves without TLS and with it until it is ended; prints both ports. The log goes where
/// standard error does, as the server's.
pub(crate) fn serve(upstream: SocketAddr, certificate: &PathBuf, key: &PathBuf) -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let mut tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let edge = Arc::new(Edge::new(
            Arc::new(One::new(upstream)?),
            EdgeConfig {
                base: BaseDomain::new(DOMAIN)?,
                key: "a key".into(),
                hold: EdgeConfig::HOLD,
                hsts: None,
                page_after: EdgeConfig::PAGE_AFTER,
                // All of it comes from one address, to one claw.
                limits: Limits {
                    connections_per_address: 0,
                    handshakes_per_address: 0,
                    requests_per_address: 0,
                    requests_per_claw: 0,
                    at_once_per_claw: 0,
                    websockets_per_claw: 0,
                    ..Limits::default()
                },
                proxies: None,
                paths: false,
            },
        ));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let plain = Listener::bind(any, None).await?;
        let secure = Listener::bind(any, Some(EdgeTls { config: Arc::new(tls), certificates: None })).await?;
        let port = |it: &Listener| it.address().map(|it| it.port()).context("a port");
        println!("{} {}", port(&plain)?, port(&secure)?);
        let never = CancellationToken::new();
        let grace = Duration::ZERO;
        tokio::join!(
            clawfarm_edge::serve(Arc::clone(&edge), plain, never.clone(), grace),
            clawfarm_edge::serve(edge, secure, never, grace)
        );
        Ok(())
    })
}

struct One {
    upstream: SocketAddr,
    site: Arc<Site>,
}

impl One {
    fn new(upstream: SocketAddr) -> Result<Self> {
        let site = Site {
            id: ClawId::new(CLAW)?,
            name: "bench".into(),
            tenant: "default".into(),
            claw_type: "openclaw".into(),
            runtime: "sim",
            run: 1,
            state: SiteState::Awake,
            up_since: clawfarm_model::Timestamp::from_millis(0),
            // As OpenClaw has it.
            identity: Identity::Header {
                name: "x-clawfarm-user-0123456789abcdef".into(),
                user: "owner".into(),
                origin: "http://clawfarm.internal".into(),
            },
            token: TOKEN.into(),
            rules: Arc::new(PathRules { closed: vec!["/api/v1/admin".into()], inbox: vec!["/hooks".into()] }),
            inbox: Arc::default(),
        };
        Ok(Self { upstream, site: Arc::new(site) })
    }
}

#[async_trait]
impl Directory for One {
    async fn look_up(&self, id: &ClawId) -> clawfarm_model::Result<Option<Arc<Site>>> {
        Ok((*id == self.site.id).then(|| Arc::clone(&self.site)))
    }

    async fn look_again(&self, id: &ClawId) -> clawfarm_model::Result<Option<Arc<Site>>> {
        self.look_up(id).await
    }

    async fn wake(&self, _id: &ClawId) -> clawfarm_model::Result<Arc<Site>> {
        Ok(Arc::clone(&self.site))
    }

    async fn dial(&self, _id: &ClawId) -> clawfarm_model::Result<Box<dyn Connection>> {
        match TcpStream::connect(self.upstream).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            Err(error) => Err(Error::new(Code::Unavailable, "nothing listens").source(error)),
        }
    }

    async fn sign_in(&self, _token: &SecretString) -> clawfarm_model::Result<Person> {
        Err(Error::new(Code::Unauthenticated, "nobody signs in here"))
    }

    async fn spend(&self, _ticket: &str, _until: u64) -> clawfarm_model::Result<bool> {
        Ok(false)
    }

    async fn person(&self, _name: &str) -> clawfarm_model::Result<Option<Person>> {
        Ok(None)
    }

    async fn site_of(&self, _user: &str, _id: &ClawId) -> clawfarm_model::Result<Option<Arc<Site>>> {
        Ok(None)
    }

    async fn sites(&self, _user: &str) -> clawfarm_model::Result<Vec<Arc<Site>>> {
        Ok(Vec::new())
    }
}
