//! TOML as JSON's values, and back. Dates, which JSON has not, are kept under a key of their own.

use clawfarm_model::{Error, Result};
use serde_json::{Map, Value};
use toml::value::{Datetime, Table};

/// The one key of an object that stands for a date.
const DATE: &str = "$toml-date";

/// The contents of a file.
pub(super) fn parse(text: &str) -> Result<Map<String, Value>, String> {
    let table: Table = text.parse().map_err(|e: toml::de::Error| {
        // The message has no part of the file; the whole text of the error has the line.
        format!("{} (at byte {})", e.message(), e.span().map_or(0, |span| span.start))
    })?;
    Ok(table.into_iter().map(|(key, value)| (key, from(value))).collect())
}

/// A file with these contents.
pub(super) fn write(contents: &Map<String, Value>) -> Result<String> {
    let mut table = Table::new();
    for (key, value) in contents {
        if let Some(value) = into(value, key)? {
            table.insert(key.clone(), value);
        }
    }
    toml::to_string_pretty(&table).map_err(|e| Error::internal("a file could not be put into TOML", e))
}

fn from(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        // TOML has numbers that JSON has not: `nan` and `inf` become nothing.
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(it) => it.into(),
        toml::Value::Datetime(date) => {
            Value::Object(Map::from_iter([(DATE.to_owned(), date.to_string().into())]))
        }
        toml::Value::Array(list) => list.into_iter().map(from).collect(),
        toml::Value::Table(table) => {
            Value::Object(table.into_iter().map(|(key, value)| (key, from(value))).collect())
        }
    }
}

/// The value in TOML; `None` for `null`, which TOML has not.
fn into(value: &Value, at: &str) -> Result<Option<toml::Value>> {
    Ok(Some(match value {
        Value::Null => return Ok(None),
        Value::Bool(it) => (*it).into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(other)) if !number.is_u64() => other.into(),
            _ => {
                return Err(Error::invalid(at, format!("{number} is larger than a number of TOML may be"))
                    .fix(format!("give at most {}", i64::MAX)));
            }
        },
        Value::String(text) => text.clone().into(),
        Value::Array(list) => {
            let mut all = Vec::with_capacity(list.len());
            for value in list {
                all.extend(into(value, at)?);
            }
            all.into()
        }
        Value::Object(map) => match map.get(DATE).and_then(Value::as_str).filter(|_| map.len() == 1) {
            Some(date) => match date.parse::<Datetime>() {
                Ok(date) => date.into(),
                Err(_) => date.into(),
            },
            None => {
                let mut table = Table::new();
                for (key, value) in map {
                    if let Some(value) = into(value, &format!("{at}.{key}"))? {
                        table.insert(key.clone(), value);
                    }
                }
                table.into()
            }
        },
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn dates_and_tables_come_back_as_they_were() {
        let text = "a = 1979-05-27T07:32:00Z\nb = [1, 2.5, \"x\"]\n\n[c.d]\ne = true\n";
        let read = parse(text).unwrap();
        assert_eq!(read["c"], json!({"d": {"e": true}}));
        assert_eq!(parse(&write(&read).unwrap()).unwrap(), read);
        assert!(write(&read).unwrap().contains("a = 1979-05-27T07:32:00Z"));
    }

    #[test]
    fn what_toml_can_not_express_is_named() {
        let refused = write(&Map::from_iter([("n".to_owned(), json!({"m": u64::MAX}))])).unwrap_err();
        assert_eq!(refused.field_name(), Some("n.m"));
        assert_eq!(write(&Map::from_iter([("n".to_owned(), Value::Null)])).unwrap(), "");
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            prop::num::f64::NORMAL.prop_map(Value::from),
            "(\\PC|\n|\"|'|\\\\|\\]|=|#){0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("(\\PC|\n|\"|\\.){1,6}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever is written is TOML, and says the same.
        #[test]
        fn what_is_written_can_be_read(
            contents in prop::collection::btree_map("(\\PC|\n|\"|\\.){1,6}", tree(), 0..5)
        ) {
            let contents: Map<String, Value> = contents.into_iter().collect();
            let text = write(&contents).unwrap();
            prop_assert_eq!(parse(&text), Ok(contents), "{}", text);
        }
    }

    #[test]
    fn fuzz_toml_files() {
        let seeds =
            ["a = 1\n[b]\nc = [1979-05-27, {d = 'e'}]\n", "[[x]]\ny = \"\"\"z\"\"\"\n", "a.b.c = 0x1f"];
        clawfarm_fuzz::fuzz_text(&seeds, |text| {
            if let Ok(map) = parse(text) {
                // `nan` reads as nothing, and nothing is not written: the second reading is settled.
                let again = parse(&write(&map).unwrap()).unwrap();
                assert_eq!(parse(&write(&again).unwrap()).as_ref(), Ok(&again));
            }
        });
    }
}
