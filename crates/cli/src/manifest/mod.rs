//! Configurations and instances as documents in a file, as `apply` takes and `export` writes them.

mod instance;
mod read;
mod yaml;

use clawfarm_api::manifest::{
    API_VERSION, INSTANCE_KIND, InstanceManifest, TEMPLATE_KIND, TemplateManifest, TemplateMetadata,
};
use clawfarm_config::Template;
use clawfarm_model::{ConfigName, Error};
use serde_json::{Value, json};

pub(crate) use instance::{comparable, of_instance, of_view};
pub(crate) use read::{at, read, text_of};
pub(crate) use yaml::{parse_one, write, write_one};

/// One document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Manifest {
    /// `kind: ConfigTemplate`.
    Template(TemplateManifest),
    /// `kind: ClawInstance`.
    Instance(Box<InstanceManifest>),
}

impl Manifest {
    /// A configuration as a document.
    pub(crate) fn of_config(name: &ConfigName, content: &Template) -> Self {
        let metadata = TemplateMetadata { name: name.clone(), namespace: None };
        Self::Template(TemplateManifest { metadata, spec: content.clone() })
    }

    /// The document.
    ///
    /// # Errors
    /// Never: a document of ours has a place for each of its values in JSON.
    pub(crate) fn document(&self) -> Result<Value, Error> {
        let inner = match self {
            Self::Template(it) => serde_json::to_value(it),
            Self::Instance(it) => serde_json::to_value(it),
        };
        let inner = inner.map_err(|e| Error::internal("a document can't be written", e))?;
        let mut whole = json!({ "apiVersion": API_VERSION, "kind": self.kind() });
        if let (Value::Object(whole), Value::Object(inner)) = (&mut whole, inner) {
            whole.extend(inner);
        }
        Ok(whole)
    }

    /// Its `kind`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Template(_) => TEMPLATE_KIND,
            Self::Instance(_) => INSTANCE_KIND,
        }
    }

    /// Its `metadata.name`.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Template(it) => it.metadata.name.as_str(),
            Self::Instance(it) => it.metadata.name.as_str(),
        }
    }

    /// The tenant that it says it is of.
    pub(crate) fn namespace(&self) -> Option<&str> {
        match self {
            Self::Template(it) => it.metadata.namespace.as_deref(),
            Self::Instance(it) => it.metadata.namespace.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests;
