use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clawfarm_model::Code;
use clawfarm_store::{MasterKey, Store, StoreConfig};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};

use crate::support::{Bed, instance, leave, open, owner, system};

fn key() -> MasterKey {
    MasterKey::from_bytes([1; 32])
}

async fn raw(path: &Path) -> DatabaseConnection {
    Database::connect(format!("sqlite://{}", path.display())).await.unwrap()
}

#[tokio::test]
async fn the_files_are_their_owners_only() {
    let bed = Bed::new().await;
    let mode =
        |name: &str| std::fs::metadata(bed.dir.path().join(name)).unwrap().permissions().mode() & 0o7777;
    for name in ["clawfarm.db", "clawfarm.db-wal", "clawfarm.db-shm"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    bed.store.close().await;
    let path = bed.dir.path().join("clawfarm.db");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    open(&bed.dir).await;
    assert_eq!(mode("clawfarm.db"), 0o600);
}

#[tokio::test]
async fn a_new_store_has_the_default_project_and_answers() {
    let bed = Bed::new().await;
    bed.store.ping().await.unwrap();
    let projects = bed.store.projects(&owner("default")).await.unwrap();
    assert_eq!(projects.len(), 1);
    assert_eq!((projects[0].0.as_str(), projects[0].1.as_str()), ("default", "default"));
    bed.store.close().await;
    assert_eq!(bed.store.ping().await.unwrap_err().code(), Code::Internal);
    let again = open(&bed.dir).await;
    assert_eq!(again.projects(&system()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clawfarm.db");
    let junk = vec![b'x'; 8192];
    std::fs::write(&path, &junk).unwrap();
    let error = Store::open(StoreConfig::sqlite(&path, key())).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.message().contains("clawfarm.db") && error.message().contains("damaged"), "{error}");
    assert!(error.fix_text().is_some());
    assert_eq!(std::fs::read(&path).unwrap(), junk);

    let error = Store::open(StoreConfig::sqlite(dir.path().join("no/folder.db"), key())).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.message().contains("folder.db") && error.fix_text().is_some(), "{error}");
    let error = Store::open(StoreConfig::sqlite(dir.path(), key())).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let bed = Bed::new().await;
    bed.store.close().await;
    let path = bed.dir.path().join("clawfarm.db");
    let db = raw(&path).await;
    db.execute_unprepared("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_future', 0)")
        .await
        .unwrap();
    db.close().await.unwrap();
    let before = std::fs::read(&path).unwrap();
    let key = MasterKey::load_or_create(&bed.dir.path().join("master.key")).unwrap();
    let error = Store::open(StoreConfig::sqlite(&path, key)).await.unwrap_err();
    assert_eq!(error.code(), Code::Unsupported);
    assert!(error.message().contains("newer") && error.message().contains("m9999_future"), "{error}");
    assert!(error.fix_text().unwrap().contains(".before-m9999_future"));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_database_that_another_program_holds_is_unavailable_for_now() {
    use clawfarm_model::authz::Action;
    let bed = Bed::new().await;
    let holder = raw(&bed.dir.path().join("clawfarm.db")).await;
    holder.execute_unprepared("BEGIN IMMEDIATE").await.unwrap();
    let new = instance("default", "alice");
    let granted = leave(Action::InstanceCreate, &new);
    let error =
        bed.store.create_instance(&granted, clawfarm_store::NewInstance::new(new.clone())).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("locked") && error.fix_text().is_some(), "{error}");
    // Readers go on meanwhile, and writers afterwards.
    bed.store.ping().await.unwrap();
    holder.execute_unprepared("ROLLBACK").await.unwrap();
    bed.make(new).await;
}

#[tokio::test]
async fn rows_that_were_changed_by_hand_are_named_and_not_taken_for_others() {
    let bed = Bed::new().await;
    let alice = bed.make(instance("default", "alice")).await;
    let db = raw(&bed.dir.path().join("clawfarm.db")).await;
    for sql in ["phase = 'sleeping'", "spec = '{'", "health = 'x'", "restarts = -1", "port = 99999"] {
        let column = sql.split(' ').next().unwrap();
        let keep = format!("CREATE TEMP TABLE kept AS SELECT {column} AS v FROM instances");
        db.execute_unprepared(&keep).await.unwrap();
        db.execute_unprepared(&format!("UPDATE instances SET {sql}")).await.unwrap();
        let error = bed.store.instance(&owner("default"), &alice.id).await.unwrap_err();
        assert_eq!(error.code(), Code::Internal, "{sql}");
        assert!(error.message().contains(alice.id.as_str()), "{error}");
        db.execute_unprepared(&format!("UPDATE instances SET {column} = (SELECT v FROM kept)"))
            .await
            .unwrap();
        db.execute_unprepared("DROP TABLE kept").await.unwrap();
    }
    assert_eq!(bed.store.instance(&owner("default"), &alice.id).await.unwrap(), alice);
}
