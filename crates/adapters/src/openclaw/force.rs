//! Whether a running OpenClaw goes by what was rendered for it: it is asked what it has read from
//! its file, and whether that is what it runs with.
//!
//! `config.get` (2026.9.6) answers with the file as it was read (`parsed`, secrets and references to
//! them made unreadable), whether it is valid and what is wrong with it (`issues`), and a name each
//! for the configuration in the file and the one it runs with (`configRevisionHash`,
//! `appliedConfigHash`). The two differ while a change is being taken up, and for as long as one
//! waits for a start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clawfarm_model::Result;
use serde_json::{Map, Value, json};

use super::http::Http;
use super::rpc::{Answer, call_up_to};
use super::{config, json as tree};
use crate::{Access, InForce};

/// What stands in place of a secret in an answer.
const REDACTED: &str = "__OPENCLAW_REDACTED__";
/// The largest answer, in bytes: it has the configuration five times over.
const MAX: usize = 5 * tree::MAX_BYTES;
/// More reasons than these help nobody.
const MOST: usize = 20;

/// Asks whether what `files` say is in force.
pub(super) async fn in_force(access: &Access<'_>, files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<InForce> {
    let rendered = files.get(Path::new(config::FILE)).and_then(|bytes| tree::parse(bytes).ok());
    let Some(rendered) = rendered else { return Ok(InForce::Unknown) };
    // A file that its user may write has more in it than what was rendered: the claw's own notes.
    let whole = !files.contains_key(Path::new(config::SEED_FILE));
    let mut http = Http::open(access.dial).await?;
    Ok(match call_up_to(&mut http, access, "config.get", json!({}), MAX).await? {
        Answer::Ok(payload) => judge(&payload, &rendered, whole),
        // It drains, or starts itself again.
        Answer::Refused { .. } => InForce::Unknown,
    })
}

fn judge(payload: &Value, rendered: &Map<String, Value>, whole: bool) -> InForce {
    if payload["valid"] != true {
        let mut why = vec!["it refuses its file, and goes on as before".to_owned()];
        let issues = payload["issues"].as_array().into_iter().flatten();
        why.extend(issues.take(MOST - 1).map(|issue| {
            let text = |key: &str| config::shown(issue[key].as_str().unwrap_or_default());
            format!("{}: {}", text("path"), text("message"))
        }));
        return InForce::Not(why);
    }
    let Some(parsed) = payload["parsed"].as_object() else { return InForce::Unknown };
    let mut differ = Vec::new();
    differences(parsed, rendered, whole, "", &mut differ);
    if !differ.is_empty() {
        differ.truncate(MOST);
        let word = |path: String| format!("{}: the claw has read something else", config::shown(&path));
        return InForce::Not(differ.into_iter().map(word).collect());
    }
    match (payload["configRevisionHash"].as_str(), payload["appliedConfigHash"].as_str()) {
        (Some(file), Some(memory)) if file == memory => InForce::Yes,
        (Some(_), Some(_)) => {
            InForce::Not(vec!["it has read its file, and still runs with what it had before".to_owned()])
        }
        _ => InForce::Unknown,
    }
}

/// The paths at which what was read is not what was rendered.
fn differences(
    read: &Map<String, Value>,
    rendered: &Map<String, Value>,
    whole: bool,
    path: &str,
    out: &mut Vec<String>,
) {
    let keys: BTreeSet<&String> = read.keys().filter(|_| whole).chain(rendered.keys()).collect();
    for key in keys {
        let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (read.get(key), rendered.get(key)) {
            (Some(Value::Object(read)), Some(Value::Object(rendered))) => {
                differences(read, rendered, whole, &at, out);
            }
            (Some(read), Some(rendered)) if same(read, rendered) => {}
            _ => out.push(at),
        }
    }
}

/// Whether two values are the same, as far as that can be seen.
fn same(read: &Value, rendered: &Value) -> bool {
    match (read, rendered) {
        (Value::String(text), _) if text == REDACTED => true,
        // JavaScript has one kind of number.
        (Value::Number(read), Value::Number(rendered)) => read.as_f64() == rendered.as_f64(),
        (Value::Array(read), Value::Array(rendered)) => {
            read.len() == rendered.len()
                && read.iter().zip(rendered).all(|(read, rendered)| same(read, rendered))
        }
        (Value::Object(read), Value::Object(rendered)) => {
            read.len() == rendered.len()
                && read.iter().all(|(key, read)| rendered.get(key).is_some_and(|it| same(read, it)))
        }
        _ => read == rendered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    /// As 2026.9.6 answered, cut short.
    fn answer() -> Value {
        json!({"exists": true, "valid": true, "issues": [], "raw": null,
            "parsed": {
                "agents": {"defaults": {"timeoutSeconds": 60, "model": {"primary": "custom/m"}}},
                "models": {"providers": {"custom": {"models": [{"id": "m", "cost": {"input": 1}}],
                    "apiKey": {"source": "env", "provider": "default", "id": REDACTED}}}},
                "hooks": {"token": "${CLAWFARM_SECRET_HOOKS}"},
            },
            "hash": "hmac-sha256:v1:AMq7", "configRevisionHash": "hmac-sha256:v1:y3NH",
            "appliedConfigHash": "hmac-sha256:v1:y3NH"})
    }

    fn rendered() -> Map<String, Value> {
        map(json!({
            "agents": {"defaults": {"timeoutSeconds": 60, "model": {"primary": "custom/m"}}},
            "models": {"providers": {"custom": {"models": [{"id": "m", "cost": {"input": 1.0}}],
                "apiKey": {"source": "env", "provider": "default", "id": "CLAWFARM_SECRET_K"}}}},
            "hooks": {"token": "${CLAWFARM_SECRET_HOOKS}"},
        }))
    }

    #[test]
    fn what_openclaw_says() {
        assert_eq!(judge(&answer(), &rendered(), true), InForce::Yes);
        let not = |answer: &Value, whole| match judge(answer, &rendered(), whole) {
            InForce::Not(why) => why.join("; "),
            other => panic!("{other:?}"),
        };
        let mut waiting = answer();
        waiting["appliedConfigHash"] = "hmac-sha256:v1:otherwise".into();
        assert!(not(&waiting, true).contains("still runs"));
        let mut drifted = answer();
        drifted["parsed"]["agents"]["defaults"]["timeoutSeconds"] = 61.into();
        drifted["parsed"]["mine"] = 1.into();
        let why = not(&drifted, true);
        assert!(why.contains("agents.defaults.timeoutSeconds") && why.contains("mine"), "{why}");
        // What its user added is no matter of what was rendered.
        let why = not(&drifted, false);
        assert!(why.contains("agents.defaults.timeoutSeconds") && !why.contains("mine"), "{why}");
        let broken = json!({"valid": false, "parsed": null, "configRevisionHash": null,
            "issues": [{"path": "", "message": "Unrecognized key: \"nonsense\""}]});
        assert!(not(&broken, true).contains("nonsense"));
        for unknown in [json!({"valid": true}), json!({"valid": true, "parsed": rendered()})] {
            assert_eq!(judge(&unknown, &rendered(), true), InForce::Unknown);
        }
    }

    #[test]
    fn fuzz_answers_about_the_configuration() {
        let seed = answer().to_string();
        clawfarm_fuzz::fuzz_text(&[&seed], |text| {
            let Ok(payload) = serde_json::from_str::<Value>(text) else { return };
            if let InForce::Not(why) = judge(&payload, &rendered(), true) {
                assert!((1..=MOST).contains(&why.len()) && why.iter().all(|it| it.len() < 4_000));
            }
        });
    }
}
