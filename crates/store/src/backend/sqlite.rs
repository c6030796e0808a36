//! What is particular to SQLite: how the file is made, opened, copied, and what its error
//! codes mean.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode,
    SqlxSqliteConnector, Statement, TransactionOptions, TransactionTrait,
};
use sqlx::error::DatabaseError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteError, SqliteJournalMode, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};

use super::Connections;

/// How long SQLite itself waits for another program's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a query waits for a connection of its pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// Readers do not block each other or the writer under WAL; a handful is enough for what
/// two cores can do.
const READERS: u32 = 4;

/// Opens the file, making it (0600) when it is missing.
pub(crate) async fn open(path: &Path) -> Result<Connections> {
    let refuse = |error: sqlx::Error| {
        let told = super::told(super::wrapped(error));
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
    // One that writes: SQLite has one writer at a time, and queueing here is fair, while SQLite's
    // own waiting is not.
    let writer = pool(1).connect_with(writing).await.map_err(refuse)?;
    let reader = pool(READERS).connect_with(options.pragma("query_only", "ON")).await.map_err(refuse)?;
    let writer = SqlxSqliteConnector::from_sqlx_sqlite_pool(writer);
    Ok(Connections {
        folder: path.parent().map(Path::to_owned),
        gate: writer.clone(),
        postgres: None,
        beats: None,
        description: format!("SQLite, {}", path.display()),
        writer,
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

/// Refuses a change where the file's folder is on a read-only mount, as after an error of its
/// disk. The connections' own files may be open still; a server that wrote to them and to
/// nothing else would promise what it can't do.
pub(crate) fn check_writable(folder: &Path) -> Result<()> {
    match rustix::fs::statvfs(folder) {
        Ok(found) if found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) => Err(Error::new(
            Code::Unavailable,
            format!("clawfarm's home {} is mounted read-only; nothing was changed", folder.display()),
        )
        .fix("mount it writable again (the kernel's log says why it is not); what is there can be read meanwhile")),
        // Whatever else is wrong is told by who writes.
        _ => Ok(()),
    }
}

/// Copies the database to `<file>.before-<migration>`, whole or not at all. An older copy of
/// that name is replaced: it was made before an attempt at the same migration failed.
pub(crate) async fn copy_before(
    writer: &DatabaseConnection,
    path: &Path,
    migration: &str,
) -> Result<PathBuf> {
    let copy = super::copy_path(path, migration);
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

/// What an error means, by SQLite's result code (<https://www.sqlite.org/rescode.html>; the low
/// byte of an extended code is the primary one).
pub(super) fn told(error: &DbErr) -> Option<Error> {
    let sqlx::Error::Database(inner) = super::driver(error)? else { return None };
    let code: i32 = inner.try_downcast_ref::<SqliteError>()?.code()?.parse().ok()?;
    let (what, text, fix) = match code & 0xff {
        5 | 6 => (
            Code::Unavailable,
            "the database is locked by another program",
            "end the program that holds it (a backup, a second server, sqlite3) and try again",
        ),
        13 => (
            Code::Unavailable,
            "the database can't be written: the disk is full",
            "free some space on the disk of clawfarm's home and try again; nothing was changed",
        ),
        11 | 26 => (
            Code::Internal,
            "the database file is damaged",
            "stop the server and put back a copy (beside it are the '.before-*' copies), or run 'clawfarm doctor'",
        ),
        // Written to while it turned read-only: it may be writable again.
        8 => (
            Code::Unavailable,
            "the database file can't be written",
            "check the owner and permissions of clawfarm's home, and that its disk is not mounted read-only",
        ),
        14 => (
            Code::Internal,
            "the database file can't be opened",
            "check the owner and permissions of clawfarm's home, and that its disk is not mounted read-only",
        ),
        10 => (
            Code::Unavailable,
            "the database file can't be read or written: the disk reports an error",
            "look at the machine's kernel log; put the home on a healthy disk",
        ),
        _ => return None,
    };
    Some(Error::new(what, text).fix(fix))
}
