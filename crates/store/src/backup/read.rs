//! Making a database from a backup: whole or not at all.

use std::path::{Path, PathBuf};

use clawfarm_model::{Code, Error, Result, Timestamp};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, Statement, TransactionTrait, Value,
};
use sea_orm_migration::{MigratorTrait, SchemaManager};
use serde_json::Value as Json;

use super::file::{Reader, hex};
use super::own::{Moved, OwnTarget, Targets};
use super::{LEFT_OUT, NUMBERED, Row, TABLES, refused};
use crate::backend::{self, Database};

use crate::error::db;
use crate::key::MasterKey;
use crate::keyring::{self, KEYRING, Ring};
use crate::migration::Migrator;
use crate::store::{ERA, PROOF, Store, put_fact, raise_compatible_from};

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The version of clawfarm that wrote it.
    pub version: String,
    /// When, in UTC.
    pub made_at: String,
    /// How many rows.
    pub rows: u64,
    /// How many of them are instances, destroyed ones among them.
    pub instances: u64,
    /// What was on this home's own target under another name and is on [`OwnTarget`] now.
    pub moved: Option<Moved>,
    /// What is on targets that only other servers reach.
    pub of_others: Vec<Moved>,
}

/// How a backup is put back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restore<'a> {
    /// Replace a state that is there.
    pub force: bool,
    /// The target that the home's own instances go on with; without it they stay on the one
    /// that the backup has.
    pub own: Option<&'a OwnTarget>,
}

impl Store {
    /// Makes `database` what the backup says. All of the file is checked before anything is
    /// changed, and all is changed in one transaction. What was there goes when it is forced; a
    /// SQLite file is copied to `<file>.before-restore-<time>` first.
    ///
    /// # Errors
    /// `InvalidInput` when the file is damaged, of a newer clawfarm, or of another master key;
    /// `Conflict` when the database holds a state and it is not forced, or a server lives on it.
    /// Nothing is changed then.
    pub async fn restore(
        database: &Database,
        path: &Path,
        key: &MasterKey,
        how: Restore<'_>,
    ) -> Result<Contents> {
        let (contents, plan) = check(path, key, how)?;
        let connections = backend::open(database).await?;
        let done = restore(&connections.gate, database, path, &plan).await;
        for connection in [&connections.gate, &connections.reader, &connections.writer] {
            let _ = connection.close_by_ref().await;
        }
        done.map(|()| contents)
    }
}

/// What a first reading found out for the second.
struct Plan<'a> {
    how: Restore<'a>,
    schema: Vec<String>,
    targets: Targets,
    /// The target that is renamed, and what to.
    renamed: Option<(String, &'a OwnTarget)>,
}

/// Reads all of it once.
fn check<'a>(path: &Path, key: &MasterKey, how: Restore<'a>) -> Result<(Contents, Plan<'a>)> {
    let mut reader = Reader::begin(path)?;
    let head = reader.head.clone();
    let known: Vec<String> = Migrator::migrations().iter().map(|m| m.name().to_owned()).collect();
    if !known.starts_with(&head.schema) || head.schema.is_empty() {
        return Err(refused(path, &format!("it was written by a newer clawfarm ({})", shown(&head.version)))
            .fix("use that newer version; nothing was changed"));
    }
    let (mut rows, mut instances, mut proof, mut ring) = (0, 0, None, None);
    let mut targets = Targets::default();
    while let Some((table, row)) = reader.next()? {
        rows += 1;
        targets.note(table, &row);
        instances += u64::from(table == "instances");
        if table == "meta" {
            let value = || row.get("value").and_then(Json::as_str).map(str::to_owned);
            match row.get("key").and_then(Json::as_str) {
                Some(PROOF) => proof = value(),
                Some(KEYRING) => ring = value(),
                _ => {}
            }
        }
        if row.keys().any(|name| !is_name(name)) || !row.values().all(is_value) {
            return Err(refused(path, &format!("row {rows} is damaged")));
        }
    }
    if !matches!(keyring::opens(key, ring.as_deref(), proof.as_deref()), Ok(Some(()))) {
        let right = ring.as_deref().and_then(|text| Ring::parse(text).ok()).map(|ring| ring.masters());
        let right = right.map_or_else(String::new, |it| format!(", of fingerprint {}", it.join(" or ")));
        let own = key.fingerprint()?;
        return Err(refused(path, &format!("it was made under another master key{right}, not {own}"))
            .fix("put the master key that belongs to it into the home first; nothing was changed"));
    }
    let moved = how.own.and_then(|own| targets.own_before(own));
    let renamed = how.own.and_then(|own| Some((moved.as_ref()?.target.clone(), own)));
    let of_others = how.own.map(|own| targets.of_others(own)).unwrap_or_default();
    let (version, made_at) = (shown(&head.version), shown(&head.made_at));
    Ok((
        Contents { version, made_at, rows, instances, moved, of_others },
        Plan { how, schema: head.schema, targets, renamed },
    ))
}

async fn restore(gate: &DatabaseConnection, database: &Database, path: &Path, plan: &Plan<'_>) -> Result<()> {
    let manager = SchemaManager::new(gate);
    if manager.has_table("instances").await.map_err(db)? {
        if manager.has_table("servers").await.map_err(db)? {
            no_server_lives(gate).await?;
        }
        if !plan.how.force && holds_state(gate).await? {
            return Err(Error::new(Code::Conflict, "the database holds a state already")
                .field("--force")
                .fix(
                    "give --force to have it replaced; make a backup of it first with 'clawfarm db backup'",
                ));
        }
        let copy: Option<PathBuf> = backend::copy_before(gate, database, &before_restore()).await?;
        if let Some(copy) = copy {
            tracing::info!(copy = %copy.display(), "copied the database before it is replaced");
        }
    }
    let txn = gate.begin().await.map_err(db)?;
    for table in TABLES.iter().rev().map(|(name, _)| name).chain(LEFT_OUT) {
        run(&txn, &format!("DROP TABLE IF EXISTS {table}")).await?;
    }
    let steps = u32::try_from(plan.schema.len()).unwrap_or(u32::MAX);
    Migrator::up(&txn, Some(steps)).await.map_err(db)?;
    let mut reader = Reader::begin(path)?;
    while let Some((table, row)) = reader.next()? {
        let row = match &plan.renamed {
            Some((from, own)) => plan.targets.follow(from, own, table, row),
            None => Some(row),
        };
        if let Some(row) = row {
            insert(&txn, table, &row).await?;
        }
    }
    Migrator::up(&txn, None).await.map_err(db)?;
    raise_compatible_from::<Migrator>(&txn).await?;
    number_on(&txn).await?;
    // A server that was away meanwhile, and took what it knows from the old state, notices.
    let mut era = [0; 16];
    getrandom::fill(&mut era).map_err(|e| Error::internal("no randomness", e))?;
    put_fact(&txn, ERA, hex(&era), Timestamp::now()).await?;
    txn.commit().await.map_err(db)
}

/// A copy is never written over by the next restore: what is restored first may turn out to be
/// the wrong backup, and then the first copy is all there is of what was there before.
fn before_restore() -> String {
    let now = Timestamp::now().to_string();
    // Up to the millisecond, and without what a shell or another file system minds.
    let digits: String = now.chars().take(23).filter(|c| *c != ':' && *c != '-').collect();
    format!("restore-{digits}")
}

async fn run(txn: &DatabaseTransaction, sql: &str) -> Result<()> {
    txn.execute_unprepared(sql).await.map(drop).map_err(db)
}

async fn insert(txn: &DatabaseTransaction, table: &str, row: &Row) -> Result<()> {
    let backend = txn.get_database_backend();
    let (mut marks, mut values): (Vec<String>, Vec<Value>) = Default::default();
    for value in row.values() {
        let value = match value {
            Json::Null => {
                marks.push("NULL".to_owned());
                continue;
            }
            Json::Number(n) => n.as_i64().into(),
            other => other.as_str().unwrap_or_default().into(),
        };
        values.push(value);
        marks.push(if backend == DbBackend::Postgres {
            format!("${}", values.len())
        } else {
            "?".to_owned()
        });
    }
    let names: Vec<_> = row.keys().map(|name| format!("\"{name}\"")).collect();
    let sql = format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), marks.join(", "));
    txn.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await.map(drop).map_err(db)
}

/// The next row gets a number above all that were ever given.
async fn number_on(txn: &DatabaseTransaction) -> Result<()> {
    if txn.get_database_backend() != DbBackend::Postgres {
        // SQLite takes note of each number that is inserted.
        return Ok(());
    }
    for table in NUMBERED {
        let highest = if *table == "events" {
            "GREATEST((SELECT max(seq) FROM events), (SELECT max(gone) FROM event_marks), 0)".to_owned()
        } else {
            format!("COALESCE((SELECT max(seq) FROM {table}), 0)")
        };
        let sql = format!("SELECT setval(pg_get_serial_sequence('{table}', 'seq'), {highest} + 1, false)");
        txn.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await.map_err(db)?;
    }
    Ok(())
}

async fn holds_state(gate: &DatabaseConnection) -> Result<bool> {
    for table in ["instances", "datasets", "secrets"] {
        let sql = format!("SELECT 1 AS one FROM {table} LIMIT 1");
        let one = gate.query_one_raw(Statement::from_string(gate.get_database_backend(), sql)).await;
        if one.map_err(db)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn no_server_lives(gate: &DatabaseConnection) -> Result<()> {
    let now = crate::servers::database_now(gate).await?;
    let sql = format!("SELECT name FROM servers WHERE expires_at > {now} LIMIT 1");
    let row =
        gate.query_one_raw(Statement::from_string(gate.get_database_backend(), sql)).await.map_err(db)?;
    match row.and_then(|row| row.try_get::<String>("", "name").ok()) {
        None => Ok(()),
        Some(name) => Err(Error::new(Code::Conflict, format!("the server '{name}' runs on this database"))
            .fix("stop all servers of this database ('clawfarm down' on each) and try again; a crashed one is forgotten within half a minute")),
    }
}

fn is_name(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn is_value(value: &Json) -> bool {
    match value {
        Json::Null | Json::String(_) => true,
        Json::Number(n) => n.is_i64(),
        _ => false,
    }
}

fn shown(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_default).collect()
}
