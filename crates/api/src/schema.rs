//! The JSON Schema of a document that people write, for their editors.
//!
//! It is made of the same components as the API's description: one derive says both.

use clawfarm_model::config::ClawConfig;
use serde_json::{Map, Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema as _, ToSchema};

/// The path below which the schemas are.
pub const SCHEMAS: &str = "/api/v1/schemas";

/// The schemas that there are, by the last part of their path.
#[must_use]
pub fn all() -> Vec<(&'static str, Value)> {
    vec![("claw-config", claw_config())]
}

/// The unified configuration, as JSON Schema 2020-12.
#[must_use]
pub fn claw_config() -> Value {
    document::<ClawConfig>(
        "urn:clawfarm:schema:claw-config:v1",
        "Configuration of a claw",
        &ClawConfig::schema(),
    )
}

/// A schema with all that it refers to in it.
fn document<T: ToSchema>(id: &str, title: &str, root: &RefOr<Schema>) -> Value {
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    let definitions: Map<String, Value> =
        parts.into_iter().map(|(name, schema)| (name, value(&schema))).collect();
    let mut document = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": id,
        "title": title,
    });
    if let (Value::Object(document), Value::Object(root)) = (&mut document, value(root)) {
        document.extend(root);
        document.insert("$defs".to_owned(), Value::Object(definitions));
    }
    document
}

/// A component as JSON, which refers to others where this document has them.
fn value(schema: &RefOr<Schema>) -> Value {
    // A schema is a tree of texts, numbers and lists: it can always be written.
    let mut value = serde_json::to_value(schema).unwrap_or_default();
    refer(&mut value);
    value
}

fn refer(at: &mut Value) {
    match at {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "$ref" => {
                        *text = text.replace("#/components/schemas/", "#/$defs/");
                    }
                    _ => refer(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(refer),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validator() -> jsonschema::Validator {
        let schema = claw_config();
        jsonschema::meta::validate(&schema).expect("it is a JSON Schema");
        jsonschema::draft202012::new(&schema).expect("all that it refers to is in it")
    }

    /// What a page of the documentation shows as JSON.
    fn shown(page: &str) -> Vec<Value> {
        page.split("```json\n")
            .skip(1)
            .filter_map(|rest| rest.split("\n```").next())
            .map(|text| serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}")))
            .collect()
    }

    #[test]
    fn what_is_documented_is_of_the_schema_and_of_the_type() {
        let validator = validator();
        let examples = shown(include_str!("../../../docs/config.md"));
        assert!(examples.len() >= 12, "{} examples", examples.len());
        for example in examples {
            let why: Vec<String> = validator.iter_errors(&example).map(|e| e.to_string()).collect();
            assert!(why.is_empty(), "{example}: {why:?}");
            serde_json::from_value::<ClawConfig>(example).expect("a configuration");
        }
    }

    #[test]
    fn the_examples_in_the_schema_are_of_it() {
        let schema = claw_config();
        let mut looked_at = 0;
        for (name, part) in schema["$defs"].as_object().expect("definitions") {
            let mut alone = part.clone();
            alone["$defs"] = schema["$defs"].clone();
            let validator = jsonschema::draft202012::new(&alone).expect("a schema");
            for example in part["examples"].as_array().into_iter().flatten() {
                let why: Vec<String> = validator.iter_errors(example).map(|e| e.to_string()).collect();
                assert!(why.is_empty(), "{name}: {example}: {why:?}");
                looked_at += 1;
            }
        }
        assert!(looked_at >= 12, "{looked_at} examples");
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let validator = validator();
        for (wrong, place) in [
            (json!({"modle": {}}), ""),
            (json!({"model": {}}), "/model"),
            (json!({"model": {"provider": "nobody"}}), "/model"),
            (json!({"providers": {"x": {"type": "openai", "key": "sk"}}}), "/providers/x"),
            (json!({"channels": {"telegram": {"bot_token": "123:abc"}}}), "/channels/telegram"),
            (json!({"memory": {"limit": 0}}), "/memory/limit"),
            (json!({"tools": {"exec": {"mode": "yes"}}}), "/tools/exec"),
            (json!({"env": {"1": "x"}}), "/env"),
            (json!({"env": {"A": 1}}), "/env/A"),
        ] {
            let at: Vec<String> =
                validator.iter_errors(&wrong).map(|e| e.instance_path().to_string()).collect();
            assert!(!at.is_empty(), "{wrong} is taken");
            assert!(at.iter().all(|at| at.starts_with(place)), "{wrong}: {at:?}");
            // What is of the right type and has a wrong value is refused when it is saved.
            let later = matches!(place, "/memory/limit" | "/env");
            assert!(later || serde_json::from_value::<ClawConfig>(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_field_is_described() {
        let schema = claw_config();
        let parts = schema["$defs"].as_object().expect("definitions");
        for (name, part) in parts.iter().map(|(name, part)| (name.as_str(), part)).chain([("", &schema)]) {
            for (field, property) in part["properties"].as_object().into_iter().flatten() {
                let described = property["description"].is_string()
                    || property["oneOf"]
                        .as_array()
                        .is_some_and(|ways| ways.iter().any(|way| way["description"].is_string()));
                assert!(described, "{name}.{field} has no description");
            }
        }
    }
}
