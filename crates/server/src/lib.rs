//! The HTTP API: routes, authentication, streams, listeners, and the demo model's endpoint.
//!
//! A request goes through the same layers whatever it asks for: it gets an id, its time is
//! measured, its credential checked, its load limited; then a thin handler calls
//! `clawfarm-control` and puts the answer into a type of `clawfarm-api`. Every error leaves
//! as problem details (RFC 9457).

mod api;
mod console;
mod error;
mod extract;
mod forward;
mod layers;
mod listen;
mod metrics;
mod openapi;
mod peers;
mod state;
mod stream;
mod support;
mod token;

pub use api::router;
pub use listen::claws::ClawListener;
pub use listen::home::HomeLock;
pub use listen::{ApiListener, ServerConfig, Tls, serve};
pub use openapi::openapi;
pub use peers::{PeerConnect, PeerStream, PeersConfig, plain_address};
pub use state::{ServerState, StateConfig};
pub use support::offline_support_bundle;
pub use token::{
    AdminToken, load_admin_token, load_or_create_admin_token, new_admin_token, replace_admin_token,
};
