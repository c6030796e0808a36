//! Where what is got by ACME is kept.

use std::time::Duration;

use async_trait::async_trait;
use clawfarm_model::Result;
use secrecy::SecretString;

/// The right to be the one that asks for certificates, under a number that grows at each change
/// of hands: writes under an older one are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease(pub i64);

/// A store of small secret documents, which all servers of a fleet have in common.
#[async_trait]
pub trait Vault: Send + Sync + 'static {
    /// A number that is another after each write.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer.
    async fn version(&self) -> Result<i64>;

    /// All documents with their names.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer, `Internal` for one that can't be opened.
    async fn all(&self) -> Result<Vec<(String, SecretString)>>;

    /// One document.
    ///
    /// # Errors
    /// As for [`Self::all`].
    async fn get(&self, name: &str) -> Result<Option<SecretString>>;

    /// Writes a document, or removes it.
    ///
    /// # Errors
    /// `Conflict` when the lease is another server's by now; `Unavailable`.
    async fn put(&self, name: &str, value: Option<&SecretString>, lease: Option<Lease>) -> Result<()>;

    /// Takes the lease, or keeps it for another while; `None` when it is another server's.
    ///
    /// # Errors
    /// `Unavailable` when that can't be told.
    async fn lease(&self, held: Option<Lease>, ttl: Duration) -> Result<Option<Lease>>;

    /// Gives the lease back.
    ///
    /// # Errors
    /// `Unavailable`; then its time runs out.
    async fn release(&self, lease: Lease) -> Result<()>;
}
