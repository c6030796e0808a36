//! What can be said about a spec of a user's own type before anything runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clawfarm_model::config::Provider;
use clawfarm_model::launch::{Layout, Place};
use clawfarm_model::secret::SecretName;
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{ClawId, InstanceSpec, Result};
use secrecy::SecretString;
use serde_json::Value;

use super::{Generic, launch, places};
use crate::shared::{environment, expressed, inbox, place};
use crate::{ClawAdapter as _, RenderInput, Warning};

/// Checks a spec.
pub(super) fn spec(generic: &Generic, spec: &InstanceSpec) -> Result<Vec<Warning>> {
    generic.software(&spec.version)?;
    place::only_processes(spec, generic.claw_type.as_str(), &[RuntimeKind::Process, RuntimeKind::Sim])?;
    crate::openclaw::validate::main_model(&spec.config)?;
    environment::check(spec, |_| false)?;
    inbox::check(spec)?;
    let words: Vec<String> =
        generic.file.all_places()?.iter().filter_map(|name| places::of_config(name)).collect();
    // Whoever has the key and the address of a model has the model.
    let knows_model = words.iter().any(|word| word == "model" || word.starts_with("model."));
    let demo = Value::from(Provider::Demo.as_str());
    // What the main model does not say of its provider, the list may.
    let listed = spec.config.model.as_ref().map(|model| format!("providers.{}", model.provider.as_str()));
    let does = |at: &str, value: &Value| {
        // The demo model is everybody's who asked for none.
        at.starts_with("model.") && (knows_model && at != "model.fallbacks" || *value == demo)
            || knows_model
                && listed.as_ref().is_some_and(|provider| {
                    ["type", "api_key", "base_url"].iter().any(|key| at == format!("{provider}.{key}"))
                })
    };
    let warnings = expressed::check(&spec.config, generic.claw_type.as_str(), &words, does)?;
    rehearse(generic, spec)?;
    Ok(warnings)
}

/// Fills every template as a launch would, with a place and secrets that stand for the real ones.
fn rehearse(generic: &Generic, spec: &InstanceSpec) -> Result<()> {
    let folder = |name: &str| PathBuf::from("/clawfarm").join(name);
    let somewhere = Place {
        install_dir: folder("software"),
        layout: Layout::Npm,
        state_dir: folder("state"),
        workspace_dir: folder("state/workspace"),
        log_dir: folder("logs"),
        tmp_dir: folder("tmp"),
        port: 1024,
        listen_on_all: false,
        server_addresses: Vec::new(),
        host_url: "http://127.0.0.1:1024".to_owned(),
        memory_enforced: true,
    };
    let some = SecretString::from("secret");
    let secrets: BTreeMap<SecretName, SecretString> =
        spec.config.secrets().map(|reference| (reference.secret.clone(), some.clone())).collect();
    launch::render(
        generic,
        &RenderInput {
            id: &ClawId::new("rehearsal")?,
            run: 1,
            spec,
            place: &somewhere,
            secrets: &secrets,
            gateway_token: &some,
            model_key: &some,
            public_url: None,
            existing: &BTreeMap::new(),
        },
    )
    .map(drop)
}
