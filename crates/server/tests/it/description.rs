//! The API's description is complete and checked in.

use std::path::Path;

use serde_json::Value;

#[test]
fn the_description_that_is_checked_in_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let made: Value = serde_json::from_str(&clawfarm_server::openapi().to_json().unwrap()).unwrap();
    assert!(kept == made, "docs/openapi.json is not current: run 'cargo xtask openapi'");
}

#[test]
fn every_operation_is_described_and_every_reference_leads_somewhere() {
    let document: Value = serde_json::from_str(&clawfarm_server::openapi().to_json().unwrap()).unwrap();
    assert_eq!(document["openapi"].as_str().unwrap()[..3], *"3.1");
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|s| !s.is_empty()), "{what} has no summary");
            assert!(operation["tags"][0].is_string(), "{what} has no tag");
            let answers = operation["responses"].as_object().unwrap();
            assert!(answers.keys().any(|status| status < &"400".to_owned()), "{what} never goes well");
            if path != "/healthz" {
                assert!(answers.contains_key("500"), "{what} describes no error");
            }
            for parameter in operation["parameters"].as_array().unwrap_or(&Vec::new()) {
                assert!(
                    parameter["description"].is_string(),
                    "{what}: {} is not described",
                    parameter["name"]
                );
            }
        }
    }
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 100);
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("references stay in the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                references.push(reference.clone());
            }
            map.values().for_each(|v| collect(v, references));
        }
        Value::Array(items) => items.iter().for_each(|v| collect(v, references)),
        _ => {}
    }
}
