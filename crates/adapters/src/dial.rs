//! How an adapter reaches a claw: a connection that somebody else opens.

use async_trait::async_trait;
use clawfarm_model::Result;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to a claw's gateway.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Opens connections to one claw's gateway.
#[async_trait]
pub trait Dial: Send + Sync {
    /// Opens one.
    ///
    /// # Errors
    /// `Unavailable` when nothing answers there.
    async fn dial(&self) -> Result<Box<dyn Connection>>;
}
