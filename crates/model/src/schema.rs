//! Parts of the API's description that a derive can't say: the rules that are checked beside
//! the types. Each stands here next to a name of the check it is the description of.

use utoipa::ToSchema;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};

use crate::secret::{SecretName, SecretRef};

/// Text without NUL, which no argument and no variable can hold.
pub const NO_NUL: &str = "^[^\\u0000]*$";

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn map(names: ObjectBuilder, values: impl Into<RefOr<Schema>>) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property_names(Some(names))
        .additional_properties(Some(AdditionalProperties::RefOr(values.into())))
}

/// The variables of a configuration: `InstanceSpec::check`.
#[must_use]
pub fn env() -> RefOr<Schema> {
    let names = text().pattern(Some("^[A-Za-z_][A-Za-z0-9_]*$")).max_length(Some(128));
    map(names, env_value()).description(Some("Further environment variables.")).into()
}

/// Labels to be given: `check_labels` of the use cases.
#[must_use]
pub fn labels() -> RefOr<Schema> {
    let part = || text().pattern(Some("^[A-Za-z0-9._/-]*$")).max_length(Some(128));
    map(part().min_length(Some(1)), part())
        .max_properties(Some(64))
        .description(Some("Labels, to select it by."))
        .default(Some(serde_json::json!({})))
        .into()
}

/// Labels to select by, as `key=value`.
#[must_use]
pub fn label_filter() -> RefOr<Schema> {
    utoipa::openapi::schema::ArrayBuilder::new().items(text().pattern(Some("^[^=]+="))).into()
}

/// Values of secrets by their names: `check_value` of the use cases.
#[must_use]
pub fn secrets() -> RefOr<Schema> {
    let names = text().pattern(Some(SecretName::PATTERN)).max_length(Some(SecretName::MAX));
    map(names, secret_value())
        .description(Some("Values for secrets of this instance alone, which `config` refers to by name."))
        .default(Some(serde_json::json!({})))
        .into()
}

/// The value of a secret: `check_value` of the use cases.
#[must_use]
pub fn secret_value() -> RefOr<Schema> {
    text()
        .min_length(Some(1))
        .max_length(Some(65_536))
        .pattern(Some(NO_NUL))
        .description(Some("Its value: 1 byte to 64 KiB of text without NUL."))
        .into()
}

/// A secret's value, or a text.
fn env_value() -> OneOfBuilder {
    let plain = text().pattern(Some(NO_NUL)).description(Some("This text."));
    OneOfBuilder::new().item(Ref::from_schema_name(SecretRef::name())).item(plain)
}

/// A program and its arguments.
#[must_use]
pub fn argv() -> RefOr<Schema> {
    let program = text().pattern(Some(NO_NUL)).min_length(Some(1));
    utoipa::openapi::schema::ArrayBuilder::new()
        .prefix_items([program])
        .items(utoipa::openapi::schema::ArrayItems::RefOrSchema(Box::new(
            text().pattern(Some(NO_NUL)).into(),
        )))
        .description(Some(
            "The program and its arguments; no shell is put in between. Empty: an interactive shell.",
        ))
        .default(Some(serde_json::json!([])))
        .into()
}
