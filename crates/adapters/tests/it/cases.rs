//! Specs that exercise every provider, channel and mode, and what renders them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clawfarm_adapters::openclaw::OpenClaw;
use clawfarm_adapters::{ClawAdapter as _, RenderInput, Rendered};
use clawfarm_model::config::{ClawConfig, ConfigMode};
use clawfarm_model::{ClawId, InstanceSpec, Place};
use secrecy::SecretString;
use serde_json::{Value, json};

/// Every unified config that has a golden file, by its name.
pub(crate) fn configs() -> Vec<(&'static str, Value)> {
    let key = json!({"secret": "model-key"});
    vec![
        ("none", json!({})),
        ("demo", json!({"model": {"provider": "demo"}})),
        ("anthropic", json!({"model": {"provider": "anthropic", "api_key": key}})),
        ("openai", json!({"model": {"provider": "openai", "name": "gpt-5.6-sol", "api_key": key}})),
        ("gemini", json!({"model": {"provider": "gemini", "api_key": key}})),
        (
            "openrouter",
            json!({"model": {"provider": "openrouter", "name": "meta-llama/llama-4", "api_key": key}}),
        ),
        (
            "compatible",
            json!({"model": {"provider": "openai-compatible", "name": "org/model:7b", "api_key": key,
                "base_url": "https://llm.example.com/v1"}}),
        ),
        (
            "compatible-without-key",
            json!({"model": {"provider": "openai-compatible", "name": "m", "base_url": "http://10.0.0.7:8000/v1"}}),
        ),
        (
            "everything",
            json!({
                "model": {"provider": "anthropic", "name": "claude-sonnet-5", "api_key": key},
                "channels": {
                    "telegram": {"bot_token": {"secret": "tg"}, "api_root": "http://127.0.0.1:8081", "allow_from": ["123456789"]},
                    "discord": {"bot_token": {"secret": "Dis_cord"}},
                },
                "env": {"SEARCH_KEY": {"secret": "search"}, "TZ": "Europe/Berlin"},
                "native": {"agents": {"defaults": {"timeoutSeconds": 60, "heartbeat": null}}, "logging": {"level": "debug"}},
            }),
        ),
        (
            "telegram-pairing",
            json!({"model": {"provider": "demo"}, "channels": {"telegram": {"bot_token": {"secret": "tg"}}}}),
        ),
        (
            "providers",
            json!({
                "model": {"provider": "anthropic", "fallbacks": ["gemini/gemini-3.1-pro-preview", "mine/m", "demo/demo"]},
                "providers": {
                    "anthropic": {"type": "anthropic", "api_key": key, "timeout_secs": 60},
                    "gemini": {"type": "gemini", "api_key": key},
                    "mine": {"type": "openai-compatible", "base_url": "http://10.0.0.7:8000/v1", "models": [{"name": "m"}]},
                    "second": {"type": "anthropic", "api_key": key, "models": [{"name": "claude-sonnet-5"}]},
                    "demo": {"type": "demo"},
                },
            }),
        ),
        ("full", serde_json::from_str(include_str!("../fixtures/unified-full.json")).expect("it is JSON")),
    ]
}

/// A spec with this config.
pub(crate) fn spec(config: Value, mode: ConfigMode) -> InstanceSpec {
    let mut spec: InstanceSpec = serde_json::from_value(json!({
        "claw_type": "openclaw", "version": "2026.9.6", "runtime": "process", "target": "local",
    }))
    .expect("a spec");
    *spec.config = serde_json::from_value::<ClawConfig>(config).expect("a config");
    spec.config_mode = mode;
    spec
}

/// A place that is the same on every machine.
pub(crate) fn place() -> Place {
    Place {
        install_dir: "/farm/software/openclaw".into(),
        layout: clawfarm_model::launch::Layout::Npm,
        state_dir: "/farm/claws/alice-x7k2p/state".into(),
        workspace_dir: "/farm/claws/alice-x7k2p/workspace".into(),
        log_dir: "/farm/claws/alice-x7k2p/logs".into(),
        tmp_dir: "/farm/claws/alice-x7k2p/tmp".into(),
        port: 18789,
        listen_on_all: false,
        server_addresses: clawfarm_model::Place::loopback(),
        host_url: "http://127.0.0.1:7180".into(),
        memory_enforced: true,
    }
}

/// The values of the secrets that the configs refer to; each is easy to find in a file.
pub(crate) const SECRETS: [(&str, &str); 11] = [
    ("model-key", "plain-model-key"),
    ("tg", "plain-telegram-token"),
    ("Dis_cord", "plain-discord-token"),
    ("search", "plain-search-key"),
    ("anthropic", "plain-anthropic-key"),
    ("openai", "plain-openai-key"),
    ("gemini", "plain-gemini-key"),
    ("openrouter", "plain-openrouter-key"),
    ("feishu", "plain-feishu-secret"),
    ("skill", "plain-skill-key"),
    ("hooks", "plain-hooks-token-0123456789abcdef"),
];
/// The gateway's token.
pub(crate) const TOKEN: &str = "plain-gateway-token";
/// The key for the demo model.
pub(crate) const MODEL_KEY: &str = "plain-demo-key";

/// Renders a spec.
pub(crate) fn render(spec: &InstanceSpec, place: &Place, existing: &BTreeMap<PathBuf, Vec<u8>>) -> Rendered {
    OpenClaw.validate(spec).expect("the spec is valid");
    with_input(spec, place, existing, |input| OpenClaw.render(input).expect("it renders"))
}

/// What is made of a spec, with the secrets above.
pub(crate) fn with_input<T>(
    spec: &InstanceSpec,
    place: &Place,
    existing: &BTreeMap<PathBuf, Vec<u8>>,
    make: impl FnOnce(&RenderInput<'_>) -> T,
) -> T {
    let secrets = SECRETS
        .map(|(name, value)| (name.parse().expect("a secret's name"), SecretString::from(value)))
        .into();
    make(&RenderInput {
        id: &ClawId::new("alice-x7k2p").expect("an id"),
        run: 7,
        spec,
        place,
        secrets: &secrets,
        gateway_token: &SecretString::from(TOKEN),
        model_key: &SecretString::from(MODEL_KEY),
        public_url: None,
        existing,
    })
}
