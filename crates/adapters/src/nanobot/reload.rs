//! What a running nanobot takes up of its file, and whether it has.
//!
//! nanobot (0.3.5) watches `config.json`, and makes the client of its model anew before the next
//! turn when it has changed; everything else it reads at its start. Told to update its agent's
//! settings by nothing, it does so at once, and answers with what it has read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clawfarm_model::config::ClawConfig;
use clawfarm_model::{Code, InstanceSpec, Result};
use serde_json::{Map, Value};

use super::api::{self, Settings};
use super::{DEFAULT_VERSION, config, validate};
use crate::impact::{self, Asks};
use crate::shared::text::shown;
use crate::shared::{expressed, json};
use crate::{Access, Impact, InForce};

/// What it takes up while it runs, and tells of when it is asked. Its keys are taken up too, but
/// not told of, and a new one is a new variable, which only a start brings.
const HOT: [&str; 5] =
    ["model.provider", "model.name", "model.base_url", "providers.*.base_url", "agents.thinking"];
/// What is no word of its file, and an argument.
const ARGUMENT: &str = "logging.level";

/// What the change from one specification to another asks of a claw that is up.
pub(super) fn impact(before: &InstanceSpec, after: &InstanceSpec) -> Impact {
    // Of other versions it is not known.
    let hot = after.version == DEFAULT_VERSION && !draws(&before.config) && !draws(&after.config);
    impact::of_places(before, after, |place| {
        let holds = |word: &str| expressed::holds(word, place);
        match impact::everywhere(place) {
            Some(asks) => asks,
            None if hot && HOT.iter().any(|word| holds(word)) => Asks::Hot,
            None if place == ARGUMENT || validate::EXPRESSED.iter().any(|word| holds(word)) => Asks::Start,
            None => Asks::Nothing,
        }
    })
}

/// Whether it makes pictures: that tool keeps the addresses that it had at the start.
fn draws(config: &ClawConfig) -> bool {
    let tools = config.native.iter().find(|(key, _)| plain(key) == "tools");
    tools
        .and_then(|(_, tools)| tools.as_object())
        .is_some_and(|tools| named(tools, "imagegeneration").is_some())
}

/// Has it look at its file, and asks whether what it goes by then is what `files` say.
pub(super) async fn in_force(access: &Access<'_>, files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<InForce> {
    let rendered = files.get(Path::new(config::FILE)).and_then(|bytes| json::parse(bytes).ok());
    let Some(rendered) = rendered else { return Ok(InForce::Unknown) };
    Ok(match api::settings(access).await {
        Ok(Settings::Read(told)) => judge(&told, &rendered),
        Ok(Settings::Refused(why)) => InForce::Not(vec![format!("it can't take its file up: {why}")]),
        Ok(Settings::Unknown) => InForce::Unknown,
        Err(error) if error.code() == Code::Unsupported => InForce::Unknown,
        Err(error) => return Err(error),
    })
}

/// Compares what it has read with what was rendered, at the places that are read while it runs.
fn judge(told: &Value, rendered: &Map<String, Value>) -> InForce {
    let rows = |list: &str| told[list].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(read) = rows("model_presets").iter().find(|row| row["is_default"] == true) else {
        return InForce::Unknown;
    };
    let empty = Map::new();
    let below = |map: &Map<String, Value>, key: &str| {
        named(map, key).and_then(Value::as_object).cloned().unwrap_or_else(|| empty.clone())
    };
    let defaults = below(&below(rendered, "agents"), "defaults");
    let mut differ = Vec::new();
    for (name, key) in [("model", "model"), ("provider", "provider"), ("reasoning_effort", "reasoningeffort")]
    {
        // What a file does not say of the other two is the program's own.
        let wanted = named(&defaults, key).or((key == "reasoningeffort").then_some(&Value::Null));
        if wanted.is_some_and(|wanted| *wanted != read[name]) {
            differ.push(format!("agents.defaults.{name}"));
        }
    }
    for (name, provider) in &below(rendered, "providers") {
        let Some(provider) = provider.as_object() else { continue };
        let row = rows("providers")
            .iter()
            .find(|row| row["name"].as_str().is_some_and(|it| plain(it) == plain(name)));
        let wanted = named(provider, "apibase").unwrap_or(&Value::Null);
        if row.is_some_and(|row| row["api_base"] != *wanted) || row.is_none() && !wanted.is_null() {
            differ.push(format!("providers.{}.apiBase", shown(name)));
        }
    }
    if differ.is_empty() {
        return InForce::Yes;
    }
    // Enough to know where to look.
    differ.truncate(20);
    InForce::Not(differ.into_iter().map(|path| format!("{path}: the claw has read something else")).collect())
}

/// A name as nanobot compares it.
fn plain(name: &str) -> String {
    name.replace(['_', '-'], "").to_lowercase()
}

fn named<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.iter().find(|(name, _)| plain(name) == key).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(before: Value, after: Value) -> Impact {
        let spec = |config: Value| {
            let mut spec: InstanceSpec = serde_json::from_value(json!({
                "claw_type": "nanobot", "version": "0.3.5", "runtime": "process", "target": "local",
            }))
            .unwrap();
            spec.config = serde_json::from_value::<Box<ClawConfig>>(config).unwrap();
            spec
        };
        impact(&spec(before), &spec(after))
    }

    #[test]
    fn its_model_is_taken_up_and_nothing_else() {
        let at = |name: &str, more: Value| {
            let mut config =
                json!({"model": {"provider": "openai-compatible", "name": name, "base_url": "http://h/v1"}});
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            config
        };
        let start = |field: &str| Impact::Restart(vec![field.to_owned()]);
        assert_eq!(of(at("a", json!({})), at("a", json!({}))), Impact::None);
        assert_eq!(of(at("a", json!({})), at("b", json!({}))), Impact::Hot);
        assert_eq!(of(json!({}), at("a", json!({}))), Impact::Hot);
        for (more, wanted) in [
            (json!({"agents": {"thinking": "high"}}), Impact::Hot),
            (json!({"inbox": [{"path": "/x", "check": {"type": "open"}}]}), Impact::Hot),
            (json!({"agents": {"max_concurrent": 5}}), Impact::None),
            (json!({"agents": {"timezone": "UTC"}}), start("config.agents.timezone")),
            (json!({"memory": {"limit": 5}}), start("config.memory.limit")),
            (json!({"tools": {"exec": {"mode": "full"}}}), start("config.tools.exec.mode")),
            (json!({"logging": {"level": "debug"}}), start("config.logging.level")),
            (json!({"env": {"A": "b"}}), start("config.env.A")),
            (
                json!({"native": {"agents": {"defaults": {"temperature": 1}}}}),
                start("config.native.agents.defaults.temperature"),
            ),
            (
                json!({"channels": {"telegram": {"bot_token": {"secret": "tg"}}}}),
                start("config.channels.telegram.bot_token"),
            ),
        ] {
            assert_eq!(
                of(at("a", json!({})), at("b", more.clone())),
                if wanted == Impact::None { Impact::Hot } else { wanted },
                "{more}"
            );
        }
        let other = |name: &str| {
            let mut spec: InstanceSpec = serde_json::from_value(json!({
                "claw_type": "nanobot", "version": "0.3.4", "runtime": "process", "target": "local",
            }))
            .unwrap();
            spec.config = serde_json::from_value::<Box<ClawConfig>>(at(name, json!({}))).unwrap();
            spec
        };
        assert_eq!(impact(&other("a"), &other("b")), start("config.model.name"), "another version");
        let key = json!({"model": {"provider": "anthropic", "api_key": {"secret": "k"}}});
        assert_eq!(of(at("a", json!({})), key), start("config.model.api_key"));
        let draws = json!({"native": {"tools": {"image_generation": {"enabled": true}}}});
        assert_eq!(of(at("a", draws.clone()), at("b", draws)), start("config.model.name"));
    }

    fn rendered() -> Map<String, Value> {
        let document = json!({
            "agents": {"defaults": {"model": "large", "provider": "custom"}},
            "providers": {"custom": {"apiBase": "http://h/v1", "apiKey": "none"}, "clawfarm": {"api_base": "http://s"}},
        });
        document.as_object().unwrap().clone()
    }

    /// What 0.3.5 answers, without what is not looked at.
    fn answer() -> Value {
        json!({
            "model_presets": [
                {"name": "default", "is_default": true, "model": "large", "provider": "custom", "reasoning_effort": null},
                {"name": "mine", "is_default": false, "model": "x", "provider": "openai"},
            ],
            "providers": [
                {"name": "openai", "api_base": null},
                {"name": "custom", "api_base": "http://h/v1"},
                {"name": "clawfarm", "api_base": "http://s"},
            ],
        })
    }

    #[test]
    fn what_it_has_read_is_compared() {
        assert_eq!(judge(&answer(), &rendered()), InForce::Yes);
        for (path, value, says) in [
            ("/model_presets/0/model", json!("small"), "agents.defaults.model"),
            ("/model_presets/0/provider", json!("auto"), "agents.defaults.provider"),
            ("/model_presets/0/reasoning_effort", json!("high"), "agents.defaults.reasoning_effort"),
            ("/providers/1/api_base", json!(null), "providers.custom.apiBase"),
            ("/providers/1/name", json!("else"), "providers.custom.apiBase"),
        ] {
            let mut told = answer();
            *told.pointer_mut(path).unwrap() = value;
            let InForce::Not(why) = judge(&told, &rendered()) else { panic!("{path}") };
            assert!(why.len() == 1 && why[0].starts_with(says), "{why:?}");
        }
        assert_eq!(judge(&json!({}), &rendered()), InForce::Unknown);
    }

    #[test]
    fn fuzz_answers_about_settings() {
        clawfarm_fuzz::fuzz_text(&[&answer().to_string()], |text| {
            let Ok(told) = serde_json::from_str::<Value>(text) else { return };
            if let InForce::Not(why) = judge(&told, &rendered()) {
                assert!((1..=20).contains(&why.len()));
            }
        });
    }
}
