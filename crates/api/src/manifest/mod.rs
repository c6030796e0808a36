//! The documents of a file, as `clawfarm apply` takes and `clawfarm export` writes them. They are
//! YAML there, which the server knows nothing of: what they ask for goes over the API's routes.

mod instance;
mod quantity;

use clawfarm_config::Template;
use clawfarm_model::ConfigName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use instance::{
    InstanceConfig, InstanceManifest, InstanceMetadata, InstanceSpec, Override, Resources, Storage, lay,
};
pub use quantity::Quantity;

/// The `apiVersion` of the documents.
pub const API_VERSION: &str = "clusterclaw.io/v1";
/// The `kind` of a configuration.
pub const TEMPLATE_KIND: &str = "ConfigTemplate";
/// The `kind` of an instance.
pub const INSTANCE_KIND: &str = "ClawInstance";

/// A configuration, as a document of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateManifest {
    /// Whose it is, and its name.
    pub metadata: TemplateMetadata,
    /// What it says.
    pub spec: Template,
}

/// Whose it is, and its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateMetadata {
    /// A template's name; `global`, `tenant` and `project.<name>` are what is said for all there.
    pub name: ConfigName,
    /// The tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}
