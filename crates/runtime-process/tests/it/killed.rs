//! The server is killed at every point within the process runtime's own verbs: the next one
//! goes on, and in the end nothing is left: no process, folder, dataset or half installation.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use clawfarm_failpoint::{Action, Layer, Plan, Point};
use clawfarm_model::{DataFate, ObservedState, StopOptions};
use clawfarm_runtime::{NoProgress, Runtime};
use clawfarm_runtime_process::ProcessRuntime;

use crate::farm::{Farm, LIMIT, SERVER, id, python, wait_for};

const DIR: &str = "CLAWFARM_KILLED_DIR";
const STEP: &str = "CLAWFARM_KILLED_STEP";
const KILL: &str = "CLAWFARM_KILLED_AT";
/// How many operations the life below has.
const STEPS: u32 = 14;

/// One operation of a life; each can be done once more.
async fn step(farm: &Farm, rt: &ProcessRuntime, step: u32) {
    let (bob, eve) = (id("bob-9"), id("eve-9"));
    let grace = StopOptions { grace: Duration::from_secs(10) };
    let mut of_bob = farm.placement(&bob);
    let mut of_eve = farm.placement(&eve);
    of_eve.dataset = Some(bob.clone());
    let start = async |placement, id, run| {
        let place = rt.ensure(placement, &NoProgress).await.unwrap();
        rt.start(&python(id, run, &place, SERVER)).await.unwrap()
    };
    let (freezer, upgrade) = (rt.freeze().unwrap(), rt.upgrade().unwrap());
    // What is up keeps its port.
    for placement in [&mut of_bob, &mut of_eve] {
        if let Some(record) = rt.records().await.unwrap().iter().find(|r| r.id == placement.id) {
            placement.port = record.port;
        }
    }
    match step {
        0 => drop(rt.ensure(&of_bob, &NoProgress).await.unwrap()),
        1 => assert_eq!(start(&of_bob, &bob, 1).await.state, ObservedState::Running),
        2 => assert_eq!(freezer.freeze(&bob).await.unwrap().state, ObservedState::Frozen),
        3 => assert_eq!(freezer.thaw(&bob).await.unwrap().state, ObservedState::Running),
        4 => assert_eq!(rt.stop(&bob, grace).await.unwrap().state, ObservedState::Exited),
        5 => drop(upgrade.copy_data(&bob, 7, &NoProgress).await.unwrap()),
        6 => upgrade.put_back(&bob, 7).await.unwrap(),
        7 => upgrade.remove_copy(&bob).await.unwrap(),
        8 => assert_eq!(start(&of_bob, &bob, 2).await.state, ObservedState::Running),
        9 => assert_eq!(rt.kill(&bob).await.unwrap().state, ObservedState::Exited),
        10 => assert!(rt.destroy(&bob, DataFate::Keep).await.unwrap() > 0),
        11 => drop(rt.ensure(&of_eve, &NoProgress).await.unwrap()),
        12 => assert_eq!(start(&of_eve, &eve, 1).await.state, ObservedState::Running),
        13 => assert_eq!(rt.destroy(&eve, DataFate::Purge).await.unwrap(), 0),
        _ => unreachable!("a life has {STEPS} steps"),
    }
}

/// The server that is killed: this test binary once more, running only this "test".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test below as a process of its own"]
async fn server() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let begin: u32 = std::env::var(STEP).unwrap().parse().unwrap();
    let plan = std::env::var(KILL).ok().map(|name| {
        let point = Point::ALL.iter().copied().find(|p| p.as_str() == name).unwrap();
        Plan::once(point, 1, Action::Kill)
    });
    let farm = std::mem::ManuallyDrop::new(Farm::at(Path::new(&dir)).await);
    clawfarm_failpoint::arm(plan.as_slice());
    for number in begin..STEPS {
        step(&farm, &farm.rt, number).await;
        println!("\ndone {number}");
    }
    for (point, _) in clawfarm_failpoint::hits() {
        println!("\nhit {}", point.as_str());
    }
}

/// Runs a life from a step on; how far it came, the points it hit, and whether it was killed.
async fn life(dir: &Path, begin: u32, kill: Option<Point>) -> (u32, Vec<String>, bool) {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "killed::server", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env(STEP, begin.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some(point) = kill {
        command.env(KILL, point.as_str());
    }
    let output = tokio::time::timeout(LIMIT, command.output()).await.expect("an end").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    use std::os::unix::process::ExitStatusExt;
    let killed = output.status.signal() == Some(9);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(killed || output.status.success(), "{kill:?}: {said}\n{told}");
    let done = said.lines().filter_map(|l| l.strip_prefix("done ")?.parse::<u32>().ok()).max();
    let hits = said.lines().filter_map(|l| l.strip_prefix("hit ").map(str::to_owned)).collect();
    (done.map_or(begin, |done| done + 1), hits, killed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_killed_at_every_point_and_nothing_is_left() {
    let ours: Vec<Point> = Point::ALL.iter().copied().filter(|p| p.layer() == Layer::Process).collect();
    let farm = Farm::new().await;
    let (_, hits, _) = life(farm.root(), 0, None).await;
    let dead: Vec<_> = ours.iter().filter(|p| !hits.iter().any(|hit| hit == p.as_str())).collect();
    assert!(dead.is_empty(), "nothing reaches {dead:?}");
    nothing_is_left(&farm, "a life without a kill").await;
    for point in ours {
        let farm = Farm::new().await;
        let (step, _, killed) = life(farm.root(), 0, Some(point)).await;
        assert!(killed, "{point:?} was not reached");
        let (step, _, _) = life(farm.root(), step, None).await;
        assert_eq!(step, STEPS);
        nothing_is_left(&farm, point.as_str()).await;
    }
}

async fn nothing_is_left(farm: &Farm, what: &str) {
    let names = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(farm.home().join(folder)).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    };
    assert_eq!((names("claws"), names("datasets")), (vec![], vec![]), "{what}");
    let home = farm.root().to_string_lossy().into_owned();
    wait_for(&format!("{what}: no process is left"), || async {
        let left: Vec<String> = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(&home))
            .collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}
