//! What can be said about agents, memory, skills, plugins, tools, conversations and the proxy.

use clawfarm_model::config::{AgentTools, Agents, ClawConfig, EnvValue, Heartbeat, Proxy, Tools};
use clawfarm_model::{Error, Result};
use serde_json::Value;

use super::{models, number, url, variable, warning};
use crate::Warning;
use crate::openclaw::config::shown;
use crate::openclaw::{channels, json as tree};

/// The longest name of an agent, a skill, a plugin or a tool that is accepted.
const NAME_MAX: usize = 64;
/// The variables by which programs are told of a proxy, in capitals.
const PROXY_VARIABLES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

pub(super) fn check(config: &ClawConfig, warnings: &mut Vec<Warning>) -> Result<()> {
    agents(config, warnings)?;
    number("config.memory.limit", config.memory.limit)?;
    number("config.conversations.reset_after_mins", config.conversations.reset_after_mins)?;
    skills(config)?;
    plugins(config)?;
    tools(config, warnings)?;
    if let Some(way) = &config.proxy {
        proxy(config, way)?;
    }
    Ok(())
}

/// OpenClaw makes such names to letters in lower case; so names that it would change are refused.
fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
}

fn agents(config: &ClawConfig, warnings: &mut Vec<Warning>) -> Result<()> {
    let agents: &Agents = &config.agents;
    number("config.agents.timeout_secs", agents.timeout_secs)?;
    number("config.agents.max_concurrent", agents.max_concurrent)?;
    if let Some(zone) = &agents.timezone {
        let good = (1..=NAME_MAX).contains(&zone.len())
            && zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_+-".contains(&b));
        if !good {
            return Err(Error::invalid(
                "config.agents.timezone",
                format!("'{}' is no time zone", shown(zone)),
            )
            .fix("give one such as Europe/Berlin or UTC"));
        }
    }
    if let Some(beat) = &agents.heartbeat {
        heartbeat(beat)?;
        warnings.push(warning("config.agents.heartbeat", format!(
            "it takes a turn of its own every {} min: it does not sleep longer than that, and the model is asked each time",
            beat.every_mins
        )));
    }
    for (name, agent) in &agents.entries {
        if !is_name(name) {
            return Err(Error::invalid(
                "config.agents.entries",
                format!("'{}' can't be an agent's name", shown(name)),
            )
            .fix(format!("use 1 to {NAME_MAX} of a-z, 0-9, - and _")));
        }
        let field = format!("config.agents.entries.{name}");
        if let Some(model) = &agent.model {
            models::reference(&format!("{field}.model"), model, config, warnings)?;
        }
        if let Some(AgentTools { allow, deny, .. }) = &agent.tools {
            words(&format!("{field}.tools.allow"), "tool", allow)?;
            words(&format!("{field}.tools.deny"), "tool", deny)?;
        }
        words(&format!("{field}.skills"), "skill", agent.skills.as_deref().unwrap_or_default())?;
        for channel in &agent.channels {
            owner(config, name, channel)?;
        }
    }
    Ok(())
}

/// A channel is one agent's, and is there.
fn owner(config: &ClawConfig, name: &str, channel: &str) -> Result<()> {
    let field = format!("config.agents.entries.{name}.channels");
    if !channels::names(&config.channels).any(|there| there == channel) {
        return Err(Error::invalid(field, format!("there is no channel '{}'", shown(channel)))
            .fix("configure it under 'channels', or take it off the agent's list"));
    }
    let other = config
        .agents
        .entries
        .iter()
        .take_while(|(before, _)| *before != name)
        .find(|(_, agent)| agent.channels.iter().any(|it| it == channel));
    match other {
        Some((other, _)) => Err(Error::invalid(field, format!("'{channel}' is agent {other}'s already"))
            .fix("give each channel to one agent")),
        None => Ok(()),
    }
}

fn heartbeat(beat: &Heartbeat) -> Result<()> {
    number("config.agents.heartbeat.every_mins", Some(beat.every_mins))?;
    let Some(hours) = &beat.hours else { return Ok(()) };
    for (name, text) in [("from", &hours.from), ("to", &hours.to)] {
        if !is_time(text) {
            return Err(Error::invalid(
                format!("config.agents.heartbeat.hours.{name}"),
                format!("'{}' is no time of day", shown(text)),
            )
            .fix("give HH:MM, such as 08:00"));
        }
    }
    Ok(())
}

/// `HH:MM`, and `24:00` for the end of a day.
fn is_time(text: &str) -> bool {
    let two = |part: &str| (part.len() == 2).then(|| part.parse::<u8>().ok()).flatten();
    match text.split_once(':').map(|(hour, minute)| (two(hour), two(minute))) {
        Some((Some(hour), Some(minute))) => (hour < 24 && minute < 60) || (hour, minute) == (24, 0),
        _ => false,
    }
}

/// Names as OpenClaw has them, groups and patterns of them included.
fn words(field: &str, what: &str, names: &[String]) -> Result<()> {
    let good = |name: &&String| {
        !(1..=NAME_MAX).contains(&name.len())
            || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:*/@".contains(&b))
    };
    match names.iter().find(good) {
        Some(name) => Err(Error::invalid(field, format!("'{}' can't be a {what}'s name", shown(name)))
            .fix(format!("give names such as OpenClaw's documentation of {what}s has them"))),
        None => Ok(()),
    }
}

fn skills(config: &ClawConfig) -> Result<()> {
    words("config.skills", "skill", &config.skills.keys().cloned().collect::<Vec<_>>())?;
    for (name, skill) in &config.skills {
        for (key, value) in &skill.env {
            let field = format!("config.skills.{name}.env.{}", shown(key));
            let good = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && key.len() <= 128;
            if !good {
                return Err(Error::invalid(field, "this can't be a variable's name")
                    .fix("use letters, digits and '_', not beginning with a digit"));
            }
            variable(&field, key)?;
            if matches!(value, EnvValue::Plain(text) if text.contains('\0')) {
                return Err(Error::invalid(field, "the value contains a NUL byte")
                    .fix("remove it: no process can be given one"));
            }
        }
    }
    Ok(())
}

fn plugins(config: &ClawConfig) -> Result<()> {
    words("config.plugins", "plugin", &config.plugins.keys().cloned().collect::<Vec<_>>())?;
    let off = |name: &str| config.plugins.get(name).is_some_and(|plugin| plugin.enabled == Some(false));
    if let Some(own) = config.plugins.get_key_value("admin-http-rpc") {
        return Err(Error::invalid(format!("config.plugins.{}", own.0), "clawfarm speaks to the claw by it")
            .fix("remove it"));
    }
    if let Some(channel) = channels::names(&config.channels).find(|name| off(name)) {
        return Err(Error::invalid(
            format!("config.plugins.{channel}.enabled"),
            format!("the channel {channel} is this plugin's, and is configured"),
        )
        .fix("remove it, or the channel"));
    }
    Ok(())
}

fn tools(config: &ClawConfig, warnings: &mut Vec<Warning>) -> Result<()> {
    let tools: &Tools = &config.tools;
    words("config.tools.allow", "tool", &tools.allow)?;
    words("config.tools.deny", "tool", &tools.deny)?;
    let native = |path: &[&str]| tree::get(&config.native, path);
    if !tools.allow.is_empty() && native(&["tools", "allow"]).is_some_and(|list| *list != Value::Null) {
        return Err(Error::invalid(
            "config.native.tools.allow",
            "OpenClaw takes no whole list of tools beside further ones, which config.tools.allow is",
        )
        .fix("use one of the two"));
    }
    if let Some(exec) = &tools.exec {
        number("config.tools.exec.timeout_secs", exec.timeout_secs)?;
        words("config.tools.exec.safe_programs", "program", &exec.safe_programs)?;
    }
    if tools.elevated == Some(true) && native(&["tools", "elevated", "allowFrom"]).is_none() {
        warnings.push(warning(
            "config.tools.elevated",
            "OpenClaw asks who may: until native.tools.elevated.allowFrom names people of a channel, nobody may",
        ));
    }
    Ok(())
}

fn proxy(config: &ClawConfig, proxy: &Proxy) -> Result<()> {
    url("config.proxy.url", &proxy.url)?;
    for (n, name) in proxy.except.iter().enumerate() {
        let good = (1..=255).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:*/[]".contains(&b));
        if !good {
            return Err(Error::invalid(
                format!("config.proxy.except.{n}"),
                format!("'{}' is neither a name nor a network", shown(name)),
            )
            .fix("give one such as intranet.example.com, .example.com or 10.0.0.0/8"));
        }
    }
    let beside = config.env.keys().find(|name| PROXY_VARIABLES.contains(&name.to_uppercase().as_str()));
    match beside {
        Some(name) => Err(Error::invalid(format!("config.env.{name}"), "config.proxy sets it")
            .fix("remove it, or config.proxy")),
        None => Ok(()),
    }
}
