//! Model providers, in OpenClaw's words.

use std::collections::BTreeMap;

use clawfarm_model::config::{Model, ModelFacts, ModelInput, Provider, ProviderConfig, Providers};
use serde_json::{Map, Value, json};

use super::secrets;

/// The provider id of clawfarm's own demo model in `openclaw.json`.
pub(super) const DEMO_ID: &str = "clawfarm";
/// The demo model's name.
pub(crate) const DEMO_MODEL: &str = "demo";
/// The provider id of an `openai-compatible` server in `openclaw.json`.
const COMPATIBLE_ID: &str = "custom";

/// What OpenClaw calls a provider.
pub(super) const fn id(provider: Provider) -> &'static str {
    match provider {
        Provider::Demo => DEMO_ID,
        Provider::Anthropic => "anthropic",
        Provider::Openai => "openai",
        Provider::Gemini => "google",
        Provider::Openrouter => "openrouter",
        Provider::OpenaiCompatible => COMPATIBLE_ID,
    }
}

/// The model that OpenClaw 2026.9.6 itself proposes for a provider (its onboarding's
/// defaults); `None` where only the owner can know.
pub(crate) const fn usual_model(provider: Provider) -> Option<&'static str> {
    match provider {
        Provider::Demo => Some(DEMO_MODEL),
        Provider::Anthropic => Some("claude-opus-5"),
        Provider::Openai => Some("gpt-6-astra"),
        Provider::Gemini => Some("gemini-3.1-pro-preview"),
        Provider::Openrouter => Some("auto"),
        Provider::OpenaiCompatible => None,
    }
}

/// The model's name at its provider. A name that already begins with the provider's own id
/// (`anthropic/claude-…`) is taken without it.
pub(crate) fn model_name(model: &Model) -> &str {
    let provider = id(model.provider);
    let name = model.name.as_deref().or(usual_model(model.provider)).unwrap_or_default();
    name.strip_prefix(provider).and_then(|rest| rest.strip_prefix('/')).unwrap_or(name)
}

/// OpenClaw's reference to the model: `<provider>/<name>`.
pub(super) fn model_reference(model: &Model) -> String {
    format!("{}/{}", id(model.provider), model_name(model))
}

/// What OpenClaw calls a provider of the configuration's list: one under the name of a kind is
/// that kind's own.
pub(super) fn named(name: &str) -> &str {
    match Provider::ALL.into_iter().find(|kind| kind.as_str() == name) {
        Some(kind) => id(kind),
        None => name,
    }
}

/// The kind whose own provider OpenClaw calls so, when that is not what the unified config
/// calls it.
pub(super) fn taken_by(name: &str) -> Option<Provider> {
    Provider::ALL.into_iter().find(|kind| id(*kind) == name && kind.as_str() != name)
}

/// `<provider>/<model>`, with the provider's name as OpenClaw has it.
pub(super) fn reference(text: &str) -> String {
    match text.split_once('/') {
        Some((provider, model)) => format!("{}/{model}", named(provider)),
        None => text.to_owned(),
    }
}

/// The entries under `models.providers`, by OpenClaw's names: those of the list, and the main
/// model's. What the main model says of its provider goes before what the list says.
pub(super) fn entries(
    providers: &Providers,
    model: Option<&Model>,
    host_url: &str,
) -> BTreeMap<String, Value> {
    let mut all = providers.clone();
    if let Some(model) = model {
        let own = all.entry(model.provider.as_str().to_owned()).or_insert_with(|| ProviderConfig {
            kind: model.provider,
            api_key: None,
            base_url: None,
            models: Vec::new(),
            timeout_secs: None,
        });
        own.api_key = model.api_key.clone().or_else(|| own.api_key.take());
        own.base_url = model.base_url.clone().or_else(|| own.base_url.take());
        let name = model_name(model);
        if model.provider == Provider::OpenaiCompatible && !own.models.iter().any(|m| m.name == name) {
            own.models.push(ModelFacts { name: name.to_owned(), ..ModelFacts::default() });
        }
    }
    all.iter().map(|(name, provider)| (named(name).to_owned(), entry(name, provider, host_url))).collect()
}

/// Where a kind of provider is, for one under a name that OpenClaw does not know.
pub(super) const fn usual_address(kind: Provider) -> Option<&'static str> {
    match kind {
        Provider::Anthropic => Some("https://api.anthropic.com"),
        Provider::Openai => Some("https://api.openai.com/v1"),
        Provider::Gemini => Some("https://generativelanguage.googleapis.com/v1beta"),
        Provider::Openrouter => Some("https://openrouter.ai/api/v1"),
        Provider::Demo | Provider::OpenaiCompatible => None,
    }
}

/// The protocol that a kind of provider speaks, in OpenClaw's words.
const fn api(kind: Provider) -> &'static str {
    match kind {
        Provider::Anthropic => "anthropic-messages",
        Provider::Gemini => "google-generative-ai",
        Provider::Demo | Provider::Openai | Provider::Openrouter | Provider::OpenaiCompatible => {
            "openai-completions"
        }
    }
}

fn entry(name: &str, config: &ProviderConfig, host_url: &str) -> Value {
    let kind = config.kind;
    if kind == Provider::Demo {
        return demo_entry(host_url);
    }
    let mut entry = Map::new();
    if let Some(key) = &config.api_key {
        entry.insert("apiKey".into(), secrets::reference(key));
    }
    // Of those that OpenClaw knows by their name it knows the protocol, the address and the models.
    let known = name == kind.as_str() && kind != Provider::OpenaiCompatible;
    if !known {
        entry.insert("api".into(), api(kind).into());
    }
    let usual = if known { None } else { usual_address(kind) };
    let address = config.base_url.as_deref().or(usual);
    if let Some(address) = address {
        entry.insert("baseUrl".into(), address.into());
    }
    match kind {
        // Left to choose, OpenClaw would run official OpenAI models in another agent, which is a
        // plugin that it fetches from the public hub at start.
        Provider::Openai if known => {
            entry.insert("agentRuntime".into(), json!({ "id": "openclaw" }));
        }
        Provider::OpenaiCompatible => {
            entry.insert("request".into(), json!({ "allowPrivateNetwork": true }));
            // OpenClaw takes a provider without a key for one that is not set up. A server that
            // asks for none ignores what it is sent.
            entry.entry("apiKey").or_insert_with(|| "none".into());
        }
        _ => {}
    }
    if let Some(secs) = config.timeout_secs {
        entry.insert("timeoutSeconds".into(), secs.into());
    }
    // One with an address of its own must have a list, if an empty one.
    if address.is_some() || !config.models.is_empty() {
        entry.insert("models".into(), config.models.iter().map(model_entry).collect());
    }
    Value::Object(entry)
}

fn model_entry(model: &ModelFacts) -> Value {
    let mut entry = Map::new();
    entry.insert("id".into(), model.name.clone().into());
    entry.insert("name".into(), model.title.clone().unwrap_or_else(|| model.name.clone()).into());
    if let Some(reasoning) = model.reasoning {
        entry.insert("reasoning".into(), reasoning.into());
    }
    if !model.input.is_empty() {
        let word = |input: &ModelInput| match input {
            ModelInput::Text => "text",
            ModelInput::Image => "image",
        };
        entry.insert("input".into(), model.input.iter().map(word).collect());
    }
    if let Some(cost) = model.cost {
        let cost = json!({
            "input": cost.input, "output": cost.output,
            "cacheRead": cost.cache_read, "cacheWrite": cost.cache_write,
        });
        entry.insert("cost".into(), cost);
    }
    for (key, number) in [("contextWindow", model.context_window), ("maxTokens", model.max_tokens)] {
        if let Some(number) = number {
            entry.insert(key.into(), number.into());
        }
    }
    Value::Object(entry)
}

/// The entry of the demo model: the server's own endpoint, with the instance's own key.
pub(super) fn demo_entry(host_url: &str) -> Value {
    json!({
        "baseUrl": format!("{}/demo/v1", host_url.trim_end_matches('/')),
        "api": "openai-completions",
        "apiKey": secrets::env_reference(secrets::MODEL_KEY),
        "request": { "allowPrivateNetwork": true },
        "models": [{
            "id": DEMO_MODEL,
            "name": "clawfarm demo model (no thinking)",
            "reasoning": false,
            "input": ["text"],
            "cost": { "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0 },
            // Room for OpenClaw's own 15,000 tokens of instructions and a long demo.
            "contextWindow": 200_000,
            "maxTokens": 8192,
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(provider: Provider, name: Option<&str>) -> Model {
        Model {
            provider,
            name: name.map(str::to_owned),
            api_key: None,
            base_url: None,
            fallbacks: Vec::new(),
        }
    }

    #[test]
    fn a_name_may_carry_its_provider() {
        for (provider, name, expected) in [
            (Provider::Anthropic, Some("anthropic/claude-opus-5"), "anthropic/claude-opus-5"),
            (Provider::Anthropic, Some("claude-opus-5"), "anthropic/claude-opus-5"),
            (Provider::Openrouter, None, "openrouter/auto"),
            (Provider::Openrouter, Some("meta/llama-4"), "openrouter/meta/llama-4"),
            (Provider::Gemini, None, "google/gemini-3.1-pro-preview"),
            (Provider::Demo, None, "clawfarm/demo"),
        ] {
            assert_eq!(model_reference(&model(provider, name)), expected);
        }
    }
}
