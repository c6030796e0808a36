//! A place in a configuration.

use std::fmt;
use std::str::FromStr;

use clawfarm_model::{Error, Result};
use serde::{Deserialize, Serialize};
use utoipa::{PartialSchema, ToSchema};

/// How many parts a path may have. What is nested deeper than readers of JSON go (128 levels, as
/// a rule) could be written, but by nobody read.
const PARTS_MAX: usize = 64;
/// How deep a document may be that is saved: what is told of it has a few words before its place,
/// such as `body`.
const DEPTH_MAX: usize = PARTS_MAX - 4;
/// How long one part may be, in bytes.
const PART_MAX: usize = 256;

/// A place in a configuration, by the keys that lead there: `model.name`, and
/// `native.plugins."a.b".enabled` where a key has a dot in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigPath(Vec<String>);

impl ConfigPath {
    /// The whole configuration.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// The keys that lead there.
    #[must_use]
    pub fn parts(&self) -> &[String] {
        &self.0
    }

    /// The place below this one at `key`.
    #[must_use]
    pub fn child(&self, key: &str) -> Self {
        let mut parts = self.0.clone();
        parts.push(key.to_owned());
        Self(parts)
    }

    /// Whether this place is `other`, or holds it.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    /// Whether a value at one of the two places decides about the other.
    #[must_use]
    pub fn touches(&self, other: &Self) -> bool {
        self.holds(other) || other.holds(self)
    }

    /// The value that `document` has there.
    #[must_use]
    pub fn find<'a>(&self, document: &'a serde_json::Value) -> Option<&'a serde_json::Value> {
        self.0.iter().try_fold(document, |at, part| at.as_object()?.get(part))
    }

    /// A document with nothing but `value` at this place.
    #[must_use]
    pub fn holding(&self, value: serde_json::Value) -> serde_json::Value {
        self.0.iter().rev().fold(value, |inner, part| {
            serde_json::Value::Object(std::iter::once((part.clone(), inner)).collect())
        })
    }
}

/// Refuses a document with a key in it that a [`ConfigPath`] can't have: an empty one, one that is
/// too long, or what is nested too deep. `field` is where the document is.
///
/// # Errors
/// `InvalidInput`, naming the place that the key is in.
pub fn check_keys(document: &serde_json::Value, field: &str) -> Result<()> {
    keys_of(document, field, &ConfigPath::root())
}

fn keys_of(value: &serde_json::Value, field: &str, at: &ConfigPath) -> Result<()> {
    let refuse = |why: String| {
        let field = if at.0.is_empty() { field.to_owned() } else { format!("{field}.{at}") };
        Err(Error::invalid(field, why)
            .fix(format!("use keys of 1 to {PART_MAX} bytes, in objects that are at most {DEPTH_MAX} deep")))
    };
    match value {
        serde_json::Value::Object(map) => {
            if at.0.len() >= DEPTH_MAX && !map.is_empty() {
                return refuse(format!("there is an object in it that is more than {DEPTH_MAX} deep"));
            }
            for (key, value) in map {
                if key.is_empty() {
                    return refuse("there is an empty key in it".to_owned());
                }
                if key.len() > PART_MAX {
                    return refuse(format!("there is a key of {} bytes in it", key.len()));
                }
                keys_of(value, field, &at.child(key))?;
            }
            Ok(())
        }
        // No path leads into a list.
        _ => Ok(()),
    }
}

impl FromStr for ConfigPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: String| {
            Error::invalid("key", why).fix(
                r#"write the keys with dots between them, such as model.name; one with a dot in it in quotes: env."a.b""#,
            )
        };
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let quoted = rest.strip_prefix('"');
            let (part, after) = match quoted {
                Some(quoted) => unquote(quoted).ok_or_else(|| refuse("a quote is not closed".to_owned()))?,
                None => {
                    let end = rest.find('.').unwrap_or(rest.len());
                    let (part, after) = rest.split_at(end);
                    (part.to_owned(), after)
                }
            };
            if part.is_empty() && quoted.is_none() {
                return Err(refuse("a key is empty".to_owned()));
            }
            if part.len() > PART_MAX {
                return Err(refuse(format!("a key is longer than {PART_MAX} bytes")));
            }
            parts.push(part);
            if parts.len() > PARTS_MAX {
                return Err(refuse(format!("there are more than {PARTS_MAX} keys")));
            }
            match after.strip_prefix('.') {
                Some(further) => rest = further,
                None if after.is_empty() => return Ok(Self(parts)),
                None => return Err(refuse("something follows a closing quote".to_owned())),
            }
        }
    }
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut part = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((part, text.get(at + 1..)?)),
            '\\' => part.push(characters.next()?.1),
            other => part.push(other),
        }
    }
    None
}

impl fmt::Display for ConfigPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            if part.is_empty() || part.contains('.') || part.starts_with('"') {
                write!(f, "\"{}\"", part.replace('\\', "\\\\").replace('"', "\\\""))?;
            } else {
                f.write_str(part)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ConfigPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl PartialSchema for ConfigPath {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new().schema_type(utoipa::openapi::schema::Type::String).into()
    }
}

impl ToSchema for ConfigPath {}

/// How a [`ConfigPath`] is described that leads somewhere, as requests give it: with one key at
/// least. Those in answers may be empty, for the whole document.
#[derive(Debug)]
pub struct ConfigPlace;

impl PartialSchema for ConfigPlace {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        let key = r#"([^".][^.]*|"([^"\\]|\\[^\n])*")"#;
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("Keys with dots between them; one with a dot in it in quotes"))
            .pattern(Some(format!(r"^{key}(\.{key})*$")))
            .min_length(Some(1))
            .into()
    }
}

impl ToSchema for ConfigPlace {}

impl Serialize for ConfigPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ConfigPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(Error::into_serde)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn path(text: &str) -> ConfigPath {
        text.parse().unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(parts in prop::collection::vec("[a-z.\"\\\\ é]{0,6}", 1..5)) {
            let path = ConfigPath(parts);
            prop_assert_eq!(path.to_string().parse::<ConfigPath>().unwrap(), path);
        }
    }

    #[test]
    fn finds_and_holds() {
        let document = json!({"a": {"b.c": 1}});
        assert_eq!(path(r#"a."b.c""#).find(&document), Some(&json!(1)));
        assert_eq!(path("a.b.c").find(&document), None);
        assert_eq!(path(r#"a."b.c""#).holding(json!(1)), document);
        assert!(path("a").holds(&path("a.b")) && !path("a").holds(&path("ab")));
        assert!(path("a.b").touches(&path("a")) && !path("a.b").touches(&path("a.c")));
    }

    #[test]
    fn what_is_no_path_is_refused_with_what_to_write() {
        for text in ["", ".", "a.", ".a", "a..b", "\"a", "\"a\"b", &"a.".repeat(100), &"a".repeat(300)] {
            let refused = text.parse::<ConfigPath>().unwrap_err();
            assert!(refused.fix_text().is_some(), "{text}");
        }
    }

    #[test]
    fn a_key_that_no_path_can_have_is_refused_with_its_place() {
        let deep = (0..70).fold(json!(1), |inner, _| json!({ "a": inner }));
        for (document, field) in [
            (json!({"": 1}), "body"),
            (json!({"env": {"A": "", "": "x"}}), "body.env"),
            (json!({"native": {"a.b": {"k".repeat(257): 1}}}), r#"body.native."a.b""#),
            (deep, &format!("body{}", ".a".repeat(60))),
        ] {
            let refused = check_keys(&document, "body").unwrap_err();
            assert_eq!((refused.field_name(), refused.fix_text().is_some()), (Some(field), true));
            assert!(refused.message().len() < 100, "{refused}");
        }
        check_keys(&json!({"a": {"k".repeat(256): [{"": 1}]}}), "body").unwrap();
    }

    #[test]
    fn fuzz_paths() {
        clawfarm_fuzz::fuzz_text(&["model.name", r#"native."a.b".c"#, r#""\"".x"#], |text| {
            if let Ok(path) = text.parse::<ConfigPath>() {
                assert_eq!(path.to_string().parse::<ConfigPath>().unwrap(), path);
            }
        });
    }
}
