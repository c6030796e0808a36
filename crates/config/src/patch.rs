//! What one layer says, and how two of them become one.
//!
//! A layer is written as JSON: an object goes into what is below it key by key, anything else
//! takes its place, lists too, and `null` takes away what is below. That is RFC 7396. But a patch
//! of RFC 7396 can't say "this object, and nothing of what was here", which is what two patches
//! in a row can mean; so here it can, and that makes merging associative: it does not matter in
//! which order neighbouring layers are merged.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What a layer says about a place.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// This value, whatever is below. It is no object.
    Set(Value),
    /// Nothing, whatever is below.
    Unset,
    /// An object, into what is below.
    Merge(BTreeMap<String, Patch>),
    /// An object in the place of what is below. There is no `Unset` and no `Merge` in it.
    Replace(BTreeMap<String, Patch>),
}

impl Patch {
    /// The layer that changes nothing in an object.
    #[must_use]
    pub const fn nothing() -> Self {
        Self::Merge(BTreeMap::new())
    }

    /// A layer as it is written.
    #[must_use]
    pub fn from_json(value: Value) -> Self {
        match value {
            Value::Object(map) => {
                Self::Merge(map.into_iter().map(|(key, value)| (key, Self::from_json(value))).collect())
            }
            Value::Null => Self::Unset,
            value => Self::Set(value),
        }
    }

    /// This layer with another above it, as one.
    #[must_use]
    pub fn then(self, above: Self) -> Self {
        match (self, above) {
            (Self::Merge(below), Self::Merge(above)) => Self::Merge(union(below, above)),
            (Self::Replace(below), Self::Merge(above)) => Self::Replace(alone(union(below, above))),
            (Self::Set(_) | Self::Unset, Self::Merge(above)) => Self::Replace(alone(above)),
            (_, above) => above,
        }
    }

    /// What is there with nothing below; `None` when nothing is.
    #[must_use]
    pub fn into_value(self) -> Option<Value> {
        match self {
            Self::Set(value) => Some(value),
            Self::Unset => None,
            Self::Merge(map) | Self::Replace(map) => Some(Value::Object(
                map.into_iter()
                    .filter_map(|(key, patch)| Some((key, patch.into_value()?)))
                    .collect::<Map<_, _>>(),
            )),
        }
    }

    /// This, where nothing is below it.
    fn alone(self) -> Option<Self> {
        match self {
            Self::Unset => None,
            Self::Merge(map) => Some(Self::Replace(alone(map))),
            other => Some(other),
        }
    }
}

fn alone(map: BTreeMap<String, Patch>) -> BTreeMap<String, Patch> {
    map.into_iter().filter_map(|(key, patch)| Some((key, patch.alone()?))).collect()
}

fn union(mut below: BTreeMap<String, Patch>, above: BTreeMap<String, Patch>) -> BTreeMap<String, Patch> {
    for (key, above) in above {
        let both = match below.remove(&key) {
            Some(below) => below.then(above),
            None => above,
        };
        below.insert(key, both);
    }
    below
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::layer;

    fn merged(layers: &[Value]) -> Value {
        layers
            .iter()
            .fold(Patch::nothing(), |below, above| below.then(Patch::from_json(above.clone())))
            .into_value()
            .unwrap()
    }

    #[test]
    fn objects_go_into_each_other_and_all_else_takes_its_place() {
        let all = merged(&[
            json!({"model": {"provider": "openai", "name": "a"}, "list": [1, 2], "gone": 1}),
            json!({"model": {"name": "b"}, "list": [3], "gone": null}),
        ]);
        assert_eq!(all, json!({"model": {"provider": "openai", "name": "b"}, "list": [3]}));
    }

    #[test]
    fn an_object_that_took_a_value_s_place_has_nothing_of_before() {
        let all = merged(&[json!({"a": {"x": 1}}), json!({"a": 1}), json!({"a": {"y": 2, "z": null}})]);
        assert_eq!(all, json!({"a": {"y": 2}}));
    }

    proptest! {
        #[test]
        fn merging_is_associative(a in layer(), b in layer(), c in layer()) {
            let [a, b, c] = [a, b, c].map(Patch::from_json);
            let left = a.clone().then(b.clone()).then(c.clone());
            let right = a.then(b.then(c));
            prop_assert_eq!(left, right);
        }

        #[test]
        fn nothing_changes_nothing(a in layer()) {
            let a = Patch::from_json(a);
            prop_assert_eq!(Patch::nothing().then(a.clone()), a.clone());
            prop_assert_eq!(a.clone().then(Patch::nothing()), a);
        }

        #[test]
        fn the_last_word_holds(a in layer(), b in layer()) {
            let both = Patch::from_json(a).then(Patch::from_json(b.clone())).into_value().unwrap();
            let again = Patch::from_json(both.clone()).then(Patch::from_json(b)).into_value().unwrap();
            prop_assert_eq!(again, both);
        }
    }
}
