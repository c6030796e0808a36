//! Model providers beside the one that the main model is at.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Provider;
use crate::secret::SecretRef;

/// Somebody who serves models, under a name by which models are asked for: `<name>/<model>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({"type": "openai-compatible", "base_url": "http://10.0.0.7:8000/v1", "models": [{"name": "llama-3.3-70b", "context_window": 128_000}]})))]
pub struct ProviderConfig {
    /// Whose protocol it speaks.
    #[serde(rename = "type")]
    pub kind: Provider,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretRef>,
    /// Where it is, where that is not its usual address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The models that it has, where the claw can't know them: those of an `openai-compatible`
    /// server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelFacts>,
    /// How long an answer may take, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    pub timeout_secs: Option<u32>,
}

/// What is known of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelFacts {
    /// Its name at the provider.
    pub name: String,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// How many tokens it can take in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    pub context_window: Option<u32>,
    /// How many tokens it can answer with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    pub max_tokens: Option<u32>,
    /// What it can be shown beside text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub input: Vec<ModelInput>,
    /// Whether it thinks before it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<bool>,
    /// What it costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

/// What a model can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModelInput {
    /// Text.
    Text,
    /// Pictures.
    Image,
}

/// What a model costs, in US dollars for a million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cost {
    /// What goes in.
    pub input: f64,
    /// What comes out.
    pub output: f64,
    /// What goes in and is remembered from before.
    pub cache_read: f64,
    /// What goes in and is to be remembered.
    pub cache_write: f64,
}

/// Providers by name.
pub type Providers = BTreeMap<String, ProviderConfig>;
