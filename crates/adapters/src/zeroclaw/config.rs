//! Unified config to ZeroClaw's `config.toml`, in its third schema.

use std::collections::BTreeMap;

use clawfarm_model::Result;
use clawfarm_model::config::{ClawConfig, ExecMode, Model, Provider, ProviderConfig};
use clawfarm_model::secret::SecretRef;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::RenderInput;
use crate::shared::document::{Document, Format};
use crate::shared::{merge, model, secrets};

/// ZeroClaw's configuration, in the state folder.
pub(super) const FILE: &str = "config.toml";
/// What the one agent, and everything that is of it alone, is called.
pub(super) const MAIN: &str = "main";
/// The version of the schema that this is written for.
const SCHEMA: u32 = 3;
/// How long a request to its gateway may take, in seconds: a turn is one request.
const REQUEST_SECS: u32 = 660;

/// What is written, and the secrets that are handed over beside: ZeroClaw takes any of its
/// settings from a variable, too, and writes none of those into its file.
pub(super) struct Generated {
    pub(super) file: Document,
    pub(super) variables: BTreeMap<String, SecretString>,
}

/// What ZeroClaw calls a family of providers.
const fn family(provider: Provider) -> &'static str {
    match provider {
        Provider::Anthropic => "anthropic",
        Provider::Openai => "openai",
        Provider::Gemini => "gemini",
        Provider::Openrouter => "openrouter",
        Provider::Demo | Provider::OpenaiCompatible => "custom",
    }
}

/// A provider's name as ZeroClaw takes it: variables name it, too.
pub(super) fn alias(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' }).collect()
}

/// The file.
pub(super) fn generate(input: &RenderInput<'_>) -> Result<Generated> {
    let config = &input.spec.config;
    let mut file = Document::new(FILE, Format::Toml);
    let mut variables = Variables { input, all: BTreeMap::new() };
    models(&mut file, config, &mut variables)?;
    agent(&mut file, config);
    risk(&mut file, config);
    channels(&mut file, config, &mut variables)?;
    // What nobody asked for: a turn every half hour.
    file.seed(&["heartbeat", "enabled"], false);
    if let Some(beat) = config.agents.heartbeat.as_ref().filter(|beat| beat.every_mins > 0) {
        file.seed(&["heartbeat", "enabled"], true);
        file.seed(&["heartbeat", "agent"], MAIN);
        file.seed(&["heartbeat", "interval_minutes"], beat.every_mins);
    }
    for (place, on) in [("web_search", config.tools.web_search), ("web_fetch", config.tools.web_fetch)] {
        if let Some(on) = on {
            file.seed(&[place, "enabled"], on);
        }
    }
    merge::overlay(&mut file.contents, &config.native);
    own(&mut file, input);
    Ok(Generated { file, variables: variables.all })
}

/// Settings that are handed over in variables.
struct Variables<'a, 'b> {
    input: &'a RenderInput<'b>,
    all: BTreeMap<String, SecretString>,
}

impl Variables<'_, '_> {
    fn put(&mut self, place: &[&str], secret: &SecretRef, field: &str) -> Result<()> {
        let value = secrets::value(self.input.secrets, secret, field)?.clone();
        self.set(place, value);
        Ok(())
    }

    fn set(&mut self, place: &[&str], value: SecretString) {
        self.all.insert(format!("ZEROCLAW_{}", place.join("__")), value);
    }
}

fn models(file: &mut Document, config: &ClawConfig, variables: &mut Variables<'_, '_>) -> Result<()> {
    for (name, provider) in &config.providers {
        listed(file, name, &alias(name), provider, None, variables)?;
    }
    let chosen = config.model.clone().unwrap_or(Model {
        provider: Provider::Demo,
        name: None,
        api_key: None,
        base_url: None,
        fallbacks: Vec::new(),
    });
    let family = family(chosen.provider);
    let place = ["providers", "models", family, MAIN];
    let resolved = model::resolve(variables.input)?;
    let at = |key| [place.as_slice(), &[key]].concat();
    file.seed(&at("model"), resolved.name.as_str());
    if chosen.provider == Provider::Demo {
        file.own(&at("uri"), resolved.base_url);
    } else if let Some(url) = &chosen.base_url {
        file.seed(&at("uri"), url.as_str());
    } else if let Some(url) = config.providers.get(chosen.provider.as_str()).and_then(|p| p.base_url.as_ref())
    {
        file.seed(&at("uri"), url.as_str());
    }
    if let Some(key) = resolved.key {
        variables.set(&at("api_key"), key);
    }
    file.seed(&["agents", MAIN, "model_provider"], format!("{family}.{MAIN}"));
    let mut fallbacks: Vec<Value> = Vec::new();
    for (n, reference) in chosen.fallbacks.iter().enumerate() {
        let Some((name, model)) = reference.split_once('/') else { continue };
        let Some((kind, provider)) = known(config, &chosen, name) else { continue };
        let own = format!("fallback{n}");
        listed(file, name, &own, &provider, Some(model), variables)?;
        fallbacks.push(format!("{}.{own}", self::family(kind)).into());
    }
    if !fallbacks.is_empty() {
        file.seed(&at("fallback"), fallbacks);
    }
    Ok(())
}

/// The provider that a fallback names: one of the list, or the main model's own.
pub(super) fn known(config: &ClawConfig, chosen: &Model, name: &str) -> Option<(Provider, ProviderConfig)> {
    if let Some(provider) = config.providers.get(name) {
        return Some((provider.kind, provider.clone()));
    }
    (chosen.provider.as_str() == name).then(|| {
        let provider = ProviderConfig {
            kind: chosen.provider,
            api_key: chosen.api_key.clone(),
            base_url: chosen.base_url.clone(),
            models: Vec::new(),
            timeout_secs: None,
        };
        (chosen.provider, provider)
    })
}

/// A provider under a name of its own.
fn listed(
    file: &mut Document,
    name: &str,
    alias: &str,
    config: &ProviderConfig,
    model: Option<&str>,
    variables: &mut Variables<'_, '_>,
) -> Result<()> {
    let place = ["providers", "models", family(config.kind), alias];
    let at = |key| [place.as_slice(), &[key]].concat();
    // A table with nothing in it would not be written.
    file.seed(&at("model"), model.unwrap_or_default());
    if let Some(url) = &config.base_url {
        file.seed(&at("uri"), url.as_str());
    }
    if let Some(secs) = config.timeout_secs {
        file.seed(&at("timeout_secs"), secs);
    }
    if let Some(key) = &config.api_key {
        variables.put(&at("api_key"), key, &format!("config.providers.{name}.api_key"))?;
    }
    Ok(())
}

fn agent(file: &mut Document, config: &ClawConfig) {
    file.seed(&["agents", MAIN, "enabled"], true);
    file.seed(&["agents", MAIN, "risk_profile"], MAIN);
    file.seed(&["agents", MAIN, "runtime_profile"], MAIN);
    file.seed(&["runtime_profiles", MAIN, "agentic"], true);
    if let Some(limit) = config.memory.limit {
        file.seed(&["runtime_profiles", MAIN, "max_context_tokens"], limit);
    }
    if let Some(secs) = config.tools.exec.as_ref().and_then(|exec| exec.timeout_secs) {
        file.seed(&["runtime_profiles", MAIN, "shell_timeout_secs"], secs);
    }
    if let Some(on) = config.memory.enabled {
        file.seed(&["agents", MAIN, "memory", "backend"], if on { "sqlite" } else { "none" });
    }
}

/// What it may do. Unsaid a person is asked, as ZeroClaw itself has it.
fn risk(file: &mut Document, config: &ClawConfig) {
    let exec = config.tools.exec.clone().unwrap_or_default();
    let at = |key| ["risk_profiles", MAIN, key];
    let level = if exec.mode == Some(ExecMode::Full) { "full" } else { "supervised" };
    file.seed(&at("level"), level);
    file.seed(&at("workspace_only"), config.tools.workspace_only.unwrap_or(true));
    file.seed(&at("block_high_risk_commands"), exec.mode != Some(ExecMode::Full));
    match exec.mode {
        Some(ExecMode::Full) => file.seed(&at("allowed_commands"), vec!["*"]),
        _ => file.seed(&at("allowed_commands"), exec.safe_programs),
    }
    let shell = (exec.mode == Some(ExecMode::Deny)).then(|| "shell".to_owned());
    let excluded: Vec<String> = config.tools.deny.iter().cloned().chain(shell).collect();
    if !excluded.is_empty() {
        file.seed(&at("excluded_tools"), excluded);
    }
}

fn channels(file: &mut Document, config: &ClawConfig, variables: &mut Variables<'_, '_>) -> Result<()> {
    let mut on: Vec<Value> = Vec::new();
    if let Some(telegram) = &config.channels.telegram {
        let at = |key| ["channels", "telegram", MAIN, key];
        file.seed(&at("enabled"), true);
        if let Some(root) = &telegram.api_root {
            file.seed(&at("api_base_url"), root.as_str());
        }
        variables.put(&at("bot_token"), &telegram.bot_token, "config.channels.telegram.bot_token")?;
        people(file, "telegram", &telegram.allow_from);
        on.push(format!("telegram.{MAIN}").into());
    }
    if let Some(discord) = &config.channels.discord {
        let at = |key| ["channels", "discord", MAIN, key];
        file.seed(&at("enabled"), true);
        variables.put(&at("bot_token"), &discord.bot_token, "config.channels.discord.bot_token")?;
        people(file, "discord", &discord.allow_from);
        on.push(format!("discord.{MAIN}").into());
    }
    if !on.is_empty() {
        file.seed(&["agents", MAIN, "channels"], on);
    }
    Ok(())
}

/// The people of a channel that may talk to it.
fn people(file: &mut Document, channel: &str, allow_from: &[String]) {
    if allow_from.is_empty() {
        return;
    }
    let at = |key| ["peer_groups", channel, key];
    file.seed(&at("channel"), format!("{channel}.{MAIN}"));
    file.seed(&at("agents"), vec![MAIN]);
    file.seed(&at("external_peers"), allow_from.to_vec());
}

/// The places of the gateway that must be empty.
const EMPTY: [&str; 3] = ["path_prefix", "tls", "webhook_secret"];

fn own(file: &mut Document, input: &RenderInput<'_>) {
    let place = input.place;
    let host = if place.listen_on_all { "0.0.0.0" } else { "127.0.0.1" };
    file.own(&["schema_version"], SCHEMA);
    file.own(&["agents", MAIN, "workspace", "path"], place.workspace_dir.to_string_lossy());
    let digest = Sha256::digest(input.gateway_token.expose_secret().as_bytes());
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    for (key, value) in [
        ("host", Value::from(host)),
        ("port", place.port.into()),
        ("allow_public_bind", place.listen_on_all.into()),
        ("require_pairing", true.into()),
        // Tokens are kept as hashes there; ours is the only one.
        ("paired_tokens", vec![hash].into()),
        ("request_timeout_secs", REQUEST_SECS.into()),
        ("check_updates", false.into()),
        ("allow_self_upgrade", false.into()),
    ] {
        file.own(&["gateway", key], value);
    }
    for key in EMPTY {
        file.owned.insert(["gateway", key].map(str::to_owned).to_vec());
    }
}

/// The places of `config.toml` that `native` may not touch.
pub(super) const OWNED: [&[&str]; 12] = [
    &["schema_version"],
    &["agents", MAIN, "workspace", "path"],
    &["gateway", "host"],
    &["gateway", "port"],
    &["gateway", "allow_public_bind"],
    &["gateway", "require_pairing"],
    &["gateway", "paired_tokens"],
    &["gateway", "request_timeout_secs"],
    &["gateway", "check_updates"],
    &["gateway", "allow_self_upgrade"],
    &["gateway", "path_prefix"],
    &["gateway", "tls"],
];
