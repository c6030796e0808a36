//! Claws as local processes, each under its own shim.
//!
//! [`ProcessRuntime`] installs the software from npm, prepares each instance's folders,
//! starts `clawfarm shim` for it and from then on only looks: whether the shim's lock is
//! held, what the shim says over its socket, what `state.json` says when it has gone. It
//! keeps nothing in memory that it could not find again, so a server may end or be replaced
//! at any moment without touching a claw.
//!
//! A claw is treated as hostile. It runs under Landlock rules, where the server is root also
//! under a user id of its own and in a mount namespace; and every file of its folders is
//! used through `clawfarm_files`, which no link can lead astray.

mod backup;
mod config;
mod dataset;
mod diagnose;
mod dial;
mod end;
mod exec;
mod files;
mod inner;
mod insisted;
mod leftover;
mod observe;
mod paths;
mod prepare;
mod record;
mod recover;
mod runtime;
mod start;
mod upgrade;

use clawfarm_local::{client, host, keeper, logs, port, uid};

pub use clawfarm_local::uid::{FIRST_UID, LAST_UID, is_ours};
pub use config::ProcessConfig;
pub use dataset::DatasetRecord;
pub use record::InstanceRecord;
pub use runtime::ProcessRuntime;
