//! The other servers of the same database: what only one of them reaches is passed on to it.
//!
//! A request is passed on once at most. The server it comes from vouches for who asks, with a
//! signature under a key that all servers of one database derive from its master key
//! ([`sign`]); so the callers' tokens do not travel.

pub(crate) mod forward;
mod route;
pub(crate) mod sign;

use std::sync::Arc;

use async_trait::async_trait;
use clawfarm_model::Result;
use secrecy::SecretBox;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to another server.
pub trait PeerStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> PeerStream for T {}

/// Opens connections to other servers.
#[async_trait]
pub trait PeerConnect: Send + Sync + 'static {
    /// Connects to the server at `address` (`http://host:port` or `https://host:port`).
    ///
    /// # Errors
    /// `Unavailable` when it does not answer within a few seconds.
    async fn connect(&self, address: &str) -> Result<Box<dyn PeerStream>>;
}

/// How this server speaks with the others.
pub struct PeersConfig {
    /// The key that the servers of this database share.
    pub key: SecretBox<[u8; 32]>,
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
        Self { signer: sign::Signer::new(config.key), connect: config.connect }
    }
}

/// Put into a request that another server passed on, and into the answer to one that was
/// passed on to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassedOn;
