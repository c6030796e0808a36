//! Backups: taken under writes, put back on either database, refused when damaged.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clawfarm_model::authz::Action;
use clawfarm_model::event::NewEvent;
use clawfarm_model::name::TargetName;
use clawfarm_model::secret::{SecretName, SecretOwner};
use clawfarm_model::{Code, Instance};
use clawfarm_store::{
    Changes, EventFilter, InstanceFilter, MasterKey, NewInstance, OwnTarget, PageRequest, Restore, Store,
    StoreConfig,
};
use secrecy::{ExposeSecret, SecretString};

use crate::support::{Bed, On, Place, grant, instance, leave, on_both, owner, system, target, tenant};

const FORCED: Restore<'static> = Restore { force: true, own: None };

on_both!(
    a_backup_under_writes_is_one_moment_and_goes_to_either_database,
    a_restore_is_whole_or_not_at_all,
    nothing_is_backed_up_where_there_is_nothing,
    what_is_on_this_machine_stays_on_it_under_its_new_name,
);

fn count_up(i: &mut Instance) -> clawfarm_model::Result<Changes> {
    i.restarts_total += 1;
    Ok(Changes::event(NewEvent::info("counted", format!("{}", i.restarts_total))))
}

fn key(place: &Place) -> MasterKey {
    MasterKey::load_or_create(&place.dir.path().join("master.key")).unwrap()
}

/// A place on the other or the same database, with the same key and nothing else.
fn beside(place: &Place, on: On) -> Place {
    let other = Place::new(on);
    std::fs::copy(place.dir.path().join("master.key"), other.dir.path().join("master.key")).unwrap();
    other
}

async fn a_backup_under_writes_is_one_moment_and_goes_to_either_database(on: On) {
    let bed = Bed::new(on).await;
    let mut alice = instance("default", "alice");
    alice.port = Some(20_001);
    alice.spec.labels.insert("ä'\"\\".into(), "line\nbreak".into());
    let mut new = NewInstance::new(alice.clone());
    let name = SecretName::new("key").unwrap();
    new.secrets.push((name.clone(), SecretString::from("t0ken")));
    bed.store.create_instance(&leave(Action::InstanceCreate, &alice), new).await.unwrap();
    // More rows than are read at once.
    for n in 0..600 {
        let event = NewEvent::info("noted", format!("{n}"));
        bed.store.record_event(&leave(Action::InstanceUse, &alice), &event).await.unwrap();
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let (store, claw) = (bed.store.clone(), alice.clone());
    let writer = tokio::spawn(async move {
        while !*stopped.borrow() {
            store.update_instance(&leave(Action::Observe, &claw), &claw.id, None, count_up).await.unwrap();
        }
    });
    let mut signal = bed.store.subscribe();
    let mut files = Vec::new();
    for n in 0..3 {
        // Written to before, and while it is read.
        for _ in 0..3 {
            signal.changed().await.unwrap();
        }
        let file = bed.place.dir.path().join(format!("backup-{n}"));
        let rows = Store::backup(&bed.place.database(), &file, "0.1.0").await.unwrap();
        assert!(rows > 600, "{rows}");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        files.push(file);
    }
    stop.send(true).unwrap();
    writer.await.unwrap();
    let error = Store::backup(&bed.place.database(), &files[0], "0.1.0").await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("file")));
    let text = std::fs::read_to_string(&files[2]).unwrap();
    assert!(text.contains(alice.id.as_str()) && !text.contains("t0ken"));
    let parts = std::fs::read_dir(bed.place.dir.path()).unwrap();
    assert!(!parts.flatten().any(|f| f.file_name().to_string_lossy().ends_with(".part")));

    for other in [On::Sqlite, On::Postgres] {
        let place = beside(&bed.place, other);
        let file = &files[1];
        let contents =
            Store::restore(&place.database(), file, &key(&place), Restore::default()).await.unwrap();
        assert_eq!((contents.instances, contents.version.as_str()), (1, "0.1.0"));
        let store = place.open().await;
        let found = store.instance(&owner("default"), &alice.id).await.unwrap();
        assert_eq!((found.port, &found.spec), (alice.port, &alice.spec));
        // One moment: the row, its version and its events say the same.
        let newest = EventFilter { newest: true, ..EventFilter::default() };
        let last = store.events(&owner("default"), &newest, 1).await.unwrap();
        assert_eq!(last[0].message, found.restarts_total.to_string());
        assert_eq!(found.version, i64::from(found.restarts_total) + 1);
        assert!(found.restarts_total >= 3, "it was not written to");
        let own = SecretOwner::Instance(tenant("default"), alice.id.clone());
        let secret = store.secret_value(&owner("default"), &own, &name).await.unwrap().unwrap();
        assert_eq!(secret.expose_secret(), "t0ken");
        // It goes on from there.
        store.update_instance(&leave(Action::Observe, &alice), &alice.id, None, count_up).await.unwrap();
        let next = store.events(&owner("default"), &newest, 1).await.unwrap();
        assert!(next[0].seq > last[0].seq);
        let audit = store.audit(&system(), &PageRequest::first()).await.unwrap().items.len();
        bed.store
            .record_audit(&leave(Action::InstanceUse, &alice), clawfarm_store::Outcome::Done, "x")
            .await
            .unwrap();
        assert!(audit >= 3);
        // The same twice is the same file, but for its moment.
        let again = place.dir.path().join("again");
        assert!(Store::backup(&place.database(), &again, "0.1.0").await.unwrap() > contents.rows);
    }
}

fn damaged(whole: &str, n: usize) -> String {
    match n {
        0 => whole[..whole.len() / 2].to_owned(),
        1 => whole.replacen("alice", "alicf", 1),
        2 => {
            let mut lines: Vec<&str> = whole.lines().collect();
            lines.remove(3);
            lines.join("\n") + "\n"
        }
        3 => whole.to_owned() + "{}\n",
        4 => String::new(),
        5 => whole.replacen("\"clawfarm_backup\":1", "\"clawfarm_backup\":2", 1),
        6 => whole.replacen("m0001_first", "m0009_first", 1),
        7 => whole.replacen("\"table\":\"meta\"", "\"table\":\"pg_user\"", 1),
        _ => "junk\n".repeat(100),
    }
}

async fn a_restore_is_whole_or_not_at_all(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    let file = bed.place.dir.path().join("backup");
    Store::backup(&bed.place.database(), &file, "0.1.0").await.unwrap();
    let bob = bed.make(instance("default", "bob")).await;
    bed.store.close().await;
    let before = bed.place.contents();
    let (database, key) = (bed.place.database(), key(&bed.place));
    let whole = std::fs::read_to_string(&file).unwrap();
    let bad = bed.place.dir.path().join("bad");
    for n in 0..=8 {
        std::fs::write(&bad, damaged(&whole, n)).unwrap();
        let error = Store::restore(&database, &bad, &key, FORCED).await.unwrap_err();
        assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("file")), "{n}: {error}");
        assert!(error.fix_text().is_some(), "{n}");
        assert!(bed.place.contents() == before, "{n}");
    }
    // Fine by itself, but not of this key; and not over what is there.
    let error = Store::restore(&database, &file, &MasterKey::from_bytes([3; 32]), FORCED).await.unwrap_err();
    assert!(error.message().contains("another master key"), "{error}");
    let error = Store::restore(&database, &file, &key, Restore::default()).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("--force")));
    let error = Store::restore(&database, Path::new("/nowhere/at/all"), &key, FORCED).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(bed.place.contents() == before);

    Store::restore(&database, &file, &key, FORCED).await.unwrap();
    let store = Store::open(StoreConfig::new(database.clone(), key)).await.unwrap();
    assert_eq!(store.instance(&owner("default"), &alice.id).await.unwrap(), alice);
    assert_eq!(store.instance(&owner("default"), &bob.id).await.unwrap_err().code(), Code::NotFound);
    if on == On::Sqlite {
        let copies = || {
            let names = std::fs::read_dir(bed.place.dir.path()).unwrap().map(|e| e.unwrap().file_name());
            names.filter(|n| n.to_string_lossy().starts_with("clawfarm.db.before-restore-")).count()
        };
        assert_eq!(copies(), 1);
        Store::restore(&database, &file, &crate::backup::key(&bed.place), FORCED).await.unwrap();
        assert_eq!(copies(), 2, "what was there before the first restore is still kept");
    }
    // A server that was away meanwhile, frozen or cut off, does not go on as if nothing were.
    if on == On::Postgres {
        Store::restore(&database, &file, &crate::backup::key(&bed.place), FORCED).await.unwrap();
        let error = store.join(&system(), &member(), LONG).await.unwrap_err();
        assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("database")), "{error}");
    }
    let store = bed.place.open().await;
    // A server that lives on it would write over it.
    store.join(&system(), &member(), LONG).await.unwrap();
    let key = crate::backup::key(&bed.place);
    let error = Store::restore(&database, &file, &key, FORCED).await.unwrap_err();
    assert!(error.message().contains("'one' runs"), "{error}");
}

const LONG: std::time::Duration = std::time::Duration::from_secs(600);

fn member() -> clawfarm_model::server::Member {
    clawfarm_model::server::Member {
        node: "n1".into(),
        session: "s".into(),
        name: "one".into(),
        version: "0.1.0".into(),
        address: None,
        targets: Vec::new(),
    }
}

async fn what_is_on_this_machine_stays_on_it_under_its_new_name(on: On) {
    let bed = Bed::new(on).await;
    let named = |name: &str, node: Option<&str>| {
        let mut target = target(name);
        target.reachable_from = node.map(str::to_owned);
        target
    };
    for target in [named("local", None), named("host2", Some("n2"))] {
        let leave = grant(&system(), Action::TargetWrite, "default", "target", target.name.as_str());
        bed.store.put_target(&leave, &target).await.unwrap();
    }
    let on_target = |name: &str, on: &str| {
        let mut instance = instance("default", name);
        instance.spec.target = TargetName::new(on).unwrap();
        instance
    };
    let here = bed.make(on_target("alice", "local")).await;
    let there = bed.make(on_target("bob", "host2")).await;
    let mut file = bed.place.dir.path().join("one");
    Store::backup(&bed.place.database(), &file, "0.1.0").await.unwrap();
    // From a server that was alone to one with a name, and back.
    let (host1, local) = (named("host1", Some("n1")), named("local", None));
    for (own, was) in [(&host1, "local"), (&local, "host1"), (&local, "")] {
        let place = beside(&bed.place, on);
        let own = OwnTarget { target: own.clone(), node: Some("n1".into()) };
        let how = Restore { own: Some(&own), ..Restore::default() };
        let contents = Store::restore(&place.database(), &file, &key(&place), how).await.unwrap();
        let moved = contents.moved.map(|m| (m.target, m.instances));
        assert_eq!(moved, (!was.is_empty()).then(|| (was.to_owned(), 1)));
        let others: Vec<_> = contents.of_others.iter().map(|m| (m.target.as_str(), m.instances)).collect();
        assert_eq!(others, [("host2", 1)]);
        let store = place.open().await;
        let found = store.instance(&system(), &here.id).await.unwrap();
        assert_eq!(found.spec.target, own.target.name);
        let filter = InstanceFilter { target: Some(own.target.name.clone()), ..InstanceFilter::default() };
        assert_eq!(store.count_instances(&system(), &filter).await.unwrap(), 1, "the column says the same");
        assert_eq!(store.instance(&system(), &there.id).await.unwrap().spec, there.spec);
        let targets = store.targets(&system()).await.unwrap();
        assert!(targets.contains(&own.target), "{targets:?}");
        assert!(targets.iter().all(|t| t.name.as_str() != was), "{was}: {targets:?}");
        // The next one goes on from here.
        file = bed.place.dir.path().join(format!("after-{was}"));
        Store::backup(&place.database(), &file, "0.1.0").await.unwrap();
    }
}

async fn nothing_is_backed_up_where_there_is_nothing(on: On) {
    let place = Place::new(on);
    let file = place.dir.path().join("backup");
    let error = Store::backup(&place.database(), &file, "0.1.0").await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    assert!(!file.exists() && !place.dir.path().join("clawfarm.db").exists());
}

/// Each table is either in a backup or left out on purpose.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_table_is_forgotten() {
    let bed = Bed::new(On::Postgres).await;
    let postgres = bed.place.postgres.as_ref().unwrap();
    let tables = postgres.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1");
    let source = include_str!("../../src/backup/mod.rs");
    for table in tables.lines() {
        assert!(source.contains(&format!("\"{table}\"")), "{table} is neither in TABLES nor in LEFT_OUT");
    }
    assert!(tables.lines().count() > 10);
}
