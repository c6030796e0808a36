//! YAML 1.2, within limits.

use std::fmt;

use clawfarm_model::Error;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Number, Value};
use serde_saphyr::{MessageFormatter, Options, UserMessageFormatter};

/// Deeper than any configuration.
const DEPTH_MAX: usize = 64;
/// The most values in a file: 10,000 claws have about 50 each.
const NODES_MAX: usize = 2_000_000;
/// The most values that aliases stand for: nobody repeats more by them, and a bomb of aliases is
/// small in its file.
const REPEATED_MAX: usize = 100_000;
/// The most documents in a file: more than a server holds claws.
const DOCUMENTS_MAX: usize = 50_000;

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: 4 * NODES_MAX,
            max_documents: DOCUMENTS_MAX,
            max_anchors: 1_000,
            max_aliases: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: REPEATED_MAX,
            max_replay_stack_depth: 8,
        },
        // `no` is a word and `1_000` too, as YAML has had it since 2009.
        strict_booleans: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    }
}

/// The documents of a text.
pub(super) fn parse(text: &str) -> Result<Vec<Value>, Error> {
    let documents: Vec<Exact> =
        serde_saphyr::from_multiple_with_options(text, options()).map_err(|e| refused(&e))?;
    Ok(documents.into_iter().map(|it| it.0).collect())
}

/// The one document of a text.
pub(crate) fn parse_one(text: &str) -> Result<Value, Error> {
    let document: Exact = serde_saphyr::from_str_with_options(text, options()).map_err(|e| refused(&e))?;
    Ok(document.0)
}

/// A value as JSON has it. `2.0` is the whole number 2, as the server reads it, so that a document
/// says the same before and after it was there; and a whole number that would not be kept exactly is
/// refused.
struct Exact(Value);

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ExactVisitor).map(Self)
    }
}

struct ExactVisitor;

impl<'de> Visitor<'de> for ExactVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        number(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number that can't be kept exactly: write it as a text, in quotes"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Exact(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, Exact(value))) = entries.next_entry::<String, Exact>()? {
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

/// The number that a double stands for. What is beyond all whole numbers of 64 bits was a whole
/// number with more digits, of which a double has lost some; `None` for that and for no number.
fn number(value: f64) -> Option<Number> {
    /// The largest whole number that a double tells from its neighbours: 2^53.
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    const BEYOND_U64: f64 = 18_446_744_073_709_551_616.0;
    const BEYOND_I64: f64 = -9_223_372_036_854_775_808.0;
    if value.fract() == 0.0 && value.abs() <= WHOLE_MAX {
        #[expect(clippy::cast_possible_truncation, reason = "whole, and in range")]
        return Some((value as i64).into());
    }
    if value >= BEYOND_U64 || value <= BEYOND_I64 {
        return None;
    }
    Number::from_f64(value)
}

fn refused(error: &serde_saphyr::Error) -> Error {
    let place = error
        .location()
        .filter(|it| it.line() > 0)
        .map_or_else(String::new, |it| format!("line {}, column {}: ", it.line(), it.column()));
    let why = UserMessageFormatter.format_message(error);
    Error::invalid("file", format!("{place}{why}")).fix("mend the YAML; see docs/configs.md for examples")
}

/// Several documents as one text.
pub(crate) fn write(documents: &[Value]) -> Result<String, Error> {
    let texts: Result<Vec<_>, _> = documents.iter().map(write_one).collect();
    Ok(texts?.join("---\n"))
}

/// One document.
pub(crate) fn write_one<T: Serialize>(document: &T) -> Result<String, Error> {
    let mut text = serde_saphyr::to_string_with_options(
        document,
        serde_saphyr::ser_options! { yaml_12: true, no_lang_directive: true },
    )
    .map_err(|e| Error::internal("a document can't be written as YAML", e))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
