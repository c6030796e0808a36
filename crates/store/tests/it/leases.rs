//! Leases: given to one server at a time, and every write under one held against it.

use std::time::Duration;

use clawfarm_model::name::TargetName;
use clawfarm_model::server::Member;
use clawfarm_model::{Action, Code, Fence, Timestamp, is_fenced};
use clawfarm_store::{Changes, Store};

use crate::support::{Bed, On, TARGET, instance, leave, on_both, owner, system, target};

on_both!(
    a_lease_is_one_servers_until_its_time_is_over,
    a_heartbeat_renews_and_a_process_of_the_same_node_takes_over_at_once,
    one_name_is_one_servers_and_a_forgotten_one_joins_again,
    a_write_under_a_lease_that_is_over_changes_nothing
);

/// Longer than any test: what is to be over is made to be.
const LONG: Duration = Duration::from_secs(600);
/// Over at once.
const OVER: Duration = Duration::ZERO;

fn member(node: &str) -> Member {
    Member {
        node: node.into(),
        session: format!("{node}-1"),
        name: node.into(),
        version: "0.1.0".into(),
        address: None,
        targets: vec![name()],
    }
}

fn name() -> TargetName {
    TargetName::new(TARGET).unwrap()
}

async fn bed(on: On) -> Bed {
    let bed = Bed::new(on).await;
    bed.store.make_leases(&system(), &target(TARGET)).await.unwrap();
    bed
}

async fn take(store: &Store, node: &str, shards: &[u32], ttl: Duration) -> Vec<Fence> {
    store.take_leases(&system(), &member(node), &name(), shards, ttl).await.unwrap()
}

async fn a_lease_is_one_servers_until_its_time_is_over(on: On) {
    let bed = bed(on).await;
    let store = &bed.store;
    for node in ["a", "b"] {
        store.join(&system(), &member(node), LONG).await.unwrap();
    }
    let first = take(store, "a", &[0, 1], LONG).await;
    assert_eq!(first.len(), 2);
    assert!(take(store, "b", &[0, 1], LONG).await.is_empty(), "it is held");
    assert_eq!(take(store, "b", &[1, 2], LONG).await.len(), 1, "what is free is taken");
    store.release_leases(&system(), &member("a"), &first[..1]).await.unwrap();
    let second = take(store, "b", &[0], OVER).await;
    assert!(second[0].epoch > first[0].epoch);
    // Its time is over at once: another one has it, with a later epoch.
    let third = take(store, "a", &[0], LONG).await;
    assert!(third[0].epoch > second[0].epoch);
    // What is given back late gives nothing away.
    store.release_leases(&system(), &member("b"), &second).await.unwrap();
    assert!(take(store, "b", &[0], LONG).await.is_empty());
    let beat = store.beat(&system(), &member("a"), LONG).await.unwrap();
    let held =
        |node: &str| beat.leases.iter().filter(|l| l.live && l.holder.as_deref() == Some(node)).count();
    assert_eq!((held("a"), held("b")), (2, 1));
    assert_eq!(
        beat.servers.iter().map(|s| (s.node.as_str(), s.leases)).collect::<Vec<_>>(),
        [("a", 2), ("b", 1)]
    );
}

async fn a_heartbeat_renews_and_a_process_of_the_same_node_takes_over_at_once(on: On) {
    let bed = bed(on).await;
    let store = &bed.store;
    store.join(&system(), &member("a"), LONG).await.unwrap();
    let old = take(store, "a", &[0], OVER).await;
    store.beat(&system(), &member("a"), LONG).await.unwrap();
    assert!(take(store, "b", &[0], LONG).await.is_empty(), "it was renewed");
    let next = Member { session: "a-2".into(), ..member("a") };
    store.join(&system(), &next, LONG).await.unwrap();
    let beat = store.beat(&system(), &next, LONG).await.unwrap();
    assert!(beat.leases[0].live && beat.leases[0].epoch > old[0].epoch, "{:?}", beat.leases[0]);
    // The one before, should it live, finds out.
    let error = store.beat(&system(), &member("a"), LONG).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("node")));
    store.leave(&system(), &member("a")).await.unwrap();
    assert!(store.servers(&system()).await.unwrap()[0].live, "the earlier process can't end the later one");
    store.leave(&system(), &next).await.unwrap();
    let server = store.servers(&system()).await.unwrap().remove(0);
    assert_eq!((server.live, server.leases), (false, 0));
    assert_eq!(take(store, "b", &[0], LONG).await.len(), 1, "given back at once");
}

async fn one_name_is_one_servers_and_a_forgotten_one_joins_again(on: On) {
    let bed = bed(on).await;
    bed.store.join(&system(), &member("a"), LONG).await.unwrap();
    let other = Member { name: "a".into(), ..member("b") };
    let error = bed.store.join(&system(), &other, LONG).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("node")));
    assert!(error.fix_text().is_some_and(|fix| fix.contains("--node")));
    let error = bed.store.beat(&system(), &member("c"), LONG).await.unwrap_err();
    assert_eq!(error.code(), Code::Gone);
    let error = bed.store.beat(&owner("default"), &member("a"), LONG).await.unwrap_err();
    assert_eq!(error.code(), Code::Forbidden);
}

async fn a_write_under_a_lease_that_is_over_changes_nothing(on: On) {
    let bed = bed(on).await;
    let store = &bed.store;
    let it = bed.make(instance("default", "alice")).await;
    let shard = it.id.shard(64);
    let mine = take(store, "a", &[shard], OVER).await.remove(0);
    let see = |fence: Fence| {
        let (grant, id) = (leave(Action::Observe, &it).under(Some(fence)), it.id.clone());
        async move {
            store
                .update_instance(&grant, &id, None, |it| {
                    it.observed_at = Some(Timestamp::now());
                    Ok(Changes::none())
                })
                .await
        }
    };
    see(mine.clone()).await.expect("nobody else has it yet");
    let theirs = take(store, "b", &[shard], LONG).await.remove(0);
    let before = store.instance(&system(), &it.id).await.unwrap();
    let error = see(mine.clone()).await.unwrap_err();
    assert!(is_fenced(&error), "{error:?}");
    let operation = store.running_operation(&system(), &it.id).await.unwrap().unwrap();
    let error = store.set_operation_steps(&system(), &operation.id, &[], Some(&mine)).await.unwrap_err();
    assert!(is_fenced(&error), "{error:?}");
    assert_eq!(store.instance(&system(), &it.id).await.unwrap(), before);
    see(theirs.clone()).await.unwrap();
    // Given back is over, too; and a lease of another target fences nothing here.
    store.release_leases(&system(), &member("b"), std::slice::from_ref(&theirs)).await.unwrap();
    assert!(is_fenced(&see(theirs.clone()).await.unwrap_err()));
    let other = Fence { target: TargetName::new("other").unwrap(), ..theirs };
    assert_eq!(see(other).await.unwrap_err().code(), Code::Internal);
}
