//! Names of secrets, references to them, and who owns them. Values are never in this crate.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::{PartialSchema, ToSchema};

use crate::clawid::ClawId;
use crate::error::Error;
use crate::name::TenantName;
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
            let shown: String = text.chars().take(60).flat_map(char::escape_default).collect();
            Err(Error::invalid("secret", format!("'{shown}' can't be a secret's name"))
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
    /// The secret's name. The instance's own secrets are looked through before its tenant's.
    pub secret: SecretName,
}

/// Whose a secret is. Part of what its encryption is bound to, so that a ciphertext moved
/// to another row can't be opened there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretOwner {
    /// The tenant.
    pub tenant: TenantName,
    /// The instance, when it is that instance's alone; it goes when the instance is removed.
    pub instance: Option<ClawId>,
}

/// What may be shown of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretInfo {
    /// Its name.
    pub name: SecretName,
    /// The instance it belongs to, when it is not the whole tenant's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<ClawId>,
    /// When it was first set.
    pub created_at: Timestamp,
    /// When its value was last set.
    pub updated_at: Timestamp,
}
