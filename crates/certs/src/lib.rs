//! The edge's certificates: from files that somebody else keeps current, from a local authority,
//! or by ACME.
//!
//! Each source keeps a [`Table`], out of which rustls shows callers a certificate, current. A new
//! one is taken without a restart, and connections that are open go on. What can't be replaced
//! stays shown, and the reason is told ([`Source::list`], [`Source::checks`]).

pub mod acme;
mod chain;
pub mod dns;
mod files;
mod http;
mod local;
mod measure;
mod source;
mod table;
mod vault;

use std::sync::Arc;

pub use chain::{Chain, Facts};
pub use files::{FileSource, Files};
pub use local::{Authority, LocalSource};
pub use source::Source;
pub use table::{Table, server_config};
pub use vault::{Lease, Vault};

/// The cryptography of all of clawfarm's TLS.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
