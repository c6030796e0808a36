//! What is particular to PostgreSQL in running changes: the order of events, commits whose
//! outcome was not heard, and what its error codes mean.

use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, Statement};
use sqlx::postgres::PgDatabaseError;

use super::{driver, told as tell};

/// Numbers events, held to the end of the transaction. Two of the four bytes' worth of "claw"
/// and a number of ours: advisory locks are of the database, and others may use some.
const NUMBERING: &str =
    "SELECT pg_current_xact_id()::text AS xid, pg_advisory_xact_lock(1668047223, 1)::text AS locked";
const XID: &str = "SELECT pg_current_xact_id()::text AS xid";
/// How long the outcome of a commit is asked for when the connection broke: a database that is
/// started again is back by then.
const ASK_FOR: Duration = Duration::from_secs(20);
const ASK_EVERY: Duration = Duration::from_millis(200);

/// See [`super::before_commit`].
pub(super) async fn before_commit(txn: &DatabaseTransaction, numbers: bool) -> Result<String> {
    let sql = if numbers { NUMBERING } else { XID };
    let row = txn
        .query_one_raw(Statement::from_string(DbBackend::Postgres, sql))
        .await
        .map_err(tell)?
        .ok_or_else(|| Error::internal("the database gave a transaction no number", sql))?;
    row.try_get("", "xid").map_err(tell)
}

/// What became of transaction `xid`, whose commit was not answered.
pub(super) async fn outcome_of(xid: &str, reader: &DatabaseConnection, lost: DbErr) -> Result<()> {
    let sql = "SELECT pg_xact_status($1::text::xid8) AS status";
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < ASK_FOR {
        let ask = Statement::from_sql_and_values(DbBackend::Postgres, sql, [xid.into()]);
        match reader.query_one_raw(ask).await {
            Ok(Some(row)) => match row.try_get::<Option<String>>("", "status").ok().flatten().as_deref() {
                Some("committed") => return Ok(()),
                Some("aborted") => return Err(tell(lost)),
                _ => {}
            },
            // A crash may have lost its number too: then it was not committed.
            Err(error) if code(&error).as_deref() == Some("22023") => return Err(tell(lost)),
            Ok(None) | Err(_) => {}
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    Err(Error::new(
        Code::Unavailable,
        "the connection to the database broke while a change was being written; whether it was made is not known",
    )
    .fix("look at what is there before you repeat it")
    .source(lost))
}

/// The SQLSTATE of an error.
fn code(error: &DbErr) -> Option<String> {
    Some(driver(error)?.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?.code().to_owned())
}

/// The index or constraint of a broken unique key.
pub(super) fn broken_key(error: &DbErr) -> Option<String> {
    let error = driver(error)?.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
    (error.code() == "23505").then(|| error.constraint().unwrap_or_default().to_owned())
}

/// Serialization failure and deadlock; and a creation whose key another one used meanwhile.
pub(super) fn is_collision(error: &DbErr) -> bool {
    matches!(code(error).as_deref(), Some("40001" | "40P01"))
        || broken_key(error).is_some_and(|index| index == "idempotency_keys_pkey")
}

pub(super) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|e| e.try_downcast_ref::<PgDatabaseError>())
        .is_some_and(|e| e.code() == "55P03")
}

/// Whether the connection is gone, so that an answer may have been lost with it.
pub(super) fn is_lost(error: &DbErr) -> bool {
    match driver(error) {
        Some(
            sqlx::Error::Io(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::PoolClosed,
        ) => true,
        // "terminating connection": the class of operator intervention, and broken connections.
        Some(sqlx::Error::Database(_)) => {
            code(error).is_some_and(|c| c.starts_with("57P") || c.starts_with("08") || c == "25P03")
        }
        _ => false,
    }
}

fn no_tls() -> Error {
    Error::new(Code::Unavailable, "no TLS connection to the database could be made").fix(
        "check sslmode, and that sslrootcert is the authority which signed its certificate for this host name",
    )
}

/// What an error means, by its SQLSTATE (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
pub(super) fn told(error: &DbErr) -> Option<Error> {
    let gone = || {
        Error::new(Code::Unavailable, "the connection to the database is broken")
            .fix("try again; if it stays so, look whether PostgreSQL runs and can be reached from here")
    };
    let code = match driver(error)? {
        sqlx::Error::Io(e)
            if e.kind() == std::io::ErrorKind::ConnectionRefused
                || e.kind() == std::io::ErrorKind::NotFound =>
        {
            return Some(
                Error::new(Code::Unavailable, "PostgreSQL does not answer there")
                    .fix("start it, or check the host and port (or the folder of its socket)"),
            );
        }
        // What the TLS library refuses (an authority that is not known, another name) comes as
        // data that is invalid; nothing else that is read from a connection does.
        sqlx::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => return Some(no_tls()),
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => return Some(gone()),
        sqlx::Error::Tls(_) => return Some(no_tls()),
        sqlx::Error::Configuration(_) => {
            return Some(
                Error::new(Code::InvalidInput, "the way to the database can't be used as it was given")
                    .field("database")
                    .fix("check the files named by sslrootcert, sslcert and sslkey"),
            );
        }
        _ => code(error)?,
    };
    let (what, text, fix) = match code.as_str() {
        "40001" | "40P01" => (
            Code::Unavailable,
            "the change collided with others that were made at the same moment; nothing was changed",
            "try again",
        ),
        "55P03" => (
            Code::Unavailable,
            "the change waited too long for others that hold the same rows; nothing was changed",
            "try again; if it stays so, look for a long transaction in pg_stat_activity",
        ),
        "57014" => (
            Code::Unavailable,
            "the database took too long for a query",
            "try again; if it stays so, the database server is overloaded",
        ),
        "25P03" | "57P01" | "57P02" | "57P03" => {
            (Code::Unavailable, "the database is being stopped or started", "try again in a moment")
        }
        "53100" => (
            Code::Unavailable,
            "the database can't be written: the disk of the database server is full",
            "free some space there and try again; nothing was changed",
        ),
        "53200" => (Code::Unavailable, "the database server is out of memory", "give it more, and try again"),
        "53300" => (
            Code::Unavailable,
            "the database server has no connection left",
            "raise its max_connections (a clawfarm server takes up to 19), or end what uses them",
        ),
        "25006" => (
            Code::Unavailable,
            "the database can't be written: it is read-only, or a standby",
            "give the address of the primary, or end default_transaction_read_only",
        ),
        "28P01" | "28000" => (
            Code::Internal,
            "the database server refused the user name or its password",
            "check the user in the URL and its password (the URL's file, PGPASSWORD or ~/.pgpass), and pg_hba.conf",
        ),
        "3D000" => (
            Code::Internal,
            "there is no such database",
            "make it on the database server: CREATE DATABASE ... ENCODING 'UTF8'",
        ),
        "42501" => (
            Code::Internal,
            "the database's user may not do what clawfarm has to do",
            "make it the owner of the database, or grant it all rights on the schema and its tables",
        ),
        "3F000" | "42P01" | "42703" => (
            Code::Internal,
            "tables of the database are missing or have another form than this clawfarm made",
            "they were changed by something else, or the search_path is another one; put back a backup",
        ),
        "22021" | "22P05" => (
            Code::InvalidInput,
            "a text holds a character that the database can't store",
            "leave out NUL characters",
        ),
        "XX001" | "XX002" => {
            (Code::Internal, "the database's files are damaged", "stop the servers and put back a backup")
        }
        other if other.starts_with("08") => return Some(gone()),
        other if other.starts_with("58") => (
            Code::Internal,
            "the database server can't read or write its files",
            "look at its log; put its data on a healthy disk",
        ),
        _ => return None,
    };
    Some(Error::new(what, text).fix(fix))
}
