//! `/instances`.

use std::collections::BTreeMap;

use clawfarm_model::config::{ClawConfig, ConfigMode};
use clawfarm_model::error::ErrorReport;
use clawfarm_model::image::ImageReference;
use clawfarm_model::instance::RestartPolicy;
use clawfarm_model::name::{ClawType, InstanceName, ProjectName, TargetName, TenantName};
use clawfarm_model::observed::{Confinement, Exit};
use clawfarm_model::resources::{Resources, Usage};
use clawfarm_model::secret::SecretName;
use clawfarm_model::setup::Setup;
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{
    ClawId, ConfigName, Desired, Health, Instance, Operation, Phase, RuntimePolicy, SoftwareUpdate, Timestamp,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The claw type of a bare machine.
pub const MACHINE: &str = "machine";

/// `POST /instances`: a new instance. Only `claw_type` is needed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CreateInstance {
    /// The claw type, such as `openclaw`.
    #[schema(value_type = ClawType, required = true)]
    pub claw_type: String,
    /// Its name; the claw type's name when absent.
    pub name: Option<InstanceName>,
    /// The claw's version; the one this clawfarm was tested with when absent.
    pub version: Option<String>,
    /// How it runs; the runtime of the target when absent.
    pub runtime: Option<RuntimeKind>,
    /// Where it runs; the default target of the runtime when absent.
    pub target: Option<TargetName>,
    /// A container image to run instead of clawfarm's own of that version; pulled where it is
    /// missing. Its version is that of its tag unless `version` says it.
    pub image: Option<ImageReference>,
    /// What its virtual machine is, for a claw in one and for the claw type `machine`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmSpec>,
    /// The caller runs the setup commands of `vm` itself, one by one through consoles; else the
    /// server does, without a terminal.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub attended: bool,
    /// Its share of the machine; what its type needs when absent.
    pub resources: Option<ResourcesInput>,
    /// The port its gateway must have; chosen when absent.
    #[schema(minimum = 1024, maximum = 65535)]
    pub port: Option<u16>,
    /// Its configuration; the demo model when no model is given.
    pub config: ClawConfig,
    /// The same, but only a part: it goes into what its template and the other layers say.
    #[schema(value_type = Object)]
    pub overrides: serde_json::Map<String, serde_json::Value>,
    /// The template that it is bound to.
    pub template: Option<ConfigName>,
    /// Values for the template's variables, by name.
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    pub variables: BTreeMap<String, serde_json::Value>,
    /// Values for secrets of this instance alone, which `config` refers to by name.
    #[schema(schema_with = clawfarm_model::schema::secrets)]
    pub secrets: BTreeMap<SecretName, String>,
    /// Who has the last word on its configuration file.
    pub config_mode: Option<ConfigMode>,
    /// What happens when it ends by itself.
    pub restart: Option<RestartPolicy>,
    /// How long its start may take, in seconds.
    #[schema(minimum = 1, maximum = 86_400)]
    pub ready_timeout_secs: Option<u32>,
    /// Labels, to select it by.
    #[schema(schema_with = clawfarm_model::schema::labels)]
    pub labels: BTreeMap<String, String>,
    /// When it sleeps by itself; what is left out is as a broader policy says.
    pub policy: RuntimePolicy,
    /// A dataset to start from.
    pub dataset: Option<ClawId>,
    /// An existing home of this claw type on the server's machine, to be copied in.
    pub import: Option<String>,
    /// Make it even when the target has no memory left for it.
    pub overcommit: bool,
}

/// Resources of which any may be left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResourcesInput {
    /// Processor cores; fractions are fine.
    #[schema(minimum = 0.05, maximum = 1024.0)]
    pub cpus: Option<f64>,
    /// Memory, in MiB.
    #[schema(minimum = 64, maximum = 16_777_216)]
    pub memory_mib: Option<u32>,
}

/// `PUT /instances/{id}`: the changeable part of an instance, as a whole. What is left out
/// returns to its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateInstance {
    /// Its share of the machine.
    pub resources: Option<ResourcesInput>,
    /// The port its gateway must have; the present one when absent.
    #[schema(minimum = 1024, maximum = 65535)]
    pub port: Option<u16>,
    /// Its configuration.
    pub config: ClawConfig,
    /// Who has the last word on its configuration file.
    pub config_mode: ConfigMode,
    /// What happens when it ends by itself.
    pub restart: Option<RestartPolicy>,
    /// How long its start may take, in seconds.
    #[schema(minimum = 1, maximum = 86_400)]
    pub ready_timeout_secs: Option<u32>,
    /// Labels, to select it by.
    #[schema(schema_with = clawfarm_model::schema::labels)]
    pub labels: BTreeMap<String, String>,
    /// When it sleeps by itself; the present policy when absent.
    pub policy: Option<RuntimePolicy>,
}

/// `POST /instances/{id}/stop`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StopRequest {
    /// Do not let it finish its work first.
    pub force: bool,
}

/// `POST /instances/{id}/suspend`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SuspendRequest {
    /// Freeze it in memory instead of ending it.
    pub warm: bool,
    /// Even when it is working.
    pub force: bool,
}

/// `POST /instances/{id}/update`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateSoftware {
    /// The claw's version that it is to run; the one this clawfarm was tested with when absent.
    pub version: Option<String>,
}

/// `POST /instances/{id}/send`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendRequest {
    /// What to say to it.
    #[schema(min_length = 1, max_length = 65536)]
    pub message: String,
}

/// The answer to what takes a while: the instance as it is now, and the operation to wait for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// The instance.
    pub instance: InstanceView,
    /// The operation.
    pub operation: Operation,
    /// What was accepted, but is worth a word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<WarningView>,
}

/// The answer to what was only tried: it could be done, and was not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tried {
    /// What would be accepted, but is worth a word.
    pub warnings: Vec<WarningView>,
}

/// Something that was accepted, but is worth a word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WarningView {
    /// The field it is about.
    pub field: String,
    /// What to know.
    pub message: String,
}

/// One page of instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstanceList {
    /// The instances.
    pub items: Vec<InstanceView>,
    /// The cursor of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// An instance, as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstanceView {
    /// Its id, the CLAWID.
    pub id: ClawId,
    /// The name its person gave it.
    pub name: InstanceName,
    /// Its tenant.
    pub tenant: TenantName,
    /// Its project.
    pub project: ProjectName,
    /// What it is made of in one word, as the IMAGE column shows it: the image of a bare machine,
    /// else claw type and version.
    pub image: String,
    /// The container image that was chosen for it, when one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_reference: Option<ImageReference>,
    /// What its virtual machine is, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmSpec>,
    /// How far the commands are that set its machine up, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<Setup>,
    /// The image it was last started from, by its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// Its claw type.
    pub claw_type: ClawType,
    /// The version that runs.
    pub version: String,
    /// How it runs.
    pub runtime: RuntimeKind,
    /// Where it runs.
    pub target: TargetName,
    /// Where it is in its life.
    pub phase: Phase,
    /// Since when.
    pub phase_since: Timestamp,
    /// Since when its target has not answered, so that `phase` is what was last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_since: Option<Timestamp>,
    /// What it is wanted to be doing.
    pub desired: Desired,
    /// The counter of changes of the intent.
    pub generation: i64,
    /// What its probes say.
    pub health: Health,
    /// Where its gateway listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The gateway's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The port its person asked for, when one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_port: Option<u16>,
    /// Its main process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When that was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// How it ended last, when it is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// What confines it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confinement: Option<Confinement>,
    /// Its share of the machine.
    pub resources: Resources,
    /// Its configuration; secrets by reference only.
    pub config: ClawConfig,
    /// The template that it is bound to; see `GET /instances/{id}/config` for its layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<ConfigName>,
    /// Who has the last word on its configuration file.
    pub config_mode: ConfigMode,
    /// What happens when it ends by itself.
    pub restart: RestartPolicy,
    /// How long its start may take, in seconds.
    pub ready_timeout_secs: u32,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its own sleep policy; see `GET /instances/{id}/sleep` for what holds.
    #[serde(default)]
    pub policy: RuntimePolicy,
    /// Times it was started again since it last stayed up.
    pub restarts: u32,
    /// Times it was started again in all.
    pub restarts_total: u32,
    /// The next attempt is not made before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Timestamp>,
    /// What went wrong last, until it goes right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<ErrorReport>,
    /// The update of its software that is under way, or waits for its next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<SoftwareUpdate>,
    /// Grows with every change; the ETag.
    pub resource_version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When anything of it last changed.
    pub updated_at: Timestamp,
}

impl From<&Instance> for InstanceView {
    fn from(instance: &Instance) -> Self {
        let observed = instance.observed.as_ref();
        let up = observed.filter(|o| o.state.is_up());
        Self {
            id: instance.id.clone(),
            name: instance.name.clone(),
            tenant: instance.tenant.clone(),
            project: instance.project.clone(),
            image: image(instance),
            vm: instance.spec.vm.as_deref().cloned(),
            setup: instance.setup.clone(),
            image_reference: instance.spec.image.clone(),
            image_digest: observed.and_then(|o| o.image.clone()),
            claw_type: instance.spec.claw_type.clone(),
            version: instance.spec.version.clone(),
            runtime: instance.spec.runtime,
            target: instance.spec.target.clone(),
            phase: instance.phase,
            phase_since: instance.phase_since,
            unknown_since: instance.unknown_since,
            desired: instance.intent.desired,
            generation: instance.intent.generation,
            health: instance.health,
            gateway: instance.port.map(|port| format!("http://127.0.0.1:{port}")),
            port: instance.port,
            wanted_port: instance.spec.port,
            pid: up.and_then(|o| o.pid),
            started_at: up.and_then(|o| o.started_at),
            exit: observed.and_then(|o| o.exit.clone()),
            confinement: up.and_then(|o| o.confinement.clone()),
            resources: instance.spec.resources,
            config: (*instance.spec.config).clone(),
            template: instance.layers.template.clone(),
            config_mode: instance.spec.config_mode,
            restart: instance.spec.restart,
            ready_timeout_secs: instance.spec.ready_timeout_secs,
            labels: instance.spec.labels.clone(),
            policy: instance.spec.policy.clone(),
            restarts: instance.restarts,
            restarts_total: instance.restarts_total,
            next_attempt_at: instance.not_before,
            last_error: instance.last_error.clone(),
            update: instance.update.clone(),
            resource_version: instance.version,
            created_at: instance.created_at,
            updated_at: instance.updated_at,
        }
    }
}

/// A machine is its image; a claw in one is what runs there.
fn image(instance: &Instance) -> String {
    let spec = &instance.spec;
    match &spec.vm {
        Some(vm) if spec.claw_type.as_str() == MACHINE => vm.image.to_string(),
        _ => format!("{}:{}", spec.claw_type, spec.version),
    }
}

/// `POST /instances/{id}/setup`: what is to become of the commands that set a machine up. At least
/// one of it, and not both of `ignore` and `again`. Whoever does not leave what is left to the server
/// is expected to run it, through consoles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SetupRequest {
    /// Go on though this one failed or was cut off; counted from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 63)]
    pub ignore: Option<u32>,
    /// Run this one once more, which failed or was cut off; counted from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 63)]
    pub again: Option<u32>,
    /// The server is to run what is left, without a terminal.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub by_server: bool,
}

/// `POST /instances/{id}/token/reveal` and `/token/rotate`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// The gateway token. Whoever has it controls the claw.
    pub token: String,
    /// The dashboard's address, with the token in its fragment (which browsers keep to themselves).
    pub dashboard_url: String,
}

impl std::fmt::Debug for TokenView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenView(hidden)")
    }
}

/// `GET /instances/{id}/dashboard`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DashboardView {
    /// The dashboard's address, without the token that signs a browser in.
    pub url: String,
}

/// `GET /instances/{id}/metrics`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricsView {
    /// Which instance.
    pub id: ClawId,
    /// What it uses now.
    pub usage: Usage,
    /// Times it was started again in all.
    pub restarts_total: u32,
    /// How long it has been up, in seconds.
    pub uptime_secs: u64,
}
