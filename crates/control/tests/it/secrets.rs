//! Scopes of secrets, and new values on their way to those that run with them.

use std::time::{Duration, Instant};

use clawfarm_control::{NewConfig, NewInstance, RotateSecret, SecretAt};
use clawfarm_model::config::ClawConfig;
use clawfarm_model::inbox::Proof;
use clawfarm_model::name::ProjectName;
use clawfarm_model::secret::{RotationStage, SecretInfo, SecretName, SecretScope, SecretUse, SecretUser};
use clawfarm_model::{Code, ConfigName, Context, Phase};
use clawfarm_runtime_sim::ActKind;
use serde_json::json;

use crate::fleet::{Fleet, claw, owner, tenant};

/// Nothing here takes longer than a second or two on a machine that is idle.
const LIMIT: Duration = Duration::from_secs(60);

fn key() -> SecretName {
    SecretName::new("key").unwrap()
}

fn config(value: serde_json::Value) -> ClawConfig {
    serde_json::from_value(value).unwrap()
}

fn with_key() -> ClawConfig {
    config(json!({"env": {"KEY": {"secret": "key"}}}))
}

fn value(text: &str) -> RotateSecret {
    RotateSecret { value: Some(text.to_owned().into()), ..RotateSecret::default() }
}

impl Fleet {
    async fn with_config(&self, name: &str, config: ClawConfig) -> clawfarm_model::Instance {
        let new = NewInstance { config, ..claw(name) };
        let accepted = self.control.create(&owner(), new, None).await.unwrap();
        self.reached(accepted).await
    }

    async fn set(&self, at: impl Into<SecretAt>, text: &str) {
        self.control.set_secret(&owner(), at, &key(), &text.to_owned().into()).await.unwrap();
    }

    async fn secret(&self) -> (SecretInfo, Vec<SecretUser>) {
        let (info, users) = self.control.secret(&owner(), None, &key()).await.unwrap();
        (info, users.instances)
    }

    async fn secret_until(
        &self,
        what: &str,
        is: impl Fn(&SecretInfo, &[SecretUser]) -> bool,
    ) -> (SecretInfo, Vec<SecretUser>) {
        let begun = Instant::now();
        loop {
            let (info, users) = self.secret().await;
            if is(&info, &users) {
                return (info, users);
            }
            assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} until {what}: {info:#?} {users:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn over(&self) -> (SecretInfo, Vec<SecretUser>) {
        self.secret_until("its rotation is over", |info, _| info.rotation.is_none()).await
    }
}

fn state(users: &[SecretUser], name: &str) -> SecretUse {
    let found = users.iter().find(|it| it.instance.as_str().starts_with(name));
    found.unwrap_or_else(|| panic!("{name}: {users:#?}")).state
}

#[tokio::test]
async fn an_instance_sees_the_nearest_of_a_name() {
    let fleet = Fleet::new().await;
    let project = || SecretAt::project(ProjectName::default_project());
    // Without any, nobody can be configured with it; the whole farm's is everybody's.
    let new = NewInstance { config: with_key(), ..claw("alice") };
    let missing = fleet.control.create(&tenant("acme"), new, None).await.unwrap_err();
    assert_eq!(missing.code(), Code::InvalidInput);
    let refused = fleet
        .control
        .set_secret(&tenant("acme"), SecretAt::scope(SecretScope::Global), &key(), &"theirs".into())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    fleet.set(SecretAt::scope(SecretScope::Global), "of all").await;
    fleet.with_config("alice", with_key()).await;
    let used = async || {
        let listed = fleet.control.secrets(&owner()).await.unwrap();
        let used: Vec<_> = listed.iter().filter(|it| it.used_by > 0).map(|it| it.scope).collect();
        assert_eq!(used.len(), 1, "{listed:#?}");
        used[0]
    };
    assert_eq!(used().await, SecretScope::Global);
    fleet.set(None, "the tenant's").await;
    assert_eq!(used().await, SecretScope::Tenant);
    fleet.set(project(), "the project's").await;
    assert_eq!(used().await, SecretScope::Project);
    fleet.set(Some("alice"), "its own").await;
    assert_eq!(used().await, SecretScope::Instance);
    // Names and numbers of the whole farm's are everybody's to see, its users are not.
    let theirs = fleet.control.secrets(&tenant("acme")).await.unwrap();
    assert_eq!(
        theirs.iter().map(|it| (it.scope, it.used_by)).collect::<Vec<_>>(),
        [(SecretScope::Global, 0)]
    );
    for (at, field) in [
        (SecretAt { scope: Some(SecretScope::Project), ..SecretAt::default() }, "scope"),
        (SecretAt { scope: Some(SecretScope::Global), ..SecretAt::from(Some("alice")) }, "scope"),
        (SecretAt { project: project().project, ..SecretAt::from(Some("alice")) }, "project"),
        (SecretAt::project(ProjectName::new("nowhere").unwrap()), "project"),
    ] {
        let error = fleet.control.set_secret(&owner(), at, &key(), &"x".into()).await.unwrap_err();
        assert_eq!(error.field_name(), Some(field), "{error}");
    }
}

#[tokio::test]
async fn a_new_value_reaches_those_that_run_one_after_the_other() {
    let fleet = Fleet::new().await;
    fleet.set(None, "one").await;
    let mut up = Vec::new();
    for name in ["ann", "ben", "cid"] {
        up.push(fleet.with_config(name, with_key()).await);
    }
    let down = fleet.with_config("dot", with_key()).await;
    fleet.reached(fleet.control.stop(&owner(), "dot", true).await.unwrap()).await;
    let own = fleet.with_config("eve", with_key()).await;
    fleet.set(Some("eve"), "eve's").await;
    let other = fleet.ready("fay").await;

    let (info, users) = fleet.secret().await;
    assert_eq!((info.version, info.used_by, users.len()), (1, 4, 4));
    for name in ["ann", "ben", "cid"] {
        assert_eq!(state(&users, name), SecretUse::Current);
    }
    assert_eq!(state(&users, "dot"), SecretUse::NextStart);
    assert!(users.iter().all(|it| it.restarts && it.fields == ["env.KEY"]));

    let new = RotateSecret { parallel: Some(1), ..value("two") };
    let info = fleet.control.rotate_secret(&owner(), None, &key(), new).await.unwrap();
    assert!(info.previous_kept && info.version == 2);
    let (info, users) = fleet
        .secret_until("its rotation is over", |info, users| {
            let away = users.iter().filter(|it| it.state == SecretUse::OnItsWay).count();
            assert!(away <= 1, "{users:#?}");
            info.rotation.is_none()
        })
        .await;
    assert!(!info.previous_kept);
    for instance in &up {
        assert_eq!(state(&users, instance.id.as_str()), SecretUse::Current);
        assert_eq!(fleet.count(instance, ActKind::Start), 2);
    }
    assert_eq!(state(&users, "dot"), SecretUse::NextStart);
    for instance in [&down, &own, &other] {
        assert_eq!(fleet.count(instance, ActKind::Start), 1, "{}", instance.id);
    }
    fleet.reached(fleet.control.start(&owner(), "dot").await.unwrap()).await;
    assert_eq!(state(&fleet.secret().await.1, "dot"), SecretUse::Current);
    let (events, _) = fleet.control.events(&owner(), Some("ann"), None, 100).await.unwrap();
    let told: Vec<_> = events.iter().filter(|it| it.reason == "secret").map(|it| &it.message).collect();
    assert_eq!(told, ["secret 'key' has a new value; it is started again with it"]);
}

#[tokio::test]
async fn what_only_the_inbox_checks_is_taken_up_without_a_start() {
    let fleet = Fleet::new().await;
    fleet.set(None, "one").await;
    let inbox = config(json!({
        "inbox": [{"path": "/hooks/x", "check": {"type": "token", "header": "X-Token", "secret": {"secret": "key"}}}]
    }));
    let ann = fleet.with_config("ann", inbox).await;
    let (_, users) = fleet.secret().await;
    assert!(!users[0].restarts && users[0].fields == ["inbox.0.check.secret"], "{users:?}");
    fleet.control.rotate_secret(&owner(), None, &key(), value("two")).await.unwrap();
    fleet.over().await;
    assert_eq!(fleet.count(&ann, ActKind::Start), 1);
    let entrance = fleet.control.entrance_now(&Context::system("edge"), &ann.id).await.unwrap().unwrap();
    let checked = entrance
        .inbox
        .iter()
        .any(|it| matches!(&it.proof, Proof::Token { token, .. } if token.expose() == "two"));
    assert!(checked, "the inbox asks for the new value");
}

#[tokio::test]
async fn one_that_does_not_come_up_halts_it_and_the_value_before_comes_back() {
    let fleet = Fleet::new().await;
    fleet.set(None, "one").await;
    let mut all = Vec::new();
    for name in ["ann", "ben", "cid"] {
        all.push(fleet.with_config(name, with_key()).await);
    }
    // With the next value none comes up: OpenClaw ends so when it can't be configured so.
    fleet
        .world
        .change_behaviour(|b| {
            b.claw.crash_after_ms = Some((1, 1));
            b.claw.exit_code = Some(78);
        })
        .unwrap();
    let new = RotateSecret { parallel: Some(1), ..value("wrong") };
    fleet.control.rotate_secret(&owner(), None, &key(), new).await.unwrap();
    let (info, users) = fleet
        .secret_until("it is halted", |info, _| {
            info.rotation.as_ref().is_some_and(|it| it.stage == RotationStage::Halted)
        })
        .await;
    let error = info.rotation.unwrap().error.unwrap();
    assert!(info.previous_kept && error.contains("did not come up"), "{error}");
    let failed: Vec<_> = users.iter().filter(|it| it.state == SecretUse::Failed).collect();
    assert_eq!(failed.len(), 1, "{users:#?}");
    assert_eq!(users.iter().filter(|it| it.state == SecretUse::Behind).count(), 2);
    let untouched = all.iter().filter(|it| fleet.count(it, ActKind::Start) == 1).count();
    assert_eq!(untouched, 2);
    fleet
        .world
        .change_behaviour(|b| {
            b.claw.crash_after_ms = None;
            b.claw.exit_code = None;
        })
        .unwrap();
    let back = fleet.control.rotate_secret(&owner(), None, &key(), RotateSecret::default()).await.unwrap();
    assert_eq!(back.version, 3);
    let (_, users) = fleet.over().await;
    assert!(users.iter().all(|it| it.state == SecretUse::Current), "{users:#?}");
    fleet.until_phase(failed[0].instance.as_str(), Phase::Ready).await;
    // Who never had the other value was not started again.
    let untouched = all.iter().filter(|it| fleet.count(it, ActKind::Start) == 1).count();
    assert_eq!(untouched, 2);
}

#[tokio::test]
async fn the_next_server_goes_on_with_it_and_grace_keeps_the_value_before() {
    let fleet = Fleet::new().await;
    fleet.set(None, "one").await;
    let mut all = Vec::new();
    for name in ["ann", "ben", "cid"] {
        all.push(fleet.with_config(name, with_key()).await);
    }
    // Slow enough to be met half-way.
    fleet.world.change_behaviour(|b| b.claw.boot_ms = Some((400, 400))).unwrap();
    let new = RotateSecret { parallel: Some(1), grace_secs: Some(3600), ..value("two") };
    fleet.control.rotate_secret(&owner(), None, &key(), new).await.unwrap();
    fleet.secret_until("one has it", |_, users| users.iter().any(|it| it.state == SecretUse::OnItsWay)).await;
    let fleet = fleet.restarted().await;
    let (info, users) = fleet
        .secret_until("all have it", |info, _| {
            info.rotation.as_ref().is_some_and(|it| it.stage == RotationStage::Grace)
        })
        .await;
    assert!(info.previous_kept && users.iter().all(|it| it.state == SecretUse::Current), "{users:#?}");
    for instance in &all {
        assert_eq!(fleet.count(instance, ActKind::Start), 2, "once each: {}", instance.id);
    }
}

#[tokio::test]
async fn one_that_sleeps_warm_does_not_go_on_with_the_value_before() {
    let fleet = Fleet::new().await;
    fleet.set(None, "one").await;
    let ann = fleet.with_config("ann", with_key()).await;
    fleet.reached(fleet.control.suspend(&owner(), "ann", true, true).await.unwrap()).await;
    fleet.control.rotate_secret(&owner(), None, &key(), value("two")).await.unwrap();
    let (_, users) = fleet.over().await;
    assert_eq!(state(&users, "ann"), SecretUse::NextStart);
    assert_eq!(fleet.count(&ann, ActKind::Start), 1, "it is not woken for it");
    fleet.reached(fleet.control.start(&owner(), "ann").await.unwrap()).await;
    let (_, users) = fleet.secret_until("it has it", |_, users| users[0].state == SecretUse::Current).await;
    assert_eq!((users.len(), fleet.count(&ann, ActKind::Start)), (1, 2));
}

#[tokio::test]
async fn what_is_used_is_removed_only_by_force() {
    let fleet = Fleet::new().await;
    fleet.set(None, "one").await;
    let template = ConfigName::new("support").unwrap();
    let body = json!({"body": {"model": {"provider": "openai", "name": "m", "api_key": {"secret": "key"}}}});
    let new = NewConfig { content: serde_json::from_value(body).unwrap(), ..NewConfig::default() };
    fleet.control.save_config(&owner(), &template, new).await.unwrap();
    let used = fleet.control.remove_secret(&owner(), None, &key(), false).await.unwrap_err();
    assert_eq!(used.code(), Code::Conflict);
    assert!(used.message().contains("configuration support"), "{used}");
    let ann = fleet.with_config("ann", with_key()).await;
    let used = fleet.control.remove_secret(&owner(), None, &key(), false).await.unwrap_err();
    assert!(
        used.message().contains(ann.id.as_str()) && used.fix_text().unwrap().contains("--force"),
        "{used}"
    );
    // One that another of the name is before, no instance uses.
    fleet.set(Some("ann"), "its own").await;
    fleet.set(SecretAt::project(ProjectName::default_project()), "hidden").await;
    let project = || SecretAt::project(ProjectName::default_project());
    let used = fleet.control.remove_secret(&owner(), project(), &key(), false).await.unwrap_err();
    assert!(!used.message().contains(ann.id.as_str()) && used.message().contains("support"), "{used}");
    fleet.control.remove_secret(&owner(), project(), &key(), true).await.unwrap();
    fleet.control.remove_secret(&owner(), None, &key(), true).await.unwrap();
    let gone = fleet.control.remove_secret(&owner(), None, &key(), true).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}
