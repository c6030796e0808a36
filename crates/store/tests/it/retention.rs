//! What is pruned, what stays, and who is told.

use std::time::Duration;

use clawfarm_model::authz::Action;
use clawfarm_model::event::NewEvent;
use clawfarm_model::{Code, OperationKind};
use clawfarm_store::{Changes, EventFilter, NewOperation, PageRequest, Pruned, Retention};
use sea_orm::ConnectionTrait;

use crate::support::{Bed, On, instance, leave, on_both, owner, system};

on_both!(
    the_newest_of_each_instance_stay_and_who_comes_back_late_is_told,
    what_is_old_goes_and_the_audit_log_stays,
);

async fn the_newest_of_each_instance_stay_and_who_comes_back_late_is_told(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    let bob = bed.make(instance("default", "bob")).await;
    for n in 0..1_100 {
        let of = if n % 100 == 0 { &bob } else { &alice };
        let event = NewEvent::info("noted", format!("{n}"));
        bed.store.record_event(&leave(Action::InstanceUse, of), &event).await.unwrap();
    }
    for _ in 0..8 {
        let restart = |_: &mut clawfarm_model::Instance| {
            Ok(Changes { begin: Some(NewOperation::new(OperationKind::Restart)), ..Changes::none() })
        };
        bed.store
            .update_instance(&leave(Action::InstanceChange, &alice), &alice.id, None, restart)
            .await
            .unwrap();
    }
    let keep = Retention { events: 50, operations: 3, ..Retention::default() };
    assert_eq!(bed.store.prune(&owner("default"), &keep).await.unwrap_err().code(), Code::Forbidden);
    let audit = bed.store.audit(&system(), &PageRequest::after(None, 500)).await.unwrap();
    let pruned = bed.store.prune(&system(), &keep).await.unwrap();
    // Of alice 1,089 events less 50, and nine operations less one that runs and three.
    assert_eq!(pruned, Pruned { events: 1_039, operations: 5, keys: 0, instances: 0, messages: 0 });
    assert_eq!(bed.store.prune(&system(), &keep).await.unwrap(), Pruned::default(), "twice is once");
    let of =
        |id: &clawfarm_model::ClawId| EventFilter { instance: Some(id.clone()), ..EventFilter::default() };
    let left = bed.store.events(&owner("default"), &of(&alice.id), 500).await.unwrap();
    assert_eq!((left.len(), left.last().unwrap().message.as_str()), (50, "1099"));
    assert_eq!(bed.store.events(&owner("default"), &of(&bob.id), 500).await.unwrap().len(), 11);
    let running = bed.store.running_operation(&system(), &alice.id).await.unwrap();
    assert_eq!(running.unwrap().kind, OperationKind::Restart);
    assert_eq!(bed.store.audit(&system(), &PageRequest::after(None, 500)).await.unwrap(), audit);

    // From a place before the gap nobody reads on as if there were none.
    let gone = left[0].seq - 1;
    let me = owner("default");
    let check = async |id, after| bed.store.check_events_after(&me, id, after).await;
    let error = check(Some(&alice.id), gone - 2).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Gone, Some("after")));
    assert!(error.message().contains("are gone") && error.fix_text().is_some(), "{error}");
    assert_eq!(check(None, gone - 2).await.unwrap_err().code(), Code::Gone);
    assert_eq!(bed.store.check_events_after(&system(), None, gone - 2).await.unwrap_err().code(), Code::Gone);
    check(Some(&alice.id), gone).await.unwrap();
    check(None, gone).await.unwrap();
    check(Some(&bob.id), 1).await.unwrap();
    // A number that never was is of a state that was restored over: all up to it would be missed.
    let newest = EventFilter { newest: true, ..EventFilter::default() };
    let last = bed.store.events(&system(), &newest, 1).await.unwrap()[0].seq;
    check(None, last).await.unwrap();
    let error = check(None, last + 1).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Gone, Some("after")));
    assert!(error.fix_text().unwrap().contains(&last.to_string()), "{error}");
    bed.store.check_events_after(&owner("other"), None, 1).await.unwrap();
}

async fn what_is_old_goes_and_the_audit_log_stays(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    let gone = bed.make(instance("default", "gone")).await;
    crate::removal::remove(&bed, &gone, true).await;
    let keyed = instance("default", "keyed");
    let idempotency = Some(clawfarm_store::Idempotency { key: "k".into(), request_hash: "h".into() });
    let new = clawfarm_store::NewInstance { idempotency, ..clawfarm_store::NewInstance::new(keyed.clone()) };
    bed.store.create_instance(&leave(Action::InstanceCreate, &keyed), new).await.unwrap();
    for n in 0..3 {
        bed.store
            .record_event(&leave(Action::InstanceUse, &alice), &NewEvent::info("old", format!("{n}")))
            .await
            .unwrap();
    }
    // All of it was long ago.
    let raw = bed.place.raw().await;
    for sql in [
        "UPDATE events SET at = 1",
        // The first was written when a clock was a century ahead.
        "UPDATE events SET at = 4900000000000 WHERE seq = (SELECT min(seq) FROM events)",
        "UPDATE operations SET ended_at = 1 WHERE ended_at IS NOT NULL",
        "UPDATE instances SET updated_at = 1",
        "UPDATE idempotency_keys SET created_at = 1",
        "UPDATE audit SET at = 1",
    ] {
        raw.execute_unprepared(sql).await.unwrap();
    }
    bed.store.record_event(&leave(Action::InstanceUse, &alice), &NewEvent::info("new", "new")).await.unwrap();
    let audit = bed.store.audit(&system(), &PageRequest::first()).await.unwrap();
    let keep = Retention { age: Duration::from_secs(3_600), ..Retention::default() };
    let pruned = bed.store.prune(&system(), &keep).await.unwrap();
    assert_eq!(pruned, Pruned { events: 4, operations: 2, keys: 1, instances: 1, messages: 0 });
    let left = bed.store.events(&system(), &EventFilter::default(), 10).await.unwrap();
    assert_eq!((left.len(), left[1].message.as_str()), (2, "new"));
    // What lives stays, however long nothing happened to it; so does what the dead one left.
    bed.store.instance(&system(), &alice.id).await.unwrap();
    assert_eq!(bed.store.instance(&system(), &gone.id).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(bed.store.datasets(&system(), &PageRequest::first()).await.unwrap().items.len(), 1);
    assert_eq!(
        bed.store.running_operation(&system(), &alice.id).await.unwrap().map(|o| o.kind),
        Some(OperationKind::Create)
    );
    assert_eq!(bed.store.audit(&system(), &PageRequest::first()).await.unwrap(), audit);
    // Numbers are not given again.
    let last = left[1].seq;
    raw.execute_unprepared("DELETE FROM events").await.unwrap();
    bed.store
        .record_event(&leave(Action::InstanceUse, &alice), &NewEvent::info("next", "next"))
        .await
        .unwrap();
    assert!(bed.store.events(&system(), &EventFilter::default(), 10).await.unwrap()[0].seq > last);
}
