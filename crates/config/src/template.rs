//! Templates: one configuration for many instances, with places to fill in.

use std::collections::{BTreeMap, BTreeSet};

use clawfarm_model::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::path::ConfigPath;

/// A configuration for many instances.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What the instance says beside: what was given for no variable.
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
        let known: BTreeMap<String, Value> =
            names.iter().map(|name| (name.to_string(), Value::Null)).collect();
        fill_object(self.body.as_ref().unwrap_or(&Map::new()), &ConfigPath::root(), &known).map(drop)
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
            if let Some(own) = own {
                variable.takes(own)?;
            }
            match own.or(variable.default.as_ref()) {
                Some(value) => {
                    values.insert(variable.name.to_string(), value.clone());
                }
                None if variable.required => {
                    return Err(Error::invalid(
                        format!("variables.{}", variable.name),
                        format!("the template wants a {} here, and none is given", variable.kind.as_str()),
                    )
                    .fix(format!("give it: --set {}=…", variable.name)));
                }
                None => {
                    values.insert(variable.name.to_string(), Value::Null);
                }
            }
            if self.body.is_none() {
                let into = if own.is_some() { &mut instance } else { &mut template };
                if let Some(value) = own.or(variable.default.as_ref()) {
                    lay(into, variable.name.holding(value.clone()));
                }
            }
        }
        if let Some(body) = &self.body {
            template = Value::Object(fill_object(body, &ConfigPath::root(), &values)?);
        }
        for (path, value) in given {
            if !self.variables.iter().any(|variable| variable.name == *path) {
                lay(&mut instance, path.holding(value.clone()));
            }
        }
        Ok(Filled { template, instance })
    }
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

fn lay(into: &mut Value, what: Value) {
    let below = crate::Patch::from_json(std::mem::take(into));
    *into = below.then(crate::Patch::from_json(what)).into_value().unwrap_or_default();
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
        assert_eq!(filled.template, json!({"memory": {"limit": 100_000}}));
        assert_eq!(filled.instance, json!({"model": {"name": "claude-3-opus"}, "env": {"A": "b"}}));
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
