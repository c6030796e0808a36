//! The database's errors, told in clawfarm's words.

use clawfarm_model::{Code, Error};
use sea_orm::{ConnAcquireErr, DbErr, SqlErr};

use crate::backend::{self, Trouble};

/// What to tell of a failed query. The driver's own words stay inside.
pub(crate) fn db(error: DbErr) -> Error {
    let told = match (&error, backend::trouble(&error)) {
        (DbErr::ConnectionAcquire(ConnAcquireErr::Timeout), _) => Error::new(
            Code::Unavailable,
            "the store is busy: no connection to the database became free in time",
        )
        .fix("try again; if it stays so, the machine or its disk is overloaded"),
        (_, Trouble::Locked) => Error::new(Code::Unavailable, "the database is locked by another program")
            .fix("end the program that holds it (a backup, a second server, sqlite3) and try again"),
        (_, Trouble::Full) => Error::new(Code::Unavailable, "the database can't be written: the disk is full")
            .fix("free some space on the disk of clawfarm's home and try again; nothing was changed"),
        (_, Trouble::Corrupt) => Error::new(Code::Internal, "the database file is damaged")
            .fix("stop the server and put back a copy (beside it are the '.before-*' copies), or run 'clawfarm doctor'"),
        (_, Trouble::ReadOnly) => Error::new(Code::Internal, "the database file can't be written")
            .fix("check the owner and permissions of clawfarm's home, and that its disk is not mounted read-only"),
        (_, Trouble::Input) => Error::new(Code::Internal, "the database file can't be read or written: the disk reports an error")
            .fix("look at the machine's kernel log; put the home on a healthy disk"),
        (_, Trouble::Other) => Error::new(Code::Internal, "the database refused a query"),
    };
    told.source(error)
}

/// The words of a broken unique key: SQLite names the columns, PostgreSQL the index.
pub(crate) fn unique_violation(error: &DbErr) -> Option<String> {
    match error.sql_err() {
        Some(SqlErr::UniqueConstraintViolation(words)) => Some(words),
        _ => None,
    }
}

/// A row that does not say what this program wrote.
pub(crate) fn unreadable(
    what: &str,
    id: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::internal(format!("the {what} '{id}' in the database can't be read"), source)
        .fix("the database was changed by something other than this clawfarm; put back a copy of it")
}
