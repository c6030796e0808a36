//! What can be said about a spec of nanobot before anything runs.

use clawfarm_model::config::{ClawConfig, ExecMode, LogLevel, Provider};
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{Error, InstanceSpec, Result};
use serde_json::{Map, Value, json};

use super::{DEFAULT_VERSION, config};
use crate::Warning;
use crate::shared::text::shown;
use crate::shared::{environment, expressed, inbox, place};

/// What of a unified config has a word of nanobot's.
pub(super) const EXPRESSED: [&str; 22] = [
    "model",
    "providers.*.type",
    "providers.*.api_key",
    "providers.*.base_url",
    "agents.timezone",
    "agents.thinking",
    "agents.heartbeat.every_mins",
    "memory.enabled",
    "memory.limit",
    "conversations.per_person",
    "skills.*.enabled",
    "tools.exec.mode",
    "tools.exec.safe_programs",
    "tools.exec.timeout_secs",
    "tools.web_search",
    "tools.web_fetch",
    "tools.workspace_only",
    "channels.telegram.bot_token",
    "channels.telegram.allow_from",
    "channels.discord.bot_token",
    "channels.discord.allow_from",
    "native",
];

/// Checks a spec.
pub(super) fn spec(spec: &InstanceSpec) -> Result<Vec<Warning>> {
    super::software(&spec.version)?;
    place::only_processes(spec, "nanobot", &[RuntimeKind::Process, RuntimeKind::Sim])?;
    let config = &spec.config;
    let mut warnings = Vec::new();
    if spec.version != DEFAULT_VERSION {
        warnings.push(Warning {
            field: "version".to_owned(),
            message: format!("clawfarm was tested with {DEFAULT_VERSION}, whose packages are pinned; of {} the newest that fit are taken", spec.version),
        });
    }
    crate::openclaw::validate::main_model(config)?;
    providers(config)?;
    tools(config)?;
    if config.channels.feishu.is_some() {
        return Err(Error::invalid(
            "config.channels.feishu",
            "nanobot is installed without its Feishu channel",
        )
        .fix("leave it out, or make an instance of openclaw for it"));
    }
    environment::check(spec, |name| name.starts_with("NANOBOT_") || name.starts_with("PYTHON"))?;
    inbox::check(spec)?;
    native(&config.native)?;
    texts(config)?;
    let expressed = EXPRESSED.map(str::to_owned);
    let does = |at: &str, value: &Value| match at {
        "logging.level" => [json!(LogLevel::Debug), json!(LogLevel::Info)].contains(value),
        // There is nothing that a person could have it do beyond its tools.
        "tools.elevated" => *value == json!(false),
        _ => false,
    };
    warnings.extend(expressed::check(config, "nanobot", &expressed, does)?);
    Ok(warnings)
}

/// nanobot fills `${NAME}` in from its environment wherever it stands, and has no other way to
/// write it.
fn texts(config: &ClawConfig) -> Result<()> {
    fn has_place(value: &Value) -> bool {
        match value {
            Value::String(text) => text.split("${").skip(1).any(|rest| {
                rest.split_once('}').is_some_and(|(name, _)| {
                    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                })
            }),
            Value::Array(list) => list.iter().any(has_place),
            Value::Object(map) => {
                map.iter().any(|(key, value)| has_place(&key.as_str().into()) || has_place(value))
            }
            _ => false,
        }
    }
    for (place, value) in expressed::said(config)? {
        let elsewhere = ["env.", "native.", "proxy.", "inbox"].iter().any(|it| place.starts_with(it));
        if !elsewhere && (has_place(&value) || has_place(&place.as_str().into())) {
            return Err(Error::invalid(
                format!("config.{place}"),
                "nanobot takes ${...} for a variable's name",
            )
            .fix("leave it out"));
        }
    }
    if let Some(zone) = &config.agents.timezone {
        let good = (1..=100).contains(&zone.len())
            && zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_+-".contains(&b));
        if !good {
            return Err(Error::invalid(
                "config.agents.timezone",
                format!("'{}' is no time zone", shown(zone)),
            )
            .fix("give one such as Europe/Berlin or UTC"));
        }
    }
    Ok(())
}

fn providers(config: &ClawConfig) -> Result<()> {
    let known = |name: &str| {
        config.providers.contains_key(name)
            || config.model.as_ref().is_some_and(|model| model.provider.as_str() == name)
    };
    for (name, provider) in &config.providers {
        let field = format!("config.providers.{}", shown(name));
        let same = name == provider.kind.as_str();
        let compatible = matches!(provider.kind, Provider::Openai | Provider::OpenaiCompatible);
        if !same && !compatible {
            return Err(Error::invalid(
                format!("{field}.type"),
                format!(
                    "nanobot asks a provider of another name than '{}' in OpenAI's protocol only",
                    provider.kind.as_str()
                ),
            )
            .fix(format!("call it '{}', or give an openai-compatible address", provider.kind.as_str())));
        }
        if compatible && !same && provider.base_url.is_none() {
            return Err(Error::invalid(format!("{field}.base_url"), "is missing: nobody knows where it is")
                .fix("give its address, such as https://llm.example.com/v1"));
        }
        if let Some(url) = &provider.base_url {
            crate::openclaw::validate::url(&format!("{field}.base_url"), url)?;
        }
    }
    for (n, fallback) in config.model.iter().flat_map(|model| &model.fallbacks).enumerate() {
        let good = fallback.split_once('/').is_some_and(|(name, model)| known(name) && !model.is_empty());
        if !good {
            return Err(Error::invalid(
                format!("config.model.fallbacks.{n}"),
                format!("'{}' is no model of one of its providers", shown(fallback)),
            )
            .fix("give <provider>/<model>, and the provider with its key in config.providers"));
        }
    }
    Ok(())
}

fn tools(config: &ClawConfig) -> Result<()> {
    let tools = &config.tools;
    if let (Some(search), Some(fetch)) = (tools.web_search, tools.web_fetch)
        && search != fetch
    {
        return Err(Error::invalid(
            "config.tools.web_search",
            "nanobot has one switch for searching and reading the web",
        )
        .fix("give web_search and web_fetch the same value"));
    }
    let Some(exec) = &tools.exec else { return Ok(()) };
    if exec.mode == Some(ExecMode::Ask) {
        return Err(Error::invalid(
            "config.tools.exec.mode",
            "nanobot can ask nobody whether a command may be run",
        )
        .fix("use 'deny', 'allowlist' with safe_programs, or 'full'"));
    }
    if exec.mode == Some(ExecMode::Allowlist) && exec.safe_programs.is_empty() {
        return Err(Error::invalid(
            "config.tools.exec.safe_programs",
            "is empty: nanobot takes an empty list for no list",
        )
        .fix("name the programs that may be run, or use 'deny'"));
    }
    if exec.mode != Some(ExecMode::Allowlist) && !exec.safe_programs.is_empty() {
        return Err(Error::invalid(
            "config.tools.exec.safe_programs",
            "nanobot has such a list in mode 'allowlist' only",
        )
        .fix("set tools.exec.mode to allowlist, or leave the list out"));
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

/// Refuses settings of its own that clawfarm sets.
fn native(native: &Map<String, Value>) -> Result<()> {
    for owned in config::OWNED {
        let mut at = native;
        let mut path = String::from("config.native");
        for (depth, wanted) in owned.iter().enumerate() {
            let found = at.iter().find(|(key, _)| key.replace('_', "").to_lowercase() == *wanted);
            let Some((key, value)) = found else { break };
            path = format!("{path}.{key}");
            match value {
                Value::Object(map) if depth + 1 < owned.len() => at = map,
                _ => {
                    return Err(Error::invalid(path, "this is set by clawfarm").fix("remove it"));
                }
            }
        }
    }
    Ok(())
}
