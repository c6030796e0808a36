//! Opening the store.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use clawfarm_model::name::{ProjectName, TenantName};
use clawfarm_model::{Code, Error, Result, Timestamp};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, EntityTrait, PaginatorTrait, QueryFilter, QuerySelect,
    TransactionTrait,
};
use sea_orm_migration::{MigratorTrait, SchemaManager, seaql_migrations};
use tokio::task::JoinSet;

use crate::backend::{Connections, Database};
use crate::entity::{event, meta, secret};
use crate::error::db;
use crate::key::MasterKey;
use crate::keyring::{self, KEYRING, Keyring, Ring};
use crate::migration::Migrator;
use crate::signals::Signals;
use crate::tx::Tx;
use crate::{backend, crypto};

/// The key of the fact that says which master key this database belongs to.
pub(crate) const PROOF: &str = "store.master_key_proof";

/// The fact that a restore writes anew: which of the states this is that the database has had.
pub(crate) const ERA: &str = "store.era";

/// The fact that says how many migrations a program must know to run on this database.
pub(crate) const COMPATIBLE_FROM: &str = "store.compatible_from";

/// The versions of the schema, and which programs may run on the latest.
pub(crate) trait Schema: MigratorTrait {
    /// A program that knows so many migrations may run beside one that knows them all: those
    /// after it only add what the older one does not miss. Raised by the migration that takes
    /// something away (the contract step), a release after what replaces it came.
    const COMPATIBLE_FROM: usize;
}

/// Where the store is and what it is encrypted with.
#[derive(Debug)]
pub struct StoreConfig {
    database: Database,
    master_key: MasterKey,
}

impl StoreConfig {
    /// A store in this database.
    #[must_use]
    pub const fn new(database: Database, master_key: MasterKey) -> Self {
        Self { database, master_key }
    }

    /// A SQLite file, made when it is missing. Its folder must exist.
    #[must_use]
    pub fn sqlite(path: impl Into<PathBuf>, master_key: MasterKey) -> Self {
        Self::new(Database::Sqlite(path.into()), master_key)
    }
}

/// The durable state. Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) writer: DatabaseConnection,
    pub(crate) reader: DatabaseConnection,
    /// For what a server says of itself, where there may be others: it does not wait behind
    /// the changes that clients make.
    pub(crate) beats: Option<DatabaseConnection>,
    /// What values are sealed under.
    pub(crate) keyring: Keyring,
    /// What [`ERA`] was when it was opened.
    pub(crate) era: Option<String>,
    /// Where the database's file is, when it is one.
    pub(crate) folder: Option<PathBuf>,
    description: String,
    pub(crate) signals: Arc<Signals>,
    /// What tells other servers and hears of them, where there may be others. Ended with the
    /// store.
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store(..)")
    }
}

impl Store {
    /// Opens the database, bringing its schema up to date. Before a SQLite file with contents
    /// is changed it is copied to `<file>.before-<migration>`. Of several servers that open one
    /// PostgreSQL database at once, one does this and the others wait for it.
    ///
    /// # Errors
    /// When the database can't be reached, is damaged or locked; when it was written by a newer
    /// clawfarm; when it belongs to another master key. Nothing is changed then.
    pub async fn open(config: StoreConfig) -> Result<Self> {
        Self::open_with::<Migrator>(config).await
    }

    pub(crate) async fn open_with<M: Schema>(config: StoreConfig) -> Result<Self> {
        let StoreConfig { database, master_key } = config;
        let Connections { writer, reader, beats, gate, postgres, folder, description } =
            backend::open(&database).await?;
        prepare::<M>(&gate, &database, &description, &master_key).await?;
        let signals = Arc::new(Signals::new(latest_event(&reader).await?, postgres.is_some()));
        let tasks = Mutex::default();
        let era = fact(&reader, ERA).await?;
        let keyring = Keyring::new(master_key)?;
        let inner = Inner { signals, writer, reader, beats, keyring, era, folder, description, tasks };
        let store = Self(Arc::new(inner));
        store.furnish().await?;
        if let Some(options) = postgres {
            // The lock on the schema is given back.
            gate.close().await.map_err(db)?;
            let tasks = backend::notify::run(&store.0.signals, &store.0.reader, &options);
            *store.0.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        }
        Ok(store)
    }

    /// What the database is, for `clawfarm doctor`.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.0.description
    }

    /// Whether the database answers a query, for `/readyz`.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<()> {
        fact(&self.0.reader, PROOF).await.map(drop)
    }

    /// Closes all connections, writing the log back into the file. Calls made afterwards
    /// fail. Dropping the store loses nothing either; this is for an orderly end.
    pub async fn close(&self) {
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        for connection in [&self.0.reader, &self.0.writer].into_iter().chain(&self.0.beats) {
            if let Err(error) = connection.close_by_ref().await {
                tracing::warn!(%error, "a connection to the database did not close");
            }
        }
    }

    /// What every database has: the tenant and project of a lone user, and the proof of its
    /// master key.
    async fn furnish(&self) -> Result<()> {
        let tx = Tx::begin(&self.0).await?;
        tx.project(TenantName::default_tenant().as_str(), ProjectName::default_project().as_str()).await?;
        if fact(tx.on(), PROOF).await?.is_none() {
            put_fact(tx.on(), PROOF, crypto::proof(&self.0.keyring.master)?, tx.now).await?;
        }
        match fact(tx.on(), KEYRING).await? {
            Some(ring) => self.0.keyring.take(&ring)?,
            None => {
                let ring = keyring::text(&Ring::first(&self.0.keyring.master)?)?;
                put_fact(tx.on(), KEYRING, ring, tx.now).await?;
            }
        }
        tx.commit().await
    }
}

/// Looks at what is there, and brings its schema up to date when it may.
async fn prepare<M: Schema>(
    gate: &DatabaseConnection,
    database: &Database,
    description: &str,
    key: &MasterKey,
) -> Result<()> {
    let applied = applied(gate).await?;
    let known: Vec<String> = M::migrations().iter().map(|m| m.name().to_owned()).collect();
    if let Some(newer) = applied.iter().find(|name| !known.contains(name)) {
        check_key(gate, key).await?;
        if compatible_from(gate).await? <= known.len() && known.iter().all(|name| applied.contains(name)) {
            tracing::warn!(schema = %newer, "the database was brought up to date by a newer clawfarm, beside which this one may run for the time of an upgrade");
            return Ok(());
        }
        let fix = match database {
            Database::Sqlite(path) => format!(
                "use that newer version, or put back the copy {}",
                backend::copy_path(path, newer).display()
            ),
            Database::Postgres(_) => {
                "use that newer version, or restore a backup that was made before it came".to_owned()
            }
        };
        return Err(Error::new(
            Code::Unsupported,
            format!(
                "the database ({description}) was written by a newer clawfarm (its schema has '{newer}')"
            ),
        )
        .fix(fix));
    }
    if !applied.is_empty() {
        check_key(gate, key).await?;
    }
    let Some(next) = known.iter().find(|name| !applied.contains(name)) else {
        return Ok(());
    };
    if !applied.is_empty()
        && let Some(copy) = backend::copy_before(gate, database, next).await?
    {
        tracing::info!(copy = %copy.display(), migration = %next, "copied the database before bringing it up to date");
    }
    let migrated = async {
        let txn = gate.begin().await.map_err(db)?;
        M::up(&txn, None).await.map_err(db)?;
        raise_compatible_from::<M>(&txn).await?;
        txn.commit().await.map_err(db)
    };
    migrated.await.map_err(|told| {
        Error::new(
            told.code(),
            format!("the database ({description}) can't be brought up to date: {}", told.message()),
        )
        .fix("nothing was lost: the change was undone; mend the cause and start again")
        .source(told)
    })
}

async fn compatible_from(on: &impl ConnectionTrait) -> Result<usize> {
    // A database without it was written by a program that allowed none beside it.
    Ok(fact(on, COMPATIBLE_FROM).await?.and_then(|text| text.parse().ok()).unwrap_or(usize::MAX))
}

/// Writes down which programs may run on this schema.
pub(crate) async fn raise_compatible_from<M: Schema>(on: &impl ConnectionTrait) -> Result<()> {
    // A changed master key has raised it further perhaps, see `keys`.
    let present = fact(on, COMPATIBLE_FROM).await?.and_then(|text| text.parse().ok()).unwrap_or(0);
    put_fact(on, COMPATIBLE_FROM, M::COMPATIBLE_FROM.max(present).to_string(), Timestamp::now()).await
}

/// The migrations that were applied, without changing anything; in their order.
pub(crate) async fn applied<'c, C>(writer: &'c C) -> Result<Vec<String>>
where
    C: ConnectionTrait + Sync,
    &'c C: sea_orm_migration::IntoSchemaManagerConnection<'c>,
{
    if !SchemaManager::new(writer).has_table("seaql_migrations").await.map_err(db)? {
        return Ok(Vec::new());
    }
    let rows = seaql_migrations::Entity::find().all(writer).await.map_err(db)?;
    let mut names: Vec<String> = rows.into_iter().map(|row| row.version).collect();
    names.sort();
    Ok(names)
}

/// Refuses a key that is not this database's, before anything is written with it.
async fn check_key(writer: &DatabaseConnection, key: &MasterKey) -> Result<()> {
    let (ring, proof) = (fact(writer, KEYRING).await?, fact(writer, PROOF).await?);
    if keyring::opens(key, ring.as_deref(), proof.as_deref())?.is_some() {
        return Ok(());
    }
    // Killed between the schema and its first row; only then there is nothing to open.
    if secret::Entity::find().count(writer).await.map_err(db)? == 0 {
        return Ok(());
    }
    Err(Error::new(Code::Internal, "the master key is not the one this database was encrypted with")
        .fix("put back the master.key that belongs to this database; nothing was changed"))
}

/// The number of the latest event, 0 when there is none.
pub(crate) async fn latest_event(reader: &DatabaseConnection) -> Result<i64> {
    let newest: Option<Option<i64>> = event::Entity::find()
        .select_only()
        .column_as(event::Column::Seq.max(), "seq")
        .into_tuple()
        .one(reader)
        .await
        .map_err(db)?;
    Ok(newest.flatten().unwrap_or(0))
}

/// A fact from the table of the server's own facts.
pub(crate) async fn fact(on: &impl ConnectionTrait, key: &str) -> Result<Option<String>> {
    let row = meta::Entity::find().filter(meta::Column::Key.eq(key)).one(on).await.map_err(db)?;
    Ok(row.map(|row| row.value))
}

/// Writes a fact, over the one that was there.
pub(crate) async fn put_fact(
    on: &impl ConnectionTrait,
    key: &str,
    value: String,
    now: Timestamp,
) -> Result<()> {
    use sea_orm::ActiveValue::Set;
    let row =
        meta::ActiveModel { key: Set(key.to_owned()), value: Set(value), updated_at: Set(now.as_millis()) };
    let over = sea_orm::sea_query::OnConflict::column(meta::Column::Key)
        .update_columns([meta::Column::Value, meta::Column::UpdatedAt])
        .to_owned();
    meta::Entity::insert(row).on_conflict(over).exec_without_returning(on).await.map_err(db)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use sea_orm_migration::prelude::{ColumnDef, DbErr, MigrationName, MigrationTrait, Table, async_trait};

    use std::path::Path;

    use super::*;

    /// A later version of the schema, as the next release would bring it.
    struct Later<const WORKS: bool>;

    struct Step<const WORKS: bool>;

    impl<const WORKS: bool> MigrationName for Step<WORKS> {
        fn name(&self) -> &str {
            "m9000_later"
        }
    }

    #[async_trait::async_trait]
    impl<const WORKS: bool> MigrationTrait for Step<WORKS> {
        async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
            manager
                .create_table(Table::create().table("later").col(ColumnDef::new("x").text()).take())
                .await?;
            if WORKS { Ok(()) } else { Err(DbErr::Custom("killed half-way".into())) }
        }

        fn use_transaction(&self) -> Option<bool> {
            Some(true)
        }
    }

    #[async_trait::async_trait]
    impl<const WORKS: bool> MigratorTrait for Later<WORKS> {
        fn migrations() -> Vec<Box<dyn MigrationTrait>> {
            let mut all = Migrator::migrations();
            all.push(Box::new(Step::<WORKS>));
            all
        }
    }

    impl<const WORKS: bool> Schema for Later<WORKS> {
        const COMPATIBLE_FROM: usize = usize::MAX;
    }

    fn config(path: &Path) -> StoreConfig {
        StoreConfig::sqlite(path, MasterKey::from_bytes([7; 32]))
    }

    async fn has(store: &Store, table: &str) -> bool {
        SchemaManager::new(&store.0.writer).has_table(table).await.unwrap()
    }

    #[tokio::test]
    async fn the_database_is_copied_before_its_schema_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clawfarm.db");
        let copy = dir.path().join("clawfarm.db.before-m9000_later");
        let context = clawfarm_model::Context::system("test");

        let store = Store::open(config(&path)).await.unwrap();
        store.meta_set(&context, "node", "n1").await.unwrap();
        let names = || {
            let mut names: Vec<_> = std::fs::read_dir(dir.path())
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .filter(|n| n.contains("before"))
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(), [""; 0], "a new database has nothing to copy");
        // Not closed: what is still in the log belongs into the copy too.
        let later = Store::open_with::<Later<true>>(config(&path)).await.unwrap();
        assert_eq!(names(), ["clawfarm.db.before-m9000_later"]);
        assert!(has(&later, "later").await);
        assert_eq!(later.meta_get(&context, "node").await.unwrap().as_deref(), Some("n1"));
        store.close().await;
        later.close().await;

        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&copy).unwrap().permissions());
        assert_eq!(mode & 0o7777, 0o600);
        let old = Store::open(config(&copy)).await.unwrap();
        assert!(!has(&old, "later").await);
        assert_eq!(old.meta_get(&context, "node").await.unwrap().as_deref(), Some("n1"));
        old.close().await;
        // Going back to the older program needs the copy: it refuses the newer file.
        assert_eq!(Store::open(config(&path)).await.unwrap_err().code(), Code::Unsupported);
        // Opened again, nothing is pending and nothing is copied.
        std::fs::remove_file(&copy).unwrap();
        Store::open_with::<Later<true>>(config(&path)).await.unwrap();
        assert_eq!(names(), [""; 0]);
    }

    #[tokio::test]
    async fn a_migration_that_fails_is_undone_and_can_be_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clawfarm.db");
        Store::open(config(&path)).await.unwrap().close().await;
        for _ in 0..2 {
            let error = Store::open_with::<Later<false>>(config(&path)).await.unwrap_err();
            assert!(error.message().contains("brought up to date") && error.fix_text().is_some(), "{error}");
        }
        let store = Store::open(config(&path)).await.unwrap();
        assert!(!has(&store, "later").await);
        store.close().await;
        assert!(has(&Store::open_with::<Later<true>>(config(&path)).await.unwrap(), "later").await);
    }

    #[tokio::test]
    async fn another_key_is_found_out_before_the_schema_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clawfarm.db");
        Store::open(config(&path)).await.unwrap().close().await;
        let wrong = StoreConfig::sqlite(&path, MasterKey::from_bytes([8; 32]));
        assert!(Store::open_with::<Later<true>>(wrong).await.is_err());
        let store = Store::open(config(&path)).await.unwrap();
        assert!(!has(&store, "later").await);
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clawfarm.db");
        let store = Store::open(config(&path)).await.unwrap();
        let context = clawfarm_model::Context::system("test");
        store.meta_set(&context, "small", "1").await.unwrap();
        // SQLite answers a file that may not grow just as it answers a full disk.
        let pages = |n: &str| format!("PRAGMA max_page_count = {n}");
        store.0.writer.execute_unprepared(&pages("1")).await.unwrap();
        let error = store.meta_set(&context, "big", "x".repeat(100_000)).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.message().contains("disk is full") && error.fix_text().is_some(), "{error}");
        assert_eq!(store.meta_get(&context, "big").await.unwrap(), None);
        assert_eq!(store.meta_get(&context, "small").await.unwrap().as_deref(), Some("1"));
        // With space again, it goes on.
        store.0.writer.execute_unprepared(&pages("1000000")).await.unwrap();
        store.meta_set(&context, "big", "x".repeat(100_000)).await.unwrap();
    }
}
