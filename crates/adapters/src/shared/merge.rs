//! What becomes of a configuration file that its user may have changed.
//!
//! Three documents meet in mode `seeded`: what clawfarm seeded last time (`base`), what it
//! would seed now (`seed`), and the file as it is (`theirs`). The user's changes stay; what
//! the owner of the instance changed in clawfarm since the last start arrives; where both
//! changed the same key, clawfarm's owner was asked last and wins. Without a `base` (an
//! imported home) everything in the file is the user's, and only gaps are filled.

use serde_json::{Map, Value};

/// Merges the three.
pub(crate) fn three_way(
    base: &Map<String, Value>,
    seed: &Map<String, Value>,
    theirs: &Map<String, Value>,
) -> Map<String, Value> {
    let empty = Map::new();
    let mut out = Map::new();
    for (key, their) in theirs {
        let was = base.get(key);
        let inner = |v: Option<&Value>| v.and_then(Value::as_object).unwrap_or(&empty).clone();
        match (seed.get(key), their) {
            (Some(Value::Object(now)), Value::Object(their)) => {
                out.insert(key.clone(), Value::Object(three_way(&inner(was), now, their)));
            }
            (Some(now), _) => {
                let changed_here = was.is_some_and(|was| was != now);
                out.insert(key.clone(), if changed_here { now.clone() } else { their.clone() });
            }
            (None, _) if was == Some(their) => {} // seeded once, untouched, and no longer wanted
            (None, Value::Object(their)) if was.is_some() => {
                let rest = three_way(&inner(was), &empty, their);
                if !rest.is_empty() {
                    out.insert(key.clone(), Value::Object(rest));
                }
            }
            (None, _) => {
                out.insert(key.clone(), their.clone());
            }
        }
    }
    for (key, now) in seed {
        // A seeded key that is gone was removed by the user, unless clawfarm's owner changed it since.
        if !theirs.contains_key(key) && base.get(key) != Some(now) {
            out.insert(key.clone(), now.clone());
        }
    }
    out
}

/// Lays `over` on `under`: objects are merged, everything else is replaced, and `null`
/// removes, as in RFC 7396.
pub(crate) fn overlay(under: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (_, Value::Null) => {
                under.remove(key);
            }
            (Some(Value::Object(under)), Value::Object(over)) => overlay(under, over),
            (_, Value::Object(over)) => {
                let mut fresh = Map::new();
                overlay(&mut fresh, over);
                under.insert(key.clone(), Value::Object(fresh));
            }
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::shared::json;

    fn map(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn who_changed_it_has_it() {
        let base = map(json!({"model": "a", "exec": "ask", "tg": {"token": "x"}, "beat": "0m"}));
        let theirs = map(json!({"model": "b", "exec": "ask", "tg": {"token": "x", "name": "n"}, "mine": 1}));
        // Nothing changed in clawfarm: the user's changes stay, the removed key stays removed.
        assert_eq!(Value::Object(three_way(&base, &base, &theirs)), Value::Object(theirs.clone()));
        // The owner chose another model and took the channel away: that arrives, the rest stays.
        let seed = map(json!({"model": "c", "exec": "ask", "beat": "0m"}));
        let merged = three_way(&base, &seed, &theirs);
        assert_eq!(
            Value::Object(merged),
            json!({"model": "c", "exec": "ask", "tg": {"name": "n"}, "mine": 1})
        );
    }

    #[test]
    fn an_imported_file_only_has_its_gaps_filled() {
        let seed = map(json!({"model": "c", "exec": {"mode": "ask"}}));
        let theirs = map(json!({"model": "mine", "exec": {"host": "gateway"}}));
        let merged = three_way(&Map::new(), &seed, &theirs);
        assert_eq!(
            Value::Object(merged),
            json!({"model": "mine", "exec": {"host": "gateway", "mode": "ask"}})
        );
    }

    #[test]
    fn null_in_an_overlay_removes() {
        let mut under = map(json!({"a": {"b": 1, "c": 2}, "d": 1}));
        overlay(&mut under, &map(json!({"a": {"b": null}, "d": null, "e": {"f": null, "g": 1}})));
        assert_eq!(Value::Object(under), json!({"a": {"c": 2}, "e": {"g": 1}}));
    }

    /// JSON with few keys, so that the three documents meet often.
    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0..4).prop_map(Value::from),
            "[ab]?".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop::collection::btree_map("[a-d]|gateway|port|auth|token|mode", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect()))
        })
    }

    pub(crate) fn document() -> impl Strategy<Value = Map<String, Value>> {
        prop::collection::btree_map("[a-d]|gateway|meta", tree(), 0..5).prop_map(|m| m.into_iter().collect())
    }

    /// The paths of everything that is no object.
    fn leaves(at: &Map<String, Value>, path: &[String], out: &mut Vec<(Vec<String>, Value)>) {
        for (key, value) in at {
            let path: Vec<String> = path.iter().cloned().chain([key.clone()]).collect();
            match value {
                Value::Object(inner) if !inner.is_empty() => leaves(inner, &path, out),
                _ => out.push((path, value.clone())),
            }
        }
    }

    fn at<'a>(map: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
        json::get(map, &path.iter().map(String::as_str).collect::<Vec<_>>())
    }

    proptest! {
        /// Whatever clawfarm seeded before and seeds now: a value that the user wrote and that
        /// clawfarm has nothing to say about is there afterwards.
        #[test]
        fn a_users_own_keys_are_never_lost(base in document(), seed in document(), theirs in document()) {
            let merged = three_way(&base, &seed, &theirs);
            let mut own = Vec::new();
            leaves(&theirs, &[], &mut own);
            for (path, value) in own {
                let spoken_of = (1..=path.len()).any(|n| {
                    let is_leaf = |m: &Map<String, Value>| {
                        at(m, &path[..n]).is_some_and(|v| n == path.len() || !v.is_object())
                    };
                    is_leaf(&base) || is_leaf(&seed)
                });
                if !spoken_of {
                    prop_assert_eq!(at(&merged, &path), Some(&value), "{:?}", path);
                }
            }
        }

        /// Done twice it is done once: the file it made, met again with nothing changed, stays.
        #[test]
        fn a_second_start_changes_nothing(base in document(), seed in document(), theirs in document()) {
            let once = three_way(&base, &seed, &theirs);
            prop_assert_eq!(three_way(&seed, &seed, &once), once);
        }
    }
}
