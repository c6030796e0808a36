//! The server is killed at every point of every operation, and another one goes on.

use clawfarm_failpoint::Point;
use clawfarm_model::{Code, ConfigName, Phase};
use clawfarm_runtime_sim::ActKind;
use futures::StreamExt;

use super::child;
use super::home::{Server, copy};
use super::scenario::{self, Op, Scenario};
use crate::fleet::owner;

/// Cases at a time: two cores' worth, and what waits.
const AT_ONCE: usize = 3;

async fn killed_everywhere(name: &str) {
    let scenario = scenario::by_name(name);
    let template = scenario::prepared(scenario).await;
    let whole = copy(template.path());
    let hits = child::run(whole.path(), name, None).await.hits;
    assert!(hits.len() > 3, "{name} reaches hardly a point: {hits:?}");
    // The first and the last time that each point is reached, and one between them.
    let mut cases: Vec<(Point, u64)> = Vec::new();
    for (point, count) in hits {
        cases.extend([1, count.div_ceil(2), count].map(|hit| (point, hit)));
    }
    cases.dedup();
    let template = template.path();
    let outcomes = futures::stream::iter(cases)
        .map(|(point, hit)| async move {
            let home = copy(template);
            let ended = child::run(home.path(), name, Some((point, hit))).await;
            // How often it looks is a matter of time, and whether it asks a claw that it is about
            // to end; everything else is not.
            let by_chance = hit > 1 || matches!(point, Point::DialBefore | Point::DialAfter);
            assert!(ended.killed || by_chance, "{name}: {point:?} was not reached");
            let what = format!("{name}, killed at {point:?} {hit}");
            Box::pin(goes_on(home.path(), scenario, ended.accepted, &what)).await;
            u32::from(ended.killed)
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<u32>>()
        .await;
    let killed = outcomes.iter().sum::<u32>() as usize;
    eprintln!("{name}: {} cases, {killed} killed", outcomes.len());
    assert!(killed * 2 > outcomes.len(), "{name}: only {killed} of {} cases were killed", outcomes.len());
}

/// The next server brings it to its end; what was not acknowledged is asked for again.
async fn goes_on(home: &std::path::Path, scenario: Scenario, accepted: bool, what: &str) {
    let server = Server::begin(home).await;
    // A dataset is listed until it is known to be gone, so that its removal can be asked for again.
    if accepted || scenario.op != Op::RemoveDataset {
        server.settles(what).await;
    }
    if !accepted {
        match scenario::perform(&server, scenario.op, "alice", 1).await {
            Ok(Some(operation)) => {
                let ended = scenario::ended(&server, &operation).await.unwrap();
                assert!(scenario::ended_well(scenario.op, &ended), "{what}: asked again, {:?}", ended.error);
            }
            Ok(None) => {}
            // It had been done, and only the answer was lost.
            Err(error) => {
                assert!(
                    error.code() == Code::NotFound
                        && matches!(
                            scenario.op,
                            Op::Remove | Op::Purge | Op::RemoveDataset | Op::NewOfDataset
                        )
                        || error.code() == Code::Conflict && scenario.op == Op::RotateToken,
                    "{what}: asked again, {error:?}"
                );
            }
        }
        server.settles(what).await;
    }
    let alice = server.by_name("alice").await;
    assert_eq!(alice.as_ref().map(|i| i.phase), scenario.ends, "{what}: {alice:#?}");
    let live = server.instances(false).await.iter().filter(|i| i.phase != Phase::Destroyed).count();
    let wanted = usize::from(scenario.ends.is_some()) + usize::from(scenario.op == Op::Begin);
    assert_eq!(live, wanted, "{what}: something was made twice or lost");
    // A start for each time that one was due, and none beside: those before, and this one's.
    if let Some(alice) = &alice {
        let starts =
            server.world.acts_on(&alice.id).unwrap().iter().filter(|a| **a == ActKind::Start).count();
        let due = match scenario.op {
            Op::New | Op::NewOfDataset | Op::Import | Op::Stop | Op::Kill => 1..=1,
            Op::Suspend | Op::Warm | Op::Idle => 1..=1,
            Op::Resume | Op::Backup | Op::Restore => 1..=1,
            // It takes it up while it runs.
            Op::Publish | Op::ChangeMany => 1..=1,
            // The first version, the one that crashes, and the first again.
            Op::UpdateToBroken | Op::PublishBroken | Op::ChangeManyBroken => {
                3..=3 + 2 * usize::from(!accepted)
            }
            // Asked for once more, it is done once more.
            _ => 2..=2 + usize::from(!accepted),
        };
        assert!(due.contains(&starts), "{what}: started {starts} times");
    }
    if let Some(alice) = &alice {
        let version = match scenario.name {
            "update" | "update_at_start" => scenario::NEW,
            _ => "2026.9.6",
        };
        assert_eq!((alice.spec.version.as_str(), &alice.update), (version, &None), "{what}");
        let ran = server.world.versions(&alice.id).unwrap();
        assert!(ran.iter().all(|ran| ran != scenario::BROKEN), "{what}: {ran:?} wrote to the data");
        assert_eq!(ran.last().map(String::as_str), Some(version), "{what}");
        assert!(!server.world.has_copy(&alice.id), "{what}: a copy of its data is left");
        if scenario.op == Op::Restore {
            assert_eq!(ran.len(), 2, "{what}: the start of before is in its data, too");
        }
    }
    if let (Some(alice), Op::Publish) = (&alice, scenario.op) {
        let level = serde_json::to_value(&alice.spec.config.logging).unwrap();
        assert_eq!(level, serde_json::json!({"level": "debug"}), "{what}");
        let config = server.control.config(&owner(), &ConfigName::global()).await.unwrap();
        assert_eq!((config.head, config.published, config.rollout), (1, Some(1), None), "{what}");
    }
    if let (Some(alice), Op::ChangeMany) = (&alice, scenario.op) {
        let level = serde_json::json!({"level": "debug"});
        assert_eq!(alice.layers.own.as_ref().and_then(|own| own.get("logging")), Some(&level), "{what}");
        assert_eq!(serde_json::to_value(&alice.spec.config.logging).unwrap(), level, "{what}");
    }
    if let (Some(alice), Op::ChangeManyBroken) = (&alice, scenario.op) {
        let own = alice.layers.own.clone().unwrap_or_default();
        let now = (own.get("env"), own.get("native"), alice.spec.config.env.len(), &alice.last_error);
        assert_eq!(now, (None, None, 0, &None), "{what}");
    }
    if let (Some(alice), Op::PublishBroken) = (&alice, scenario.op) {
        let now = (alice.layers.applied.len(), alice.spec.config.env.len(), &alice.last_error);
        assert_eq!(now, (0, 0, &None), "{what}");
        let config = server.control.config(&owner(), &ConfigName::global()).await.unwrap();
        assert_eq!((config.head, config.published, config.rollout), (1, None, None), "{what}");
    }
    let datasets = server.world.datasets().unwrap().len();
    assert_eq!(datasets, usize::from(scenario.op == Op::Remove), "{what}: datasets");
    server.end().await;
}

macro_rules! killed_everywhere {
    ($($name:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            killed_everywhere(stringify!($name)).await;
        })*

        /// A scenario without a test would prove nothing.
        #[test]
        fn every_scenario_is_run() {
            let run = [$(stringify!($name)),*];
            assert_eq!(run.as_slice(), scenario::ALL.iter().map(|s| s.name).collect::<Vec<_>>());
        }
    };
}

killed_everywhere!(
    new new_of_dataset import start stop kill restart suspend warm idle thaw wake_by_message change
    rotate_token remove purge remove_dataset update update_undone update_at_start backup
    restore publish publish_undone change_many change_many_undone begin
);
