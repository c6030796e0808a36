//! What can be said about models and who serves them.

use clawfarm_model::config::{ClawConfig, Model, ModelFacts, Provider, ProviderConfig};
use clawfarm_model::{Error, Result};

use super::{number, url, warning};
use crate::Warning;
use crate::openclaw::config::shown;
use crate::openclaw::{json as tree, provider};

/// The longest model name that is accepted; the longest in OpenClaw's own catalogs has 71.
const MODEL_NAME_MAX: usize = 200;
/// The longest name of a provider that is accepted.
const PROVIDER_NAME_MAX: usize = 64;

pub(super) fn check(config: &ClawConfig, warnings: &mut Vec<Warning>) -> Result<()> {
    for (name, provider) in &config.providers {
        listed(config, name, provider)?;
    }
    if let Some(chosen) = &config.model {
        model(chosen, config.providers.get(chosen.provider.as_str()))?;
        for (n, fallback) in chosen.fallbacks.iter().enumerate() {
            reference(&format!("config.model.fallbacks.{n}"), fallback, config, warnings)?;
        }
    }
    Ok(())
}

/// A model that is named with its provider: `<provider>/<model>`.
pub(super) fn reference(
    field: &str,
    text: &str,
    config: &ClawConfig,
    warnings: &mut Vec<Warning>,
) -> Result<()> {
    let Some((name, model)) = text.split_once('/') else {
        return Err(Error::invalid(field, format!("'{}' does not say whose model it is", shown(text)))
            .fix("give <provider>/<model>, such as anthropic/claude-opus-5"));
    };
    if !is_provider_name(name) {
        return Err(Error::invalid(field, format!("'{}' can't be a provider's name", shown(name)))
            .fix("give <provider>/<model>, such as anthropic/claude-opus-5"));
    }
    model_name(field, model)?;
    let known = config.providers.contains_key(name)
        || config.model.as_ref().is_some_and(|chosen| chosen.provider.as_str() == name)
        || tree::get(&config.native, &["models", "providers", provider::named(name)]).is_some();
    if !known {
        warnings.push(warning(field, format!(
            "'{name}' is none of its providers: it works only where OpenClaw knows one of that name, and has a key for it in its environment",
        )));
    }
    Ok(())
}

/// One of the list. What it says may be completed by the main model, of the same provider.
fn listed(config: &ClawConfig, name: &str, provider: &ProviderConfig) -> Result<()> {
    let field = format!("config.providers.{}", shown(name));
    if !is_provider_name(name) {
        return Err(Error::invalid(
            "config.providers",
            format!("'{}' can't be a provider's name", shown(name)),
        )
        .fix(format!("use 1 to {PROVIDER_NAME_MAX} of a-z, 0-9 and - _ . such as my-llm")));
    }
    if let Some(kind) = provider::taken_by(name) {
        return Err(Error::invalid(field, format!("the name is OpenClaw's own for {}", kind.as_str()))
            .fix(format!("name it {}", kind.as_str())));
    }
    let word = Provider::ALL.into_iter().find(|kind| kind.as_str() == name);
    if let Some(word) = word.filter(|word| *word != provider.kind) {
        return Err(Error::invalid(
            format!("{field}.type"),
            format!("a provider named {name} is of no other type, and this is {}", provider.kind.as_str()),
        )
        .fix(format!("give type {}, or another name", word.as_str())));
    }
    if provider.kind == Provider::Demo {
        return listed_demo(&field, word.is_some(), provider);
    }
    let main = config.model.as_ref().filter(|model| model.provider.as_str() == name);
    if let Some(base) = &provider.base_url {
        url(&format!("{field}.base_url"), base)?;
    } else if provider.kind == Provider::OpenaiCompatible && main.is_none_or(|m| m.base_url.is_none()) {
        return Err(no_address(format!("{field}.base_url")));
    }
    if provider.kind != Provider::OpenaiCompatible
        && provider.api_key.is_none()
        && main.is_none_or(|model| model.api_key.is_none())
    {
        return Err(no_key(format!("{field}.api_key"), provider.kind));
    }
    // Of a provider under a name of its own OpenClaw knows no models.
    if provider.models.is_empty() && word.is_none() {
        return Err(Error::invalid(
            format!("{field}.models"),
            "is missing: OpenClaw does not know which models this provider has",
        )
        .fix("name those that are to be used: [{\"name\": \"llama-3.3-70b\"}]"));
    }
    number(&format!("{field}.timeout_secs"), provider.timeout_secs)?;
    for (n, model) in provider.models.iter().enumerate() {
        facts(&format!("{field}.models.{n}"), model)?;
        if provider.models[..n].iter().any(|before| before.name == model.name) {
            return Err(Error::invalid(
                format!("{field}.models.{n}.name"),
                format!("'{}' is there twice", shown(&model.name)),
            )
            .fix("remove one of them"));
        }
    }
    Ok(())
}

fn listed_demo(field: &str, named: bool, provider: &ProviderConfig) -> Result<()> {
    if !named {
        return Err(
            Error::invalid(field, "the demo model's provider has a name of its own").fix("name it demo")
        );
    }
    for (name, there) in [
        ("api_key", provider.api_key.is_some()),
        ("base_url", provider.base_url.is_some()),
        ("models", !provider.models.is_empty()),
        ("timeout_secs", provider.timeout_secs.is_some()),
    ] {
        if there {
            return Err(Error::invalid(format!("{field}.{name}"), "the demo model is the server's own")
                .fix("remove it, or choose another provider"));
        }
    }
    Ok(())
}

fn facts(field: &str, model: &ModelFacts) -> Result<()> {
    model_name(&format!("{field}.name"), &model.name)?;
    for (name, tokens) in [("context_window", model.context_window), ("max_tokens", model.max_tokens)] {
        number(&format!("{field}.{name}"), tokens)?;
    }
    let cost = model.cost.unwrap_or_default();
    for (name, price) in [
        ("input", cost.input),
        ("output", cost.output),
        ("cache_read", cost.cache_read),
        ("cache_write", cost.cache_write),
    ] {
        if !price.is_finite() || price < 0.0 {
            return Err(Error::invalid(format!("{field}.cost.{name}"), format!("{price} is no price"))
                .fix("give US dollars for a million tokens: 0 or more"));
        }
    }
    Ok(())
}

fn is_provider_name(name: &str) -> bool {
    (1..=PROVIDER_NAME_MAX).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
}

fn no_address(field: String) -> Error {
    Error::invalid(field, "is missing: an openai-compatible server has no usual address")
        .fix("give its address, such as https://llm.example.com/v1")
}

fn no_key(field: String, kind: Provider) -> Error {
    Error::invalid(field, format!("{} needs a key", kind.as_str())).fix(
        "give --api-key-env or --api-key-file, or set a secret and refer to it: --set model.api_key.secret=<name>",
    )
}

/// The main model. What it does not say of its provider, the list may.
pub(super) fn model(model: &Model, listed: Option<&ProviderConfig>) -> Result<()> {
    let provider = model.provider;
    match &model.name {
        Some(name) => model_name("config.model.name", name)?,
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
        return match (&model.base_url, listed.and_then(|listed| listed.base_url.as_ref())) {
            (Some(base), _) => url("config.model.base_url", base),
            (None, Some(_)) => Ok(()),
            (None, None) => Err(no_address("config.model.base_url".to_owned())),
        };
    }
    if model.base_url.is_some() {
        return Err(Error::invalid(
            "config.model.base_url",
            format!("{} has an address of its own", provider.as_str()),
        )
        .fix(format!(
            "remove it, use provider openai-compatible, or say it in providers.{}",
            provider.as_str()
        )));
    }
    if model.api_key.is_none() && listed.is_none_or(|listed| listed.api_key.is_none()) {
        return Err(no_key("config.model.api_key".to_owned(), provider));
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

fn model_name(field: &str, name: &str) -> Result<()> {
    let good = !name.is_empty()
        && name.len() <= MODEL_NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '@' | '~'))
        && !name.ends_with('/')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-:/@+~".contains(c));
    if good {
        Ok(())
    } else {
        Err(Error::invalid(field, format!("'{}' can't be a model's name", shown(name))).fix(format!(
            "use 1 to {MODEL_NAME_MAX} letters, digits and . _ - : / @ + ~, such as 'gpt-6-astra'"
        )))
    }
}
