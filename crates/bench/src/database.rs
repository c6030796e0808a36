//! The databases a server is measured on.

use std::process::Command;

use anyhow::Result;

/// Where a server keeps its state.
pub(crate) enum Database {
    /// In a file of its home.
    Sqlite,
}

impl Database {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
        }
    }

    /// Tells a server to use it.
    pub(crate) fn configure(&self, _command: &mut Command) -> Result<()> {
        match self {
            Self::Sqlite => Ok(()),
        }
    }
}
