//! Several servers on one store and one world.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clawfarm_adapters::Registry;
use clawfarm_adapters::openclaw::OpenClaw;
use clawfarm_config::{Amount, Pause, Stage, Step, Strategy};
use clawfarm_control::{Accepted, Control, Doors, Entrance, NewInstance, Parts, Publish, Sharing, Traffic};
use clawfarm_model::name::TargetName;
use clawfarm_model::server::Member;
use clawfarm_model::target::{RuntimeKind, Target};
use clawfarm_model::{Instance, OperationState, Phase, Timestamp};
use clawfarm_runtime_sim::{ActKind, SimConfig, SimRuntime, World};
use clawfarm_store::{MasterKey, Store, StoreConfig};

use crate::fleet::{claw, owner};

const LIMIT: Duration = Duration::from_secs(40);

async fn store(home: &Path) -> Store {
    let key = MasterKey::load_or_create(&home.join("master.key")).unwrap();
    Store::open(StoreConfig::sqlite(home.join("clawfarm.db"), key)).await.unwrap()
}

async fn server(home: &Path, store: Store, node: &str, ttl: Duration) -> Control {
    let target = Target {
        name: TargetName::new("sim").unwrap(),
        runtime: RuntimeKind::Sim,
        labels: Default::default(),
        reachable_from: None,
        settings: serde_json::Value::Null,
    };
    let runtime = SimRuntime::open(SimConfig::new(home.join("world"))).unwrap();
    let member = Member {
        node: node.into(),
        session: format!("{node}-{:?}", std::time::Instant::now()),
        name: node.into(),
        version: "0.1.0".into(),
        address: None,
        targets: Vec::new(),
    };
    Control::begin(Parts {
        store,
        adapters: Registry::new([Arc::new(OpenClaw) as _]),
        targets: vec![(target, Arc::new(runtime))],
        opener: None,
        sharing: Some(Sharing { member, ttl }),
    })
    .await
    .unwrap()
}

async fn done(control: &Control, accepted: &Accepted) {
    let never = Timestamp::from_millis(i64::MAX);
    let ended = control.operation_changed(&owner(), &accepted.operation.id, never, LIMIT).await.unwrap();
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
}

async fn reached(control: &Control, accepted: Accepted) -> Instance {
    done(control, &accepted).await;
    control.get(&owner(), accepted.instance.id.as_str()).await.unwrap()
}

/// Waits until the leases are shared so.
async fn until_shared(control: &Control, wanted: &[u32]) {
    let begun = std::time::Instant::now();
    loop {
        let servers = control.servers(&owner()).await.unwrap();
        let mut held: Vec<u32> = servers.iter().filter(|s| s.live).map(|s| s.leases).collect();
        held.sort_unstable();
        if held == wanted {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} for {wanted:?}: {servers:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_one_server_is_done_by_the_one_that_holds_the_lease() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path()).await;
    // So long that nothing but the events can wake the holder within the test's limit.
    let ttl = Duration::from_secs(3600);
    let holder = server(home.path(), store.clone(), "a", ttl).await;
    let asked = server(home.path(), store, "b", ttl).await;
    let held: Vec<u32> = asked.servers(&owner()).await.unwrap().iter().map(|s| s.leases).collect();
    assert_eq!(held, [64, 0], "the first has all, the second does nothing by itself");

    let c = &asked;
    let it = reached(c, c.create(&owner(), claw("alice"), None).await.unwrap()).await;
    let id = it.id.as_str();
    assert_eq!(it.phase, Phase::Ready);
    let stopped = reached(c, c.stop(&owner(), id, false).await.unwrap()).await;
    assert_eq!(stopped.phase, Phase::Stopped);
    reached(c, c.start(&owner(), id).await.unwrap()).await;
    reached(c, c.suspend(&owner(), id, true, false).await.unwrap()).await;
    reached(c, c.resume(&owner(), id).await.unwrap()).await;
    reached(c, c.rotate_token(&owner(), id).await.unwrap()).await;
    reached(c, c.restart(&owner(), id).await.unwrap()).await;
    reached(c, c.kill(&owner(), id).await.unwrap()).await;
    done(c, &c.remove(&owner(), id, true, false).await.unwrap()).await;
    let world = World::open(home.path().join("world")).unwrap();
    let count = |act| world.acts_on(&it.id).unwrap().into_iter().filter(|a| *a == act).count();
    assert_eq!(
        (count(ActKind::Ensure), count(ActKind::Start), count(ActKind::Freeze), count(ActKind::Destroy)),
        (1, 4, 1, 1)
    );
    // A watcher at either sees it all.
    let all = |control: Control| async move { control.events(&owner(), None, Some(0), 500).await.unwrap().0 };
    assert_eq!(all(holder.clone()).await, all(asked.clone()).await);
    holder.shutdown(None, false).await.unwrap();
    asked.shutdown(None, false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_are_even_and_those_of_a_server_that_ends_go_to_the_others_at_once() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path()).await;
    let ttl = Duration::from_secs(2);
    let mut all = Vec::new();
    for node in ["a", "b", "c"] {
        all.push(server(home.path(), store.clone(), node, ttl).await);
    }
    until_shared(&all[0], &[20, 22, 22]).await;
    let mut made = Vec::new();
    for n in 0..30 {
        let control = &all[n % 3];
        made.push((control.create(&owner(), claw(&format!("c{n}")), None).await.unwrap(), (n + 1) % 3));
    }
    let mut ids = Vec::new();
    for (accepted, other) in made {
        ids.push(reached(&all[other], accepted).await.id);
    }
    all[2].shutdown(None, false).await.unwrap();
    until_shared(&all[0], &[32, 32]).await;
    for id in &ids {
        let accepted = all[0].stop(&owner(), id.as_str(), false).await.unwrap();
        reached(&all[1], accepted).await;
    }
    let world = World::open(home.path().join("world")).unwrap();
    for id in &ids {
        let acts = world.acts_on(id).unwrap();
        let count = |act| acts.iter().filter(|a| **a == act).count();
        assert_eq!(
            (count(ActKind::Ensure), count(ActKind::Start), count(ActKind::Stop)),
            (1, 1, 1),
            "{acts:?}"
        );
    }
    for control in &all[..2] {
        control.shutdown(None, false).await.unwrap();
    }
}

#[test]
fn the_work_of_a_server_that_died_is_taken_over_when_its_time_is_over() {
    let home = tempfile::tempdir().unwrap();
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ttl = Duration::from_secs(2);
    // With a runtime of its own each, so that one can be ended at any instruction.
    let (first, second) = (runtime(), runtime());
    let a = first.block_on(async { server(home.path(), store(home.path()).await, "a", ttl).await });
    let b = second.block_on(async { server(home.path(), store(home.path()).await, "b", ttl).await });
    second.block_on(until_shared(&b, &[32, 32]));
    let world = World::open(home.path().join("world")).unwrap();
    world.change_behaviour(|b| b.claw.boot_ms = Some((500, 500))).unwrap();
    let made = second.block_on(async {
        let mut made = Vec::new();
        for n in 0..20 {
            made.push(b.create(&owner(), claw(&format!("c{n}")), None).await.unwrap());
        }
        made
    });
    drop(a);
    first.shutdown_background();
    second.block_on(async {
        until_shared(&b, &[64]).await;
        for accepted in made {
            let it = reached(&b, accepted).await;
            let acts = world.acts_on(&it.id).unwrap();
            assert_eq!(acts, [ActKind::Ensure, ActKind::Start]);
        }
        b.shutdown(None, false).await.unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_give_the_last_memory_of_a_target_once() {
    let home = tempfile::tempdir().unwrap();
    let (room, wanted) = (5, 1000);
    let world = World::open(home.path().join("world")).unwrap();
    world
        .change_behaviour(|b| {
            // Beside what is left to the machine itself.
            b.capacity.memory_mib = 256 + room * wanted;
            b.capacity.memory_available_mib = b.capacity.memory_mib;
        })
        .unwrap();
    let store = store(home.path()).await;
    let ttl = Duration::from_secs(3600);
    let servers = [
        server(home.path(), store.clone(), "a", ttl).await,
        server(home.path(), store.clone(), "b", ttl).await,
    ];
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let server = servers[n % 2].clone();
            tokio::spawn(async move {
                let mut new = claw("alice");
                new.memory_mib = Some(u32::try_from(wanted).unwrap());
                server.create(&owner(), new, None).await
            })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => made += 1,
            Err(error) => assert_eq!(error.code(), clawfarm_model::Code::Insufficient, "{error}"),
        }
    }
    let target = TargetName::new("sim").unwrap();
    let promised =
        store.promised_memory_mib(&clawfarm_model::Context::system("test"), &target).await.unwrap();
    assert_eq!((made, promised), (room, room * wanted));
}

/// An edge with so many silent WebSockets to one claw.
struct Sockets(clawfarm_model::ClawId, AtomicUsize);

impl Doors for Sockets {
    fn address(&self, id: &clawfarm_model::ClawId) -> String {
        format!("http://{id}.localhost:1/")
    }

    fn open(&self, _: &Entrance) -> clawfarm_model::Result<String> {
        Ok(String::new())
    }

    fn traffic(&self, id: &clawfarm_model::ClawId) -> Traffic {
        let sockets = if *id == self.0 { self.1.load(Ordering::Relaxed) } else { 0 };
        Traffic { requests: 0, sockets, last: None }
    }

    fn all_traffic(&self) -> Vec<(clawfarm_model::ClawId, Traffic)> {
        vec![(self.0.clone(), self.traffic(&self.0))]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dashboard_at_one_server_keeps_another_from_suspending_its_claw() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path()).await;
    let ttl = Duration::from_secs(3600);
    let holder = server(home.path(), store.clone(), "a", ttl).await;
    let other = server(home.path(), store, "b", ttl).await;
    let mut new = claw("alice");
    new.policy.idle_seconds = Some(900);
    let it = reached(&holder, holder.create(&owner(), new, None).await.unwrap()).await;
    let id = it.id.as_str();
    let later = |secs| {
        for server in [&holder, &other] {
            server.advance_sleep_clock(Duration::from_secs(secs));
        }
    };
    let until = async |phase| {
        let begun = std::time::Instant::now();
        while holder.get(&owner(), id).await.unwrap().phase != phase || !holder.sleep_knows(&it.id, phase) {
            assert!(begun.elapsed() < LIMIT, "not {phase}: {:?}", holder.outlook(&owner(), id).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let dashboard = Arc::new(Sockets(it.id.clone(), AtomicUsize::new(1)));
    other.set_doors(Arc::clone(&dashboard) as _);
    until(Phase::Ready).await;
    // For use elsewhere a reserve is kept. Silent as it is, the claw goes warm.
    later(1000);
    until(Phase::Warm).await;
    // The other's clock first: what it has seen by then is written before the holder looks.
    other.advance_sleep_clock(Duration::from_secs(200));
    other.write_use_marks().await;
    holder.advance_sleep_clock(Duration::from_secs(200));
    let begun = std::time::Instant::now();
    loop {
        let kept = holder.outlook(&owner(), id).await.unwrap().kept_awake_by.join("; ");
        if kept.contains("WebSocket") {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "{:?}", holder.outlook(&owner(), id).await);
        other.write_use_marks().await;
    }
    assert_eq!(holder.get(&owner(), id).await.unwrap().phase, Phase::Warm);
    // It is closed.
    dashboard.1.store(0, Ordering::Relaxed);
    later(300);
    until(Phase::Suspended).await;
}

/// Two servers whose clocks pass a job's time together, while the leases move between them.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_race_for_a_job_wake_its_claw_once() {
    const CLAWS: usize = 12;
    let home = tempfile::tempdir().unwrap();
    let world = World::open(home.path().join("world")).unwrap();
    let job = Timestamp::now().after(Duration::from_secs(7200));
    world.change_behaviour(|b| b.claw.jobs = Some(vec![job.as_millis()])).unwrap();
    let store = store(home.path()).await;
    let ttl = Duration::from_secs(3);
    let a = server(home.path(), store.clone(), "a", ttl).await;
    let b = server(home.path(), store.clone(), "b", ttl).await;
    until_shared(&a, &[32, 32]).await;
    let mut claws = Vec::new();
    for n in 0..CLAWS {
        let it = reached(&a, a.create(&owner(), claw(&format!("c{n}")), None).await.unwrap()).await;
        claws.push(reached(&b, b.suspend(&owner(), it.id.as_str(), false, false).await.unwrap()).await);
    }
    // A third comes and takes its share, and one goes, while all three look at what is due.
    let c = server(home.path(), store, "c", ttl).await;
    for server in [&a, &b, &c] {
        server.advance_sleep_clock(Duration::from_secs(7200));
    }
    a.shutdown(None, false).await.unwrap();
    for it in &claws {
        let begun = std::time::Instant::now();
        loop {
            let now = b.get(&owner(), it.id.as_str()).await.unwrap();
            if now.phase == Phase::Ready {
                assert_eq!(now.intent.cause, clawfarm_model::Cause::Clock, "{}", it.id);
                assert_eq!(now.intent.generation, it.intent.generation + 1, "one wish for {}", it.id);
                break;
            }
            assert!(begun.elapsed() < LIMIT, "{} is {}: {:?}", it.id, now.phase, now.last_error);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let starts = world.acts_on(&it.id).unwrap().into_iter().filter(|act| *act == ActKind::Start).count();
        assert_eq!(starts, 2, "{}: made, and woken once", it.id);
    }
    for server in [b, c] {
        server.shutdown(None, false).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_that_drive_a_rollout_change_no_more_at_once_than_one() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path()).await;
    let ttl = Duration::from_secs(3600);
    let servers = [
        server(home.path(), store.clone(), "a", ttl).await,
        server(home.path(), store.clone(), "b", ttl).await,
    ];
    let name = crate::configs::name("support");
    let save = async |value: &str| {
        let content = serde_json::from_value(serde_json::json!({"body": {"env": {"A": value}}})).unwrap();
        let new = clawfarm_control::NewConfig { content, ..Default::default() };
        servers[0].save_config(&owner(), &name, new).await.unwrap();
    };
    let until = async |id: &str, stage: Stage| {
        let begun = std::time::Instant::now();
        loop {
            let now = servers[1].rollout(&owner(), id).await.unwrap();
            if now.stage == stage {
                return now;
            }
            assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} for {stage:?}: {now:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    save("0").await;
    let first = servers[0].publish(&owner(), &name, Default::default()).await.unwrap();
    until(&first.id, Stage::Done).await;
    for n in 0..4 {
        let new = NewInstance { template: Some(name.clone()), ..claw(&format!("c{n}")) };
        let accepted = servers[n % 2].create(&owner(), new, None).await.unwrap();
        done(&servers[n % 2], &accepted).await;
    }
    // Each server is told of what the other does, and both look at it all the time.
    for round in 1..=3 {
        save(&round.to_string()).await;
        let canary = Step { to: Amount::Count(1), then: Pause::Promotion };
        let strategy = Strategy { steps: vec![canary], ..Strategy::default() };
        let what = Publish { strategy, ..Publish::default() };
        let begun = servers[round % 2].publish(&owner(), &name, what).await.unwrap();
        let waiting = until(&begun.id, Stage::Waiting).await;
        assert_eq!((waiting.counts.proven, waiting.counts.pending), (1, 3), "{waiting:?}");
        let all = servers[0].list(&owner(), &Default::default(), None, 100).await.unwrap().items;
        let having = all.iter().filter(|it| it.layers.applied.get(&name) == Some(&begun.to)).count();
        assert_eq!(having, 1, "round {round}");
        servers[1].promote_rollout(&owner(), &begun.id).await.unwrap();
        let ended = until(&begun.id, Stage::Done).await;
        assert_eq!(ended.counts.seen, 4, "{ended:?}");
    }
    for control in &servers {
        control.shutdown(None, false).await.unwrap();
    }
}
