use clawfarm_model::Code;
use clawfarm_model::authz::Action;
use clawfarm_model::name::ProjectName;
use clawfarm_model::secret::{RotationStage, SecretName, SecretOwner, SecretRotation, SecretScope};
use clawfarm_store::{EventFilter, MasterKey, NewInstance, PageRequest, Store, StoreConfig};
use sea_orm::ConnectionTrait;
use secrecy::{ExposeSecret, SecretString};

use crate::support::{Bed, On, grant, instance, leave, on_both, owner, system, tenant};

on_both!(
    a_secret_is_kept_replaced_listed_and_removed,
    a_value_has_limits,
    the_plain_text_is_nowhere_in_the_database,
    a_ciphertext_moved_to_another_row_does_not_open,
    another_master_key_is_refused_and_nothing_is_overwritten,
    nothing_of_a_secret_is_told,
    the_nearest_of_a_name_is_seen,
    a_ciphertext_moved_to_another_scope_does_not_open,
    a_rotation_keeps_the_value_before_until_it_is_over,
);

const PLAIN: &str = "sk-plain-7f3a9c5e1b2d4f60";

fn secret(name: &str) -> SecretName {
    SecretName::new(name).unwrap()
}

async fn set(bed: &Bed, at: &SecretOwner, name: &str, value: &str) -> clawfarm_model::Result<()> {
    let granted = grant(&owner("default"), Action::SecretWrite, "default", "secret", name);
    bed.store.set_secret(&granted, at, &secret(name), &SecretString::from(value)).await
}

async fn value(bed: &Bed, at: &SecretOwner, name: &str) -> clawfarm_model::Result<Option<String>> {
    let value = bed.store.secret_value(&owner("default"), at, &secret(name)).await?;
    Ok(value.map(|v| v.expose_secret().to_owned()))
}

fn of_tenant() -> SecretOwner {
    SecretOwner::Tenant(tenant("default"))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

async fn a_secret_is_kept_replaced_listed_and_removed(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    let of_alice = SecretOwner::Instance(tenant("default"), alice.id.clone());
    set(&bed, &of_tenant(), "key", "shared").await.unwrap();
    set(&bed, &of_alice, "key", "own").await.unwrap();
    assert_eq!(value(&bed, &of_tenant(), "key").await.unwrap().as_deref(), Some("shared"));
    assert_eq!(value(&bed, &of_alice, "key").await.unwrap().as_deref(), Some("own"));
    assert_eq!(value(&bed, &of_alice, "other").await.unwrap(), None);

    // The instance's own may be set with leave to change the instance: a token is rotated so.
    let granted = leave(Action::InstanceChange, &alice);
    bed.store.set_secret(&granted, &of_alice, &secret("key"), &SecretString::from("rotated")).await.unwrap();
    assert_eq!(value(&bed, &of_alice, "key").await.unwrap().as_deref(), Some("rotated"));
    let listed = bed.store.secrets(&owner("default")).await.unwrap();
    let names: Vec<_> = listed.iter().map(|s| (s.name.as_str(), s.instance.clone())).collect();
    assert_eq!(names, [("key", None), ("key", Some(alice.id.clone()))]);
    assert!(listed[1].created_at <= listed[1].updated_at);

    let granted = grant(&owner("default"), Action::SecretWrite, "default", "secret", "key");
    assert!(bed.store.remove_secret(&granted, &of_tenant(), &secret("key")).await.unwrap());
    assert!(!bed.store.remove_secret(&granted, &of_tenant(), &secret("key")).await.unwrap());
    assert_eq!(value(&bed, &of_tenant(), "key").await.unwrap(), None);
    assert_eq!(value(&bed, &of_alice, "key").await.unwrap().as_deref(), Some("rotated"));
    let events = bed.store.events(&owner("default"), &EventFilter::default(), 10).await.unwrap();
    let told: Vec<_> = events.iter().map(|e| e.reason.as_str()).collect();
    assert_eq!(told, ["secret-set", "secret-set", "secret-set", "secret-removed"]);
}

async fn a_value_has_limits(on: On) {
    let bed = Bed::new(on).await;
    let longest = "x".repeat(64 * 1024);
    set(&bed, &of_tenant(), "long", &longest).await.unwrap();
    assert_eq!(value(&bed, &of_tenant(), "long").await.unwrap(), Some(longest.clone()));
    set(&bed, &of_tenant(), "odd", "ä\n\"'%\u{1F980}").await.unwrap();
    assert_eq!(value(&bed, &of_tenant(), "odd").await.unwrap().as_deref(), Some("ä\n\"'%\u{1F980}"));
    for refused in [String::new(), longest + "x", "a\0b".to_owned()] {
        let error = set(&bed, &of_tenant(), "long", &refused).await.unwrap_err();
        assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("value")));
        assert!(refused.is_empty() || !format!("{error:?}").contains(&refused));
    }
    let nobody = SecretOwner::Instance(tenant("default"), "nobody-12345".parse().unwrap());
    assert_eq!(set(&bed, &nobody, "key", "x").await.unwrap_err().code(), Code::NotFound);
}

async fn the_plain_text_is_nowhere_in_the_database(on: On) {
    let bed = Bed::new(on).await;
    let mut alice = instance("default", "alice");
    // What is not secret is found, so the search itself works.
    alice.spec.version = "marker-5577".into();
    let mut new = NewInstance::new(alice.clone());
    new.secrets.push((secret("gateway-token"), SecretString::from(PLAIN)));
    bed.store.create_instance(&leave(Action::InstanceCreate, &alice), new).await.unwrap();
    set(&bed, &of_tenant(), "key", PLAIN).await.unwrap();
    let own = SecretOwner::Instance(tenant("default"), alice.id.clone());
    assert_eq!(value(&bed, &own, "gateway-token").await.unwrap().as_deref(), Some(PLAIN));
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, PLAIN);
    let absent = |bytes: &[u8]| {
        assert!(contains(bytes, b"marker-5577"));
        assert!(!contains(bytes, PLAIN.as_bytes()) && !contains(bytes, encoded.as_bytes()));
    };
    absent(&bed.place.contents());
    bed.store.close().await;
    absent(&bed.place.contents());
}

async fn tamper(bed: &Bed, sql: &str) -> u64 {
    let db = bed.place.raw().await;
    db.execute_unprepared(sql).await.unwrap().rows_affected()
}

async fn a_ciphertext_moved_to_another_row_does_not_open(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    let of_alice = SecretOwner::Instance(tenant("default"), alice.id.clone());
    set(&bed, &of_tenant(), "mine", "one").await.unwrap();
    set(&bed, &of_tenant(), "yours", "two").await.unwrap();
    set(&bed, &of_alice, "mine", "three").await.unwrap();
    // Both columns moved to another name, to another owner, and the values alone swapped.
    for (into, from) in [
        ("name = 'yours'", "name = 'mine' AND instance = ''"),
        ("name = 'mine' AND instance <> ''", "name = 'mine' AND instance = ''"),
    ] {
        let sql = format!(
            "UPDATE secrets SET (wrapped_key, value) = (SELECT wrapped_key, value FROM secrets WHERE {from}) WHERE {into}"
        );
        assert_eq!(tamper(&bed, &sql).await, 1);
    }
    for (at, name) in [(&of_tenant(), "yours"), (&of_alice, "mine")] {
        let error = value(&bed, at, name).await.unwrap_err();
        assert_eq!(error.code(), Code::Internal);
        assert!(error.message().contains("altered") && error.fix_text().is_some(), "{error}");
    }
    assert_eq!(value(&bed, &of_tenant(), "mine").await.unwrap().as_deref(), Some("one"));
    set(&bed, &of_tenant(), "yours", "two again").await.unwrap();
    let sql = "UPDATE secrets SET value = (SELECT value FROM secrets WHERE name = 'yours') \
               WHERE name = 'mine' AND instance = ''";
    assert_eq!(tamper(&bed, sql).await, 1);
    assert!(value(&bed, &of_tenant(), "mine").await.is_err());
}

async fn another_master_key_is_refused_and_nothing_is_overwritten(on: On) {
    let bed = Bed::new(on).await;
    set(&bed, &of_tenant(), "key", PLAIN).await.unwrap();
    bed.store.close().await;
    let before = bed.place.contents();
    let wrong = || StoreConfig::new(bed.place.database(), MasterKey::from_bytes([9; 32]));
    let error = Store::open(wrong()).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.message().contains("master key") && error.fix_text().is_some(), "{error}");
    // By their fingerprints people can tell which key is where.
    let right = MasterKey::load_or_create(&bed.place.dir.path().join("master.key")).unwrap();
    for key in [MasterKey::from_bytes([9; 32]), right] {
        assert!(error.message().contains(&key.fingerprint().unwrap()), "{error}");
    }
    assert!(bed.place.contents() == before);
    let bed = Bed { store: bed.place.open().await, place: bed.place };
    assert_eq!(value(&bed, &of_tenant(), "key").await.unwrap().as_deref(), Some(PLAIN));
    // With the proof taken out, secrets that the key does not open still speak against it.
    assert!(tamper(&bed, "DELETE FROM meta").await >= 1);
    bed.store.close().await;
    let wrong = StoreConfig::new(bed.place.database(), MasterKey::from_bytes([9; 32]));
    assert!(Store::open(wrong).await.is_err());
}

async fn nothing_of_a_secret_is_told(on: On) {
    let bed = Bed::new(on).await;
    set(&bed, &of_tenant(), "key", PLAIN).await.unwrap();
    let told = format!(
        "{:?} {:?} {:?} {:?}",
        bed.store,
        bed.store.events(&system(), &EventFilter::default(), 10).await,
        bed.store.audit(&system(), &PageRequest::first()).await,
        bed.store.secrets(&system()).await,
    );
    assert!(told.contains("secret 'key' was set") && !told.contains(PLAIN));
}

fn of_project(tenant_name: &str, project: &str) -> SecretOwner {
    SecretOwner::Project(tenant(tenant_name), ProjectName::new(project).unwrap())
}

async fn the_nearest_of_a_name_is_seen(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    let of_alice = SecretOwner::Instance(tenant("default"), alice.id.clone());
    let owners = [SecretOwner::Global, of_tenant(), of_project("default", "default"), of_alice];
    for (at, owner) in owners.iter().enumerate() {
        set(&bed, owner, "key", &format!("value {at}")).await.unwrap();
    }
    let nearest = async |owners: &[SecretOwner], as_of: &str| {
        let found = bed.store.nearest_secret(&crate::support::owner(as_of), owners, &secret("key")).await;
        found.unwrap().map(|it| (it.owner.scope(), it.value.expose_secret().to_owned()))
    };
    let scopes = [SecretScope::Global, SecretScope::Tenant, SecretScope::Project, SecretScope::Instance];
    for (at, scope) in scopes.into_iter().enumerate() {
        assert_eq!(nearest(&owners[..=at], "default").await, Some((scope, format!("value {at}"))));
    }
    // Another tenant sees those of the whole farm, and none of these.
    assert_eq!(nearest(&owners, "other").await, Some((SecretScope::Global, "value 0".to_owned())));
    assert_eq!(nearest(&owners[1..], "other").await, None);
    let theirs = bed.store.secrets(&owner("other")).await.unwrap();
    assert_eq!(theirs.iter().map(|it| it.scope).collect::<Vec<_>>(), [SecretScope::Global]);
    // Those of the whole farm are set by owners of the default tenant alone, with their leave.
    let granted = grant(&owner("other"), Action::SecretWrite, "other", "secret", "key");
    let error = bed.store.set_secret(&granted, &SecretOwner::Global, &secret("key"), &"x".into()).await;
    assert_eq!(error.unwrap_err().code(), Code::NotFound);
    let theirs = of_project("default", "default");
    let error = bed.store.set_secret(&granted, &theirs, &secret("key"), &"x".into()).await;
    assert_eq!(error.unwrap_err().code(), Code::NotFound);
    let error = set(&bed, &of_project("default", "nowhere"), "key", "x").await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::NotFound, Some("project")));
    // Each is its own row; removing one uncovers the next.
    let granted = grant(&owner("default"), Action::SecretWrite, "default", "secret", "key");
    for (at, owner) in owners.iter().enumerate().rev() {
        assert!(bed.store.remove_secret(&granted, owner, &secret("key")).await.unwrap());
        let next = nearest(&owners, "default").await.map(|(scope, _)| scope);
        assert_eq!(next, at.checked_sub(1).map(|at| scopes[at]));
    }
}

async fn a_ciphertext_moved_to_another_scope_does_not_open(on: On) {
    let bed = Bed::new(on).await;
    set(&bed, &of_tenant(), "key", "one").await.unwrap();
    for (change, there) in [
        ("instance = 'project/default'", of_project("default", "default")),
        ("tenant = 'other'", SecretOwner::Tenant(tenant("other"))),
        ("instance = 'global/'", SecretOwner::Global),
    ] {
        assert_eq!(tamper(&bed, &format!("UPDATE secrets SET {change} WHERE name = 'key'")).await, 1);
        let moved = bed.store.secret_value(&system(), &there, &secret("key")).await.unwrap_err();
        assert!(moved.message().contains("moved from another place"), "{moved}");
        tamper(&bed, "UPDATE secrets SET tenant = 'default', instance = '' WHERE name = 'key'").await;
    }
    assert_eq!(value(&bed, &of_tenant(), "key").await.unwrap().as_deref(), Some("one"));
}

async fn a_rotation_keeps_the_value_before_until_it_is_over(on: On) {
    let bed = Bed::new(on).await;
    let name = secret("key");
    let rotation = SecretRotation {
        stage: RotationStage::Going,
        parallel: 1,
        grace_secs: None,
        begun_at: clawfarm_model::Timestamp::now(),
        error: None,
        after_halt: false,
    };
    let granted = grant(&owner("default"), Action::SecretWrite, "default", "secret", "key");
    let rotate = async |value: Option<&str>| {
        let value = value.map(SecretString::from);
        bed.store.rotate_secret(&granted, &of_tenant(), &name, value.as_ref(), &rotation).await
    };
    assert_eq!(rotate(Some("two")).await.unwrap_err().code(), Code::NotFound);
    set(&bed, &of_tenant(), "key", "one").await.unwrap();
    assert_eq!(rotate(None).await.unwrap_err().code(), Code::Conflict);
    let stamp = async || bed.store.stamps_of(&system(), &name).await.unwrap().remove(0).1;
    let first = stamp().await;
    let info = rotate(Some("two")).await.unwrap();
    assert_eq!((info.version, info.previous_kept, info.rotation.is_some()), (2, true, true));
    assert_ne!(stamp().await, first);
    // Both are looked for in what is shown to people.
    let all = bed.store.secret_values(&owner("default")).await.unwrap();
    let mut all: Vec<_> = all.iter().map(|it| it.expose_secret().to_owned()).collect();
    all.sort();
    assert_eq!(all, ["one", "two"]);
    // Back to the one before, which is a new version again.
    let info = rotate(None).await.unwrap();
    assert_eq!((info.version, value(&bed, &of_tenant(), "key").await.unwrap()), (3, Some("one".into())));
    assert_eq!(stamp().await, first, "who has it still need not be given it");
    let rotating = bed.store.rotating_secrets(&system()).await.unwrap();
    assert_eq!(rotating.len(), 1);
    assert!(bed.store.rotating_secrets(&owner("default")).await.is_err());
    // What was seen before is not what is ended.
    let old = clawfarm_model::secret::SecretInfo { version: 2, ..info.clone() };
    assert!(!bed.store.move_rotation(&system(), &of_tenant(), &old, None).await.unwrap());
    assert!(bed.store.move_rotation(&system(), &of_tenant(), &info, None).await.unwrap());
    let info = bed.store.secret(&owner("default"), &of_tenant(), &name).await.unwrap().unwrap();
    assert_eq!((info.previous_kept, info.rotation), (false, None));
    assert_eq!(rotate(None).await.unwrap_err().code(), Code::Conflict);
    let told = format!("{:?}", bed.store.events(&system(), &EventFilter::default(), 50).await);
    assert!(told.contains("new value") && !told.contains("two"));
}
