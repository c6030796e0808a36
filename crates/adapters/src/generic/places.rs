//! What the places of a type's templates are filled with.

use std::collections::BTreeMap;

use clawfarm_model::config::ClawConfig;
use clawfarm_model::{Error, Result};
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value};

use super::fill;
use crate::RenderInput;
use crate::shared::expressed::is_secret;
use crate::shared::{model, secrets};

/// What is clawfarm's to say: where a template has one of these, its file's place is not the user's.
pub(super) const OURS: [&str; 14] = [
    "id",
    "version",
    "port",
    "bind",
    "folder",
    "state",
    "workspace",
    "logs",
    "tmp",
    "server",
    "public_url",
    "gateway_token",
    "model.base_url",
    "model.api_key",
];
/// Those of [`OURS`] that are secrets.
const SECRET: [&str; 2] = ["gateway_token", "model.api_key"];
/// What is said of the model in words that every type has.
const MODEL: [&str; 4] = ["model.provider", "model.name", "model.base_url", "model.api_key"];

/// Where a template is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    /// In the command: others can read it.
    Argument,
    /// In a file or a variable of the claw's own.
    File,
    /// In the path of the software.
    Folder,
}

/// Checks the places of a template.
///
/// # Errors
/// `InvalidInput` on `field` for a place that there is not, or that may not be there.
pub(super) fn check(template: &Value, field: &str, at: Where) -> Result<()> {
    let found = clawfarm_config::places(template).map_err(|error| error.field(field))?;
    for name in found {
        let shown: String = name.chars().take(60).flat_map(char::escape_default).collect();
        if at == Where::Folder && name != "version" {
            return Err(Error::invalid(
                field,
                format!("'${{{shown}}}' can't be in the path of the software"),
            )
            .fix("use ${version}, or nothing"));
        }
        if at == Where::Argument && SECRET.contains(&name.as_str()) {
            return Err(Error::invalid(
                field,
                format!("'${{{shown}}}' is a secret, and others can read arguments"),
            )
            .fix("put it into a file or into [env]"));
        }
        if OURS.contains(&name.as_str()) || MODEL.contains(&name.as_str()) {
            continue;
        }
        let known = name.strip_prefix("config.").is_some_and(is_of_config);
        if !known {
            return Err(Error::invalid(field, format!("there is nothing '${{{shown}}}'")).fix(
                "docs/claw-types.md has what there is, such as ${port}, ${model.name} and ${config.memory.limit}; write $${ for a plain ${",
            ));
        }
    }
    Ok(())
}

/// Whether a config may have something at `path`.
fn is_of_config(path: &str) -> bool {
    match ClawConfig::default().with(path, "null") {
        Ok(_) => true,
        // Other errors are about what else there would have to be.
        Err(error) => !["unknown field", "has an empty part", "more than"]
            .iter()
            .any(|sign| error.message().contains(sign)),
    }
}

/// The places of a config that a place's name covers.
pub(super) fn of_config(name: &str) -> Option<String> {
    match name.strip_prefix("config.") {
        Some(path) => Some(path.to_owned()),
        None => name.starts_with("model.").then(|| name.to_owned()),
    }
}

/// Everything that templates may be filled with, for one launch.
pub(super) struct Values {
    plain: BTreeMap<String, Value>,
    secret: BTreeMap<String, Value>,
    /// The unified config, with references to secrets.
    references: Value,
    /// The same with their values.
    config: Value,
}

impl Values {
    pub(super) fn new(input: &RenderInput<'_>) -> Result<Self> {
        let place = input.place;
        let path = |path: &std::path::Path| Value::from(path.to_string_lossy());
        let model = model::resolve(input)?;
        let plain = [
            ("id", input.id.as_str().into()),
            ("version", input.spec.version.clone().into()),
            ("port", place.port.into()),
            ("bind", if place.listen_on_all { "0.0.0.0" } else { "127.0.0.1" }.into()),
            ("folder", path(&place.install_dir)),
            ("state", path(&place.state_dir)),
            ("workspace", path(&place.workspace_dir)),
            ("logs", path(&place.log_dir)),
            ("tmp", path(&place.tmp_dir)),
            ("server", place.host_url.clone().into()),
            ("public_url", input.public_url.map_or(Value::Null, Value::from)),
            ("model.provider", model.provider.as_str().into()),
            ("model.name", model.name.into()),
            ("model.base_url", model.base_url.into()),
        ];
        let key = model.key.map_or(Value::Null, |key| key.expose_secret().into());
        let secret = [("gateway_token", input.gateway_token.expose_secret().into()), ("model.api_key", key)];
        let owned =
            |all: Vec<(&str, Value)>| all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let references = serde_json::to_value(&input.spec.config)
            .map_err(|e| Error::internal("a config could not be put into JSON", e))?;
        let config = with_secrets(&references, "config", input)?;
        Ok(Self { plain: owned(plain.into()), secret: owned(secret.into()), references, config })
    }

    /// What a template's places are filled with. Arguments get no values of secrets.
    pub(super) fn of(&self, template: &Value, at: Where) -> Result<BTreeMap<String, Value>> {
        let mut values = BTreeMap::new();
        for name in clawfarm_config::places(template)? {
            let value = match name.strip_prefix("config.") {
                Some(path) if at == Where::Argument => find(&self.references, path),
                Some(path) => find(&self.config, path),
                None if at == Where::Argument => self.plain.get(&name).cloned(),
                None => self.plain.get(&name).or_else(|| self.secret.get(&name)).cloned(),
            };
            values.insert(name, value.unwrap_or(Value::Null));
        }
        Ok(values)
    }

    /// Whether what stands at a name is a secret's value, or has one in it.
    pub(super) fn is_secret(&self, name: &str) -> bool {
        match name.strip_prefix("config.") {
            Some(path) => find(&self.references, path).is_some_and(|value| has_secret(&value)),
            None => SECRET.contains(&name),
        }
    }
}

fn has_secret(value: &Value) -> bool {
    match value {
        Value::Object(map) => is_secret(value) || map.values().any(has_secret),
        Value::Array(list) => list.iter().any(has_secret),
        _ => false,
    }
}

fn find(document: &Value, path: &str) -> Option<Value> {
    path.split('.').try_fold(document, |at, part| at.as_object()?.get(part)).cloned()
}

/// A config with the values of secrets in the place of references.
fn with_secrets(value: &Value, at: &str, input: &RenderInput<'_>) -> Result<Value> {
    Ok(match value {
        Value::Object(map) if is_secret(value) && !at.starts_with("config.native") => {
            let reference = serde_json::from_value(Value::Object(map.clone()))
                .map_err(|e| Error::invalid(at, e.to_string()))?;
            Value::from(secrets::value(input.secrets, &reference, at)?.expose_secret())
        }
        Value::Object(map) => {
            let mut filled = Map::new();
            for (key, value) in map {
                filled.insert(key.clone(), with_secrets(value, &format!("{at}.{key}"), input)?);
            }
            Value::Object(filled)
        }
        Value::Array(list) => {
            let mut filled = Vec::with_capacity(list.len());
            for (n, value) in list.iter().enumerate() {
                filled.push(with_secrets(value, &format!("{at}.{n}"), input)?);
            }
            Value::Array(filled)
        }
        other => other.clone(),
    })
}

/// Where a template's places are of clawfarm's own, and where values of secrets come.
pub(super) fn owners(template: &Map<String, Value>, values: &Values) -> Result<fill::Owners> {
    let mut owners = fill::Owners::default();
    fill::walk(template, &mut Vec::new(), &mut |place, value| {
        for name in clawfarm_config::places(value)? {
            if values.is_secret(&name) {
                owners.secrets.insert(place.to_vec());
            } else if OURS.contains(&name.as_str()) {
                owners.owned.insert(place.to_vec());
            }
        }
        Ok(())
    })?;
    Ok(owners)
}
