//! What a virtual machine is made of, as functions of their arguments: no I/O, so that all of
//! it can be tested without a virtual machine.
//!
//! - [`Seed`]: what a first boot is told, in the form that cloud-init's source `NoCloud` reads;
//! - [`agent`]: how clawfarm's agent comes along with it;
//! - [`claw`]: how a claw runs in it;
//! - [`Iso`]: the disk that it is handed over on.

pub mod agent;
pub mod claw;
mod iso;
mod seed;

pub use iso::{Entry, Iso};
pub use seed::{HostKey, LABEL, Seed, SeedFile};
