//! What goes wrong, and what is made of it.

use clawfarm_model::instance::{RestartMode, RestartPolicy};
use clawfarm_model::{Code, OperationState, Phase};
use clawfarm_runtime_sim::{ActKind, Failure, Verb};

use crate::fleet::{Fleet, claw, owner};

#[tokio::test]
async fn a_target_that_does_not_answer_is_unknown_and_nothing_is_made_again() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    fleet.world.change_behaviour(|b| b.target_down = true).unwrap();
    let fleet = fleet.restarted().await;
    let unknown = fleet.until("alice", "it is unknown", |i| i.unknown_since.is_some()).await;
    assert_eq!(unknown.phase, Phase::Ready, "the phase stays as last seen");
    fleet.world.change_behaviour(|b| b.target_down = false).unwrap();
    fleet.until("alice", "it is known again", |i| i.unknown_since.is_none() && i.phase == Phase::Ready).await;
    assert_eq!(fleet.count(&alice, ActKind::Start), 1);
}

#[tokio::test]
async fn a_verb_that_fails_and_may_be_tried_again_is() {
    let fleet =
        Fleet::with(|b| b.failures.push(Failure::new(Verb::Ensure, Code::Unavailable).on_calls(&[1]))).await;
    let instance = fleet.ready("alice").await;
    assert_eq!((instance.attempts, instance.last_error), (0, None));
    let (events, _) = fleet.control.events(&owner(), Some("alice"), None, 100).await.unwrap();
    assert!(events.iter().any(|e| e.reason == "error"), "the failure is told");
}

#[tokio::test]
async fn a_start_that_was_done_but_not_told_is_not_done_again() {
    let fleet = Fleet::with(|b| {
        b.failures.push(Failure::new(Verb::Start, Code::Unavailable).on_calls(&[1]).after_the_act());
    })
    .await;
    let instance = fleet.ready("alice").await;
    assert_eq!(fleet.count(&instance, ActKind::Start), 1);
}

#[tokio::test]
async fn what_only_its_author_can_mend_fails_at_once() {
    let fleet = Fleet::with(|b| b.failures.push(Failure::new(Verb::Ensure, Code::Unsupported))).await;
    let accepted = fleet.control.create(&owner(), claw("alice"), None).await.unwrap();
    let operation = fleet.ended(&accepted.operation).await;
    assert_eq!(operation.state, OperationState::Failed);
    assert!(operation.error.unwrap().message.contains("simulated failure"));
    let instance = fleet.control.get(&owner(), "alice").await.unwrap();
    assert_eq!((instance.phase, instance.last_error.unwrap().code), (Phase::Failed, Code::Unsupported));
    // Mended, a start brings it up.
    fleet.world.change_behaviour(|b| b.failures.clear()).unwrap();
    let up = fleet.reached(fleet.control.start(&owner(), "alice").await.unwrap()).await;
    assert_eq!((up.phase, up.last_error), (Phase::Ready, None));
}

#[tokio::test]
async fn a_crash_is_told_and_mended() {
    let fleet = Fleet::with(|b| {
        b.claw.crash_after_ms = Some((300, 300));
        b.claw.crash_times = Some(1);
    })
    .await;
    let accepted = fleet.control.create(&owner(), claw("alice"), None).await.unwrap();
    fleet.ended(&accepted.operation).await;
    let back = fleet.until("alice", "it is back", |i| i.restarts_total == 1 && i.phase == Phase::Ready).await;
    assert_eq!(fleet.count(&back, ActKind::Start), 2);
}

#[tokio::test]
async fn a_crash_loop_ends_in_failed_with_the_reason() {
    let fleet = Fleet::with(|b| {
        b.claw.crash_after_ms = Some((1, 1));
        b.claw.exit_code = Some(3);
        b.claw.boot_ms = Some((60_000, 60_000));
    })
    .await;
    let mut new = claw("alice");
    new.restart = Some(RestartPolicy { mode: RestartMode::Always, max_restarts: 1, window_secs: 600 });
    let accepted = fleet.control.create(&owner(), new, None).await.unwrap();
    let operation = fleet.ended(&accepted.operation).await;
    assert_eq!(operation.state, OperationState::Failed);
    let instance = fleet.until_phase("alice", Phase::Failed).await;
    let error = instance.last_error.unwrap();
    assert!(error.message.contains("exited with code 3"), "{error}");
    assert!(error.fix.unwrap().contains("clawfarm logs"));
}

#[tokio::test]
async fn an_end_that_its_type_calls_final_is_not_tried_again() {
    let fleet = Fleet::with(|b| {
        b.claw.crash_after_ms = Some((1, 1));
        b.claw.exit_code = Some(78);
        b.claw.boot_ms = Some((60_000, 60_000));
    })
    .await;
    let accepted = fleet.control.create(&owner(), claw("alice"), None).await.unwrap();
    assert_eq!(fleet.ended(&accepted.operation).await.state, OperationState::Failed);
    let instance = fleet.until_phase("alice", Phase::Failed).await;
    assert_eq!(fleet.count(&instance, ActKind::Start), 1, "OpenClaw's 78: its configuration was refused");
    assert!(instance.last_error.unwrap().fix.is_some());
}

#[tokio::test]
async fn a_policy_of_never_leaves_it_down() {
    let fleet = Fleet::with(|b| b.claw.crash_after_ms = Some((200, 200))).await;
    let mut new = claw("alice");
    new.restart = Some(RestartPolicy { mode: RestartMode::Never, ..RestartPolicy::default() });
    fleet.control.create(&owner(), new, None).await.unwrap();
    let down = fleet.until_phase("alice", Phase::Exited).await;
    assert_eq!(fleet.count(&down, ActKind::Start), 1);
}

#[tokio::test]
async fn a_port_that_something_else_holds_is_exchanged() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let port = alice.port.unwrap();
    fleet.reached(fleet.control.stop(&owner(), "alice", false).await.unwrap()).await;
    fleet.world.change_behaviour(|b| b.taken_ports = vec![port]).unwrap();
    let up = fleet.reached(fleet.control.start(&owner(), "alice").await.unwrap()).await;
    assert_ne!(up.port.unwrap(), port);
    // One that was asked for is not exchanged behind its owner's back.
    let mut new = claw("bob");
    new.port = Some(port);
    let accepted = fleet.control.create(&owner(), new, None).await.unwrap();
    let operation = fleet.ended(&accepted.operation).await;
    assert_eq!(operation.error.unwrap().field.as_deref(), Some("port"));
}

#[tokio::test]
async fn a_claw_that_never_answers_is_unhealthy_and_its_waiter_is_told_why() {
    let fleet = Fleet::with(|b| b.claw.boot_ms = Some((6_000, 6_000))).await;
    let mut new = claw("alice");
    new.ready_timeout_secs = Some(1);
    let accepted = fleet.control.create(&owner(), new, None).await.unwrap();
    let operation = fleet.ended(&accepted.operation).await;
    let error = operation.error.unwrap();
    assert_eq!((operation.state, error.code), (OperationState::Failed, Code::Timeout));
    let instance = fleet.control.get(&owner(), "alice").await.unwrap();
    assert_eq!(instance.phase, Phase::Unhealthy, "it is up, for its owner to look at");
    // It gets there after all.
    fleet.until_phase("alice", Phase::Ready).await;
}

#[tokio::test]
async fn a_container_removed_by_hand_is_made_again() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    use clawfarm_runtime::Runtime;
    let by_hand =
        clawfarm_runtime_sim::SimRuntime::open(clawfarm_runtime_sim::SimConfig::new(fleet.world.root()))
            .unwrap();
    by_hand.destroy(&alice.id, clawfarm_model::DataFate::Purge).await.unwrap();
    let born = |i: &clawfarm_model::Instance| i.observed.as_ref().and_then(|o| o.started_at);
    fleet.until("alice", "it is made again", |i| i.phase == Phase::Ready && born(i) != born(&alice)).await;
}

#[tokio::test]
async fn the_data_of_a_dataset_survives_the_purge_of_an_instance_that_never_ran() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    fleet.ended(&fleet.control.remove(&owner(), "alice", false, false).await.unwrap().operation).await;
    // Its data is moved in, and then its start fails for good.
    fleet.world.change_behaviour(|b| b.failures.push(Failure::new(Verb::Start, Code::Unsupported))).unwrap();
    let mut next = claw("bob");
    next.dataset = Some(alice.id.clone());
    let bob = fleet.control.create(&owner(), next, None).await.unwrap().instance;
    fleet.until_phase(bob.id.as_str(), Phase::Failed).await;
    fleet.world.change_behaviour(|b| b.failures.clear()).unwrap();
    fleet.ended(&fleet.control.remove(&owner(), "bob", true, false).await.unwrap().operation).await;
    let listed = fleet.control.datasets(&owner()).await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    // What is listed is there: another instance can have it.
    let mut next = claw("carol");
    next.dataset = Some(listed[0].id.clone());
    let accepted = fleet.control.create(&owner(), next, None).await.unwrap();
    fleet.reached(accepted).await;
    assert!(fleet.control.datasets(&owner()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claw_can_be_killed_although_nothing_can_be_written_down() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    // Another program holds the database: as good as a full disk, and done without one.
    let mut holder = std::process::Command::new("python3")
        .args(["-c", "import sqlite3,sys\nc=sqlite3.connect(sys.argv[1],isolation_level=None)\nc.execute('begin immediate')\nprint('held',flush=True)\nsys.stdin.read()"])
        .arg(fleet.home().join("clawfarm.db"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.take().unwrap()), &mut line)
        .unwrap();
    assert_eq!(line, "held\n");
    let refused = fleet.control.kill(&owner(), "alice").await.unwrap_err();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("it was ended"), "{refused}");
    assert_eq!(fleet.count(&alice, ActKind::Kill), 1);
    // The store can be written again: the kill is, and nothing is started.
    fleet.until_phase("alice", Phase::Stopped).await;
    assert_eq!(fleet.count(&alice, ActKind::Start), 1);
    fleet.reached(fleet.control.start(&owner(), "alice").await.unwrap()).await;
}
