//! What every handler can reach.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clawfarm_control::Control;
use clawfarm_model::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::console::Consoles;
use crate::forward::Forwards;
use crate::metrics::Metrics;
use crate::peers::{Peers, PeersConfig};
use crate::token::AdminToken;

/// What a [`ServerState`] is made of.
pub struct StateConfig {
    /// The use cases.
    pub control: Control,
    /// The home folder, to be shown.
    pub home: PathBuf,
    /// The token that requests must present.
    pub admin_token: AdminToken,
    /// Where it listens besides its socket, to be shown.
    pub listen: Option<SocketAddr>,
    /// How the other servers of its database are reached, and reach it; `None` when it is alone.
    pub peers: Option<PeersConfig>,
    /// Cancelled when the server is to end: streams end with it. `POST /server/shutdown`
    /// cancels it.
    pub shutdown: CancellationToken,
}

/// What every handler can reach. Cheap to clone.
#[derive(Clone)]
pub struct ServerState {
    inner: Arc<Inner>,
}

struct Inner {
    control: Control,
    home: PathBuf,
    listen: Option<SocketAddr>,
    token: AdminToken,
    started_at: Timestamp,
    shutdown: CancellationToken,
    consoles: Consoles,
    forwards: Forwards,
    metrics: Metrics,
    peers: Option<Peers>,
}

impl ServerState {
    /// The state of a server.
    #[must_use]
    pub fn new(config: StateConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                control: config.control,
                home: config.home,
                listen: config.listen,
                token: config.admin_token,
                started_at: Timestamp::now(),
                shutdown: config.shutdown,
                consoles: Consoles::default(),
                forwards: Forwards::default(),
                metrics: Metrics::install(),
                peers: config.peers.map(Peers::new),
            }),
        }
    }

    pub(crate) fn control(&self) -> &Control {
        &self.inner.control
    }

    pub(crate) fn home(&self) -> &std::path::Path {
        &self.inner.home
    }

    pub(crate) fn listen(&self) -> Option<SocketAddr> {
        self.inner.listen
    }

    pub(crate) fn started_at(&self) -> Timestamp {
        self.inner.started_at
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.inner.shutdown
    }

    pub(crate) fn consoles(&self) -> &Consoles {
        &self.inner.consoles
    }

    pub(crate) fn forwards(&self) -> &Forwards {
        &self.inner.forwards
    }

    pub(crate) fn peers(&self) -> Option<&Peers> {
        self.inner.peers.as_ref()
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Whether this is the admin's token.
    pub(crate) fn knows(&self, token: &str) -> bool {
        self.inner.token.is(token)
    }
}
