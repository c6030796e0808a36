//! One method a route, one file a resource.

mod backup;
mod configs;
mod events;
mod inbox;
mod instances;
mod server;
mod stored;

pub use configs::Steer;
