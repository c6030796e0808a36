//! What one tenant has does not exist for another: one assertion for every call.

use clawfarm_model::authz::{Action, Granted};
use clawfarm_model::dataset::Dataset;
use clawfarm_model::event::NewEvent;
use clawfarm_model::secret::{SecretName, SecretOwner};
use clawfarm_model::{Code, Instance, Phase, Timestamp};
use clawfarm_store::{Changes, EventFilter, InstanceFilter, NewInstance, Outcome, PageRequest};
use secrecy::{ExposeSecret, SecretString};

use crate::removal::remove;
use crate::support::{Bed, On, TARGET, grant, instance, leave, on_both, owner, system, tenant};

on_both!(
    no_read_shows_another_tenants_things,
    what_spans_tenants_is_the_servers_own,
    no_write_reaches_another_tenants_things,
    a_leave_for_one_thing_is_none_for_another,
);

/// Everything that `other` has: an instance, secrets, a dataset, events, operations, audit.
struct Theirs {
    instance: Instance,
    dataset: Dataset,
    name: SecretName,
    own: SecretOwner,
    shared: SecretOwner,
}

async fn furnish(bed: &Bed) -> Theirs {
    let mut living = instance("other", "alice");
    living.port = Some(21_000);
    let living = bed.make(living).await;
    let gone = bed.make(instance("other", "gone")).await;
    let dataset = remove(bed, &gone, true).await.expect("it left data");
    let name = SecretName::new("key").unwrap();
    let own = SecretOwner::Instance(tenant("other"), living.id.clone());
    let shared = SecretOwner::Tenant(tenant("other"));
    let granted = grant(&owner("other"), Action::SecretWrite, "other", "secret", "key");
    for at in [&own, &shared] {
        bed.store.set_secret(&granted, at, &name, &SecretString::from("theirs")).await.unwrap();
    }
    Theirs { instance: living, dataset, name, own, shared }
}

async fn no_read_shows_another_tenants_things(on: On) {
    let bed = Bed::new(on).await;
    let theirs = furnish(&bed).await;
    let (store, me, they) = (&bed.store, owner("default"), owner("other"));
    let id = &theirs.instance.id;
    let first = PageRequest::first();

    assert_eq!(store.instance(&me, id).await.unwrap_err().code(), Code::NotFound);
    for text in [id.as_str(), "alice", &id.as_str()[..7]] {
        assert_eq!(store.resolve(&me, text).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(&store.resolve(&they, text).await.unwrap(), id);
    }
    let all = InstanceFilter { include_destroyed: true, ..InstanceFilter::default() };
    assert_eq!(store.instances(&me, &all, &first).await.unwrap().items, []);
    assert_eq!(store.instances(&they, &all, &first).await.unwrap().items.len(), 2);
    assert_eq!(store.count_instances(&me, &all).await.unwrap(), 0);
    assert_eq!(store.count_instances(&they, &all).await.unwrap(), 2);

    let operation = store.running_operation(&they, id).await.unwrap().expect("it is being made");
    assert_eq!(store.running_operation(&me, id).await.unwrap(), None);
    assert_eq!(store.operation(&me, &operation.id).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(store.operations(&me, None, &first).await.unwrap().items, []);
    assert_eq!(store.operations(&me, Some(id), &first).await.unwrap().items, []);
    assert!(!store.operations(&they, Some(id), &first).await.unwrap().items.is_empty());

    let of_it = EventFilter { instance: Some(id.clone()), ..EventFilter::default() };
    assert_eq!(store.events(&me, &EventFilter::default(), 100).await.unwrap(), []);
    assert_eq!(store.events(&me, &of_it, 100).await.unwrap(), []);
    assert!(!store.events(&they, &of_it, 100).await.unwrap().is_empty());
    let audit = store.audit(&me, &first).await.unwrap().items;
    assert!(audit.iter().all(|entry| entry.tenant == "default"), "{audit:?}");
    assert!(!store.audit(&they, &first).await.unwrap().items.is_empty());

    assert_eq!(store.secrets(&me).await.unwrap(), []);
    assert_eq!(store.secrets(&they).await.unwrap().len(), 2);
    for at in [&theirs.own, &theirs.shared] {
        assert!(store.secret_value(&me, at, &theirs.name).await.unwrap().is_none());
        assert!(store.secret_value(&they, at, &theirs.name).await.unwrap().is_some());
    }
    assert_eq!(store.datasets(&me, &first).await.unwrap().items, []);
    assert_eq!(store.datasets(&they, &first).await.unwrap().items, std::slice::from_ref(&theirs.dataset));
    assert_eq!(store.dataset(&me, &theirs.dataset.id).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(store.dataset_given_to(&me, id).await.unwrap(), None);
    assert_eq!(store.projects(&me).await.unwrap().len(), 1);
    assert_eq!(store.projects(&system()).await.unwrap().len(), 2);
}

async fn what_spans_tenants_is_the_servers_own(on: On) {
    let bed = Bed::new(on).await;
    furnish(&bed).await;
    let (store, me) = (&bed.store, owner("other"));
    let local = clawfarm_model::name::TargetName::new(TARGET).unwrap();
    assert_eq!(store.ports_in_use(&me, &local).await.unwrap_err().code(), Code::Forbidden);
    assert_eq!(store.ports_in_use(&system(), &local).await.unwrap(), [21_000].into());
    assert_eq!(store.instance_ids_to_reconcile(&me).await.unwrap_err().code(), Code::Forbidden);
    assert_eq!(store.instance_ids_to_reconcile(&system()).await.unwrap().len(), 1);
    assert_eq!(store.count_by_phase(&me).await.unwrap_err().code(), Code::Forbidden);
    assert_eq!(store.count_by_phase(&system()).await.unwrap(), [(Phase::Creating, 1)]);
    assert_eq!(store.promised_memory_mib(&me, &local).await.unwrap_err().code(), Code::Forbidden);
    assert_eq!(store.meta_get(&me, "node").await.unwrap_err().code(), Code::Forbidden);
    assert_eq!(store.meta_set(&me, "node", "x").await.unwrap_err().code(), Code::Forbidden);
    assert_eq!(store.set_operation_steps(&me, "op-x", &[], None).await.unwrap_err().code(), Code::Forbidden);
    let granted = grant(&me, Action::ServerAdmin, "other", "tenant", "other");
    let project = clawfarm_model::name::ProjectName::new("more").unwrap();
    assert_eq!(store.add_project(&granted, &project).await.unwrap_err().code(), Code::Forbidden);
    store.meta_set(&system(), "node", "n1").await.unwrap();
    store.meta_set(&system(), "node", "n2").await.unwrap();
    assert_eq!(store.meta_get(&system(), "node").await.unwrap().as_deref(), Some("n2"));
    assert!(store.meta_set(&system(), "store.master_key_proof", "x").await.is_err());
}

/// A leave of tenant `default` for an object that is another's: as a use case with a mistake
/// would hold it.
fn mistaken(action: Action, kind: &'static str, id: &str) -> Granted {
    grant(&owner("default"), action, "default", kind, id)
}

async fn no_write_reaches_another_tenants_things(on: On) {
    let bed = Bed::new(on).await;
    let theirs = furnish(&bed).await;
    let store = &bed.store;
    let id = &theirs.instance.id;
    let before = store.audit(&system(), &PageRequest::first()).await.unwrap();

    for action in [Action::InstanceChange, Action::InstanceRemove, Action::DataPurge] {
        let granted = mistaken(action, "instance", id.as_str());
        let error = store.update_instance(&granted, id, None, |_| panic!("it was read")).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    }
    let granted = mistaken(Action::InstanceCreate, "instance", "x");
    let error = store.create_instance(&granted, NewInstance::new(instance("other", "x"))).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let event = NewEvent::info("x", "x");
    let error = store
        .record_event(&mistaken(Action::InstanceUse, "instance", id.as_str()), &event)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::NotFound);

    let as_secret = mistaken(Action::SecretWrite, "secret", "key");
    let as_instance = mistaken(Action::SecretWrite, "instance", id.as_str());
    // Mine by name, but hung on their instance.
    let mixed = SecretOwner::Instance(tenant("default"), id.clone());
    let value = SecretString::from("mine");
    for (granted, at) in [
        (&as_secret, &theirs.own),
        (&as_secret, &theirs.shared),
        (&as_instance, &theirs.own),
        (&as_secret, &mixed),
    ] {
        let error = store.set_secret(granted, at, &theirs.name, &value).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{at:?}");
        let error = store.remove_secret(granted, at, &theirs.name).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{at:?}");
    }
    let kept = store.secret_value(&owner("other"), &theirs.own, &theirs.name).await.unwrap().unwrap();
    assert_eq!(kept.expose_secret(), "theirs");

    let granted = mistaken(Action::DataPurge, "dataset", theirs.dataset.id.as_str());
    assert_eq!(store.remove_dataset(&granted, &theirs.dataset.id).await.unwrap_err().code(), Code::NotFound);
    let mut thief = instance("default", "thief");
    thief.spec.dataset = Some(theirs.dataset.id.clone());
    let error = store
        .create_instance(&leave(Action::InstanceCreate, &thief), NewInstance::new(thief))
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::NotFound, Some("dataset")));

    assert_eq!(store.instance(&owner("other"), id).await.unwrap(), theirs.instance);
    assert_eq!(store.audit(&system(), &PageRequest::first()).await.unwrap(), before);
    assert_eq!(
        store
            .instances(&owner("default"), &InstanceFilter::default(), &PageRequest::first())
            .await
            .unwrap()
            .items,
        []
    );
}

async fn a_leave_for_one_thing_is_none_for_another(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    let bob = bed.make(instance("default", "bob")).await;
    let store = &bed.store;
    let refused = async |granted: Granted, change: fn(&mut Instance)| {
        let changed = store.update_instance(&granted, &alice.id, None, |i| {
            change(i);
            Ok(Changes::none())
        });
        changed.await.unwrap_err().code()
    };
    let stop = |i: &mut Instance| i.intent.desired = clawfarm_model::Desired::Stopped;
    let destroy = |i: &mut Instance| i.intent.desired = clawfarm_model::Desired::Destroyed;
    let purge = |i: &mut Instance| i.intent.purge = true;
    // Of the same tenant, but about another instance.
    assert_eq!(refused(leave(Action::InstanceChange, &bob), stop).await, Code::NotFound);
    // About this one, but for something else.
    for action in [Action::InstanceCreate, Action::InstanceUse, Action::TokenReveal, Action::SecretWrite] {
        assert_eq!(refused(leave(action, &alice), stop).await, Code::Forbidden, "{action:?}");
    }
    assert_eq!(refused(leave(Action::InstanceChange, &alice), destroy).await, Code::Forbidden);
    assert_eq!(refused(leave(Action::InstanceChange, &alice), purge).await, Code::Forbidden);
    assert_eq!(refused(leave(Action::InstanceRemove, &alice), purge).await, Code::Forbidden);
    // The server's observations never change what is wanted.
    for change in
        [stop, |i: &mut Instance| i.intent.generation += 1, |i: &mut Instance| i.spec.version = "9".into()]
    {
        assert_eq!(refused(leave(Action::Observe, &alice), change).await, Code::Forbidden);
    }
    // Nobody changes what an instance is known by.
    for change in [
        |i: &mut Instance| i.tenant = tenant("other"),
        |i: &mut Instance| i.version += 1,
        |i: &mut Instance| i.created_at = Timestamp::from_millis(0),
    ] {
        assert_eq!(refused(leave(Action::InstanceChange, &alice), change).await, Code::Internal);
    }
    assert_eq!(store.instance(&owner("default"), &alice.id).await.unwrap(), alice);

    let granted = leave(Action::InstanceChange, &alice);
    let new = NewInstance::new(instance("default", "carol"));
    assert_eq!(store.create_instance(&granted, new).await.unwrap_err().code(), Code::Forbidden);
    let shared = SecretOwner::Tenant(tenant("default"));
    let name = SecretName::new("key").unwrap();
    let set = store.set_secret(&granted, &shared, &name, &SecretString::from("x")).await;
    assert_eq!(set.unwrap_err().code(), Code::Forbidden);
    let target = crate::support::target("elsewhere");
    assert_eq!(store.put_target(&granted, &target).await.unwrap_err().code(), Code::Forbidden);
    let theirs = grant(&owner("other"), Action::TargetWrite, "other", "target", "elsewhere");
    assert_eq!(store.put_target(&theirs, &target).await.unwrap_err().code(), Code::NotFound);
    store.record_audit(&granted, Outcome::Refused, "tried much").await.unwrap();
    let audit = store.audit(&owner("default"), &PageRequest::first()).await.unwrap().items;
    assert_eq!((audit[0].outcome, audit[0].detail.as_str()), (Outcome::Refused, "tried much"));
}
