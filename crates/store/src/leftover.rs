//! Rows in the copy of somebody else's SQLite database.
//!
//! A claw that is up has written into its own database which process has it open. In a copy of
//! that moment this is a lie: nobody has the copy open, and on another machine, or in another
//! process, the number may be anybody's.

use std::path::Path;
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::time::timeout;

/// How long it may take: the tables have a row or two. What a claw has made of its database is its
/// own business, and must not keep the server busy.
const LIMIT: Duration = Duration::from_secs(20);

/// Empties tables of a database that nobody has open. A table that is not there, or that is more
/// than a plain table (its claw can put triggers on it), is left alone. The caller makes sure that
/// `file` and what lies beside it are plain files.
///
/// # Errors
/// `Unavailable` when the database can't be read or written.
pub async fn empty_tables(file: &Path, tables: &[&str]) -> Result<()> {
    let failed = |why: String| {
        Error::new(Code::Unavailable, format!("the database '{}' can't be put in order", file.display()))
            .source(why)
    };
    match timeout(LIMIT, empty(file, tables)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("it takes too long".to_owned())),
    }
}

async fn empty(file: &Path, tables: &[&str]) -> Result<(), sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(false)
        // Nothing else goes with a row.
        .foreign_keys(false)
        // Functions and virtual tables in a schema that a claw has written are not run.
        .pragma("trusted_schema", "OFF")
        .busy_timeout(Duration::from_secs(5))
        .disable_statement_logging();
    let mut database = SqliteConnection::connect_with(&options).await?;
    for table in tables {
        if is_plain(&mut database, table).await? {
            sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM \"{table}\"")))
                .execute(&mut database)
                .await?;
        }
    }
    database.close().await
}

/// Whether it is a table of its own, with nothing that runs when it is changed.
async fn is_plain(database: &mut SqliteConnection, table: &str) -> Result<bool, sqlx::Error> {
    if !table.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
        return Ok(false);
    }
    let count = |text: &'static str| sqlx::query_scalar::<_, i64>(text).bind(table.to_owned());
    let tables = count(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1 AND sql LIKE 'CREATE TABLE%'",
    );
    let triggers =
        count("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND lower(tbl_name) = ?1");
    Ok(tables.fetch_one(&mut *database).await? == 1 && triggers.fetch_one(&mut *database).await? == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_plain_tables_are_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("claw.sqlite");
        let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        let mut database = SqliteConnection::connect_with(&options).await.unwrap();
        for statement in [
            "PRAGMA journal_mode = WAL",
            "CREATE TABLE leases (pid INTEGER)",
            "CREATE TABLE memories (text TEXT)",
            "CREATE TABLE watched (pid INTEGER)",
            "CREATE TRIGGER t AFTER DELETE ON watched BEGIN DELETE FROM memories; END",
            "INSERT INTO leases VALUES (7)",
            "INSERT INTO memories VALUES ('of me')",
            "INSERT INTO watched VALUES (7)",
        ] {
            sqlx::query(statement).execute(&mut database).await.unwrap();
        }
        empty_tables(&file, &["leases", "watched", "not_there", "Memories; --"]).await.unwrap();
        for (table, rows) in [("leases", 0_i64), ("watched", 1), ("memories", 1)] {
            let query = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
            let count: i64 = sqlx::query_scalar(query).fetch_one(&mut database).await.unwrap();
            assert_eq!(count, rows, "{table}");
        }
        database.close().await.unwrap();
        let broken = folder.path().join("broken.sqlite");
        std::fs::write(&broken, "no database").unwrap();
        assert_eq!(empty_tables(&broken, &["leases"]).await.unwrap_err().code(), Code::Unavailable);
        let missing = folder.path().join("missing");
        assert!(empty_tables(&missing, &["leases"]).await.is_err() && !missing.exists());
    }
}
