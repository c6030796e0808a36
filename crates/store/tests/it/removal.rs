use clawfarm_model::authz::Action;
use clawfarm_model::dataset::Dataset;
use clawfarm_model::event::NewEvent;
use clawfarm_model::operation::OperationState;
use clawfarm_model::secret::{SecretName, SecretOwner};
use clawfarm_model::{Code, Desired, Instance, OperationKind, Phase, Signal, Timestamp};
use clawfarm_store::{Changes, InstanceFilter, NewInstance, NewOperation, PageRequest};
use secrecy::SecretString;

use crate::support::{Bed, On, grant, instance, leave, on_both, owner, system};

on_both!(
    a_destroyed_instance_frees_its_port_and_its_secrets_and_stays_as_history,
    a_dataset_goes_from_one_instance_to_the_next_and_to_one_only,
    an_instance_that_came_to_nothing_gives_its_dataset_back,
);

/// Removes an instance for good, its data staying if `keep`.
pub(crate) async fn remove(bed: &Bed, gone: &Instance, keep: bool) -> Option<Dataset> {
    bed.store
        .update_instance(&leave(Action::InstanceRemove, gone), &gone.id, None, |i| {
            i.intent.desired = Desired::Destroyed;
            Ok(Changes {
                events: vec![NewEvent::info("remove", "asked to remove")],
                begin: Some(NewOperation::new(OperationKind::Remove)),
                ..Changes::none()
            })
        })
        .await
        .unwrap();
    let dataset = keep.then(|| Dataset {
        id: gone.id.clone(),
        tenant: gone.tenant.clone(),
        project: gone.project.clone(),
        claw_type: gone.spec.claw_type.clone(),
        version: gone.spec.version.clone(),
        target: gone.spec.target.clone(),
        size_bytes: 7,
        created_at: Timestamp::now(),
    });
    let left = dataset.clone();
    bed.store
        .update_instance(&leave(Action::Observe, gone), &gone.id, None, |i| {
            i.signal(Signal::Destroyed, Timestamp::now());
            Ok(Changes {
                events: vec![NewEvent::info("destroyed", "it is gone")],
                dataset: left,
                ..Changes::none()
            })
        })
        .await
        .unwrap();
    dataset
}

async fn a_destroyed_instance_frees_its_port_and_its_secrets_and_stays_as_history(on: On) {
    let bed = Bed::new(on).await;
    let context = owner("default");
    let mut alice = instance("default", "alice");
    alice.port = Some(22_000);
    let name = SecretName::new("gateway-token").unwrap();
    let mut new = NewInstance::new(alice.clone());
    new.secrets.push((name.clone(), SecretString::from("t0ken")));
    bed.store.create_instance(&leave(Action::InstanceCreate, &alice), new).await.unwrap();
    let own = SecretOwner::Instance(alice.tenant.clone(), alice.id.clone());
    assert!(bed.store.secret_value(&context, &own, &name).await.unwrap().is_some());

    remove(&bed, &alice, false).await;

    let gone = bed.store.instance(&context, &alice.id).await.unwrap();
    assert_eq!((gone.phase, gone.port), (Phase::Destroyed, None));
    assert!(bed.store.secret_value(&context, &own, &name).await.unwrap().is_none());
    assert_eq!(bed.store.secrets(&context).await.unwrap(), []);
    let set = bed
        .store
        .set_secret(
            &grant(&context, Action::SecretWrite, "default", "secret", "late"),
            &own,
            &name,
            &SecretString::from("x"),
        )
        .await;
    assert_eq!(set.unwrap_err().code(), Code::NotFound);
    let operations =
        bed.store.operations(&context, Some(&alice.id), &PageRequest::first()).await.unwrap().items;
    let mut states: Vec<_> = operations.iter().map(|o| (o.kind, o.state)).collect();
    // Both may have begun in the same millisecond.
    states.sort_by_key(|(kind, _)| kind.as_str());
    assert_eq!(
        states,
        [
            (OperationKind::Create, OperationState::Superseded),
            (OperationKind::Remove, OperationState::Succeeded)
        ]
    );

    // It is hidden unless asked for, can't be changed, and its port is free.
    let list = |filter| {
        let (store, context) = (bed.store.clone(), context.clone());
        async move { store.instances(&context, &filter, &PageRequest::first()).await.unwrap().items.len() }
    };
    assert_eq!(list(InstanceFilter::default()).await, 0);
    assert_eq!(list(InstanceFilter { include_destroyed: true, ..InstanceFilter::default() }).await, 1);
    assert_eq!(list(InstanceFilter { phase: Some(Phase::Destroyed), ..InstanceFilter::default() }).await, 1);
    assert_eq!(bed.store.resolve(&context, "alice").await.unwrap_err().code(), Code::NotFound);
    assert!(bed.store.instance_ids_to_reconcile(&system()).await.unwrap().is_empty());
    let again = bed
        .store
        .update_instance(&leave(Action::InstanceChange, &alice), &alice.id, None, |_| panic!("it was read"))
        .await;
    assert_eq!(again.unwrap_err().code(), Code::Gone);
    let mut next = instance("default", "alice");
    next.port = Some(22_000);
    bed.make(next).await;
}

async fn a_dataset_goes_from_one_instance_to_the_next_and_to_one_only(on: On) {
    let bed = Bed::new(on).await;
    let context = owner("default");
    let first = PageRequest::first();
    let alice = bed.make(instance("default", "alice")).await;
    let data = remove(&bed, &alice, true).await.unwrap();
    assert_eq!(bed.store.dataset(&context, &data.id).await.unwrap(), data);

    let heir = |name: &str| {
        let mut heir = instance("default", name);
        heir.spec.dataset = Some(data.id.clone());
        heir
    };
    let mut wrong = heir("wrong");
    wrong.spec.claw_type = clawfarm_model::name::ClawType::new("zeroclaw").unwrap();
    let error = bed
        .store
        .create_instance(&leave(Action::InstanceCreate, &wrong), NewInstance::new(wrong))
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("dataset")));

    let heirs: Vec<_> = (0..8).map(|n| heir(&format!("heir{n}"))).collect();
    let tasks: Vec<_> = heirs
        .into_iter()
        .map(|heir| {
            let store = bed.store.clone();
            tokio::spawn(async move {
                let granted = leave(Action::InstanceCreate, &heir);
                store.create_instance(&granted, NewInstance::new(heir.clone())).await.map(|_| heir)
            })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(heir) => winners.push(heir),
            Err(error) => assert_eq!((error.code(), error.field_name()), (Code::NotFound, Some("dataset"))),
        }
    }
    let [heir] = winners.as_slice() else { panic!("{} got it", winners.len()) };
    assert_eq!(bed.store.datasets(&context, &first).await.unwrap().items, []);
    assert_eq!(bed.store.dataset_given_to(&context, &heir.id).await.unwrap(), Some(data.clone()));
    let granted = grant(&context, Action::DataPurge, "default", "dataset", data.id.as_str());
    assert_eq!(bed.store.remove_dataset(&granted, &data.id).await.unwrap_err().code(), Code::NotFound);

    // With the heir gone there is the heir's dataset, and no more of the first.
    let left = remove(&bed, heir, true).await.unwrap();
    assert_eq!(bed.store.datasets(&context, &first).await.unwrap().items, std::slice::from_ref(&left));
    assert_eq!(bed.store.dataset_given_to(&context, &heir.id).await.unwrap(), None);
    let granted = grant(&context, Action::DataPurge, "default", "dataset", left.id.as_str());
    assert_eq!(bed.store.remove_dataset(&granted, &left.id).await.unwrap(), left);
    assert_eq!(bed.store.datasets(&context, &first).await.unwrap().items, []);
}

async fn an_instance_that_came_to_nothing_gives_its_dataset_back(on: On) {
    let bed = Bed::new(on).await;
    let context = owner("default");
    let alice = bed.make(instance("default", "alice")).await;
    let data = remove(&bed, &alice, true).await.unwrap();
    let heir = async || {
        let mut heir = instance("default", "heir");
        heir.spec.dataset = Some(data.id.clone());
        bed.make(heir).await
    };
    let free = async || bed.store.datasets(&context, &PageRequest::first()).await.unwrap().items;

    // Removed before it ever ran: the data was not moved.
    let first = heir().await;
    assert_eq!(free().await, []);
    remove(&bed, &first, false).await;
    assert_eq!(free().await, std::slice::from_ref(&data));

    // Once it ran, the data is its own and goes with it.
    let second = heir().await;
    let observe = leave(Action::Observe, &second);
    let seen = |state: clawfarm_model::ObservedState| {
        move |i: &mut Instance| {
            let mut seen = clawfarm_model::Observation::absent(i.id.clone());
            seen.state = state;
            i.observed = Some(seen);
            Ok(Changes::none())
        }
    };
    let prepared = seen(clawfarm_model::ObservedState::Prepared);
    bed.store.update_instance(&observe, &second.id, None, prepared).await.unwrap();
    assert_eq!(bed.store.dataset_given_to(&context, &second.id).await.unwrap(), Some(data.clone()));
    let running = seen(clawfarm_model::ObservedState::Running);
    bed.store.update_instance(&observe, &second.id, None, running).await.unwrap();
    assert_eq!(bed.store.dataset_given_to(&context, &second.id).await.unwrap(), None);
    remove(&bed, &second, false).await;
    assert_eq!(free().await, []);
}
