//! The small parts of a configuration: memory, skills, plugins, conversations, hooks, proxy,
//! output.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::EnvValue;
use crate::secret::SecretRef;

/// What a claw remembers beyond a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(examples(json!({"enabled": true, "search": true, "across_conversations": false})))]
pub struct Memory {
    /// Whether it remembers at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Whether it looks through its memory by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<bool>,
    /// Whether what was said in one conversation is known in others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub across_conversations: Option<bool>,
    /// How many tokens of a conversation stay word for word when older ones are put together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    pub limit: Option<u32>,
}

impl Memory {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A skill.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(examples(json!({"enabled": true, "api_key": {"secret": "weather-key"}, "env": {"UNITS": "metric"}})))]
pub struct Skill {
    /// Whether it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The key of the service that it uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretRef>,
    /// Environment variables that it gets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = crate::schema::env)]
    pub env: BTreeMap<String, EnvValue>,
}

/// A plugin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(examples(json!({"enabled": true, "config": {"dreaming": {"enabled": false}}})))]
pub struct Plugin {
    /// Whether it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Its own settings, as it writes them.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    #[schema(value_type = Object)]
    pub config: serde_json::Map<String, serde_json::Value>,
}

/// How conversations are kept apart, and when a new one begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(examples(json!({"reset_after_mins": 240, "per_person": true})))]
pub struct Conversations {
    /// After how many minutes of silence a new one begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    pub reset_after_mins: Option<u32>,
    /// Whether each person has one of their own, rather than all of a channel together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_person: Option<bool>,
}

impl Conversations {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What programs may do at the claw's gateway beside chatting with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(examples(json!({"responses_api": true, "hooks_token": {"secret": "hooks"}})))]
pub struct Gateway {
    /// Whether it answers at `/v1/responses`, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responses_api: Option<bool>,
    /// The token of those who may leave messages at its hooks; without one it has no hooks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks_token: Option<SecretRef>,
    /// Whether its dashboard has a terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminal: Option<bool>,
}

impl Gateway {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The way out, where there is no direct one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({"url": "http://proxy.example.com:3128", "except": [".example.com"]})))]
pub struct Proxy {
    /// The proxy's address: `http://proxy.example.com:3128`.
    pub url: String,
    /// Names and networks that are reached without it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

/// What a claw writes about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(examples(json!({"level": "info"})))]
pub struct Logging {
    /// From which level on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<LogLevel>,
}

impl Logging {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How grave something is that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures.
    Error,
    /// What may become one.
    Warn,
    /// What happens.
    Info,
    /// How it happens.
    Debug,
}
