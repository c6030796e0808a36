use std::os::unix::fs::PermissionsExt;

use clawfarm_model::Code;
use clawfarm_store::{MasterKey, Store, StoreConfig};
use sea_orm::ConnectionTrait;

use crate::support::{Bed, On, instance, leave, on_both, owner, system};

on_both!(
    a_new_store_has_the_default_project_and_answers,
    a_newer_schema_is_refused_and_left_alone,
    rows_that_were_changed_by_hand_are_named_and_not_taken_for_others,
);

fn key() -> MasterKey {
    MasterKey::from_bytes([1; 32])
}

#[tokio::test]
async fn the_files_are_their_owners_only() {
    let bed = Bed::new(On::Sqlite).await;
    let mode = |name: &str| {
        std::fs::metadata(bed.place.dir.path().join(name)).unwrap().permissions().mode() & 0o7777
    };
    for name in ["clawfarm.db", "clawfarm.db-wal", "clawfarm.db-shm"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    bed.store.close().await;
    let path = bed.place.dir.path().join("clawfarm.db");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    bed.place.open().await;
    assert_eq!(mode("clawfarm.db"), 0o600);
}

async fn a_new_store_has_the_default_project_and_answers(on: On) {
    let bed = Bed::new(on).await;
    bed.store.ping().await.unwrap();
    let projects = bed.store.projects(&owner("default")).await.unwrap();
    assert_eq!(projects.len(), 1);
    assert_eq!((projects[0].0.as_str(), projects[0].1.as_str()), ("default", "default"));
    bed.store.close().await;
    assert_eq!(bed.store.ping().await.unwrap_err().code(), Code::Internal);
    let again = bed.place.open().await;
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

async fn a_newer_schema_is_refused_and_left_alone(on: On) {
    let bed = Bed::new(on).await;
    bed.store.close().await;
    let db = bed.place.raw().await;
    db.execute_unprepared("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_future', 0)")
        .await
        .unwrap();
    // One that only adds: for the time of an upgrade old and new servers run side by side.
    let beside = bed.place.open().await;
    beside.meta_set(&system(), "node", "old").await.unwrap();
    beside.close().await;
    // One that takes something away.
    db.execute_unprepared("UPDATE meta SET value = '9999' WHERE key = 'store.compatible_from'")
        .await
        .unwrap();
    db.close().await.unwrap();
    let before = bed.place.contents();
    let error = Store::open(bed.place.config()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unsupported);
    assert!(error.message().contains("newer") && error.message().contains("m9999_future"), "{error}");
    let way_back = if on == On::Sqlite { ".before-m9999_future" } else { "restore a backup" };
    assert!(error.fix_text().unwrap().contains(way_back), "{error:?}");
    assert!(bed.place.contents() == before);
}

#[tokio::test]
async fn a_database_that_another_program_holds_is_unavailable_for_now() {
    use clawfarm_model::authz::Action;
    let bed = Bed::new(On::Sqlite).await;
    let holder = bed.place.raw().await;
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

async fn rows_that_were_changed_by_hand_are_named_and_not_taken_for_others(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    let db = bed.place.raw().await;
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
