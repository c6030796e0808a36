//! Unified config to nanobot's `config.json`.

use std::net::Ipv4Addr;

use clawfarm_model::Result;
use clawfarm_model::config::{ClawConfig, ExecMode, Model, Provider, ProviderConfig, Thinking};
use clawfarm_model::launch::Place;
use serde_json::{Map, Value, json};

use crate::RenderInput;
use crate::shared::document::{Document, Format};
use crate::shared::environment::{GATEWAY_TOKEN, MODEL_KEY};
use crate::shared::{merge, model, secrets};

/// nanobot's configuration, in the state folder.
pub(super) const FILE: &str = "config.json";
/// The `WebSocket`'s path; everything else is its page's.
pub(super) const WS_PATH: &str = "/ws";
/// What nanobot calls clawfarm's demo model's provider: a name that it has not itself.
const DEMO: &str = "clawfarm";

/// What nanobot calls the provider of the main model.
pub(super) const fn provider(provider: Provider) -> &'static str {
    match provider {
        Provider::Demo => DEMO,
        Provider::Anthropic => "anthropic",
        Provider::Openai => "openai",
        Provider::Gemini => "gemini",
        Provider::Openrouter => "openrouter",
        Provider::OpenaiCompatible => "custom",
    }
}

/// A provider of the list, by the name that nanobot has for it.
pub(super) fn listed(name: &str) -> &str {
    match name {
        "demo" => DEMO,
        "openai-compatible" => "custom",
        name => name,
    }
}

/// A variable's value, as nanobot puts it in when it reads its configuration.
fn variable(name: &str) -> String {
    format!("${{{name}}}")
}

/// Where its health endpoint is, which nobody asks: an address of the loopback device that is this
/// claw's alone as long as the port is, so that it needs no port of its own. Those of OpenClaw's
/// channels are 127.64 and 127.65.
fn health_host(port: u16) -> String {
    let [high, low] = port.to_be_bytes();
    Ipv4Addr::new(127, 66, high, low).to_string()
}

/// The file.
pub(super) fn document(input: &RenderInput<'_>) -> Result<Document> {
    let config = &input.spec.config;
    let mut file = Document::new(FILE, Format::Json);
    // What nobody asked for: a turn every half hour and one every two hours, for which the claw
    // would never be idle, and which cost tokens.
    file.seed(&["gateway", "heartbeat", "enabled"], false);
    file.seed(&["agents", "defaults", "dream", "enabled"], config.memory.enabled == Some(true));
    tools(&mut file, config);
    models(&mut file, config, input);
    agents(&mut file, config);
    channels(&mut file, config);
    merge::overlay(&mut file.contents, &config.native);
    own(&mut file, input.place);
    Ok(file)
}

fn tools(file: &mut Document, config: &ClawConfig) {
    let exec = config.tools.exec.clone().unwrap_or_default();
    // nanobot can ask nobody whether a command may be run: without a word about it none may.
    let on = matches!(exec.mode, Some(ExecMode::Full | ExecMode::Allowlist));
    file.seed(&["tools", "exec", "enable"], on);
    if exec.mode == Some(ExecMode::Allowlist) {
        let patterns: Vec<Value> = exec.safe_programs.iter().map(|program| pattern(program).into()).collect();
        file.seed(&["tools", "exec", "allowPatterns"], patterns);
    }
    if let Some(secs) = exec.timeout_secs {
        file.seed(&["tools", "exec", "timeout"], secs);
    }
    // Unsaid its file tools are kept to its workspace: clawfarm's own confinement is around them.
    file.seed(&["tools", "restrictToWorkspace"], config.tools.workspace_only.unwrap_or(true));
    if let Some(on) = config.tools.web_fetch.or(config.tools.web_search) {
        file.seed(&["tools", "web", "enable"], on);
    }
}

/// What a whole command must look like that runs a program, and no other by way of it.
fn pattern(program: &str) -> String {
    let name: String = program.to_lowercase().chars().flat_map(escaped).collect();
    format!("{name}(\\s[^`$()<>|;&\\n]*)?")
}

fn escaped(c: char) -> Vec<char> {
    if c.is_ascii_alphanumeric() || c == '_' { vec![c] } else { vec!['\\', c] }
}

fn models(file: &mut Document, config: &ClawConfig, input: &RenderInput<'_>) {
    for (name, provider) in &config.providers {
        entry(file, listed(name), provider);
    }
    let chosen = config.model.clone().unwrap_or(Model {
        provider: Provider::Demo,
        name: None,
        api_key: None,
        base_url: None,
        fallbacks: Vec::new(),
    });
    let id = provider(chosen.provider);
    file.seed(&["agents", "defaults", "model"], model::name(&chosen));
    file.seed(&["agents", "defaults", "provider"], id);
    if chosen.provider == Provider::Demo {
        let url = format!("{}/demo/v1", input.place.host_url.trim_end_matches('/'));
        file.own(&["providers", DEMO, "apiBase"], url);
        file.own(&["providers", DEMO, "apiKey"], variable(MODEL_KEY));
    }
    if let Some(key) = &chosen.api_key {
        file.seed(&["providers", id, "apiKey"], variable(&secrets::variable(&key.secret)));
    }
    if let Some(url) = &chosen.base_url {
        file.seed(&["providers", id, "apiBase"], url.as_str());
    }
    if chosen.provider == Provider::OpenaiCompatible && chosen.api_key.is_none() {
        // One that asks for no key ignores what it is sent.
        file.seed(&["providers", id, "apiKey"], "none");
    }
    if !chosen.fallbacks.is_empty() {
        let fallbacks: Vec<Value> = chosen
            .fallbacks
            .iter()
            .filter_map(|reference| reference.split_once('/'))
            .map(|(name, model)| json!({ "provider": listed(name), "model": model }))
            .collect();
        file.seed(&["agents", "defaults", "fallbackModels"], fallbacks);
    }
}

fn entry(file: &mut Document, name: &str, config: &ProviderConfig) {
    if let Some(key) = &config.api_key {
        file.seed(&["providers", name, "apiKey"], variable(&secrets::variable(&key.secret)));
    }
    if let Some(url) = &config.base_url {
        file.seed(&["providers", name, "apiBase"], url.as_str());
    }
}

fn agents(file: &mut Document, config: &ClawConfig) {
    let mut put = |key: &str, value: Value| file.seed(&["agents", "defaults", key], value);
    if let Some(zone) = &config.agents.timezone {
        put("timezone", zone.as_str().into());
    }
    if let Some(thinking) = config.agents.thinking {
        let effort = match thinking {
            Thinking::Off => "none",
            Thinking::Low => "low",
            Thinking::Medium => "medium",
            Thinking::High => "high",
        };
        put("reasoningEffort", effort.into());
    }
    if let Some(limit) = config.memory.limit {
        put("contextWindowTokens", limit.into());
    }
    if let Some(apart) = config.conversations.per_person {
        put("unifiedSession", (!apart).into());
    }
    let off: Vec<Value> = config
        .skills
        .iter()
        .filter(|(_, skill)| skill.enabled == Some(false))
        .map(|(name, _)| name.as_str().into())
        .collect();
    if !off.is_empty() {
        put("disabledSkills", off.into());
    }
    if let Some(heartbeat) = &config.agents.heartbeat {
        let every = u64::from(heartbeat.every_mins) * 60;
        file.seed(&["gateway", "heartbeat", "enabled"], every > 0);
        if every > 0 {
            file.seed(&["gateway", "heartbeat", "intervalS"], every);
        }
    }
}

fn channels(file: &mut Document, config: &ClawConfig) {
    let mut put = |name: &str, token: &clawfarm_model::secret::SecretRef, allow_from: &[String]| {
        let mut entry = Map::new();
        entry.insert("enabled".into(), true.into());
        entry.insert("token".into(), variable(&secrets::variable(&token.secret)).into());
        // Without a list each new person is given a code that the owner approves.
        entry.insert("allowFrom".into(), allow_from.to_vec().into());
        file.seed(&["channels", name], Value::Object(entry));
    };
    if let Some(telegram) = &config.channels.telegram {
        put("telegram", &telegram.bot_token, &telegram.allow_from);
    }
    if let Some(discord) = &config.channels.discord {
        put("discord", &discord.bot_token, &discord.allow_from);
    }
}

/// Places that must be empty: they would put something in the way of the server.
const EMPTY: [&str; 6] =
    ["unixSocketPath", "sslCertfile", "sslKeyfile", "tokenIssueSecret", "tokenIssuePath", "trustedProxyAuth"];

fn own(file: &mut Document, place: &Place) {
    let host = if place.listen_on_all { "0.0.0.0" } else { "127.0.0.1" };
    file.own(&["agents", "defaults", "workspace"], place.workspace_dir.to_string_lossy());
    file.own(&["gateway", "host"], health_host(place.port));
    file.own(&["gateway", "port"], place.port);
    // A restart of its own making stays in the process that is watched.
    file.own(&["gateway", "restartMode"], "exec");
    for (key, value) in [
        ("enabled", json!(true)),
        ("host", json!(host)),
        ("port", json!(place.port)),
        ("path", json!(WS_PATH)),
        ("token", json!(variable(GATEWAY_TOKEN))),
        ("websocketRequiresToken", json!(true)),
        ("allowFrom", json!(["*"])),
        ("streaming", json!(true)),
    ] {
        file.own(&["channels", "websocket", key], value);
    }
    for key in EMPTY {
        file.owned.insert(["channels", "websocket", key].map(str::to_owned).to_vec());
    }
}

/// The places of `config.json` that `native` may not touch, as nanobot compares names: without
/// underscores and in lower case.
pub(super) const OWNED: [&[&str]; 6] = [
    &["agents", "defaults", "workspace"],
    &["gateway", "host"],
    &["gateway", "port"],
    &["gateway", "restartmode"],
    &["channels", "websocket"],
    &["providers", "clawfarm"],
];
