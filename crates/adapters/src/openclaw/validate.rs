//! What can be said about a spec before anything runs.

mod channels;
mod models;
mod parts;

use clawfarm_model::config::{ClawConfig, NUMBER_MAX};
use clawfarm_model::{Error, InstanceSpec, Result};

use super::config::shown;
use super::{inbox, owned};
use crate::Warning;

/// The longest URL that is accepted.
const URL_MAX: usize = 2000;
/// Below this many MiB the first chats meet the limit: 760 MB at ready and 1188 MB after them
/// with the smallest heap that worked, and 170 MB in its two helpers (measured on 2026.9.6).
const MEMORY_MIB: u32 = 1400;

/// Variables that decide where and how OpenClaw runs, beside everything that begins with
/// `OPENCLAW_` or `CLAWFARM_`.
const RESERVED: [&str; 9] = [
    "HOME",
    "PATH",
    "TMPDIR",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_COMPILE_CACHE",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
];

/// Checks a spec.
pub(super) fn spec(spec: &InstanceSpec) -> Result<Vec<Warning>> {
    super::software(&spec.version)?;
    let mut warnings = Vec::new();
    let config = &spec.config;
    models::check(config, &mut warnings)?;
    channels::check(&config.channels, &mut warnings)?;
    parts::check(config, &mut warnings)?;
    for name in config.env.keys() {
        variable(&format!("config.env.{name}"), name)?;
    }
    inbox::check(spec)?;
    owned::refuse_collisions(&spec.config.native)?;
    if spec.resources.memory_mib < MEMORY_MIB {
        warnings.push(warning("resources.memory_mib", format!(
            "OpenClaw holds 0.8 GB when ready and up to 1.3 GB after its first chats; with {} MiB it may be ended in the middle of a turn",
            spec.resources.memory_mib
        )));
    }
    Ok(warnings)
}

/// Checks the main model, as it is the same for every claw type.
pub(crate) fn main_model(config: &ClawConfig) -> Result<()> {
    match &config.model {
        Some(model) => models::model(model, config.providers.get(model.provider.as_str())),
        None => Ok(()),
    }
}

fn warning(field: &str, message: impl Into<String>) -> Warning {
    Warning { field: field.to_owned(), message: message.into() }
}

/// Whether a variable is set by clawfarm and can't be set by anybody else.
pub(super) fn is_reserved(name: &str) -> bool {
    name.starts_with("OPENCLAW_") || name.starts_with("CLAWFARM_") || RESERVED.contains(&name)
}

/// A number that stands for some time or some tokens.
fn number(field: &str, number: Option<u32>) -> Result<()> {
    match number {
        Some(0) => Err(Error::invalid(field, "0 is too little").fix("give 1 or more, or leave it away")),
        Some(number) if number > NUMBER_MAX => {
            Err(Error::invalid(field, format!("{number} is too much"))
                .fix(format!("give at most {NUMBER_MAX}")))
        }
        _ => Ok(()),
    }
}

fn variable(field: &str, name: &str) -> Result<()> {
    if is_reserved(name) {
        return Err(Error::invalid(field, format!("{name} is set by clawfarm"))
            .fix("remove it; a setting of OpenClaw's own goes into 'native'"));
    }
    Ok(())
}

/// An address that is http or https, has a host, and carries no password.
pub(crate) fn url(field: &str, text: &str) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::invalid(field, format!("'{}' {why}", shown(text)))
            .fix("give an address such as https://llm.example.com/v1"))
    };
    let parsed: http::Uri = match text.parse() {
        Ok(uri) if text.len() <= URL_MAX => uri,
        _ => return refuse("is no address"),
    };
    if !matches!(parsed.scheme_str(), Some("http" | "https")) {
        return refuse("is neither http nor https");
    }
    let Some(authority) = parsed.authority() else { return refuse("names no host") };
    if authority.as_str().contains('@') {
        // The text is not shown: what stands before the @ is a password.
        return Err(Error::invalid(field, "has a user name or password in it")
            .fix("take it out of the address; a key goes into a secret"));
    }
    if authority.host().is_empty() { refuse("names no host") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use clawfarm_model::config::ClawConfig;
    use serde_json::json;

    use super::*;

    fn check(config: serde_json::Value) -> Result<Vec<Warning>> {
        let config: ClawConfig = serde_json::from_value(config).unwrap();
        let mut spec_: InstanceSpec = serde_json::from_value(json!({
            "claw_type": "openclaw", "version": "2026.9.6", "runtime": "process", "target": "local",
        }))
        .unwrap();
        *spec_.config = config;
        spec(&spec_)
    }

    #[test]
    fn names_the_field_and_the_fix() {
        for (config, field) in [
            (json!({"model": {"provider": "anthropic"}}), "config.model.api_key"),
            (json!({"model": {"provider": "openai-compatible", "name": "x"}}), "config.model.base_url"),
            (
                json!({"model": {"provider": "openai-compatible", "base_url": "http://x/v1"}}),
                "config.model.name",
            ),
            (
                json!({"model": {"provider": "openai-compatible", "name": "x", "base_url": "ftp://x"}}),
                "config.model.base_url",
            ),
            (
                json!({"model": {"provider": "openai-compatible", "name": "x", "base_url": "http://u:p@x"}}),
                "config.model.base_url",
            ),
            (
                json!({"model": {"provider": "openai-compatible", "name": "x", "base_url": "/v1"}}),
                "config.model.base_url",
            ),
            (json!({"model": {"provider": "demo", "api_key": {"secret": "k"}}}), "config.model.api_key"),
            (json!({"model": {"provider": "demo", "name": "gpt"}}), "config.model.name"),
            (
                json!({"model": {"provider": "openai", "api_key": {"secret": "k"}, "base_url": "http://x"}}),
                "config.model.base_url",
            ),
            (
                json!({"model": {"provider": "openai", "api_key": {"secret": "k"}, "name": "a b"}}),
                "config.model.name",
            ),
            (
                json!({"channels": {"telegram": {"bot_token": {"secret": "t"}, "allow_from": ["@me"]}}}),
                "config.channels.telegram.allow_from",
            ),
            (
                json!({"channels": {"telegram": {"bot_token": {"secret": "t"}, "api_root": "x"}}}),
                "config.channels.telegram.api_root",
            ),
            (json!({"env": {"OPENCLAW_STATE_DIR": "/"}}), "config.env.OPENCLAW_STATE_DIR"),
            (json!({"env": {"NODE_OPTIONS": "--inspect"}}), "config.env.NODE_OPTIONS"),
            (json!({"native": {"gateway": {"bind": "lan"}}}), "config.native.gateway.bind"),
            (json!({"model": {"provider": "demo", "fallbacks": ["demo"]}}), "config.model.fallbacks.0"),
            (json!({"providers": {"My": {"type": "demo"}}}), "config.providers"),
            (json!({"providers": {"google": {"type": "gemini"}}}), "config.providers.google"),
            (json!({"providers": {"gemini": {"type": "openai"}}}), "config.providers.gemini.type"),
            (json!({"providers": {"gemini": {"type": "gemini"}}}), "config.providers.gemini.api_key"),
            (json!({"providers": {"x": {"type": "demo"}}}), "config.providers.x"),
            (
                json!({"providers": {"demo": {"type": "demo", "timeout_secs": 1}}}),
                "config.providers.demo.timeout_secs",
            ),
            (json!({"providers": {"x": {"type": "openai-compatible"}}}), "config.providers.x.base_url"),
            (
                json!({"providers": {"x": {"type": "openai-compatible", "base_url": "http://x/v1"}}}),
                "config.providers.x.models",
            ),
            (
                json!({"providers": {"x": {"type": "openai", "api_key": {"secret": "k"},
                    "models": [{"name": "a"}, {"name": "a"}]}}}),
                "config.providers.x.models.1.name",
            ),
            (
                json!({"providers": {"x": {"type": "openai", "api_key": {"secret": "k"},
                    "models": [{"name": "a", "cost": {"input": -1.0}}]}}}),
                "config.providers.x.models.0.cost.input",
            ),
            (json!({"agents": {"timezone": "Berlin; rm"}}), "config.agents.timezone"),
            (json!({"agents": {"timeout_secs": 0}}), "config.agents.timeout_secs"),
            (json!({"agents": {"heartbeat": {"every_mins": 0}}}), "config.agents.heartbeat.every_mins"),
            (
                json!({"agents": {"heartbeat": {"every_mins": 5, "hours": {"from": "8:00", "to": "22:00"}}}}),
                "config.agents.heartbeat.hours.from",
            ),
            (json!({"agents": {"entries": {"Ops": {}}}}), "config.agents.entries"),
            (json!({"agents": {"entries": {"ops": {"model": "x"}}}}), "config.agents.entries.ops.model"),
            (
                json!({"agents": {"entries": {"ops": {"channels": ["telegram"]}}}}),
                "config.agents.entries.ops.channels",
            ),
            (
                json!({"channels": {"telegram": {"bot_token": {"secret": "t"}}},
                    "agents": {"entries": {"a": {"channels": ["telegram"]}, "b": {"channels": ["telegram"]}}}}),
                "config.agents.entries.b.channels",
            ),
            (json!({"memory": {"limit": 0}}), "config.memory.limit"),
            (json!({"skills": {"x": {"env": {"1": "a"}}}}), "config.skills.x.env.1"),
            (json!({"skills": {"x": {"env": {"PATH": "a"}}}}), "config.skills.x.env.PATH"),
            (json!({"plugins": {"admin-http-rpc": {"enabled": true}}}), "config.plugins.admin-http-rpc"),
            (
                json!({"channels": {"telegram": {"bot_token": {"secret": "t"}}},
                    "plugins": {"telegram": {"enabled": false}}}),
                "config.plugins.telegram.enabled",
            ),
            (json!({"tools": {"deny": ["a b"]}}), "config.tools.deny"),
            (
                json!({"tools": {"allow": ["x"]}, "native": {"tools": {"allow": []}}}),
                "config.native.tools.allow",
            ),
            (json!({"proxy": {"url": "http://u:p@proxy"}}), "config.proxy.url"),
            (json!({"proxy": {"url": "http://proxy", "except": ["a,b"]}}), "config.proxy.except.0"),
            (json!({"proxy": {"url": "http://proxy"}, "env": {"no_proxy": "x"}}), "config.env.no_proxy"),
            (
                json!({"channels": {"telegram": {"bot_token": {"secret": "t"}, "groups": {"x": {}}}}}),
                "config.channels.telegram.groups",
            ),
            (
                json!({"channels": {"discord": {"bot_token": {"secret": "t"},
                    "guilds": {"1": {"allow_from": ["me"]}}}}}),
                "config.channels.discord.guilds.1.allow_from",
            ),
            (
                json!({"channels": {"feishu": {"app_id": "x", "app_secret": {"secret": "t"}}}}),
                "config.channels.feishu.app_id",
            ),
        ] {
            let error = check(config).expect_err(field);
            assert_eq!(error.field_name(), Some(field));
            assert!(error.fix_text().is_some() && !error.to_string().contains("u:p"), "{error}");
        }
    }

    #[test]
    fn what_the_list_says_of_a_provider_the_main_model_need_not() {
        let listed = |model: serde_json::Value| {
            check(json!({"model": model, "providers": {
                "anthropic": {"type": "anthropic", "api_key": {"secret": "company"}},
                "openai-compatible": {"type": "openai-compatible", "base_url": "http://10.0.0.2/v1"},
            }}))
        };
        assert!(listed(json!({"provider": "anthropic"})).unwrap().is_empty());
        assert!(listed(json!({"provider": "openai-compatible", "name": "m"})).unwrap().is_empty());
        assert!(listed(json!({"provider": "openai"})).is_err());
    }

    #[test]
    fn a_model_of_a_provider_that_nobody_named_is_told() {
        let warnings =
            check(json!({"model": {"provider": "demo", "fallbacks": ["demo/demo", "xai/grok-4.7"]},
            "native": {"models": {"providers": {"mine": {}}}},
            "agents": {"entries": {"ops": {"model": "mine/m"}}}}))
            .unwrap();
        let fields: Vec<_> = warnings.iter().map(|w| w.field.as_str()).collect();
        assert_eq!(fields, ["config.model.fallbacks.1"]);
    }

    #[test]
    fn warns_of_what_will_surprise() {
        let warnings = check(json!({"channels": {
            "telegram": {"bot_token": {"secret": "t"}, "allow_from": ["123"]},
            "discord": {"bot_token": {"secret": "d"}},
        }}))
        .unwrap();
        let fields: Vec<_> = warnings.iter().map(|w| w.field.as_str()).collect();
        assert_eq!(fields, ["config.channels.telegram", "config.channels.discord"]);
        assert!(check(json!({})).unwrap().is_empty());
        assert!(check(json!({"model": {"provider": "openai-compatible", "name": "org/m:7b", "base_url": "http://10.0.0.2:8000/v1"}})).unwrap().is_empty());
    }
}
