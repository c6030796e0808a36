//! What of a unified config a claw type has no words for: told, never dropped in silence.
//!
//! What would let a claw do more than its owner thinks is an error; everything else a warning.

use std::collections::{BTreeMap, BTreeSet};

use clawfarm_model::config::ClawConfig;
use clawfarm_model::{Error, Result};
use serde_json::Value;

use crate::Warning;

/// What clawfarm itself does for every claw type, with `env` and `proxy` in its environment.
const EVERYWHERE: [&str; 3] = ["env", "inbox", "proxy"];

/// Whether leaving a place out would let the claw do more, or let more people in.
fn is_a_limit(place: &str) -> bool {
    let last = place.rsplit('.').next().unwrap_or(place);
    place.starts_with("tools.")
        || place.contains(".tools.")
        || last == "allow_from"
        || last == "require_mention"
}

/// Checks that a type has words for everything that is said. `expressed` are the places that it has
/// words for, each with what is below it; `*` in one stands for any key. `does` says whether a value
/// at a place is one that the type does anyway.
///
/// # Errors
/// `InvalidInput`, naming the place.
pub(crate) fn check(
    config: &ClawConfig,
    title: &str,
    expressed: &[String],
    does: impl Fn(&str, &Value) -> bool,
) -> Result<Vec<Warning>> {
    let mut warnings = Vec::new();
    for (place, value) in said(config)? {
        let covered = |pattern: &str| holds(pattern, &place);
        if EVERYWHERE.into_iter().any(covered)
            || expressed.iter().map(String::as_str).any(covered)
            || does(&place, &value)
        {
            continue;
        }
        let field = format!("config.{place}");
        if is_a_limit(&place) {
            return Err(Error::invalid(field, format!("{title} can't be limited so"))
                .fix("leave it out, or use a claw type that can: docs/claw-types.md has which"));
        }
        let native = place == "native" || place.starts_with("native.");
        if native {
            return Err(Error::invalid(field, format!("{title} has no such setting of its own"))
                .fix("leave it out, or correct its name"));
        }
        warnings.push(Warning { field, message: format!("{title} has no such setting: it stays as it is") });
    }
    Ok(warnings)
}

/// The places at which two configs don't say the same.
pub(crate) fn differing(before: &ClawConfig, after: &ClawConfig) -> Result<BTreeSet<String>> {
    if before == after {
        return Ok(BTreeSet::new());
    }
    let was: BTreeMap<String, Value> = said(before)?.into_iter().collect();
    let is: BTreeMap<String, Value> = said(after)?.into_iter().collect();
    let all = was.keys().chain(is.keys());
    Ok(all.filter(|place| was.get(*place) != is.get(*place)).cloned().collect())
}

/// Everything that a config says, by its place: each value that is no object, and each reference
/// to a secret.
pub(crate) fn said(config: &ClawConfig) -> Result<Vec<(String, Value)>> {
    fn walk(value: &Value, at: &str, out: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(map) if !is_secret(value) && !map.is_empty() => {
                for (key, value) in map {
                    let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                    walk(value, &at, out);
                }
            }
            _ => out.push((at.to_owned(), value.clone())),
        }
    }
    let whole = serde_json::to_value(config)
        .map_err(|e| Error::internal("a config could not be put into JSON", e))?;
    let mut out = Vec::new();
    if whole.as_object().is_some_and(|map| !map.is_empty()) {
        walk(&whole, "", &mut out);
    }
    Ok(out)
}

/// Whether a value is a reference to a secret.
pub(crate) fn is_secret(value: &Value) -> bool {
    value.as_object().is_some_and(|it| it.len() == 1 && it.get("secret").is_some_and(Value::is_string))
}

/// Whether `place` is `pattern`'s place, or below it; `*` in the pattern stands for any key.
pub(crate) fn holds(pattern: &str, place: &str) -> bool {
    let mut parts = place.split('.');
    pattern.split('.').all(|wanted| parts.next().is_some_and(|part| wanted == "*" || wanted == part))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(config: Value, expressed: &[&str]) -> Result<Vec<String>> {
        let config: ClawConfig = serde_json::from_value(config).unwrap();
        let expressed: Vec<String> = expressed.iter().map(|&it| it.to_owned()).collect();
        let warnings = check(&config, "x", &expressed, |_, _| false)?;
        Ok(warnings.into_iter().map(|warning| warning.field).collect())
    }

    #[test]
    fn what_a_type_has_no_words_for_is_named() {
        let config = json!({
            "model": {"provider": "openai", "name": "m", "api_key": {"secret": "k"}},
            "memory": {"limit": 5},
            "skills": {"a": {"enabled": true}, "b": {"api_key": {"secret": "s"}}},
            "env": {"A": "b"},
        });
        assert_eq!(
            checked(config.clone(), &["model", "skills.*.enabled"]).unwrap(),
            ["config.memory.limit", "config.skills.b.api_key"]
        );
        assert_eq!(checked(config, &["model", "skills", "memory"]).unwrap(), Vec::<String>::new());
        assert_eq!(checked(json!({}), &[]).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_limit_that_can_not_be_kept_is_refused() {
        for (config, field) in [
            (json!({"tools": {"deny": ["exec"]}}), "config.tools.deny"),
            (json!({"tools": {"exec": {"mode": "deny"}}}), "config.tools.exec.mode"),
            (
                json!({"agents": {"entries": {"a": {"tools": {"deny": ["x"]}}}}}),
                "config.agents.entries.a.tools.deny",
            ),
            (
                json!({"channels": {"telegram": {"bot_token": {"secret": "t"}, "allow_from": ["1"]}}}),
                "config.channels.telegram.allow_from",
            ),
            (json!({"native": {"a": {"b": 1}}}), "config.native.a.b"),
        ] {
            let refused = checked(config, &["channels.telegram.bot_token"]).unwrap_err();
            assert_eq!(refused.field_name(), Some(field));
            assert!(refused.fix_text().is_some());
        }
    }
}
