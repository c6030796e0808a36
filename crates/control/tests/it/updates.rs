//! Another version of an instance's software: that it works, that it does not, and what is
//! asked for meanwhile.

use clawfarm_model::{Code, OperationKind, OperationState, Phase, UpdateStage};
use clawfarm_runtime_sim::{ActKind, Behaviour, ClawBehaviour, Failure, Override, Verb};
use serde_json::json;

use crate::fleet::{Fleet, claw, owner};

/// The version that the fleet's claws have, and others.
const OLD: &str = "2026.9.6";
const NEW: &str = "2026.9.7";
const BROKEN: &str = "2026.9.8";

fn crashing() -> Override {
    let claw = ClawBehaviour { crash_after_ms: Some((1, 1)), exit_code: Some(3), ..ClawBehaviour::default() };
    Override::of_version(BROKEN, claw)
}

fn never_ready() -> Override {
    Override::of_version(BROKEN, ClawBehaviour { unhealthy: Some(true), ..ClawBehaviour::default() })
}

async fn fleet(change: impl FnOnce(&mut Behaviour)) -> Fleet {
    Fleet::with(change).await
}

impl Fleet {
    async fn update(&self, id: &str, version: &str) -> clawfarm_model::Operation {
        let accepted = self.control.update_software(&owner(), id, Some(version)).await.unwrap();
        self.ended(&accepted.operation).await
    }

    async fn told(&self, id: &str, reason: &str) -> Vec<String> {
        let (events, _) = self.control.events(&owner(), Some(id), None, 200).await.unwrap();
        events.into_iter().filter(|e| e.reason == reason).map(|e| e.message).collect()
    }
}

#[tokio::test]
async fn a_version_that_works_takes_the_place_of_the_old_and_keeps_the_data() {
    let fleet = fleet(|_| {}).await;
    let alice = fleet.ready("alice").await;
    let operation = fleet.update("alice", NEW).await;
    assert_eq!((operation.kind, operation.state), (OperationKind::Update, OperationState::Succeeded));
    let names: Vec<_> = operation.steps.iter().map(|s| s.name.as_str()).collect();
    for step in ["install", "drain", "stop", "copy", "start", "ready"] {
        assert!(names.contains(&step), "{names:?}");
    }
    assert!(operation.steps.iter().all(|s| s.ended_at.is_some()), "{:?}", operation.steps);
    let now = fleet.control.get(&owner(), "alice").await.unwrap();
    assert_eq!((now.phase, now.spec.version.as_str(), now.update), (Phase::Ready, NEW, None));
    assert_eq!(fleet.world.versions(&alice.id).unwrap(), [OLD, NEW], "on the same data");
    assert!(!fleet.world.has_copy(&alice.id), "the copy is gone");
    assert_eq!(fleet.count(&alice, ActKind::Start), 2);
    let phases = fleet.told("alice", "phase").await;
    assert_eq!(phases[3..], ["ready -> updating", "updating -> ready"]);
    assert_eq!(now.restarts_total, 0);
}

#[tokio::test]
async fn one_that_crashes_or_never_answers_is_undone_with_its_data_and_its_last_lines_told() {
    for (broken, says) in [(crashing(), "exited with code 3"), (never_ready(), "was not ready within")] {
        let fleet = fleet(|b| b.overrides.push(broken)).await;
        let mut new = claw("alice");
        new.ready_timeout_secs = Some(1);
        let alice = fleet.reached(fleet.control.create(&owner(), new, None).await.unwrap()).await;
        let operation = fleet.update("alice", BROKEN).await;
        assert_eq!(operation.state, OperationState::Failed, "{operation:?}");
        let error = operation.error.unwrap();
        let lines = format!("simulated claw {} {BROKEN} started", alice.id);
        for part in [says, OLD, BROKEN, lines.as_str()] {
            assert!(error.message.contains(part), "no '{part}' in: {}", error.message);
        }
        let now = fleet.until_phase("alice", Phase::Ready).await;
        assert_eq!((now.spec.version.as_str(), now.update, now.last_error), (OLD, None, None));
        assert_eq!(fleet.world.versions(&alice.id).unwrap(), [OLD, OLD], "{BROKEN} left a trace in the data");
        assert!(!fleet.world.has_copy(&alice.id));
        assert_eq!(now.restarts_total, 0, "a trial is no crash of its own");
        assert_eq!(fleet.count(&alice, ActKind::Start), 3);
    }
}

#[tokio::test]
async fn a_stopped_one_stays_stopped_and_tries_the_new_version_at_its_next_start() {
    let fleet = fleet(|b| b.overrides.push(crashing())).await;
    let alice = fleet.ready("alice").await;
    fleet.reached(fleet.control.stop(&owner(), "alice", false).await.unwrap()).await;
    for (version, data, ends_with) in [(NEW, &[OLD, NEW][..], NEW), (BROKEN, &[OLD, NEW, NEW], NEW)] {
        let operation = fleet.update("alice", version).await;
        assert_eq!(operation.state, OperationState::Succeeded, "{operation:?}");
        let waiting = fleet.control.get(&owner(), "alice").await.unwrap();
        assert_eq!(waiting.phase, Phase::Stopped);
        assert_eq!(waiting.update.unwrap().stage, UpdateStage::Pending);
        // Whoever starts it gets a claw that answers, be it on the version from before.
        let started = fleet.reached(fleet.control.start(&owner(), "alice").await.unwrap()).await;
        assert_eq!((started.phase, started.spec.version.as_str()), (Phase::Ready, ends_with));
        assert_eq!(started.update, None);
        assert_eq!(fleet.world.versions(&alice.id).unwrap(), data);
        fleet.reached(fleet.control.stop(&owner(), "alice", false).await.unwrap()).await;
    }
    assert!(fleet.told("alice", "update").await.iter().any(|t| t.contains(BROKEN)), "it is told");
}

#[tokio::test]
async fn one_that_sleeps_stays_asleep_and_wakes_with_the_new_version() {
    let fleet = fleet(|_| {}).await;
    let alice = fleet.ready("alice").await;
    fleet.reached(fleet.control.suspend(&owner(), "alice", false, true).await.unwrap()).await;
    assert_eq!(fleet.update("alice", NEW).await.state, OperationState::Succeeded);
    assert_eq!(fleet.control.get(&owner(), "alice").await.unwrap().phase, Phase::Suspended);
    let awake = fleet.reached(fleet.control.resume(&owner(), "alice").await.unwrap()).await;
    assert_eq!((awake.phase, awake.spec.version.as_str()), (Phase::Ready, NEW));
    assert_eq!(fleet.world.versions(&alice.id).unwrap(), [OLD, NEW]);
}

#[tokio::test]
async fn one_that_failed_is_mended_by_a_version_that_works_and_else_has_failed_still() {
    let fleet = fleet(|b| {
        let claw =
            ClawBehaviour { exit_code: Some(78), crash_after_ms: Some((1, 1)), ..ClawBehaviour::default() };
        b.overrides.extend([crashing(), Override::of_version(OLD, claw)]);
    })
    .await;
    fleet.control.create(&owner(), claw("alice"), None).await.unwrap();
    fleet.until_phase("alice", Phase::Failed).await;
    assert_eq!(fleet.update("alice", BROKEN).await.state, OperationState::Failed);
    let still = fleet.until_phase("alice", Phase::Failed).await;
    assert_eq!((still.spec.version.as_str(), still.update), (OLD, None));
    assert!(still.last_error.unwrap().message.contains(BROKEN));
    assert_eq!(fleet.update("alice", NEW).await.state, OperationState::Succeeded);
    assert_eq!(fleet.control.get(&owner(), "alice").await.unwrap().phase, Phase::Ready);
}

#[tokio::test]
async fn what_fails_before_the_old_version_is_touched_leaves_it_running() {
    let package = |state| json!({"openclaw": {"schemaVersions": {"state": state, "agent": 1}}});
    let fleet = fleet(|b| {
        b.packages = [(OLD.into(), package(18)), ("2026.9.5".into(), package(17))].into();
        b.failures.push(Failure::new(Verb::Install, Code::Unsupported).on_calls(&[2]));
    })
    .await;
    let alice = fleet.ready("alice").await;
    let refused = fleet.update("alice", "2026.9.5").await.error.unwrap();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::Unsupported, Some("version")));
    assert!(refused.message.contains("schema 'state' is 17"), "{}", refused.message);
    let failed = fleet.update("alice", NEW).await.error.unwrap();
    assert!(failed.message.contains("install"), "{}", failed.message);
    let now = fleet.control.get(&owner(), "alice").await.unwrap();
    assert_eq!((now.phase, now.spec.version.as_str(), now.update), (Phase::Ready, OLD, None));
    assert_eq!(fleet.count(&alice, ActKind::Stop), 0);
    assert!(!fleet.told("alice", "phase").await.iter().any(|t| t.contains("updating")));
    let wrong = fleet.control.update_software(&owner(), "alice", Some("latest")).await.unwrap_err();
    assert_eq!((wrong.code(), wrong.field_name()), (Code::InvalidInput, Some("version")));
}

#[tokio::test]
async fn a_full_disk_and_a_copy_that_fails_leave_the_old_version_with_its_data() {
    let full = Failure::new(Verb::CopyData, Code::Insufficient).on_calls(&[1]);
    let fleet = fleet(|b| b.failures.push(full)).await;
    let alice = fleet.ready("alice").await;
    let operation = fleet.update("alice", NEW).await;
    assert_eq!(operation.state, OperationState::Failed);
    assert_eq!(operation.error.unwrap().code, Code::Insufficient);
    let now = fleet.until_phase("alice", Phase::Ready).await;
    assert_eq!(now.spec.version, OLD);
    assert_eq!(fleet.world.versions(&alice.id).unwrap(), [OLD, OLD]);
    assert_eq!(fleet.update("alice", NEW).await.state, OperationState::Succeeded, "the disk has room again");
}

#[tokio::test]
async fn a_stop_calls_an_update_off_and_other_wishes_wait_for_it() {
    let slow = ClawBehaviour { boot_ms: Some((600_000, 600_000)), ..ClawBehaviour::default() };
    let fleet = fleet(|b| b.overrides.push(Override::of_version(NEW, slow))).await;
    let alice = fleet.ready("alice").await;
    let update = fleet.control.update_software(&owner(), "alice", Some(NEW)).await.unwrap().operation;
    let trying = |it: &clawfarm_model::Instance| {
        it.update.as_ref().is_some_and(|u| u.stage == UpdateStage::Trying)
            && it.observed.as_ref().is_some_and(|o| o.state.is_up() && o.run == it.intent.run)
    };
    fleet.until("alice", "the new version is tried", trying).await;
    for refused in [
        fleet.control.restart(&owner(), "alice").await,
        fleet.control.start(&owner(), "alice").await,
        fleet.control.rotate_token(&owner(), "alice").await,
        fleet.control.update(&owner(), "alice", None, clawfarm_control::Change::default()).await,
        fleet.control.update_software(&owner(), "alice", Some(OLD)).await,
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.code(), Code::Conflict, "{error}");
        assert!(
            error.message().contains(NEW) && error.fix_text().unwrap().contains("clawfarm stop"),
            "{error}"
        );
    }
    let stopped = fleet.reached(fleet.control.stop(&owner(), "alice", false).await.unwrap()).await;
    assert_eq!((stopped.phase, stopped.spec.version.as_str(), stopped.update), (Phase::Stopped, OLD, None));
    assert_eq!(fleet.ended(&update).await.state, OperationState::Superseded);
    assert_eq!(fleet.world.versions(&alice.id).unwrap(), [OLD]);
    assert!(!fleet.world.has_copy(&alice.id));
    fleet.reached(fleet.control.start(&owner(), "alice").await.unwrap()).await;
}

#[tokio::test]
async fn what_is_removed_while_a_version_is_tried_leaves_the_data_of_the_one_that_worked() {
    let slow = ClawBehaviour { boot_ms: Some((600_000, 600_000)), ..ClawBehaviour::default() };
    let fleet = fleet(|b| b.overrides.push(Override::of_version(NEW, slow))).await;
    let alice = fleet.ready("alice").await;
    fleet.control.update_software(&owner(), "alice", Some(NEW)).await.unwrap();
    fleet
        .until("alice", "the new version runs", |it| {
            it.spec.version == NEW
                && it.observed.as_ref().is_some_and(|o| o.state.is_up() && o.run == it.intent.run)
        })
        .await;
    fleet.ended(&fleet.control.remove(&owner(), "alice", false, false).await.unwrap().operation).await;
    let dataset = fleet.control.datasets(&owner()).await.unwrap().remove(0);
    assert_eq!((dataset.id.clone(), dataset.version.as_str()), (alice.id.clone(), OLD));
    let mut next = claw("bob");
    next.dataset = Some(dataset.id);
    let bob = fleet.reached(fleet.control.create(&owner(), next, None).await.unwrap()).await;
    assert_eq!(fleet.world.versions(&bob.id).unwrap(), [OLD, OLD]);
}

#[tokio::test]
async fn an_undoing_that_fails_is_given_up_after_a_while_and_can_be_tried_again() {
    clawfarm_failpoint::hurry(100);
    let fleet = fleet(|b| {
        b.overrides.push(crashing());
        b.failures.push(Failure::new(Verb::PutBack, Code::Unavailable));
    })
    .await;
    let alice = fleet.ready("alice").await;
    let operation = fleet.update("alice", BROKEN).await;
    assert_eq!(operation.state, OperationState::Failed);
    let failed = fleet.until_phase("alice", Phase::Failed).await;
    assert!(failed.last_error.unwrap().message.contains("put_back"), "why is told");
    assert!(fleet.world.has_copy(&alice.id), "the way back stays open");
    fleet.world.change_behaviour(|b| b.failures.clear()).unwrap();
    let started = fleet.reached(fleet.control.start(&owner(), "alice").await.unwrap()).await;
    assert_eq!((started.spec.version.as_str(), started.update), (OLD, None));
    assert_eq!(fleet.world.versions(&alice.id).unwrap(), [OLD, OLD]);
}

#[tokio::test]
async fn a_lost_store_goes_on_where_the_update_was() {
    let slow = ClawBehaviour { boot_ms: Some((600_000, 600_000)), ..ClawBehaviour::default() };
    let fleet = fleet(|b| b.overrides.push(Override::of_version(NEW, slow))).await;
    let alice = fleet.ready("alice").await;
    fleet.control.update_software(&owner(), "alice", Some(NEW)).await.unwrap();
    fleet
        .until("alice", "the new version runs", |it| {
            it.spec.version == NEW
                && it.observed.as_ref().is_some_and(|o| o.state.is_up() && o.run == it.intent.run)
        })
        .await;
    let fleet = fleet
        .store_lost(async |parts| {
            let mut found = clawfarm_control::Findings::look(parts).await.unwrap();
            found.put_back(parts).await.unwrap();
        })
        .await;
    let back = fleet.control.get(&owner(), "alice").await.unwrap();
    assert_eq!(back.update.as_ref().map(|u| (u.from.as_str(), u.stage)), Some((OLD, UpdateStage::Trying)));
    fleet.reached(fleet.control.stop(&owner(), "alice", false).await.unwrap()).await;
    assert_eq!(fleet.world.versions(&alice.id).unwrap(), [OLD], "the way back was not lost");
}
