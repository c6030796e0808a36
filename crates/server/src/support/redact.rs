//! Takes secrets out of what is to be shown to strangers. What is taken out too much is no
//! harm; what is left in is.

use serde_json::Value;

use super::patterns;
use super::values::Values;

/// What stands where something was taken out.
pub(super) const REDACTED: &str = "[redacted]";

/// Takes out values that it knows, what looks like a credential, and what has the name of one.
pub(super) struct Redactor {
    values: Values,
}

impl Redactor {
    pub(super) fn new<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        Self { values: Values::new(values) }
    }

    /// How many values are looked for.
    pub(super) const fn known(&self) -> usize {
        self.values.known
    }

    /// How many values are not, because they would be found everywhere.
    pub(super) const fn too_short(&self) -> usize {
        self.values.too_short
    }

    /// The text without secrets. Lines stay lines. It must be the whole of a text: a secret's
    /// half is known by nothing.
    pub(super) fn text(&self, text: &str) -> String {
        // Values first: a pattern that took out a part of one would hide the rest of it.
        patterns::take_out(&self.values.take_out(text))
    }

    /// A document without secrets: each text and name in it as a text, and what has a secret's
    /// name whatever it is.
    pub(super) fn json(&self, value: Value) -> String {
        let clean = self.tree(value, false);
        let text = serde_json::to_string_pretty(&clean).unwrap_or_default();
        // What lies across several values of a document. The rest is no JSON then, which is
        // better than a secret.
        self.values.take_out(&text)
    }

    fn tree(&self, value: Value, named: bool) -> Value {
        match value {
            Value::Object(fields) => {
                // `{"secret": "name"}` says which secret, and not what it is.
                let reference = fields.len() == 1 && fields.get("secret").is_some_and(Value::is_string);
                let field = |(name, field): (String, Value)| {
                    let named =
                        !reference && (named || patterns::is_secret_name(&name)) && !counts(&name, &field);
                    (self.text(&name), self.tree(field, named))
                };
                Value::Object(fields.into_iter().map(field).collect())
            }
            Value::Array(items) => {
                Value::Array(items.into_iter().map(|item| self.tree(item, named)).collect())
            }
            Value::String(_) | Value::Number(_) if named => Value::from(REDACTED),
            Value::String(text) => Value::from(self.text(&text)),
            Value::Number(number) => {
                let text = number.to_string();
                let clean = self.values.take_out(&text);
                if clean == text { Value::Number(number) } else { Value::from(clean) }
            }
            Value::Null | Value::Bool(_) => value,
        }
    }
}

/// A number of tokens, as models count them.
fn counts(name: &str, field: &Value) -> bool {
    field.is_number() && name.to_ascii_lowercase().ends_with("tokens")
}

#[cfg(test)]
mod tests;
