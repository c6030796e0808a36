//! The server is killed between any two steps, and the next one makes one whole machine of what
//! it finds, or none.

use std::path::Path;
use std::process::Stdio;

use clawfarm_failpoint::{Action, Plan, Point, arm};
use clawfarm_model::{ClawId, DataFate, ObservedState};
use clawfarm_runtime::{NoProgress, Runtime, Suspend};
use tokio::process::Command;

use crate::farm::{Farm, LIMIT, TINY, id, launch, placement, volume, wait_for};

const FOLDER: &str = "CLAWFARM_VM_FOLDER";
const ACT: &str = "CLAWFARM_VM_ACT";
const KILL: &str = "CLAWFARM_VM_KILL";
const PORT: &str = "CLAWFARM_VM_PORT";

/// The server that is killed: this binary once more, running only this.
#[tokio::test]
#[ignore = "run by the others as a process of its own"]
async fn worker() {
    let var = |name: &str| std::env::var(name).ok();
    let (Some(folder), Some(act), Some(kill), Some(port)) = (var(FOLDER), var(ACT), var(KILL), var(PORT))
    else {
        return;
    };
    let farm = Farm::at(Path::new(&folder)).await;
    let point = Point::ALL.iter().copied().find(|point| point.as_str() == kill).unwrap();
    let id = id("alice-x7k2");
    arm(&[Plan::once(point, 1, Action::Kill)]);
    match act.as_str() {
        "new" => {
            farm.rt.ensure(&wanted(&id, port.parse().unwrap()), &NoProgress).await.unwrap();
            farm.rt.start(&launch(&id, 1)).await.unwrap();
        }
        "suspend" => drop(farm.suspended(&id).await),
        "resume" => drop(farm.rt.resume(&id).await.unwrap()),
        _ => drop(farm.rt.destroy(&id, DataFate::Keep).await.unwrap()),
    }
    panic!("{kill} was not reached");
}

fn wanted(id: &ClawId, port: u16) -> clawfarm_model::Placement {
    placement(id, |it| {
        it.port = port;
        volume(it, "a:/srv/a");
    })
}

async fn killed(farm: &Farm, act: &str, point: Point, port: u16) {
    let mut worker = Command::new(std::env::current_exe().unwrap());
    worker
        .args(["--exact", "killed::worker", "--ignored", "--nocapture"])
        .env(FOLDER, farm.root())
        .env(ACT, act)
        .env(KILL, point.as_str())
        .env(PORT, port.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(LIMIT, worker.output()).await.expect("the worker ends").unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&ended.status),
        Some(9),
        "{act} {point:?}: {}{}",
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr)
    );
}

/// A new server, and what it takes up is settled.
async fn next_server(farm: &mut Farm) -> (ClawId, ObservedState) {
    farm.reopen().await;
    let id = id("alice-x7k2");
    let state = farm.rt.observe(&id).await.unwrap().state;
    (id, state)
}

async fn new_killed_at(point: Point) {
    let mut farm = Farm::new().await;
    let port = crate::farm::free_port();
    killed(&farm, "new", point, port).await;
    let (id, _) = next_server(&mut farm).await;
    // It is gone on with, as control does.
    farm.rt.ensure(&wanted(&id, port), &NoProgress).await.unwrap();
    let seen = farm.rt.start(&launch(&id, 1)).await.unwrap();
    assert_eq!((seen.state, seen.run), (ObservedState::Running, 1));
    farm.counts_beyond(&id, 1).await;
    assert_eq!(farm.beginnings(&id), 1, "{point:?}: two machines");
    assert_eq!(farm.images().pins(&TINY.parse().unwrap()).unwrap(), [id.as_str()]);
    farm.rt.destroy(&id, DataFate::Purge).await.unwrap();
    assert!(farm.images().pins(&TINY.parse().unwrap()).unwrap().is_empty());
}

#[tokio::test]
async fn new_after_its_folder_was_made() {
    new_killed_at(Point::FolderMade).await;
}

#[tokio::test]
async fn new_after_its_files_were_written() {
    new_killed_at(Point::FilesWritten).await;
}

#[tokio::test]
async fn new_after_its_shim_was_started() {
    new_killed_at(Point::ShimStarted).await;
}

async fn suspend_killed_at(point: Point, whole: bool) {
    let mut farm = Farm::new().await;
    let id = id("alice-x7k2");
    let port = crate::farm::free_port();
    farm.rt.ensure(&wanted(&id, port), &NoProgress).await.unwrap();
    farm.rt.start(&launch(&id, 1)).await.unwrap();
    farm.counts_beyond(&id, 1).await;
    // QEMU speaks to one server at a time.
    farm.rt = clawfarm_runtime_vm::VmRuntime::open({
        let mut other = farm.config.clone();
        other.home = farm.root().join("elsewhere");
        other
    })
    .await
    .unwrap();
    killed(&farm, "suspend", point, port).await;
    let (id, _) = next_server(&mut farm).await;
    if whole {
        wait_for("the saved one to have ended", || async {
            let seen = farm.rt.observe(&id).await.map_err(|e| e.to_string())?;
            if seen.state == ObservedState::Exited { Ok(()) } else { Err(format!("{:?}", seen.state)) }
        })
        .await;
        assert!(farm.rt.observe(&id).await.unwrap().exit.unwrap().requested);
        farm.rt.resume(&id).await.unwrap();
    }
    let at = farm.counted(&id).last().copied().unwrap();
    farm.counts_beyond(&id, at).await;
    farm.counted_without_a_gap(&id);
    wait_for("halves to be gone", || async {
        let halves = farm.halves(&id);
        if halves.is_empty() { Ok(()) } else { Err(halves) }
    })
    .await;
}

#[tokio::test]
async fn suspend_after_the_guest_was_stopped() {
    suspend_killed_at(Point::GuestStopped, false).await;
}

#[tokio::test]
async fn suspend_after_the_memory_was_written() {
    suspend_killed_at(Point::MemoryWritten, false).await;
}

#[tokio::test]
async fn suspend_after_the_snapshot_was_whole() {
    suspend_killed_at(Point::SnapshotWhole, true).await;
}

async fn resume_killed_at(point: Point) {
    let mut farm = Farm::new().await;
    let id = id("alice-x7k2");
    let port = crate::farm::free_port();
    farm.rt.ensure(&wanted(&id, port), &NoProgress).await.unwrap();
    farm.rt.start(&launch(&id, 1)).await.unwrap();
    farm.counts_beyond(&id, 1).await;
    farm.suspended(&id).await;
    let at = farm.counted(&id).last().copied().unwrap();
    killed(&farm, "resume", point, port).await;
    let (id, _) = next_server(&mut farm).await;
    let seen = farm.rt.start(&launch(&id, 2)).await;
    // What runs already is of the launch before; one that waited for its memory was ended.
    match seen {
        Ok(seen) => assert_eq!((seen.state, seen.run), (ObservedState::Running, 2)),
        Err(error) => assert_eq!(error.field_name(), Some("run"), "{error}"),
    }
    farm.counts_beyond(&id, at).await;
    farm.counted_without_a_gap(&id);
    assert!(farm.halves(&id).is_empty(), "{:?}", farm.halves(&id));
}

#[tokio::test]
async fn resume_after_the_shim_was_started() {
    resume_killed_at(Point::ShimStarted).await;
}

#[tokio::test]
async fn resume_after_the_memory_was_restored() {
    resume_killed_at(Point::MemoryRestored).await;
}

#[tokio::test]
async fn resume_after_the_snapshot_was_used() {
    resume_killed_at(Point::SnapshotUsed).await;
}

async fn destroy_killed_at(point: Point) {
    let mut farm = Farm::new().await;
    let id = id("alice-x7k2");
    let port = crate::farm::free_port();
    farm.rt.ensure(&wanted(&id, port), &NoProgress).await.unwrap();
    std::fs::write(farm.claw(&id).join("volumes/a/kept"), "precious").unwrap();
    farm.rt.start(&launch(&id, 1)).await.unwrap();
    farm.counts_beyond(&id, 0).await;
    killed(&farm, "destroy", point, port).await;
    let (id, state) = next_server(&mut farm).await;
    assert!(!state.is_up(), "{point:?}: {state:?}");
    assert!(farm.rt.destroy(&id, DataFate::Keep).await.unwrap() > 0, "{point:?}");
    assert!(!farm.claw(&id).exists());
    let kept = farm.config.home.join("datasets").join(id.as_str()).join("volumes/a/kept");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "precious");
    assert!(farm.images().pins(&TINY.parse().unwrap()).unwrap().is_empty());
    let left = std::fs::read_dir(farm.config.home.join("claws")).unwrap().count();
    assert_eq!(left, 0, "{point:?}");
}

#[tokio::test]
async fn destroy_after_it_was_ended() {
    destroy_killed_at(Point::ClawEnded).await;
}

#[tokio::test]
async fn destroy_after_its_data_was_set_aside() {
    destroy_killed_at(Point::DataMoved).await;
}

#[tokio::test]
async fn destroy_after_its_folder_was_renamed() {
    destroy_killed_at(Point::FolderRemoved).await;
}
