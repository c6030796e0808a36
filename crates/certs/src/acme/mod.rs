//! Certificates from an authority that is asked by ACME (RFC 8555).
//!
//! What was got, the account, and what is under way are in a `Vault` that all servers of a fleet
//! have in common. One of them at a time, under the vault's lease, asks the authority; the others
//! read what it got (`follow`). A server that dies in the middle of an order is followed by one
//! that goes on with it, since the order's address and key are written down before anything is
//! proven.

mod account;
mod answer;
mod budget;
mod follow;
mod issue;
mod order;
mod plan;
mod record;
mod source;
mod times;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_model::Result;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

pub use answer::Answers;
pub use source::AcmeSource;

use crate::dns::Dns;

/// Where Let's Encrypt is, which is asked when nothing else is said.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Whom to ask, and for what.
pub struct AcmeConfig {
    /// The directory's address: the authority.
    pub directory: String,
    /// Whom to trust when it is asked, as a PEM file; `None` for the system's authorities.
    pub root: Option<PathBuf>,
    /// Where the authority's people reach the operator: mail addresses.
    pub contact: Vec<String>,
    /// The account at the authority that ours is to belong to, where it asks for that.
    pub external: Option<External>,
    /// The base domain.
    pub base: String,
    /// How domains are proven by the DNS, which a wildcard needs; `None` to prove each name by HTTP.
    pub dns: Option<Dns>,
    /// How long things take.
    pub timing: Timing,
}

/// An account at the authority (RFC 8555 7.3.4).
pub struct External {
    /// Its id there.
    pub id: String,
    /// Its key, in base64 as authorities give it.
    pub key: SecretString,
}

/// How long things take, and how often they are done.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often it is looked whether something is due, or new.
    pub poll: Duration,
    /// How long the lease is good without being renewed.
    pub lease: Duration,
    /// How long after a failure it is tried again; each further one waits four times as long.
    /// Let's Encrypt allows five failures of a name in an hour, and so takes what this makes of a
    /// minute: four.
    pub again: Duration,
    /// The longest of these waits.
    pub again_max: Duration,
    /// How long a DNS record may take to come to all servers.
    pub propagation: Duration,
    /// How long the authority may take to look at a proof, and to issue.
    pub authority: Duration,
    /// How long a handshake waits for a certificate that is being got.
    pub handshake: Duration,
    /// First certificates of names within seven days: Let's Encrypt allows 50 of a registered
    /// domain, and what else has names there needs some.
    pub weekly: usize,
    /// Tries within an hour to get a first one for a claw: Let's Encrypt allows 300 orders in three
    /// hours, whether something comes of them or not, and renewals need some.
    pub hourly: usize,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(2),
            lease: Duration::from_secs(30),
            again: Duration::from_secs(60),
            again_max: Duration::from_secs(12 * 3600),
            propagation: Duration::from_secs(600),
            authority: Duration::from_secs(120),
            handshake: Duration::from_secs(8),
            weekly: 40,
            hourly: 30,
        }
    }
}

/// Which names below the base domain there are: no other gets a certificate.
#[async_trait]
pub trait Names: Send + Sync + 'static {
    /// Whose claw has this id; `None` when there is none.
    ///
    /// # Errors
    /// `Unavailable` when that can't be told now.
    async fn owner(&self, label: &str) -> Result<Option<Owner>>;
}

/// Whose claw it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The tenant.
    pub tenant: String,
    /// Whether there is no other tenant, to whom something has to be left.
    pub alone: bool,
}
