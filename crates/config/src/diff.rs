//! What differs between two configurations.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::path::ConfigPath;

/// One difference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// Where.
    pub path: ConfigPath,
    /// What was there; absent when nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub before: Option<Value>,
    /// What is there now; absent when nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub after: Option<Value>,
}

/// What leads from one document to the other, by path. Objects are compared key by key; anything
/// else, lists too, as a whole.
#[must_use]
pub fn diff(before: &Value, after: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(&ConfigPath::root(), before, after, &mut changes);
    changes
}

/// `document` with the changes done. What is missing on the way is made.
#[must_use]
pub fn apply(document: &Value, changes: &[Change]) -> Value {
    let mut document = document.clone();
    for change in changes {
        put(&mut document, change.path.parts(), change.after.as_ref());
    }
    document
}

fn compare(at: &ConfigPath, before: &Value, after: &Value, changes: &mut Vec<Change>) {
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        if before != after {
            changes.push(Change {
                path: at.clone(),
                before: Some(before.clone()),
                after: Some(after.clone()),
            });
        }
        return;
    };
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let path = at.child(key);
        match (old.get(key), new.get(key)) {
            (Some(before), Some(after)) => compare(&path, before, after, changes),
            (before, after) => {
                changes.push(Change { path, before: before.cloned(), after: after.cloned() });
            }
        }
    }
}

/// Has `value` at the place, or nothing there.
pub(crate) fn put(at: &mut Value, path: &[String], value: Option<&Value>) {
    let Some((key, further)) = path.split_first() else {
        *at = value.cloned().unwrap_or(Value::Null);
        return;
    };
    if !at.is_object() {
        *at = Value::Object(Map::new());
    }
    let Some(object) = at.as_object_mut() else { return };
    match (further.is_empty(), value) {
        (true, None) => {
            object.remove(key);
        }
        (true, Some(value)) => {
            object.insert(key.clone(), value.clone());
        }
        (false, _) => put(object.entry(key.clone()).or_insert(Value::Null), further, value),
    }
}

/// `null` is a value of its own here.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{document, layer};

    #[test]
    fn names_each_place() {
        let changes = diff(
            &json!({"a": {"b": 1, "c": [1]}, "d": null}),
            &json!({"a": {"c": [2], "e": {"f": 1}}, "d": null}),
        );
        let shown: Vec<_> = changes.iter().map(|it| it.path.to_string()).collect();
        assert_eq!(shown, ["a.b", "a.c", "a.e"]);
        assert_eq!(changes[0].after, None);
        let written = serde_json::to_string(&changes).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Change>>(&written).unwrap(), changes);
    }

    proptest! {
        #[test]
        fn the_changes_lead_there(a in layer(), b in layer()) {
            prop_assert_eq!(apply(&a, &diff(&a, &b)), b);
        }

        #[test]
        fn what_is_the_same_has_none(a in document()) {
            prop_assert!(diff(&a, &a).is_empty());
        }
    }
}
