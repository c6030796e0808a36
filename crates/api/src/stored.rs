//! `/secrets`, `/datasets`, `/targets`, `/operations`, events and logs.

use clawfarm_model::dataset::Dataset;
use clawfarm_model::event::Event;
use clawfarm_model::name::ProjectName;
use clawfarm_model::secret::{SecretInfo, SecretName, SecretScope, SecretUser};
use clawfarm_model::target::{Capacity, Target};
use clawfarm_model::{ClawId, ConfigName, Operation, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `PUT /secrets/{name}`: sets a secret; the tenant's when nothing else is said.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSecret {
    /// Its value: 1 byte to 64 KiB of text.
    #[schema(schema_with = clawfarm_model::schema::secret_value)]
    pub value: String,
    /// For whom it is; to be left out where a project or an instance is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<SecretScope>,
    /// The project it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// The instance it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<ClawId>,
}

impl std::fmt::Debug for SetSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetSecret").field("instance", &self.instance).finish_non_exhaustive()
    }
}

/// `POST /secrets/{name}/rotate`: a new value, and how it is brought to those that run with the
/// secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RotateSecret {
    /// The new value: 1 byte to 64 KiB of text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = clawfarm_model::schema::secret_value)]
    pub value: Option<String>,
    /// The value before, in the place of a new one: as long as it is kept.
    pub back: bool,
    /// For whom it is; to be left out where a project or an instance is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<SecretScope>,
    /// The project it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// The instance it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<ClawId>,
    /// So many instances are started again at a time; 5 when nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub parallel: Option<u32>,
    /// For how long the value before is kept at least, in seconds, although all have the new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 2_592_000)]
    pub grace_secs: Option<u32>,
}

impl std::fmt::Debug for RotateSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RotateSecret").field("instance", &self.instance).finish_non_exhaustive()
    }
}

/// `GET /secrets/{name}`: what may be shown of one, and who is configured with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretDetail {
    /// The secret.
    #[serde(flatten)]
    pub secret: SecretInfo,
    /// The instances that its value goes to.
    pub instances: Vec<SecretUser>,
    /// The configurations that name it in their newest or their published revision.
    pub configs: Vec<ConfigName>,
}

/// `GET /secrets`: what may be shown of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretList {
    /// The secrets.
    pub items: Vec<SecretInfo>,
}

/// `PUT /secrets/{name}` answers with what may be shown of it.
pub type SecretView = SecretInfo;

/// The name of a secret in a path.
pub type SecretPath = SecretName;

/// `GET /datasets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatasetList {
    /// The datasets.
    pub items: Vec<Dataset>,
}

/// `GET /targets`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TargetList {
    /// The targets.
    pub items: Vec<TargetView>,
}

/// A target, with what it has at the moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TargetView {
    /// The target.
    #[serde(flatten)]
    pub target: Target,
    /// What it has; absent while it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// Live instances on it.
    pub instances: u64,
}

/// `GET /operations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationList {
    /// The operations, newest first.
    pub items: Vec<Operation>,
    /// The cursor of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `GET /events` and `GET /instances/{id}/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventList {
    /// The events, oldest first.
    pub items: Vec<Event>,
    /// The number to ask on from (`after`).
    pub last_seq: i64,
}

/// A line that an instance printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    /// When.
    pub at: Timestamp,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// The line, without its end.
    pub text: String,
}

/// `GET /instances/{id}/logs`, without `follow`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogList {
    /// The lines, oldest first.
    pub items: Vec<LogEntry>,
}
