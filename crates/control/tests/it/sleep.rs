//! Suspend and resume, cold and warm.

use clawfarm_adapters::SendEvent;
use clawfarm_model::authz::{Action, Resource, authorize};
use clawfarm_model::name::{ProjectName, TenantName};
use clawfarm_model::{Cause, Code, Context, Desired, OperationState, Phase};
use clawfarm_runtime_sim::{ActKind, Blocker};
use clawfarm_store::{MasterKey, Store, StoreConfig};
use futures::StreamExt;

use crate::fleet::{Fleet, claw, owner, tenant};

#[tokio::test]
async fn an_idle_claw_sleeps_and_wakes() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let asleep = fleet.reached(fleet.control.suspend(&owner(), "alice", false, false).await.unwrap()).await;
    assert_eq!(asleep.phase, Phase::Suspended);
    assert!(!asleep.observed.unwrap().state.is_up());
    let awake = fleet.reached(fleet.control.resume(&owner(), "alice").await.unwrap()).await;
    assert_eq!((awake.phase, awake.restarts_total), (Phase::Ready, 0));
    assert_eq!(fleet.count(&alice, ActKind::Start), 2);
}

#[tokio::test]
async fn a_warm_claw_keeps_its_process() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let warm = fleet.reached(fleet.control.suspend(&owner(), "alice", true, false).await.unwrap()).await;
    assert_eq!(warm.phase, Phase::Warm);
    let awake = fleet.reached(fleet.control.resume(&owner(), "alice").await.unwrap()).await;
    assert_eq!(awake.phase, Phase::Ready);
    assert_eq!(awake.observed.unwrap().started_at, alice.observed.as_ref().unwrap().started_at);
    assert_eq!(fleet.count(&alice, ActKind::Start), 1);
}

#[tokio::test]
async fn a_warm_claw_can_be_suspended_stopped_or_killed() {
    let fleet = Fleet::new().await;
    for (name, phase) in [("alice", Phase::Suspended), ("bob", Phase::Stopped)] {
        fleet.ready(name).await;
        fleet.reached(fleet.control.suspend(&owner(), name, true, false).await.unwrap()).await;
        let accepted = if phase == Phase::Suspended {
            fleet.control.suspend(&owner(), name, false, false).await.unwrap()
        } else {
            fleet.control.stop(&owner(), name, false).await.unwrap()
        };
        assert_eq!(fleet.reached(accepted).await.phase, phase);
    }
}

#[tokio::test]
async fn what_sleeps_or_failed_can_be_stopped() {
    let fleet = Fleet::new().await;
    fleet.ready("alice").await;
    fleet.reached(fleet.control.suspend(&owner(), "alice", false, false).await.unwrap()).await;
    let stopped = fleet.reached(fleet.control.stop(&owner(), "alice", false).await.unwrap()).await;
    assert_eq!(stopped.phase, Phase::Stopped);
    fleet
        .world
        .change_behaviour(|b| {
            b.failures.push(clawfarm_runtime_sim::Failure::new(
                clawfarm_runtime_sim::Verb::Start,
                Code::Unsupported,
            ));
        })
        .unwrap();
    fleet.control.start(&owner(), "alice").await.unwrap();
    fleet.until_phase("alice", Phase::Failed).await;
    let stopped = fleet.reached(fleet.control.stop(&owner(), "alice", false).await.unwrap()).await;
    assert_eq!(stopped.phase, Phase::Stopped);
}

#[tokio::test]
async fn a_claw_that_works_is_not_put_to_sleep_unless_forced() {
    let fleet =
        Fleet::with(|b| b.claw.busy = Some(vec![Blocker::new("embedded-run", "1 active embedded run(s)")]))
            .await;
    let alice = fleet.ready("alice").await;
    for warm in [false, true] {
        let refused = fleet.control.suspend(&owner(), "alice", warm, false).await.unwrap_err();
        assert_eq!(refused.code(), Code::Busy);
        assert!(refused.message().contains("1 active embedded run"), "{refused}");
        assert!(refused.fix_text().unwrap().contains("--force"));
    }
    let still = fleet.control.get(&owner(), "alice").await.unwrap();
    assert_eq!((still.phase, still.intent.generation), (Phase::Ready, alice.intent.generation));
    fleet.world.change_behaviour(|b| b.claw.drain_ms = Some((10, 10))).unwrap();
    let asleep = fleet.reached(fleet.control.suspend(&owner(), "alice", false, true).await.unwrap()).await;
    assert_eq!(asleep.phase, Phase::Suspended);
}

#[tokio::test]
async fn one_that_can_not_be_put_to_sleep_stays_awake_and_whoever_waits_is_told() {
    use clawfarm_runtime_sim::{Failure, Verb};
    let fleet = Fleet::new().await;
    fleet.ready("alice").await;
    // A full disk is as full a second later; what may pass is tried a few times.
    for (code, verb, warm, most) in [
        (Code::Insufficient, Verb::Suspend, false, 1),
        (Code::Unavailable, Verb::Suspend, false, 3),
        (Code::Timeout, Verb::Freeze, true, 3),
    ] {
        fleet.world.change_behaviour(|b| b.failures = vec![Failure::new(verb, code)]).unwrap();
        let tried = async || {
            let events = fleet.control.events(&owner(), Some("alice"), None, 200).await.unwrap().0;
            events.iter().filter(|event| event.reason == "error").count()
        };
        let before = tried().await;
        let accepted = fleet.control.suspend(&owner(), "alice", warm, false).await.unwrap();
        let ended = fleet.ended(&accepted.operation).await;
        assert_eq!(ended.state, OperationState::Failed, "{ended:?}");
        assert_eq!(ended.error.unwrap().code, code);
        assert_eq!(tried().await - before, most, "{code:?}");
        let awake = fleet.until_phase("alice", Phase::Ready).await;
        assert_eq!((awake.intent.desired, awake.attempts), (Desired::Running, 0));
    }
    fleet.world.change_behaviour(|b| b.failures.clear()).unwrap();
    fleet.reached(fleet.control.suspend(&owner(), "alice", false, false).await.unwrap()).await;
}

#[tokio::test]
async fn what_is_down_can_not_be_put_to_sleep() {
    let fleet = Fleet::new().await;
    fleet.ready("alice").await;
    fleet.reached(fleet.control.stop(&owner(), "alice", false).await.unwrap()).await;
    let refused = fleet.control.suspend(&owner(), "alice", false, false).await.unwrap_err();
    assert_eq!(refused.code(), Code::Conflict);
    let refused = fleet.control.resume(&owner(), "alice").await.unwrap_err();
    assert!(refused.fix_text().unwrap().contains("clawfarm start"), "{refused}");
}

#[tokio::test]
async fn a_message_wakes_a_sleeper_and_many_messages_wake_it_once() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    fleet.reached(fleet.control.suspend(&owner(), "alice", false, false).await.unwrap()).await;
    let ask = |n: usize| {
        let control = fleet.control.clone();
        async move {
            let mut answer = control.send(&owner(), "alice", &format!("hello {n}")).await.unwrap();
            let mut text = String::new();
            while let Some(event) = answer.next().await {
                if let SendEvent::Text { text: more } = event.unwrap() {
                    text.push_str(&more);
                }
            }
            assert!(text.contains(&format!("hello {n}")), "{text}");
        }
    };
    futures::future::join_all((0..8).map(ask)).await;
    assert_eq!(fleet.count(&alice, ActKind::Start), 2, "one wake for eight callers");
}

#[tokio::test]
async fn a_message_to_what_is_stopped_is_refused_with_the_way_out() {
    let fleet = Fleet::new().await;
    fleet.ready("alice").await;
    fleet.reached(fleet.control.stop(&owner(), "alice", false).await.unwrap()).await;
    let refused = fleet.control.send(&owner(), "alice", "hello").await.err().unwrap();
    assert!(refused.fix_text().unwrap().contains("clawfarm start"), "{refused}");
    let empty = fleet.control.send(&owner(), "alice", " ").await.err().unwrap();
    assert_eq!(empty.field_name(), Some("message"));
}

#[tokio::test]
async fn a_claw_wakes_another_of_its_project_and_of_no_other() {
    let fleet = Fleet::new().await;
    let caller = fleet.ready("caller").await;
    let sleeper = fleet.ready("sleeper").await;
    fleet.reached(fleet.control.suspend(&owner(), "sleeper", false, false).await.unwrap()).await;
    let woken = fleet.control.wake_by_instance(&caller.id, &sleeper.id).await.unwrap();
    assert_eq!((woken.intent.cause, woken.intent.desired), (Cause::Instance, Desired::Running));
    fleet.until_phase("sleeper", Phase::Ready).await;
    // Awake already: a success, and nothing is done.
    let again = fleet.control.wake_by_instance(&caller.id, &sleeper.id).await.unwrap();
    assert_eq!((again.phase, again.intent.generation), (Phase::Ready, woken.intent.generation));
    assert_eq!(fleet.count(&sleeper, ActKind::Start), 2);
    // Another tenant's, with the same names.
    let stranger = tenant("stranger");
    let key = MasterKey::load_or_create(&fleet.home().join("master.key")).unwrap();
    let store = Store::open(StoreConfig::sqlite(fleet.home().join("clawfarm.db"), key)).await.unwrap();
    let server = Context::system("test");
    let theirs = Resource::new(TenantName::new("stranger").unwrap(), "tenant", "stranger");
    let leave = authorize(&server, Action::ServerAdmin, &theirs).unwrap();
    store.add_project(&leave, &ProjectName::default_project()).await.unwrap();
    let accepted = fleet.control.create(&stranger, claw("caller"), None).await.unwrap();
    let theirs = accepted.instance.id.clone();
    fleet.reached(fleet.control.suspend(&owner(), "sleeper", false, false).await.unwrap()).await;
    let refused = fleet.control.wake_by_instance(&theirs, &sleeper.id).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    // One that was stopped is not for claws to start.
    fleet.reached(fleet.control.stop(&owner(), "sleeper", false).await.unwrap()).await;
    let refused = fleet.control.wake_by_instance(&caller.id, &sleeper.id).await.unwrap_err();
    assert_eq!(refused.code(), Code::Conflict);
}
