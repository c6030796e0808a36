//! What is given for a template's variables on the command line.

use std::collections::BTreeMap;

use clawfarm_client::Client;
use clawfarm_config::{ConfigPath, VariableType};
use clawfarm_model::{ConfigName, Error};
use serde_json::{Value, json};

use super::set;

/// The values that texts stand for, by the types that the template declares. `revision` is the one
/// that the instance goes by; the published one, or the newest, when it goes by none.
///
/// # Errors
/// `NotFound` when there is no such template; `InvalidInput`, naming the variable, for a text that
/// is no value of its type.
pub(in crate::commands) async fn typed(
    client: &Client,
    template: &ConfigName,
    revision: Option<i64>,
    pairs: &[(String, String)],
) -> Result<BTreeMap<String, Value>, Error> {
    if pairs.is_empty() {
        return Ok(BTreeMap::new());
    }
    let view = client.config(template).await.map_err(|error| error.field("template"))?;
    let content = match revision.or(view.config.published).filter(|it| *it != view.config.head) {
        Some(number) => client.revision(template, number).await?.content,
        None => view.newest.content,
    };
    let mut all = BTreeMap::new();
    for (name, text) in pairs {
        let declared = content.variables.iter().find(|it| it.name.to_string() == *name);
        let value = match declared {
            Some(variable) => read(name, variable.kind, text)?,
            None => match name.parse::<ConfigPath>() {
                Ok(path) => set::typed(name, &path, text),
                Err(_) => set::said(text),
            },
        };
        all.insert(name.clone(), value);
    }
    Ok(all)
}

fn read(name: &str, kind: VariableType, text: &str) -> Result<Value, Error> {
    let value = serde_json::from_str::<Value>(text).ok();
    match (kind, value) {
        // "80" is a text where a text is wanted.
        (VariableType::String, _) => Ok(text.into()),
        (VariableType::Secret, Some(reference @ Value::Object(_))) => Ok(reference),
        (VariableType::Secret, _) => Ok(json!({ "secret": text })),
        (_, Some(value)) => Ok(value),
        (kind, None) => {
            let kind = kind.as_str();
            Err(Error::invalid(format!("variables.{name}"), format!("this is no value of the type {kind}"))
                .fix(format!(
                    "write it as JSON has it: clawfarm config get shows what the template takes for '{name}'"
                )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_by_the_type_of_its_variable() {
        for (kind, text, value) in [
            (VariableType::String, "80", json!("80")),
            (VariableType::String, "null", json!("null")),
            (VariableType::String, "{\"a\": 1}", json!("{\"a\": 1}")),
            (VariableType::Integer, "80", json!(80)),
            (VariableType::Number, "0.5", json!(0.5)),
            (VariableType::Boolean, "true", json!(true)),
            (VariableType::Array, "[\"a\"]", json!(["a"])),
            (VariableType::Object, "{\"a\": 1}", json!({"a": 1})),
            (VariableType::Secret, "model-key", json!({"secret": "model-key"})),
            (VariableType::Secret, "{\"secret\": \"model-key\"}", json!({"secret": "model-key"})),
        ] {
            assert_eq!(read("x", kind, text).unwrap(), value, "{kind:?} {text}");
        }
        for (kind, text) in [(VariableType::Integer, "many"), (VariableType::Boolean, "yes")] {
            let refused = read("x", kind, text).unwrap_err();
            assert_eq!((refused.field_name(), refused.fix_text().is_some()), (Some("variables.x"), true));
        }
    }
}
