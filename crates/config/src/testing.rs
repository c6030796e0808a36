//! Configurations for property tests: few keys, so that they meet.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// A layer: an object, `null` in it too.
pub(crate) fn layer() -> impl Strategy<Value = Value> {
    object(any_value(true))
}

/// A document: an object without `null`.
pub(crate) fn document() -> impl Strategy<Value = Value> {
    object(any_value(false))
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "d.e"]).prop_map(str::to_owned)
}

fn object(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop::collection::btree_map(key(), value, 0..4)
        .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>()))
}

fn any_value(null: bool) -> impl Strategy<Value = Value> {
    let nothing = if null { Value::Null } else { json!("n") };
    let leaf = prop_oneof![
        Just(nothing),
        any::<bool>().prop_map(Value::from),
        (0..3_i64).prop_map(Value::from),
        "[x-z]{0,2}".prop_map(Value::from),
        Just(json!([1, {"a": null}])),
        Just(json!({})),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop::collection::btree_map(key(), inner, 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>()))
    })
}
