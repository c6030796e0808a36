//! Between the columns of a table and the words of the model.

use clawfarm_model::{Error, Result, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::unreadable;

/// A document as JSON text.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal("a value can't be written as JSON", e))
}

/// A document from JSON text; `what` and `id` name the row it is read from.
pub(crate) fn from_json<T: DeserializeOwned>(what: &str, id: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| unreadable(what, id, e))
}

/// An enum's stable word: the one it has in JSON.
pub(crate) fn to_word<T: Serialize>(value: &T) -> Result<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        Ok(_) => Err(Error::internal("a value has no stable word", "it is no plain enum")),
        Err(e) => Err(Error::internal("a value can't be written as JSON", e)),
    }
}

/// An enum from its stable word.
pub(crate) fn from_word<T: DeserializeOwned>(what: &str, id: &str, word: &str) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(word.to_owned())).map_err(|e| unreadable(what, id, e))
}

/// A name or id that was checked before it was stored.
pub(crate) fn name<T: std::str::FromStr<Err = Error>>(what: &str, id: &str, text: &str) -> Result<T> {
    text.parse().map_err(|e: Error| unreadable(what, id, e))
}

/// A number from its column.
pub(crate) fn number<T>(what: &str, id: &str, value: i64) -> Result<T>
where
    T: TryFrom<i64>,
    T::Error: std::error::Error + Send + Sync + 'static,
{
    T::try_from(value).map_err(|e| unreadable(what, id, e))
}

/// A time from its column.
pub(crate) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}
