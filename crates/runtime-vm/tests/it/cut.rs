//! Saves and restores whose caller left, that failed once, or whose process stays.

use std::time::Duration;

use clawfarm_failpoint::{Action, Plan, Point, arm, disarm, hits};
use clawfarm_model::{ClawId, Code, ObservedState};
use clawfarm_runtime::{Runtime, Suspend};
use rustix::process::{Pid, Signal, kill_process};

use crate::farm::{Farm, id, launch, lives, wait_for};

async fn saved(farm: &Farm, id: &ClawId) {
    wait_for("it to be saved", || async {
        let seen = farm.rt.observe(id).await.map_err(|e| e.to_string())?;
        if seen.state == ObservedState::Exited { Ok(()) } else { Err(format!("{:?}", seen.state)) }
    })
    .await;
    assert!(farm.claw(id).join("suspended/about.json").exists());
}

#[tokio::test]
async fn a_save_and_a_restore_whose_caller_left_go_to_their_end() {
    let farm = Farm::new().await;
    let id = id("alice-x7k2");
    farm.up(&id, |_| {}).await;
    let pause = |point| arm(&[Plan::once(point, 1, Action::Delay(Duration::from_secs(1)))]);
    pause(Point::GuestStopped);
    let left = tokio::time::timeout(Duration::from_millis(500), Suspend::suspend(&farm.rt, &id)).await;
    assert!(left.is_err(), "it was done before its caller could leave");
    // Meanwhile it stands still, and nobody takes that for something to mend.
    assert_eq!(farm.rt.observe(&id).await.unwrap().state, ObservedState::Running);
    saved(&farm, &id).await;
    let at = farm.counted(&id).last().copied().unwrap();

    pause(Point::MemoryRestored);
    let resuming = async {
        tokio::select! {
            _ = farm.rt.resume(&id) => panic!("it was done before its caller could leave"),
            () = async {
                while !hits().contains_key(&Point::MemoryRestored) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            } => {}
        }
    };
    tokio::time::timeout(crate::farm::LIMIT, resuming).await.expect("its memory is restored");
    farm.counts_beyond(&id, at).await;
    farm.counted_without_a_gap(&id);
    wait_for("the snapshot to be used", || async {
        let halves = farm.halves(&id);
        if halves.is_empty() { Ok(()) } else { Err(halves) }
    })
    .await;
    disarm();
}

#[tokio::test]
async fn a_restore_that_fails_once_is_tried_again_before_its_memory_is_given_up() {
    let farm = Farm::new().await;
    let id = id("bob-x7k2");
    farm.up(&id, |_| {}).await;
    farm.suspended(&id).await;
    let at = farm.counted(&id).last().copied().unwrap();
    arm(&[Plan::once(Point::MemoryRestored, 1, Action::Fail(Code::Unavailable))]);
    farm.rt.start(&launch(&id, 2)).await.unwrap();
    assert_eq!(hits()[&Point::MemoryRestored], 2);
    farm.counts_beyond(&id, at).await;
    farm.counted_without_a_gap(&id);
    assert_eq!(farm.rt.start_note(&id).await, None);

    // What may be another at the next start is an error, and keeps its memory.
    farm.suspended(&id).await;
    let at = farm.counted(&id).last().copied().unwrap();
    arm(&[Plan::always(Point::MemoryRestored, Action::Fail(Code::Timeout))]);
    assert_eq!(farm.rt.start(&launch(&id, 3)).await.unwrap_err().code(), Code::Timeout);
    assert!(!farm.rt.observe(&id).await.unwrap().state.is_up());
    disarm();
    farm.rt.start(&launch(&id, 3)).await.unwrap();
    farm.counts_beyond(&id, at).await;
    farm.counted_without_a_gap(&id);

    // Twice is enough.
    farm.suspended(&id).await;
    arm(&[Plan::always(Point::MemoryRestored, Action::Fail(Code::Unavailable))]);
    farm.rt.start(&launch(&id, 4)).await.unwrap();
    disarm();
    wait_for("a second beginning", || async { (farm.beginnings(&id) == 2).then_some(()).ok_or("one") }).await;
    assert!(farm.rt.start_note(&id).await.unwrap().contains("a test lets"));
}

/// Its disk hangs, say: the snapshot is the machine all the same.
#[tokio::test]
async fn a_process_that_stays_after_its_memory_was_saved_is_ended() {
    let farm = Farm::new().await;
    let id = id("carol-x7k2");
    let pid = farm.up(&id, |_| {}).await.pid.unwrap();
    arm(&[Plan::once(Point::SnapshotWhole, 1, Action::Delay(Duration::from_secs(2)))]);
    let (slept, ()) = tokio::join!(Suspend::suspend(&farm.rt, &id), async {
        wait_for("the snapshot to be whole", || async {
            farm.claw(&id).join("suspended/about.json").exists().then_some(()).ok_or("it is not there")
        })
        .await;
        let qemu = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(qemu, Signal::STOP).unwrap();
    });
    disarm();
    assert_eq!(slept.unwrap().state, ObservedState::Exited);
    assert!(!lives(pid));
    let at = farm.counted(&id).last().copied().unwrap();
    farm.rt.resume(&id).await.unwrap();
    farm.counts_beyond(&id, at).await;
    farm.counted_without_a_gap(&id);
}
