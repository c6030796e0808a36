//! The keeper of one local claw: lock, confinement, output, exit.
//!
//! A shim is one small process beside each claw, as containerd has one beside each
//! container. It is told once what to run ([`spec::ShimSpec`]), and then answers whoever
//! knows its token over a socket ([`protocol`]). The server can end, be killed or be
//! replaced meanwhile: the shim and its claw go on, and the next server finds them by the
//! lock and the files in the instance's folder ([`layout`]).

mod cgroup;
pub mod client;
mod confine;
mod keeper;
pub mod layout;
pub mod lock;
pub mod logline;
mod output;
mod process;
pub mod protocol;
mod spawner;
pub mod spec;
mod start;
mod sweep;
mod tree;

pub use cgroup::can_guard_loopback;
pub use layout::ShimState;
pub use spawner::MARK;
pub use spec::ShimSpec;
pub use start::main;
pub use sweep::sweep;
pub use tree::{boot_id, is_same_process};
