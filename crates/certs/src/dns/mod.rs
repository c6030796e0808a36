//! Records in the DNS, by which an authority is shown whose a domain is (DNS-01, RFC 8555 8.4).

mod ask;
mod cloudflare;
mod hook;
mod propagation;
mod rfc2136;
mod tsig;

use std::net::SocketAddr;

use async_trait::async_trait;
use clawfarm_model::Result;

pub use cloudflare::Cloudflare;
pub use hook::Hook;
pub use propagation::Seen;
pub use rfc2136::Rfc2136;

/// Who can put records into the DNS of a domain.
///
/// Both calls may come twice for a record, and for one that is not there any more.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// Puts a TXT record beside those that are there.
    ///
    /// # Errors
    /// Why it could not be put there.
    async fn present(&self, record: &Record) -> Result<()>;

    /// Takes it out again, and leaves others of the name.
    ///
    /// # Errors
    /// Why it could not be taken out.
    async fn clean_up(&self, record: &Record) -> Result<()>;
}

/// A TXT record.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// The domain that is to be proven: `claws.example.com`.
    pub domain: String,
    /// The record's name: `_acme-challenge.claws.example.com`.
    pub name: String,
    /// Its text.
    pub value: String,
}

/// How records are put there, and seen to have come.
pub struct Dns {
    /// Who puts them there.
    pub provider: Box<dyn Provider>,
    /// Where to look whether they have come; empty for the domain's own servers, which are found
    /// through the system's resolver.
    pub look_at: Vec<SocketAddr>,
}
