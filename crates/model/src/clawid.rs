//! The CLAWID: an instance's id, host name and subdomain in one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::{PartialSchema, ToSchema};

use crate::error::Error;
use crate::name::{InstanceName, check_label};

/// An instance's id: `<name>-<suffix>`, a DNS label of at most 40 characters, unique over
/// all tenants, and the instance's subdomain.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ClawId(String);

/// Without vowels (no words arise) and without `0 1 l` (no misreading).
const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjkmnpqrstvwxz23456789";
/// 27^5 is 14 million: two instances of one name practically never meet, and the store's
/// unique key turns the rest into another draw.
const SUFFIX_LEN: usize = 5;

impl ClawId {
    /// The longest id, in characters: a DNS label may have 63; 40 leaves room for prefixes
    /// that runtimes add (`clawfarm-…`).
    pub const MAX: usize = 40;

    /// A new id for an instance of this name, with a random suffix.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    #[must_use]
    pub fn generate(name: &InstanceName) -> Self {
        let mut id = String::with_capacity(Self::MAX);
        id.push_str(name.as_str());
        id.push('-');
        while id.len() < name.as_str().len() + 1 + SUFFIX_LEN {
            let mut byte = [0_u8; 1];
            getrandom::fill(&mut byte).expect("the operating system gives random bytes");
            // 27 * 9 = 243: bytes above are drawn again, so that every character is as likely.
            if byte[0] < 243 {
                id.push(char::from(SUFFIX_ALPHABET[usize::from(byte[0]) % 27]));
            }
        }
        Self(id)
    }

    /// Checks and takes an id.
    ///
    /// # Errors
    /// When it is no DNS label of at most 40 characters.
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        check_label("id", &text, Self::MAX)?;
        Ok(Self(text))
    }

    /// The id as text. Safe in paths, labels and URLs.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClawId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClawId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClawId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for ClawId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(Error::into_serde)
    }
}

impl PartialSchema for ClawId {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some("^[a-z]([a-z0-9-]*[a-z0-9])?$"))
            .max_length(Some(Self::MAX))
            .description(Some("An instance's id: <name>-<suffix>"))
            .into()
    }
}

impl ToSchema for ClawId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_still_makes_a_valid_id() {
        let name = InstanceName::new("a".repeat(InstanceName::MAX)).unwrap();
        let id = ClawId::generate(&name);
        assert!(id.as_str().len() <= ClawId::MAX);
        assert_eq!(ClawId::new(id.as_str()).unwrap(), id);
        assert_ne!(ClawId::generate(&name), id);
    }
}
