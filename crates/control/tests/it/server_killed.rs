//! The server dies and comes back; the machine does.

use clawfarm_model::Phase;
use clawfarm_runtime_sim::ActKind;

use crate::fleet::{Fleet, claw, owner};

#[tokio::test]
async fn claws_go_on_and_are_adopted() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let fleet = fleet.restarted().await;
    let adopted = fleet.until_phase("alice", Phase::Ready).await;
    assert_eq!(adopted.observed.unwrap().started_at, alice.observed.as_ref().unwrap().started_at);
    assert_eq!(fleet.count(&alice, ActKind::Start), 1);
}

#[tokio::test]
async fn what_was_under_way_is_finished_by_the_next_server() {
    let fleet = Fleet::with(|b| b.claw.boot_ms = Some((700, 700))).await;
    let accepted = fleet.control.create(&owner(), claw("alice"), None).await.unwrap();
    fleet.until("alice", "it boots", |i| i.observed.is_some()).await;
    let fleet = fleet.restarted().await;
    let instance = fleet.reached(accepted).await;
    assert_eq!(instance.phase, Phase::Ready);
    assert_eq!(fleet.count(&instance, ActKind::Start), 1, "not started twice");
}

#[tokio::test]
async fn a_removal_under_way_is_finished_by_the_next_server() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    fleet.world.change_behaviour(|b| b.claw.stop_ms = Some((600, 600))).unwrap();
    let removal = fleet.control.remove(&owner(), "alice", true, false).await.unwrap();
    let fleet = fleet.restarted().await;
    fleet.ended(&removal.operation).await;
    assert!(fleet.world.instances().unwrap().is_empty(), "{:?}", fleet.acts(&alice));
}
