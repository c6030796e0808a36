//! From layers to the one configuration of an instance, and where each of its values came from.

use std::collections::BTreeMap;
use std::fmt;

use clawfarm_model::name::{ProjectName, TenantName};
use clawfarm_model::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::path::ConfigPath;

/// Who says something about a configuration. From the most general to the most particular: what
/// comes later has the last word, but for what an earlier one has locked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "layer", rename_all = "snake_case")]
pub enum Origin {
    /// clawfarm, where nobody else says anything.
    Default,
    /// The whole fleet.
    Global,
    /// A tenant.
    Tenant {
        /// Its name.
        name: TenantName,
    },
    /// A project of the tenant's.
    Project {
        /// Its name.
        name: ProjectName,
    },
    /// A revision of the template that the instance is bound to.
    Template {
        /// The template's name.
        name: String,
        /// The number of the revision.
        revision: i64,
    },
    /// The instance itself.
    Instance,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Global => f.write_str("global"),
            Self::Tenant { name } => write!(f, "tenant {name}"),
            Self::Project { name } => write!(f, "project {name}"),
            Self::Template { name, revision } => write!(f, "template {name}@{revision}"),
            Self::Instance => f.write_str("instance"),
        }
    }
}

/// What one of them says.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Who.
    pub origin: Origin,
    /// What: an object that goes into what is below it key by key; anything that is no object
    /// takes the place of what is below, and `null` takes it away.
    pub values: Value,
    /// Places that nobody after this one may touch, whether there is a value or not.
    pub locks: Vec<ConfigPath>,
}

/// What comes of the layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// The configuration.
    pub document: Value,
    /// Each of its values, and each that was taken away, by path.
    pub explained: Vec<Explained>,
    /// What was said but doesn't hold, because it is locked.
    pub refused: Vec<Refused>,
}

/// Where one value came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explained {
    /// The place.
    pub path: ConfigPath,
    /// The value; absent when `from` took away what was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Who says so.
    pub from: Origin,
    /// What others said before, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrode: Vec<Overridden>,
    /// Who has locked the place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_by: Option<Origin>,
}

/// A value that somebody else's took the place of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Overridden {
    /// Where it was: at the place itself, or below it.
    pub path: ConfigPath,
    /// The value.
    pub value: Value,
    /// Who said so.
    pub from: Origin,
}

/// A value that doesn't hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Refused {
    /// The place.
    pub path: ConfigPath,
    /// Who wanted it.
    pub by: Origin,
    /// What is locked: the place itself, or one above or below it.
    pub lock: ConfigPath,
    /// Who has locked it.
    pub locked_by: Origin,
}

impl Refused {
    /// As an error, for whoever wanted it.
    #[must_use]
    pub fn error(&self) -> Error {
        Error::invalid(
            format!("config.{}", self.path),
            format!("'{}' is locked by {}", self.lock, self.locked_by),
        )
        .fix("leave it out, or ask whoever owns that layer")
    }
}

/// Lays the layers on each other, in the order given.
///
/// # Errors
/// `InvalidInput` when the values of a layer are no object.
pub fn resolve(layers: &[Layer]) -> Result<Effective> {
    let mut locks: Vec<(&ConfigPath, usize)> = Vec::new();
    let mut root = Node::Object { from: 0, children: BTreeMap::new(), over: Vec::new() };
    let mut refused = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let Value::Object(values) = &layer.values else {
            return Err(Error::invalid("config", format!("what {} says is no object", layer.origin))
                .fix(r#"write an object, such as {"model": {"provider": "demo"}}"#));
        };
        let mut laying = Laying { locks: &locks, from: index, refused: Vec::new() };
        laying.lay_object(&mut root, &ConfigPath::root(), values);
        refused.extend(laying.refused.into_iter().filter_map(|(path, lock, locked_by)| {
            let locked_by = layers.get(locked_by)?.origin.clone();
            Some(Refused { path, by: layer.origin.clone(), lock, locked_by })
        }));
        locks.extend(layer.locks.iter().map(|lock| (lock, index)));
    }
    let mut telling = Telling { layers, locks: &locks, explained: Vec::new() };
    telling.tell(&ConfigPath::root(), &root);
    Ok(Effective {
        explained: telling.explained,
        document: root.into_value().unwrap_or_else(|| Value::Object(Map::new())),
        refused,
    })
}

/// What is known of a place while layers are laid.
enum Node {
    /// A value that is no object.
    Leaf { value: Value, from: usize, over: Vec<Over> },
    /// It was taken away.
    Gone { from: usize, over: Vec<Over> },
    /// An object; `from` is who made it one.
    Object { from: usize, children: BTreeMap<String, Node>, over: Vec<Over> },
}

/// What was at or below a place before.
struct Over {
    path: ConfigPath,
    value: Value,
    from: usize,
}

impl Node {
    fn into_value(self) -> Option<Value> {
        match self {
            Self::Leaf { value, .. } => Some(value),
            Self::Gone { .. } => None,
            Self::Object { children, .. } => Some(Value::Object(
                children.into_iter().filter_map(|(key, node)| Some((key, node.into_value()?))).collect(),
            )),
        }
    }

    /// Everything that was ever said here, the latest first.
    fn into_history(self, at: &ConfigPath) -> Vec<Over> {
        match self {
            Self::Leaf { value, from, mut over } => {
                over.insert(0, Over { path: at.clone(), value, from });
                over
            }
            Self::Gone { over, .. } => over,
            Self::Object { children, over, from } => {
                let empty = children.is_empty();
                let mut all: Vec<_> =
                    children.into_iter().flat_map(|(key, node)| node.into_history(&at.child(&key))).collect();
                if empty {
                    all.push(Over { path: at.clone(), value: Value::Object(Map::new()), from });
                }
                all.extend(over);
                all
            }
        }
    }
}

/// One layer on its way in.
struct Laying<'a> {
    locks: &'a [(&'a ConfigPath, usize)],
    from: usize,
    refused: Vec<(ConfigPath, ConfigPath, usize)>,
}

impl Laying<'_> {
    /// Whether a lock keeps this layer from the place; says so when one does.
    fn kept_off(&mut self, at: &ConfigPath, object: bool) -> bool {
        // An object touches no more than what is in it.
        let lock = self.locks.iter().find(|(lock, _)| lock.holds(at) || (!object && at.holds(lock)));
        if let Some((lock, by)) = lock {
            self.refused.push((at.clone(), (*lock).clone(), *by));
        }
        lock.is_some()
    }

    fn lay_object(&mut self, node: &mut Node, at: &ConfigPath, values: &Map<String, Value>) {
        if !matches!(node, Node::Object { .. }) {
            let before = std::mem::replace(node, Node::Gone { from: self.from, over: Vec::new() });
            let over = before.into_history(at);
            *node = Node::Object { from: self.from, children: BTreeMap::new(), over };
        }
        let Node::Object { children, .. } = node else { return };
        for (key, value) in values {
            let at = at.child(key);
            if self.kept_off(&at, value.is_object()) {
                continue;
            }
            match (children.get_mut(key), value) {
                (Some(there), Value::Object(values)) => self.lay_object(there, &at, values),
                (None, Value::Object(values)) => {
                    let mut new =
                        Node::Object { from: self.from, children: BTreeMap::new(), over: Vec::new() };
                    self.lay_object(&mut new, &at, values);
                    children.insert(key.clone(), new);
                }
                (None, Value::Null) => {}
                (_, value) => {
                    let over = children.remove(key).map(|it| it.into_history(&at)).unwrap_or_default();
                    let from = self.from;
                    children.insert(
                        key.clone(),
                        match value {
                            Value::Null => Node::Gone { from, over },
                            value => Node::Leaf { value: value.clone(), from, over },
                        },
                    );
                }
            }
        }
    }
}

/// What is told of the whole.
struct Telling<'a> {
    layers: &'a [Layer],
    locks: &'a [(&'a ConfigPath, usize)],
    explained: Vec<Explained>,
}

impl Telling<'_> {
    fn tell(&mut self, at: &ConfigPath, node: &Node) {
        match node {
            Node::Leaf { value, from, over } => self.one(at, Some(value.clone()), *from, over),
            Node::Gone { from, over } => self.one(at, None, *from, over),
            Node::Object { from, children, over } => {
                // An object is told by what is in it, but for one that is empty (or has nothing left
                // in it), and one that took another value's place.
                let root = at.parts().is_empty();
                let empty = children.values().all(|child| matches!(child, Node::Gone { .. }));
                if (empty && !root) || !over.is_empty() {
                    self.one(at, Some(Value::Object(Map::new())), *from, over);
                }
                for (key, node) in children {
                    self.tell(&at.child(key), node);
                }
            }
        }
    }

    fn one(&mut self, path: &ConfigPath, value: Option<Value>, from: usize, over: &[Over]) {
        let origin = |index: usize| self.layers.get(index).map(|layer| layer.origin.clone());
        let Some(from) = origin(from) else { return };
        let overrode = over
            .iter()
            .filter_map(|it| {
                let from = origin(it.from)?;
                Some(Overridden { path: it.path.clone(), value: it.value.clone(), from })
            })
            .collect();
        let locked_by = self.locks.iter().find(|(lock, _)| lock.holds(path)).and_then(|(_, by)| origin(*by));
        self.explained.push(Explained { path: path.clone(), value, from, overrode, locked_by });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::patch::Patch;
    use crate::testing::layer;

    fn path(text: &str) -> ConfigPath {
        text.parse().unwrap()
    }

    fn layers(values: Vec<Value>) -> Vec<Layer> {
        let origins = [
            Origin::Global,
            Origin::Tenant { name: TenantName::default_tenant() },
            Origin::Template { name: "base".into(), revision: 3 },
            Origin::Instance,
        ];
        values
            .into_iter()
            .zip(origins)
            .map(|(values, origin)| Layer { origin, values, locks: Vec::new() })
            .collect()
    }

    #[test]
    fn each_value_says_where_it_came_from_and_what_it_overrode() {
        let effective = resolve(&layers(vec![
            json!({"model": {"provider": "openai", "name": "a"}, "proxy": "http://p"}),
            json!({"model": {"name": "b"}}),
            json!({"model": {"name": "c"}, "proxy": null}),
        ]))
        .unwrap();
        assert_eq!(effective.document, json!({"model": {"provider": "openai", "name": "c"}}));
        let told: Vec<_> = effective
            .explained
            .iter()
            .map(|it| {
                let over: Vec<_> =
                    it.overrode.iter().map(|it| format!("{}={} of {}", it.path, it.value, it.from)).collect();
                let value = it.value.as_ref().map_or("-".to_owned(), Value::to_string);
                format!("{} {value} {} [{}]", it.path, it.from, over.join(", "))
            })
            .collect();
        assert_eq!(
            told,
            [
                r#"model.name "c" template base@3 [model.name="b" of tenant default, model.name="a" of global]"#,
                r#"model.provider "openai" global []"#,
                r#"proxy - template base@3 [proxy="http://p" of global]"#,
            ]
        );
    }

    #[test]
    fn what_is_locked_stays_and_whoever_tried_is_named() {
        let mut all = layers(vec![
            json!({"tools": {"exec": "deny"}, "model": {"provider": "openai"}}),
            json!({"model": {"name": "x"}}),
            json!({"tools": {"exec": "full", "web": true}}),
            json!({"tools": null, "model": {"provider": "demo", "key": 1}}),
        ]);
        all[0].locks = vec![path("tools.exec"), path("model.provider"), path("env")];
        all[3].values["env"] = json!({"A": "b"});
        let effective = resolve(&all).unwrap();
        assert_eq!(
            effective.document,
            json!({"tools": {"exec": "deny", "web": true}, "model": {"provider": "openai", "name": "x", "key": 1}})
        );
        let refused: Vec<_> =
            effective.refused.iter().map(|it| format!("{} {} {}", it.path, it.by, it.lock)).collect();
        assert_eq!(
            refused,
            [
                "tools.exec template base@3 tools.exec",
                "env instance env",
                "model.provider instance model.provider",
                "tools instance tools.exec",
            ]
        );
        assert!(effective.refused.iter().all(|it| it.locked_by == Origin::Global));
        assert_eq!(effective.refused[0].error().field_name(), Some("config.tools.exec"));
        let exec = effective.explained.iter().find(|it| it.path == path("tools.exec")).unwrap();
        assert_eq!(exec.locked_by, Some(Origin::Global));
    }

    #[test]
    fn a_layer_may_set_what_it_locks_itself() {
        let mut all = layers(vec![json!({}), json!({"a": 1}), json!({"a": 2})]);
        all[1].locks = vec![path("a")];
        assert_eq!(resolve(&all).unwrap().document, json!({"a": 1}));
    }

    #[test]
    fn a_layer_that_is_no_object_is_refused() {
        assert!(resolve(&layers(vec![json!([1])])).unwrap_err().fix_text().is_some());
    }

    #[test]
    fn an_object_with_nothing_left_in_it_is_told() {
        let effective =
            resolve(&layers(vec![json!({"c": {"d": false}}), json!({"c": {"d": null}})])).unwrap();
        assert_eq!(effective.document, json!({"c": {}}));
        let told: Vec<_> =
            effective.explained.iter().map(|it| (it.path.to_string(), it.value.clone())).collect();
        assert_eq!(told, [("c".to_owned(), Some(json!({}))), ("c.d".to_owned(), None)]);
    }

    proptest! {
        #[test]
        fn is_what_merging_the_layers_gives(values in prop::collection::vec(layer(), 0..4)) {
            let merged = values
                .iter()
                .fold(Patch::nothing(), |below, above| below.then(Patch::from_json(above.clone())))
                .into_value()
                .unwrap();
            prop_assert_eq!(resolve(&layers(values)).unwrap().document, merged);
        }

        #[test]
        fn what_is_told_is_what_is(values in prop::collection::vec(layer(), 0..4)) {
            let effective = resolve(&layers(values)).unwrap();
            let told = effective.explained.iter().fold(json!({}), |document, it| {
                let change = crate::Change { path: it.path.clone(), before: None, after: it.value.clone() };
                if it.value.is_some() { crate::apply(&document, &[change]) } else { document }
            });
            prop_assert_eq!(told, effective.document);
        }

        #[test]
        fn nobody_after_a_lock_changes_what_it_is_on(
            values in prop::collection::vec(layer(), 2..4),
            lock in prop::sample::select(vec!["a", "a.b", "b.c", "a.b.c"]),
        ) {
            let lock = path(lock);
            let alone = resolve(&layers(values[..1].to_vec())).unwrap().document;
            let mut all = layers(values);
            all[0].locks = vec![lock.clone()];
            let locked = resolve(&all).unwrap();
            prop_assert_eq!(lock.find(&locked.document), lock.find(&alone));
        }
    }
}
