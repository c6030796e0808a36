//! Targets: the configured places that instances run on.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Error;
use crate::name::TargetName;

/// The name of a machine's own target where its server is alone. No server that shares a
/// database may be called so: its own target has the server's name.
pub const LOCAL_TARGET: &str = "local";

/// How instances run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// Local processes under a shim.
    Process,
    /// Containers of Docker or Podman.
    Docker,
    /// Virtual machines.
    Vm,
    /// Pods.
    Kubernetes,
    /// Simulated, for tests and load.
    Sim,
}

impl RuntimeKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Process, Self::Docker, Self::Vm, Self::Kubernetes, Self::Sim];

    /// The name as it is shown and stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Docker => "docker",
            Self::Vm => "vm",
            Self::Kubernetes => "kubernetes",
            Self::Sim => "sim",
        }
    }
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for RuntimeKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|k| k.as_str() == text).ok_or_else(|| {
            let shown: String = text.chars().take(40).flat_map(char::escape_default).collect();
            Error::invalid("runtime", format!("'{shown}' is no runtime"))
                .fix("use process, docker, vm, kubernetes or sim")
        })
    }
}

/// A configured place that instances run on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Target {
    /// Its name.
    pub name: TargetName,
    /// How instances run on it.
    pub runtime: RuntimeKind,
    /// Free-form labels, to choose targets by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The server that can reach it, by its node id; `None` when any can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable_from: Option<String>,
    /// What its runtime needs to know (a socket, a cluster); its form is the runtime's.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub settings: serde_json::Value,
}

/// What a target has, in all and at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Capacity {
    /// Processor cores.
    pub cpus: f64,
    /// Memory in all, in MiB.
    pub memory_mib: u64,
    /// Memory that could be given to something new right now, in MiB.
    pub memory_available_mib: u64,
}

/// Whether a runtime can be used here, for `clawfarm doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Diagnosis {
    /// Which runtime.
    pub runtime: RuntimeKind,
    /// Whether instances can be started on it.
    pub usable: bool,
    /// What was found, one line each, in the order it was looked at.
    pub checks: Vec<Check>,
}

/// One thing that `doctor` looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it stands.
    pub level: CheckLevel,
    /// What was found.
    pub detail: String,
    /// The command or step that mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckLevel {
    /// As it should be.
    Ok,
    /// Works, with less than it could have.
    Warning,
    /// Does not work.
    Error,
}
