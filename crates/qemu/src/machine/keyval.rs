//! QEMU's own option syntax: `kind,key=value,…`, in which a comma of a value is written twice.

use std::fmt;

use clawfarm_model::{Error, Result};

/// One option's value, put together from pairs.
#[derive(Clone, Debug)]
pub(super) struct KeyVal(String);

impl KeyVal {
    pub(super) fn new(kind: &str) -> Self {
        Self(kind.to_owned())
    }

    /// Adds a pair. The key is ours; the value may be anything that has no NUL.
    #[must_use]
    pub(super) fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.0.push(',');
        self.0.push_str(key);
        self.0.push('=');
        self.0.push_str(&value.to_string().replace(',', ",,"));
        self
    }

    pub(super) fn done(self) -> String {
        self.0
    }
}

/// A path as text: arguments cross to the shim as JSON.
pub(super) fn text<'a>(field: &str, path: &'a std::path::Path) -> Result<&'a str> {
    let text = path.to_str().filter(|text| !text.contains('\0'));
    text.ok_or_else(|| {
        Error::invalid(field, format!("'{}' can't be given to QEMU", path.display()))
            .fix("use a path of valid UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As QEMU reads it (`qemu_opts_do_parse`): `,,` is a comma of the value, `,` ends it.
    fn read(option: &str) -> (String, Vec<(String, String)>) {
        let mut parts = vec![String::new()];
        let mut chars = option.chars().peekable();
        while let Some(c) = chars.next() {
            if c == ',' && chars.next_if_eq(&',').is_none() {
                parts.push(String::new());
            } else {
                parts.last_mut().unwrap().push(c);
            }
        }
        let kind = parts.remove(0);
        let pairs = parts.iter().map(|pair| pair.split_once('=').unwrap());
        (kind, pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    proptest! {
        #[test]
        fn no_value_becomes_another_key(values in prop::collection::vec("[a-z,=\\\\ \"'/é]{0,12}", 0..5)) {
            let mut option = KeyVal::new("file");
            for value in &values {
                option = option.with("path", value);
            }
            let (kind, pairs) = read(&option.done());
            prop_assert_eq!(kind, "file");
            prop_assert_eq!(pairs, values.into_iter().map(|v| ("path".to_owned(), v)).collect::<Vec<_>>());
        }
    }
}
