//! The use cases and the reconciler, on a real store and the simulated runtime, whose world
//! lives outside of the server.

mod asking;
mod backups;
mod batch;
mod configs;
mod faults;
mod fleet;
mod habit;
mod inbox;
mod layers;
mod lifecycle;
mod policy;
mod recover;
mod rollouts;
mod secrets;
mod server_killed;
mod sharing;
mod sleep;
mod tenants;
mod trouble;
mod updates;
mod watching;
