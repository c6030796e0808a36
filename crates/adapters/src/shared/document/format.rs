//! The formats of claws' files.

use clawfarm_model::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{dotenv, toml};
use crate::shared::json;

/// Where the whole of a [`Format::Text`] is in its contents.
pub(crate) const TEXT: &str = "text";

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// JSON, which is YAML too. Read as JSON5.
    Json,
    /// TOML.
    Toml,
    /// Lines of `NAME=value`.
    Env,
    /// Anything else, as one text.
    Text,
}

impl Format {
    /// The contents of a file.
    ///
    /// # Errors
    /// What is wrong with it, in one line that quotes nothing of the file but a position.
    pub(crate) fn parse(self, bytes: &[u8]) -> Result<Map<String, Value>, String> {
        if self == Self::Json {
            return json::parse(bytes);
        }
        if bytes.len() > json::MAX_BYTES {
            return Err(format!("it has {} bytes, more than {}", bytes.len(), json::MAX_BYTES));
        }
        let text = std::str::from_utf8(bytes).map_err(|e| format!("it is no UTF-8 text ({e})"))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        match self {
            Self::Json | Self::Toml => toml::parse(text),
            Self::Env => Ok(dotenv::parse(text)),
            Self::Text => Ok(Map::from_iter([(TEXT.to_owned(), text.into())])),
        }
    }

    /// The file with these contents; `present` is the file as it is, whose comments stay where the
    /// format lets them.
    ///
    /// # Errors
    /// `InvalidInput` for a value that the format can't express.
    pub(crate) fn write(self, contents: &Map<String, Value>, present: Option<&[u8]>) -> Result<String> {
        match self {
            Self::Json => {
                let mut text = serde_json::to_string_pretty(contents)
                    .map_err(|e| Error::internal("a file could not be put into JSON", e))?;
                text.push('\n');
                Ok(text)
            }
            Self::Toml => toml::write(contents),
            Self::Env => dotenv::write(contents, present.and_then(|bytes| std::str::from_utf8(bytes).ok())),
            Self::Text => Ok(contents.get(TEXT).and_then(Value::as_str).unwrap_or_default().to_owned()),
        }
    }
}
