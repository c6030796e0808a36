//! What images of virtual machines are called.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::{PartialSchema, ToSchema};

use crate::error::Error;
use crate::time::Timestamp;

/// What an image of a virtual machine is called: `ubuntu:24.04`, `ubuntu:24.04@20250115` (the
/// one of a day), or what somebody called an image of their own.
///
/// It always has a `:`, which the name of a claw type never has, so that `clawfarm new` can
/// tell them apart. Whoever holds one may use it as the name of a folder: it is no longer than
/// a file's name may be, begins with a letter or a digit, and has no `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct VmImageReference(String);

impl VmImageReference {
    /// The longest name or tag, in characters.
    pub const PART_MAX: usize = 63;
    /// The longest it may be: name, `:`, tag, `@` and a day.
    pub const MAX: usize = 2 * Self::PART_MAX + 10;
    /// What one looks like; that the day is one of the calendar is checked by [`Self::new`].
    pub const PATTERN: &str = "^[a-z0-9][a-z0-9._-]{0,62}:[A-Za-z0-9][A-Za-z0-9._-]{0,62}(@[0-9]{8})?$";

    /// Checks and takes a reference.
    ///
    /// # Errors
    /// Which part is not as it must be, on the field `image`.
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        match flaw(&text) {
            None => Ok(Self(text)),
            Some(why) => {
                let shown: String = text.chars().take(80).flat_map(char::escape_default).collect();
                Err(Error::invalid("image", format!("'{shown}' {why}")).fix(
                    "give a name and a tag such as ubuntu:24.04, or ubuntu:24.04@20250115 for the image of a day",
                ))
            }
        }
    }

    /// The reference as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the `:`.
    #[must_use]
    pub fn name(&self) -> &str {
        parts(&self.0).0
    }

    /// The part behind the `:`, without the day.
    #[must_use]
    pub fn tag(&self) -> &str {
        parts(&self.0).1.unwrap_or_default()
    }

    /// The day that it is pinned to, as `YYYYMMDD`.
    #[must_use]
    pub fn day(&self) -> Option<&str> {
        parts(&self.0).2
    }

    /// Name and tag, without the day.
    #[must_use]
    pub fn without_day(&self) -> &str {
        self.0.split_once('@').map_or(&self.0, |(rest, _)| rest)
    }
}

/// Name, tag, day.
fn parts(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, day) = match text.split_once('@') {
        Some((rest, day)) => (rest, Some(day)),
        None => (text, None),
    };
    match rest.split_once(':') {
        Some((name, tag)) => (name, Some(tag), day),
        None => (rest, None, day),
    }
}

fn flaw(text: &str) -> Option<&'static str> {
    let (name, tag, day) = parts(text);
    let Some(tag) = tag else { return Some("has no tag") };
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let good = |part: &str| {
        (1..=VmImageReference::PART_MAX).contains(&part.len())
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(rest)
    };
    if !good(name) || name.contains(|c: char| c.is_ascii_uppercase()) {
        return Some(
            "has no name of 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit",
        );
    }
    if !good(tag) {
        return Some(
            "has no tag of 1 to 63 of A-Z, a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit",
        );
    }
    if day.is_some_and(|day| !is_day(day)) {
        return Some("has no day of the form YYYYMMDD behind its '@'");
    }
    None
}

/// Whether it is a day of the calendar, as `YYYYMMDD`.
fn is_day(text: &str) -> bool {
    let number = |range: std::ops::Range<usize>| text[range].parse::<i16>().unwrap_or(0);
    text.len() == 8
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && jiff::civil::Date::new(
            number(0..4),
            i8::try_from(number(4..6)).unwrap_or(0),
            i8::try_from(number(6..8)).unwrap_or(0),
        )
        .is_ok()
}

impl fmt::Display for VmImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for VmImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl FromStr for VmImageReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for VmImageReference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(Error::into_serde)
    }
}

impl PartialSchema for VmImageReference {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some(Self::PATTERN))
            .min_length(Some(3))
            .max_length(Some(Self::MAX))
            .into()
    }
}

impl ToSchema for VmImageReference {}

/// An image of virtual machines, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmImage {
    /// What it is called.
    pub reference: VmImageReference,
    /// Whether it is here, whole.
    pub downloaded: bool,
    /// Whether it can be fetched.
    pub supported: bool,
    /// How much of it has come, in bytes, when it is on its way or was cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial_bytes: Option<u64>,
    /// The size of its file, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// The size of the disk in it, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// The digest of its file: `sha256:...`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Where it came from, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// When it was here, whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_at: Option<Timestamp>,
    /// Instances and datasets whose disks are made on it, so that it can't be removed.
    pub used_by: Vec<String>,
    /// Its base snapshots: machines that are booted and wait, for `new --from-snapshot`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<VmBase>,
}

/// A base snapshot of an image: a machine of one size that is booted and waits to be copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmBase {
    /// Its processors.
    pub cpus: u32,
    /// Its memory, in MiB.
    pub memory_mib: u32,
    /// What its disk and its memory take up on the server's disk, in bytes.
    pub size_bytes: u64,
    /// When it was made.
    pub made_at: Timestamp,
    /// Instances whose disks lean on it.
    pub used_by: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_taken_apart() {
        for (text, name, tag, day) in [
            ("ubuntu:24.04", "ubuntu", "24.04", None),
            ("ubuntu:24.04@20250115", "ubuntu", "24.04", Some("20250115")),
            ("ubuntu:24.04@20240229", "ubuntu", "24.04", Some("20240229")),
            ("debian:12", "debian", "12", None),
            ("my-lab_1.x:Desk_Top-3.0", "my-lab_1.x", "Desk_Top-3.0", None),
        ] {
            let reference = VmImageReference::new(text).expect(text);
            assert_eq!((reference.name(), reference.tag(), reference.day()), (name, tag, day));
            assert_eq!(reference.to_string(), text);
            assert_eq!(reference.without_day(), format!("{name}:{tag}"));
        }
    }

    #[test]
    fn each_flaw_is_told_as_what_it_is() {
        let long = format!("{}:1", "a".repeat(64));
        for (text, why) in [
            ("", "no tag"),
            ("ubuntu", "no tag"),
            ("ubuntu@20250115", "no tag"),
            (":24.04", "no name"),
            ("Ubuntu:24.04", "no name"),
            (".hidden:1", "no name"),
            ("..:1", "no name"),
            ("a/b:1", "no name"),
            ("-x:1", "no name"),
            (long.as_str(), "no name"),
            ("ubuntu:", "no tag"),
            ("ubuntu:24.04:1", "no tag"),
            ("ubuntu:../x", "no tag"),
            ("ubuntu:24.04 ", "no tag"),
            ("ubuntu:24.04@", "no day"),
            ("ubuntu:24.04@2025011", "no day"),
            ("ubuntu:24.04@20250230", "no day"),
            ("ubuntu:24.04@20251301", "no day"),
            ("ubuntu:24.04@latest", "no day"),
            ("ubuntu:24.04@20250115@1", "no day"),
        ] {
            let error = VmImageReference::new(text).expect_err(text);
            assert_eq!(error.field_name(), Some("image"), "{text}");
            assert!(error.message().contains(why), "{text}: {error}");
            assert!(error.fix_text().is_some());
        }
    }

    #[test]
    fn fuzz_vm_image_references() {
        let seeds = ["ubuntu:24.04", "ubuntu:24.04@20250115", "../x:1", "a:b@99999999"];
        clawfarm_fuzz::fuzz_text(&seeds, |text| match VmImageReference::new(text) {
            Ok(reference) => {
                assert_eq!(reference.as_str(), text);
                assert!(text.len() <= VmImageReference::MAX && text.contains(':'));
                assert!(!text.starts_with('.') && !text.contains(['/', '\0', ' ', ',', '%', '\\']));
            }
            Err(error) => assert!(!error.to_string().contains(char::is_control), "{error}"),
        });
    }
}
