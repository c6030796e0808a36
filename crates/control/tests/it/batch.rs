//! The same change in what many instances say themselves, as a rollout.

use std::collections::BTreeMap;

use clawfarm_config::{Amount, MemberState, Pause, Rollout, Selector, Stage, Strategy};
use clawfarm_control::{Batch, ChangeMany, Configure};
use clawfarm_model::{Code, Instance, Phase, Result};
use clawfarm_runtime_sim::ActKind;
use serde_json::{Value, json};

use crate::configs::{map, steps};
use crate::fleet::{Fleet, owner};

fn set(patch: &Value) -> ChangeMany {
    ChangeMany { patch: map(patch), ..ChangeMany::default() }
}

/// One first, then whoever is told.
fn canary(then: Pause) -> Strategy {
    steps(&[(Amount::Count(1), then)])
}

async fn fleet_of(count: usize) -> Fleet {
    let fleet = Fleet::new().await;
    for n in 0..count {
        fleet.ready(&format!("claw-{n}")).await;
    }
    fleet
}

impl Fleet {
    async fn change_many(&self, what: &ChangeMany) -> Result<Batch> {
        self.control.configure_many(&owner(), what).await
    }

    async fn began(&self, what: &ChangeMany) -> Rollout {
        self.change_many(what).await.unwrap().rollout.expect("somebody says something otherwise")
    }

    async fn set_own(&self, name: &str, patch: &Value) {
        let change = Configure { patch: map(patch), ..Configure::default() };
        self.control.configure(&owner(), name, None, &change).await.unwrap();
    }

    async fn own(&self, name: &str) -> Value {
        let it = self.control.get(&owner(), name).await.unwrap();
        Value::Object(it.layers.own.unwrap_or_default())
    }

    async fn everybody(&self) -> Vec<Instance> {
        self.control.list(&owner(), &Default::default(), None, 100).await.unwrap().items
    }

    async fn left_out(&self, rollout: &Rollout) -> Vec<(String, String)> {
        let skipped = Some(MemberState::Skipped);
        let all = self.control.rollout_members(&owner(), &rollout.id, skipped, None, 100).await.unwrap();
        all.into_iter().map(|it| (it.instance.to_string(), it.error.unwrap_or_default())).collect()
    }
}

#[tokio::test]
async fn it_goes_out_in_steps_and_leaves_what_others_say() {
    let fleet = fleet_of(4).await;
    fleet.set_own("claw-1", &json!({"env": {"MINE": "1"}})).await;
    let what = ChangeMany {
        strategy: canary(Pause::Promotion),
        ..set(&json!({"env": {"A": "1"}, "logging": {"level": "debug"}}))
    };
    let dry = fleet.control.would_configure_many(&owner(), &what).await.unwrap();
    assert_eq!((dry.instances.len(), dry.refusals.len(), dry.rollout), (4, 0, None));
    assert_eq!(fleet.own("claw-0").await, json!({}));
    let begun = fleet.began(&what).await;
    assert_eq!((begun.to, begun.message.as_str(), begun.counts.all()), (1, "env.A, logging.level", 4));
    let waiting = fleet.stage(&begun.id, Stage::Waiting).await;
    assert_eq!(
        (waiting.counts.proven, waiting.counts.seen, waiting.counts.pending),
        (1, 1, 3),
        "{waiting:?}"
    );
    // Those with the smallest places of the plan come first, each time.
    let first = dry.instances[0].id.as_str();
    for it in fleet.everybody().await {
        let has = it.layers.own.unwrap_or_default().contains_key("logging");
        assert_eq!(has, it.id.as_str() == first, "{}", it.id);
    }
    fleet.control.promote_rollout(&owner(), &begun.id).await.unwrap();
    let done = fleet.stage(&begun.id, Stage::Done).await;
    assert_eq!((done.counts.proven, done.counts.failed, done.counts.skipped), (4, 0, 0), "{done:?}");
    assert_eq!(fleet.env("claw-0").await, json!({"A": "1"}));
    assert_eq!(fleet.env("claw-1").await, json!({"A": "1", "MINE": "1"}));
    // Said once more there is nothing to do; and what is said no more is a change like any other.
    assert_eq!(fleet.change_many(&what).await.unwrap().rollout, None);
    let unset = ChangeMany { unset: vec!["env.A".parse().unwrap()], ..ChangeMany::default() };
    let begun = fleet.began(&unset).await;
    assert_eq!((begun.to, begun.message.as_str()), (2, "no env.A"));
    fleet.stage(&begun.id, Stage::Done).await;
    assert_eq!(fleet.own("claw-0").await, json!({"logging": {"level": "debug"}}));
    assert_eq!(fleet.env("claw-1").await, json!({"MINE": "1"}));
    let listed =
        fleet.control.rollouts(&owner(), Some(&clawfarm_model::ConfigName::own()), 10).await.unwrap();
    assert_eq!(listed.iter().map(|it| it.to).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test]
async fn one_that_breaks_a_start_stops_at_the_first_and_is_taken_back() {
    let fleet = fleet_of(3).await;
    fleet.set_own("claw-0", &json!({"env": {"A": "0"}})).await;
    // It is started again for that, and is not well until then.
    let again = |it: &Instance| it.phase == Phase::Ready && fleet.count(it, ActKind::Start) == 2;
    fleet.until("claw-0", "started again", again).await;
    let before: Vec<_> = fleet.everybody().await;
    let patch = json!({"env": {"A": "1"}, "native": {"sim": {"break": "exit"}}});
    let begun = fleet.began(&ChangeMany { strategy: canary(Pause::None), ..set(&patch) }).await;
    let ended = fleet.stage(&begun.id, Stage::RolledBack).await;
    assert_eq!((ended.counts.reverted, ended.counts.pending), (1, 2), "{ended:?}");
    assert!(ended.error.is_some(), "{ended:?}");
    for (it, before) in fleet.everybody().await.iter().zip(&before) {
        assert_eq!((&it.layers.own, &it.spec.config), (&before.layers.own, &before.spec.config), "{}", it.id);
        fleet.until_phase(it.id.as_str(), Phase::Ready).await;
    }
    let begun_anew = fleet.everybody().await.iter().filter(|it| fleet.count(it, ActKind::Start) > 2).count();
    assert_eq!(begun_anew, 1, "the others were never touched");
}

#[tokio::test]
async fn of_two_at_once_one_wins_and_the_other_is_told() {
    let fleet = fleet_of(2).await;
    let one = ChangeMany { strategy: canary(Pause::Promotion), ..set(&json!({"env": {"A": "1"}})) };
    let two = ChangeMany { strategy: canary(Pause::Promotion), ..set(&json!({"env": {"A": "2"}})) };
    let (a, b) = tokio::join!(fleet.change_many(&one), fleet.change_many(&two));
    let (won, lost, value) = match (a, b) {
        (Ok(won), Err(lost)) => (won, lost, "1"),
        (Err(lost), Ok(won)) => (won, lost, "2"),
        both => panic!("one of them wins: {both:?}"),
    };
    let won = won.rollout.unwrap();
    assert_eq!(lost.code(), Code::Conflict, "{lost}");
    assert!(lost.to_string().contains("under way"), "{lost}");
    fleet.stage(&won.id, Stage::Waiting).await;
    let lost = fleet.change_many(&one).await.unwrap_err();
    assert!(lost.to_string().contains(&won.id) && lost.fix_text().is_some(), "{lost}");
    fleet.control.promote_rollout(&owner(), &won.id).await.unwrap();
    fleet.stage(&won.id, Stage::Done).await;
    for n in 0..2 {
        assert_eq!(fleet.env(&format!("claw-{n}")).await, json!({"A": value}));
    }
}

#[tokio::test]
async fn what_somebody_changes_meanwhile_is_theirs_on_both_ways() {
    let fleet = fleet_of(3).await;
    let what = ChangeMany { strategy: canary(Pause::Promotion), ..set(&json!({"env": {"A": "1"}})) };
    let dry = fleet.control.would_configure_many(&owner(), &what).await.unwrap();
    let ids: Vec<_> = dry.instances.iter().map(|it| it.id.to_string()).collect();
    let begun = fleet.began(&what).await;
    fleet.stage(&begun.id, Stage::Waiting).await;
    // The second says something there itself before its turn; the third beside it.
    fleet.set_own(&ids[1], &json!({"env": {"A": "mine"}})).await;
    fleet.set_own(&ids[2], &json!({"env": {"B": "mine"}})).await;
    fleet.until_phase(&ids[1], Phase::Ready).await;
    fleet.until_phase(&ids[2], Phase::Ready).await;
    fleet.control.promote_rollout(&owner(), &begun.id).await.unwrap();
    let done = fleet.stage(&begun.id, Stage::Done).await;
    assert_eq!((done.counts.proven, done.counts.skipped), (2, 1), "{done:?}");
    let left = fleet.left_out(&begun).await;
    assert!(left[0].0 == ids[1] && left[0].1.contains("'env.A'"), "{left:?}");
    assert_eq!(fleet.env(&ids[1]).await, json!({"A": "mine"}));
    assert_eq!(fleet.env(&ids[2]).await, json!({"A": "1", "B": "mine"}));
    // The same on the way back.
    let two = ChangeMany { strategy: canary(Pause::Promotion), ..set(&json!({"env": {"A": "2"}})) };
    let begun = fleet.began(&two).await;
    fleet.stage(&begun.id, Stage::Waiting).await;
    fleet.set_own(&ids[0], &json!({"env": {"A": "other"}})).await;
    fleet.control.turn_round(&owner(), &begun.id).await.unwrap();
    let back = fleet.stage(&begun.id, Stage::RolledBack).await;
    assert_eq!((back.counts.reverted, back.counts.skipped, back.counts.pending), (0, 1, 2), "{back:?}");
    assert_eq!(fleet.env(&ids[0]).await, json!({"A": "other"}));
    assert_eq!(fleet.env(&ids[1]).await, json!({"A": "mine"}));
}

#[tokio::test]
async fn all_of_them_can_have_it_or_none_gets_it() {
    let fleet = fleet_of(2).await;
    fleet.out("lock", json!({"body": {"env": {"B": "template"}}, "locks": ["env.B"]})).await;
    let bound = Configure { template: Some(Some(crate::configs::name("lock"))), ..Configure::default() };
    fleet.control.configure(&owner(), "claw-1", None, &bound).await.unwrap();
    fleet.until_phase("claw-1", Phase::Ready).await;
    let locked = fleet.change_many(&set(&json!({"env": {"B": "2"}}))).await.unwrap_err();
    assert!(locked.message().contains("claw-1-") && locked.field_name() == Some("config.env.B"), "{locked}");
    // What a running claw refuses is one such.
    let refused =
        fleet.change_many(&set(&json!({"native": {"sim": {"invalid": "no such key"}}}))).await.unwrap_err();
    assert_eq!(refused.field_name(), Some("config.native.sim.invalid"), "{refused}");
    assert_eq!(fleet.own("claw-0").await, json!({}));
    let nobody = ChangeMany {
        strategy: Strategy {
            first: BTreeMap::from([("ring".into(), "early".into())]),
            ..Strategy::default()
        },
        ..set(&json!({"env": {"A": "2"}}))
    };
    assert_eq!(fleet.change_many(&nobody).await.unwrap_err().field_name(), Some("strategy.first"));
    let none = Selector { labels: BTreeMap::from([("team".into(), "none".into())]), ..Selector::default() };
    let none = ChangeMany { selector: none, ..set(&json!({"env": {"A": "2"}})) };
    let none = fleet.change_many(&none).await.unwrap();
    assert_eq!((none.instances.len(), none.rollout), (0, None));
    let named = fleet.try_to_save("instances.own").await.unwrap_err();
    assert_eq!(named.field_name(), Some("name"), "{named}");
}

#[tokio::test]
async fn another_server_goes_on_with_it() {
    let fleet = fleet_of(3).await;
    let what =
        ChangeMany { strategy: canary(Pause::Promotion), ..set(&json!({"logging": {"level": "debug"}})) };
    let begun = fleet.began(&what).await;
    fleet.stage(&begun.id, Stage::Waiting).await;
    let fleet = fleet.restarted().await;
    fleet.control.promote_rollout(&owner(), &begun.id).await.unwrap();
    let done = fleet.stage(&begun.id, Stage::Done).await;
    assert_eq!(done.counts.proven, 3, "{done:?}");
    for n in 0..3 {
        assert_eq!(fleet.own(&format!("claw-{n}")).await, json!({"logging": {"level": "debug"}}));
    }
}

impl Fleet {
    async fn try_to_save(&self, config: &str) -> Result<()> {
        let content = crate::configs::content(json!({"body": {}}));
        let new = clawfarm_control::NewConfig { content, message: "test".into(), expect_version: None };
        self.control.save_config(&owner(), &crate::configs::name(config), new).await.map(drop)
    }
}
