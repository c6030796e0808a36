//! The model that a claw thinks with, in the terms that every claw type has: an address that
//! speaks `OpenAI`'s protocol, a key, a name.

use clawfarm_model::Result;
use clawfarm_model::config::{Model, Provider};
use secrecy::SecretString;

use super::secrets;
use crate::RenderInput;
use crate::openclaw::provider;

/// A model, with everything that is needed to ask it.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// Who serves it.
    pub(crate) provider: Provider,
    /// Its name at the provider.
    pub(crate) name: String,
    /// Where it is asked in `OpenAI`'s protocol.
    pub(crate) base_url: String,
    /// The provider's key, where it wants one.
    pub(crate) key: Option<SecretString>,
}

/// Where a provider speaks `OpenAI`'s protocol (their own documentations); `None` where only the
/// owner or the server can know.
const fn usual_url(provider: Provider) -> Option<&'static str> {
    match provider {
        Provider::Anthropic => Some("https://api.anthropic.com/v1/"),
        Provider::Openai => Some("https://api.openai.com/v1"),
        Provider::Gemini => Some("https://generativelanguage.googleapis.com/v1beta/openai/"),
        Provider::Openrouter => Some("https://openrouter.ai/api/v1"),
        Provider::Demo | Provider::OpenaiCompatible => None,
    }
}

/// The model of a launch: the demo model when its configuration names none.
///
/// # Errors
/// `InvalidInput` when its key's secret does not exist.
pub(crate) fn resolve(input: &RenderInput<'_>) -> Result<Resolved> {
    let Some(model) = input.spec.config.model.as_ref().filter(|m| m.provider != Provider::Demo) else {
        return Ok(Resolved {
            provider: Provider::Demo,
            name: provider::DEMO_MODEL.to_owned(),
            base_url: format!("{}/demo/v1", input.place.host_url.trim_end_matches('/')),
            key: Some(input.model_key.clone()),
        });
    };
    // What the main model does not say of its provider, the list may.
    let listed = input.spec.config.providers.get(model.provider.as_str());
    let own = model.api_key.as_ref().map(|key| (key, "config.model.api_key".to_owned()));
    let of_list = listed.and_then(|listed| {
        let field = format!("config.providers.{}.api_key", model.provider.as_str());
        listed.api_key.as_ref().map(|key| (key, field))
    });
    let key = match own.or(of_list) {
        Some((key, field)) => Some(secrets::value(input.secrets, key, &field)?.clone()),
        None => None,
    };
    let base_url = model.base_url.clone().or_else(|| listed?.base_url.clone());
    let base_url = base_url.or_else(|| usual_url(model.provider).map(str::to_owned)).unwrap_or_default();
    Ok(Resolved { provider: model.provider, name: name(model).to_owned(), base_url, key })
}

/// A model's name at its provider.
pub(crate) fn name(model: &Model) -> &str {
    provider::model_name(model)
}
