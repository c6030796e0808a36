//! The edge of a server: where it listens, and how it sees the server's fleet.

mod certs;
mod elsewhere;
mod fleet;
mod port;
mod reach;
mod tls;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clawfarm_control::{Control, Doors, Entrance, Traffic};
use clawfarm_edge::{BaseDomain, Edge, EdgeConfig, Limits, Listener, Load, Plain, PlainListener, Proxies};
use clawfarm_model::{ClawId, Error, Result};
use clawfarm_server::AdminToken;
use clawfarm_store::Store;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use certs::Certs;
use fleet::{Fleet, site};
use reach::ReachArgs;
use tls::TlsArgs;

/// How long requests and WebSockets may go on when the server ends.
const GRACE: Duration = Duration::from_secs(8);

/// The domain that leads to this machine in every browser.
const BASE_DOMAIN: &str = "localhost";

/// Options of `serve` about the edge.
#[derive(Debug, Args)]
pub(crate) struct EdgeArgs {
    /// Where people reach claws' dashboards and APIs; beyond loopback only with TLS. 127.0.0.1:8421 when not given, or another port when that is taken
    #[arg(long, value_name = "ADDRESS:PORT")]
    edge: Option<SocketAddr>,
    /// The domain below which each claw has its name: CLAWID.DOMAIN
    #[arg(long, value_name = "DOMAIN", default_value = BASE_DOMAIN)]
    base_domain: String,
    #[command(flatten)]
    tls: TlsArgs,
    /// The port in the addresses that people are given, when something before the edge listens
    #[arg(long, value_name = "PORT")]
    edge_public_port: Option<u16>,
    /// Have no edge: dashboards are not reachable then
    #[arg(long, conflicts_with = "edge")]
    no_edge: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

impl EdgeArgs {
    /// The same options for a server in the background.
    pub(crate) fn pass_on(&self) -> Result<Vec<std::ffi::OsString>> {
        let mut arguments: Vec<std::ffi::OsString> = Vec::new();
        if let Some(address) = self.edge {
            arguments.extend(["--edge".into(), address.to_string().into()]);
        }
        // What is said of nothing is an option that nobody gave: a service manager's server has none.
        if self.base_domain != BASE_DOMAIN {
            arguments.extend(["--base-domain".into(), self.base_domain.as_str().into()]);
        }
        arguments.extend(self.tls.pass_on()?);
        if let Some(port) = self.edge_public_port {
            arguments.extend(["--edge-public-port".into(), port.to_string().into()]);
        }
        arguments.extend(self.reach.pass_on());
        if self.no_edge {
            arguments.push("--no-edge".into());
        }
        Ok(arguments)
    }
}

/// An edge that listens, and serves when it is told to.
pub(crate) struct Bound {
    listener: Listener,
    base: BaseDomain,
    public: u16,
    tls: bool,
    limits: Limits,
    proxies: Option<Proxies>,
    paths: bool,
    home: PathBuf,
    store: Store,
    certs: Option<Certs>,
    plain: Option<PlainListener>,
    hsts: Option<Duration>,
}

/// Binds the edge; `None` when there is to be none.
pub(crate) async fn bind(
    args: &EdgeArgs,
    home: &Path,
    store: &Store,
    allow_plaintext: bool,
) -> Result<Option<Bound>> {
    if args.no_edge {
        return Ok(None);
    }
    let base = BaseDomain::new(&args.base_domain)?;
    let limits = args.reach.limits()?;
    let wanted = args.tls.wanted(base.as_str())?;
    if let Some(address) = args.edge
        && !address.ip().is_loopback()
        && wanted.is_none()
        && !allow_plaintext
    {
        return Err(Error::invalid(
            "edge",
            format!("{address} can be reached from other machines, and without TLS sessions can be read on the way"),
        )
        .fix("have certificates got with --edge-tls or give one with --edge-tls-cert and --edge-tls-key, listen on 127.0.0.1 behind a proxy with TLS, or insist with --allow-plaintext"));
    }
    let certs = match wanted {
        Some(wanted) => Some(Certs::open(wanted, home, base.as_str(), store).await?),
        None => None,
    };
    let tls = certs.as_ref().map(Certs::tls).transpose()?;
    let listener = match args.edge {
        Some(address) => Listener::bind(address, tls).await?,
        None => port::bind(home, tls).await?,
    };
    let port = listener.address().map_or(0, |address| address.port());
    let plain = match args.tls.http() {
        Some(address) => Some(PlainListener::bind(address).await?),
        None => None,
    };
    // People reach a proxy before it, or the edge itself.
    let proxies = args.reach.proxies(args.edge_public_port);
    let (public, tls) = match &proxies {
        Some(proxies) => (proxies.port, proxies.tls),
        None => (args.edge_public_port.unwrap_or(port), certs.is_some()),
    };
    let hsts = args.tls.hsts(base.as_str());
    Ok(Some(Bound {
        listener,
        base,
        public,
        tls,
        certs,
        plain,
        hsts,
        limits,
        proxies,
        paths: args.reach.paths(),
        home: home.to_owned(),
        store: store.clone(),
    }))
}

impl Bound {
    /// Serves until `shutdown` is cancelled; the handle ends when all that was under way has.
    pub(crate) async fn serve(
        self,
        control: Control,
        admin: AdminToken,
        shutdown: CancellationToken,
    ) -> Result<JoinHandle<()>> {
        let key = control.edge_key().await?;
        let config = EdgeConfig {
            base: self.base.clone(),
            key,
            hold: EdgeConfig::HOLD,
            page_after: EdgeConfig::PAGE_AFTER,
            limits: self.limits.clone(),
            proxies: self.proxies.clone(),
            paths: self.paths,
            hsts: self.hsts,
        };
        let edge =
            Arc::new(Edge::new(Arc::new(Fleet::new(control.clone(), admin.clone(), self.home)), config));
        let proofs = self.certs.as_ref().and_then(Certs::proofs);
        if let Some(plain) = self.plain {
            tracing::info!(address = ?plain.address(), "callers without TLS are sent on to it");
            let answers = Plain {
                base: self.base.clone(),
                port: self.public,
                proofs,
                limits: self.limits.clone(),
                proxies: self.proxies.clone(),
            };
            tokio::spawn(clawfarm_edge::serve_plain(plain, answers, shutdown.clone()));
        }
        if let Some(certs) = self.certs {
            certs.begin(&control, &self.store, shutdown.clone());
        }
        let doors =
            PublicDoors { edge: Arc::clone(&edge), base: self.base, port: self.public, tls: self.tls, admin };
        tracing::info!(address = ?self.listener.address(), at = doors.of("CLAWID"), "the edge listens");
        control.set_doors(Arc::new(doors));
        Ok(tokio::spawn(clawfarm_edge::serve(edge, self.listener, shutdown, GRACE)))
    }
}

/// The addresses that people are given.
struct PublicDoors {
    edge: Arc<Edge>,
    base: BaseDomain,
    port: u16,
    tls: bool,
    admin: AdminToken,
}

impl PublicDoors {
    fn of(&self, name: &str) -> String {
        let (scheme, usual) = if self.tls { ("https", 443) } else { ("http", 80) };
        let port = if self.port == usual { String::new() } else { format!(":{}", self.port) };
        format!("{scheme}://{name}.{}{port}", self.base.as_str())
    }
}

fn traffic(load: Load) -> Traffic {
    Traffic { requests: load.requests, sockets: load.sockets, last: Some(load.last.elapsed()) }
}

impl Doors for PublicDoors {
    fn traffic(&self, id: &ClawId) -> Traffic {
        self.edge.load(id).map(traffic).unwrap_or_default()
    }

    fn all_traffic(&self) -> Vec<(ClawId, Traffic)> {
        self.edge.loads().into_iter().map(|(id, load)| (id, traffic(load))).collect()
    }

    fn address(&self, id: &ClawId) -> String {
        format!("{}/", self.of(id.as_str()))
    }

    fn open(&self, entrance: &Entrance) -> Result<String> {
        let site = site(entrance);
        // Whoever may ask for this has the server's token.
        let person = fleet::admin(&self.admin);
        Ok(format!("{}{}", self.of(site.id.as_str()), self.edge.ticket(&site, &person)?))
    }
}

/// The address that is tried first when none is given.
const fn usual() -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8421)
}
