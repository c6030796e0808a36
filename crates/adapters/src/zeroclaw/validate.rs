//! What can be said about a spec of ZeroClaw before anything runs.

use clawfarm_model::config::{ClawConfig, ExecMode, Provider};
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{Error, InstanceSpec, Result};
use serde_json::{Map, Value, json};

use super::{DEFAULT_VERSION, config};
use crate::Warning;
use crate::shared::text::shown;
use crate::shared::{environment, expressed, inbox, place};

/// What of a unified config has a word of ZeroClaw's.
pub(super) const EXPRESSED: [&str; 22] = [
    "model",
    "providers.*.type",
    "providers.*.api_key",
    "providers.*.base_url",
    "providers.*.timeout_secs",
    "agents.heartbeat.every_mins",
    "memory.enabled",
    "memory.limit",
    "tools.deny",
    "tools.exec.mode",
    "tools.exec.safe_programs",
    "tools.exec.timeout_secs",
    "tools.web_search",
    "tools.web_fetch",
    "tools.workspace_only",
    "channels.telegram.bot_token",
    "channels.telegram.api_root",
    "channels.telegram.allow_from",
    "channels.discord.bot_token",
    "channels.discord.allow_from",
    "logging.level",
    "native",
];

/// Checks a spec.
pub(super) fn spec(spec: &InstanceSpec) -> Result<Vec<Warning>> {
    super::software(&spec.version)?;
    place::only_processes(spec, "ZeroClaw", &[RuntimeKind::Process, RuntimeKind::Sim])?;
    let config = &spec.config;
    let mut warnings = Vec::new();
    if spec.version != DEFAULT_VERSION {
        warnings.push(Warning {
            field: "version".to_owned(),
            message: format!("its configuration is written as {DEFAULT_VERSION} reads it"),
        });
    }
    crate::openclaw::validate::main_model(config)?;
    providers(config)?;
    exec(config)?;
    environment::check(spec, |name| name.starts_with("ZEROCLAW_") || name == "RUST_LOG")?;
    inbox::check(spec)?;
    native(&config.native)?;
    let expressed = EXPRESSED.map(str::to_owned);
    // There is nothing that a person could have it do beyond its tools.
    let does = |at: &str, value: &Value| at == "tools.elevated" && *value == json!(false);
    warnings.extend(expressed::check(config, "ZeroClaw", &expressed, does)?);
    Ok(warnings)
}

fn providers(config: &ClawConfig) -> Result<()> {
    let mut seen = Vec::new();
    for (name, provider) in &config.providers {
        let field = format!("config.providers.{}", shown(name));
        let alias = config::alias(name);
        let taken = alias == config::MAIN || alias.starts_with("fallback") || seen.contains(&alias);
        if taken || alias.is_empty() || alias.len() > 60 || alias.starts_with('_') {
            return Err(Error::invalid(
                field,
                format!("ZeroClaw can't have a provider of this name ('{alias}')"),
            )
            .fix("use other lower-case letters, digits and '-', but not 'main' or 'fallback'"));
        }
        seen.push(alias);
        if provider.kind == Provider::Demo {
            return Err(Error::invalid(format!("{field}.type"), "the demo model is a main model only")
                .fix("remove it"));
        }
        match &provider.base_url {
            Some(url) => crate::openclaw::validate::url(&format!("{field}.base_url"), url)?,
            None if provider.kind == Provider::OpenaiCompatible => {
                return Err(Error::invalid(
                    format!("{field}.base_url"),
                    "is missing: nobody knows where it is",
                )
                .fix("give its address, such as https://llm.example.com/v1"));
            }
            None => {}
        }
    }
    let Some(chosen) = &config.model else { return Ok(()) };
    for (n, fallback) in chosen.fallbacks.iter().enumerate() {
        let parts = fallback.split_once('/').filter(|(_, model)| !model.is_empty());
        if parts.and_then(|(name, _)| config::known(config, chosen, name)).is_none() {
            return Err(Error::invalid(
                format!("config.model.fallbacks.{n}"),
                format!("'{}' is no model of one of its providers", shown(fallback)),
            )
            .fix("give <provider>/<model>, and the provider with its key in config.providers"));
        }
    }
    Ok(())
}

fn exec(config: &ClawConfig) -> Result<()> {
    let Some(exec) = &config.tools.exec else { return Ok(()) };
    if exec.mode == Some(ExecMode::Allowlist) {
        return Err(Error::invalid(
            "config.tools.exec.mode",
            "ZeroClaw asks a person about commands of its list, too, when they can do harm",
        )
        .fix("use 'ask' with safe_programs, 'deny' or 'full'"));
    }
    for (n, program) in exec.safe_programs.iter().enumerate() {
        let good = (1..=100).contains(&program.len())
            && program.chars().all(|c| c.is_ascii_alphanumeric() || "._+-/".contains(c));
        if !good {
            return Err(Error::invalid(
                format!("config.tools.exec.safe_programs.{n}"),
                format!("'{}' can't be a program's name", shown(program)),
            )
            .fix("use letters, digits and . _ + - /, such as 'git'"));
        }
    }
    Ok(())
}

/// Refuses settings of its own that clawfarm sets, and numbers that TOML has not.
fn native(native: &Map<String, Value>) -> Result<()> {
    for owned in config::OWNED {
        let mut at = native;
        let mut path = String::from("config.native");
        for (depth, wanted) in owned.iter().enumerate() {
            let Some(value) = at.get(*wanted) else { break };
            path = format!("{path}.{wanted}");
            match value {
                Value::Object(map) if depth + 1 < owned.len() => at = map,
                _ => return Err(Error::invalid(path, "this is set by clawfarm").fix("remove it")),
            }
        }
    }
    crate::shared::document::Format::Toml.write(native, None).map(drop).map_err(|error| {
        let field = format!("config.native.{}", error.field_name().unwrap_or_default());
        error.field(field)
    })
}
