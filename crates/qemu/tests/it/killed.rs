//! Who saves or restores is killed between any two steps.

use std::path::Path;
use std::process::Stdio;

use clawfarm_failpoint::{Action, Plan, Point, arm};
use clawfarm_qemu::qmp::RunState;
use clawfarm_qemu::snapshot::Settled;
use clawfarm_qemu::{Machine, Qmp, Snapshot};
use tokio::process::Command;

use crate::snapshot::{limits, snapshot, waiting};
use crate::support::{Home, LIMIT, Process};

const FOLDER: &str = "CLAWFARM_QEMU_FOLDER";
const ACT: &str = "CLAWFARM_QEMU_ACT";
const KILL: &str = "CLAWFARM_QEMU_KILL";

/// The one that is killed: this binary once more, running only this. The machine's process is
/// the test's, as a shim's is not the server's.
#[tokio::test]
#[ignore = "run by the others as a process of its own"]
async fn worker() {
    let (Ok(folder), Ok(act), Ok(kill)) = (std::env::var(FOLDER), std::env::var(ACT), std::env::var(KILL))
    else {
        return;
    };
    let folder = Path::new(&folder);
    let shape: clawfarm_qemu::machine::Shape =
        serde_json::from_slice(&std::fs::read(folder.join("shape.json")).unwrap()).unwrap();
    let point = Point::ALL.iter().copied().find(|point| point.as_str() == kill).unwrap();
    arm(&[Plan::once(point, 1, Action::Kill)]);
    let qmp = Qmp::connect(&folder.join("qmp"), LIMIT).await.unwrap();
    let snapshot = Snapshot::at(folder, "suspended").unwrap();
    match act.as_str() {
        "save" => drop(snapshot.save(&qmp, &shape, limits(), |_, _| ()).await.unwrap()),
        _ => snapshot.restore(&qmp, &shape, limits(), true).await.unwrap(),
    }
    panic!("{kill} was not reached");
}

async fn killed(home: &Home, machine: &Machine, act: &str, point: Point) {
    let shape = serde_json::to_vec(&machine.shape()).unwrap();
    std::fs::write(home.path("shape.json"), shape).unwrap();
    let mut worker = Command::new(std::env::current_exe().unwrap());
    worker
        .args(["--exact", "killed::worker", "--ignored", "--nocapture"])
        .env(FOLDER, home.folder.path())
        .env(ACT, act)
        .env(KILL, point.as_str())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(LIMIT, worker.output()).await.expect("the worker ends").unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&ended.status),
        Some(9),
        "{act} {point:?}: {}",
        String::from_utf8_lossy(&ended.stdout)
    );
}

/// The machine goes on, from wherever it is now, as one machine and without a gap.
async fn goes_on(home: &Home, machine: &Machine, mut process: Process, what: &str) {
    let qmp = home.connect(machine).await;
    let settled = snapshot(home).settle(&qmp).await.unwrap();
    let again = match settled {
        Settled::Process(_) => Some(snapshot(home).settle(&qmp).await.unwrap()),
        Settled::Snapshot => None,
    };
    assert!(again.is_none_or(|again| again == settled), "{what}: {settled:?}, then {again:?}");
    let at = home.count().unwrap();
    match settled {
        Settled::Process(state) => {
            assert!(matches!(state, RunState::Paused | RunState::Postmigrate), "{what}: {state:?}");
            qmp.cont().await.unwrap();
            home.counts_beyond(at).await;
        }
        Settled::Snapshot => {
            drop(qmp);
            // Until it has ended it has the socket.
            process.ended().await;
            let running = home.start(&waiting(machine)).await;
            snapshot(home).restore(&running.qmp, &machine.shape(), limits(), true).await.unwrap();
            home.counts_beyond(at).await;
        }
    }
    home.counted_without_a_gap();
    assert!(!home.path("suspended").exists() && !home.path("suspended.part").exists(), "{what}");
}

async fn save_killed_at(point: Point, whole: bool) {
    let home = Home::new().await;
    let machine = home.machine();
    let process = home.spawn(&machine);
    drop(home.connect(&machine).await);
    home.counts_beyond(2).await;
    killed(&home, &machine, "save", point).await;
    assert_eq!(snapshot(&home).about().await.unwrap().is_some(), whole, "{point:?}");
    goes_on(&home, &machine, process, point.as_str()).await;
}

async fn restore_killed_at(point: Point, whole: bool) {
    let home = Home::new().await;
    let machine = home.machine();
    {
        let running = home.start(&machine).await;
        home.counts_beyond(2).await;
        snapshot(&home).save(&running.qmp, &machine.shape(), limits(), |_, _| ()).await.unwrap();
    }
    let process = home.spawn(&waiting(&machine));
    drop(home.connect(&machine).await);
    killed(&home, &machine, "restore", point).await;
    assert_eq!(snapshot(&home).about().await.unwrap().is_some(), whole, "{point:?}");
    goes_on(&home, &machine, process, point.as_str()).await;
}

#[tokio::test]
async fn after_the_guest_was_stopped() {
    save_killed_at(Point::GuestStopped, false).await;
}

#[tokio::test]
async fn after_the_memory_was_written() {
    save_killed_at(Point::MemoryWritten, false).await;
}

#[tokio::test]
async fn after_the_snapshot_was_described() {
    save_killed_at(Point::SnapshotDescribed, false).await;
}

#[tokio::test]
async fn after_the_snapshot_was_whole() {
    save_killed_at(Point::SnapshotWhole, true).await;
}

#[tokio::test]
async fn after_the_memory_was_restored() {
    restore_killed_at(Point::MemoryRestored, true).await;
}

#[tokio::test]
async fn after_the_snapshot_was_used() {
    restore_killed_at(Point::SnapshotUsed, false).await;
}

/// A point without a test above would be taken for one that is tested.
#[test]
fn every_point_is_tried() {
    let tried = [
        Point::GuestStopped,
        Point::MemoryWritten,
        Point::SnapshotDescribed,
        Point::SnapshotWhole,
        Point::MemoryRestored,
        Point::SnapshotUsed,
    ];
    // Base snapshots are made and used a layer above, and killed there (`clawfarm-runtime-vm`).
    let above = [Point::BasePrepared, Point::BaseStarted, Point::BaseRestored, Point::BaseIdentified];
    let ours: Vec<Point> = Point::ALL
        .iter()
        .copied()
        .filter(|p| p.layer() == clawfarm_failpoint::Layer::Machine && !above.contains(p))
        .collect();
    assert_eq!(ours, tried);
}
