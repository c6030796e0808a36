//! Names of secrets, references to them, and who owns them. Values are never in this crate.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::{PartialSchema, ToSchema};

use crate::clawid::ClawId;
use crate::error::Error;
use crate::name::{ProjectName, TenantName};
use crate::time::Timestamp;

/// The name of a secret: letters, digits, `_`, `.` and `-`, beginning with a letter or
/// digit, at most 63 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct SecretName(String);

impl SecretName {
    /// The longest it may be, in characters.
    pub const MAX: usize = 63;

    /// The rule as a regular expression, for descriptions.
    pub const PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9_.-]*$";

    /// Checks and takes a name.
    ///
    /// # Errors
    /// When the name breaks the rule above.
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        let good = text.len() <= Self::MAX
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if good {
            Ok(Self(text))
        } else {
            // The text is not shown: it may be the value itself, written in the wrong place.
            Err(Error::invalid("secret", "this can't be a secret's name")
                .fix("use 1 to 63 letters, digits, '_', '.' and '-', such as 'anthropic-key'"))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl FromStr for SecretName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for SecretName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(Error::into_serde)
    }
}

impl PartialSchema for SecretName {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some(Self::PATTERN))
            .max_length(Some(Self::MAX))
            .into()
    }
}

impl ToSchema for SecretName {}

/// A reference from configuration to a secret: `{"secret": "name"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretRef {
    /// The secret's name. The instance's own secrets are looked through first, then its
    /// project's, its tenant's, and those of the whole farm.
    pub secret: SecretName,
}

/// For whom a secret is, from the general to the particular. What is more particular goes before
/// what is more general of the same name.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum SecretScope {
    /// All instances of all tenants.
    Global,
    /// All instances of a tenant.
    #[default]
    Tenant,
    /// The instances of a project.
    Project,
    /// One instance.
    Instance,
}

impl SecretScope {
    /// The name as it is shown and stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Tenant => "tenant",
            Self::Project => "project",
            Self::Instance => "instance",
        }
    }
}

impl fmt::Display for SecretScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose a secret is. Part of what its encryption is bound to, so that a ciphertext moved
/// to another row can't be opened there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretOwner {
    /// The whole farm's.
    Global,
    /// A tenant's.
    Tenant(TenantName),
    /// A project's.
    Project(TenantName, ProjectName),
    /// One instance's; it goes when the instance is removed.
    Instance(TenantName, ClawId),
}

impl SecretOwner {
    /// For whom it is.
    #[must_use]
    pub const fn scope(&self) -> SecretScope {
        match self {
            Self::Global => SecretScope::Global,
            Self::Tenant(_) => SecretScope::Tenant,
            Self::Project(..) => SecretScope::Project,
            Self::Instance(..) => SecretScope::Instance,
        }
    }

    /// The tenant that it belongs to; the whole farm's belong to none.
    #[must_use]
    pub const fn tenant(&self) -> Option<&TenantName> {
        match self {
            Self::Global => None,
            Self::Tenant(tenant) | Self::Project(tenant, _) | Self::Instance(tenant, _) => Some(tenant),
        }
    }

    /// The tenant whose owners may set it: those of the default tenant administer the farm.
    #[must_use]
    pub fn authority(&self) -> TenantName {
        self.tenant().cloned().unwrap_or_else(TenantName::default_tenant)
    }

    /// The instance, when it is one's alone.
    #[must_use]
    pub const fn instance(&self) -> Option<&ClawId> {
        match self {
            Self::Instance(_, id) => Some(id),
            _ => None,
        }
    }

    /// The project, when it is one's.
    #[must_use]
    pub const fn project(&self) -> Option<&ProjectName> {
        match self {
            Self::Project(_, project) => Some(project),
            _ => None,
        }
    }

    /// Whether an instance sees this owner's secrets.
    #[must_use]
    pub fn reaches(&self, tenant: &TenantName, project: &ProjectName, instance: &ClawId) -> bool {
        match self {
            Self::Global => true,
            Self::Tenant(own) => own == tenant,
            Self::Project(own, of) => own == tenant && of == project,
            Self::Instance(own, id) => own == tenant && id == instance,
        }
    }
}

impl fmt::Display for SecretOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("the whole farm"),
            Self::Tenant(tenant) => write!(f, "tenant '{tenant}'"),
            Self::Project(_, project) => write!(f, "project '{project}'"),
            Self::Instance(_, id) => write!(f, "instance '{id}'"),
        }
    }
}

/// What may be shown of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretInfo {
    /// Its name.
    pub name: SecretName,
    /// For whom it is.
    #[serde(default)]
    pub scope: SecretScope,
    /// The project it belongs to, when it is one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// The instance it belongs to, when it is one's alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<ClawId>,
    /// Which value it has: counted from 1, one more for each that was set.
    #[serde(default = "first_version")]
    #[schema(minimum = 1)]
    pub version: i64,
    /// The value before its rotation is still kept: until every instance that runs with the secret
    /// has the present one.
    #[serde(default)]
    pub previous_kept: bool,
    /// The rotation that is under way, or that was halted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<SecretRotation>,
    /// How many instances are configured with it.
    #[serde(default)]
    pub used_by: u64,
    /// When it was first set.
    pub created_at: Timestamp,
    /// When its value was last set.
    pub updated_at: Timestamp,
}

const fn first_version() -> i64 {
    1
}

/// A new value on its way to the instances that run with a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretRotation {
    /// Where it is.
    pub stage: RotationStage,
    /// So many instances are on their way at a time.
    #[schema(minimum = 1, maximum = 1000)]
    pub parallel: u32,
    /// For how long the value before is kept at least, in seconds, although all have the new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 2_592_000)]
    pub grace_secs: Option<u32>,
    /// When it began.
    pub begun_at: Timestamp,
    /// Why it was halted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The one before it was halted: instances that did not come up then are started again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub after_halt: bool,
}

impl SecretRotation {
    /// So many at a time when nothing is said.
    pub const PARALLEL: u32 = 5;
    /// So many at a time at most.
    pub const PARALLEL_MAX: u32 = 1000;
    /// The longest grace: 30 days, in seconds.
    pub const GRACE_MAX: u32 = 30 * 24 * 3600;
}

/// Where a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RotationStage {
    /// It goes from instance to instance.
    Going,
    /// All have it; the value before is kept until its grace is over.
    Grace,
    /// An instance did not come up with it: no other is given it.
    Halted,
}

/// How an instance stands to a secret that it is configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecretUse {
    /// It runs with the present value.
    Current,
    /// It is being given the present value.
    OnItsWay,
    /// It runs with another value, and waits for its turn, or for its next start.
    Behind,
    /// It is down, and begins with the present value.
    NextStart,
    /// It was given the present value, and did not come up with it.
    Failed,
}

impl SecretUse {
    /// The name as it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::OnItsWay => "on its way",
            Self::Behind => "behind",
            Self::NextStart => "at its next start",
            Self::Failed => "failed",
        }
    }
}

/// An instance that is configured with a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretUser {
    /// Which.
    pub instance: ClawId,
    /// The fields of its configuration that refer to it.
    pub fields: Vec<String>,
    /// Whether it has to be started again for a new value while it is up; otherwise it takes it up
    /// while it runs.
    pub restarts: bool,
    /// How it stands.
    pub state: SecretUse,
}
