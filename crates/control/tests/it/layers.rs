//! What layers, templates and locks make of an instance, and that no key gets out on the way.

use std::collections::BTreeMap;

use clawfarm_config::{Selector, Template};
use clawfarm_control::{ChangeMany, Changed, Configure, NewConfig, NewInstance};
use clawfarm_model::config::ConfigMode;
use clawfarm_model::{Code, Error, Result};
use serde_json::{Value, json};

use crate::configs::{map, name};
use crate::fleet::{Fleet, claw, owner};

impl Fleet {
    async fn change(&self, id: &str, change: Configure) -> Result<Changed> {
        self.control.configure(&owner(), id, None, &change).await
    }

    async fn says(&self, id: &str, patch: Value) -> Result<Changed> {
        self.change(id, Configure { patch: map(&patch), ..Configure::default() }).await
    }

    async fn try_save(&self, config: &str, value: Value) -> Result<i64> {
        let content = serde_json::from_value::<Template>(value).unwrap();
        let new = NewConfig { content, ..NewConfig::default() };
        self.control.save_config(&owner(), &name(config), new).await.map(|it| it.head)
    }
}

fn field(refused: &Error) -> (Code, &str) {
    assert!(refused.fix_text().is_some(), "{refused}");
    (refused.code(), refused.field_name().unwrap_or_default())
}

fn values(value: Value) -> BTreeMap<String, Value> {
    serde_json::from_value(value).unwrap()
}

fn template(to: Option<&str>) -> Configure {
    Configure { template: Some(to.map(name)), ..Configure::default() }
}

#[tokio::test]
async fn what_is_said_for_all_is_no_template_and_can_not_be_slipped_off_as_one() {
    let fleet = Fleet::new().await;
    fleet.out("tenant", json!({"body": {"env": {"A": "tenant"}}, "locks": ["env.A"]})).await;
    fleet.ready("alice").await;
    for layer in ["global", "tenant", "project.default"] {
        let refused = fleet.change("alice", template(Some(layer))).await.unwrap_err();
        assert_eq!(field(&refused), (Code::InvalidInput, "template"), "{layer}");
        let new = NewInstance { template: Some(name(layer)), ..claw("bob") };
        let refused = fleet.control.create(&owner(), new, None).await.unwrap_err();
        assert_eq!(field(&refused), (Code::InvalidInput, "template"), "{layer}");
    }
    fleet.change("alice", template(None)).await.unwrap();
    assert_eq!(fleet.env("alice").await, json!({"A": "tenant"}));
    let refused = fleet.says("alice", json!({"env": {"A": "mine"}})).await.unwrap_err();
    assert_eq!(field(&refused), (Code::InvalidInput, "config.env.A"));
    // And values for no template would have no effect.
    let variables = Some(values(json!({"team": "blue"})));
    let refused = fleet.change("alice", Configure { variables, ..Configure::default() }).await.unwrap_err();
    assert_eq!(field(&refused), (Code::InvalidInput, "variables"));
}

#[tokio::test]
async fn a_variable_that_is_a_place_is_said_by_the_template_and_given_by_the_instance() {
    let fleet = Fleet::new().await;
    fleet
        .out(
            "support",
            json!({"variables": [
                {"name": "env.TEAM", "type": "string", "required": true},
                {"name": "env.REGION", "type": "string", "default": "eu"},
                {"name": "env.POLICY", "type": "string", "default": "strict"},
            ], "locks": ["env.POLICY"]}),
        )
        .await;
    let bound = |given: Value| NewInstance {
        template: Some(name("support")),
        variables: values(given),
        ..claw("alice")
    };
    // What is locked can't be given either.
    let refused = fleet
        .control
        .create(&owner(), bound(json!({"env.TEAM": "blue", "env.POLICY": "lax"})), None)
        .await
        .unwrap_err();
    assert_eq!(field(&refused), (Code::InvalidInput, "config.env.POLICY"));
    let given = bound(json!({"env.TEAM": "blue", "env.REGION": "us"}));
    let accepted = fleet.control.create(&owner(), given, None).await.unwrap();
    fleet.reached(accepted).await;
    assert_eq!(fleet.env("alice").await, json!({"TEAM": "blue", "REGION": "us", "POLICY": "strict"}));
    let explained = fleet.control.explain(&owner(), "alice").await.unwrap();
    let region = explained.values.iter().find(|it| it.path.to_string() == "env.REGION").unwrap();
    assert_eq!(region.from.to_string(), "instance");
    let over: Vec<_> = region.overrode.iter().map(|it| format!("{} {}", it.value, it.from)).collect();
    assert_eq!(over, [r#""eu" template support@1"#]);
    // The instance's own word is over what it gives, and may take the template's away.
    fleet.says("alice", json!({"env": {"TEAM": "red", "REGION": null}})).await.unwrap();
    assert_eq!(fleet.env("alice").await, json!({"TEAM": "red", "POLICY": "strict"}));
    for (patch, place) in [
        (json!({"env": {"TEAM": null}}), "variables.env.TEAM"),
        (json!({"env": {"POLICY": "lax"}}), "config.env.POLICY"),
    ] {
        let refused = fleet.says("alice", patch).await.unwrap_err();
        assert_eq!(field(&refused), (Code::InvalidInput, place));
    }
    let variables = Some(values(json!({"env.TEAM": "a", "env.POLICY": "lax"})));
    let refused = fleet.change("alice", Configure { variables, ..Configure::default() }).await.unwrap_err();
    assert_eq!(field(&refused), (Code::InvalidInput, "variables.env.POLICY"));
}

#[tokio::test]
async fn a_lock_holds_for_the_type_s_own_settings_too() {
    let fleet = Fleet::new().await;
    fleet
        .out("global", json!({"body": {"tools": {"exec": {"mode": "deny"}}}, "locks": ["tools.exec"]}))
        .await;
    let managed = NewInstance { config_mode: Some(ConfigMode::Managed), ..claw("alice") };
    let accepted = fleet.control.create(&owner(), managed, None).await.unwrap();
    assert!(accepted.warnings.iter().all(|it| it.field != "config_mode"), "{:?}", accepted.warnings);
    fleet.reached(accepted).await;
    for native in [
        json!({"tools": {"exec": {"mode": "full"}}}),
        json!({"agents": {"entries": {"main": {"tools": {"exec": {"mode": "full"}}}}}}),
        json!({"tools": null}),
    ] {
        let refused = fleet.says("alice", json!({ "native": native })).await.unwrap_err();
        let (code, place) = field(&refused);
        assert!(code == Code::InvalidInput && place.starts_with("config.native."), "{place}");
        assert!(refused.message().contains("locked by global"), "{refused}");
    }
    let refused = fleet.says("alice", json!({"native": null})).await.unwrap_err();
    assert_eq!(field(&refused), (Code::InvalidInput, "config.native"));
    // What decides about something else is free.
    fleet.says("alice", json!({"native": {"ui": {"seamColor": "#ff0000"}}})).await.unwrap();
    // A template below it may as little.
    fleet.out("support", json!({"body": {}})).await;
    fleet.change("alice", template(Some("support"))).await.unwrap();
    fleet.save("support", json!({"body": {"native": {"tools": {"exec": {"mode": "full"}}}}})).await;
    let plan = fleet.control.plan(&owner(), &name("support"), None, &Selector::default()).await.unwrap();
    assert_eq!(plan.refused, 1, "{plan:?}");
    assert_eq!(plan.refusals[0].field, "config.native.tools");
    // Where the claw's user has the last word, that is told.
    let accepted = fleet.control.create(&owner(), claw("bob"), None).await.unwrap();
    assert!(accepted.warnings.iter().any(|it| it.field == "config_mode"), "{:?}", accepted.warnings);
    let explained = fleet.control.explain(&owner(), accepted.instance.id.as_str()).await.unwrap();
    assert!(explained.warnings.iter().any(|it| it.field == "config_mode"), "{:?}", explained.warnings);
}

#[tokio::test]
async fn a_lock_that_comes_later_keeps_nobody_from_changing_the_rest() {
    let fleet = Fleet::new().await;
    fleet.ready("alice").await;
    fleet.says("alice", json!({"env": {"A": "mine", "B": "mine"}})).await.unwrap();
    fleet.save("global", json!({"body": {"env": {"A": "global"}}, "locks": ["env.A"]})).await;
    let plan = fleet.control.plan(&owner(), &name("global"), None, &Selector::default()).await.unwrap();
    let told = |fields: Vec<&str>| fields.contains(&"config.env.A");
    assert!(told(plan.instances[0].warnings.iter().map(|it| it.field.as_str()).collect()), "{plan:?}");
    fleet.out("global", json!({"body": {"env": {"A": "global"}}, "locks": ["env.A"], "variables": []})).await;
    let done = fleet.says("alice", json!({"env": {"B": "still mine"}})).await.unwrap();
    assert!(told(done.warnings.iter().map(|it| it.field.as_str()).collect()), "{done:?}");
    assert_eq!(fleet.env("alice").await, json!({"A": "global", "B": "still mine"}));
    for touching in [json!({"env": {"A": "x"}}), json!({"env": {"A": null}}), json!({"env": null})] {
        let refused = fleet.says("alice", touching).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidInput, "{refused}");
    }
    let unset = vec!["env.A".parse().unwrap(), "env.B".parse().unwrap()];
    let done = fleet.change("alice", Configure { unset, ..Configure::default() }).await.unwrap();
    assert!(!told(done.warnings.iter().map(|it| it.field.as_str()).collect()), "{done:?}");
    assert_eq!(fleet.env("alice").await, json!({"A": "global"}));
    assert_eq!(done.instance.layers.own, Some(serde_json::Map::new()));
}

#[tokio::test]
async fn what_no_path_can_name_is_not_kept() {
    let fleet = Fleet::new().await;
    fleet
        .out(
            "support",
            json!({"variables": [{"name": "x", "type": "object"}], "body": {"native": {"x": "${x}"}}}),
        )
        .await;
    fleet.of("support", "alice").await;
    let long = "k".repeat(300);
    for key in ["", long.as_str()] {
        let refused = fleet.says("alice", json!({"native": {"a": {key: 1}}})).await.unwrap_err();
        assert_eq!(field(&refused), (Code::InvalidInput, "config.native.a"));
        let variables = Some(values(json!({"x": {key: 1}})));
        let refused =
            fleet.change("alice", Configure { variables, ..Configure::default() }).await.unwrap_err();
        assert_eq!(field(&refused), (Code::InvalidInput, "variables.x"));
        let refused = fleet.try_save("support", json!({"body": {"env": {key: "1"}}})).await.unwrap_err();
        assert_eq!(field(&refused), (Code::InvalidInput, "body.env"));
        let overrides = map(&json!({"native": {key: 1}}));
        let new = NewInstance { overrides, ..claw("bob") };
        let refused = fleet.control.create(&owner(), new, None).await.unwrap_err();
        assert_eq!(field(&refused), (Code::InvalidInput, "config.native"));
    }
}

#[tokio::test]
async fn a_template_is_checked_with_something_in_its_places() {
    let fleet = Fleet::new().await;
    let of = |kind: &str, body: Value| json!({"variables": [{"name": "v", "type": kind}], "body": body});
    for (wrong, place) in [
        (of("string", json!({"memory": {"limit": "${v}"}})), "config.memory.limit"),
        (of("integer", json!({"env": {"A": "${v}"}})), "config.env.A"),
        (of("string", json!({"model": {"provider": "openai", "api_key": "${v}"}})), "config.model.api_key"),
        (of("secret", json!({"model": {"provider": "openai", "name": "${v}"}})), "config.model.name"),
        (of("string", json!({"modle": {"name": "${v}"}})), "config.modle"),
        (of("string", json!({"memory": {"limt": 1}, "env": {"A": "${v}"}})), "config.memory.limt"),
        (json!({"variables": [{"name": "modle.name", "type": "string"}]}), "config.modle"),
        (json!({"variables": [{"name": "memory.limit", "type": "string"}]}), "config.memory.limit"),
    ] {
        let refused = fleet.try_save("support", wrong.clone()).await.unwrap_err();
        assert_eq!(field(&refused), (Code::InvalidInput, place), "{wrong}: {refused}");
    }
    for right in [
        // Which of these words it is, the instance says.
        of("string", json!({"tools": {"exec": {"mode": "${v}"}}, "logging": {"level": "${v}"}})),
        of("secret", json!({"model": {"provider": "openai", "api_key": "${v}"}})),
        of("string", json!({"model": {"provider": "openai", "api_key": {"secret": "${v}-key"}}})),
        of("number", json!({"memory": {"limit": "${v}"}})),
        of("array", json!({"tools": {"deny": "${v}"}})),
        of("object", json!({"native": {"x": "${v}"}})),
        of("integer", json!({"native": {"x": "${v}"}, "env": {"A": "at ${v}"}})),
        json!({"variables": [{"name": "model.name", "type": "string", "default": "a"},
            {"name": "memory.limit", "type": "number"}]}),
    ] {
        fleet.try_save("support", right.clone()).await.unwrap_or_else(|e| panic!("{right}: {e}"));
    }
}

/// The places of the unified config with a text, a number or a reference in them.
fn leaves(document: &Value, at: &clawfarm_config::ConfigPath, into: &mut Vec<clawfarm_config::ConfigPath>) {
    match document.as_object() {
        Some(map) => {
            into.extend((!at.parts().is_empty()).then(|| at.clone()));
            for (key, value) in map {
                leaves(value, &at.child(key), into);
            }
        }
        None => into.push(at.clone()),
    }
}

/// A key that somebody writes where it doesn't belong is refused, and then nowhere: in no error,
/// plan, event or file of the store. Where it stands for a setting that is text, it is one.
#[tokio::test]
async fn a_key_in_the_wrong_place_is_refused_and_kept_nowhere() {
    const MARK: &str = "sk-ant-Marker\"0123`, expected `x`\\";
    let whole = json!({
        "model": {"provider": "openai", "name": "a", "api_key": {"secret": "k"}, "base_url": "http://x/v1", "fallbacks": ["b"]},
        "providers": {"x": {"type": "openai", "api_key": {"secret": "k"}, "timeout_secs": 3,
            "models": [{"name": "a", "context_tokens": 3}]}},
        "agents": {"timeout_secs": 3, "thinking": "low", "heartbeat": {"every_mins": 5},
            "entries": {"ops": {"model": "x", "tools": {"profile": "full"}}}},
        "channels": {"telegram": {"bot_token": {"secret": "t"}, "allow_from": ["1"]},
            "discord": {"bot_token": {"secret": "t"}},
            "feishu": {"app_id": "x", "app_secret": {"secret": "t"}}},
        "inbox": [{"path": "/x", "check": {"kind": "bearer", "secret": {"secret": "s"}}}],
        "memory": {"limit": 3, "enabled": true},
        "skills": {"x": {"enabled": true, "api_key": {"secret": "s"}, "env": {"A": {"secret": "s"}}}},
        "plugins": {"x": {"enabled": true, "config": {}}},
        "tools": {"profile": "full", "allow": ["a"], "exec": {"mode": "ask", "timeout_secs": 3}},
        "conversations": {"per_person": true, "reset_after_mins": 3},
        "gateway": {"hooks_token": {"secret": "s"}, "terminal": true},
        "proxy": {"url": "http://x", "except": ["a"]},
        "logging": {"level": "info"},
        "env": {"A": {"secret": "s"}},
        "native": {},
    });
    let mut places = Vec::new();
    leaves(&whole, &clawfarm_config::ConfigPath::root(), &mut places);
    assert!(places.len() > 60, "{places:?}");
    let fleet = Fleet::new().await;
    fleet.ready("alice").await;
    let mut refused = 0;
    for place in &places {
        for value in
            [json!(MARK), json!([MARK]), json!({"secret": MARK}), json!({MARK: {"secret": "x"}, "y": [MARK]})]
        {
            let patch = place.holding(value.clone());
            for outcome in [
                fleet.try_save("support", json!({ "body": patch })).await.map(drop),
                fleet
                    .try_save(
                        "support",
                        json!({"body": patch, "variables": [{"name": "v", "type": "string"}]}),
                    )
                    .await
                    .map(drop),
            ] {
                let Err(error) = outcome else { continue };
                refused += 1;
                // A key of an object is a name, not a value.
                let told = format!("{error} {error:?} {}", serde_json::to_string(&error.report()).unwrap());
                assert!(value.is_object() || !told.contains("Marker"), "{place} {value}: {told}");
            }
        }
    }
    assert!(refused > 300, "{refused}");
    // Where it belongs into a secret, it is kept nowhere.
    let fleet = Fleet::new().await;
    fleet.ready("alice").await;
    for place in ["model.api_key", "channels.telegram.bot_token", "skills.x.api_key", "gateway.hooks_token"] {
        let path: clawfarm_config::ConfigPath = place.parse().unwrap();
        let patch = path.holding(json!(MARK));
        fleet.try_save("support", json!({ "body": patch })).await.unwrap_err();
        fleet.says("alice", patch.clone()).await.unwrap_err();
        let new = NewInstance { overrides: map(&patch), ..claw("bob") };
        fleet.control.create(&owner(), new, None).await.unwrap_err();
        let change = ChangeMany { patch: map(&patch), ..ChangeMany::default() };
        let batch = fleet.control.would_configure_many(&owner(), &change).await.unwrap();
        assert!(batch.refusals.len() == 1 && !format!("{batch:?}").contains("Marker"), "{batch:?}");
    }
    let events = fleet.control.events(&owner(), None, None, 500).await.unwrap();
    assert!(!format!("{events:?}").contains("Marker"));
    fleet.control.shutdown(None, false).await.unwrap();
    for file in
        std::fs::read_dir(fleet.home()).unwrap().map(|it| it.unwrap().path()).filter(|it| it.is_file())
    {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(6).any(|it| it == b"Marker"), "{}", file.display());
    }
}

#[tokio::test]
async fn what_says_nothing_any_more_can_be_removed_and_made_anew() {
    let fleet = Fleet::new().await;
    fleet.out("tenant", json!({"body": {"env": {"A": "old"}}, "locks": ["env.A"]})).await;
    fleet.ready("alice").await;
    let refused = fleet.control.remove_config(&owner(), &name("tenant")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Conflict, "{refused}");
    fleet.out("tenant", json!({"body": {}})).await;
    fleet.control.remove_config(&owner(), &name("tenant")).await.unwrap();
    assert_eq!(fleet.env("alice").await, json!({}));
    fleet.says("alice", json!({"env": {"A": "mine"}})).await.unwrap();
    fleet.ready("bob").await;
    let done = fleet.out("tenant", json!({"body": {"env": {"B": "new"}}})).await;
    assert_eq!(done.to, 3);
    assert_eq!(fleet.env("alice").await, json!({"A": "mine", "B": "new"}));
    assert_eq!(fleet.env("bob").await, json!({"B": "new"}));
}

/// A secret's value is in the files of those that use it, and in nothing that is told of them.
#[tokio::test]
async fn a_secret_s_value_is_told_nowhere() {
    const MARK: &str = "Marker-0123456789";
    let fleet = Fleet::new().await;
    let (key, value) = ("k".parse().unwrap(), secrecy::SecretString::from(MARK));
    fleet.control.set_secret(&owner(), None, &key, &value).await.unwrap();
    let body = json!({"env": {"KEY": {"secret": "k"}}, "gateway": {"hooks_token": {"secret": "k"}}});
    fleet.out("support", json!({ "body": body })).await;
    let alice = fleet.of("support", "alice").await;
    let places = ["env.OTHER", "skills.x.env.A", "skills.x.api_key"];
    for place in places {
        let path: clawfarm_config::ConfigPath = place.parse().unwrap();
        fleet.says("alice", path.holding(json!({"secret": "k"}))).await.unwrap();
    }
    fleet.save("support", json!({"body": {"env": {"KEY": {"secret": "k"}, "X": "1"}}})).await;
    let (control, me, support) = (&fleet.control, owner(), name("support"));
    let plan = control.plan(&me, &support, None, &Selector::default()).await.unwrap();
    assert_eq!((plan.instances.len(), plan.refused), (1, 0));
    let begun = fleet.publish("support", clawfarm_config::Strategy::default()).await;
    let done = fleet.stage(&begun.id, clawfarm_config::Stage::Done).await;
    let told = [
        format!("{plan:?} {done:?}"),
        format!("{:?}", control.explain(&me, "alice").await.unwrap()),
        format!("{:?}", control.revisions(&me, &support, None, 100).await.unwrap()),
        format!("{:?}", control.config_diff(&me, &support, 1, 2).await.unwrap()),
        format!("{:?}", control.rollout_members(&me, &done.id, None, None, 100).await.unwrap()),
        format!("{:?}", control.events(&me, None, None, 500).await.unwrap()),
        format!("{:?}", control.get(&me, "alice").await.unwrap()),
        format!("{:?}", control.drift(&me, "alice").await.unwrap()),
    ];
    for it in told {
        assert!(it.len() > 20 && !it.contains("Marker"), "{it}");
    }
    assert!(fleet.count(&alice, clawfarm_runtime_sim::ActKind::Start) > 0);
}
