//! Templates: one configuration for many instances, with places to fill in.

use std::collections::{BTreeMap, BTreeSet};

use clawfarm_model::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::diff::put;
use crate::path::{ConfigPath, check_keys};

/// A configuration for many instances.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// What is filled in for each instance. Without a body, the name of each is its place in the
    /// configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<Variable>,
    /// The configuration, with `${name}` where a variable goes. A text that is nothing but
    /// `${name}` becomes the variable's value, of whatever type; within a longer text it is
    /// written into it. `$${` is a plain `${`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Map<String, Value>>,
    /// Places that an instance may not touch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<ConfigPath>,
}

/// A place to fill in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// Its name; a path in the configuration when the template has no body.
    pub name: ConfigPath,
    /// What may be put there.
    #[serde(rename = "type")]
    pub kind: VariableType,
    /// What is put there when an instance says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// Whether it must have a value.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// The only values that it may have, when there are such.
    #[serde(default, rename = "enum", skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Value>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What a variable may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VariableType {
    /// Text.
    String,
    /// A number.
    Number,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A list.
    Array,
    /// An object.
    Object,
    /// A reference to a secret: `{"secret": "name"}`.
    Secret,
}

impl VariableType {
    /// The name as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Number => "number",
            Self::Integer => "integer",
            Self::Boolean => "boolean",
            Self::Array => "array",
            Self::Object => "object",
            Self::Secret => "secret",
        }
    }

    /// Some value of it.
    fn sample(self) -> Value {
        match self {
            Self::String => "sample".into(),
            Self::Number | Self::Integer => 1.into(),
            Self::Boolean => true.into(),
            Self::Array => Value::Array(Vec::new()),
            Self::Object => Value::Object(Map::new()),
            Self::Secret => serde_json::json!({ "secret": "sample" }),
        }
    }

    fn takes(self, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Number => value.is_number(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Boolean => value.is_boolean(),
            Self::Array => value.is_array(),
            Self::Object => value.is_object(),
            Self::Secret => value
                .as_object()
                .is_some_and(|it| it.len() == 1 && it.get("secret").is_some_and(Value::is_string)),
        }
    }
}

/// A template for one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled {
    /// What the template says.
    pub template: Value,
    /// What the instance says: what it gives for variables that are places, and for no variable.
    pub instance: Value,
}

impl Template {
    /// Checks what can be checked without an instance.
    ///
    /// # Errors
    /// Names the variable or the place of the body.
    pub fn check(&self) -> Result<()> {
        let mut names: BTreeSet<&ConfigPath> = BTreeSet::new();
        for (index, variable) in self.variables.iter().enumerate() {
            let field = format!("variables[{index}]");
            if !names.insert(&variable.name) {
                return Err(Error::invalid(field, format!("there are two variables '{}'", variable.name))
                    .fix("give each another name"));
            }
            if let Some(default) = &variable.default {
                variable.takes(default).map_err(|why| why.field(format!("{field}.default")))?;
                check_keys(default, &format!("{field}.default"))?;
            }
            let locked = self.body.is_none() && self.locks.iter().any(|lock| lock.touches(&variable.name));
            if locked && variable.required && variable.default.is_none() {
                return Err(Error::invalid(
                    field,
                    format!(
                        "'{}' is wanted of an instance, which may not touch it: it is locked",
                        variable.name
                    ),
                )
                .fix("give it a default, or take it out of the locks"));
            }
            for choice in &variable.choices {
                if !variable.kind.takes(choice) {
                    return Err(variable.mismatch(choice).field(format!("{field}.enum")));
                }
            }
        }
        if self.body.is_none() {
            if let Some((holder, held)) = nested(&names) {
                return Err(Error::invalid("variables", format!("'{held}' is inside of '{holder}'"))
                    .fix("leave one of the two out, or give the template a body"));
            }
            return Ok(());
        }
        if let Some(body) = &self.body {
            check_keys(&Value::Object(body.clone()), "body")?;
        }
        let known: BTreeMap<String, Value> =
            names.iter().map(|name| (name.to_string(), Value::Null)).collect();
        fill_object(self.body.as_ref().unwrap_or(&Map::new()), &ConfigPath::root(), &known).map(drop)
    }

    /// Whether it says nothing at all: nobody who goes by it would be any different without it.
    #[must_use]
    pub fn says_nothing(&self) -> bool {
        self.locks.is_empty()
            && self.variables.is_empty()
            && self.body.as_ref().is_none_or(serde_json::Map::is_empty)
    }

    /// The template with an instance's values in it. `given` is what the instance says, by the
    /// name of a variable or by the path in the configuration.
    ///
    /// # Errors
    /// Names the variable that has no value, or has one that it can't have.
    pub fn fill(&self, given: &BTreeMap<ConfigPath, Value>) -> Result<Filled> {
        let mut values: BTreeMap<String, Value> = BTreeMap::new();
        let mut template = Value::Object(Map::new());
        let mut instance = Value::Object(Map::new());
        for variable in &self.variables {
            let own = given.get(&variable.name);
            // Where a variable is a place, an instance may take away what the template says there.
            let gone = self.body.is_none() && own.is_some_and(Value::is_null);
            if let Some(own) = own.filter(|_| !gone) {
                variable.takes(own)?;
            }
            match own.or(variable.default.as_ref()).filter(|_| !gone) {
                Some(value) => {
                    values.insert(variable.name.to_string(), value.clone());
                }
                None if variable.required => {
                    let set = if self.body.is_none() { "--set" } else { "--var" };
                    return Err(Error::invalid(
                        format!("variables.{}", variable.name),
                        format!("the template wants a {} here, and none is given", variable.kind.as_str()),
                    )
                    .fix(format!("give it: {set} {}=…", variable.name)));
                }
                None => {
                    values.insert(variable.name.to_string(), Value::Null);
                }
            }
            if self.body.is_none() {
                // The default is the template's word also where it is overridden: it may be locked.
                if let Some(default) = &variable.default {
                    put(&mut template, variable.name.parts(), Some(default));
                }
                if let Some(own) = own {
                    put(&mut instance, variable.name.parts(), Some(own));
                }
            }
        }
        if let Some(body) = &self.body {
            template = Value::Object(fill_object(body, &ConfigPath::root(), &values)?);
        }
        for (path, value) in given {
            if !self.variables.iter().any(|variable| variable.name == *path) {
                put(&mut instance, path.parts(), Some(value));
            }
        }
        Ok(Filled { template, instance })
    }
}

impl Template {
    /// What it says whatever an instance gives: where all hangs on a variable without a default,
    /// there is nothing.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn outline(&self) -> Result<Map<String, Value>> {
        self.tried(|variable| variable.default.clone())
    }

    /// What it may say to an instance: with a value of its type for each variable without a
    /// default.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn sample(&self) -> Result<Map<String, Value>> {
        self.tried(|variable| {
            let any = || variable.choices.first().cloned().unwrap_or_else(|| variable.kind.sample());
            Some(variable.default.clone().unwrap_or_else(any))
        })
    }

    fn tried(&self, value: impl Fn(&Variable) -> Option<Value>) -> Result<Map<String, Value>> {
        let (mut values, mut open) = (BTreeMap::new(), BTreeSet::new());
        let mut places = Value::Object(Map::new());
        for variable in &self.variables {
            let value = value(variable);
            if let (Some(value), None) = (&value, &self.body) {
                put(&mut places, variable.name.parts(), Some(value));
            }
            if value.is_none() {
                open.insert(variable.name.to_string());
            }
            values.insert(variable.name.to_string(), value.unwrap_or(Value::Null));
        }
        let Some(body) = &self.body else {
            return Ok(places.as_object().cloned().unwrap_or_default());
        };
        let decided = decided(&Value::Object(body.clone()), &open);
        let decided = decided.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
        fill_object(&decided, &ConfigPath::root(), &values)
    }
}

/// A value without the texts that hang on one of the `open` variables.
fn decided(value: &Value, open: &BTreeSet<String>) -> Option<Value> {
    Some(match value {
        Value::String(text) => {
            let pieces = pieces(text, &ConfigPath::root()).unwrap_or_default();
            if pieces.iter().any(|it| matches!(it, Piece::Variable(name) if open.contains(*name))) {
                return None;
            }
            value.clone()
        }
        Value::Object(map) => Value::Object(
            map.iter().filter_map(|(key, value)| Some((key.clone(), decided(value, open)?))).collect(),
        ),
        Value::Array(list) => Value::Array(list.iter().filter_map(|it| decided(it, open)).collect()),
        other => other.clone(),
    })
}

impl Variable {
    /// Whether it may have a value.
    fn takes(&self, value: &Value) -> Result<()> {
        if !self.kind.takes(value) {
            return Err(self.mismatch(value));
        }
        if !self.choices.is_empty() && !self.choices.contains(value) {
            let choices: Vec<_> = self.choices.iter().map(Value::to_string).collect();
            return Err(Error::invalid(
                format!("variables.{}", self.name),
                "this is none of the values that the template allows",
            )
            .fix(format!("use one of {}", choices.join(", "))));
        }
        Ok(())
    }

    fn mismatch(&self, value: &Value) -> Error {
        let is = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let wanted = self.kind.as_str();
        let fix = match self.kind {
            VariableType::Secret => r#"give a reference: {"secret": "name"}"#.to_owned(),
            _ => format!("give a value of type {wanted}"),
        };
        Error::invalid(format!("variables.{}", self.name), format!("this is {is}, and {wanted} is wanted"))
            .fix(fix)
    }
}

/// Two names of which one is inside of the other.
fn nested<'a>(names: &BTreeSet<&'a ConfigPath>) -> Option<(&'a ConfigPath, &'a ConfigPath)> {
    // In this order what is inside of a name follows it.
    names
        .iter()
        .zip(names.iter().skip(1))
        .find(|(one, other)| one.holds(other))
        .map(|(one, other)| (*one, *other))
}

/// The names of the variables that a value has places for.
///
/// # Errors
/// `InvalidInput` for a place that is not closed, naming where it is.
pub fn places(value: &Value) -> Result<BTreeSet<String>> {
    fn walk(value: &Value, at: &ConfigPath, found: &mut BTreeSet<String>) -> Result<()> {
        match value {
            Value::String(text) => {
                found.extend(pieces(text, at)?.iter().filter_map(|piece| match piece {
                    Piece::Variable(name) => Some((*name).to_owned()),
                    Piece::Text(_) => None,
                }));
            }
            Value::Object(map) => {
                for (key, value) in map {
                    walk(value, &at.child(key), found)?;
                }
            }
            Value::Array(list) => {
                for (index, value) in list.iter().enumerate() {
                    walk(value, &at.child(&index.to_string()), found)?;
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        Ok(())
    }
    let mut found = BTreeSet::new();
    walk(value, &ConfigPath::root(), &mut found)?;
    Ok(found)
}

/// A value with `values` in its places, by the same rules as a template's body. `None` when it is
/// a place alone whose value is `null`.
///
/// # Errors
/// `InvalidInput` for a place that `values` does not name, and for a list or an object within a
/// text.
pub fn fill(value: &Value, values: &BTreeMap<String, Value>) -> Result<Option<Value>> {
    fill_value(value, &ConfigPath::root(), values)
}

fn fill_object(
    body: &Map<String, Value>,
    at: &ConfigPath,
    values: &BTreeMap<String, Value>,
) -> Result<Map<String, Value>> {
    let mut filled = Map::new();
    for (key, value) in body {
        let at = at.child(key);
        if let Some(value) = fill_value(value, &at, values)? {
            filled.insert(key.clone(), value);
        }
    }
    Ok(filled)
}

/// The value, filled in; `None` when it is a variable that has no value.
fn fill_value(value: &Value, at: &ConfigPath, values: &BTreeMap<String, Value>) -> Result<Option<Value>> {
    Ok(Some(match value {
        Value::String(text) => match pieces(text, at)?.as_slice() {
            [Piece::Variable(name)] => match known(name, at, values)? {
                Value::Null => return Ok(None),
                value => value.clone(),
            },
            pieces => Value::String(written(pieces, at, values)?),
        },
        Value::Object(map) => Value::Object(fill_object(map, at, values)?),
        Value::Array(list) => {
            let mut filled = Vec::with_capacity(list.len());
            for (index, value) in list.iter().enumerate() {
                filled.extend(fill_value(value, &at.child(&index.to_string()), values)?);
            }
            Value::Array(filled)
        }
        other => other.clone(),
    }))
}

enum Piece<'a> {
    Text(&'a str),
    Variable(&'a str),
}

/// A text in its pieces.
fn pieces<'a>(text: &'a str, at: &ConfigPath) -> Result<Vec<Piece<'a>>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find("${") {
        let (before, from) = rest.split_at(begin);
        let from = from.get(2..).unwrap_or_default();
        if let Some(before) = before.strip_suffix('$') {
            pieces.push(Piece::Text(before));
            pieces.push(Piece::Text("${"));
            rest = from;
            continue;
        }
        let Some((name, after)) = from.split_once('}') else {
            return Err(Error::invalid(format!("body.{at}"), "a '${' is not closed")
                .fix("write ${name}, or $${ for a plain ${"));
        };
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        pieces.push(Piece::Variable(name.trim()));
        rest = after;
    }
    if !rest.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

fn known<'a>(name: &str, at: &ConfigPath, values: &'a BTreeMap<String, Value>) -> Result<&'a Value> {
    values.get(name).ok_or_else(|| {
        let shown: String = name.chars().take(60).flat_map(char::escape_default).collect();
        Error::invalid(format!("body.{at}"), format!("there is no variable '{shown}'"))
            .fix("add it to the variables, or write $${ for a plain ${")
    })
}

/// Pieces as one text.
fn written(pieces: &[Piece<'_>], at: &ConfigPath, values: &BTreeMap<String, Value>) -> Result<String> {
    let mut text = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(piece) => text.push_str(piece),
            Piece::Variable(name) => match known(name, at, values)? {
                Value::Null => {}
                Value::String(value) => text.push_str(value),
                value @ (Value::Number(_) | Value::Bool(_)) => text.push_str(&value.to_string()),
                Value::Array(_) | Value::Object(_) => {
                    return Err(Error::invalid(
                        format!("body.{at}"),
                        format!("'{name}' is no plain value and can't be written into a text"),
                    )
                    .fix(format!("let the whole text be ${{{name}}}")));
                }
            },
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(value: Value) -> Template {
        let template: Template = serde_json::from_value(value).unwrap();
        template.check().unwrap();
        template
    }

    fn given(values: &[(&str, Value)]) -> BTreeMap<ConfigPath, Value> {
        values.iter().map(|(path, value)| (path.parse().unwrap(), value.clone())).collect()
    }

    #[test]
    fn without_a_body_a_variable_is_its_place() {
        let template = template(json!({"variables": [
            {"name": "model.name", "type": "string", "default": "claude-3-haiku", "required": true},
            {"name": "memory.limit", "type": "number", "default": 100_000, "required": false},
        ]}));
        let filled =
            template.fill(&given(&[("model.name", json!("claude-3-opus")), ("env.A", json!("b"))])).unwrap();
        // The default is said, too: it may be locked, and is told as what was overridden.
        let defaults = json!({"model": {"name": "claude-3-haiku"}, "memory": {"limit": 100_000}});
        assert_eq!(filled.template, defaults);
        assert_eq!(filled.instance, json!({"model": {"name": "claude-3-opus"}, "env": {"A": "b"}}));
    }

    #[test]
    fn an_instance_may_take_away_what_a_variable_says_but_for_one_that_is_wanted() {
        let template = template(json!({"variables": [
            {"name": "memory.limit", "type": "number", "default": 100_000},
            {"name": "model.name", "type": "string", "default": "a", "required": true},
        ]}));
        let filled = template.fill(&given(&[("memory.limit", json!(null))])).unwrap();
        assert_eq!(filled.instance, json!({"memory": {"limit": null}}));
        let refused = template.fill(&given(&[("model.name", json!(null))])).unwrap_err();
        assert_eq!(refused.field_name(), Some("variables.model.name"));
    }

    #[test]
    fn an_outline_is_what_hangs_on_nothing_and_a_sample_has_something_everywhere() {
        let template = template(json!({
            "variables": [
                {"name": "n", "type": "integer"},
                {"name": "level", "type": "string", "enum": ["low", "high"]},
                {"name": "who", "type": "string", "default": "me"},
            ],
            "body": {"a": {"n": "${n}", "w": "${who}"}, "b": ["at ${level}", "x"], "c": "${level} ${who}"},
        }));
        assert_eq!(Value::Object(template.outline().unwrap()), json!({"a": {"w": "me"}, "b": ["x"]}));
        assert_eq!(
            Value::Object(template.sample().unwrap()),
            json!({"a": {"n": 1, "w": "me"}, "b": ["at low", "x"], "c": "low me"})
        );
    }

    #[test]
    fn a_body_is_filled_with_values_of_their_types() {
        let template = template(json!({
            "variables": [
                {"name": "n", "type": "integer", "default": 3},
                {"name": "who", "type": "string", "required": true},
                {"name": "key", "type": "secret"},
                {"name": "none", "type": "string"},
            ],
            "body": {"a": "${n}", "b": ["hello ${who}, ${n}", "$${x}"], "c": {"key": "${ key }"}, "d": "${none}"},
        }));
        let filled =
            template.fill(&given(&[("who", json!("${n}")), ("key", json!({"secret": "s"}))])).unwrap();
        assert_eq!(
            filled.template,
            // What is filled in is not filled in again.
            json!({"a": 3, "b": ["hello ${n}, 3", "${x}"], "c": {"key": {"secret": "s"}}})
        );
        assert_eq!(filled.instance, json!({}));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let fitting = template(json!({"variables": [
            {"name": "model.name", "type": "string", "required": true, "enum": ["a", "b"]},
            {"name": "memory.limit", "type": "integer"},
        ]}));
        for (values, field) in [
            (vec![], "variables.model.name"),
            (vec![("model.name", json!("c"))], "variables.model.name"),
            (vec![("model.name", json!(1))], "variables.model.name"),
            (vec![("model.name", json!("a")), ("memory.limit", json!(1.5))], "variables.memory.limit"),
        ] {
            let refused = fitting.fill(&given(&values)).unwrap_err();
            assert_eq!(refused.field_name(), Some(field));
            assert!(refused.fix_text().is_some());
        }
        for (broken, field) in [
            (json!({"variables": [{"name": "a", "type": "string", "default": 1}]}), "variables[0].default"),
            (json!({"variables": [{"name": "a", "type": "string", "enum": [1]}]}), "variables[0].enum"),
            (
                json!({"variables": [{"name": "a", "type": "string"}, {"name": "a", "type": "number"}]}),
                "variables[1]",
            ),
            (
                json!({"variables": [{"name": "a", "type": "object"}, {"name": "a.b", "type": "number"}]}),
                "variables",
            ),
            (
                json!({"variables": [{"name": "a.b", "type": "string", "required": true}], "locks": ["a"]}),
                "variables[0]",
            ),
            (json!({"body": {"x": {"": 1}}}), "body.x"),
            (json!({"body": {"x": {"y": "${nobody}"}}}), "body.x.y"),
            (json!({"body": {"x": ["${open"]}}), "body.x.0"),
        ] {
            let refused = serde_json::from_value::<Template>(broken).unwrap().check().unwrap_err();
            assert_eq!((refused.field_name(), refused.fix_text().is_some()), (Some(field), true));
        }
    }

    #[test]
    fn fuzz_texts_of_a_body() {
        let values = BTreeMap::from([("a".to_owned(), json!("v")), ("b".to_owned(), json!(1))]);
        clawfarm_fuzz::fuzz_text(&["${a}", "x ${a} y ${ b } $${c}", "${"], |text| {
            let filled = fill_value(&json!(text), &ConfigPath::root(), &values);
            if !text.contains("${") {
                assert_eq!(filled.unwrap(), Some(json!(text)));
            }
        });
    }
}
