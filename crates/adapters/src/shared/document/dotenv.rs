//! Lines of `NAME=value`, as the readers of `.env` files of Node and Python take them.

use std::collections::BTreeSet;

use clawfarm_model::{Error, Result};
use serde_json::{Map, Value};

/// The variables of a file; lines that are none are passed over.
pub(super) fn parse(text: &str) -> Map<String, Value> {
    // Of a variable that is given twice, readers take the last.
    text.lines().filter_map(line).map(|(name, value)| (name.to_owned(), value.into())).collect()
}

/// The variable of a line, if it is one.
fn line(text: &str) -> Option<(&str, String)> {
    let text = text.trim();
    let text = text.strip_prefix("export ").map_or(text, str::trim_start);
    let (name, value) = text.split_once('=')?;
    let name = name.trim();
    is_name(name).then(|| (name, unquoted(value.trim())))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn unquoted(value: &str) -> String {
    for quote in ['"', '\'', '`'] {
        if let Some(inner) = value.strip_prefix(quote)
            && let Some(end) = inner.find(quote)
        {
            return inner[..end].to_owned();
        }
    }
    // Outside of quotes a comment ends the value.
    value.split_once(" #").map_or(value, |(value, _)| value.trim_end()).to_owned()
}

/// A file with these variables. The lines of `present` stay, but for variables that are none any
/// more or have another value.
pub(super) fn write(contents: &Map<String, Value>, present: Option<&str>) -> Result<String> {
    let mut text = String::new();
    let mut written = BTreeSet::new();
    for old in present.unwrap_or_default().lines() {
        let Some((name, value)) = line(old) else {
            text.push_str(old);
            text.push('\n');
            continue;
        };
        let Some(now) = contents.get(name) else { continue };
        if !written.insert(name) {
            continue;
        }
        if now.as_str() == Some(value.as_str()) {
            text.push_str(old);
        } else {
            text.push_str(&assignment(name, now)?);
        }
        text.push('\n');
    }
    for (name, value) in contents {
        if !written.contains(name.as_str()) && !value.is_null() {
            text.push_str(&assignment(name, value)?);
            text.push('\n');
        }
    }
    Ok(text)
}

fn assignment(name: &str, value: &Value) -> Result<String> {
    if !is_name(name) {
        let shown: String = name.chars().take(60).flat_map(char::escape_default).collect();
        return Err(Error::invalid("config", format!("'{shown}' can't be a variable's name"))
            .fix("use letters, digits and '_', not beginning with a digit"));
    }
    let value = match value {
        Value::String(text) => quoted(name, text)?,
        Value::Number(number) => number.to_string(),
        Value::Bool(it) => it.to_string(),
        Value::Null => String::new(),
        Value::Array(_) | Value::Object(_) => {
            return Err(Error::invalid(
                format!("config.{name}"),
                "a variable of an env file is a plain value",
            )
            .fix("give a text, a number or true or false"));
        }
    };
    Ok(format!("{name}={value}"))
}

/// A value that every reader takes for itself: plain where it is of plain letters, else in quotes
/// that end nowhere in it. Within double quotes some readers know escapes and places to fill in.
fn quoted(name: &str, value: &str) -> Result<String> {
    let field = format!("config.{name}");
    if value.chars().any(char::is_control) {
        return Err(Error::invalid(
            field,
            format!("the value of {name} has a line's end or a control character"),
        )
        .fix("leave it out: a line of an env file can't hold it"));
    }
    if value.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:@%+,~".contains(c)) {
        return Ok(value.to_owned());
    }
    if !value.contains('\'') {
        return Ok(format!("'{value}'"));
    }
    if !value.contains(['"', '\\', '$', '`']) {
        return Ok(format!("\"{value}\""));
    }
    Err(Error::invalid(field, format!("the value of {name} has a ' and one of \" \\ $ `"))
        .fix("leave one of them out: an env file can't hold both"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn comments_and_lines_of_the_user_stay() {
        let present = "# mine\nA=1 # one\nexport B='two words'\n\nC=3\nnot a line\nA=9\n";
        assert_eq!(parse(present), map(json!({"A": "9", "B": "two words", "C": "3"})));
        let text = write(&map(json!({"A": "1", "B": "it's", "D": "x"})), Some(present)).unwrap();
        assert_eq!(text, "# mine\nA=1 # one\nB=\"it's\"\n\nnot a line\nD=x\n");
    }

    #[test]
    fn what_no_line_can_hold_is_named() {
        for value in ["a\nb", "'\"", "'$x", "\u{0}"] {
            let refused = write(&map(json!({"KEY": value})), None).unwrap_err();
            assert_eq!(refused.field_name(), Some("config.KEY"), "{value:?}");
        }
        assert!(write(&map(json!({"A B": "x"})), None).is_err());
    }

    proptest! {
        /// Whatever is written reads the same, one line a variable.
        #[test]
        fn what_is_written_can_be_read(
            contents in prop::collection::btree_map("[A-Z_][A-Z0-9_]{0,5}", "(\\PC|'|\"|#| |=|\\$){0,12}", 0..5)
        ) {
            let contents: Map<String, Value> =
                contents.into_iter().map(|(name, value)| (name, value.into())).collect();
            if let Ok(text) = write(&contents, None) {
                prop_assert_eq!(text.lines().count(), contents.len());
                prop_assert_eq!(parse(&text), contents, "{}", text);
            }
        }
    }

    #[test]
    fn fuzz_env_files() {
        clawfarm_fuzz::fuzz_text(&["A=1\n# c\nexport B='x y'", "A=\"1\" # c", "=\n==\nA"], |text| {
            let read = parse(text);
            if let Ok(again) = write(&read, Some(text)) {
                assert_eq!(parse(&again), read);
            }
        });
    }
}
