//! NanoClaw's file, word for word, and what it has no words for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clawfarm_adapters::nanoclaw::NanoClaw;
use clawfarm_adapters::{ClawAdapter as _, RenderInput, Rendered, Warning};
use clawfarm_model::config::{ClawConfig, ConfigMode};
use clawfarm_model::{ClawId, InstanceSpec, Result};
use proptest::prelude::*;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use crate::cases::{MODEL_KEY, SECRETS, TOKEN, place};

fn spec(config: Value, mode: ConfigMode) -> InstanceSpec {
    let mut spec: InstanceSpec = serde_json::from_value(json!({
        "claw_type": "nanoclaw", "version": "installed", "runtime": "process", "target": "local",
    }))
    .unwrap();
    spec.config = serde_json::from_value::<Box<ClawConfig>>(config).unwrap();
    spec.config_mode = mode;
    spec
}

fn render(spec: &InstanceSpec, existing: &BTreeMap<PathBuf, Vec<u8>>) -> Result<Rendered> {
    let secrets =
        SECRETS.iter().map(|(name, value)| (name.parse().unwrap(), SecretString::from(*value))).collect();
    NanoClaw.render(&RenderInput {
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

fn file(rendered: &Rendered) -> String {
    let file = rendered.launch.files.iter().find(|f| f.path == Path::new(".env")).unwrap();
    file.contents.expose_secret().to_owned()
}

fn full() -> Value {
    json!({
        "model": {"provider": "anthropic", "api_key": {"secret": "model-key"}},
        "agents": {"timezone": "Europe/Berlin", "max_concurrent": 2, "timeout_secs": 900},
        "channels": {
            "telegram": {"bot_token": {"secret": "tg"}},
            "discord": {"bot_token": {"secret": "Dis_cord"}},
        },
        "logging": {"level": "debug"},
        "native": {"ASSISTANT_NAME": "Andy's twin", "ASSISTANT_HAS_OWN_NUMBER": true},
    })
}

fn check(config: Value) -> Result<Vec<Warning>> {
    NanoClaw.validate(&spec(config, ConfigMode::Seeded))
}

/// As NanoClaw's own reader takes a line.
fn read(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| {
            let value = value.trim();
            let quoted = |quote| value.len() > 1 && value.starts_with(quote) && value.ends_with(quote);
            let inner = if quoted('"') || quoted('\'') { &value[1..value.len() - 1] } else { value };
            (name.trim().to_owned(), inner.to_owned())
        })
        .collect()
}

#[test]
fn dot_env_of_every_area() {
    assert_eq!(check(full()).unwrap(), []);
    let rendered = render(&spec(full(), ConfigMode::Managed), &BTreeMap::new()).unwrap();
    let own = ["MAX_CONCURRENT_CONTAINERS", "CONTAINER_TIMEOUT", "TZ", "LOG_LEVEL"];
    let env: Vec<String> = rendered
        .launch
        .env
        .iter()
        .filter(|(name, _)| own.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}={}", value.expose_secret()))
        .collect();
    insta::assert_snapshot!(
        "nanoclaw-full",
        format!("{}\n\n{}\n\n{}", rendered.launch.argv.join(" "), env.join("\n"), file(&rendered))
    );
    let files: BTreeMap<PathBuf, Vec<u8>> = rendered
        .launch
        .files
        .iter()
        .map(|f| (f.path.clone(), f.contents.expose_secret().as_bytes().to_vec()))
        .collect();
    let archived = NanoClaw.archived(&files);
    let text = String::from_utf8(archived[0].1.clone()).unwrap();
    assert!(text.contains("ASSISTANT_NAME") && !text.contains("plain-"), "{text}");
}

#[test]
fn its_users_own_lines_stay() {
    let first = render(&spec(full(), ConfigMode::Seeded), &BTreeMap::new()).unwrap();
    let mut files: BTreeMap<PathBuf, Vec<u8>> = first
        .launch
        .files
        .iter()
        .map(|f| (f.path.clone(), f.contents.expose_secret().as_bytes().to_vec()))
        .collect();
    let theirs = format!(
        "# mine\nGMAIL_TOKEN=x\n{}",
        file(&first).replace("Andy's twin", "Bob").replace("plain-model-key", "old")
    );
    files.insert(".env".into(), theirs.into_bytes());
    let second = file(&render(&spec(full(), ConfigMode::Seeded), &files).unwrap());
    assert!(second.starts_with("# mine\nGMAIL_TOKEN=x\n"), "{second}");
    let second = read(&second);
    assert_eq!(
        (second["ASSISTANT_NAME"].as_str(), second["ANTHROPIC_API_KEY"].as_str()),
        ("Bob", "plain-model-key")
    );
}

#[test]
fn what_nanoclaw_has_no_words_for_is_told() {
    let with = |more: Value| {
        let mut config = json!({"model": {"provider": "anthropic", "api_key": {"secret": "model-key"}}});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    for (config, field) in [
        (json!({"model": {"provider": "demo"}}), "config.model.provider"),
        (json!({}), "config.model.provider"),
        (with(json!({"tools": {"exec": {"mode": "deny"}}})), "config.tools.exec.mode"),
        (with(json!({"native": {"TZ": "UTC"}})), "config.native.TZ"),
        (with(json!({"native": {"A B": "x"}})), "config.native.A B"),
        (with(json!({"native": {"A": "x\ny"}})), "config.native.A"),
        (with(json!({"native": {"A": {"b": 1}}})), "config.native.A"),
        (with(json!({"env": {"LOG_LEVEL": "x"}})), "config.env.LOG_LEVEL"),
        (
            with(json!({"channels": {"telegram": {"bot_token": {"secret": "tg"}, "allow_from": ["1"]}}})),
            "config.channels.telegram.allow_from",
        ),
    ] {
        let refused = check(config.clone()).expect_err(&config.to_string());
        assert_eq!(refused.field_name(), Some(field), "{config}: {refused}");
        assert!(refused.fix_text().is_some(), "{config}");
    }
    let warned = check(with(json!({"memory": {"limit": 5}}))).unwrap();
    assert_eq!(warned[0].field, "config.memory.limit");
}

proptest! {
    /// Whatever is said: each variable is a line that NanoClaw reads as it was meant, or it is refused.
    #[test]
    fn what_is_generated_is_an_env_file(value in "(\\PC|\n|\"|'|\\\\|\\$|#| ){0,12}") {
        let mut config = full();
        config["native"]["ASSISTANT_NAME"] = value.clone().into();
        let spec = spec(config, ConfigMode::Seeded);
        if NanoClaw.validate(&spec).is_ok() {
            let text = file(&render(&spec, &BTreeMap::new()).unwrap());
            prop_assert_eq!(text.lines().count(), 7);
            prop_assert_eq!(&read(&text)["ASSISTANT_NAME"], &value);
        }
    }
}
