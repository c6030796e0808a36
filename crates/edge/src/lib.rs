//! The edge: every claw on its own address, woken by whoever comes.
//!
//! A request names a claw by its host (`alice-x7k2m.claws.example.com`). The edge makes sure of
//! who sent it, wakes the claw when it sleeps, holds the request meanwhile, and passes it on;
//! bodies, event streams and WebSockets go through as they come. It sees the fleet through
//! [`Directory`] alone.
//!
//! Nobody wakes a claw who is not let in, and nobody is told which claws there are.

mod base;
mod below;
mod body;
mod directory;
mod edge;
mod fetched;
mod forward;
mod frames;
mod gate;
mod headers;
mod hold;
mod host;
mod inbox;
mod limits;
mod link;
mod listener;
mod load;
mod own;
mod pages;
mod paths;
mod patient;
mod plain;
mod problem;
mod proxied;
mod session;
mod told;
mod tunnel;
mod upstream;

pub use body::{Body, BoxError};
pub use directory::{Connection, Directory, Message, Person, Place, Sender, Site, SiteState};
pub use edge::{Caller, Edge, EdgeConfig};
pub use host::BaseDomain;
pub use limits::Limits;
pub use listener::{Certificates, EdgeTls, Listener, serve};
pub use load::Load;
pub use plain::{Plain, PlainListener, Proofs, serve_plain};
pub use proxied::Proxies;
pub use session::{SESSION_LIFE, TICKET_LIFE};
