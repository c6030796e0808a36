//! The database is lost, and the claws are there.

use std::collections::BTreeMap;
use std::path::Path;

use clawfarm_adapters::SendEvent;
use clawfarm_control::{Findings, Verdict};
use clawfarm_model::config::{ClawConfig, EnvValue};
use clawfarm_model::secret::{SecretName, SecretRef};
use clawfarm_model::{ClawId, Code, Instance, Phase};
use clawfarm_runtime::Runtime;
use clawfarm_runtime_sim::{ActKind, Failure, SimConfig, SimRuntime, Verb};
use futures::StreamExt;
use serde_json::Value;

use crate::fleet::{Fleet, claw, owner};

#[tokio::test]
async fn a_lost_store_is_rebuilt_and_nothing_is_started_or_stopped_for_it() {
    let fleet = Fleet::with(|b| {
        let never = Failure::new(Verb::Start, Code::Unsupported);
        b.failures.push(Failure { claws: "dave-*".into(), ..never });
    })
    .await;
    let mut labelled = claw("alice");
    labelled.labels.insert("team".into(), "blue".into());
    let accepted = fleet.control.create(&owner(), labelled, None).await.unwrap();
    fleet.reached(accepted).await;
    fleet.reached(fleet.control.restart(&owner(), "alice").await.unwrap()).await;
    for name in ["bob", "carol", "warm"] {
        fleet.ready(name).await;
    }
    fleet.reached(fleet.control.stop(&owner(), "bob", false).await.unwrap()).await;
    fleet.reached(fleet.control.suspend(&owner(), "carol", false, false).await.unwrap()).await;
    fleet.reached(fleet.control.suspend(&owner(), "warm", true, false).await.unwrap()).await;
    fleet.control.create(&owner(), claw("dave"), None).await.unwrap();
    fleet.until_phase("dave", Phase::Failed).await;
    let token = fleet.control.reveal_token(&owner(), "alice").await.unwrap().token;
    let names = ["alice", "bob", "carol", "dave", "warm"];
    let before = all(&fleet, &names).await;
    let acts = fleet.world.journal().unwrap().len();

    let fleet = fleet
        .store_lost(async |parts| {
            let mut found = Findings::look(parts).await.unwrap();
            assert_eq!((found.lost(), found.has_refused()), (5, false), "{found:?}");
            found.put_back(parts).await.unwrap();
            assert!(
                found.instances.iter().all(|f| matches!(&f.verdict, Verdict::Recovered(l) if !l.restarts))
            );
            let mut again = Findings::look(parts).await.unwrap();
            assert!(again.instances.iter().all(|f| matches!(f.verdict, Verdict::Known)), "{again:?}");
            again.put_back(parts).await.unwrap();
        })
        .await;
    fleet.until_phase("alice", Phase::Ready).await;
    let (mut said, mut answer) =
        (String::new(), fleet.control.send(&owner(), "alice", "hello").await.unwrap());
    while let Some(event) = answer.next().await {
        if let SendEvent::Text { text } = event.unwrap() {
            said.push_str(&text);
        }
    }
    assert!(!said.is_empty());
    for (old, new) in before.iter().zip(all(&fleet, &names).await) {
        let of =
            |i: &Instance| (i.id.clone(), i.tenant.clone(), i.project.clone(), i.name.clone(), i.created_at);
        assert_eq!(of(old), of(&new));
        assert_eq!(
            (&old.spec, old.intent, old.port, old.phase),
            (&new.spec, new.intent, new.port, new.phase)
        );
        let (events, _) = fleet.control.events(&owner(), Some(new.id.as_str()), None, 10).await.unwrap();
        assert_eq!(events[0].reason, "recovered");
    }
    assert_eq!(fleet.world.journal().unwrap().len(), acts, "something was done to a claw");
    let same = fleet.control.reveal_token(&owner(), "alice").await.unwrap().token;
    assert_eq!(secrecy::ExposeSecret::expose_secret(&same), secrecy::ExposeSecret::expose_secret(&token));
    // What was asleep wakes, what had failed starts when it is asked to.
    assert_eq!(
        fleet.reached(fleet.control.resume(&owner(), "carol").await.unwrap()).await.phase,
        Phase::Ready
    );
    fleet.world.change_behaviour(|b| b.failures.clear()).unwrap();
    assert_eq!(fleet.reached(fleet.control.start(&owner(), "dave").await.unwrap()).await.phase, Phase::Ready);
}

#[tokio::test]
async fn what_can_not_be_believed_is_refused_and_lost_keys_cost_one_restart() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let bob = fleet.ready("bob").await;
    let mut keyed = claw("carol");
    let name = SecretName::new("a-key").unwrap();
    fleet.control.set_secret(&owner(), None, &name, &"v".into()).await.unwrap();
    let reference = EnvValue::Secret(SecretRef { secret: name.clone() });
    keyed.config = ClawConfig { env: BTreeMap::from([("A_KEY".into(), reference)]), ..keyed.config };
    let accepted = fleet.control.create(&owner(), keyed, None).await.unwrap();
    fleet.reached(accepted).await;
    forget_keys(&fleet.home().join("world"), &alice.id);
    let world = SimRuntime::open(SimConfig::new(fleet.home().join("world"))).unwrap();
    let theirs = fleet.world.kept_record(&alice.id).unwrap().unwrap();
    let whole = fleet.world.kept_record(&bob.id).unwrap().unwrap();
    let with = |pointer: &str, value: Value| {
        let mut changed = whole.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        changed.pointer_mut(parent).unwrap()[key] = value;
        changed
    };
    for record in [
        theirs,
        with("/intent/run", i64::MAX.into()),
        with("/spec/port", 22.into()),
        with("/spec/runtime", "vm".into()),
        with("/spec/claw_type", "unknown".into()),
        with("/spec/labels", serde_json::json!({ "a\n": "b" })),
        with("/tenant", "../x".into()),
        serde_json::json!("junk"),
    ] {
        world.keep_record(&bob.id, &record).await.unwrap();
        let found = Findings::look(&crate::fleet::parts_beside(fleet.home()).await).await.unwrap();
        let of_bob = found.instances.iter().find(|f| f.id == bob.id).unwrap();
        let Verdict::Refused(error) = &of_bob.verdict else { panic!("{record} passed") };
        assert!(error.field_name().is_some() && error.fix_text().is_some(), "{record}: {error:?}");
    }

    let fleet = fleet
        .store_lost(async |parts| {
            let mut found = Findings::look(parts).await.unwrap();
            found.put_back(parts).await.unwrap();
            assert!(found.has_refused());
            for it in &found.instances {
                match &it.verdict {
                    Verdict::Recovered(lost) if it.id == alice.id => assert!(lost.restarts),
                    Verdict::Recovered(lost) => assert_eq!(lost.secrets, std::slice::from_ref(&name)),
                    other => assert!(it.id == bob.id && matches!(other, Verdict::Refused(_)), "{other:?}"),
                }
            }
        })
        .await;
    fleet
        .until("alice", "it was started again", |i| {
            i.phase == Phase::Ready && i.observed.as_ref().is_some_and(|o| o.run > 1)
        })
        .await;
    assert_eq!(fleet.count(&alice, ActKind::Start), 2);
    assert!(fleet.control.send(&owner(), "alice", "hello").await.is_ok());
    assert_eq!(fleet.acts(&bob), [ActKind::Ensure, ActKind::Start], "what was refused goes on as it is");
}

async fn all(fleet: &Fleet, names: &[&str]) -> Vec<Instance> {
    let mut all = Vec::new();
    for name in names {
        all.push(fleet.control.get(&owner(), name).await.unwrap());
    }
    all
}

/// As where a claw's environment can't be read.
fn forget_keys(world: &Path, id: &ClawId) {
    let file = std::fs::read_dir(world.join("claws")).unwrap().flatten();
    let file =
        file.map(|shard| shard.path().join(id.as_str())).find(|path| path.is_file()).expect("its file");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(last["life"]["up"].as_object_mut().unwrap().remove("keys").is_some());
    std::fs::write(&file, format!("{last}\n")).unwrap();
}
