//! Model providers, in OpenClaw's words.

use clawfarm_model::config::{Model, Provider};
use serde_json::{Map, Value, json};

use super::secrets;

/// The provider id of clawfarm's own demo model in `openclaw.json`.
pub(super) const DEMO_ID: &str = "clawfarm";
/// The demo model's name.
pub(super) const DEMO_MODEL: &str = "demo";
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
pub(super) const fn usual_model(provider: Provider) -> Option<&'static str> {
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
pub(super) fn model_name(model: &Model) -> &str {
    let provider = id(model.provider);
    let name = model.name.as_deref().or(usual_model(model.provider)).unwrap_or_default();
    name.strip_prefix(provider).and_then(|rest| rest.strip_prefix('/')).unwrap_or(name)
}

/// OpenClaw's reference to the model: `<provider>/<name>`.
pub(super) fn model_reference(model: &Model) -> String {
    format!("{}/{}", id(model.provider), model_name(model))
}

/// The entry under `models.providers`.
pub(super) fn entry(model: &Model, host_url: &str) -> Value {
    if model.provider == Provider::Demo {
        return demo_entry(host_url);
    }
    let mut entry = Map::new();
    if let Some(key) = &model.api_key {
        entry.insert("apiKey".into(), secrets::reference(key));
    }
    match model.provider {
        // Left to choose, OpenClaw would run official OpenAI models in another agent, which is a
        // plugin that it fetches from the public hub at start.
        Provider::Openai => {
            entry.insert("agentRuntime".into(), json!({ "id": "openclaw" }));
        }
        Provider::OpenaiCompatible => {
            let name = model_name(model);
            entry.insert("baseUrl".into(), model.base_url.clone().into());
            entry.insert("api".into(), "openai-completions".into());
            entry.insert("models".into(), json!([{ "id": name, "name": name }]));
            entry.insert("request".into(), json!({ "allowPrivateNetwork": true }));
            // OpenClaw takes a provider without a key for one that is not set up. A server that
            // asks for none ignores what it is sent.
            entry.entry("apiKey").or_insert_with(|| "none".into());
        }
        Provider::Demo | Provider::Anthropic | Provider::Gemini | Provider::Openrouter => {}
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
        Model { provider, name: name.map(str::to_owned), api_key: None, base_url: None, fallbacks: Vec::new() }
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
