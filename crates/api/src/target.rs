//! `/targets`.

use std::collections::BTreeMap;

use clawfarm_model::name::TargetName;
use clawfarm_model::target::RuntimeKind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /targets`: a further place that instances run on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddTarget {
    /// Its name.
    pub name: TargetName,
    /// How instances run on it; `docker` is what can be added.
    pub runtime: RuntimeKind,
    /// Where its container engine is.
    pub settings: DockerSettings,
    /// Labels, to choose targets by.
    #[serde(default)]
    #[schema(schema_with = clawfarm_model::schema::labels)]
    pub labels: BTreeMap<String, String>,
}

/// What a target of the runtime `docker` needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DockerSettings {
    /// The socket of Docker or Podman on the server's machine, as a whole path.
    #[schema(min_length = 1, max_length = 100, pattern = "^/")]
    pub socket: String,
    /// What images are built on; the base of each claw type's own image when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 255)]
    pub base_image: Option<String>,
}
