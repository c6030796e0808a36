//! What a runtime saw, and what is remembered of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clawid::ClawId;
use crate::error::ErrorReport;
use crate::time::Timestamp;

/// What a runtime saw of one instance, at one moment. A runtime that can't see (its daemon
/// does not answer) returns an error, never `Absent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Observation {
    /// Which instance.
    pub id: ClawId,
    /// What it is doing.
    pub state: ObservedState,
    /// The launch it belongs to: the [`crate::Intent::run`] it was started for.
    pub run: i64,
    /// The claw's main process, where the runtime has one on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// How it ended, when `state` is `Exited`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// What confines it, as far as the runtime can vouch for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confinement: Option<Confinement>,
    /// The port it listens on, as [`dial`] reaches it; shown under GATEWAY.
    ///
    /// [`dial`]: https://docs.rs/clawfarm-runtime
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The image it was started from, by its digest, where it runs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Why it does nothing although it is up, and what to do: its processors are stopped because
    /// the disk is full, or what serves its folders has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Box<ErrorReport>>,
}

impl Observation {
    /// Nothing of this instance exists on the target.
    #[must_use]
    pub const fn absent(id: ClawId) -> Self {
        Self {
            id,
            state: ObservedState::Absent,
            run: 0,
            pid: None,
            started_at: None,
            exit: None,
            confinement: None,
            port: None,
            image: None,
            trouble: None,
        }
    }
}

/// What an instance is doing, as far as its runtime can tell without asking the claw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ObservedState {
    /// Nothing of it exists here.
    Absent,
    /// Its folders or its container exist; it does not run and did not run since it was made.
    Prepared,
    /// It runs.
    Running,
    /// It is frozen in memory.
    Frozen,
    /// It ran and ended; `exit` says how.
    Exited,
}

impl ObservedState {
    /// Whether it holds memory and a process.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Running | Self::Frozen)
    }
}

/// How a claw ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Exit {
    /// The exit code, when it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal's number, when a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// When.
    pub at: Timestamp,
    /// It was ended because it went over its memory limit.
    #[serde(default)]
    pub out_of_memory: bool,
    /// It was asked to end (stop, kill, suspend), so its end is no failure.
    #[serde(default)]
    pub requested: bool,
    /// The last lines it printed, without terminal control characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_tail: String,
}

impl Exit {
    /// Whether anybody saw how it ended. What nobody saw (a reboot, a killed keeper) is not
    /// the claw's fault.
    #[must_use]
    pub const fn known(&self) -> bool {
        self.code.is_some() || self.signal.is_some() || self.out_of_memory
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.out_of_memory {
            f.write_str("ran out of its memory limit")
        } else if let Some(signal) = self.signal {
            write!(f, "was ended by signal {signal}")
        } else if let Some(code) = self.code {
            write!(f, "exited with code {code}")
        } else {
            f.write_str("ended, nobody saw how")
        }
    }
}

/// What confines a claw, said honestly: what is not in force is `None`, with the reason in
/// `missing`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Confinement {
    /// Version of the Landlock rules in force on its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landlock_abi: Option<u32>,
    /// The user id of its own that it runs under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_uid: Option<u32>,
    /// Its own mount namespace hides the rest of the server's home.
    #[serde(default)]
    pub private_mounts: bool,
    /// Who enforces the memory limit: `cgroup v2`, `cgroup v1`, `watchdog`, `docker`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Who enforces the CPU limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// What freezes it for `suspend --warm`: `cgroup v2`, `cgroup v1`, `SIGSTOP`, `docker`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freezer: Option<String>,
    /// What is not in force, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

impl Confinement {
    /// Whether the claw is kept from the server's and the other claws' files: the condition
    /// for running claws of tenants other than `default`.
    #[must_use]
    pub const fn isolates_files(&self) -> bool {
        self.landlock_abi.is_some() || (self.own_uid.is_some() && self.private_mounts)
    }
}

/// What the claw's own probes say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Not asked yet, or its type has no probe.
    #[default]
    Unknown,
    /// Its startup probe has not passed yet.
    Starting,
    /// The last probe passed.
    Passing,
    /// The last probes failed.
    Failing,
}
