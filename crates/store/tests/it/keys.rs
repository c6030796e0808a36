//! Changing the master key while servers serve.

use clawfarm_model::authz::Action;
use clawfarm_model::secret::{RotationStage, SecretName, SecretOwner, SecretRotation};
use clawfarm_model::{Code, Timestamp};
use clawfarm_store::{InboxLimits, MasterKey, NewMessage, Store, StoreConfig};
use secrecy::{ExposeSecret, SecretString};

use crate::support::{Bed, On, grant, instance, leave, on_both, owner, system, tenant};

on_both!(
    both_keys_are_valid_until_one_is_left,
    all_that_is_sealed_is_wrapped_anew,
    wrapping_anew_goes_on_where_it_was_left,
);

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

fn of_tenant() -> SecretOwner {
    SecretOwner::Tenant(tenant("default"))
}

async fn set(store: &Store, key: &str, value: &str) {
    let granted = grant(&owner("default"), Action::SecretWrite, "default", "secret", key);
    store.set_secret(&granted, &of_tenant(), &name(key), &SecretString::from(value)).await.unwrap();
}

async fn value(store: &Store, key: &str) -> String {
    let value = store.secret_value(&owner("default"), &of_tenant(), &name(key)).await.unwrap();
    value.unwrap().expose_secret().to_owned()
}

fn with(bed: &Bed, byte: u8) -> StoreConfig {
    StoreConfig::new(bed.place.database(), MasterKey::from_bytes([byte; 32]))
}

async fn both_keys_are_valid_until_one_is_left(on: On) {
    let bed = Bed::new(on).await;
    set(&bed.store, "old", "sealed before").await;
    let peers = bed.store.peer_key().unwrap();
    let first = bed.store.key_state(&system()).await.unwrap();
    assert_eq!((first.masters.len(), first.rewrapping), (1, false));
    // A server that knows nothing of the change yet.
    let other = bed.place.open().await;
    let new = MasterKey::from_bytes([2; 32]);
    bed.store.add_master_key(&system(), &new).await.unwrap();
    bed.store.add_master_key(&system(), &new).await.unwrap();
    let both = bed.store.key_state(&system()).await.unwrap();
    assert_eq!((both.masters.len(), both.rewrapping), (2, true));
    assert!(both.masters.contains(&first.own) && both.masters.contains(&new.fingerprint().unwrap()));
    set(&bed.store, "new", "sealed after").await;
    assert_eq!(value(&other, "new").await, "sealed after");
    set(&other, "other", "sealed by the other").await;
    for store in [&bed.place.open().await, &Store::open(with(&bed, 2)).await.unwrap()] {
        for (key, is) in [("old", "sealed before"), ("new", "sealed after"), ("other", "sealed by the other")]
        {
            assert_eq!(value(store, key).await, is);
        }
        // What servers know one another by stays what it was.
        assert_eq!(store.peer_key().unwrap().expose_secret(), peers.expose_secret());
    }
    let error = bed.store.keep_master_key(&system(), "0123456789abcdef").await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidInput);
    assert!(bed.store.keep_master_key(&owner("default"), &first.own).await.is_err());
    bed.store.keep_master_key(&system(), &new.fingerprint().unwrap()).await.unwrap();
    // Those that run go on; the old key opens it no more, and nothing is written by who tries.
    assert_eq!(value(&other, "new").await, "sealed after");
    set(&other, "later", "by one with the old key").await;
    other.close().await;
    bed.store.close().await;
    let before = bed.place.contents();
    let error = Store::open(bed.place.config()).await.unwrap_err();
    assert!(error.message().contains(&first.own), "{error}");
    assert!(error.message().contains(&new.fingerprint().unwrap()), "{error}");
    assert!(bed.place.contents() == before);
    let store = Store::open(with(&bed, 2)).await.unwrap();
    assert_eq!(value(&store, "later").await, "by one with the old key");
    assert_eq!(value(&store, "old").await, "sealed before");
}

async fn all_that_is_sealed_is_wrapped_anew(on: On) {
    let bed = Bed::new(on).await;
    let store = &bed.store;
    let alice = bed.make(instance("default", "alice")).await;
    let message =
        NewMessage { id: "m-1".into(), lane: "l".into(), path: "/x".into(), content: b"hello".to_vec() };
    let granted = leave(Action::InstanceUse, &alice);
    store.accept_message(&granted, &alice.id, &message, InboxLimits::default()).await.unwrap();
    set(store, "key", "one").await;
    let rotation = SecretRotation {
        stage: RotationStage::Going,
        parallel: 1,
        grace_secs: None,
        begun_at: Timestamp::now(),
        error: None,
        after_halt: false,
    };
    let granted = grant(&owner("default"), Action::SecretWrite, "default", "secret", "key");
    let two = SecretString::from("two");
    store.rotate_secret(&granted, &of_tenant(), &name("key"), Some(&two), &rotation).await.unwrap();
    store.agree_on(&system(), "token", "first".into()).await.unwrap();
    store.renew_agreed(&system(), "token", &"agreed".into()).await.unwrap();
    store.put_certificate_document(&system(), "c", Some(&"document".into()), None).await.unwrap();
    assert_eq!(store.tend_keys(&system()).await.unwrap().done, 0);

    store.add_master_key(&system(), &MasterKey::from_bytes([2; 32])).await.unwrap();
    let done = store.tend_keys(&system()).await.unwrap();
    assert_eq!((done.done, done.left), (5, 0), "two values, a message, a token and a document");
    assert_eq!(store.tend_keys(&system()).await.unwrap().done, 0);
    store.keep_master_key(&system(), &MasterKey::from_bytes([2; 32]).fingerprint().unwrap()).await.unwrap();
    let store = Store::open(with(&bed, 2)).await.unwrap();
    assert_eq!(value(&store, "key").await, "two");
    let back = store.rotate_secret(&granted, &of_tenant(), &name("key"), None, &rotation).await.unwrap();
    assert_eq!((back.version, value(&store, "key").await.as_str()), (3, "one"));
    let said = store.message_content(&owner("default"), &alice.id, "m-1").await.unwrap();
    assert_eq!(said.as_deref(), Some(&b"hello"[..]));
    let agreed = store.agreed(&system(), "token").await.unwrap().unwrap();
    assert_eq!(agreed.expose_secret(), "agreed");
    assert!(store.was_agreed(&system(), "token", &"first".into()).await.unwrap());
    let document = store.certificate_document(&system(), "c").await.unwrap().unwrap();
    assert_eq!(document.expose_secret(), "document");
}

async fn wrapping_anew_goes_on_where_it_was_left(on: On) {
    let bed = Bed::new(on).await;
    for n in 0..250 {
        set(&bed.store, &format!("key-{n}"), "value").await;
    }
    bed.store.add_master_key(&system(), &MasterKey::from_bytes([2; 32])).await.unwrap();
    // One that was altered is told of and left, and keeps nobody from the others.
    let raw = bed.place.raw().await;
    let sql = "UPDATE secrets SET wrapped_key = 'AAAA' WHERE name = 'key-7'";
    sea_orm::ConnectionTrait::execute_unprepared(&raw, sql).await.unwrap();
    // Left at any moment: what was committed is under the new key, and the rest under the old one.
    let tending = bed.store.clone();
    let task = tokio::spawn(async move { tending.tend_keys(&system()).await });
    tokio::task::yield_now().await;
    task.abort();
    let _ = task.await;
    let next = Store::open(with(&bed, 2)).await.unwrap();
    let done = next.tend_keys(&system()).await.unwrap();
    assert_eq!(done.left, 1);
    for n in (0..250).filter(|n| *n != 7) {
        assert_eq!(value(&next, &format!("key-{n}")).await, "value");
    }
    let old: Vec<_> = sea_orm::ConnectionTrait::query_all_raw(
        &raw,
        sea_orm::Statement::from_string(
            sea_orm::ConnectionTrait::get_database_backend(&raw),
            "SELECT name FROM secrets WHERE wrapped_key NOT LIKE '%:%'",
        ),
    )
    .await
    .unwrap();
    assert_eq!(old.len(), 1, "all but the one that can't be opened are under the new key");
}
