//! Thousands of claws, and processes that are killed in the middle of their work.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clawfarm_model::ObservedState;
use clawfarm_runtime::{NoProgress, Runtime};
use clawfarm_runtime_sim::{ActKind, SimConfig, SimRuntime, World};
use futures::{StreamExt, stream};
use tempfile::TempDir;

use crate::common::{id, launch, open, placement, until, world};

const MANY: u16 = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_are_made_started_and_listed() {
    // In memory, where there is such a folder: this measures the runtime and not a busy disk.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
    let sim = open(&folder);
    let began = Instant::now();
    stream::iter(0..MANY)
        .for_each_concurrent(64, |n| {
            let sim = &sim;
            async move {
                let claw = id(&format!("claw{n}-12345"));
                sim.ensure(&placement(&claw, 20_000 + n), &NoProgress).await.unwrap();
                sim.start(&launch(&claw, 1)).await.unwrap();
            }
        })
        .await;
    let made = began.elapsed();
    let began = Instant::now();
    assert_eq!(sim.list().await.unwrap().len(), usize::from(MANY));
    let listed = began.elapsed();
    tokio::time::sleep(Duration::from_millis(100)).await;
    sim.list().await.unwrap();
    let began = Instant::now();
    let seen = sim.list().await.unwrap();
    println!(
        "{MANY} claws made and started in {made:?} ({:.0}/s), listed in {listed:?}, again in {:?}",
        f64::from(MANY) / made.as_secs_f64(),
        began.elapsed()
    );
    assert!(seen.iter().all(|seen| seen.state == ObservedState::Running));
    let acts = sim.world().journal().unwrap();
    assert_eq!(acts.iter().filter(|act| act.act == ActKind::Start).count(), usize::from(MANY));
    assert_eq!(open(&folder).list().await.unwrap().len(), usize::from(MANY));
}

/// With this environment variable the test below is the process that it kills.
const WORLD: &str = "CLAWFARM_SIM_TEST_WORLD";

/// What the process to be killed does: it makes and starts claws, each again and again.
async fn work_until_killed(folder: OsString) {
    let sim = SimRuntime::open(SimConfig::new(folder)).unwrap();
    stream::iter(0..5_000_u16)
        .for_each_concurrent(16, |n| {
            let sim = &sim;
            async move {
                let n = n % 500;
                let claw = id(&format!("claw{n}-12345"));
                sim.ensure(&placement(&claw, 20_000 + n), &NoProgress).await.unwrap();
                sim.start(&launch(&claw, 1)).await.unwrap();
            }
        })
        .await;
}

struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        // It may be dead already, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_at_any_point_does_nothing_twice_and_loses_nothing() {
    if let Some(folder) = std::env::var_os(WORLD) {
        return work_until_killed(folder).await;
    }
    let (folder, sim) = world();
    for round in 0..6_u64 {
        let mut victim = Victim(
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "load::a_process_killed_at_any_point_does_nothing_twice_and_loses_nothing"])
                .env(WORLD, folder.path().join("sim"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        let before = sim.world().instances().unwrap().len();
        until("it has done something, or all of it", || async {
            let now = sim.world().instances().unwrap().len();
            now > before || now == 500
        })
        .await;
        tokio::time::sleep(Duration::from_millis(3 * round)).await;
        victim.0.kill().unwrap();
    }
    check(sim.world());
    let before = sim.world().instances().unwrap().len();
    // Whoever comes after finds all of it, and ends the work.
    for n in 0..500_u16 {
        let claw = id(&format!("claw{n}-12345"));
        sim.ensure(&placement(&claw, 20_000 + n), &NoProgress).await.unwrap();
        assert_eq!(sim.start(&launch(&claw, 1)).await.unwrap().state, ObservedState::Running);
    }
    println!("{before} of 500 were there after the kills");
    check(sim.world());
    assert_eq!(sim.world().instances().unwrap().len(), 500);
}

/// Each claw was made at most once and started at most once, and the journal knows of every
/// claw that is there.
fn check(world: &World) {
    let mut acts: HashMap<_, Vec<ActKind>> = HashMap::new();
    for act in world.journal().unwrap() {
        acts.entry(act.id).or_default().push(act.act);
    }
    for claw in world.instances().unwrap() {
        let wanted: &[ActKind] = match claw.state {
            ObservedState::Running => &[ActKind::Ensure, ActKind::Start],
            _ => &[ActKind::Ensure],
        };
        assert_eq!(acts.remove(&claw.id).unwrap(), wanted, "{}", claw.id);
    }
    assert!(acts.is_empty(), "the journal tells of claws that are not there: {acts:?}");
}
