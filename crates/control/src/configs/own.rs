//! What an instance says itself, from what it is wanted to be configured with.

use clawfarm_config::{ConfigPath, Origin, Refused, check_keys, diff};
use clawfarm_model::config::ClawConfig;
use clawfarm_model::{Error, Instance, Layered, Result};
use serde_json::{Map, Value};

use super::layering::{Made, Whose};
use crate::core::Core;

impl Core {
    /// The layers of `instance` when `wanted` is what should come of them: what the layers below
    /// say already is not said again.
    ///
    /// # Errors
    /// When `wanted` differs where a layer has a lock.
    pub(crate) async fn wanting(
        &self,
        instance: &Instance,
        wanted: &ClawConfig,
    ) -> Result<(Layered, ClawConfig)> {
        let mut layered = instance.layers.clone();
        let whose = Whose::of(instance);
        let document = document(wanted)?;
        check_keys(&document, "config")?;
        let below = self.make(&whose, &layered, &Map::new()).await;
        let below = match below {
            Ok(made) => made.effective.document,
            // A template may want what only the instance says.
            Err(_) => Value::Object(Map::new()),
        };
        let own = patch(&below, &document);
        layered.own = Some(own.clone());
        if layered.applied.is_empty() {
            // Nothing is below it, so nothing of it is read as a wish to take something away.
            return Ok((layered, wanted.clone()));
        }
        let made = self.make(&whose, &layered, &own).await?;
        if let Some(refused) = made.effective.refused.iter().find(|it| it.by == Origin::Instance) {
            return Err(refused.error());
        }
        Ok((layered, made.config))
    }

    /// The same for what an instance says itself: what is at `unset` it says no more, and `patch`
    /// goes into the rest as RFC 7396 has it. What it said before at a place that was locked since
    /// stays without effect, and is told as such by what is returned.
    ///
    /// # Errors
    /// When the patch touches what a layer has locked, or what comes of it is no unified config.
    pub(crate) async fn saying(
        &self,
        instance: &Instance,
        layered: Layered,
        unset: &[ConfigPath],
        patch: &Map<String, Value>,
    ) -> Result<(Layered, Made)> {
        let mut own =
            Value::Object(super::layering::own(&Instance { layers: layered.clone(), ..instance.clone() }));
        for place in unset {
            remove(&mut own, place.parts());
        }
        let patch = Value::Object(patch.clone());
        merge(&mut own, &patch);
        check_keys(&own, "config")?;
        let Value::Object(own) = own else {
            return Err(Error::internal("a merged object is an object", "in an instance's own layer"));
        };
        let mut layered = layered;
        layered.own = Some(own.clone());
        let made = self.make(&Whose::of(instance), &layered, &own).await?;
        if let Some(refused) = made.effective.refused.iter().find(|it| says(&patch, it)) {
            return Err(refused.error());
        }
        Ok((layered, made))
    }
}

/// Whether it is the patch that says what is refused.
fn says(patch: &Value, refused: &Refused) -> bool {
    let mut at = patch;
    for part in refused.path.parts() {
        match at.as_object() {
            Some(map) => match map.get(part) {
                Some(further) => at = further,
                None => return false,
            },
            // A value in the place of what holds it.
            None => return refused.by == Origin::Instance,
        }
    }
    refused.by == Origin::Instance
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

/// A unified config as a document.
pub(crate) fn document(config: &ClawConfig) -> Result<Value> {
    serde_json::to_value(config).map_err(|e| Error::internal("a configuration can't be written as JSON", e))
}

/// What makes `wanted` of `below` (RFC 7396).
fn patch(below: &Value, wanted: &Value) -> Map<String, Value> {
    let mut own = Value::Object(Map::new());
    for change in diff(below, wanted) {
        let value = change.after.unwrap_or(Value::Null);
        merge_in(&mut own, change.path.holding(value));
    }
    match own {
        Value::Object(own) => own,
        _ => Map::new(),
    }
}

fn merge_in(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                match into.get_mut(&key) {
                    Some(there) => merge_in(there, value),
                    None => {
                        into.insert(key, value);
                    }
                }
            }
        }
        (into, patch) => *into = patch,
    }
}

/// RFC 7396 on a layer: a `null` stays, since it is what takes away what is below.
pub(crate) fn merge(into: &mut Value, patch: &Value) {
    merge_in(into, patch.clone());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_said_below_is_not_said_again() {
        let below = json!({"model": {"provider": "openai", "name": "a"}, "env": {"A": "1"}});
        let wanted = json!({"model": {"provider": "openai", "name": "b"}});
        assert_eq!(Value::Object(patch(&below, &wanted)), json!({"model": {"name": "b"}, "env": null}));
        assert!(patch(&below, &below).is_empty());
    }

    #[test]
    fn what_is_said_no_more_leaves_nothing_empty_behind() {
        let mut own = json!({"model": {"name": "a"}, "env": {"A": "1", "B": "2"}, "x": 1});
        for place in ["model.name", "env.A", "x", "nobody.said.this", "env.B.deeper"] {
            remove(&mut own, place.parse::<ConfigPath>().unwrap().parts());
        }
        assert_eq!(own, json!({"env": {"B": "2"}}));
    }
}
