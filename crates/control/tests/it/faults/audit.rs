//! What must always hold once everything has come to rest: written once, for the tests that
//! let one thing go wrong and for the one that lets everything go wrong by chance.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clawfarm_model::{ClawId, Desired, Instance, ObservedState, OperationState, Phase, Timestamp};
use clawfarm_runtime_sim::{Act, ActKind};

use super::home::Server;
use crate::fleet::owner;

/// What does not hold.
pub(crate) async fn problems(server: &Server) -> Vec<String> {
    let all = server.instances(true).await;
    let mut found = Vec::new();
    operations_ended(server, &mut found).await;
    let world: BTreeMap<ClawId, _> =
        server.world.instances().unwrap().into_iter().map(|seen| (seen.id.clone(), seen)).collect();
    for it in &all {
        if it.phase == Phase::Destroyed {
            if world.contains_key(&it.id) {
                found.push(format!("{} was removed and is still there", it.id));
            }
            continue;
        }
        reached(it, &mut found);
        let seen = world.get(&it.id);
        let state = seen.map_or(ObservedState::Absent, |s| s.state);
        let right = match it.intent.desired {
            Desired::Running => state == ObservedState::Running,
            Desired::Warm => state == ObservedState::Frozen || it.phase == Phase::Suspended,
            Desired::Stopped | Desired::Suspended => !state.is_up(),
            Desired::Destroyed => false,
        };
        if !right && it.phase != Phase::Failed {
            found.push(format!("{} is wanted {:?} and is {state:?}", it.id, it.intent.desired));
        }
        if it.intent.desired == Desired::Running && it.in_force < it.layers.revision {
            found.push(format!("{} does not go by what it is configured with", it.id));
        }
        // What is frozen is started anew when it wakes.
        if it.intent.desired == Desired::Running && seen.is_some_and(|s| s.run < it.intent.run) {
            found.push(format!("{} runs an old launch", it.id));
        }
        let kept = server.world.kept_record(&it.id).unwrap();
        let kept = kept.as_ref().and_then(|r| r.pointer("/intent/desired").cloned());
        let wanted = serde_json::to_value(it.intent.desired).unwrap();
        if kept.is_some_and(|kept| kept != wanted) {
            found.push(format!("{}: what is kept beside it is old", it.id));
        }
    }
    for id in world.keys() {
        if !all.iter().any(|it| it.id == *id) {
            found.push(format!("{id} is an orphan: nobody knows it"));
        }
    }
    for rollout in server.control.rollouts(&owner(), None, 100).await.unwrap() {
        if !rollout.stage.is_over() {
            found.push(format!("{} is {:?}", rollout.id, rollout.stage));
        }
    }
    let room = server.home.join("world/backups");
    for left in std::fs::read_dir(room).into_iter().flatten() {
        found.push(format!("{:?} is left of an archive", left.unwrap().file_name()));
    }
    one_port_each(&all, &mut found);
    folders(server, &all, &mut found).await;
    done_once(&server.world.journal().unwrap(), &mut found);
    phases_follow(server, &all, &mut found).await;
    found
}

async fn operations_ended(server: &Server, found: &mut Vec<String>) {
    let mut cursor: Option<String> = None;
    loop {
        let page = server.control.operations(&owner(), None, cursor.as_deref(), 500).await.unwrap();
        for operation in &page.items {
            if !operation.state.ended() {
                found.push(format!("{:?} of {:?} never ends", operation.kind, operation.instance));
            }
            let open = operation.steps.iter().any(|s| s.ended_at.is_none());
            if operation.state == OperationState::Succeeded && open {
                found.push(format!(
                    "{:?} succeeded with a step left open: {:?}",
                    operation.kind, operation.steps
                ));
            }
            if operation.state == OperationState::Failed && operation.error.is_none() {
                found.push(format!("{:?} failed without a reason", operation.kind));
            }
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None => return,
        }
    }
}

fn reached(it: &Instance, found: &mut Vec<String>) {
    let right = match it.intent.desired {
        Desired::Running => matches!(it.phase, Phase::Ready | Phase::Failed),
        Desired::Stopped => it.phase == Phase::Stopped,
        Desired::Suspended => it.phase == Phase::Suspended,
        Desired::Warm => matches!(it.phase, Phase::Warm | Phase::Suspended),
        Desired::Destroyed => false,
    };
    if !right {
        found.push(format!("{} is wanted {:?} and is {}", it.id, it.intent.desired, it.phase));
    }
    if it.phase == Phase::Failed && it.last_error.as_ref().is_none_or(|e| e.message.is_empty()) {
        found.push(format!("{} failed without a reason", it.id));
    }
}

fn one_port_each(all: &[Instance], found: &mut Vec<String>) {
    let mut ports = BTreeSet::new();
    for it in all {
        match (it.port, it.phase) {
            (Some(port), Phase::Destroyed) => {
                found.push(format!("{} was removed and keeps port {port}", it.id));
            }
            (Some(port), _) if !ports.insert(port) => found.push(format!("port {port} was given twice")),
            _ => {}
        }
    }
}

/// Each folder is somebody's, and each dataset that is listed is there.
async fn folders(server: &Server, all: &[Instance], found: &mut Vec<String>) {
    let live = |name: &str| all.iter().any(|it| it.id.as_str() == name && it.phase != Phase::Destroyed);
    for shard in names(&server.home.join("world/data")) {
        for name in names(&server.home.join("world/data").join(&shard)) {
            if !live(&name) {
                found.push(format!("the folder of {name} is left"));
            }
        }
    }
    let listed: BTreeSet<_> =
        server.control.datasets(&owner()).await.unwrap().into_iter().map(|d| d.id).collect();
    let there: BTreeSet<_> = server.world.datasets().unwrap().into_iter().collect();
    for id in there.difference(&listed) {
        found.push(format!("the dataset {id} is not listed: it is lost"));
    }
    for id in listed.difference(&there) {
        found.push(format!("the dataset {id} is listed and not there"));
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

/// No claw is made twice or started on top of itself, and none is touched after its end.
fn done_once(journal: &[Act], found: &mut Vec<String>) {
    let mut lives: BTreeMap<&ClawId, BTreeSet<u64>> = BTreeMap::new();
    let mut up: BTreeMap<&ClawId, bool> = BTreeMap::new();
    let mut ends: BTreeMap<&ClawId, Timestamp> = BTreeMap::new();
    for act in journal {
        lives.entry(&act.id).or_default().insert(act.born);
        let is_up = up.entry(&act.id).or_insert(false);
        match act.act {
            ActKind::Start | ActKind::Resume => {
                // What crashes ends by itself, at a time that its last act has told.
                let ended = ends.get(&act.id).is_some_and(|at| *at <= act.at);
                if *is_up && !ended {
                    found.push(format!("{} was started while it was up", act.id));
                }
                *is_up = true;
            }
            ActKind::Stop | ActKind::Kill | ActKind::Suspend | ActKind::Destroy => *is_up = false,
            _ => {}
        }
        match act.ends_at {
            Some(at) => ends.insert(&act.id, at),
            None => ends.remove(&act.id),
        };
    }
    for (id, lives) in lives.iter().filter(|(_, lives)| lives.len() > 1) {
        found.push(format!("{id} was made {} times", lives.len()));
    }
}

/// The phases that were told follow one another, from the first to the present one.
async fn phases_follow(server: &Server, all: &[Instance], found: &mut Vec<String>) {
    let mut at: BTreeMap<ClawId, String> = BTreeMap::new();
    let mut after = 0;
    loop {
        let (events, last) = server.control.events(&owner(), None, Some(after), 500).await.unwrap();
        if events.is_empty() {
            break;
        }
        after = last;
        for event in events.into_iter().filter(|e| e.reason == "phase") {
            let Some(id) = event.instance else { continue };
            let (from, to) = event.message.split_once(" -> ").unwrap();
            let before = at.insert(id.clone(), to.to_owned());
            if before.as_deref().unwrap_or("creating") != from {
                found.push(format!("{id}: '{}' was told after {before:?}", event.message));
            }
        }
    }
    for it in all {
        let told = at.get(&it.id).map_or("creating", String::as_str);
        if told != it.phase.as_str() {
            found.push(format!("{} is {}, and was last told to be {told}", it.id, it.phase));
        }
    }
}
