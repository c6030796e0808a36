//! nanobot's files, word for word, and what it has no words for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clawfarm_adapters::nanobot::Nanobot;
use clawfarm_adapters::{ClawAdapter as _, RenderInput, Rendered, Warning};
use clawfarm_model::config::{ClawConfig, ConfigMode};
use clawfarm_model::{ClawId, InstanceSpec, Result};
use proptest::prelude::*;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use crate::cases::{MODEL_KEY, SECRETS, TOKEN, place};

/// Every unified config that has a golden file, by its name.
pub(crate) fn configs() -> Vec<(&'static str, Value)> {
    let key = json!({"secret": "model-key"});
    vec![
        ("none", json!({})),
        ("anthropic", json!({"model": {"provider": "anthropic", "name": "claude-opus-5", "api_key": key}})),
        (
            "compatible",
            json!({"model": {"provider": "openai-compatible", "name": "org/model:7b", "base_url": "https://llm.example.com/v1"}}),
        ),
        (
            "full",
            json!({
                "model": {"provider": "openai", "name": "gpt-6-astra", "api_key": key,
                    "fallbacks": ["own-llm/big", "openrouter/auto"]},
                "providers": {
                    "own-llm": {"type": "openai-compatible", "base_url": "http://10.0.0.7:8000/v1", "api_key": key},
                    "openrouter": {"type": "openrouter", "api_key": {"secret": "search"}},
                },
                "agents": {"timezone": "Europe/Berlin", "thinking": "high", "heartbeat": {"every_mins": 30}},
                "memory": {"enabled": true, "limit": 64000},
                "conversations": {"per_person": false},
                "skills": {"weather": {"enabled": false}, "github": {"enabled": true}},
                "tools": {
                    "exec": {"mode": "allowlist", "safe_programs": ["git", "g++"], "timeout_secs": 20},
                    "web_search": false, "web_fetch": false, "workspace_only": true, "elevated": false,
                },
                "channels": {
                    "telegram": {"bot_token": {"secret": "tg"}, "allow_from": ["123456789"]},
                    "discord": {"bot_token": {"secret": "Dis_cord"}},
                },
                "logging": {"level": "debug"},
                "env": {"SEARCH_KEY": {"secret": "search"}},
                "proxy": {"url": "http://proxy.example.com:3128", "except": ["10.0.0.0/8"]},
                "native": {"agents": {"defaults": {"temperature": 0.5, "dream": null}}},
            }),
        ),
    ]
}

pub(crate) fn spec(config: Value, mode: ConfigMode) -> InstanceSpec {
    let mut spec: InstanceSpec = serde_json::from_value(json!({
        "claw_type": "nanobot", "version": "0.3.5", "runtime": "process", "target": "local",
    }))
    .unwrap();
    spec.config = serde_json::from_value::<Box<ClawConfig>>(config).unwrap();
    spec.config_mode = mode;
    spec
}

pub(crate) fn render(spec: &InstanceSpec, existing: &BTreeMap<PathBuf, Vec<u8>>) -> Result<Rendered> {
    let secrets =
        SECRETS.iter().map(|(name, value)| (name.parse().unwrap(), SecretString::from(*value))).collect();
    Nanobot.render(&RenderInput {
        id: &ClawId::new("alice-x7k2").unwrap(),
        run: 3,
        spec,
        place: &place(),
        secrets: &secrets,
        gateway_token: &SecretString::from(TOKEN),
        model_key: &SecretString::from(MODEL_KEY),
        public_url: None,
        existing,
    })
}

pub(crate) fn document(rendered: &Rendered) -> Value {
    let file = rendered.launch.files.iter().find(|f| f.path == Path::new("config.json")).unwrap();
    serde_json::from_str(file.contents.expose_secret()).unwrap()
}

fn check(config: Value) -> Result<Vec<Warning>> {
    Nanobot.validate(&spec(config, ConfigMode::Seeded))
}

#[test]
fn config_json_of_every_area() {
    for (name, config) in configs() {
        assert_eq!(check(config.clone()).unwrap(), [], "{name}");
        let rendered = render(&spec(config, ConfigMode::Managed), &BTreeMap::new()).unwrap();
        insta::assert_json_snapshot!(format!("nanobot-{name}"), document(&rendered));
    }
}

#[test]
fn arguments_and_environment_have_what_the_file_refers_to() {
    let full = configs().into_iter().find(|(name, _)| *name == "full").unwrap().1;
    let rendered = render(&spec(full, ConfigMode::Seeded), &BTreeMap::new()).unwrap();
    let env: BTreeMap<_, _> =
        rendered.launch.env.iter().map(|(n, v)| (n.clone(), v.expose_secret().to_owned())).collect();
    insta::assert_json_snapshot!("nanobot-launch", json!({"argv": rendered.launch.argv, "env": env}));
    let text = document(&rendered).to_string();
    for plain in SECRETS.map(|(_, value)| value).into_iter().chain([TOKEN, MODEL_KEY]) {
        assert!(!text.contains(plain) && !format!("{:?}", rendered.launch.argv).contains(plain), "{plain}");
    }
    for part in text.split("${").skip(1) {
        let (name, _) = part.split_once('}').unwrap();
        assert!(env.contains_key(name), "{name} is not in the environment");
    }
}

#[test]
fn a_second_start_keeps_what_its_page_changed() {
    let demo = spec(json!({"model": {"provider": "demo"}}), ConfigMode::Seeded);
    let first = render(&demo, &BTreeMap::new()).unwrap();
    let mut theirs = document(&first);
    theirs["agents"]["defaults"]["temperature"] = 0.9.into();
    theirs["channels"]["websocket"]["port"] = 1.into();
    theirs["channels"]["websocket"]["sslCertfile"] = "/x".into();
    let mut files: BTreeMap<PathBuf, Vec<u8>> = first
        .launch
        .files
        .iter()
        .map(|f| (f.path.clone(), f.contents.expose_secret().as_bytes().to_vec()))
        .collect();
    files.insert("config.json".into(), theirs.to_string().into_bytes());
    let second = document(&render(&demo, &files).unwrap());
    assert_eq!(second["agents"]["defaults"]["temperature"], 0.9);
    assert_eq!(second["channels"]["websocket"], document(&first)["channels"]["websocket"]);
}

#[test]
fn what_nanobot_has_no_words_for_is_told() {
    let key = json!({"secret": "model-key"});
    for (config, field) in [
        (json!({"tools": {"exec": {"mode": "ask"}}}), "config.tools.exec.mode"),
        (json!({"tools": {"exec": {"mode": "allowlist"}}}), "config.tools.exec.safe_programs"),
        (json!({"tools": {"exec": {"safe_programs": ["git"]}}}), "config.tools.exec.safe_programs"),
        (
            json!({"tools": {"exec": {"mode": "allowlist", "safe_programs": ["a b"]}}}),
            "config.tools.exec.safe_programs.0",
        ),
        (json!({"tools": {"deny": ["exec"]}}), "config.tools.deny"),
        (json!({"tools": {"elevated": true}}), "config.tools.elevated"),
        (json!({"tools": {"web_search": true, "web_fetch": false}}), "config.tools.web_search"),
        (json!({"channels": {"feishu": {"app_id": "cli_x", "app_secret": key}}}), "config.channels.feishu"),
        (
            json!({"channels": {"telegram": {"bot_token": key, "groups": {"-1": {"require_mention": true}}}}}),
            "config.channels.telegram.groups.-1.require_mention",
        ),
        (json!({"providers": {"mine": {"type": "anthropic", "api_key": key}}}), "config.providers.mine.type"),
        (
            json!({"providers": {"mine": {"type": "openai", "api_key": key}}}),
            "config.providers.mine.base_url",
        ),
        (json!({"model": {"provider": "demo", "fallbacks": ["nobody/x"]}}), "config.model.fallbacks.0"),
        (json!({"native": {"gateway": {"port": 1}}}), "config.native.gateway.port"),
        (json!({"native": {"channels": {"websocket": {"token": "x"}}}}), "config.native.channels.websocket"),
        (json!({"native": {"gateway": {"restart_mode": "spawn"}}}), "config.native.gateway.restart_mode"),
        (json!({"env": {"NANOBOT_API__PORT": "1"}}), "config.env.NANOBOT_API__PORT"),
        (json!({"skills": {"${HOME}": {"enabled": false}}}), "config.skills.${HOME}.enabled"),
        (json!({"agents": {"timezone": "no zone"}}), "config.agents.timezone"),
        (json!({"env": {"PYTHONPATH": "/x"}}), "config.env.PYTHONPATH"),
    ] {
        let refused = check(config.clone()).expect_err(&config.to_string());
        assert_eq!(refused.field_name(), Some(field), "{config}: {refused}");
        assert!(refused.fix_text().is_some(), "{config}");
    }
    let warned = check(json!({
        "agents": {"timeout_secs": 60, "heartbeat": {"every_mins": 5, "hours": {"from": "08:00", "to": "20:00"}}},
        "gateway": {"terminal": true}, "logging": {"level": "error"}, "plugins": {"x": {"enabled": true}},
    }))
    .unwrap();
    let fields: Vec<_> = warned.iter().map(|warning| warning.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "config.agents.heartbeat.hours.from",
            "config.agents.heartbeat.hours.to",
            "config.agents.timeout_secs",
            "config.gateway.terminal",
            "config.logging.level",
            "config.plugins.x.enabled",
        ]
    );
}

/// Texts of all kinds, in the places that take any.
fn config() -> impl Strategy<Value = Value> {
    let text = "(\\PC|\n|\"|\\\\|'|\\$\\{X\\}){0,12}";
    (text, text, text, any::<u32>()).prop_map(|(person, skill, native, limit)| {
        json!({
            "channels": {"telegram": {"bot_token": {"secret": "tg"}, "allow_from": [person]}},
            "skills": {skill: {"enabled": false}},
            "memory": {"limit": limit}, "native": {"tools": {"myOwn": native}},
        })
    })
}

proptest! {
    /// Whatever is said: the file is JSON with the values in their places, or it is refused.
    #[test]
    fn what_is_generated_is_json(config in config()) {
        let spec = spec(config.clone(), ConfigMode::Seeded);
        if Nanobot.validate(&spec).is_ok() {
            let document = document(&render(&spec, &BTreeMap::new()).unwrap());
            prop_assert_eq!(&document["channels"]["telegram"]["allowFrom"], &config["channels"]["telegram"]["allow_from"]);
            prop_assert_eq!(&document["tools"]["myOwn"], &config["native"]["tools"]["myOwn"]);
        }
    }
}
