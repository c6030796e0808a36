//! Instances: what is wanted of each, and what is known of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clawid::ClawId;
use crate::config::{ClawConfig, ConfigMode};
use crate::error::{Error, ErrorReport, Result};
use crate::image::ImageReference;
use crate::layered::Layered;
use crate::name::{ClawType, InstanceName, ProjectName, TargetName, TenantName};
use crate::observed::{Health, Observation};
use crate::phase::{Phase, Signal};
use crate::policy::RuntimePolicy;
use crate::resources::Resources;
use crate::setup::Setup;
use crate::target::RuntimeKind;
use crate::time::Timestamp;
use crate::update::SoftwareUpdate;
use crate::vm::VmSpec;
use crate::wake::Cause;

/// What somebody asked an instance to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceSpec {
    /// The claw type.
    pub claw_type: ClawType,
    /// Its pinned version: what runs does not change because something newer appeared.
    pub version: String,
    /// How it runs.
    pub runtime: RuntimeKind,
    /// Where it runs.
    pub target: TargetName,
    /// The image it runs, where it is not clawfarm's own of its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageReference>,
    /// What its virtual machine is, where it is one. On the heap: few are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Box<VmSpec>>,
    /// Its share of the machine.
    #[serde(default)]
    pub resources: Resources,
    /// The port its gateway must have; chosen when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its configuration. On the heap: it is large, and a specification is passed around a lot.
    #[serde(default)]
    pub config: Box<ClawConfig>,
    /// Who has the last word on its configuration file.
    #[serde(default)]
    pub config_mode: ConfigMode,
    /// What happens when it ends by itself.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// An existing home of its claw type on the server's machine that it begins as a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<String>,
    /// A dataset of its target that it begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<ClawId>,
    /// The unpacked archive that it begins with, by the name that it has on its target until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<String>,
    /// It may be started even when its target has no memory left for it.
    #[serde(default)]
    pub overcommit: bool,
    /// How long a start may take until the startup probe passes, in seconds.
    #[serde(default = "InstanceSpec::default_ready_timeout_secs")]
    pub ready_timeout_secs: u32,
    /// Labels, to select instances by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When it sleeps, as far as it is said for this instance.
    #[serde(default, skip_serializing_if = "RuntimePolicy::is_empty")]
    pub policy: RuntimePolicy,
}

impl InstanceSpec {
    /// A claw that is not ready by then is not going to be: OpenClaw takes 8 to 22 s on two
    /// idle cores (measured), and up to 73 s more when it looks for a missing plugin.
    #[must_use]
    pub const fn default_ready_timeout_secs() -> u32 {
        300
    }

    /// Checks what can be checked without a runtime or an adapter.
    ///
    /// # Errors
    /// Names the field and the range.
    pub fn check(&self) -> Result<()> {
        self.resources.check()?;
        self.policy.check()?;
        if self.port.is_some_and(|p| p < 1024) {
            return Err(Error::invalid("port", format!("{} is a privileged port", self.port.unwrap_or(0)))
                .fix("give a port from 1024 to 65535, or none to have one chosen"));
        }
        if !(1..=86_400).contains(&self.ready_timeout_secs) {
            return Err(Error::invalid(
                "ready_timeout_secs",
                format!("{} s can't be waited for", self.ready_timeout_secs),
            )
            .fix("give 1 to 86400 seconds"));
        }
        for (field, given) in [
            ("restart.max_restarts", self.restart.max_restarts),
            ("restart.window_secs", self.restart.window_secs),
        ] {
            if given > RestartPolicy::MOST {
                return Err(Error::invalid(field, format!("{given} is too much"))
                    .fix(format!("give at most {}", RestartPolicy::MOST)));
            }
        }
        self.check_vm()?;
        for (name, value) in &self.config.env {
            let good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && name.len() <= 128;
            if !good {
                let shown: String = name.chars().take(60).flat_map(char::escape_default).collect();
                return Err(Error::invalid("config.env", format!("'{shown}' can't be a variable's name"))
                    .fix("use letters, digits and '_', not beginning with a digit"));
            }
            if matches!(value, crate::config::EnvValue::Plain(text) if text.contains('\0')) {
                return Err(Error::invalid(format!("config.env.{name}"), "the value contains a NUL byte")
                    .fix("remove it: no process can be given one"));
            }
        }
        Ok(())
    }
}

impl InstanceSpec {
    /// What only a virtual machine has, and what it needs.
    fn check_vm(&self) -> Result<()> {
        let Some(vm) = &self.vm else {
            if self.runtime == RuntimeKind::Vm {
                return Err(Error::invalid("vm.image", "a virtual machine needs an image")
                    .fix("name one: clawfarm image ls shows which there are"));
            }
            return Ok(());
        };
        // `sim` plays every runtime.
        if !matches!(self.runtime, RuntimeKind::Vm | RuntimeKind::Sim) {
            return Err(Error::invalid(
                "vm",
                format!("the runtime '{}' runs no virtual machines", self.runtime),
            )
            .fix("use --runtime vm, or leave out what only a virtual machine has"));
        }
        vm.check()?;
        if self.resources.memory_mib < VmSpec::MEMORY_MIN_MIB {
            let given = self.resources.memory_mib;
            return Err(Error::invalid("resources.memory_mib", format!("no system boots with {given} MiB"))
                .fix(format!("give at least {} MiB, such as 2048", VmSpec::MEMORY_MIN_MIB)));
        }
        if let Some(at) = vm.publish.iter().position(|one| Some(one.host) == self.port) {
            return Err(Error::invalid(
                format!("vm.publish[{at}].host"),
                format!("port {} is that of the gateway", vm.publish[at].host),
            )
            .fix("give another port of the host"));
        }
        Ok(())
    }
}

/// What happens when a claw ends without being asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartPolicy {
    /// Whether it is started again.
    #[serde(default)]
    pub mode: RestartMode,
    /// Ends within `window_secs` after which no further start is tried and it is `failed`.
    #[serde(default = "RestartPolicy::default_max")]
    #[schema(maximum = 2_147_483_647)]
    pub max_restarts: u32,
    /// A claw that stayed up this long, in seconds, has its count begun anew.
    #[serde(default = "RestartPolicy::default_window")]
    #[schema(maximum = 2_147_483_647)]
    pub window_secs: u32,
}

impl RestartPolicy {
    /// The most that either number may be: 68 years, and more ends than fit into them.
    pub const MOST: u32 = 2_147_483_647;

    const fn default_max() -> u32 {
        5
    }

    const fn default_window() -> u32 {
        600
    }

    /// The wait before restart number `restarts` (counted from 1): 1 s, doubled each time,
    /// 60 s at most. The caller adds jitter.
    #[must_use]
    pub fn backoff(restarts: u32) -> Duration {
        Duration::from_secs(1_u64.checked_shl(restarts.saturating_sub(1)).unwrap_or(60).clamp(1, 60))
    }
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            mode: RestartMode::default(),
            max_restarts: Self::default_max(),
            window_secs: Self::default_window(),
        }
    }
}

/// Whether a claw that ended by itself is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestartMode {
    /// Whatever its exit code.
    #[default]
    Always,
    /// When its exit code is not 0.
    OnFailure,
    /// Never; it stays `exited`.
    Never,
}

/// What an instance is wanted to be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Up and answering.
    Running,
    /// Frozen in memory.
    Warm,
    /// Drained and down, to be woken.
    Suspended,
    /// Down.
    Stopped,
    /// Gone.
    Destroyed,
}

impl Desired {
    /// The name as it is shown and stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Warm => "warm",
            Self::Suspended => "suspended",
            Self::Stopped => "stopped",
            Self::Destroyed => "destroyed",
        }
    }
}

/// How much time an instance is given on its way down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    /// As long as its type needs to finish its work (330 s for OpenClaw).
    #[default]
    Graceful,
    /// It is asked to end and given 10 s: time to close its files, not to finish its work.
    Hurried,
    /// It is ended at once, without being asked.
    Now,
}

/// What is wanted of an instance, with the counters that tell one wish from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Intent {
    /// What it should be doing.
    pub desired: Desired,
    /// Grows with every accepted change of the intent or the spec.
    pub generation: i64,
    /// Grows with every wish for a fresh start (restart, a change that needs one). What runs
    /// with an older number is started again.
    pub run: i64,
    /// How much time it is given on its way down.
    #[serde(default)]
    pub urgency: Urgency,
    /// With `desired: destroyed`: remove the data too.
    #[serde(default)]
    pub purge: bool,
    /// Why it is wanted.
    #[serde(default)]
    pub cause: Cause,
}

/// Everything known of one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Its id.
    pub id: ClawId,
    /// Its tenant.
    pub tenant: TenantName,
    /// Its project.
    pub project: ProjectName,
    /// The name its person gave it.
    pub name: InstanceName,
    /// What it should be made of.
    pub spec: InstanceSpec,
    /// What its configuration is made of.
    pub layers: Layered,
    /// Which [`Layered::revision`] of its configuration it was last known to run with.
    pub in_force: i64,
    /// What it should be doing.
    pub intent: Intent,
    /// Where it is.
    pub phase: Phase,
    /// What was last seen of it.
    pub observed: Option<Observation>,
    /// When that was.
    pub observed_at: Option<Timestamp>,
    /// Since when its target has not answered; `None` while it does.
    pub unknown_since: Option<Timestamp>,
    /// What its probes say.
    pub health: Health,
    /// The port that was chosen for its gateway.
    pub port: Option<u16>,
    /// Ends by itself since it last stayed up for the restart policy's window.
    pub restarts: u32,
    /// Ends by itself in all.
    pub restarts_total: u32,
    /// Attempts that failed in a row at the present wish.
    pub attempts: u32,
    /// No attempt before this.
    pub not_before: Option<Timestamp>,
    /// When the phase was entered.
    pub phase_since: Timestamp,
    /// What went wrong last, until it goes right.
    pub last_error: Option<ErrorReport>,
    /// The update of its software that is under way, or that waits for its next start.
    pub update: Option<SoftwareUpdate>,
    /// How far the commands are that set its machine up, where there are any.
    pub setup: Option<Setup>,
    /// Grows with every write of this row; the ETag.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When anything of it last changed.
    pub updated_at: Timestamp,
}

impl Instance {
    /// Moves the phase by `signal`; returns whether it changed. Old news changes nothing.
    pub fn signal(&mut self, signal: Signal, now: Timestamp) -> bool {
        match self.phase.next(signal) {
            Some(next) if next != self.phase => {
                self.phase = next;
                self.phase_since = now;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_and_ends_at_a_minute() {
        let secs: Vec<u64> = (1..=8).map(|n| RestartPolicy::backoff(n).as_secs()).collect();
        assert_eq!(secs, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(RestartPolicy::backoff(0).as_secs(), 1);
        assert_eq!(RestartPolicy::backoff(u32::MAX).as_secs(), 60);
    }

    #[test]
    fn a_spec_names_the_field_that_is_out_of_range() {
        let spec: InstanceSpec = serde_json::from_value(serde_json::json!({
            "claw_type": "openclaw", "version": "1", "runtime": "process", "target": "local",
        }))
        .unwrap();
        assert!(spec.check().is_ok());
        let broken = |change: fn(&mut InstanceSpec), field: &str| {
            let mut spec = spec.clone();
            change(&mut spec);
            assert_eq!(spec.check().unwrap_err().field_name(), Some(field));
        };
        broken(|s| s.resources.cpus = 0.0, "resources.cpus");
        broken(|s| s.resources.cpus = f64::NAN, "resources.cpus");
        broken(|s| s.resources.memory_mib = 1, "resources.memory_mib");
        broken(|s| s.port = Some(80), "port");
        broken(|s| s.ready_timeout_secs = 0, "ready_timeout_secs");
        broken(|s| s.runtime = RuntimeKind::Vm, "vm.image");
        let vm = |change: fn(&mut InstanceSpec)| {
            let mut spec = spec.clone();
            spec.runtime = RuntimeKind::Vm;
            spec.vm =
                Some(Box::new(serde_json::from_value(serde_json::json!({ "image": "debian:12" })).unwrap()));
            change(&mut spec);
            spec.check().map_err(|error| error.field_name().unwrap_or_default().to_owned())
        };
        assert_eq!(vm(|_| ()), Ok(()));
        assert_eq!(vm(|s| s.runtime = RuntimeKind::Sim), Ok(()));
        assert_eq!(vm(|s| s.runtime = RuntimeKind::Docker), Err("vm".into()));
        assert_eq!(vm(|s| s.resources.memory_mib = 255), Err("resources.memory_mib".into()));
        let publishes = |s: &mut InstanceSpec| {
            s.port = Some(8080);
            s.vm.as_mut().unwrap().publish = vec!["8081:1".parse().unwrap(), "8080:80".parse().unwrap()];
        };
        assert_eq!(vm(publishes), Err("vm.publish[1].host".into()));
    }
}
