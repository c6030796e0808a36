//! Running claws are asked whether they would take what is to be published.

use std::time::Duration;

use clawfarm_config::{Selector, Stage, Strategy};
use clawfarm_control::{Configure, Plan, Publish};
use clawfarm_model::{Code, Phase};
use serde_json::{Value, json};

use crate::configs::{map, name};
use crate::fleet::{Fleet, owner};

/// A template's content, with what a simulated claw is told of how it is to judge.
fn judged(value: &str, sim: &Value) -> Value {
    json!({"body": {"env": {"A": value}, "native": {"sim": sim}}})
}

impl Fleet {
    async fn planned(&self) -> Plan {
        self.control.plan(&owner(), &name("support"), None, &Selector::default()).await.unwrap()
    }

    async fn asks(&self, sim: Value) -> Plan {
        self.save("support", judged("2", &sim)).await;
        self.planned().await
    }
}

async fn fleet() -> Fleet {
    let fleet = Fleet::new().await;
    fleet.out("support", judged("1", &json!({}))).await;
    for n in 0..3 {
        fleet.of("support", &format!("claw-{n}")).await;
    }
    fleet
}

#[tokio::test]
async fn what_a_claw_refuses_goes_to_nobody() {
    let fleet = fleet().await;
    let plan = fleet.asks(json!({"invalid": "no such key"})).await;
    assert_eq!((plan.instances.len(), plan.refused, plan.refusals.len()), (0, 3, 3), "{plan:?}");
    for it in &plan.refusals {
        assert_eq!(it.field, "config.native.sim.invalid", "{it:?}");
        assert!(it.reason.contains("no such key"), "{it:?}");
    }
    let refused = fleet.control.publish(&owner(), &name("support"), Publish::default()).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.field_name()),
        (Code::InvalidInput, Some("config.native.sim.invalid"))
    );
    assert!(
        refused.to_string().contains("claw-") && refused.to_string().contains("no such key"),
        "{refused}"
    );
    assert!(fleet.control.rollouts(&owner(), None, 10).await.unwrap().len() == 1, "only the first one");
    assert_eq!(fleet.env("claw-0").await, json!({"A": "1"}));
    // One that it takes goes out.
    let plan = fleet.asks(json!({})).await;
    assert!(plan.refused == 0 && plan.instances.iter().all(|it| it.not_asked.is_none()), "{plan:?}");
    let begun = fleet.publish("support", Strategy::default()).await;
    fleet.stage(&begun.id, Stage::Done).await;
}

#[tokio::test]
async fn what_nobody_answers_is_told_and_refuses_nothing() {
    let fleet = fleet().await;
    let plan = fleet.asks(json!({"judge": "garbage"})).await;
    assert_eq!(plan.refused, 0);
    assert!(
        plan.instances.iter().all(|it| it.not_asked.as_ref().is_some_and(|why| why.contains("no answer"))),
        "{plan:?}"
    );
    // What an old revision has against it is not the new one's fault.
    let begun = fleet.publish("support", Strategy::default()).await;
    fleet.stage(&begun.id, Stage::Done).await;
    let events = fleet.control.events(&owner(), None, None, 200).await.unwrap().0;
    let told = events.iter().any(|it| it.message.contains("3 of them take it was not asked beforehand"));
    assert!(told, "{events:#?}");
    // Nobody is up that could be asked.
    for n in 0..3 {
        fleet
            .reached(fleet.control.suspend(&owner(), &format!("claw-{n}"), false, true).await.unwrap())
            .await;
    }
    let plan = fleet.asks(json!({"invalid": 1})).await;
    assert_eq!((plan.refused, plan.instances.len()), (0, 3));
    assert!(plan.instances[0].not_asked.as_ref().unwrap().contains("up and well"), "{plan:?}");
}

#[tokio::test]
async fn only_those_that_would_be_configured_so_are_refused() {
    let fleet = fleet().await;
    // One says otherwise itself, and one is well with what another would not take.
    let own =
        Configure { patch: map(&json!({"native": {"sim": {"invalid": null}}})), ..Configure::default() };
    fleet.control.configure(&owner(), "claw-1", None, &own).await.unwrap();
    fleet.until_phase("claw-1", Phase::Ready).await;
    let plan = fleet.asks(json!({"invalid": "no such key"})).await;
    let refused: Vec<_> = plan.refusals.iter().map(|it| it.id.as_str()).collect();
    assert_eq!((plan.instances.len(), refused.len()), (1, 2), "{plan:?}");
    assert!(plan.instances[0].id.as_str().starts_with("claw-1-"), "{plan:?}");
}

#[tokio::test]
async fn who_goes_while_a_claw_is_asked_has_begun_nothing() {
    let fleet = fleet().await;
    fleet.save("support", judged("2", &json!({"judge": "silence"}))).await;
    // It is waited for far longer than this.
    let (caller, support) = (owner(), name("support"));
    let asking = fleet.control.publish(&caller, &support, Publish::default());
    let gone = tokio::time::timeout(Duration::from_secs(2), asking).await;
    assert!(gone.is_err(), "nobody answered, and yet: {gone:?}");
    assert_eq!(fleet.control.config(&owner(), &name("support")).await.unwrap().rollout, None);
    // A server that begins later finds nothing of it, and another revision goes out.
    let fleet = fleet.restarted().await;
    fleet.save("support", judged("3", &json!({}))).await;
    let begun = fleet.publish("support", Strategy::default()).await;
    fleet.stage(&begun.id, Stage::Done).await;
}
