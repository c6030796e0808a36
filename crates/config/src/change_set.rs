//! A change of what is said at some places, which can be made and taken back place by place.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::diff::{Change, diff, put};
use crate::path::ConfigPath;

/// What is to be otherwise in a document, and what was there before. Each place is as deep as the
/// two differ, so that what somebody else says beside it at the same time is left alone, on the
/// way there and back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChangeSet(Vec<Change>);

impl ChangeSet {
    /// What leads from one document to another.
    #[must_use]
    pub fn between(before: &Value, after: &Value) -> Self {
        let mut leaves = Vec::new();
        for change in diff(before, after) {
            split(change, &mut leaves);
        }
        Self(leaves)
    }

    /// Whether nothing is to be otherwise.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The places, in their order.
    pub fn places(&self) -> impl Iterator<Item = &ConfigPath> {
        self.0.iter().map(|it| &it.path)
    }

    /// The way back.
    #[must_use]
    pub fn back(&self) -> Self {
        let back = |it: &Change| Change {
            path: it.path.clone(),
            before: it.after.clone(),
            after: it.before.clone(),
        };
        Self(self.0.iter().map(back).collect())
    }

    /// Whether a document says at each place what it is to say.
    #[must_use]
    pub fn is_done(&self, document: &Value) -> bool {
        self.0.iter().all(|it| it.path.find(document) == it.after.as_ref())
    }

    /// The document with the change made. What is done already stays so.
    ///
    /// # Errors
    /// The first place at which it says neither what was there before nor what is to be there:
    /// somebody else has changed it.
    pub fn done(&self, document: &Value) -> Result<Value, ConfigPath> {
        let mut done = document.clone();
        for change in &self.0 {
            let there = change.path.find(document);
            if there == change.after.as_ref() {
                continue;
            }
            if there != change.before.as_ref() {
                return Err(change.path.clone());
            }
            match &change.after {
                Some(value) => put(&mut done, change.path.parts(), Some(value)),
                None => remove(&mut done, change.path.parts()),
            }
        }
        Ok(done)
    }
}

/// Objects that come or go as a whole come or go by what is in them.
fn split(change: Change, leaves: &mut Vec<Change>) {
    let Change { path, before, after } = change;
    let holds =
        |it: &Option<Value>| it.as_ref().and_then(Value::as_object).filter(|it| !it.is_empty()).cloned();
    let each = |object: Map<String, Value>, comes: bool, leaves: &mut Vec<Change>| {
        for (key, value) in object {
            let path = path.child(&key);
            let (before, after) = if comes { (None, Some(value)) } else { (Some(value), None) };
            split(Change { path, before, after }, leaves);
        }
    };
    match (holds(&before), holds(&after)) {
        (None, Some(object)) if before.is_none() => each(object, true, leaves),
        (Some(object), None) if after.is_none() => each(object, false, leaves),
        _ => leaves.push(Change { path, before, after }),
    }
}

/// Takes away what is at a place, and the objects around it that have nothing else in them.
fn remove(at: &mut Value, place: &[String]) {
    let (Some(map), Some((key, further))) = (at.as_object_mut(), place.split_first()) else { return };
    if further.is_empty() {
        map.remove(key);
        return;
    }
    let Some(inner) = map.get_mut(key) else { return };
    remove(inner, further);
    if inner.as_object().is_some_and(Map::is_empty) {
        map.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::layer;

    /// Without the objects that nothing is in.
    fn full(value: &Value) -> Value {
        match value {
            Value::Object(all) => all
                .iter()
                .map(|(key, value)| (key.clone(), full(value)))
                .filter(|(_, value)| value.as_object().is_none_or(|it| !it.is_empty()))
                .collect(),
            other => other.clone(),
        }
    }

    #[test]
    fn what_others_say_beside_it_stays_on_both_ways() {
        let change = ChangeSet::between(
            &json!({"model": {"name": "a"}}),
            &json!({"model": {"name": "b"}, "env": {"A": "1"}}),
        );
        let places: Vec<_> = change.places().map(ToString::to_string).collect();
        assert_eq!(places, ["env.A", "model.name"]);
        let mine = json!({"model": {"name": "a"}, "env": {"B": "2"}});
        let done = change.done(&mine).unwrap();
        assert_eq!(done, json!({"model": {"name": "b"}, "env": {"A": "1", "B": "2"}}));
        assert!(change.is_done(&done) && !change.is_done(&mine));
        assert_eq!(change.done(&done).unwrap(), done, "twice is once");
        assert_eq!(change.back().done(&done).unwrap(), mine);
    }

    #[test]
    fn what_somebody_else_changed_is_named_and_left() {
        let change = ChangeSet::between(&json!({}), &json!({"env": {"A": "1"}}));
        let theirs = json!({"env": {"A": "mine"}});
        assert_eq!(change.done(&theirs).unwrap_err().to_string(), "env.A");
        assert_eq!(change.back().done(&theirs).unwrap_err().to_string(), "env.A");
        // A null says something: that nothing is there.
        let taken = ChangeSet::between(&json!({"env": {"A": null}}), &json!({}));
        assert_eq!(taken.done(&json!({})).unwrap(), json!({}));
        assert_eq!(taken.back().done(&json!({})).unwrap(), json!({"env": {"A": null}}));
        let written = serde_json::to_string(&taken).unwrap();
        assert_eq!(serde_json::from_str::<ChangeSet>(&written).unwrap(), taken);
    }

    proptest! {
        #[test]
        fn it_leads_there_and_back(a in layer(), b in layer()) {
            let change = ChangeSet::between(&a, &b);
            let there = change.done(&a).unwrap();
            prop_assert!(change.is_done(&there));
            prop_assert_eq!(full(&there), full(&b));
            prop_assert_eq!(full(&change.back().done(&there).unwrap()), full(&a));
        }
    }
}
