//! `kind: ClawInstance`.

use std::collections::BTreeMap;

use clawfarm_config::ConfigPath;
use clawfarm_model::config::ConfigMode;
use clawfarm_model::image::ImageReference;
use clawfarm_model::instance::RestartPolicy;
use clawfarm_model::name::{InstanceName, ProjectName, TargetName};
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{ConfigName, Error, RuntimePolicy};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::quantity::Quantity;

/// An instance, as a document of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceManifest {
    /// Whose it is, its name, its labels.
    pub metadata: InstanceMetadata,
    /// What it is.
    pub spec: InstanceSpec,
    /// What others saw of it when it was written out; it is no wish.
    #[serde(default, skip_serializing_if = "never_written")]
    #[schema(value_type = Option<Object>)]
    pub status: Option<Value>,
}

/// Whose it is, its name, its labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceMetadata {
    /// Its name, which has to be unique.
    pub name: InstanceName,
    /// The tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its labels, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = clawfarm_model::schema::labels)]
    pub labels: Option<BTreeMap<String, String>>,
}

/// What it is. What is left out stays as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = InstanceManifestSpec)]
pub struct InstanceSpec {
    /// The claw type, in any case: `OpenClaw` is `openclaw`.
    #[serde(rename = "type")]
    pub claw_type: String,
    /// The claw's version; the one this clawfarm was tested with when it is made without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// One: each claw has a life and a memory of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1)]
    pub replicas: Option<u32>,
    /// How it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeKind>,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
    /// The container image that was chosen for it, instead of clawfarm's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageReference>,
    /// What it is as a virtual machine: its image, its folders, its ports, and the commands that set it
    /// up, which the server runs when it is made of this document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmSpec>,
    /// The project that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// The port that its gateway must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1024, maximum = 65535)]
    pub port: Option<u16>,
    /// Its share of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Who has the last word on its configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_mode: Option<ConfigMode>,
    /// What happens when it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartPolicy>,
    /// How long its start may take, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400)]
    pub ready_timeout_secs: Option<u32>,
    /// When it sleeps by itself, all that is said of it for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep: Option<RuntimePolicy>,
    /// What it is configured with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<InstanceConfig>,
    /// Where a container's folders would be; clawfarm has places of its own for them.
    #[serde(default, skip_serializing_if = "never_written")]
    pub storage: Option<Storage>,
}

/// Its share of the machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InstanceManifestResources)]
pub struct Resources {
    /// Processor cores: `"2"`, `500m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Memory: `4Gi`, `512Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
}

/// What it is configured with. What is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InstanceManifestConfig)]
pub struct InstanceConfig {
    /// The template that it is bound to; `null` for none.
    #[serde(default, deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ConfigName>)]
    pub template: Option<Option<ConfigName>>,
    /// Values for the template's variables, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, Value>>)]
    pub variables: Option<BTreeMap<String, Value>>,
    /// What it says itself, all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Vec<Override>>,
}

/// One value that an instance says itself; `null` takes away what is below.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InstanceManifestOverride)]
pub struct Override {
    /// The place in the configuration, such as `model.name`.
    pub key: ConfigPath,
    /// The value.
    pub value: Value,
}

/// The folders of a container. They are read, and of no effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = InstanceManifestStorage)]
pub struct Storage {
    /// The folder of its configuration.
    #[serde(default)]
    config_dir: Option<String>,
    /// The folder of its data.
    #[serde(default)]
    data_dir: Option<String>,
}

/// What is read of others' documents has no place in ours.
const fn never_written<T>(_: &T) -> bool {
    true
}

/// What is there was said, be it nothing.
fn said<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl InstanceConfig {
    /// The overrides as one document (RFC 7396).
    ///
    /// # Errors
    /// `InvalidInput` on `spec.config.overrides[n].key` when two of them are for one place, or one is
    /// inside of another.
    pub fn patch(&self) -> Result<Map<String, Value>, Error> {
        let overrides = self.overrides.as_deref().unwrap_or_default();
        let mut all = Map::new();
        for (index, it) in overrides.iter().enumerate() {
            let before = overrides.iter().take(index).find(|other| other.key.touches(&it.key));
            if let Some(before) = before {
                return Err(Error::invalid(
                    format!("spec.config.overrides[{index}].key"),
                    format!("'{}' and '{}' are for the same place", before.key, it.key),
                )
                .fix("say it once"));
            }
            if let Value::Object(one) = it.key.holding(it.value.clone()) {
                lay(&mut all, one);
            }
        }
        Ok(all)
    }
}

/// Puts one document into another. No place is in both.
pub fn lay(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(into)), Value::Object(from)) => lay(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}
