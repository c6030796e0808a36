use clawfarm_model::authz::Action;
use clawfarm_model::event::NewEvent;
use clawfarm_model::operation::OperationState;
use clawfarm_model::{Code, Desired, OperationKind, Phase, Signal, Timestamp};
use clawfarm_store::{Changes, Created, EventFilter, NewInstance, NewOperation, OperationEnd, PageRequest};

use crate::support::{Bed, On, grant, instance, leave, on_both, owner};

on_both!(
    what_was_created_is_there_after_a_restart,
    a_change_its_event_its_operation_and_its_audit_entry_go_together,
    an_error_in_a_change_changes_nothing,
);

async fn what_was_created_is_there_after_a_restart(on: On) {
    let bed = Bed::new(on).await;
    let mut wanted = instance("default", "alice");
    wanted.port = Some(18_789);
    wanted.spec.labels.insert("team".into(), "blue".into());
    let mut new = NewInstance::new(wanted.clone());
    new.events.push(NewEvent::info("created", "alice was created"));
    let granted = grant(&owner("default"), Action::InstanceCreate, "default", "instance", wanted.id.as_str());
    let Created::New { instance: made, operation } = bed.store.create_instance(&granted, new).await.unwrap()
    else {
        panic!("it was replayed");
    };
    wanted.version = 1;
    assert_eq!(*made, wanted);
    bed.store.close().await;

    let store = bed.place.open().await;
    let context = owner("default");
    assert_eq!(store.instance(&context, &wanted.id).await.unwrap(), wanted);
    let found = store.operation(&context, &operation.id).await.unwrap();
    assert_eq!(found, operation);
    assert_eq!(
        (found.kind, found.state, found.generation),
        (OperationKind::Create, OperationState::Running, 1)
    );
    let events = store.events(&context, &EventFilter::default(), 10).await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].reason.as_str(), events[0].instance.as_ref()), ("created", Some(&wanted.id)));
    assert_eq!(*store.subscribe().borrow(), events[0].seq);
    let audit = store.audit(&context, &PageRequest::first()).await.unwrap().items;
    // Before it only the target was made.
    assert_eq!(audit.len(), 2);
    assert_eq!((audit[0].action.as_str(), audit[0].actor.as_str()), ("instance.create", "owner:tester"));
    assert_eq!((audit[0].object.as_str(), audit[0].request_id.as_str()), (wanted.id.as_str(), "req-1"));
}

async fn a_change_its_event_its_operation_and_its_audit_entry_go_together(on: On) {
    let bed = Bed::new(on).await;
    let made = bed.make(instance("default", "alice")).await;
    let context = owner("default");
    let created = bed.store.running_operation(&context, &made.id).await.unwrap().unwrap();
    let mut watcher = bed.store.subscribe();
    watcher.mark_unchanged();

    let stop = |i: &mut clawfarm_model::Instance| {
        i.intent.desired = Desired::Stopped;
        i.intent.generation += 1;
        Ok(Changes {
            events: vec![NewEvent::info("stop", "asked to stop")],
            begin: Some(NewOperation::new(OperationKind::Stop)),
            ..Changes::none()
        })
    };
    let granted = leave(Action::InstanceChange, &made);
    let (after, operation) = bed.store.update_instance(&granted, &made.id, Some(1), stop).await.unwrap();
    let operation = operation.unwrap();
    assert_eq!((after.version, after.intent.desired), (2, Desired::Stopped));
    assert_eq!(operation.generation, 2);
    assert!(watcher.has_changed().unwrap());
    let old = bed.store.operation(&context, &created.id).await.unwrap();
    assert_eq!(old.state, OperationState::Superseded);
    assert!(old.ended_at.is_some());

    // The server sees it stopped: an end of the operation, and no audit entry.
    let audited = bed.store.audit(&context, &PageRequest::first()).await.unwrap().items.len();
    let observe = leave(Action::Observe, &made);
    let (after, _) = bed
        .store
        .update_instance(&observe, &made.id, None, |i| {
            i.signal(Signal::StopBegun, Timestamp::now());
            i.signal(Signal::Stopped, Timestamp::now());
            Ok(Changes { end: vec![OperationEnd::succeeded(&operation.id)], ..Changes::none() })
        })
        .await
        .unwrap();
    assert_eq!((after.phase, after.version), (Phase::Stopped, 3));
    assert_eq!(bed.store.running_operation(&context, &made.id).await.unwrap(), None);
    assert_eq!(bed.store.operation(&context, &operation.id).await.unwrap().state, OperationState::Succeeded);
    assert_eq!(bed.store.audit(&context, &PageRequest::first()).await.unwrap().items.len(), audited);

    // Nothing changed: nothing is written.
    let (same, _) =
        bed.store.update_instance(&observe, &made.id, None, |_| Ok(Changes::none())).await.unwrap();
    assert_eq!(same, after);
}

async fn an_error_in_a_change_changes_nothing(on: On) {
    let bed = Bed::new(on).await;
    let made = bed.make(instance("default", "alice")).await;
    let context = owner("default");
    let granted = leave(Action::InstanceChange, &made);
    let error = bed
        .store
        .update_instance(&granted, &made.id, None, |i| {
            i.intent.desired = Desired::Stopped;
            Err(clawfarm_model::Error::new(Code::Busy, "it is talking"))
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Busy);
    // An error after the row was written: the end of an operation that is no end.
    let bad_end =
        OperationEnd { id: "op-x".into(), state: OperationState::Running, error: None, steps: None };
    let error = bed
        .store
        .update_instance(&granted, &made.id, None, |i| {
            i.intent.desired = Desired::Stopped;
            Ok(Changes {
                events: vec![NewEvent::info("stop", "asked to stop")],
                end: vec![bad_end],
                ..Changes::none()
            })
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert_eq!(bed.store.instance(&context, &made.id).await.unwrap(), made);
    assert_eq!(bed.store.events(&context, &EventFilter::default(), 10).await.unwrap(), []);
    let audit = bed.store.audit(&context, &PageRequest::first()).await.unwrap().items;
    assert_eq!(audit[0].action, "instance.create");
}
