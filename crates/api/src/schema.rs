//! The JSON Schema of a document that people write, for their editors.
//!
//! It is made of the same components as the API's description: one derive says both.

use clawfarm_config::Template;
use clawfarm_model::config::ClawConfig;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use crate::manifest::{API_VERSION, INSTANCE_KIND, InstanceManifest, TEMPLATE_KIND, TemplateManifest};

/// The path below which the schemas are.
pub const SCHEMAS: &str = "/api/v1/schemas";

/// A text in which something is filled in: `${name}`.
const PLACE: &str = r"\$\{";

/// The names of the schemas, each the last part of its path.
pub const NAMES: [&str; 5] =
    ["claw-config", "claw-config-part", "config", "config-template", "claw-instance"];

/// The schemas that there are, by [`NAMES`].
#[must_use]
pub fn all() -> Vec<(&'static str, Value)> {
    let makers = [claw_config, claw_config_part, config, config_template, claw_instance];
    NAMES.into_iter().zip(makers).map(|(name, make)| (name, make())).collect()
}

/// The unified configuration, as JSON Schema 2020-12.
#[must_use]
pub fn claw_config() -> Value {
    document::<ClawConfig>("claw-config", "Configuration of a claw")
}

/// A part of the unified configuration, as a layer says it: nothing is required, and a `null` takes
/// away what is below.
#[must_use]
pub fn claw_config_part() -> Value {
    let mut document = document::<ClawConfig>("claw-config-part", "A part of the configuration of a claw");
    part_of(&mut document, false);
    document
}

/// What a configuration says: variables, a body, locks. This is what `clawfarm config save` takes.
#[must_use]
pub fn config() -> Value {
    let mut document = document::<Template>("config", "A configuration for many claws");
    with_body(&mut document, &["properties", "body"]);
    document
}

/// `kind: ConfigTemplate` of a file, as `clawfarm apply` takes it.
#[must_use]
pub fn config_template() -> Value {
    let mut document = document::<TemplateManifest>("config-template", "A configuration, to be applied");
    with_body(&mut document, &["$defs", "Template", "properties", "body"]);
    of_kind(&mut document, TEMPLATE_KIND);
    document
}

/// `kind: ClawInstance` of a file, as `clawfarm apply` takes it.
#[must_use]
pub fn claw_instance() -> Value {
    let mut document = document::<InstanceManifest>("claw-instance", "A claw, to be applied");
    of_kind(&mut document, INSTANCE_KIND);
    document
}

/// Puts in what says of which kind a document is.
fn of_kind(document: &mut Value, kind: &str) {
    let properties = [
        ("apiVersion", json!({"const": API_VERSION, "description": "The version of the documents."})),
        ("kind", json!({"const": kind, "description": "What it is a document of."})),
    ];
    for (name, schema) in properties {
        document["properties"][name] = schema;
        if let Some(required) = document["required"].as_array_mut() {
            required.push(name.into());
        }
    }
}

/// Says of the body of a configuration, which the types know as any object, that it is a part of the
/// unified configuration, with places to fill in anywhere.
fn with_body(document: &mut Value, at: &[&str]) {
    let mut part = self::document::<ClawConfig>("part", "");
    part_of(&mut part, true);
    let Value::Object(mut part) = part else { return };
    let definitions = part.remove("$defs").unwrap_or_default();
    for heading in ["$schema", "$id", "title"] {
        part.remove(heading);
    }
    if let Value::Object(definitions) = definitions {
        for (name, schema) in definitions {
            document["$defs"][name] = schema;
        }
    }
    document["$defs"]["ClawConfig"] = Value::Object(part);
    let body = at.iter().fold(document, |inside, key| &mut inside[*key]);
    let description = body["description"].take();
    *body = json!({"description": description, "anyOf": [{"$ref": "#/$defs/ClawConfig"}, {"type": "null"}]});
}

/// Makes of a schema that of a part of its documents: nothing is required, and each value may be
/// `null`; with `places` also a text with a place to fill in.
fn part_of(at: &mut Value, places: bool) {
    let loose = |schema: &mut Value| {
        part_of(schema, places);
        let description = description_of(schema);
        let mut ways = vec![schema.take(), json!({"type": "null"})];
        if places {
            ways.push(json!({"type": "string", "pattern": PLACE}));
        }
        *schema = json!({ "anyOf": ways });
        if let Some(description) = description {
            schema["description"] = description;
        }
    };
    let Value::Object(map) = at else { return };
    map.remove("required");
    // What was one of several for what it requires may be several of them now.
    if let Some(ways) = map.remove("oneOf") {
        map.insert("anyOf".to_owned(), ways);
    }
    for (key, value) in map.iter_mut() {
        match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(loose),
            ("additionalProperties" | "items", value @ Value::Object(_)) => loose(value),
            ("anyOf" | "allOf" | "prefixItems", Value::Array(ways)) => {
                ways.iter_mut().for_each(|way| part_of(way, places));
            }
            ("$defs", Value::Object(definitions)) => {
                definitions.values_mut().for_each(|it| part_of(it, places));
            }
            _ => {}
        }
    }
}

/// What a schema, or one of the ways that it leaves, says of itself.
fn description_of(schema: &Value) -> Option<Value> {
    let ways = schema["anyOf"].as_array().into_iter().flatten();
    std::iter::once(schema).chain(ways).find_map(|it| it.get("description").cloned())
}

/// A schema with all that it refers to in it.
fn document<T: ToSchema>(name: &str, title: &str) -> Value {
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    let definitions: Map<String, Value> =
        parts.into_iter().map(|(name, schema)| (name, value(&schema))).collect();
    let mut document = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("urn:clawfarm:schema:{name}:v1"),
        "title": title,
    });
    if let (Value::Object(document), Value::Object(root)) = (&mut document, value(&T::schema())) {
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
        of(&claw_config())
    }

    fn of(schema: &Value) -> jsonschema::Validator {
        jsonschema::meta::validate(schema).expect("it is a JSON Schema");
        jsonschema::draft202012::new(schema).expect("all that it refers to is in it")
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
    fn a_part_may_say_as_little_as_it_likes_and_take_away() {
        let part = of(&claw_config_part());
        let takes = |validator: &jsonschema::Validator, document: &Value| {
            let why: Vec<String> = validator.iter_errors(document).map(|e| e.to_string()).collect();
            assert!(why.is_empty(), "{document}: {why:?}");
        };
        for example in shown(include_str!("../../../docs/config.md")) {
            takes(&part, &example);
        }
        for document in [
            json!({}),
            json!({"model": {"name": "claude-3-opus"}}),
            json!({"model": null, "env": {"A": null}, "providers": {"x": {"base_url": null}, "y": null}}),
            json!({"memory": {"limit": null}, "native": {"a": 1}}),
        ] {
            takes(&part, &document);
        }
        let config = of(&config());
        let with_places = json!({
            "variables": [{"name": "limit", "type": "integer", "default": 1}],
            "body": {"memory": {"limit": "${limit}"}, "model": {"provider": "${who}", "name": "a-${who}"}},
            "locks": ["env"],
        });
        takes(&config, &with_places);
        takes(&config, &json!({"variables": [{"name": "model.name", "type": "string"}]}));
        let document = json!({"apiVersion": "clusterclaw.io/v1", "kind": "ConfigTemplate",
            "metadata": {"name": "support"}, "spec": with_places});
        takes(&of(&config_template()), &document);
        for (validator, wrong) in [
            (&part, json!({"modle": null})),
            (&part, json!({"memory": {"limit": "${limit}"}})),
            (&part, json!({"model": {"provider": "nobody"}})),
            (&config, json!({"body": {"memory": {"limit": "many"}}})),
            (&config, json!({"body": {"modle": {}}})),
            (&config, json!({"variables": [{"name": "a", "type": "text"}]})),
        ] {
            assert!(!validator.is_valid(&wrong), "{wrong} is taken");
        }
    }

    #[test]
    fn an_instance_s_document_is_of_its_schema() {
        let validator = of(&claw_instance());
        let good = json!({"apiVersion": "clusterclaw.io/v1", "kind": "ClawInstance",
            "metadata": {"name": "carol", "namespace": "default", "labels": {"team": "support"}},
            "spec": {"type": "OpenClaw", "version": "1.2.0", "replicas": 1, "runtime": "sim", "port": 20000,
                "resources": {"cpu": 2, "memory": "4Gi"}, "configMode": "managed",
                "restart": {"mode": "never"}, "readyTimeoutSecs": 60, "sleep": {"idle_seconds": 60},
                "config": {"template": null, "variables": {"a": 1},
                    "overrides": [{"key": "model.name", "value": null}]},
                "storage": {"configDir": "/a"}},
            "status": {"phase": "Running"}});
        let why: Vec<String> = validator.iter_errors(&good).map(|e| e.to_string()).collect();
        assert!(why.is_empty(), "{why:?}");
        let mut read = good.clone();
        for heading in ["apiVersion", "kind"] {
            read.as_object_mut().expect("an object").remove(heading);
        }
        serde_json::from_value::<InstanceManifest>(read).expect("an instance");
        for (place, wrong) in [
            ("/kind", json!("Claw")),
            ("/apiVersion", json!("v2")),
            ("/spec/replicas", json!(2)),
            ("/spec/resources/memory", json!("4 GB")),
            ("/spec/config/overrides/0/key", json!(1)),
            ("/spec/stroage", json!({})),
            ("/metadata/name", json!("Not A Name")),
        ] {
            let mut document = good.clone();
            match document.pointer_mut(place) {
                Some(there) => *there = wrong.clone(),
                None => document["spec"]["stroage"] = wrong.clone(),
            }
            assert!(!validator.is_valid(&document), "{place}: {wrong} is taken");
        }
    }

    #[test]
    fn every_field_is_described() {
        for (_, schema) in all() {
            described(&schema);
        }
    }

    fn described(schema: &Value) {
        let parts = schema["$defs"].as_object().expect("definitions");
        for (name, part) in parts.iter().map(|(name, part)| (name.as_str(), part)).chain([("", schema)]) {
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
