//! ZeroClaw's files, word for word, and what it has no words for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clawfarm_adapters::zeroclaw::ZeroClaw;
use clawfarm_adapters::{ClawAdapter as _, RenderInput, Rendered, Warning};
use clawfarm_model::config::{ClawConfig, ConfigMode};
use clawfarm_model::{ClawId, InstanceSpec, Result};
use proptest::prelude::*;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use crate::cases::{MODEL_KEY, SECRETS, TOKEN, place};

fn configs() -> Vec<(&'static str, Value)> {
    let key = json!({"secret": "model-key"});
    vec![
        ("none", json!({})),
        ("anthropic", json!({"model": {"provider": "anthropic", "name": "claude-opus-5", "api_key": key}})),
        (
            "full",
            json!({
                "model": {"provider": "openai-compatible", "name": "org/model:7b", "api_key": key,
                    "base_url": "https://llm.example.com/v1", "fallbacks": ["open-router/auto", "openai-compatible/small"]},
                "providers": {"open-router": {"type": "openrouter", "api_key": {"secret": "search"}, "timeout_secs": 30}},
                "agents": {"heartbeat": {"every_mins": 30}},
                "memory": {"enabled": false, "limit": 64000},
                "tools": {
                    "deny": ["browser"], "exec": {"mode": "deny", "timeout_secs": 20},
                    "web_search": false, "web_fetch": true, "workspace_only": true, "elevated": false,
                },
                "channels": {
                    "telegram": {"bot_token": {"secret": "tg"}, "allow_from": ["123456789"], "api_root": "https://tg.example.com"},
                    "discord": {"bot_token": {"secret": "Dis_cord"}},
                },
                "logging": {"level": "warn"},
                "native": {"observability": {"backend": "prometheus"}, "heartbeat": {"enabled": null}},
            }),
        ),
        ("everything-allowed", json!({"tools": {"exec": {"mode": "full"}}})),
        ("asks", json!({"tools": {"exec": {"mode": "ask", "safe_programs": ["git"]}}})),
    ]
}

fn spec(config: Value, mode: ConfigMode) -> InstanceSpec {
    let mut spec: InstanceSpec = serde_json::from_value(json!({
        "claw_type": "zeroclaw", "version": "0.8.7", "runtime": "process", "target": "local",
    }))
    .unwrap();
    spec.config = serde_json::from_value::<Box<ClawConfig>>(config).unwrap();
    spec.config_mode = mode;
    spec
}

fn render(spec: &InstanceSpec) -> Rendered {
    let secrets =
        SECRETS.iter().map(|(name, value)| (name.parse().unwrap(), SecretString::from(*value))).collect();
    ZeroClaw
        .render(&RenderInput {
            id: &ClawId::new("alice-x7k2").unwrap(),
            run: 3,
            spec,
            place: &clawfarm_model::Place { install_dir: "/usr".into(), ..place() },
            secrets: &secrets,
            gateway_token: &SecretString::from(TOKEN),
            model_key: &SecretString::from(MODEL_KEY),
            public_url: None,
            existing: &BTreeMap::<PathBuf, Vec<u8>>::new(),
        })
        .unwrap()
}

fn file(rendered: &Rendered) -> String {
    let file = rendered.launch.files.iter().find(|f| f.path == Path::new("config.toml")).unwrap();
    file.contents.expose_secret().to_owned()
}

fn check(config: Value) -> Result<Vec<Warning>> {
    ZeroClaw.validate(&spec(config, ConfigMode::Seeded))
}

#[test]
fn config_toml_of_every_area() {
    for (name, config) in configs() {
        assert_eq!(check(config.clone()).unwrap(), [], "{name}");
        let rendered = render(&spec(config, ConfigMode::Managed));
        let text = file(&rendered);
        text.parse::<toml::Table>().expect("it is TOML");
        let set = |name: &str| !["PATH", "HOME", "TMPDIR", "TZ", "LANG", "DO_NOT_TRACK"].contains(&name);
        let env: Vec<String> = rendered
            .launch
            .env
            .iter()
            .filter(|(name, _)| set(name))
            .map(|(name, value)| format!("{name}={}", value.expose_secret()))
            .collect();
        insta::assert_snapshot!(
            format!("zeroclaw-{name}"),
            format!("{}\n\n{}\n\n{text}", rendered.launch.argv.join(" "), env.join("\n"))
        );
        for plain in SECRETS.map(|(_, value)| value).into_iter().chain([TOKEN, MODEL_KEY]) {
            assert!(
                !text.contains(plain) && !format!("{:?}", rendered.launch.argv).contains(plain),
                "{plain}"
            );
        }
    }
}

#[test]
fn what_zeroclaw_has_no_words_for_is_told() {
    let key = json!({"secret": "model-key"});
    for (config, field) in [
        (
            json!({"tools": {"exec": {"mode": "allowlist", "safe_programs": ["git"]}}}),
            "config.tools.exec.mode",
        ),
        (json!({"tools": {"allow": ["shell"]}}), "config.tools.allow"),
        (json!({"tools": {"profile": "minimal"}}), "config.tools.profile"),
        (json!({"providers": {"main": {"type": "openai", "api_key": key}}}), "config.providers.main"),
        (json!({"providers": {"x": {"type": "openai-compatible"}}}), "config.providers.x.base_url"),
        (json!({"model": {"provider": "demo", "fallbacks": ["nobody/x"]}}), "config.model.fallbacks.0"),
        (
            json!({"channels": {"telegram": {"bot_token": key, "groups": {"-1": {"allow_from": ["1"]}}}}}),
            "config.channels.telegram.groups.-1.allow_from",
        ),
        (json!({"native": {"gateway": {"port": 1}}}), "config.native.gateway.port"),
        (json!({"native": {"schema_version": 2}}), "config.native.schema_version"),
        (json!({"native": {"x": {"y": u64::MAX}}}), "config.native.x.y"),
        (json!({"env": {"ZEROCLAW_gateway__port": "1"}}), "config.env.ZEROCLAW_gateway__port"),
    ] {
        let refused = check(config.clone()).expect_err(&config.to_string());
        assert_eq!(refused.field_name(), Some(field), "{config}: {refused}");
        assert!(refused.fix_text().is_some(), "{config}");
    }
    let warned = check(
        json!({"agents": {"thinking": "high", "timezone": "UTC"}, "skills": {"a": {"enabled": false}}}),
    )
    .unwrap();
    let fields: Vec<_> = warned.iter().map(|warning| warning.field.as_str()).collect();
    assert_eq!(fields, ["config.agents.thinking", "config.agents.timezone", "config.skills.a.enabled"]);
}

proptest! {
    /// Whatever is said: the file is TOML with the values in their places.
    #[test]
    fn what_is_generated_is_toml(
        person in "(\\PC|\n|\"|'|\\\\|\\]|=|#){0,12}", native in "(\\PC|\n|\"|'|\\\\){0,12}", key in "(\\PC|\\.|\"|\n){1,6}"
    ) {
        let spec = spec(json!({
            "channels": {"telegram": {"bot_token": {"secret": "tg"}, "allow_from": [person]}},
            "native": {"mine": {key.clone(): native}},
        }), ConfigMode::Seeded);
        prop_assume!(ZeroClaw.validate(&spec).is_ok());
        let table: toml::Table = file(&render(&spec)).parse().unwrap();
        prop_assert_eq!(table["peer_groups"]["telegram"]["external_peers"][0].as_str(), Some(person.as_str()));
        prop_assert_eq!(table["mine"][key.as_str()].as_str(), Some(native.as_str()));
        prop_assert_eq!(table["gateway"]["port"].as_integer(), Some(18789));
    }
}
