//! Instances as virtual machines: QEMU under a shim, one a machine.
//!
//! [`VmRuntime`] makes each instance's disk of an image, hands its first boot a seed with keys
//! of its own, and starts `clawfarm shim` for it, which keeps QEMU and a virtiofsd for each
//! folder that is shared. From then on it only looks, as the runtime for local processes does:
//! whether the shim's lock is held, what the shim says, what QEMU says. It keeps nothing in
//! memory that it could not find again, so a server may end or be replaced at any moment
//! without touching a machine.
//!
//! A guest is treated as hostile, and so is a QEMU that a guest has broken out into: it runs as a
//! user of its own where the server is root, sees its own files alone, and is confined by
//! seccomp and Landlock.
//!
//! `docs/design/0029-vm-runtime.md` has the decisions.

mod agent;
mod base;
mod boot;
mod check;
mod claw;
mod config;
mod dataset;
mod diagnose;
mod dial;
mod end;
mod exec;
mod files;
mod freeze;
mod identify;
mod inner;
mod machine;
mod observe;
mod paths;
mod ports;
mod prepare;
mod pty;
mod record;
mod recover;
mod runtime;
mod seed;
mod shares;
mod spec;
mod start;
mod suspend;
mod talks;
mod trouble;
mod upgrade;
mod warm;

pub use clawfarm_qemu::{Accelerator, SERVES_FOLDERS, serve_folder};
pub use config::{HostPorts, VmConfig};
pub use runtime::VmRuntime;
