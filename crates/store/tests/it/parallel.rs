//! Many at once: one wins what only one can have, and nothing is lost.

use std::time::Duration;

use clawfarm_model::authz::Action;
use clawfarm_model::event::NewEvent;
use clawfarm_model::{Code, Instance, Phase};
use clawfarm_store::{Changes, EventFilter, NewInstance, Room};

use crate::support::{Bed, On, TARGET, instance, leave, on_both, owner, system};

on_both!(
    of_twenty_creations_on_one_port_one_wins,
    of_twenty_who_want_the_last_memory_those_get_it_for_whom_there_is_room,
    of_fifty_parallel_updates_none_is_lost,
    of_parallel_updates_that_name_the_same_version_one_is_accepted,
    a_caller_that_goes_away_leaves_a_whole_change_or_none,
    a_watcher_hears_of_each_commit_and_catches_up_from_the_table,
);

fn count_up(i: &mut Instance) -> clawfarm_model::Result<Changes> {
    i.restarts_total += 1;
    Ok(Changes::event(NewEvent::info("counted", format!("{}", i.restarts_total))))
}

async fn of_twenty_creations_on_one_port_one_wins(on: On) {
    let bed = Bed::new(on).await;
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let store = bed.store.clone();
            tokio::spawn(async move {
                let mut new = instance(if n % 2 == 0 { "default" } else { "other" }, "alice");
                new.port = Some(23_000);
                store
                    .create_instance(&leave(Action::InstanceCreate, &new), NewInstance::new(new.clone()))
                    .await
            })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => won += 1,
            Err(error) => assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("port"))),
        }
    }
    assert_eq!(won, 1);
    let local = clawfarm_model::name::TargetName::new(TARGET).unwrap();
    assert_eq!(bed.store.ports_in_use(&system(), &local).await.unwrap(), [23_000].into());
    // The losers left nothing: no secret, no operation, no row.
    assert_eq!(bed.store.instance_ids_to_reconcile(&system()).await.unwrap().len(), 1);
    let operations =
        bed.store.operations(&system(), None, &clawfarm_store::PageRequest::first()).await.unwrap();
    assert_eq!(operations.items.len(), 1);
}

async fn of_twenty_who_want_the_last_memory_those_get_it_for_whom_there_is_room(on: On) {
    let bed = Bed::new(on).await;
    // Two servers, each with connections of its own.
    let other = bed.place.open().await;
    let target = clawfarm_model::name::TargetName::new(TARGET).unwrap();
    let wanted = u64::from(instance("default", "alice").spec.resources.memory_mib);
    let room = |n| Room { target: target.clone(), wanted_mib: wanted, most_mib: wanted * n };
    // One of them is there already and is to be started: its memory is not promised yet.
    let mut down = instance("default", "down");
    down.phase = Phase::Stopped;
    let down = bed.make(down).await;
    let mut tasks: Vec<_> = (0..20)
        .map(|n| {
            let store = if n % 2 == 0 { bed.store.clone() } else { other.clone() };
            let room = Some(room(5));
            tokio::spawn(async move {
                let new = instance("default", "alice");
                let row = NewInstance { room, ..NewInstance::new(new.clone()) };
                store.create_instance(&leave(Action::InstanceCreate, &new), row).await.map(drop)
            })
        })
        .collect();
    let (store, room_for_it) = (other.clone(), Some(room(5)));
    tasks.push(tokio::spawn(async move {
        let change = move |i: &mut Instance| {
            i.phase = Phase::Booting;
            Ok(Changes { room: room_for_it, ..Changes::default() })
        };
        store.update_instance(&leave(Action::InstanceChange, &down), &down.id, None, change).await.map(drop)
    }));
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(()) => won += 1,
            Err(error) => {
                let told = (error.code(), error.field_name());
                assert_eq!(told, (Code::Insufficient, Some("resources.memory_mib")), "{error}");
            }
        }
    }
    assert_eq!(won, 5);
    assert_eq!(bed.store.promised_memory_mib(&system(), &target).await.unwrap(), wanted * 5);
    let ids = bed.store.instance_ids_to_reconcile(&system()).await.unwrap().len();
    assert!((5..=6).contains(&ids), "those who got nothing left nothing: {ids}");
    other.close().await;
}

async fn of_fifty_parallel_updates_none_is_lost(on: On) {
    let bed = Bed::new(on).await;
    let made = bed.make(instance("default", "alice")).await;
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let (store, granted, id) = (bed.store.clone(), leave(Action::Observe, &made), made.id.clone());
            tokio::spawn(async move { store.update_instance(&granted, &id, None, count_up).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let after = bed.store.instance(&owner("default"), &made.id).await.unwrap();
    assert_eq!((after.restarts_total, after.version), (50, 51));
    let events = bed.store.events(&owner("default"), &EventFilter::default(), 100).await.unwrap();
    let told: Vec<String> = events.iter().map(|e| e.message.clone()).collect();
    assert_eq!(told, (1..=50).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(*bed.store.subscribe().borrow(), events[49].seq);
}

async fn of_parallel_updates_that_name_the_same_version_one_is_accepted(on: On) {
    let bed = Bed::new(on).await;
    let made = bed.make(instance("default", "alice")).await;
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let (store, granted, id) =
                (bed.store.clone(), leave(Action::InstanceChange, &made), made.id.clone());
            tokio::spawn(async move { store.update_instance(&granted, &id, Some(1), count_up).await })
        })
        .collect();
    let mut accepted = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => accepted += 1,
            Err(error) => {
                assert_eq!((error.code(), error.field_name()), (Code::PreconditionFailed, Some("If-Match")));
            }
        }
    }
    assert_eq!(accepted, 1);
    assert_eq!(bed.store.instance(&owner("default"), &made.id).await.unwrap().restarts_total, 1);
}

async fn a_caller_that_goes_away_leaves_a_whole_change_or_none(on: On) {
    let bed = Bed::new(on).await;
    let made = bed.make(instance("default", "alice")).await;
    let tasks: Vec<_> = (0..200_u64)
        .map(|n| {
            let (store, granted, id) = (bed.store.clone(), leave(Action::Observe, &made), made.id.clone());
            tokio::spawn(async move {
                let update = store.update_instance(&granted, &id, None, count_up);
                // Dropped at a different point of its way each time.
                let _ = tokio::time::timeout(Duration::from_micros(n * 300), update).await;
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    // The store goes on, and each version has its event.
    let (after, _) =
        bed.store.update_instance(&leave(Action::Observe, &made), &made.id, None, count_up).await.unwrap();
    let events = bed.store.events(&owner("default"), &EventFilter::default(), 500).await.unwrap();
    assert_eq!(events.len() as u32, after.restarts_total);
    assert_eq!(i64::from(after.restarts_total), after.version - 1);
    assert!(after.restarts_total < 201, "none was dropped: the test proves nothing");
    assert_eq!(*bed.store.subscribe().borrow(), events.last().unwrap().seq);
}

async fn a_watcher_hears_of_each_commit_and_catches_up_from_the_table(on: On) {
    let bed = Bed::new(on).await;
    let made = bed.make(instance("default", "alice")).await;
    let mut watcher = bed.store.subscribe();
    watcher.mark_unchanged();
    let (store, granted, id) = (bed.store.clone(), leave(Action::Observe, &made), made.id.clone());
    let writer = tokio::spawn(async move {
        for _ in 0..20 {
            store.update_instance(&granted, &id, None, count_up).await.unwrap();
        }
    });
    let mut seen: Vec<String> = Vec::new();
    let mut last = None;
    while seen.len() < 20 {
        tokio::time::timeout(Duration::from_secs(10), watcher.changed())
            .await
            .expect("a commit was told of within 10 s")
            .unwrap();
        let filter = EventFilter { after_seq: last, ..EventFilter::default() };
        for event in bed.store.events(&owner("default"), &filter, 3).await.unwrap() {
            last = Some(event.seq);
            seen.push(event.message);
        }
        if seen.len() < 20 && last < Some(*watcher.borrow()) {
            watcher.mark_changed();
        }
    }
    writer.await.unwrap();
    assert_eq!(seen, (1..=20).map(|n| n.to_string()).collect::<Vec<_>>());
    // After a restart the number goes on where it was.
    bed.store.close().await;
    assert_eq!(Some(*bed.place.open().await.subscribe().borrow()), last);
}
