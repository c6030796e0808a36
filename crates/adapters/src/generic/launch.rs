//! What a claw of a user's own type is started with.

use std::collections::BTreeMap;

use clawfarm_model::{Error, Launch, Result};
use serde_json::Value;

use super::places::{Values, Where};
use super::{Generic, fill};
use crate::shared::environment::Environment;
use crate::shared::{document, inbox};
use crate::{RenderInput, Rendered};

/// The path of the software of a version.
pub(super) fn folder(template: &str, version: &str) -> Result<String> {
    let values = BTreeMap::from([("version".to_owned(), Value::from(version))]);
    let filled = clawfarm_config::fill(&Value::from(template), &values).map_err(|e| e.field("folder"))?;
    let text = filled.as_ref().and_then(Value::as_str).unwrap_or_default();
    Ok(text.to_owned())
}

/// Renders everything for a start.
pub(super) fn render(generic: &Generic, input: &RenderInput<'_>) -> Result<Rendered> {
    let values = Values::new(input)?;
    let file = &generic.file;
    let mut argv = Vec::with_capacity(file.command.len());
    for (n, argument) in file.command.iter().enumerate() {
        argv.extend(fill::text(argument, &format!("command[{n}]"), &values, Where::Argument)?);
    }
    if argv.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("command[0]", "nothing is left of the program's name")
            .fix("give a program that does not depend on the configuration"));
    }
    let mut env = Environment::begin(input)?;
    for (name, value) in &file.env {
        // What the instance's owner says of a variable goes before what its type says.
        if input.spec.config.env.contains_key(name) {
            continue;
        }
        if let Some(value) = fill::text(value, &format!("env.{name}"), &values, Where::File)? {
            if value.contains('\0') {
                return Err(Error::invalid(format!("env.{name}"), "its value contains a NUL byte")
                    .fix("remove it: no process can be given one"));
            }
            env.set(name, value);
        }
    }
    let documents = file
        .files
        .iter()
        .enumerate()
        .map(|(n, file)| fill::document(file, n, &values))
        .collect::<Result<Vec<_>>>()?;
    let generated = document::generate(&documents, input.spec.config_mode, input.existing, input.run)?;
    Ok(Rendered {
        launch: Launch {
            id: input.id.clone(),
            run: input.run,
            argv,
            env: env.all(),
            cwd: input.place.workspace_dir.clone(),
            files: generated.files,
            resources: input.spec.resources,
        },
        warnings: generated.warnings,
        inbox: inbox::declared(input)?,
    })
}
