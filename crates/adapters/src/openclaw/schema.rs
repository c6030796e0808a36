//! Which versions of OpenClaw can read what another one wrote.
//!
//! Its `package.json` says of what versions the schemas of its state are:
//! `openclaw.schemaVersions`, in 2026.9.6 `{"state": 18, "agent": 23}`. A newer version migrates
//! what it finds; an older one does not know what a newer one wrote.

use std::collections::BTreeMap;

use clawfarm_model::{Code, Error, Result};
use serde::Deserialize;

use crate::SoftwareFile;

#[derive(Default, Deserialize)]
struct Package {
    #[serde(default)]
    openclaw: Openclaw,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Openclaw {
    #[serde(default)]
    schema_versions: BTreeMap<String, u64>,
}

/// Refuses a version whose schemas are older than those of the data.
pub(super) fn check(from: &SoftwareFile<'_>, to: &SoftwareFile<'_>) -> Result<()> {
    let (present, wanted) = (schemas(from)?, schemas(to)?);
    for (name, version) in &present {
        let known = wanted.get(name).copied();
        if known.is_none_or(|known| known < *version) {
            let other = known.map_or_else(|| "none".to_owned(), |known| known.to_string());
            return Err(Error::new(
                Code::Unsupported,
                format!(
                    "OpenClaw {} can't read the data of {}: its schema '{name}' is {other}, that of the data is {version}",
                    to.version, from.version
                ),
            )
            .field("version")
            .fix("choose a version that is not older, or make a new instance of that version"));
        }
    }
    Ok(())
}

pub(super) fn schemas(file: &SoftwareFile<'_>) -> Result<BTreeMap<String, u64>> {
    let Some(contents) = file.contents else { return Ok(BTreeMap::new()) };
    let package: Package = serde_json::from_slice(contents).map_err(|e| {
        Error::new(
            Code::Unsupported,
            format!("the package.json of OpenClaw {} can't be read: {e}", file.version),
        )
        .field("version")
        .fix("choose another version")
        .source(e)
    })?;
    Ok(package.openclaw.schema_versions)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"{"name":"openclaw","openclaw":{"schemaVersions":{"state":17,"agent":23}}}"#;
    const NEW: &str = r#"{"name":"openclaw","openclaw":{"schemaVersions":{"state":18,"agent":23}}}"#;
    const WITHOUT: &str = r#"{"name":"openclaw"}"#;

    fn checked(from: Option<&'static str>, to: Option<&'static str>) -> Result<()> {
        let file =
            |version, text: Option<&'static str>| SoftwareFile { version, contents: text.map(str::as_bytes) };
        check(&file("2026.9.6", from), &file("2026.9.5", to))
    }

    #[test]
    fn an_older_schema_is_refused_and_named() {
        let error = checked(Some(NEW), Some(OLD)).unwrap_err();
        assert_eq!((error.code(), error.field_name()), (Code::Unsupported, Some("version")));
        for word in ["2026.9.5", "'state'", "17", "18"] {
            assert!(error.message().contains(word), "{error}");
        }
        // A version from before schemas had numbers.
        assert!(checked(Some(NEW), Some(WITHOUT)).is_err());
        assert!(checked(Some(NEW), None).is_err());
    }

    #[test]
    fn what_is_not_older_is_taken() {
        for (from, to) in [(OLD, NEW), (NEW, NEW), (WITHOUT, NEW), (WITHOUT, WITHOUT)] {
            checked(Some(from), Some(to)).unwrap();
        }
        assert_eq!(checked(Some(NEW), Some("no JSON")).unwrap_err().field_name(), Some("version"));
    }

    #[test]
    fn fuzz_package_json() {
        clawfarm_fuzz::fuzz(&[NEW.as_bytes(), WITHOUT.as_bytes()], |bytes| {
            let file = |bytes| SoftwareFile { version: "1", contents: Some(bytes) };
            let _ = check(&file(NEW.as_bytes()), &file(bytes));
        });
    }
}
