//! Names that people choose. Every one is checked when it is made, so that code holding
//! one may put it in a path, a label or a URL without looking again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::{PartialSchema, ToSchema};

use crate::error::Error;

/// Checks a DNS label: `a-z`, `0-9` and `-`, beginning with a letter, not ending in `-`
/// (RFC 1123, with the first character narrowed to a letter as Kubernetes does for
/// service names), and `max` characters at most.
pub(crate) fn check_label(field: &str, text: &str, max: usize) -> Result<(), Error> {
    let shown: String = text.chars().take(60).flat_map(char::escape_default).collect();
    let refuse = |why: String| {
        Err(Error::invalid(field, format!("'{shown}' {why}")).fix(format!(
            "use 1 to {max} of a-z, 0-9 and '-', beginning with a letter and not ending in '-', such as 'alice'"
        )))
    };
    if text.is_empty() {
        return refuse("is empty".to_owned());
    }
    if text.len() > max {
        return refuse(format!("is longer than {max} characters"));
    }
    if let Some(c) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        return refuse(format!("contains '{}'", c.escape_default()));
    }
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        return refuse("does not begin with a letter".to_owned());
    }
    if text.ends_with('-') {
        return refuse("ends in '-'".to_owned());
    }
    Ok(())
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $field:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The longest it may be, in characters.
            pub const MAX: usize = $max;

            /// Checks and takes a name.
            ///
            /// # Errors
            /// When it is no DNS label of at most [`Self::MAX`] characters; the error says which rule it breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, Error> {
                let text = text.into();
                check_label($field, &text, $max)?;
                Ok(Self(text))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(Error::into_serde)
            }
        }

        impl PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .pattern(Some("^[a-z]([a-z0-9-]*[a-z0-9])?$"))
                    .min_length(Some(1))
                    .max_length(Some($max))
                    .into()
            }
        }

        impl ToSchema for $name {}
    };
}

label!(
    /// The name a person gives an instance; the CLAWID is this and a suffix.
    InstanceName, "name", 32
);
label!(
    /// A tenant: a customer, a department. Nothing crosses from one to another.
    TenantName, "tenant", 40
);
label!(
    /// A project within a tenant.
    ProjectName, "project", 40
);
label!(
    /// A configured place that instances run on.
    TargetName, "target", 40
);
label!(
    /// A claw type, such as `openclaw`: the name of its adapter.
    ClawType, "claw_type", 32
);

impl TenantName {
    /// The tenant a lone user works in without knowing it.
    #[must_use]
    pub fn default_tenant() -> Self {
        Self("default".to_owned())
    }
}

impl ProjectName {
    /// The project a lone user works in without knowing it.
    #[must_use]
    pub fn default_project() -> Self {
        Self("default".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_dns_label_and_says_why() {
        for (text, why) in [
            ("", "is empty"),
            ("Alice", "contains 'A'"),
            ("1a", "does not begin with a letter"),
            ("a-", "ends in '-'"),
            ("../x", "contains '.'"),
            ("a\0b", "contains"),
            ("é", "contains"),
            ("a b", "contains ' '"),
            (&"a".repeat(33), "longer than 32"),
        ] {
            let error = InstanceName::new(text).expect_err(text);
            assert_eq!(error.field_name(), Some("name"));
            assert!(error.message().contains(why), "{text:?}: {error}");
        }
        assert_eq!(InstanceName::new("alice-2").unwrap().as_str(), "alice-2");
    }

    #[test]
    fn a_refused_name_is_shown_escaped() {
        let error = InstanceName::new("a\u{1b}[31m\n").unwrap_err();
        assert!(!error.message().contains('\u{1b}') && !error.message().contains('\n'), "{error}");
    }

    #[test]
    fn fuzz_names() {
        clawfarm_fuzz::fuzz_text(&["alice", "a-1", "openclaw", "../etc"], |text| {
            match InstanceName::new(text) {
                Ok(name) => {
                    assert_eq!(name.as_str(), text);
                    let again = serde_json::to_string(&name).and_then(|json| serde_json::from_str(&json));
                    assert_eq!(again.ok(), Some(name));
                }
                Err(error) => {
                    assert!(error.fix_text().is_some());
                    assert!(!error.to_string().contains(char::is_control), "{error}");
                    assert!(error.to_string().len() < 1_500);
                }
            }
        });
    }
}
