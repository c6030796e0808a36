//! What can be said about a spec before anything runs.

use clawfarm_model::config::{Channels, EnvValue, Model, Provider};
use clawfarm_model::{Error, InstanceSpec, Result};

use super::config::shown;
use super::{inbox, owned, provider};
use crate::Warning;

/// The longest model name that is accepted; the longest in OpenClaw's own catalogs has 71.
const MODEL_NAME_MAX: usize = 200;
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
    if let Some(m) = &spec.config.model {
        model(m)?;
    }
    channels(&spec.config.channels, &mut warnings)?;
    for (name, value) in &spec.config.env {
        variable(name, value)?;
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

fn warning(field: &str, message: impl Into<String>) -> Warning {
    Warning { field: field.to_owned(), message: message.into() }
}

/// Whether a variable is set by clawfarm and can't be set by anybody else.
pub(super) fn is_reserved(name: &str) -> bool {
    name.starts_with("OPENCLAW_") || name.starts_with("CLAWFARM_") || RESERVED.contains(&name)
}

fn variable(name: &str, _value: &EnvValue) -> Result<()> {
    if is_reserved(name) {
        return Err(Error::invalid(format!("config.env.{name}"), format!("{name} is set by clawfarm"))
            .fix("remove it; a setting of OpenClaw's own goes into 'native'"));
    }
    Ok(())
}

fn model(model: &Model) -> Result<()> {
    let provider = model.provider;
    match &model.name {
        Some(name) => model_name(name)?,
        None if provider::usual_model(provider).is_none() => {
            return Err(Error::invalid("config.model.name", "is missing: this provider has no usual model")
                .fix("give the name that the server knows the model by, such as 'llama-3.3-70b'"));
        }
        None => {}
    }
    if provider == Provider::Demo {
        return demo(model);
    }
    if provider == Provider::OpenaiCompatible {
        let base = model.base_url.as_deref().ok_or_else(|| {
            Error::invalid(
                "config.model.base_url",
                "is missing: an openai-compatible server has no usual address",
            )
            .fix("give its address, such as https://llm.example.com/v1")
        })?;
        return url("config.model.base_url", base);
    }
    if model.base_url.is_some() {
        return Err(Error::invalid(
            "config.model.base_url",
            format!("{} has an address of its own", provider.as_str()),
        )
        .fix("remove it, or use provider openai-compatible"));
    }
    if model.api_key.is_none() {
        return Err(Error::invalid("config.model.api_key", format!("{} needs a key", provider.as_str())).fix(
            "give --api-key-env or --api-key-file, or set a secret and refer to it: --set model.api_key.secret=<name>",
        ));
    }
    Ok(())
}

fn demo(model: &Model) -> Result<()> {
    let extra = match model {
        Model { name: Some(name), .. } if provider::model_name(model) != provider::DEMO_MODEL => {
            Some(("name", format!("there is no demo model '{}'", shown(name))))
        }
        Model { api_key: Some(_), .. } => Some(("api_key", "the demo model takes no key".to_owned())),
        Model { base_url: Some(_), .. } => {
            Some(("base_url", "the demo model is the server's own".to_owned()))
        }
        _ => None,
    };
    match extra {
        Some((field, why)) => {
            Err(Error::invalid(format!("config.model.{field}"), why)
                .fix("remove it, or choose another provider"))
        }
        None => Ok(()),
    }
}

fn model_name(name: &str) -> Result<()> {
    let good = !name.is_empty()
        && name.len() <= MODEL_NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '@' | '~'))
        && !name.ends_with('/')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-:/@+~".contains(c));
    if good {
        Ok(())
    } else {
        Err(Error::invalid("config.model.name", format!("'{}' can't be a model's name", shown(name))).fix(
            format!("use 1 to {MODEL_NAME_MAX} letters, digits and . _ - : / @ + ~, such as 'gpt-6-astra'"),
        ))
    }
}

/// An address that is http or https, has a host, and carries no password.
fn url(field: &str, text: &str) -> Result<()> {
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

fn channels(channels: &Channels, warnings: &mut Vec<Warning>) -> Result<()> {
    if let Some(telegram) = &channels.telegram {
        if let Some(root) = &telegram.api_root {
            url("config.channels.telegram.api_root", root)?;
        }
        for id in &telegram.allow_from {
            if id.is_empty() || id.len() > 20 || !id.chars().all(|c| c.is_ascii_digit()) {
                return Err(Error::invalid(
                    "config.channels.telegram.allow_from",
                    format!("'{}' is no Telegram user id", shown(id)),
                )
                .fix("give the number, such as 123456789; the bot @userinfobot tells it"));
            }
        }
        warnings.push(warning(
            "config.channels.telegram",
            "the claw asks Telegram for messages itself, so a message can't wake it while it is suspended: it gets it when it is awake again",
        ));
    }
    if channels.discord.is_some() {
        warnings.push(warning(
            "config.channels.discord",
            "Discord needs the package @openclaw/discord, which OpenClaw fetches from the public hub at its first start: that start takes a minute longer, and without a way to the hub the channel stays off",
        ));
    }
    Ok(())
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
        spec_.config = config;
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
        ] {
            let error = check(config).expect_err(field);
            assert_eq!(error.field_name(), Some(field));
            assert!(error.fix_text().is_some() && !error.to_string().contains("u:p"), "{error}");
        }
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
