//! What a rollout makes of claws that are not well, asleep, stopped or new; and going back.

use std::collections::BTreeMap;

use clawfarm_config::{Amount, MemberState, Pause, Rollout, Selector, Stage, Strategy};
use clawfarm_control::{Configure, InstanceFilter, NewInstance, Publish};
use clawfarm_model::instance::{RestartMode, RestartPolicy};
use clawfarm_model::{Code, Instance, Phase};
use clawfarm_runtime_sim::{ActKind, ClawBehaviour, Override};
use serde_json::{Value, json};

use crate::configs::{map, name, steps};
use crate::fleet::{Fleet, claw, owner};

/// A published template with so many instances, `claw-0` and so on.
async fn fleet_of(count: usize) -> Fleet {
    let fleet = Fleet::new().await;
    fleet.out("support", env("1")).await;
    for n in 0..count {
        fleet.of("support", &format!("claw-{n}")).await;
    }
    fleet
}

fn env(value: &str) -> Value {
    json!({"body": {"env": {"A": value}}})
}

fn broken() -> Value {
    json!({"native": {"sim": {"break": "exit"}}})
}

/// One instance first, then the others.
fn canary(then: Pause) -> Strategy {
    steps(&[(Amount::Count(1), then)])
}

impl Fleet {
    async fn all(&self) -> Vec<Instance> {
        self.control.list(&owner(), &InstanceFilter::default(), None, 100).await.unwrap().items
    }

    /// How many have a revision of `support`.
    async fn having(&self, revision: i64) -> usize {
        let all = self.all().await;
        all.iter().filter(|it| it.layers.applied.get(&name("support")) == Some(&revision)).count()
    }

    /// The one that gets a revision of `support` first.
    async fn first(&self) -> String {
        let plan = self.control.plan(&owner(), &name("support"), None, &Selector::default()).await.unwrap();
        plan.instances[0].id.to_string()
    }

    async fn states(&self, rollout: &Rollout, state: MemberState) -> Vec<(String, String)> {
        let all = self.control.rollout_members(&owner(), &rollout.id, Some(state), None, 100).await.unwrap();
        all.into_iter().map(|it| (it.instance.to_string(), it.error.unwrap_or_default())).collect()
    }

    async fn configured(&self, id: &str, patch: Value) {
        let change = Configure { patch: map(&patch), ..Configure::default() };
        self.control.configure(&owner(), id, None, &change).await.unwrap();
    }

    async fn back(&self, to: Option<i64>) -> clawfarm_model::Result<Rollout> {
        self.control.roll_back(&owner(), &name("support"), to, None).await
    }
}

#[tokio::test]
async fn one_that_was_not_well_before_turns_nothing_round() {
    let fleet = fleet_of(3).await;
    fleet.configured("claw-1", broken()).await;
    let sick = fleet.until_phase("claw-1", Phase::Failed).await;
    fleet.save("support", env("2")).await;
    let begun = fleet.publish("support", Strategy::default()).await;
    let done = fleet.stage(&begun.id, Stage::Done).await;
    assert_eq!((done.counts.proven, done.counts.seen, done.counts.skipped), (2, 2, 1), "{done:?}");
    let skipped = fleet.states(&done, MemberState::Skipped).await;
    assert!(skipped[0].0 == sick.id.as_str() && skipped[0].1.contains("not well before"), "{skipped:?}");
    // It has it all the same, and begins with it when it is mended.
    assert_eq!(fleet.having(2).await, 3);
}

#[tokio::test]
async fn one_that_is_stopped_proves_nothing_and_another_has_its_turn() {
    let fleet = fleet_of(3).await;
    fleet.save("support", json!({"body": {"env": {"A": "2"}, "native": {"sim": {"break": "ready"}}}})).await;
    let first = fleet.first().await;
    let begun = fleet.publish("support", canary(Pause::Promotion)).await;
    fleet.rollout_until(&begun.id, "the canary has it", |it| it.counts.changing == 1).await;
    fleet.until(&first, "given it", |it| it.layers.applied[&name("support")] == 2).await;
    // Its owner sees that it is not well with it.
    fleet.reached(fleet.control.kill(&owner(), &first).await.unwrap()).await;
    let left = fleet.rollout_until(&begun.id, "it is left out", |it| it.counts.skipped == 1).await;
    assert_eq!((left.counts.proven, left.stage), (0, Stage::Going), "{left:?}");
    assert!(fleet.states(&left, MemberState::Skipped).await[0].1.contains("stopped"));
    fleet.rollout_until(&begun.id, "another has its turn", |it| it.counts.changing == 1).await;
    fleet.control.turn_round(&owner(), &begun.id).await.unwrap();
    fleet.stage(&begun.id, Stage::RolledBack).await;
}

#[tokio::test]
async fn a_step_of_those_that_sleep_waits_until_one_was_seen_to_run_with_it() {
    let fleet = fleet_of(3).await;
    for it in fleet.all().await {
        fleet.reached(fleet.control.suspend(&owner(), it.id.as_str(), false, true).await.unwrap()).await;
    }
    fleet.save("support", env("2")).await;
    let first = fleet.first().await;
    let begun = fleet.publish("support", canary(Pause::None)).await;
    let waiting = fleet.stage(&begun.id, Stage::Waiting).await;
    assert_eq!((waiting.counts.proven, waiting.counts.seen, waiting.counts.pending), (1, 0, 2));
    fleet.reached(fleet.control.resume(&owner(), &first).await.unwrap()).await;
    let done = fleet.stage(&begun.id, Stage::Done).await;
    assert_eq!((done.counts.proven, done.counts.seen), (3, 1));
    assert_eq!(fleet.env(&first).await, json!({"A": "2"}));
    let revision = fleet.control.revision(&owner(), &name("support"), Some(2)).await.unwrap();
    assert!(revision.proven_at.is_some());
    // Where all sleep, somebody's word will do; but it is not proven then.
    fleet.reached(fleet.control.suspend(&owner(), &first, false, true).await.unwrap()).await;
    fleet.save("support", env("3")).await;
    let begun = fleet.publish("support", canary(Pause::None)).await;
    fleet.stage(&begun.id, Stage::Waiting).await;
    fleet.control.promote_rollout(&owner(), &begun.id).await.unwrap();
    fleet.stage(&begun.id, Stage::Done).await;
    let revision = fleet.control.revision(&owner(), &name("support"), Some(3)).await.unwrap();
    assert_eq!(revision.proven_at, None);
}

#[tokio::test]
async fn one_that_ends_in_the_pause_after_its_step_turns_it_round() {
    let fleet = fleet_of(3).await;
    fleet.save("support", env("2")).await;
    let first = fleet.first().await;
    let begun = fleet.publish("support", canary(Pause::Promotion)).await;
    fleet.stage(&begun.id, Stage::Waiting).await;
    let claws = fleet.control.get(&owner(), &first).await.unwrap().name.to_string();
    let ends = ClawBehaviour { crash_after_ms: Some((1, 1)), crash_times: Some(9), ..Default::default() };
    let ends = Override { claws: format!("{claws}-*"), versions: "*".into(), claw: ends };
    fleet.world.change_behaviour(|b| b.overrides.push(ends)).unwrap();
    fleet.control.restart(&owner(), &first).await.unwrap();
    fleet
        .rollout_until(&begun.id, "it is turned round", |it| {
            it.stage == Stage::RollingBack || it.stage.is_over()
        })
        .await;
    fleet.world.change_behaviour(|b| b.overrides.clear()).unwrap();
    let ended = fleet.stage(&begun.id, Stage::RolledBack).await;
    assert!(ended.error.as_ref().unwrap().contains(&first), "{ended:?}");
    assert_eq!((ended.counts.reverted, ended.counts.pending, fleet.having(1).await), (1, 2, 3));
}

#[tokio::test]
async fn going_back_stops_at_nobody_and_leaves_out_who_can_not_have_it() {
    let fleet = Fleet::new().await;
    fleet
        .out(
            "support",
            json!({"variables": [{"name": "team", "type": "string", "default": "x"}],
        "body": {"env": {"A": "1", "TEAM": "${team}"}}}),
        )
        .await;
    for n in 0..3 {
        fleet.of("support", &format!("claw-{n}")).await;
    }
    // What the next revision makes of them is broken, and nobody has it turned round.
    fleet
        .save(
            "support",
            json!({"variables": [{"name": "team", "type": "string", "default": "x"},
                {"name": "more", "type": "string", "default": "y"}],
                "body": {"env": {"A": "2", "TEAM": "${team}${more}"}, "native": {"sim": {"break": "exit"}}}}),
        )
        .await;
    let strategy = Strategy { max_failures: 9, roll_back: false, ..Strategy::default() };
    let begun = fleet.publish("support", strategy).await;
    let done = fleet.stage(&begun.id, Stage::Done).await;
    assert_eq!((done.counts.failed, done.counts.proven), (3, 0), "{done:?}");
    let revision = fleet.control.revision(&owner(), &name("support"), Some(2)).await.unwrap();
    assert_eq!(revision.proven_at, None);
    // One gives a variable that the old revision does not know.
    let variables = BTreeMap::from([("more".to_owned(), json!("z"))]);
    let change = Configure { variables: Some(variables), ..Configure::default() };
    fleet.control.configure(&owner(), "claw-2", None, &change).await.unwrap();
    let back = fleet.back(None).await.unwrap();
    assert_eq!((back.to, back.strategy.roll_back), (1, false));
    let ended = fleet.stage(&back.id, Stage::Done).await;
    assert_eq!((ended.counts.proven, ended.counts.skipped), (2, 1), "{ended:?}");
    let left = fleet.states(&back, MemberState::Skipped).await;
    assert!(left[0].0.starts_with("claw-2") && left[0].1.contains("variable"), "{left:?}");
    for up in ["claw-0", "claw-1"] {
        fleet.until_phase(up, Phase::Ready).await;
    }
}

#[tokio::test]
async fn going_back_goes_where_it_was_before_and_on_from_there() {
    let fleet = fleet_of(4).await;
    fleet.out("support", env("2")).await;
    fleet.save("support", env("3")).await;
    let half = fleet.publish("support", steps(&[(Amount::Percent(50), Pause::Promotion)])).await;
    fleet.stage(&half.id, Stage::Waiting).await;
    // It leads back to 2, and nowhere else.
    let elsewhere = fleet.back(Some(1)).await.unwrap_err();
    assert_eq!((elsewhere.code(), elsewhere.field_name()), (Code::Conflict, Some("to")));
    assert!(elsewhere.to_string().contains(&half.id), "{elsewhere}");
    fleet.control.abort_rollout(&owner(), &half.id).await.unwrap();
    assert_eq!((fleet.having(2).await, fleet.having(3).await), (2, 2));
    for to in [2, 1] {
        let back = fleet.back(None).await.unwrap();
        assert_eq!(back.to, to);
        fleet.stage(&back.id, Stage::Done).await;
        assert_eq!(fleet.having(to).await, 4);
    }
    assert_eq!(fleet.back(None).await.unwrap_err().code(), Code::Conflict);
    // One that is under way is turned round, by whoever asks for it.
    let what = Publish { revision: Some(3), strategy: canary(Pause::Promotion), ..Publish::default() };
    let begun = fleet.control.publish(&owner(), &name("support"), what).await.unwrap();
    fleet.stage(&begun.id, Stage::Waiting).await;
    let turned = fleet.back(None).await.unwrap();
    assert_eq!((turned.id.as_str(), turned.stage), (begun.id.as_str(), Stage::RollingBack));
    fleet.stage(&begun.id, Stage::RolledBack).await;
    assert_eq!(fleet.having(1).await, 4);
}

#[tokio::test]
async fn those_with_a_label_come_first() {
    let fleet = fleet_of(3).await;
    let labels = BTreeMap::from([("ring".to_owned(), "early".to_owned())]);
    let new = NewInstance { template: Some(name("support")), labels, ..claw("brave") };
    fleet.reached(fleet.control.create(&owner(), new, None).await.unwrap()).await;
    fleet.save("support", env("2")).await;
    let first = |ring: &str| Strategy {
        first: BTreeMap::from([("ring".to_owned(), ring.to_owned())]),
        ..Strategy::default()
    };
    let nobody = Publish { strategy: first("never"), ..Publish::default() };
    let refused = fleet.control.publish(&owner(), &name("support"), nobody).await.unwrap_err();
    assert_eq!(refused.field_name(), Some("strategy.first"));
    let strategy = Strategy { steps: canary(Pause::Promotion).steps, ..first("early") };
    let begun = fleet.publish("support", strategy).await;
    fleet.stage(&begun.id, Stage::Waiting).await;
    assert_eq!(fleet.having(2).await, 1);
    assert_eq!(fleet.env("brave").await, json!({"A": "2"}));
    fleet.control.turn_round(&owner(), &begun.id).await.unwrap();
    fleet.stage(&begun.id, Stage::RolledBack).await;
    // Without steps they are one.
    let begun = fleet.publish("support", first("early")).await;
    assert_eq!(begun.strategy.steps, canary(Pause::None).steps);
    fleet.stage(&begun.id, Stage::Done).await;
}

#[tokio::test]
async fn those_that_come_late_are_taken_in_and_one_that_can_not_have_it_turns_nothing_round() {
    let fleet = fleet_of(0).await;
    let with_key = |name: &str| {
        let secrets = BTreeMap::from([("key".parse().unwrap(), "v".to_owned().into())]);
        NewInstance { template: Some(crate::configs::name("support")), secrets, ..claw(name) }
    };
    for early in ["claw-0", "claw-1"] {
        let accepted = fleet.control.create(&owner(), with_key(early), None).await.unwrap();
        fleet.reached(accepted).await;
    }
    fleet.save("support", json!({"body": {"env": {"A": {"secret": "key"}}}})).await;
    let begun = fleet.publish("support", canary(Pause::Promotion)).await;
    fleet.stage(&begun.id, Stage::Waiting).await;
    let late = fleet.reached(fleet.control.create(&owner(), with_key("late"), None).await.unwrap()).await;
    assert_eq!(late.layers.applied[&name("support")], 1, "it goes by what is published");
    let without = fleet.of("support", "without").await;
    fleet.control.promote_rollout(&owner(), &begun.id).await.unwrap();
    let done = fleet.stage(&begun.id, Stage::Done).await;
    assert_eq!((done.counts.proven, done.counts.skipped, done.counts.failed), (3, 1, 0), "{done:?}");
    let left = fleet.states(&done, MemberState::Skipped).await;
    assert!(left[0].0 == without.id.as_str() && left[0].1.contains("key"), "{left:?}");
    assert_eq!(fleet.having(2).await, 3);
}

#[tokio::test]
async fn one_that_ended_and_is_left_so_is_not_started_by_a_rollout() {
    let fleet = fleet_of(1).await;
    fleet.world.change_behaviour(|b| b.claw.crash_after_ms = Some((200, 200))).unwrap();
    let mut new = NewInstance { template: Some(name("support")), ..claw("once") };
    new.restart = Some(RestartPolicy { mode: RestartMode::Never, ..RestartPolicy::default() });
    fleet.control.create(&owner(), new, None).await.unwrap();
    let once = fleet.until_phase("once", Phase::Exited).await;
    fleet.world.change_behaviour(|b| b.claw.crash_after_ms = None).unwrap();
    let plan = fleet.control.plan(&owner(), &name("support"), None, &Selector::default()).await.unwrap();
    assert_eq!(plan.instances.len(), 2);
    let starts = fleet.count(&once, ActKind::Start);
    fleet.out("support", env("2")).await;
    assert_eq!(fleet.env("once").await, json!({"A": "2"}));
    let after = fleet.control.get(&owner(), "once").await.unwrap();
    assert_eq!((after.phase, fleet.count(&once, ActKind::Start)), (Phase::Exited, starts));
}

#[tokio::test]
async fn one_that_is_frozen_wakes_with_a_fresh_start_when_the_change_wants_one() {
    let fleet = fleet_of(1).await;
    let alice = fleet.all().await.remove(0);
    let id = alice.id.as_str();
    fleet.reached(fleet.control.suspend(&owner(), id, true, true).await.unwrap()).await;
    fleet.out("support", env("2")).await;
    let frozen = fleet.until_phase(id, Phase::Warm).await;
    assert_eq!(fleet.count(&alice, ActKind::Start), 1, "{frozen:?}");
    fleet.control.resume(&owner(), id).await.unwrap();
    let woken = fleet
        .until(id, "it goes by it", |it| it.phase == Phase::Ready && it.in_force >= it.layers.revision)
        .await;
    assert_eq!(woken.restarts_total, 0);
    assert_eq!((fleet.count(&alice, ActKind::Start), fleet.count(&alice, ActKind::Stop)), (2, 1));
}

#[tokio::test]
async fn one_that_must_be_started_again_is_let_end_first() {
    let fleet = fleet_of(2).await;
    fleet.world.change_behaviour(|b| b.claw.stop_ms = Some((1_500, 1_500))).unwrap();
    fleet.save("support", env("2")).await;
    let begun = fleet.publish("support", Strategy::default()).await;
    let done = fleet.stage(&begun.id, Stage::Done).await;
    assert_eq!(done.counts.seen, 2);
    for it in fleet.all().await {
        assert_eq!((fleet.count(&it, ActKind::Start), it.restarts_total), (2, 0));
    }
}

#[tokio::test]
async fn those_whose_requests_fail_more_often_than_before_turn_it_round() {
    let fleet = fleet_of(2).await;
    fleet.save("support", env("2")).await;
    let first: clawfarm_model::ClawId = fleet.first().await.parse().unwrap();
    for _ in 0..100 {
        fleet.control.answered(&first, false);
    }
    // What was before is told from what is by the entries that it is kept in.
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    let begun = fleet.publish("support", canary(Pause::Promotion)).await;
    fleet.stage(&begun.id, Stage::Waiting).await;
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let turned = loop {
        for _ in 0..10 {
            fleet.control.answered(&first, true);
        }
        let now = fleet.control.rollout(&owner(), &begun.id).await.unwrap();
        if now.stage != Stage::Waiting {
            break now;
        }
        assert!(std::time::Instant::now() < limit, "{now:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert!(turned.error.as_ref().unwrap().contains("requests since it has it"), "{turned:?}");
    fleet.stage(&begun.id, Stage::RolledBack).await;
    assert_eq!(fleet.having(1).await, 2);
}

#[tokio::test]
async fn a_server_that_ends_in_a_pause_or_on_the_way_back_goes_on_with_it() {
    let fleet = fleet_of(4).await;
    fleet.save("support", env("2")).await;
    let strategy = Strategy { parallel: 1, ..steps(&[(Amount::Percent(75), Pause::Promotion)]) };
    let begun = fleet.publish("support", strategy).await;
    fleet.stage(&begun.id, Stage::Waiting).await;
    let fleet = fleet.restarted().await;
    let still = fleet.control.rollout(&owner(), &begun.id).await.unwrap();
    assert_eq!((still.stage, still.counts.proven), (Stage::Waiting, 3), "{still:?}");
    fleet.control.turn_round(&owner(), &begun.id).await.unwrap();
    fleet
        .rollout_until(&begun.id, "one is on its way back", |it| it.counts.reverting + it.counts.reverted > 0)
        .await;
    let fleet = fleet.restarted().await;
    let ended = fleet.stage(&begun.id, Stage::RolledBack).await;
    assert_eq!((ended.counts.reverted, ended.counts.pending, fleet.having(1).await), (3, 1, 4));
}
