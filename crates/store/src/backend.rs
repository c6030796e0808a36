//! What is particular to SQLite: how the file is made, opened, copied, and what its error
//! codes mean. Everything else in this crate is the same for every database.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use sea_orm::sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sea_orm::sqlx::{ConnectOptions, Connection};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, RuntimeErr, SqliteTransactionMode,
    SqlxSqliteConnector, Statement, TransactionOptions, TransactionTrait, sqlx,
};

/// How long SQLite itself waits for another program's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a query waits for a connection of its pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// Readers do not block each other or the writer under WAL; a handful is enough for what
/// two cores can do.
const READERS: u32 = 4;

/// The two ways to the database.
pub(crate) struct Connections {
    /// One connection: SQLite has one writer at a time, and queueing here is fair, while
    /// SQLite's own waiting is not.
    pub(crate) writer: DatabaseConnection,
    /// Connections that can't write.
    pub(crate) reader: DatabaseConnection,
}

/// Opens the file, making it (0600) when it is missing.
pub(crate) async fn open(path: &Path) -> Result<Connections> {
    let refuse = |error: sqlx::Error| {
        let told = crate::error::db(DbErr::Conn(RuntimeErr::SqlxError(error.into())));
        Error::new(told.code(), format!("{}: {}", path.display(), told.message()))
            .fix(
                told.fix_text()
                    .unwrap_or("check that the file is a clawfarm database and can be read")
                    .to_owned(),
            )
            .source(told)
    };
    make_private(path)?;
    // FULL, not NORMAL: under WAL, NORMAL may lose the last commits in a power cut, and a
    // creation that was acknowledged must not be among them.
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging();
    let writing = options.clone().journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
    let writer = pool(1).connect_with(writing).await.map_err(refuse)?;
    let reader = pool(READERS).connect_with(options.pragma("query_only", "ON")).await.map_err(refuse)?;
    Ok(Connections {
        writer: SqlxSqliteConnector::from_sqlx_sqlite_pool(writer),
        reader: SqlxSqliteConnector::from_sqlx_sqlite_pool(reader),
    })
}

fn pool(connections: u32) -> SqlitePoolOptions {
    // A connection to a file does not go stale: no test, no end of life.
    SqlitePoolOptions::new()
        .after_release(|connection, _| Box::pin(is_whole(connection)))
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

/// Whether a connection that comes back is outside of any transaction; one that is not is closed.
///
/// When a write finds the disk full, SQLite rolls the transaction back by itself, the driver's
/// own ROLLBACK is refused, and the driver counts on as if it were inside a transaction still.
/// The next ones would then be savepoints of a transaction that nobody ever commits: each
/// would be acknowledged, and all of them lost at the server's end.
async fn is_whole(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // A rollback that was ordered by a drop is done before this is answered.
    connection.ping().await?;
    let inside = connection.is_in_transaction();
    if inside {
        tracing::warn!("a transaction of the database did not end as it should; its connection is closed");
    }
    Ok(!inside)
}

/// Makes the file for its owner only before SQLite sees it; its `-wal` and `-shm` take the
/// same mode. A file that others could read is closed to them.
fn make_private(path: &Path) -> Result<()> {
    let refuse = |error: std::io::Error| {
        Error::internal(format!("the database {} can't be made: {error}", path.display()), error)
            .fix("check that its folder exists, belongs to you, and that its disk has space")
    };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => sync_dir(path).map_err(refuse),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let mode = fs::metadata(path).map_err(refuse)?.permissions().mode();
            if mode & 0o077 != 0 {
                tracing::warn!(path = %path.display(), "the database could be read by others; it is closed to them now");
                fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(refuse)?;
            }
            Ok(())
        }
        Err(error) => Err(refuse(error)),
    }
}

fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
}

/// Begins a transaction that may write. IMMEDIATE, so that what it reads can't have been
/// changed by somebody else when it writes.
pub(crate) async fn begin(writer: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    writer
        .begin_with_options(TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        })
        .await
}

/// Copies the database to `<file>.before-<migration>`, whole or not at all. An older copy of
/// that name is replaced: it was made before an attempt at the same migration failed.
pub(crate) async fn copy_before(
    writer: &DatabaseConnection,
    path: &Path,
    migration: &str,
) -> Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".before-{migration}"));
    let copy = PathBuf::from(name);
    let mut name = copy.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let refuse = |source: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(
            Code::Unavailable,
            format!(
                "the database can't be copied to {} before it is brought up to date: {source}",
                copy.display()
            ),
        )
        .fix("free some space on that disk, or make its folder writable; nothing was changed")
        .source(source)
    };
    let _ = fs::remove_file(&part);
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).map_err(|e| refuse(e.into()))?;
    let text = part.to_str().ok_or_else(|| refuse("its path is not UTF-8".into()))?;
    let statement =
        Statement::from_sql_and_values(writer.get_database_backend(), "VACUUM INTO ?", [text.into()]);
    writer.execute_raw(statement).await.map_err(|e| refuse(Box::new(e)))?;
    File::open(&part).and_then(|f| f.sync_all()).map_err(|e| refuse(e.into()))?;
    fs::rename(&part, &copy).map_err(|e| refuse(e.into()))?;
    sync_dir(&copy).map_err(|e| refuse(e.into()))?;
    Ok(copy)
}

/// What kind of trouble an error of the driver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Locked,
    Full,
    Corrupt,
    ReadOnly,
    Input,
    Other,
}

/// Reads SQLite's result code (<https://www.sqlite.org/rescode.html>; the low byte of an
/// extended code is the primary one).
pub(crate) fn trouble(error: &DbErr) -> Trouble {
    let (DbErr::Conn(RuntimeErr::SqlxError(inner))
    | DbErr::Exec(RuntimeErr::SqlxError(inner))
    | DbErr::Query(RuntimeErr::SqlxError(inner))) = error
    else {
        return Trouble::Other;
    };
    let sqlx::Error::Database(inner) = inner.as_ref() else {
        return Trouble::Other;
    };
    let code: Option<i32> = inner.code().and_then(|c| c.parse().ok());
    match code.map(|c| c & 0xff) {
        Some(5 | 6) => Trouble::Locked,
        Some(13) => Trouble::Full,
        Some(11 | 26) => Trouble::Corrupt,
        Some(8 | 14) => Trouble::ReadOnly,
        Some(10) => Trouble::Input,
        _ => Trouble::Other,
    }
}
