//! Images that targets have.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::{PartialSchema, ToSchema};

use crate::error::Error;
use crate::name::{ClawType, TargetName};
use crate::time::Timestamp;

/// An image of a claw type, on one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// What kind of image it is.
    pub kind: ImageKind,
    /// What it is called: `clawfarm/openclaw:2026.9.6`.
    pub reference: String,
    /// Its digest: `sha256:...`.
    pub digest: String,
    /// Where it is.
    pub target: TargetName,
    /// The claw type in it.
    pub claw_type: ClawType,
    /// The claw's version.
    pub version: String,
    /// What it was made from: a package, a commit of a repository, or the registry it was
    /// pulled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What it was made on, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// What it takes up, in bytes; images share much of that.
    pub size_bytes: u64,
    /// Instances that were made from it and are still there.
    pub used_by: u64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What runs an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageKind {
    /// A container engine.
    Container,
    /// A virtual machine.
    Vm,
}

impl ImageKind {
    /// The name as it is shown and stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Vm => "vm",
        }
    }
}

/// What a container image is called: `[registry[:port]/]path[:tag][@sha256:...]`, by the rules
/// of the OCI's distribution specification.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ImageReference(String);

impl ImageReference {
    /// The longest it may be: the specification's 255 for the name, 128 for the tag and 71 for
    /// the digest, with their separators.
    pub const MAX: usize = 456;
    /// What one looks like; the rules beside it are checked by [`Self::new`].
    pub const PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._:/-]*(@sha256:[0-9a-f]{64})?$";

    /// Checks and takes a reference. Whoever holds one may put it in a path of an engine's API.
    ///
    /// # Errors
    /// Which part is not as it must be.
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        match flaw(&text) {
            None => Ok(Self(text)),
            Some(why) => {
                let shown: String = text.chars().take(80).flat_map(char::escape_default).collect();
                Err(Error::invalid("image", format!("'{shown}' {why}")).fix(
                    "give a name such as ghcr.io/openclaw/openclaw:2026.9.6, or one with @sha256: and its digest",
                ))
            }
        }
    }

    /// The reference as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its tag, where it has one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        parts(&self.0).1
    }

    /// Its digest, where it is pinned by one.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        parts(&self.0).2
    }

    /// The registry that it names; `None` for Docker Hub, which is meant where none is named.
    #[must_use]
    pub fn registry(&self) -> Option<&str> {
        registry(parts(&self.0).0).0
    }

    /// The same with the tag that is meant when neither a tag nor a digest is given.
    #[must_use]
    pub fn whole(&self) -> String {
        match (self.tag(), self.digest()) {
            (None, None) => format!("{}:latest", self.0),
            _ => self.0.clone(),
        }
    }
}

/// Name, tag, digest.
fn parts(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A ':' before the last '/' is that of a registry's port.
    let last = rest.rfind('/').map_or(0, |at| at + 1);
    match rest[last..].find(':') {
        Some(at) => (&rest[..last + at], Some(&rest[last + at + 1..]), digest),
        None => (rest, None, digest),
    }
}

/// The registry of a name, and its path there.
fn registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
        _ => (None, name),
    }
}

fn flaw(text: &str) -> Option<&'static str> {
    let (name, tag, digest) = parts(text);
    let (host, path) = registry(name);
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good_part = |part: &str| {
        part.starts_with(lower)
            && part.ends_with(lower)
            && part.chars().all(|c| lower(c) || matches!(c, '.' | '_' | '-'))
            && !part.contains("..")
    };
    let good_host = |host: &str| {
        let (name, port) = host.split_once(':').unwrap_or((host, "1"));
        let labels = name.split('.').all(|label| {
            !label.is_empty()
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
        labels && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    let good_tag = |tag: &str| {
        tag.len() <= 128
            && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    let good_digest = |digest: &str| {
        digest
            .strip_prefix("sha256:")
            .is_some_and(|hex| hex.len() == 64 && hex.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')))
    };
    if name.is_empty() || name.len() > 255 {
        return Some("has no name of 1 to 255 characters");
    }
    if host.is_some_and(|host| !good_host(host)) {
        return Some("names no registry's host");
    }
    if !path.split('/').all(good_part) {
        return Some("has a name with other characters than a-z, 0-9, '.', '_', '-' and '/'");
    }
    if tag.is_some_and(|tag| !good_tag(tag)) {
        return Some("has a tag that can't be one");
    }
    if digest.is_some_and(|digest| !good_digest(digest)) {
        return Some("has no digest of the form sha256: and 64 of 0-9 and a-f");
    }
    None
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl FromStr for ImageReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for ImageReference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(Error::into_serde)
    }
}

impl PartialSchema for ImageReference {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some(Self::PATTERN))
            .min_length(Some(1))
            .max_length(Some(Self::MAX))
            .into()
    }
}

impl ToSchema for ImageReference {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_taken_apart_as_engines_do() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let pinned = format!("localhost:5000/a/b_c:v1.2@{digest}");
        for (text, registry, tag, pin) in [
            ("openclaw", None, None, None),
            ("clawfarm/openclaw:2026.9.6", None, Some("2026.9.6"), None),
            ("ghcr.io/openclaw/openclaw:latest", Some("ghcr.io"), Some("latest"), None),
            ("127.0.0.1:5000/openclaw", Some("127.0.0.1:5000"), None, None),
            (pinned.as_str(), Some("localhost:5000"), Some("v1.2"), Some(digest.as_str())),
        ] {
            let reference = ImageReference::new(text).expect(text);
            assert_eq!((reference.registry(), reference.tag(), reference.digest()), (registry, tag, pin));
        }
        assert_eq!(ImageReference::new("a/b").unwrap().whole(), "a/b:latest");
    }

    #[test]
    fn what_could_lead_elsewhere_in_an_engine_s_api_is_refused() {
        for text in [
            "",
            "-x",
            "..",
            "a/../b",
            "../../containers/json",
            "a?x=1",
            "a#b",
            "a b",
            "A/B",
            "a%2fb",
            "a:",
            "a:t/..",
            "a@sha256:12",
            "a@x",
            "host:99999/a",
            "a//b",
            "/a",
            "a/",
            &"a".repeat(256),
        ] {
            assert_eq!(ImageReference::new(text).expect_err(text).field_name(), Some("image"), "{text}");
        }
    }

    #[test]
    fn fuzz_references() {
        let seeds = ["ghcr.io/openclaw/openclaw:latest", "127.0.0.1:5000/a@sha256:00", "../x"];
        clawfarm_fuzz::fuzz_text(&seeds, |text| match ImageReference::new(text) {
            Ok(reference) => {
                assert_eq!(reference.as_str(), text);
                assert!(text.len() <= ImageReference::MAX && !text.contains("..") && !text.contains("//"));
                assert!(!text.contains(|c: char| c.is_control() || "?#%&\\ ".contains(c)));
            }
            Err(error) => assert!(!error.to_string().contains(char::is_control), "{error}"),
        });
    }
}
