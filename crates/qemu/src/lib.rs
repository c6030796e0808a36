//! What clawfarm needs of QEMU, and nothing of instances.
//!
//! QEMU, virtiofsd and ssh are programs of their own here: this crate finds them, says what they
//! can do, writes their command lines and speaks to them. Who starts and keeps the processes is
//! the shim; what an instance is, the runtime.
//!
//! - [`Qemu`]: the program, its version, and what follows from that.
//! - [`probe`]: whether KVM works here, by running a guest with it.
//! - [`Machine`]: a virtual machine as a command line.
//! - [`Qmp`]: the conversation with a machine that runs.
//! - [`Snapshot`]: a machine's memory on disk, whole or not there.
//! - [`Virtiofsd`]: a folder of the host in the guest.
//! - [`ssh`]: commands in the guest over SSH, with a key made for it and a pinned host key.
//!
//! `docs/design/0027-qemu.md` has the decisions.

pub mod machine;
pub mod probe;
pub mod qmp;
pub mod snapshot;
pub mod ssh;

mod found;
mod run;
mod serial;
mod text;
mod virtiofs;

pub use found::{Qemu, Version};
pub use machine::Machine;
pub use probe::{Accelerator, Probed};
pub use qmp::Qmp;
pub use serial::bound_log;
pub use snapshot::Snapshot;
pub use virtiofs::{SERVES_FOLDERS, Sandbox, Virtiofsd, VirtiofsdProgram, serve_folder};
