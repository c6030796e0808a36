use std::collections::BTreeSet;

use clawfarm_model::authz::Action;
use clawfarm_model::event::NewEvent;
use clawfarm_model::name::{ClawType, ProjectName, TargetName};
use clawfarm_model::operation::Step;
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{Code, Phase, Timestamp};
use clawfarm_store::{EventFilter, InstanceFilter, PageRequest};

use crate::support::{Bed, On, grant, instance, leave, on_both, owner, system, target};

on_both!(
    pages_show_each_instance_once_while_others_are_made,
    the_last_page_says_that_it_is_the_last,
    each_filter_shows_what_fits_and_nothing_else,
    a_name_resolves_when_it_means_one,
    events_are_read_on_from_where_one_stopped_and_from_the_end,
    steps_show_progress_until_the_operation_ends,
    promised_memory_counts_what_is_up_on_the_target,
);

async fn pages_show_each_instance_once_while_others_are_made(on: On) {
    let bed = Bed::new(on).await;
    let context = owner("default");
    // Many in the same millisecond: the id decides among them.
    let same = Timestamp::from_millis(1_795_000_000_000);
    let mut there = BTreeSet::new();
    for n in 0..25 {
        let mut new = instance("default", &format!("claw{n}"));
        new.created_at = if n < 20 { same } else { same.after(std::time::Duration::from_secs(n)) };
        there.insert(bed.make(new).await.id);
    }
    let mut request = PageRequest::after(None, 7);
    let mut seen = Vec::new();
    loop {
        let page = bed.store.instances(&context, &InstanceFilter::default(), &request).await.unwrap();
        assert!(page.items.len() <= 7);
        seen.extend(page.items);
        // Before, within and after what was read.
        for (at, name) in [(1, "early"), (1_795_000_000_000, "same"), (1_895_000_000_000, "late")] {
            let mut new = instance("default", name);
            new.created_at = Timestamp::from_millis(at);
            bed.make(new).await;
        }
        match page.next {
            Some(next) if seen.len() < 100 => request = PageRequest::after(Some(next), 7),
            _ => break,
        }
        if seen.iter().filter(|i| i.name.as_str() == "late").count() > 3 {
            break;
        }
    }
    let ids: Vec<_> = seen.iter().map(|i| i.id.clone()).collect();
    let unique: BTreeSet<_> = ids.iter().cloned().collect();
    assert_eq!(ids.len(), unique.len(), "one was shown twice");
    assert!(there.is_subset(&unique), "one was left out");
    assert!(seen.is_sorted_by_key(|i| (i.created_at, i.id.clone())));
}

async fn the_last_page_says_that_it_is_the_last(on: On) {
    let bed = Bed::new(on).await;
    let context = owner("default");
    for n in 0..4 {
        bed.make(instance("default", &format!("claw{n}"))).await;
    }
    let filter = InstanceFilter::default();
    let first = bed.store.instances(&context, &filter, &PageRequest::after(None, 2)).await.unwrap();
    let second = bed.store.instances(&context, &filter, &PageRequest::after(first.next, 2)).await.unwrap();
    assert_eq!((second.items.len(), second.next), (2, None));
    for (cursor, limit, field) in [(Some("junk"), 2, "cursor"), (None, 0, "limit"), (None, 501, "limit")] {
        let request = PageRequest::after(cursor.map(str::to_owned), limit);
        let error = bed.store.instances(&context, &filter, &request).await.unwrap_err();
        assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some(field)));
    }
    let page = bed.store.operations(&context, None, &PageRequest::after(None, 3)).await.unwrap();
    let rest = bed.store.operations(&context, None, &PageRequest::after(page.next.clone(), 3)).await.unwrap();
    assert_eq!((page.items.len(), rest.items.len(), rest.next), (3, 1, None));
    // A cursor of one list is none of another.
    assert!(bed.store.instances(&context, &filter, &PageRequest::after(page.next, 3)).await.is_err());
    let page = bed.store.audit(&context, &PageRequest::after(None, 3)).await.unwrap();
    let rest = bed.store.audit(&context, &PageRequest::after(page.next, 3)).await.unwrap();
    assert_eq!((page.items.len(), rest.items.len(), rest.next), (3, 2, None));
    assert!(page.items[2].seq > rest.items[0].seq);
}

async fn each_filter_shows_what_fits_and_nothing_else(on: On) {
    let bed = Bed::new(on).await;
    let granted = grant(&system(), Action::TargetWrite, "default", "target", "far");
    bed.store.put_target(&granted, &target("far")).await.unwrap();
    let project = ProjectName::new("blue").unwrap();
    let granted = grant(&system(), Action::ServerAdmin, "default", "tenant", "default");
    bed.store.add_project(&granted, &project).await.unwrap();

    let mut alice = instance("default", "alice");
    alice.spec.labels.insert("team".into(), "Blue".into());
    alice.phase = Phase::Ready;
    let mut bob = instance("default", "bob");
    bob.spec.labels.insert("team".into(), "blue".into());
    bob.spec.labels.insert("blue".into(), "team".into());
    bob.spec.claw_type = ClawType::new("zeroclaw").unwrap();
    bob.project = project.clone();
    let mut alan = instance("default", "alan");
    alan.spec.runtime = RuntimeKind::Sim;
    alan.spec.target = TargetName::new("far").unwrap();
    for new in [&alice, &bob, &alan] {
        bed.make(new.clone()).await;
    }
    let names = async |filter: InstanceFilter| {
        let page = bed.store.instances(&owner("default"), &filter, &PageRequest::first()).await.unwrap();
        let mut names: Vec<_> = page.items.iter().map(|i| i.name.to_string()).collect();
        names.sort();
        names.join(" ")
    };
    let any = InstanceFilter::default;
    assert_eq!(names(any()).await, "alan alice bob");
    assert_eq!(names(InstanceFilter { phase: Some(Phase::Ready), ..any() }).await, "alice");
    assert_eq!(names(InstanceFilter { claw_type: Some(bob.spec.claw_type.clone()), ..any() }).await, "bob");
    assert_eq!(names(InstanceFilter { runtime: Some(RuntimeKind::Sim), ..any() }).await, "alan");
    assert_eq!(names(InstanceFilter { target: Some(alan.spec.target.clone()), ..any() }).await, "alan");
    assert_eq!(names(InstanceFilter { project: Some(project), ..any() }).await, "bob");
    assert_eq!(names(InstanceFilter { name_prefix: Some("al".into()), ..any() }).await, "alan alice");
    let label = |key: &str, value: &str| InstanceFilter { labels: vec![(key.into(), value.into())], ..any() };
    assert_eq!(names(label("team", "blue")).await, "bob");
    assert_eq!(names(label("team", "Blue")).await, "alice");
    assert_eq!(names(label("team", "%")).await, "");
    let two = vec![("team".to_owned(), "blue".to_owned()), ("blue".to_owned(), "team".to_owned())];
    assert_eq!(names(InstanceFilter { labels: two.clone(), ..any() }).await, "bob");
    let filter = InstanceFilter { labels: two, ..any() };
    assert_eq!(bed.store.count_instances(&owner("default"), &filter).await.unwrap(), 1);
    assert_eq!(bed.store.count_instances(&owner("default"), &any()).await.unwrap(), 3);
    assert_eq!(bed.store.count_instances(&owner("other"), &any()).await.unwrap(), 0);
    let both = InstanceFilter { name_prefix: Some("b".into()), ..label("team", "Blue") };
    assert_eq!(names(both).await, "");
    for prefix in ["%", "a_", "A"] {
        let filter = InstanceFilter { name_prefix: Some(prefix.into()), ..any() };
        let refused = bed.store.instances(&owner("default"), &filter, &PageRequest::first()).await;
        assert_eq!(refused.unwrap_err().field_name(), Some("name_prefix"));
    }
    // Labels are indexed anew when they change.
    let relabel = |i: &mut clawfarm_model::Instance| {
        i.spec.labels = [("team".to_owned(), "red".to_owned())].into();
        Ok(clawfarm_store::Changes::none())
    };
    bed.store.update_instance(&leave(Action::InstanceChange, &bob), &bob.id, None, relabel).await.unwrap();
    assert_eq!(names(label("team", "red")).await, "bob");
    assert_eq!(names(label("team", "blue")).await, "");
    assert_eq!(names(label("blue", "team")).await, "");
}

async fn a_name_resolves_when_it_means_one(on: On) {
    let bed = Bed::new(on).await;
    let context = owner("default");
    let alice = bed.make(instance("default", "alice")).await;
    let long = bed.make(instance("default", "alice-two")).await;
    for n in 0..7 {
        bed.make(instance("default", &format!("bob{n}"))).await;
    }
    let twins = [bed.make(instance("default", "twin")).await, bed.make(instance("default", "twin")).await];
    // A name comes before a beginning: 'alice' is one's name and the beginning of two ids.
    assert_eq!(bed.store.resolve(&context, "alice").await.unwrap(), alice.id);
    assert_eq!(bed.store.resolve(&context, alice.id.as_str()).await.unwrap(), alice.id);
    assert_eq!(bed.store.resolve(&context, "alice-two").await.unwrap(), long.id);
    assert_eq!(bed.store.resolve(&context, "alice-tw").await.unwrap(), long.id);
    let error = bed.store.resolve(&context, "twin").await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("id")));
    assert!(twins.iter().all(|t| error.message().contains(t.id.as_str())), "{error}");
    let error = bed.store.resolve(&context, "bob").await.unwrap_err();
    assert_eq!(error.message().matches("bob").count(), 6, "five candidates and the question: {error}");
    assert!(error.message().ends_with("and others"), "{error}");
    for nothing in ["", "carol", "ALICE", "%", "alice_", "a'; drop table", &"a".repeat(500)] {
        let error = bed.store.resolve(&context, nothing).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{nothing}");
    }
}

async fn events_are_read_on_from_where_one_stopped_and_from_the_end(on: On) {
    let bed = Bed::new(on).await;
    let context = owner("default");
    let alice = bed.make(instance("default", "alice")).await;
    let bob = bed.make(instance("default", "bob")).await;
    for n in 0..6 {
        let of = if n % 2 == 0 { &alice } else { &bob };
        let event = NewEvent::warning("noted", format!("{n}"));
        bed.store.record_event(&leave(Action::InstanceUse, of), &event).await.unwrap();
    }
    let told = async |filter: EventFilter, limit: u32| {
        let events = bed.store.events(&context, &filter, limit).await.unwrap();
        events.iter().map(|e| e.message.clone()).collect::<String>()
    };
    let any = EventFilter::default;
    assert_eq!(told(any(), 4).await, "0123");
    assert_eq!(told(EventFilter { newest: true, ..any() }, 2).await, "45");
    assert_eq!(told(EventFilter { instance: Some(bob.id.clone()), ..any() }, 10).await, "135");
    let third = bed.store.events(&context, &any(), 3).await.unwrap()[2].seq;
    assert_eq!(told(EventFilter { after_seq: Some(third), ..any() }, 10).await, "345");
    let both = EventFilter { instance: Some(alice.id), after_seq: Some(third), newest: true };
    assert_eq!(told(both, 10).await, "4");
    assert_eq!(bed.store.events(&context, &any(), 0).await.unwrap_err().field_name(), Some("limit"));
    // Of the tenant, without an instance.
    let granted = grant(&context, Action::ServerAdmin, "default", "server", "s");
    bed.store.record_event(&granted, &NewEvent::info("started", "6")).await.unwrap();
    let last = bed.store.events(&context, &EventFilter { newest: true, ..any() }, 1).await.unwrap();
    assert_eq!((last[0].message.as_str(), &last[0].instance), ("6", &None));
}

async fn steps_show_progress_until_the_operation_ends(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    let operation = bed.store.running_operation(&system(), &alice.id).await.unwrap().unwrap();
    let step = |done| Step {
        name: "install".into(),
        message: "installing".into(),
        done,
        total: Some(10),
        unit: "packages".into(),
        started_at: Timestamp::from_millis(5),
        ended_at: None,
    };
    bed.store.set_operation_steps(&system(), &operation.id, &[step(3)], None).await.unwrap();
    let read = bed.store.operation(&owner("default"), &operation.id).await.unwrap();
    assert_eq!(read.steps, [step(3)]);
    let end = |i: &mut clawfarm_model::Instance| {
        i.phase = Phase::Failed;
        let why = clawfarm_model::Error::new(Code::ClawFailed, "it crashed").report();
        Ok(clawfarm_store::Changes {
            end: vec![clawfarm_store::OperationEnd::failed(&operation.id, why)],
            ..clawfarm_store::Changes::none()
        })
    };
    bed.store.update_instance(&leave(Action::Observe, &alice), &alice.id, None, end).await.unwrap();
    bed.store.set_operation_steps(&system(), &operation.id, &[step(9)], None).await.unwrap();
    let read = bed.store.operation(&owner("default"), &operation.id).await.unwrap();
    assert_eq!((read.steps, read.error.map(|e| e.message)), (vec![step(3)], Some("it crashed".into())));

    // One instance's change can't end another's operation.
    let bob = bed.make(instance("default", "bob")).await;
    let his = bed.store.running_operation(&system(), &bob.id).await.unwrap().unwrap();
    let meddle = |_: &mut clawfarm_model::Instance| {
        Ok(clawfarm_store::Changes {
            end: vec![clawfarm_store::OperationEnd::succeeded(&his.id)],
            ..clawfarm_store::Changes::none()
        })
    };
    bed.store.update_instance(&leave(Action::Observe, &alice), &alice.id, None, meddle).await.unwrap();
    assert_eq!(bed.store.running_operation(&system(), &bob.id).await.unwrap(), Some(his));
}

async fn promised_memory_counts_what_is_up_on_the_target(on: On) {
    let bed = Bed::new(on).await;
    let local = TargetName::new(crate::support::TARGET).unwrap();
    let promised = async || bed.store.promised_memory_mib(&system(), &local).await.unwrap();
    assert_eq!(promised().await, 0);
    for (tenant, memory, phase) in
        [("default", 512, Phase::Ready), ("other", 1024, Phase::Warm), ("default", 4096, Phase::Stopped)]
    {
        let mut new = instance(tenant, "claw");
        new.spec.resources.memory_mib = memory;
        new.phase = phase;
        bed.make(new).await;
    }
    assert_eq!(promised().await, 1536);
}
