//! The database's errors, told in clawfarm's words.

use clawfarm_model::Error;

pub(crate) use crate::backend::{told as db, unique_violation};

/// A row that does not say what this program wrote.
pub(crate) fn unreadable(
    what: &str,
    id: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::internal(format!("the {what} '{id}' in the database can't be read"), source)
        .fix("the database was changed by something other than this clawfarm; put back a copy of it")
}
