use clawfarm_model::Code;
use clawfarm_model::authz::Action;
use clawfarm_model::name::{ProjectName, TargetName};
use clawfarm_store::{Created, Idempotency, InstanceFilter, NewInstance, PageRequest};

use crate::support::{Bed, On, instance, leave, on_both, owner};

on_both!(
    the_same_request_twice_makes_one_instance,
    what_was_asked_can_not_be_tried_out_on_what_is_kept,
    an_unusable_key_is_refused,
    a_taken_id_and_a_taken_port_are_told_apart,
    a_project_or_target_that_is_not_there_is_named,
);

fn keyed(instance: clawfarm_model::Instance, key: &str, hash: &str) -> NewInstance {
    let idempotency = Some(Idempotency { key: key.into(), request_hash: hash.into() });
    NewInstance { idempotency, ..NewInstance::new(instance) }
}

async fn what_was_asked_can_not_be_tried_out_on_what_is_kept(on: On) {
    let bed = Bed::new(on).await;
    let alice = instance("default", "alice");
    let hash = "5f4dcc3b5aa765d61d8327deb882cf995f4dcc3b5aa765d61d8327deb882cf99";
    bed.store
        .create_instance(&leave(Action::InstanceCreate, &alice), keyed(alice, "the-key-4711", hash))
        .await
        .unwrap();
    let kept = bed.place.contents();
    let has = |text: &str| kept.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(has("the-key-4711"), "it is looked for where it is");
    assert!(!has(hash), "by a plain hash the secrets of a request could be guessed from a backup");
}

async fn the_same_request_twice_makes_one_instance(on: On) {
    let bed = Bed::new(on).await;
    let first = instance("default", "alice");
    let granted = leave(Action::InstanceCreate, &first);
    let Created::New { operation, .. } =
        bed.store.create_instance(&granted, keyed(first.clone(), "k1", "h1")).await.unwrap()
    else {
        panic!("it was replayed");
    };
    // The caller draws another id the second time; it must not matter.
    let again = instance("default", "alice");
    let replayed = bed
        .store
        .create_instance(&leave(Action::InstanceCreate, &again), keyed(again, "k1", "h1"))
        .await
        .unwrap();
    assert_eq!(replayed, Created::Replayed { instance: first.id.clone(), operation: operation.id });

    let asked = Idempotency { key: "k1".into(), request_hash: "h1".into() };
    let known = bed.store.replayed(&owner("default"), &asked).await.unwrap();
    assert_eq!(known.map(|(id, _)| id), Some(first.id.clone()));
    assert_eq!(bed.store.replayed(&owner("other"), &asked).await.unwrap(), None);

    let other = instance("default", "bob");
    let error = bed
        .store
        .create_instance(&leave(Action::InstanceCreate, &other), keyed(other, "k1", "h2"))
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("Idempotency-Key")));
    let all = bed
        .store
        .instances(&owner("default"), &InstanceFilter::default(), &PageRequest::first())
        .await
        .unwrap();
    assert_eq!(all.items.len(), 1);

    // Another tenant's key of the same text is another key.
    let theirs = instance("other", "alice");
    let made = bed
        .store
        .create_instance(&leave(Action::InstanceCreate, &theirs), keyed(theirs, "k1", "h9"))
        .await
        .unwrap();
    assert!(matches!(made, Created::New { .. }));
}

async fn an_unusable_key_is_refused(on: On) {
    let bed = Bed::new(on).await;
    for key in ["", "a b", "ä", &"x".repeat(129)] {
        let new = instance("default", "alice");
        let error = bed
            .store
            .create_instance(&leave(Action::InstanceCreate, &new), keyed(new, key, "h"))
            .await
            .unwrap_err();
        assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("Idempotency-Key")));
    }
}

async fn a_taken_id_and_a_taken_port_are_told_apart(on: On) {
    let bed = Bed::new(on).await;
    let mut first = instance("default", "alice");
    first.port = Some(20_001);
    let first = bed.make(first).await;

    let mut same_id = instance("default", "alice");
    same_id.id = first.id.clone();
    let error = bed
        .store
        .create_instance(&leave(Action::InstanceCreate, &same_id), NewInstance::new(same_id))
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("id")));

    let mut same_port = instance("other", "bob");
    same_port.port = Some(20_001);
    let error = bed
        .store
        .create_instance(&leave(Action::InstanceCreate, &same_port), NewInstance::new(same_port.clone()))
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("port")));
    assert!(error.message().contains("20001") && error.fix_text().is_some(), "{error}");

    // Moving to a taken port later is refused just so.
    same_port.port = Some(20_002);
    let second = bed.make(same_port).await;
    let error = bed
        .store
        .update_instance(&leave(Action::Observe, &second), &second.id, None, |i| {
            i.port = Some(20_001);
            Ok(clawfarm_store::Changes::none())
        })
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("port")));
}

async fn a_project_or_target_that_is_not_there_is_named(on: On) {
    let bed = Bed::new(on).await;
    let mut lost = instance("default", "alice");
    lost.project = ProjectName::new("nowhere").unwrap();
    let error = bed
        .store
        .create_instance(&leave(Action::InstanceCreate, &lost), NewInstance::new(lost))
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("project")));
    let mut lost = instance("default", "alice");
    lost.spec.target = TargetName::new("nowhere").unwrap();
    let error = bed
        .store
        .create_instance(&leave(Action::InstanceCreate, &lost), NewInstance::new(lost))
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("target")));
}
