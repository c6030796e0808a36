//! What an instance's configuration is made of.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::{PartialSchema, ToSchema};

use crate::error::Error;
use crate::name::{ProjectName, check_label};

/// The name of a configuration of the centre: `global`, `tenant` and `project.<name>` are what is
/// said for all instances there; any other is a template's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ConfigName(String);

/// What a configuration of the centre is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigKind {
    /// All instances of all tenants.
    Global,
    /// All instances of a tenant.
    Tenant,
    /// All instances of a project.
    Project(ProjectName),
    /// The instances that are bound to it.
    Template,
    /// No configuration: what instances say themselves, changed in many of them at once.
    Own,
}

impl ConfigName {
    /// The longest name of a template.
    pub const MAX: usize = 40;
    const GLOBAL: &'static str = "global";
    const TENANT: &'static str = "tenant";
    const PROJECT: &'static str = "project.";
    // No template's name has a dot in it.
    const OWN: &'static str = "instances.own";

    /// Checks and takes a name.
    ///
    /// # Errors
    /// When it is none of the names that stand for layers and no DNS label.
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        match text.strip_prefix(Self::PROJECT) {
            None if text == Self::OWN => {}
            Some(project) => {
                ProjectName::new(project)?;
            }
            None => check_label("config", &text, Self::MAX)?,
        }
        Ok(Self(text))
    }

    /// What is said for all instances.
    #[must_use]
    pub fn global() -> Self {
        Self(Self::GLOBAL.to_owned())
    }

    /// What is said for a tenant's instances.
    #[must_use]
    pub fn tenant() -> Self {
        Self(Self::TENANT.to_owned())
    }

    /// What is said for a project's instances.
    #[must_use]
    pub fn project(project: &ProjectName) -> Self {
        Self(format!("{}{project}", Self::PROJECT))
    }

    /// What instances say themselves: no configuration, and what a rollout is of that changes it in
    /// many of them.
    #[must_use]
    pub fn own() -> Self {
        Self(Self::OWN.to_owned())
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> ConfigKind {
        match self.0.as_str() {
            Self::GLOBAL => ConfigKind::Global,
            Self::TENANT => ConfigKind::Tenant,
            Self::OWN => ConfigKind::Own,
            other => other
                .strip_prefix(Self::PROJECT)
                .and_then(|project| ProjectName::new(project).ok())
                .map_or(ConfigKind::Template, ConfigKind::Project),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConfigName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ConfigName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl FromStr for ConfigName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for ConfigName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(Error::into_serde)
    }
}

impl PartialSchema for ConfigName {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some("^(project\\.)?[a-z]([a-z0-9-]{0,38}[a-z0-9])?$"))
            .min_length(Some(1))
            .max_length(Some(48))
            .into()
    }
}

impl ToSchema for ConfigName {}

/// What an instance's configuration is made of: the layers below it, by revision, and what it
/// says itself. What comes of it is the `config` of its specification.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Layered {
    /// What the instance says itself. `None` for one of before there were layers: then all of its
    /// configuration is its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub own: Option<serde_json::Map<String, serde_json::Value>>,
    /// The template that it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<ConfigName>,
    /// What it gives for the template's variables, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, Object>)]
    pub variables: BTreeMap<String, serde_json::Value>,
    /// The revision of each layer that it goes by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub applied: BTreeMap<ConfigName, i64>,
    /// Grows with every change of what it is configured with.
    pub revision: i64,
    /// The `revision` as of which its files are written anew whatever its claw goes by: somebody
    /// else had changed them.
    #[serde(skip_serializing_if = "is_zero")]
    pub rewrite: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_it_is_for() {
        let kind = |text: &str| ConfigName::new(text).unwrap().kind();
        assert_eq!(kind("global"), ConfigKind::Global);
        assert_eq!(kind("tenant"), ConfigKind::Tenant);
        assert_eq!(kind("project.web"), ConfigKind::Project("web".parse().unwrap()));
        assert_eq!(kind("support"), ConfigKind::Template);
        assert_eq!((kind("instances.own"), kind("instances")), (ConfigKind::Own, ConfigKind::Template));
        assert_eq!(kind("project"), ConfigKind::Template);
        for wrong in ["", "project.", "project.A", "a.b", "../x", "Global"] {
            assert!(ConfigName::new(wrong).is_err(), "{wrong}");
        }
        assert_eq!(ConfigName::project(&"web".parse().unwrap()).as_str(), "project.web");
    }
}
