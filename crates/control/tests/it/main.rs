//! The use cases and the reconciler, on a real store and the simulated runtime, whose world
//! lives outside of the server.

mod backups;
mod faults;
mod fleet;
mod inbox;
mod lifecycle;
mod policy;
mod recover;
mod server_killed;
mod sharing;
mod sleep;
mod tenants;
mod trouble;
mod updates;
mod watching;
