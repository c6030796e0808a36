//! Reading a claw's own JSON5, and walking JSON by path.
//!
//! The file is written by a program that runs what a model tells it to, and read by the
//! server. So its size and its depth have limits: the parser recurses, and a file of nothing
//! but brackets would otherwise overflow the server's stack.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The largest configuration file that is looked at, in bytes. OpenClaw's own full example
/// is 11 kB.
pub(crate) const MAX_BYTES: usize = 4 << 20;
/// How deep it may nest. OpenClaw's schema has nothing below 20 levels.
const MAX_DEPTH: usize = 100;

/// Parses a JSON5 document whose root is an object.
///
/// # Errors
/// What is wrong with it, in one line that quotes nothing of the file but a position.
pub(crate) fn parse(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("it has {} bytes, more than {MAX_BYTES}", bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| format!("it is no UTF-8 text ({e})"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Root(value) = json5::from_str(text).map_err(|e| e.to_string())?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err("its root is no object".to_owned()),
    }
}

/// A whole document.
struct Root(Value);

impl<'de> serde::Deserialize<'de> for Root {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Node { depth: 0 }.deserialize(deserializer).map(Self)
    }
}

/// Deserializes a [`Value`], no deeper than [`MAX_DEPTH`].
#[derive(Clone, Copy)]
struct Node {
    depth: usize,
}

impl Node {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format!("it nests deeper than {MAX_DEPTH} levels")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Node {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON5 value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        // JSON5 has Infinity and NaN; JSON, in which the file is written again, has not.
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number that JSON can't express"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if key == "__proto__" {
                return Err(A::Error::custom("it has a key '__proto__'"));
            }
            let value = entries.next_value_seed(inner)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// The value at `path`.
pub(crate) fn get<'a>(root: &'a Map<String, Value>, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let mut at = root.get(*first)?;
    for key in rest {
        at = at.as_object()?.get(*key)?;
    }
    Some(at)
}

/// Puts `value` at `path`; what is in its way and is no object gives way.
pub(crate) fn set(root: &mut Map<String, Value>, path: &[&str], value: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut at = root;
    for key in parents {
        let slot = at.entry(*key).or_insert(Value::Null);
        if !slot.is_object() {
            *slot = Value::Object(Map::new());
        }
        let Value::Object(inner) = slot else { return };
        at = inner;
    }
    at.insert((*last).to_owned(), value);
}

/// Takes away what is at `path`, and says what it was.
pub(crate) fn remove(root: &mut Map<String, Value>, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let mut at = root;
    for key in parents {
        at = at.get_mut(*key)?.as_object_mut()?;
    }
    at.remove(*last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_json5_with_comments_and_plain_keys() {
        let map =
            parse(b"\xef\xbb\xbf// mine\n{ gateway: { port: 18789, }, 'x': [1, -2.5, null, true], }\n// end")
                .unwrap();
        assert_eq!(get(&map, &["gateway", "port"]), Some(&18789.into()));
        assert_eq!(map["x"], serde_json::json!([1, -2.5, null, true]));
    }

    #[test]
    fn says_why_it_refuses() {
        for (text, why) in [
            ("", "eof"),
            ("[1]", "no object"),
            ("{a:1} {b:2}", "trailing"),
            ("{a:", "eof"),
            ("{a: NaN}", "express"),
            ("{__proto__: {}}", "__proto__"),
        ] {
            let error = parse(text.as_bytes()).expect_err(text).to_lowercase();
            assert!(error.contains(why) || error.contains("expected"), "{text}: {error}");
        }
        assert!(parse(b"{a:'\xff'}").unwrap_err().contains("UTF-8"));
        assert!(parse(&vec![b' '; MAX_BYTES + 1]).unwrap_err().contains("bytes"));
    }

    #[test]
    fn a_file_of_brackets_overflows_nothing() {
        for open in ["[", "{a:"] {
            let text = format!("{{x:{}", open.repeat(200_000));
            assert!(parse(text.as_bytes()).unwrap_err().contains("deeper"));
        }
    }

    #[test]
    fn sets_through_what_is_in_the_way() {
        let mut map = parse(b"{a: 1}").unwrap();
        set(&mut map, &["a", "b"], true.into());
        assert_eq!(serde_json::to_string(&map).unwrap(), r#"{"a":{"b":true}}"#);
        assert_eq!(remove(&mut map, &["a", "b"]), Some(true.into()));
        assert_eq!(remove(&mut map, &["a", "b", "c"]), None);
    }

    #[test]
    fn fuzz_openclaw_json() {
        let seeds: [&[u8]; 3] = [
            br#"{"gateway":{"port":18789,"auth":{"token":"x"}},"agents":{"defaults":{"timeoutSeconds":60}}}"#,
            b"// a comment\n{a: 1, 'b': [1, .5, +2, 0x10, Infinity,], /* c */ c: null}",
            b"{a:{b:{c:[[[{}]]]}}}",
        ];
        clawfarm_fuzz::fuzz(&seeds, |bytes| {
            if let Ok(map) = parse(bytes) {
                let again = serde_json::to_vec(&map).unwrap();
                assert_eq!(parse(&again).as_ref(), Ok(&map));
            }
        });
    }
}
