//! A life, from `new` to `rm`.

use clawfarm_control::{Change, Idempotency};
use clawfarm_model::{Code, OperationKind, OperationState, Phase};
use clawfarm_runtime_sim::ActKind;

use crate::fleet::{Fleet, claw, owner};

#[tokio::test]
async fn a_new_claw_is_prepared_started_once_and_ready_with_its_steps_told() {
    let fleet = Fleet::new().await;
    let accepted = fleet.control.create(&owner(), claw("alice"), None).await.unwrap();
    assert_eq!(accepted.instance.phase, Phase::Creating);
    let operation = fleet.ended(&accepted.operation).await;
    assert_eq!((operation.kind, operation.state), (OperationKind::Create, OperationState::Succeeded));
    let names: Vec<_> = operation.steps.iter().map(|s| s.name.as_str()).collect();
    for step in ["prepare", "start", "ready"] {
        assert!(names.contains(&step), "{names:?}");
    }
    assert!(operation.steps.iter().all(|s| s.ended_at.is_some()), "{:?}", operation.steps);
    let instance = fleet.control.get(&owner(), "alice").await.unwrap();
    assert_eq!(instance.phase, Phase::Ready);
    assert_eq!(fleet.count(&instance, ActKind::Start), 1);
    let (events, _) = fleet.control.events(&owner(), Some("alice"), None, 100).await.unwrap();
    let phases: Vec<_> = events.iter().filter(|e| e.reason == "phase").map(|e| e.message.as_str()).collect();
    assert_eq!(phases, ["creating -> booting", "booting -> running", "running -> ready"]);
}

#[tokio::test]
async fn stop_start_restart_and_kill_do_each_what_they_say() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let stopped = fleet.reached(fleet.control.stop(&owner(), "alice", false).await.unwrap()).await;
    assert_eq!(stopped.phase, Phase::Stopped);
    assert_eq!(fleet.count(&alice, ActKind::Stop), 1);
    let started = fleet.reached(fleet.control.start(&owner(), "alice").await.unwrap()).await;
    assert_eq!(started.phase, Phase::Ready);
    assert_eq!(started.restarts_total, 0, "an end that was asked for is no crash");
    let again = fleet.reached(fleet.control.start(&owner(), "alice").await.unwrap()).await;
    assert_eq!(fleet.count(&alice, ActKind::Start), 2, "it was up already");
    let born = again.observed.unwrap().started_at;
    let restarted = fleet.reached(fleet.control.restart(&owner(), "alice").await.unwrap()).await;
    assert_ne!(restarted.observed.unwrap().started_at, born);
    assert_eq!(fleet.count(&alice, ActKind::Start), 3);
    let killed = fleet.reached(fleet.control.kill(&owner(), "alice").await.unwrap()).await;
    assert_eq!(killed.phase, Phase::Stopped);
    assert_eq!(fleet.count(&alice, ActKind::Kill), 1);
}

#[tokio::test]
async fn what_the_store_knows_is_kept_beside_the_instance() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let kept = |what: &str| fleet.world.kept_record(&alice.id).unwrap().unwrap().pointer(what).cloned();
    assert_eq!(kept("/intent/desired").unwrap(), "running");
    assert_eq!(kept("/spec/claw_type").unwrap(), "openclaw");
    fleet.reached(fleet.control.stop(&owner(), "alice", false).await.unwrap()).await;
    assert_eq!(kept("/intent/desired").unwrap(), "stopped", "a rebuilt store would start it again");
}

#[tokio::test]
async fn removal_sets_the_data_aside_and_purge_removes_it_too() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let bob = fleet.ready("bob").await;
    fleet.ended(&fleet.control.remove(&owner(), "alice", false, false).await.unwrap().operation).await;
    fleet.ended(&fleet.control.remove(&owner(), "bob", true, false).await.unwrap().operation).await;
    assert!(fleet.world.instances().unwrap().is_empty());
    let listed: Vec<_> = fleet.control.datasets(&owner()).await.unwrap().into_iter().map(|d| d.id).collect();
    assert_eq!(listed, std::slice::from_ref(&alice.id));
    assert_eq!(fleet.world.datasets().unwrap(), std::slice::from_ref(&alice.id));
    let gone = fleet.control.get(&owner(), bob.id.as_str()).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    // The data lives on in another instance.
    let mut next = claw("carol");
    next.dataset = Some(alice.id.clone());
    let accepted = fleet.control.create(&owner(), next, None).await.unwrap();
    fleet.reached(accepted).await;
    assert!(fleet.control.datasets(&owner()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_dataset_is_removed_for_good() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    fleet.ended(&fleet.control.remove(&owner(), "alice", false, false).await.unwrap().operation).await;
    fleet.control.remove_dataset(&owner(), &alice.id).await.unwrap();
    assert!(fleet.world.datasets().unwrap().is_empty());
    let again = fleet.control.remove_dataset(&owner(), &alice.id).await.unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
}

#[tokio::test]
async fn a_request_that_is_sent_twice_makes_one_instance() {
    let fleet = Fleet::new().await;
    let key = Idempotency { key: "k-1".into(), request_hash: "h-1".into() };
    let first = fleet.control.create(&owner(), claw("alice"), Some(key.clone())).await.unwrap();
    let second = fleet.control.create(&owner(), claw("alice"), Some(key.clone())).await.unwrap();
    assert_eq!(first.instance.id, second.instance.id);
    assert_eq!(first.operation.id, second.operation.id);
    let other = Idempotency { request_hash: "h-2".into(), ..key };
    let refused = fleet.control.create(&owner(), claw("bob"), Some(other)).await.unwrap_err();
    assert_eq!((refused.code(), refused.field_name()), (Code::Conflict, Some("Idempotency-Key")));
}

#[tokio::test]
async fn a_change_restarts_what_runs_only_when_it_would_differ() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let mut change = Change {
        // No word on its model: the demo, as when it was made.
        labels: [("team".to_owned(), "a".to_owned())].into(),
        ..Change::default()
    };
    let accepted = fleet.control.update(&owner(), "alice", Some(alice.version - 1), change.clone()).await;
    let stale = accepted.unwrap_err();
    assert_eq!(stale.code(), Code::PreconditionFailed, "the row moved on while it got ready");
    let now = fleet.control.get(&owner(), "alice").await.unwrap();
    let accepted = fleet.control.update(&owner(), "alice", Some(now.version), change.clone()).await.unwrap();
    fleet.reached(accepted).await;
    assert_eq!(fleet.count(&alice, ActKind::Start), 1, "a label needs no restart");
    assert_eq!(fleet.control.get(&owner(), "alice").await.unwrap().spec.config, alice.spec.config);
    change.memory_mib = Some(1024);
    fleet.reached(fleet.control.update(&owner(), "alice", None, change).await.unwrap()).await;
    assert_eq!(fleet.count(&alice, ActKind::Start), 2);
}

#[tokio::test]
async fn the_latest_wish_wins_and_the_earlier_one_is_told_so() {
    let fleet = Fleet::with(|b| b.claw.boot_ms = Some((60_000, 60_000))).await;
    let created = fleet.control.create(&owner(), claw("alice"), None).await.unwrap();
    fleet.until_phase("alice", Phase::Running).await;
    let killed = fleet.control.kill(&owner(), "alice").await.unwrap();
    assert_eq!(fleet.ended(&created.operation).await.state, OperationState::Superseded);
    assert_eq!(fleet.reached(killed).await.phase, Phase::Stopped);
}

#[tokio::test]
async fn memory_that_is_not_there_is_refused_with_figures() {
    let fleet = Fleet::with(|b| {
        b.capacity.memory_mib = 5000;
        b.capacity.memory_available_mib = 5000;
    })
    .await;
    fleet.ready("alice").await;
    fleet.ready("bob").await;
    let refused = fleet.control.create(&owner(), claw("carol"), None).await.unwrap_err();
    assert_eq!(refused.code(), Code::Insufficient);
    for figure in ["2048", "5000", "4096"] {
        assert!(refused.message().contains(figure), "{refused}");
    }
    assert!(refused.fix_text().unwrap().contains("--overcommit"));
    let larger = Change { memory_mib: Some(4000), ..Change::default() };
    let refused = fleet.control.update(&owner(), "alice", None, larger).await.unwrap_err();
    assert_eq!(refused.code(), Code::Insufficient, "one that is up can't grow past it either");
    fleet.reached(fleet.control.suspend(&owner(), "alice", false, false).await.unwrap()).await;
    fleet.ready("carol").await;
    let refused = fleet.control.resume(&owner(), "alice").await.unwrap_err();
    assert_eq!(refused.code(), Code::Insufficient, "its memory was given away meanwhile");
    let mut anyway = claw("dave");
    anyway.overcommit = true;
    fleet.reached(fleet.control.create(&owner(), anyway, None).await.unwrap()).await;
}
