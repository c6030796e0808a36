//! Filling a type's templates.

use std::collections::BTreeSet;

use clawfarm_model::{Error, Result};
use serde_json::{Map, Value};

use super::file::File;
use super::places::{self, Values, Where};
use crate::shared::document::{Document, Format, Place};

/// Whose the places of a document are.
#[derive(Default)]
pub(super) struct Owners {
    pub(super) owned: BTreeSet<Place>,
    pub(super) secrets: BTreeSet<Place>,
}

/// What a format is called.
pub(super) const fn name(format: Format) -> &'static str {
    match format {
        Format::Json => "JSON",
        Format::Toml => "TOML",
        Format::Env => "lines of NAME=value",
        Format::Text => "text",
    }
}

/// Calls `look` with every value of a document that is no object, and its place.
pub(super) fn walk(
    map: &Map<String, Value>,
    at: &mut Place,
    look: &mut impl FnMut(&[String], &Value) -> Result<()>,
) -> Result<()> {
    for (key, value) in map {
        at.push(key.clone());
        match value {
            Value::Object(inner) => walk(inner, at, look)?,
            _ => look(at, value)?,
        }
        at.pop();
    }
    Ok(())
}

/// A file of a launch.
pub(super) fn document(file: &File, n: usize, values: &Values) -> Result<Document> {
    let field = format!("file[{n}].template");
    let body = file.body(n)?;
    let owners = places::owners(&body, values)?;
    let template = Value::Object(body);
    let mut own = values.of(&template, Where::File)?;
    if file.format == Format::Text {
        for (name, value) in &own {
            plain(name, value)?;
        }
    }
    if file.format == Format::Env {
        // A variable is a text, whatever its value was.
        for value in own.values_mut() {
            if let Value::Number(_) | Value::Bool(_) = value {
                *value = value.to_string().into();
            }
        }
    }
    let contents = match clawfarm_config::fill(&template, &own).map_err(|e| e.field(field))? {
        Some(Value::Object(contents)) => contents,
        _ => Map::new(),
    };
    let Owners { owned, secrets } = owners;
    Ok(Document { path: file.path.clone().into(), format: file.format, contents, owned, secrets })
}

/// A single text, such as an argument; `None` when it is a place alone that nothing is said for.
pub(super) fn text(template: &str, field: &str, values: &Values, at: Where) -> Result<Option<String>> {
    let template = Value::from(template);
    let own = values.of(&template, at)?;
    let filled = clawfarm_config::fill(&template, &own).map_err(|e| e.field(field))?;
    Ok(match filled {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Some(value.to_string()),
        Some(Value::Array(_) | Value::Object(_)) => {
            return Err(Error::invalid(field, "a list or an object can't be an argument or a variable")
                .fix("name a place below it that is a plain value"));
        }
    })
}

/// In a text whose structure nobody knows, a value may have only what is structure nowhere.
fn plain(name: &str, value: &Value) -> Result<()> {
    let field = places::of_config(name).map_or_else(|| name.to_owned(), |path| format!("config.{path}"));
    match value {
        Value::String(text) if text.chars().all(|c| c.is_alphanumeric() || " _-./:@+,~%".contains(c)) => Ok(()),
        Value::Null | Value::Number(_) | Value::Bool(_) => Ok(()),
        _ => Err(Error::invalid(field, "this can't be written into a file of format 'text': it could be taken for something else there")
            .fix("use letters, digits, spaces and _ - . / : @ + , ~ % only; or give the file a format (json, toml, env), or the value to the claw in [env]")),
    }
}
