//! What is particular to one database: how it is reached, opened and prepared, how a change is
//! begun and made durable, and what its errors mean. Everything else in this crate is the same
//! for both.

mod config;
mod connect;
pub(crate) mod notify;
mod postgres;
mod sqlite;

use std::path::{Path, PathBuf};

use clawfarm_model::{Error, Result};
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, TransactionTrait};
use sqlx::postgres::PgConnectOptions;

pub use self::config::{Database, PostgresUrl};

/// The ways to the database.
pub(crate) struct Connections {
    /// For changes. SQLite has one writer at a time, so it is one connection there.
    pub(crate) writer: DatabaseConnection,
    /// Connections that can't write.
    pub(crate) reader: DatabaseConnection,
    /// For the heartbeat of a server that may have others beside it.
    pub(crate) beats: Option<DatabaseConnection>,
    /// What looks at the schema and brings it up to date. Under PostgreSQL it holds a lock
    /// against other servers that would do the same, until it is closed.
    pub(crate) gate: DatabaseConnection,
    /// How another connection to the same PostgreSQL is made.
    pub(crate) postgres: Option<PgConnectOptions>,
    /// Where its file is, when it is one.
    pub(crate) folder: Option<PathBuf>,
    /// What it is, for people.
    pub(crate) description: String,
}

/// Opens the database, making it where that can be done.
pub(crate) async fn open(database: &Database) -> Result<Connections> {
    match database {
        Database::Sqlite(path) => sqlite::open(path).await,
        Database::Postgres(url) => connect::open(url).await,
    }
}

/// Begins a transaction that may write, in which what was read for a change can't be changed
/// by others: under SQLite because there is one writer, under PostgreSQL because the rows that
/// are to be written are read with a lock.
pub(crate) async fn begin(writer: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    match writer.get_database_backend() {
        DbBackend::Sqlite => sqlite::begin(writer).await,
        _ => writer.begin().await,
    }
}

/// Refuses a change that could not be made durable where the database's file is.
pub(crate) fn check_writable(folder: &Path) -> Result<()> {
    sqlite::check_writable(folder)
}

/// From here to the transaction's end no other one can number events, so that the numbers are
/// in the order of the commits. Returns what the transaction can be asked after by.
pub(crate) async fn before_commit(txn: &DatabaseTransaction, numbers: bool) -> Result<Option<String>> {
    match txn.get_database_backend() {
        DbBackend::Postgres => postgres::before_commit(txn, numbers).await.map(Some),
        _ => Ok(None),
    }
}

/// Makes a change durable. When the connection breaks while PostgreSQL is asked to, it is asked
/// again over another one whether it did.
pub(crate) async fn commit(
    txn: DatabaseTransaction,
    asked_after_by: Option<&str>,
    reader: &DatabaseConnection,
) -> Result<()> {
    match (txn.commit().await, asked_after_by) {
        (Ok(()), _) => Ok(()),
        (Err(error), Some(xid)) if postgres::is_lost(&error) => {
            postgres::outcome_of(xid, reader, error).await
        }
        (Err(error), _) => Err(told(error)),
    }
}

/// Copies what is there before a migration, where a copy is a file.
pub(crate) async fn copy_before(
    gate: &DatabaseConnection,
    database: &Database,
    migration: &str,
) -> Result<Option<PathBuf>> {
    match database {
        Database::Sqlite(path) => sqlite::copy_before(gate, path, migration).await.map(Some),
        Database::Postgres(_) => Ok(None),
    }
}

/// Where [`copy_before`] leaves its copy.
pub(crate) fn copy_path(path: &Path, migration: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".before-{migration}"));
    PathBuf::from(name)
}

/// What to tell of a failed query. The driver's own words stay inside.
pub(crate) fn told(error: DbErr) -> Error {
    let told = common(&error).or_else(|| sqlite::told(&error)).or_else(|| postgres::told(&error));
    told.unwrap_or_else(|| Error::new(clawfarm_model::Code::Internal, "the database refused a query"))
        .source(error)
}

/// Whether the transaction was ended by the database because of another one that ran beside
/// it, so that the same once more may well succeed.
pub(crate) fn is_collision(error: &Error) -> bool {
    use std::error::Error as _;
    error.source().and_then(|source| source.downcast_ref::<DbErr>()).is_some_and(postgres::is_collision)
}

/// The words of a broken unique key: SQLite names the columns, PostgreSQL the index.
pub(crate) fn unique_violation(error: &DbErr) -> Option<String> {
    match postgres::broken_key(error) {
        Some(index) => Some(index),
        None => match error.sql_err() {
            Some(sea_orm::SqlErr::UniqueConstraintViolation(words)) => Some(words),
            _ => None,
        },
    }
}

/// What can befall both.
fn common(error: &DbErr) -> Option<Error> {
    use clawfarm_model::Code;
    use sea_orm::ConnAcquireErr;
    match (error, driver(error)) {
        (DbErr::ConnectionAcquire(ConnAcquireErr::Timeout), _) | (_, Some(sqlx::Error::PoolTimedOut)) => Some(
            Error::new(
                Code::Unavailable,
                "the store is busy or gone: no connection to the database became free in time",
            )
            .fix("try again; if it stays so, look whether the database runs, and whether the machine or its disk is overloaded"),
        ),
        _ => None,
    }
}

/// The driver's error, where it is one.
fn driver(error: &DbErr) -> Option<&sqlx::Error> {
    use sea_orm::RuntimeErr::SqlxError;
    match error {
        DbErr::Conn(SqlxError(inner)) | DbErr::Exec(SqlxError(inner)) | DbErr::Query(SqlxError(inner)) => {
            Some(inner.as_ref())
        }
        _ => None,
    }
}

/// A driver's error as SeaORM's.
fn wrapped(error: sqlx::Error) -> DbErr {
    DbErr::Conn(sea_orm::RuntimeErr::SqlxError(error.into()))
}
