//! Reads JSON without what would be read in two ways: repeated names, and nesting that is
//! only there to be deep.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The deepest nesting that is read. Our own types need a handful; `config.native` is the
/// claw type's and could be deeper, but no known one passes 12.
const DEPTH_MAX: usize = 64;

/// The largest whole number that a double tells from its neighbours: 2^53.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// Why a text was refused: the path of the place, where there is one, and the reason.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) path: Option<String>,
    pub(super) reason: String,
}

/// Reads one JSON value.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, Refused> {
    let place = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = Strict { place: &place };
    let read = seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    read.map_err(|error| {
        let place = place.into_inner();
        let path = (error.is_data() && !place.is_empty()).then(|| place.join("."));
        Refused { path, reason: error.to_string() }
    })
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    /// The names on the way to the place that is being read; left as it is by an error.
    place: &'a RefCell<Vec<String>>,
}

impl Strict<'_> {
    fn inside<E: serde::de::Error, T>(
        self,
        name: String,
        read: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.place.borrow_mut().push(name);
        if self.place.borrow().len() > DEPTH_MAX {
            return Err(E::custom(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let value = read()?;
        self.place.borrow_mut().pop();
        Ok(value)
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
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

    /// JSON knows one kind of number: `2.0` is the whole number 2 (JSON Schema says so too), and
    /// serde would refuse it where one is wanted.
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        if value.fract() == 0.0 && value.abs() <= WHOLE_MAX {
            #[expect(clippy::cast_possible_truncation, reason = "whole, and in range")]
            return Ok(Value::Number((value as i64).into()));
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = self.inside(format!("[{}]", list.len()), || items.next_element_seed(self))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = self.inside(name.clone(), || {
                if map.contains_key(&name) {
                    return Err(A::Error::custom("given twice"));
                }
                entries.next_value_seed(self)
            })?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Refused {
        parse(text.as_bytes()).expect_err(text)
    }

    #[test]
    fn reads_what_serde_json_reads() {
        for text in
            [r#"{"a":[1,-2,3.5,"x\n\u00e9",true,null,{}],"b":{"c":18446744073709551615}}"#, "[]", "0", "\"\""]
        {
            assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        }
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_point() {
        for (text, value) in [("2.0", 2.into()), ("-1e3", (-1000).into()), ("-0.0", 0.into())] {
            assert_eq!(parse(text.as_bytes()).unwrap(), Value::Number(value), "{text}");
        }
        assert_eq!(parse(b"2.5").unwrap(), serde_json::json!(2.5));
        assert_eq!(parse(b"1e300").unwrap(), serde_json::json!(1e300));
    }

    #[test]
    fn a_name_given_twice_is_refused_with_its_path() {
        let why = refused(r#"{"a":{"b":1,"c":2,"b":3}}"#);
        assert_eq!(why.path.as_deref(), Some("a.b"));
        assert!(why.reason.contains("given twice"), "{}", why.reason);
    }

    #[test]
    fn deep_nesting_is_refused_and_does_not_end_the_stack() {
        let deep = format!("{}{}", "[".repeat(60), "]".repeat(60));
        assert!(parse(deep.as_bytes()).is_ok());
        for deep in ["[".repeat(100_000), r#"{"a":"#.repeat(100_000)] {
            assert!(refused(&deep).reason.contains("nested deeper"));
        }
    }

    #[test]
    fn what_is_no_json_says_where() {
        assert!(refused("{\"a\": }").reason.contains("line 1 column 7"));
        assert!(refused("{} {}").reason.contains("trailing"));
        assert!(parse(b"\"\xff\"").is_err());
        assert!(parse(b"1e999").is_err());
    }

    #[test]
    fn fuzz_json() {
        let seeds: [&[u8]; 3] = [
            br#"{"claw_type":"openclaw","resources":{"cpus":0.5},"labels":{"a":"b"},"config":{"env":{"A":"b"}}}"#,
            br#"[1,-2.5e3,"x\n\u00e9",true,null,{}]"#,
            br#"{"a":{"b":1,"b":2}}"#,
        ];
        clawfarm_fuzz::fuzz(&seeds, |bytes| {
            if let Ok(value) = parse(bytes) {
                let known: Value = serde_json::from_slice(bytes).expect("serde_json takes more");
                let again = serde_json::to_vec(&value).unwrap();
                assert_eq!(parse(&again).expect("what it wrote"), value, "{known}");
            }
        });
    }
}
