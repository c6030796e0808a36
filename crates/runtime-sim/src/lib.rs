//! Simulated claws, for tests and load: a runtime whose claws cost a small file each, take as
//! long as they are told to, and fail when they are told to.
//!
//! Its world lives outside of the server, in a folder ([`World`]) that several processes can
//! share. A server that is killed changes nothing in it, and a test can ask it afterwards
//! what was really done ([`World::journal`]) and what is really there
//! ([`World::instances`]): so a kill proves something. Time passes by times that are written
//! down (`started_at` and a boot delay make it up), not by tasks.
//!
//! What it does is said in the world's `sim.json` ([`Behaviour`]), which is looked at again
//! before every verb. A dialled claw speaks OpenClaw's gateway protocol, so the OpenClaw
//! adapter works on it unchanged.

mod backup;
mod behaviour;
mod capabilities;
mod claw;
mod data;
mod disk;
mod exec;
mod inbox;
mod journal;
mod loaded;
mod ports;
mod record;
mod recover;
mod runtime;
mod states;
mod upgrade;
mod watch;
mod world;

pub use behaviour::{Behaviour, Blocker, ClawBehaviour, Failure, Millis, Override, SimCapacity, Verb};
pub use inbox::Received;
pub use journal::{Act, ActKind};
pub use runtime::{SimConfig, SimRuntime};
pub use upgrade::VERSIONS;
pub use world::World;
