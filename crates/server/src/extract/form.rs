//! Reads a JSON value into a type without a liberty that serde takes: a list for an object,
//! its items for the fields in the order in which somebody wrote them down.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};

/// A value to be read.
#[derive(Debug)]
pub(super) struct Form(pub(super) Value);

impl IntoDeserializer<'_, Error> for Form {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// What a value is, without what is in it: that may be a secret in the wrong field.
fn kind(value: &Value) -> Unexpected<'static> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(given) => Unexpected::Bool(*given),
        Value::Number(_) => Unexpected::Other("number"),
        Value::String(_) => Unexpected::Other("string"),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    }
}

impl<'de> Deserializer<'de> for Form {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => {
                let mut items = SeqDeserializer::new(items.into_iter().map(Form));
                let value = visitor.visit_seq(&mut items)?;
                items.end().map(|()| value)
            }
            Value::Object(entries) => {
                let entries = entries.into_iter().map(|(name, value)| (name, Form(value)));
                let mut entries = MapDeserializer::new(entries);
                let value = visitor.visit_map(&mut entries)?;
                entries.end().map(|()| value)
            }
            plain => plain.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    /// `null` for a map of `serde_json` is an empty one to it.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_object() {
            return self.deserialize_any(visitor);
        }
        Err(Error::invalid_type(kind(&self.0), &"an object"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.0.is_object() {
            return self.deserialize_any(visitor);
        }
        Err(Error::invalid_type(kind(&self.0), &"an object"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawfarm_api::CreateInstance;
    use serde::Deserialize;
    use serde_json::json;

    fn read(value: &Value) -> Result<CreateInstance, Error> {
        CreateInstance::deserialize(Form(value.clone()))
    }

    #[test]
    fn a_list_is_no_object_at_any_depth() {
        for wrong in [
            json!({"claw_type": "a", "resources": [1, 2048]}),
            json!({"claw_type": "a", "restart": ["never", 1, 1]}),
            json!({"claw_type": "a", "config": {"model": ["demo"]}}),
            json!({"claw_type": "a", "config": {"model": {"provider": "openai", "api_key": ["k"]}}}),
            json!({"claw_type": "a", "config": {"env": {"A": ["k"]}}}),
            json!({"claw_type": "a", "config": {"channels": [null, null]}}),
            json!({"claw_type": "a", "config": {"native": null}}),
        ] {
            assert!(read(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn everything_else_is_read_as_serde_json_reads_it() {
        for right in [
            json!({"claw_type": "a"}),
            json!({"claw_type": "a", "name": null, "resources": {"cpus": 1, "memory_mib": 64}, "port": 2000}),
            json!({"claw_type": "a", "config": {
                "model": {"provider": "openai", "api_key": {"secret": "k"}},
                "channels": {"telegram": {"bot_token": {"secret": "t"}, "allow_from": ["1", "2"]}},
                "env": {"A": "b", "C": {"secret": "d"}}, "native": {"x": [1, {"y": null}]},
            }, "labels": {"a": "b"}, "secrets": {"k": "v"}, "config_mode": "managed"}),
        ] {
            let plain: CreateInstance = serde_json::from_value(right.clone()).unwrap();
            assert_eq!(read(&right).unwrap(), plain);
        }
    }
}
