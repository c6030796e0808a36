//! Documents about certificates, and the lease to get new ones.

use std::time::Duration;

use clawfarm_model::Code;
use clawfarm_store::Store;
use secrecy::{ExposeSecret as _, SecretString};

use crate::support::{On, Place, on_both, owner, system};

on_both!(
    documents_are_encrypted_and_of_all_servers,
    one_server_at_a_time_has_the_lease_and_others_write_nothing_under_it
);

const LONG: Duration = Duration::from_secs(600);

async fn text(store: &Store, name: &str) -> Option<String> {
    let found = store.certificate_document(&system(), name).await.unwrap();
    found.map(|it| it.expose_secret().to_owned())
}

async fn put(store: &Store, name: &str, value: Option<&str>, epoch: Option<i64>) -> Result<(), Code> {
    let value = value.map(SecretString::from);
    store.put_certificate_document(&system(), name, value.as_ref(), epoch).await.map_err(|error| error.code())
}

async fn documents_are_encrypted_and_of_all_servers(on: On) {
    let place = Place::new(on);
    let (one, other) = (place.open().await, place.open().await);
    let version = async || other.certificates_version(&system()).await.unwrap();
    let first = version().await;
    put(&one, "cert/a.test", Some("open sesame"), None).await.unwrap();
    put(&one, "cert/b.test", Some("b"), None).await.unwrap();
    assert_eq!(text(&other, "cert/a.test").await.as_deref(), Some("open sesame"));
    let second = version().await;
    assert_ne!(first, second);
    let all = other.certificate_documents(&system()).await.unwrap();
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["cert/a.test", "cert/b.test"]);
    put(&other, "cert/a.test", Some("another"), None).await.unwrap();
    assert_eq!(text(&one, "cert/a.test").await.as_deref(), Some("another"));
    put(&other, "cert/a.test", None, None).await.unwrap();
    assert_eq!(text(&one, "cert/a.test").await, None);
    assert_ne!(version().await, second);
    for tenants in [
        one.certificate_documents(&owner("default")).await.err(),
        one.certificate_document(&owner("default"), "cert/b.test").await.err(),
        one.put_certificate_document(&owner("default"), "cert/b.test", None, None).await.err(),
        one.lease_certificates(&owner("default"), None, LONG).await.err(),
    ] {
        assert_eq!(tenants.unwrap().code(), Code::Forbidden);
    }
    let contents = place.contents();
    assert!(!contents.windows(11).any(|it| it == b"open sesame"));
}

async fn one_server_at_a_time_has_the_lease_and_others_write_nothing_under_it(on: On) {
    let place = Place::new(on);
    let (one, other) = (place.open().await, place.open().await);
    let take =
        async |store: &Store, epoch, ttl| store.lease_certificates(&system(), epoch, ttl).await.unwrap();
    let first = take(&one, None, LONG).await.unwrap();
    assert_eq!(take(&other, None, LONG).await, None);
    assert_eq!(take(&one, Some(first), LONG).await, Some(first));
    put(&one, "cert/a", Some("1"), Some(first)).await.unwrap();
    // What is not under it anybody may write: a wish.
    put(&other, "wish/a", Some("1"), None).await.unwrap();

    // Its time is over: it may go on until somebody else takes it, and no longer.
    assert_eq!(take(&one, Some(first), Duration::ZERO).await, Some(first));
    put(&one, "cert/a", Some("2"), Some(first)).await.unwrap();
    let second = take(&other, None, LONG).await.unwrap();
    assert!(second > first);
    assert_eq!(put(&one, "cert/a", Some("3"), Some(first)).await, Err(Code::Conflict));
    assert_eq!(take(&one, Some(first), LONG).await, None);
    assert_eq!(text(&one, "cert/a").await.as_deref(), Some("2"));

    one.release_certificates(&system(), first).await.unwrap();
    put(&other, "cert/a", Some("4"), Some(second)).await.unwrap();
    other.release_certificates(&system(), second).await.unwrap();
    assert_eq!(put(&other, "cert/a", Some("5"), Some(second)).await, Err(Code::Conflict));
    assert!(take(&one, None, LONG).await.unwrap() > second);

    // Of many that want it, one gets it.
    let third = place.open().await;
    assert_eq!(take(&third, None, LONG).await, None);
    let holder = one.lease_certificates(&system(), None, LONG).await.unwrap();
    assert_eq!(holder, None);
}
