//! The other servers of the same database: what only one of them reaches is passed on to it.
//!
//! A request is passed on once at most. The server it comes from vouches for who asks, with a
//! signature under a key that all servers of one database derive from its master key
//! ([`sign`]); so the callers' tokens do not travel. Before anything of it is sent, whoever answers
//! there has to prove that it is that server ([`prove`]).

pub(crate) mod forward;
pub(crate) mod prove;
mod route;
pub(crate) mod sign;
mod there;
mod watch;

use std::sync::Arc;

use async_trait::async_trait;
use clawfarm_model::Result;
use secrecy::SecretBox;
use tokio::io::{AsyncRead, AsyncWrite};

/// The field of a connector's error that is to be told as it is: the address itself is at fault.
pub(crate) const ADDRESS: &str = "address";

/// An address as it is shown: without what says on which machine a loopback address is good, which
/// stands after a '#'.
#[must_use]
pub fn plain_address(address: &str) -> &str {
    address.split('#').next().unwrap_or_default()
}

/// A byte stream to another server.
pub trait PeerStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> PeerStream for T {}

/// Opens connections to other servers.
#[async_trait]
pub trait PeerConnect: Send + Sync + 'static {
    /// Connects to the server at `address` (`http://host:port` or `https://host:port`).
    ///
    /// # Errors
    /// `Unavailable` when it does not answer within a few seconds; on the field `address` when
    /// that is no good on this machine, which callers are told.
    async fn connect(&self, address: &str) -> Result<Box<dyn PeerStream>>;
}

/// How this server speaks with the others.
pub struct PeersConfig {
    /// The key that the servers of this database share.
    pub key: SecretBox<[u8; 32]>,
    /// Which process of its node this is; random, drawn at each start. What is signed for one is
    /// worth nothing to the next.
    pub session: String,
    /// How they are reached.
    pub connect: Arc<dyn PeerConnect>,
}

/// The other servers, as requests are passed on to them and taken from them.
pub(crate) struct Peers {
    pub(crate) signer: sign::Signer,
    pub(crate) connect: Arc<dyn PeerConnect>,
}

impl Peers {
    pub(crate) fn new(config: PeersConfig) -> Self {
        Self { signer: sign::Signer::new(config.key, config.session), connect: config.connect }
    }
}

/// Put into a request that another server passed on, and into the answer to one that was
/// passed on to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassedOn;
