//! The listeners: a unix socket in the home folder, TCP with or without TLS, and one for
//! claws; and the server's end.

pub(crate) mod claws;
mod connection;
pub(crate) mod home;
mod patience;
mod tls;
mod unix;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clawfarm_control::Control;
use clawfarm_model::{Code, Error, Result};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::listen::claws::ClawListener;
use crate::listen::connection::{API_MAX, CLAWS_MAX, Connections, Places, tcp};
use crate::listen::home::HomeLock;
use crate::listen::unix::Socket;
use crate::peers::PeersConfig;
use crate::state::{ServerState, StateConfig};
use crate::token::AdminToken;

pub use tls::Tls;

/// How long requests that are under way may take when the server ends.
const GRACE: Duration = Duration::from_secs(10);

/// What a server is made of.
pub struct ServerConfig {
    /// The use cases.
    pub control: Control,
    /// The home folder, taken: the proof that no other server works on it. Taken before the
    /// store is opened, and let go when the server has ended.
    pub home: HomeLock,
    /// Where the unix socket is to be; `clawfarm.sock` in the home folder as a rule.
    pub socket: PathBuf,
    /// Where to listen on TCP besides.
    pub listen: Option<SocketAddr>,
    /// The certificate for TCP.
    pub tls: Option<Tls>,
    /// Listen beyond loopback without TLS all the same: the token can be read on the way.
    pub allow_plaintext: bool,
    /// The token that requests must present.
    pub admin_token: AdminToken,
    /// How the other servers of its database are reached; `None` when it is alone.
    pub peers: Option<PeersConfig>,
    /// Where to listen on TCP, bound before, so that its port could be told to the others; for
    /// `listen`.
    pub listener: Option<ApiListener>,
    /// The listener for claws, bound: its port went into the runtimes.
    pub claws: ClawListener,
    /// Cancel it to end the server. `POST /server/shutdown` cancels it too.
    pub shutdown: CancellationToken,
}

/// A TCP listener for the API that is bound already.
#[derive(Debug)]
pub struct ApiListener(TcpListener);

impl ApiListener {
    /// Binds an address.
    ///
    /// # Errors
    /// `Conflict` when it is taken.
    pub async fn bind(address: SocketAddr) -> Result<Self> {
        bind(address).await.map(Self)
    }

    /// Where it is, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.local_addr().ok()
    }
}

/// Serves until `shutdown` is cancelled; then finishes within about ten seconds: nothing more is
/// accepted, requests are finished, streams are closed with their last word, the reconciler
/// is stopped.
///
/// # Errors
/// `InvalidInput` when `listen` is beyond loopback without TLS, or the certificate is no good;
/// `Conflict` when the address is taken, or another server has taken the home; `Internal` when the socket can't be made.
pub async fn serve(mut config: ServerConfig) -> Result<()> {
    check_listen(&config)?;
    let acceptor = config.tls.as_ref().map(tls::acceptor).transpose()?;
    let listener = match (config.listener, config.listen) {
        (Some(bound), _) => Some(bound.0),
        (None, Some(address)) => Some(bind(address).await?),
        (None, None) => None,
    };
    let listen = listener.as_ref().and_then(|l| l.local_addr().ok());
    let mut socket = Socket::bind(&config.socket)?;
    let state = ServerState::new(StateConfig {
        control: config.control.clone(),
        home: config.home.path().to_owned(),
        admin_token: config.admin_token,
        listen,
        peers: config.peers,
        shutdown: config.shutdown.clone(),
    });
    tracing::info!(socket = %config.socket.display(), listen = ?listen, claws = config.claws.port(), "serving");
    let home = &mut config.home;
    let ran = run(&state, home, &mut socket, listener, acceptor, config.claws, &config.shutdown).await;
    socket.remove();
    config.control.shutdown(None, false).await?;
    drop(config.home);
    tracing::info!("ended");
    ran
}

async fn run(
    state: &ServerState,
    home: &mut HomeLock,
    socket: &mut Socket,
    listener: Option<TcpListener>,
    acceptor: Option<TlsAcceptor>,
    claws: ClawListener,
    shutdown: &CancellationToken,
) -> Result<()> {
    let router = crate::router(state);
    let connections = Connections::new(shutdown.clone());
    let claw_router = claws::router(state.control().clone());
    let (claw_listener, _) = claws.into_parts();
    let claw_places = Places::new(CLAWS_MAX);
    let (ran, (), ()) = tokio::join!(
        async {
            let accepted = socket.accept(home, &connections, &router).await;
            if let Err(error) = &accepted {
                tracing::error!(%error, "this server ends");
                shutdown.cancel();
            }
            accepted
        },
        tcp(claw_listener, None, &connections, &claw_places, &claw_router),
        async {
            if let Some(listener) = listener {
                let places = Places::new(API_MAX);
                tcp(listener, acceptor.map(Arc::new), &connections, &places, &router).await;
            }
        },
    );
    tokio::join!(connections.finish(GRACE), state.consoles().finish(GRACE), state.forwards().finish(GRACE));
    ran
}

fn check_listen(config: &ServerConfig) -> Result<()> {
    let Some(address) = config.listen else { return Ok(()) };
    if address.ip().is_loopback() || config.tls.is_some() || config.allow_plaintext {
        return Ok(());
    }
    Err(Error::invalid(
        "listen",
        format!("{address} can be reached from other machines, and without TLS the token can be read on the way"),
    )
    .fix("give a certificate with --tls-cert and --tls-key, listen on 127.0.0.1, or insist with --allow-plaintext"))
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let code = match error.kind() {
            std::io::ErrorKind::AddrInUse => Code::Conflict,
            _ => Code::InvalidInput,
        };
        Error::new(code, format!("can't listen on {address}: {error}"))
            .field("listen")
            .fix("choose another address or port")
            .source(error)
    })
}
