//! What the runtimes that run things on this machine share: local processes and virtual machines.
//!
//! - [`client`]: speaking with the shim of an instance;
//! - [`keeper`]: starting shims, and whether they live;
//! - [`host`]: what this machine has; [`port`]: who listens on it; [`uid`]: users of instances' own;
//! - [`folders`]: which folders an instance must not see;
//! - [`watch`]: noticing that something happened to one;
//! - [`state`]: a claw's home, and [`import`] and [`backup`], which fill and copy it;
//! - [`logs`]: what was printed, read from the files that shims keep.

pub mod backup;
pub mod client;
pub mod folders;
pub mod host;
pub mod import;
pub mod keeper;
pub mod logs;
pub mod port;
pub mod state;
pub mod uid;
pub mod watch;
