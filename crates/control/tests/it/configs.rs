//! The configuration centre: layers, revisions, rollouts.

use std::collections::BTreeMap;
use std::time::Duration;

use clawfarm_config::{Amount, MemberState, Pause, Rollout, Selector, Stage, Step, Strategy, Template};
use clawfarm_control::{Configure, NewConfig, NewInstance, Publish};
use clawfarm_model::{Code, ConfigName, Instance, Phase};
use clawfarm_runtime_sim::ActKind;
use serde_json::{Value, json};

use crate::fleet::{Fleet, claw, owner, tenant};

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn name(text: &str) -> ConfigName {
    ConfigName::new(text).unwrap()
}

pub(crate) fn content(value: Value) -> Template {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn map(value: &Value) -> serde_json::Map<String, Value> {
    value.as_object().unwrap().clone()
}

impl Fleet {
    pub(crate) async fn save(&self, config: &str, value: Value) -> i64 {
        let new = NewConfig { content: content(value), message: "test".into(), expect_version: None };
        self.control.save_config(&owner(), &name(config), new).await.unwrap().head
    }

    pub(crate) async fn publish(&self, config: &str, strategy: Strategy) -> Rollout {
        let what = Publish { strategy, ..Publish::default() };
        self.control.publish(&owner(), &name(config), what).await.unwrap()
    }

    /// Saves and publishes, and waits for its end.
    pub(crate) async fn out(&self, config: &str, value: Value) -> Rollout {
        self.save(config, value).await;
        let begun = self.publish(config, Strategy::default()).await;
        self.stage(&begun.id, Stage::Done).await
    }

    pub(crate) async fn stage(&self, id: &str, stage: Stage) -> Rollout {
        self.rollout_until(id, &format!("{stage:?}"), |it| it.stage == stage).await
    }

    pub(crate) async fn rollout_until(&self, id: &str, what: &str, is: impl Fn(&Rollout) -> bool) -> Rollout {
        let begun = std::time::Instant::now();
        loop {
            let rollout = self.control.rollout(&owner(), id).await.unwrap();
            if is(&rollout) {
                return rollout;
            }
            if begun.elapsed() >= LIMIT {
                let members = self.control.rollout_members(&owner(), id, None, None, 100).await.unwrap();
                panic!("waited {LIMIT:?} until {what}: {rollout:#?} {members:#?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn of(&self, template: &str, name: &str) -> Instance {
        let new = NewInstance { template: Some(self::name(template)), ..claw(name) };
        let accepted = self.control.create(&owner(), new, None).await.unwrap();
        self.reached(accepted).await
    }

    pub(crate) async fn env(&self, name: &str) -> Value {
        let it = self.control.get(&owner(), name).await.unwrap();
        serde_json::to_value(&it.spec.config.env).unwrap()
    }
}

pub(crate) fn steps(steps: &[(Amount, Pause)]) -> Strategy {
    Strategy {
        steps: steps.iter().map(|(to, then)| Step { to: *to, then: *then }).collect(),
        ..Strategy::default()
    }
}

#[tokio::test]
async fn layers_reach_those_below_them_and_say_where_each_value_came_from() {
    let fleet = Fleet::new().await;
    fleet.ready("alice").await;
    fleet.out("global", json!({"body": {"env": {"A": "global", "B": "global"}}, "locks": ["env.B"]})).await;
    fleet.out("tenant", json!({"body": {"env": {"A": "tenant", "C": "tenant"}}})).await;
    fleet.out("project.default", json!({"body": {"env": {"C": "project"}}})).await;
    assert_eq!(fleet.env("alice").await, json!({"A": "tenant", "B": "global", "C": "project"}));
    let own = Configure { patch: map(&json!({"env": {"A": "mine"}})), ..Configure::default() };
    fleet.control.configure(&owner(), "alice", None, &own).await.unwrap();
    assert_eq!(fleet.env("alice").await["A"], "mine");
    let explained = fleet.control.explain(&owner(), "alice").await.unwrap();
    let value = |path: &str| {
        explained
            .values
            .iter()
            .find(|it| it.path.to_string() == path)
            .unwrap_or_else(|| panic!("{path}: {explained:#?}"))
    };
    assert_eq!(value("env.A").from.to_string(), "instance");
    let over: Vec<_> = value("env.A").overrode.iter().map(|it| it.from.to_string()).collect();
    assert_eq!(over, ["tenant default", "global"]);
    assert_eq!(value("env.B").locked_by.as_ref().unwrap().to_string(), "global");
    assert_eq!(value("model.provider").from.to_string(), "default");
    // What is locked is nobody's below to say.
    let locked = Configure { patch: map(&json!({"env": {"B": "mine"}})), ..Configure::default() };
    let refused = fleet.control.configure(&owner(), "alice", None, &locked).await.unwrap_err();
    assert_eq!((refused.code(), refused.field_name()), (Code::InvalidInput, Some("config.env.B")));
    // A new one goes by all of it from the start.
    let bob = fleet.ready("bob").await;
    assert_eq!(fleet.env("bob").await, json!({"A": "tenant", "B": "global", "C": "project"}));
    assert_eq!(fleet.count(&bob, ActKind::Start), 1);
    // Another tenant sees the fleet's, may not write it, and nothing of this one's.
    let seen: Vec<_> = fleet.control.configs(&tenant("acme")).await.unwrap();
    let seen: Vec<_> = seen.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(seen, ["global"]);
    let theirs = fleet.control.config(&tenant("acme"), &name("project.default")).await.unwrap_err();
    assert_eq!(theirs.code(), Code::NotFound);
    let write = NewConfig { content: content(json!({"body": {}})), ..NewConfig::default() };
    let refused = fleet.control.save_config(&tenant("acme"), &name("global"), write).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test]
async fn a_template_fills_in_what_its_instances_give() {
    let fleet = Fleet::new().await;
    fleet
        .save(
            "support",
            json!({
                "variables": [
                    {"name": "team", "type": "string", "required": true},
                    {"name": "level", "type": "string", "default": "low"},
                ],
                "body": {"env": {"TEAM": "${team}", "LEVEL": "at ${level}"}},
            }),
        )
        .await;
    let bound = |variables: Value| NewInstance {
        template: Some(name("support")),
        variables: serde_json::from_value::<BTreeMap<String, Value>>(variables).unwrap(),
        ..claw("alice")
    };
    let unpublished = fleet.control.create(&owner(), bound(json!({"team": "blue"})), None).await.unwrap_err();
    assert_eq!((unpublished.code(), unpublished.field_name()), (Code::Conflict, Some("template")));
    let begun = fleet.publish("support", Strategy::default()).await;
    fleet.stage(&begun.id, Stage::Done).await;
    let missing = fleet.control.create(&owner(), bound(json!({})), None).await.unwrap_err();
    assert_eq!(missing.field_name(), Some("variables.team"));
    let unknown =
        fleet.control.create(&owner(), bound(json!({"team": "a", "x": 1})), None).await.unwrap_err();
    assert_eq!(unknown.field_name(), Some("variables.x"));
    let accepted = fleet.control.create(&owner(), bound(json!({"team": "blue"})), None).await.unwrap();
    fleet.reached(accepted).await;
    assert_eq!(fleet.env("alice").await, json!({"TEAM": "blue", "LEVEL": "at low"}));
}

#[tokio::test]
async fn a_revision_that_one_instance_can_not_have_goes_to_none() {
    let fleet = Fleet::new().await;
    fleet.out("support", json!({"body": {"env": {"A": "1"}}})).await;
    let alice = fleet.of("support", "alice").await;
    fleet.save("support", json!({"body": {"env": {"A": {"secret": "nobody-has-it"}}}})).await;
    let plan = fleet.control.plan(&owner(), &name("support"), None, &Selector::default()).await.unwrap();
    assert_eq!((plan.refused, plan.instances.len()), (1, 0));
    assert_eq!(plan.refusals[0].id, alice.id);
    let refused = fleet.control.publish(&owner(), &name("support"), Publish::default()).await.unwrap_err();
    assert!(refused.message().contains("nobody-has-it") && refused.message().contains(alice.id.as_str()));
    assert_eq!(fleet.env("alice").await, json!({"A": "1"}));
    // What is no configuration is not even saved.
    let wrong = NewConfig { content: content(json!({"body": {"modle": {}}})), ..NewConfig::default() };
    let refused = fleet.control.save_config(&owner(), &name("support"), wrong).await.unwrap_err();
    assert!(refused.message().contains("modle"), "{refused}");
}

#[tokio::test]
async fn one_that_breaks_its_start_stops_at_the_canary_and_is_rolled_back() {
    let fleet = Fleet::new().await;
    fleet.out("support", json!({"body": {"env": {"A": "1"}}})).await;
    let mut all = Vec::new();
    for n in 0..4 {
        all.push(fleet.of("support", &format!("claw-{n}")).await);
    }
    let to = fleet
        .save("support", json!({"body": {"env": {"A": "2"}, "native": {"sim": {"break": "exit"}}}}))
        .await;
    let plan = fleet.control.plan(&owner(), &name("support"), None, &Selector::default()).await.unwrap();
    let first = plan.instances[0].id.clone();
    let begun = fleet.publish("support", steps(&[(Amount::Count(1), Pause::None)])).await;
    let ended = fleet.stage(&begun.id, Stage::RolledBack).await;
    assert!(ended.error.as_ref().unwrap().contains(first.as_str()), "{ended:?}");
    assert_eq!(ended.counts.reverted, 1);
    assert_eq!(ended.counts.pending, 3);
    for it in &all {
        let now = fleet.until(it.id.as_str(), "as it was", |it| it.phase == Phase::Ready).await;
        assert_eq!(now.layers.applied.get(&name("support")), Some(&1));
        assert_eq!(serde_json::to_value(&now.spec.config.env).unwrap(), json!({"A": "1"}));
        if it.id != first {
            assert_eq!((now.version, now.intent), (it.version, it.intent), "it was touched");
        }
    }
    let config = fleet.control.config(&owner(), &name("support")).await.unwrap();
    assert_eq!((config.head, config.published, config.rollout), (to, Some(1), None));
    // The next may go out.
    fleet.out("support", json!({"body": {"env": {"A": "3"}}})).await;
    assert_eq!(fleet.env("claw-0").await, json!({"A": "3"}));
}

#[tokio::test]
async fn steps_wait_for_the_word_and_two_publishes_are_one() {
    let fleet = Fleet::new().await;
    fleet.out("support", json!({"body": {"env": {"A": "1"}}})).await;
    for n in 0..3 {
        fleet.of("support", &format!("claw-{n}")).await;
    }
    fleet.save("support", json!({"body": {"env": {"A": "2"}}})).await;
    let begun = fleet.publish("support", steps(&[(Amount::Percent(34), Pause::Promotion)])).await;
    let second = fleet.control.publish(&owner(), &name("support"), Publish::default()).await.unwrap_err();
    assert_eq!(second.code(), Code::Conflict);
    let waiting = fleet.stage(&begun.id, Stage::Waiting).await;
    assert!(waiting.counts.proven >= 1 && waiting.counts.pending >= 1, "{waiting:?}");
    let paused = fleet.control.pause_rollout(&owner(), &begun.id).await.unwrap();
    assert_eq!(paused.stage, Stage::Paused);
    fleet.control.promote_rollout(&owner(), &begun.id).await.unwrap_err();
    let resumed = fleet.control.resume_rollout(&owner(), &begun.id).await.unwrap();
    assert_eq!(resumed.stage, Stage::Waiting);
    fleet.control.promote_rollout(&owner(), &begun.id).await.unwrap();
    let done = fleet.stage(&begun.id, Stage::Done).await;
    assert_eq!(done.counts.proven, 3);
    let back = fleet.control.roll_back(&owner(), &name("support"), None, None).await.unwrap();
    assert_eq!(back.to, 1);
    fleet.stage(&back.id, Stage::Done).await;
    assert_eq!(fleet.env("claw-1").await, json!({"A": "1"}));
    let revision = fleet.control.revision(&owner(), &name("support"), Some(2)).await.unwrap();
    assert!(revision.proven_at.is_some());
    let paths: Vec<_> = revision.changes.iter().map(|it| it.path.to_string()).collect();
    assert_eq!(paths, ["body.env.A"]);
}

#[tokio::test]
async fn a_server_that_ends_in_the_middle_goes_on_with_it() {
    let fleet = Fleet::new().await;
    fleet.out("support", json!({"body": {"env": {"A": "1"}}})).await;
    for n in 0..5 {
        fleet.of("support", &format!("claw-{n}")).await;
    }
    fleet.save("support", json!({"body": {"env": {"A": "2"}}})).await;
    let strategy = Strategy { parallel: 1, ..Strategy::default() };
    let begun = fleet.publish("support", strategy).await;
    let fleet = fleet.restarted().await;
    let done = fleet.stage(&begun.id, Stage::Done).await;
    assert_eq!(done.counts.proven, 5);
    for n in 0..5 {
        assert_eq!(fleet.env(&format!("claw-{n}")).await, json!({"A": "2"}));
    }
    let members =
        fleet.control.rollout_members(&owner(), &begun.id, Some(MemberState::Proven), None, 10).await;
    assert_eq!(members.unwrap().len(), 5);
}

#[tokio::test]
async fn what_can_be_taken_up_while_it_runs_is_and_what_it_goes_by_is_asked_of_it() {
    let fleet = Fleet::new().await;
    fleet.out("support", json!({"body": {"logging": {"level": "info"}}})).await;
    let alice = fleet.of("support", "alice").await;
    let before = fleet.control.get(&owner(), "alice").await.unwrap();
    fleet.out("support", json!({"body": {"logging": {"level": "debug"}}})).await;
    let after = fleet.control.get(&owner(), "alice").await.unwrap();
    assert_eq!(after.in_force, after.layers.revision);
    assert!(after.in_force > before.in_force);
    assert_eq!(fleet.count(&alice, ActKind::Start), 1, "it was started again");
    assert!(fleet.control.drift(&owner(), "alice").await.unwrap().is_none());
}

#[tokio::test]
async fn drift_made_by_hand_is_found_and_put_right() {
    let fleet = Fleet::new().await;
    let new = NewInstance { config_mode: Some(clawfarm_model::config::ConfigMode::Managed), ..claw("alice") };
    let accepted = fleet.control.create(&owner(), new, None).await.unwrap();
    let alice = fleet.reached(accepted).await;
    assert!(fleet.control.drift(&owner(), "alice").await.unwrap().is_none());
    let file = walk(fleet.home()).into_iter().find(|it| it.ends_with("openclaw.json")).unwrap();
    let mut document: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    document["logging"]["level"] = json!("trace");
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, document.to_string()).unwrap();
    let drift = fleet.control.drift(&owner(), "alice").await.unwrap();
    assert_eq!(drift.files.len(), 1, "{drift:?}");
    let (_, mending) = fleet.control.mend_drift(&owner(), "alice").await.unwrap();
    // It is done in the instance's own turn.
    assert_eq!(mending.layers.rewrite, mending.layers.revision);
    fleet.until("alice", "put right", |it| it.in_force >= it.layers.revision).await;
    let drift = fleet.control.drift(&owner(), "alice").await.unwrap();
    assert!(drift.is_none(), "{drift:?}");
    assert_eq!(fleet.count(&alice, ActKind::Start), 1);
}

/// One that can't say what it goes by is not started again and again for it.
#[tokio::test]
async fn drift_of_a_type_that_can_not_say_what_it_goes_by_is_put_right() {
    let fleet = Fleet::new().await;
    let types = fleet.home().join("types");
    std::fs::create_dir_all(&types).unwrap();
    let mine = r#"
        about = "a type of one's own"
        version = "1"
        command = ["true"]
        health = "/healthz"
        [[file]]
        path = "mine.json"
        format = "json"
        template = '{"kept": true}'
    "#;
    std::fs::write(types.join("mine.toml"), mine).unwrap();
    let new = NewInstance {
        claw_type: "mine".into(),
        config_mode: Some(clawfarm_model::config::ConfigMode::Managed),
        ..claw("alice")
    };
    let accepted = fleet.control.create(&owner(), new, None).await.unwrap();
    let alice = fleet.reached(accepted).await;
    let file = walk(fleet.home()).into_iter().find(|it| it.ends_with("mine.json")).unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "{}").unwrap();
    let (drift, _) = fleet.control.mend_drift(&owner(), "alice").await.unwrap();
    assert_eq!(drift.files.len(), 1, "{drift:?}");
    let now = fleet.until("alice", "put right", |it| it.in_force >= it.layers.revision).await;
    assert_eq!(now.phase, Phase::Ready);
    assert!(fleet.control.drift(&owner(), "alice").await.unwrap().is_none());
    assert_eq!(fleet.count(&alice, ActKind::Start), 1);
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
