//! What a claw may do.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a claw may do. What is absent is as clawfarm has it: commands that nobody has allowed
/// need a person's yes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(examples(json!({"profile": "coding", "deny": ["browser"], "exec": {"mode": "allowlist", "safe_programs": ["jq"]}})))]
pub struct Tools {
    /// What it has to begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<ToolProfile>,
    /// Tools that it has beside those of its profile.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Tools that it has not, whoever allows them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// Commands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    /// Whether it may search the web.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web_search: Option<bool>,
    /// Whether it may read pages of the web.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web_fetch: Option<bool>,
    /// Whether its file tools are kept to its workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_only: Option<bool>,
    /// Whether a person may have it do what its tools don't allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elevated: Option<bool>,
}

impl Tools {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What an agent may do, where that differs from its claw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AgentTools {
    /// What it has to begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<ToolProfile>,
    /// Tools that it has beside those of its profile.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Tools that it has not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

/// A set of tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolProfile {
    /// Next to nothing.
    Minimal,
    /// What is needed to answer messages.
    Messaging,
    /// What is needed to work on files.
    Coding,
    /// Everything.
    Full,
}

/// Commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// Which may be run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<ExecMode>,
    /// Programs that may be run whatever the mode, unless it is `deny`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub safe_programs: Vec<String>,
    /// How long a command may take, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    pub timeout_secs: Option<u32>,
}

/// Which commands may be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExecMode {
    /// None.
    Deny,
    /// Those that somebody has allowed; all others are denied in silence.
    Allowlist,
    /// Those that somebody has allowed; for all others a person is asked.
    Ask,
    /// All that the model says.
    Full,
}
