//! From a text to its documents, each refusal with its place.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use clawfarm_model::name::TenantName;
use clawfarm_model::{Code, Error};
use serde::de::DeserializeOwned;
use serde_json::Value;

use clawfarm_api::manifest::{API_VERSION, INSTANCE_KIND, TEMPLATE_KIND};

use super::{Manifest, yaml};

/// The largest file that is read, in bytes: 10,000 claws with a few values each are about 8 MiB.
pub(crate) const FILE_MAX: u64 = 32 << 20;

/// The text of a file; `-` is standard input.
pub(crate) fn text_of(path: &Path) -> Result<String, Error> {
    let name = path.display();
    let unreadable = |e: std::io::Error| {
        Error::new(Code::InvalidInput, format!("{name} can't be read: {e}"))
            .field("file")
            .fix("give a file that you may read")
            .source(e)
    };
    let mut bytes = Vec::new();
    let most = FILE_MAX + 1;
    match path.as_os_str() == "-" {
        true => std::io::stdin().lock().take(most).read_to_end(&mut bytes),
        false => std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)),
    }
    .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(Error::invalid("file", format!("{name} is larger than {FILE_MAX} bytes"))
            .fix("put its documents into several files"));
    }
    String::from_utf8(bytes)
        .map_err(|_| Error::invalid("file", format!("{name} is no UTF-8 text")).fix("write it as UTF-8"))
}

/// The documents of a text.
///
/// # Errors
/// `InvalidInput` with the document and the field.
pub(crate) fn read(text: &str) -> Result<Vec<Manifest>, Error> {
    if text.len() as u64 > FILE_MAX {
        return Err(Error::invalid("file", format!("it is larger than {FILE_MAX} bytes"))
            .fix("put its documents into several files"));
    }
    let documents = yaml::parse(text)?;
    if documents.is_empty() {
        return Err(
            Error::invalid("file", "there is no document in it").fix("see docs/configs.md for examples")
        );
    }
    let several = documents.len() > 1;
    let mut manifests = Vec::with_capacity(documents.len());
    let mut seen = BTreeMap::new();
    for (index, document) in documents.into_iter().enumerate() {
        let place = |error: Error| match several {
            true => at(&format!("documents[{index}]."), &error),
            false => error,
        };
        let manifest = one(document).map_err(place)?;
        if let Some(before) = seen.insert((manifest.kind(), manifest.name().to_owned()), index) {
            let twice = format!("{} '{}' is in documents[{before}], too", manifest.kind(), manifest.name());
            return Err(place(Error::invalid("metadata.name", twice).fix("say once what it shall be")));
        }
        manifests.push(manifest);
    }
    Ok(manifests)
}

fn one(document: Value) -> Result<Manifest, Error> {
    let Value::Object(mut document) = document else {
        return Err(Error::invalid("apiVersion", "the document is no mapping")
            .fix(format!("begin it with: apiVersion: {API_VERSION}")));
    };
    let version = document.remove("apiVersion");
    if version.as_ref().and_then(Value::as_str) != Some(API_VERSION) {
        return Err(Error::invalid("apiVersion", "this is no version that clawfarm knows")
            .fix(format!("write apiVersion: {API_VERSION}")));
    }
    let kind = document.remove("kind");
    let rest = Value::Object(document);
    let manifest = match kind.as_ref().and_then(Value::as_str) {
        Some(TEMPLATE_KIND) => Manifest::Template(typed(rest)?),
        Some(INSTANCE_KIND) => Manifest::Instance(Box::new(typed(rest)?)),
        _ => {
            return Err(Error::invalid("kind", "there is no such kind")
                .fix("the kinds are ConfigTemplate and ClawInstance"));
        }
    };
    check(&manifest)?;
    Ok(manifest)
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "document".to_owned() } else { path };
        let refused = Error::of_serde(field, &error.inner().to_string());
        if refused.fix_text().is_some() {
            refused
        } else {
            refused.fix("see docs/configs.md for what a document may say")
        }
    })
}

/// What no type says.
fn check(manifest: &Manifest) -> Result<(), Error> {
    // A token is of one tenant, and at present there is but this one.
    let tenant = TenantName::default_tenant();
    if let Some(other) = manifest.namespace().filter(|it| *it != tenant.as_str()) {
        let shown: String = other.chars().take(60).flat_map(char::escape_default).collect();
        return Err(Error::invalid(
            "metadata.namespace",
            format!("'{shown}' is another tenant than '{tenant}'"),
        )
        .fix("leave the namespace out, or use the token of that tenant"));
    }
    match manifest {
        Manifest::Template(it) => it.spec.check().map_err(|error| at("spec.", &error)),
        Manifest::Instance(it) => {
            if it.spec.replicas.is_some_and(|count| count != 1) {
                return Err(Error::invalid(
                    "spec.replicas",
                    "a claw has a life and a memory of its own, so there is one of each",
                )
                .fix("leave it out, and write a document for each claw"));
            }
            if let Some(resources) = &it.spec.resources {
                if resources.cpu.as_ref().is_some_and(|it| it.cores().is_none()) {
                    return Err(Error::invalid("spec.resources.cpu", "this is no amount of processor cores")
                        .fix("write cores or thousandths of one: \"2\", \"500m\""));
                }
                if resources.memory.as_ref().is_some_and(|it| it.mebibytes().is_none()) {
                    return Err(Error::invalid("spec.resources.memory", "this is no amount of memory")
                        .fix("write it as \"4Gi\" or \"512Mi\""));
                }
            }
            match &it.spec.config {
                Some(config) => config.patch().map(drop),
                None => Ok(()),
            }
        }
    }
}

/// The same error, with its place further out.
pub(crate) fn at(prefix: &str, error: &Error) -> Error {
    let field = format!("{prefix}{}", error.field_name().unwrap_or_default());
    let moved =
        Error::new(error.code(), error.message().to_owned()).field(field.trim_end_matches('.').to_owned());
    match error.fix_text() {
        Some(fix) => moved.fix(fix.to_owned()),
        None => moved,
    }
}
