//! Whoever watches is told everything once, in order, and nothing of others.

use std::time::Duration;

use clawfarm_control::Follower;

use crate::fleet::{Fleet, owner, tenant};

/// More than a watcher may be behind before it must read the store again.
const MANY: usize = 700;

async fn take(follower: &mut Follower, count: usize) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(30), follower.next()).await;
        let events =
            next.unwrap_or_else(|_| panic!("{} of {count} events came", seen.len())).unwrap().unwrap();
        seen.extend(events.iter().map(|event| event.seq));
    }
    seen
}

#[tokio::test]
async fn a_slow_watcher_misses_nothing_and_sees_nothing_twice() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let bob = fleet.ready("bob").await;
    let id = alice.id.as_str();
    let (_, from) = fleet.control.events(&owner(), None, None, 1).await.unwrap();
    let follow = async |instance| fleet.control.follow_events(&owner(), instance, from).await.unwrap();
    let (mut all, mut of_alice, mut of_bob) =
        (follow(None).await, follow(Some(id)).await, follow(Some(bob.id.as_str())).await);
    let mut quick = follow(Some(id)).await;
    let quick = tokio::spawn(async move { take(&mut quick, MANY).await });
    for n in 0..MANY {
        fleet.control.reveal_token(&owner(), id).await.unwrap();
        // One of bob's between them.
        if n == MANY / 2 {
            fleet.control.reveal_token(&owner(), bob.id.as_str()).await.unwrap();
        }
    }
    // Only now do these look: they are far behind.
    let told = take(&mut all, MANY + 1).await;
    assert!(told.is_sorted_by(|a, b| a < b), "in order and none twice");
    let of_alice = take(&mut of_alice, MANY).await;
    assert_eq!(of_alice, quick.await.unwrap());
    let one = take(&mut of_bob, 1).await;
    let mut both = [of_alice, one].concat();
    both.sort_unstable();
    assert_eq!(told, both);
}

#[tokio::test]
async fn another_tenant_is_told_nothing() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let (_, from) = fleet.control.events(&owner(), None, None, 1).await.unwrap();
    let mut other = fleet.control.follow_events(&tenant("other"), None, 0).await.unwrap();
    let mut own = fleet.control.follow_events(&owner(), None, from).await.unwrap();
    fleet.control.reveal_token(&owner(), alice.id.as_str()).await.unwrap();
    assert_eq!(take(&mut own, 1).await.len(), 1);
    let told = tokio::time::timeout(Duration::from_millis(100), other.next()).await;
    assert!(told.is_err(), "another tenant was told {told:?}");
}
