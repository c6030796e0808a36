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
mod state;
mod stream;
mod token;

pub use api::router;
pub use listen::claws::ClawListener;
pub use listen::home::HomeLock;
pub use listen::{ServerConfig, Tls, serve};
pub use openapi::openapi;
pub use state::{ServerState, StateConfig};
pub use token::load_or_create_admin_token;
