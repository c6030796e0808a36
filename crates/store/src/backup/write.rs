//! Writing a backup: one snapshot of the database, while others go on writing.

use std::path::Path;

use clawfarm_model::{Code, Error, Result, Timestamp};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, IsolationLevel, QueryResult,
    Statement, TransactionTrait, Value,
};
use serde_json::Value as Json;

use super::file::{Head, Writer};
use super::{FORM, Row, TABLES};
use crate::backend::{self, Database};
use crate::error::{db, unreadable};
use crate::store::{Store, applied};

/// How many rows are read at once.
const PAGE: usize = 500;

impl Store {
    /// Writes everything in `database` as it is at one moment to a new file (0600), and returns
    /// how many rows it has. Servers may run and write meanwhile. It needs no master key: what
    /// is encrypted stays so. `version` is this program's, written into the file.
    ///
    /// # Errors
    /// `Conflict` when the file exists, `NotFound` when the database has no state yet; when the
    /// database can't be read or the file not be written. Then there is no file.
    pub async fn backup(database: &Database, path: &Path, version: &str) -> Result<u64> {
        if let Database::Sqlite(file) = database
            && !file.exists()
        {
            return Err(nothing(&file.display().to_string()));
        }
        let connections = backend::open(database).await?;
        if connections.postgres.is_some() {
            // No server has to wait for a backup.
            connections.gate.close_by_ref().await.map_err(db)?;
        }
        let written = write(&connections.reader, &connections.description, path, version).await;
        for connection in [&connections.reader, &connections.writer] {
            let _ = connection.close_by_ref().await;
        }
        written
    }
}

async fn write(reader: &DatabaseConnection, place: &str, path: &Path, version: &str) -> Result<u64> {
    let snapshot = snapshot(reader).await?;
    let schema = applied(&snapshot).await?;
    if schema.is_empty() {
        return Err(nothing(place));
    }
    let head = Head {
        clawfarm_backup: FORM,
        version: version.to_owned(),
        made_at: Timestamp::now().to_string(),
        schema,
    };
    let mut writer = Writer::begin(path, &head)?;
    let manager = sea_orm_migration::SchemaManager::new(&snapshot);
    for (table, key) in TABLES {
        // A database of an earlier schema has fewer.
        if manager.has_table(table).await.map_err(db)? {
            copy(&snapshot, table, key, &mut writer).await?;
        }
    }
    snapshot.rollback().await.map_err(db)?;
    writer.end()
}

/// What is read in it is as it was at its first read.
async fn snapshot(reader: &DatabaseConnection) -> Result<DatabaseTransaction> {
    if reader.get_database_backend() == DbBackend::Sqlite {
        return reader.begin().await.map_err(db);
    }
    let level = Some(IsolationLevel::RepeatableRead);
    let snapshot = reader.begin_with_config(level, None).await.map_err(db)?;
    let patient = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0";
    snapshot.execute_unprepared(patient).await.map_err(db)?;
    Ok(snapshot)
}

async fn copy(on: &DatabaseTransaction, table: &str, key: &[&str], writer: &mut Writer) -> Result<()> {
    let backend = on.get_database_backend();
    let columns = key.join(", ");
    let mut last: Option<Vec<Value>> = None;
    loop {
        let after = match &last {
            Some(_) => {
                let marks: Vec<_> = (1..=key.len())
                    .map(|n| if backend == DbBackend::Postgres { format!("${n}") } else { "?".to_owned() })
                    .collect();
                format!("WHERE ({columns}) > ({})", marks.join(", "))
            }
            None => String::new(),
        };
        // The names are those of the table above, not anybody's input.
        let sql = format!("SELECT * FROM {table} {after} ORDER BY {columns} LIMIT {PAGE}");
        let page = Statement::from_sql_and_values(backend, sql, last.take().unwrap_or_default());
        let rows = on.query_all_raw(page).await.map_err(db)?;
        let whole = rows.len() == PAGE;
        for (n, result) in rows.iter().enumerate() {
            let row = read(table, result)?;
            if n + 1 == rows.len() {
                last = Some(key.iter().map(|c| value(row.get(*c))).collect());
            }
            writer.row(table, row)?;
        }
        if !whole {
            return Ok(());
        }
    }
}

/// A row of numbers and texts.
fn read(table: &str, result: &QueryResult) -> Result<Row> {
    let mut row = Row::new();
    for column in result.column_names() {
        let read = match result.try_get::<Option<i64>>("", &column) {
            Ok(number) => number.map_or(Json::Null, Json::from),
            Err(_) => match result.try_get::<Option<String>>("", &column) {
                Ok(text) => text.map_or(Json::Null, Json::from),
                Err(e) => return Err(unreadable("row", table, e)),
            },
        };
        row.insert(column, read);
    }
    Ok(row)
}

fn value(json: Option<&Json>) -> Value {
    match json {
        Some(Json::Number(n)) => n.as_i64().into(),
        Some(Json::String(text)) => text.as_str().into(),
        _ => Value::String(None),
    }
}

fn nothing(place: &str) -> Error {
    Error::new(Code::NotFound, format!("there is no clawfarm state in {place}"))
        .fix("check --home and --database; a server that ran once has made it")
}
