//! Asking a running OpenClaw what it thinks of a configuration before it is given it.

use std::collections::BTreeMap;
use std::path::Path;

use clawfarm_model::{Error, InstanceSpec, Result};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{config, json as tree, launch};
use crate::{ConfigCheck, ConfigFault, Judgement, RenderInput};

/// What is run: Node's own, so that it is there wherever OpenClaw is.
const SCRIPT: &str = include_str!("check.js");
/// How long a judgement may take, in seconds: 2 to 5 on an idle machine.
const SECONDS: u64 = 50;
/// So many faults are told of.
const FAULTS: usize = 20;
/// Characters of what is told of one.
const REASON_MAX: usize = 300;

/// The question whether it would start with what is rendered of `input`.
pub(super) fn ask(input: &RenderInput<'_>) -> Result<ConfigCheck> {
    let rendered = launch::render(input)?.launch;
    let document = rendered.files.iter().find(|it| it.path == Path::new(config::FILE));
    let document =
        document.ok_or_else(|| Error::internal("a launch has its configuration in it", input.id.as_str()))?;
    let (open, secret) = launch::variables(input)?;
    // What a claw says of a value is told to people: it is asked with others, no two the same,
    // because OpenClaw refuses one token for two things.
    let stand_in = |name: &String| Value::from(format!("clawfarm-stand-in-for-{name}"));
    let env: BTreeMap<String, Value> = open
        .iter()
        .map(|(name, value)| (name.clone(), Value::from(value.expose_secret())))
        .chain(secret.iter().map(|(name, _)| (name.clone(), stand_in(name))))
        .collect();
    let asked = json!({
        "program": launch::program(input.place),
        "folder": input.place.state_dir,
        "document": document.contents.expose_secret(),
        "env": env,
        "seconds": SECONDS,
    });
    let argv = vec![launch::node_program(input.place), "-e".to_owned(), SCRIPT.to_owned()];
    Ok(ConfigCheck { argv, input: format!("{asked}\n") })
}

/// What it prints.
#[derive(Deserialize)]
struct Verdict {
    valid: bool,
    #[serde(default)]
    issues: Vec<Issue>,
}

#[derive(Deserialize)]
struct Issue {
    #[serde(default)]
    path: String,
    message: String,
}

/// Reads what it answered. Without a fault that is named nothing is refused: it may not have come
/// to read its file.
pub(super) fn judged(spec: &InstanceSpec, output: &[u8]) -> Judgement {
    let Ok(verdict) = serde_json::from_slice::<Verdict>(output) else { return Judgement::Unclear };
    if verdict.valid {
        return Judgement::Takes;
    }
    let faults: Vec<_> =
        verdict.issues.iter().take(FAULTS).map(|it| fault(&spec.config.native, it)).collect();
    if faults.is_empty() { Judgement::Unclear } else { Judgement::Refuses(faults) }
}

fn fault(native: &Map<String, Value>, issue: &Issue) -> ConfigFault {
    let message: String = issue.message.chars().filter(|c| !c.is_control()).take(REASON_MAX).collect();
    let path: String = issue.path.chars().filter(|c| !c.is_control()).take(REASON_MAX).collect();
    let keys: Vec<&str> = path.split('.').filter(|key| !key.is_empty()).collect();
    // What `native` says is laid over all that is generated, so what is wrong there is its.
    let own = !keys.is_empty() && tree::get(native, &keys).is_some();
    let field = match own {
        true => format!("config.native.{path}"),
        false if path.is_empty() => config::FILE.to_owned(),
        false => format!("{}: {path}", config::FILE),
    };
    ConfigFault { field, place: path, reason: format!("OpenClaw refuses it: {message}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged_with(native: &Value, output: &str) -> Judgement {
        let mut spec: InstanceSpec = serde_json::from_value(json!({
            "claw_type": "openclaw", "version": "2026.9.6", "runtime": "process", "target": "local",
        }))
        .unwrap();
        spec.config.native = native.as_object().unwrap().clone();
        judged(&spec, output.as_bytes())
    }

    #[test]
    fn a_refusal_names_who_said_it() {
        let said = r#"{"ok": false, "error": {"message": "OpenClaw config is invalid"}, "valid": false,
            "issues": [{"path": "logging", "message": "Unrecognized key: \"colour\""},
                       {"path": "gateway", "message": "wrong\u001b[2J"}, {"path": "", "message": "no object"}]}"#;
        let Judgement::Refuses(faults) = judged_with(&json!({"logging": {"colour": 1}}), said) else {
            panic!("it is refused");
        };
        let fields: Vec<_> = faults.iter().map(|it| it.field.as_str()).collect();
        assert_eq!(fields, ["config.native.logging", "openclaw.json: gateway", "openclaw.json"]);
        assert_eq!(faults[0].reason, "OpenClaw refuses it: Unrecognized key: \"colour\"");
        assert!(!faults[1].reason.contains('\u{1b}'), "{faults:?}");
    }

    #[test]
    fn only_an_answer_is_one() {
        let nothing = json!({});
        assert_eq!(judged_with(&nothing, r#"{"valid":true,"warnings":[]}"#), Judgement::Takes);
        for garbage in
            ["", "{", "Killed", "[]", r#"{"valid":"no"}"#, r#"{"valid":false}"#, r#"{"issues":[]}"#]
        {
            assert_eq!(judged_with(&nothing, garbage), Judgement::Unclear, "{garbage}");
        }
    }
}
