//! Machines that are up and do nothing: those that can go on do, and the others are told.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clawfarm_model::{ClawId, Code, Observation, ObservedState, StopOptions};
use clawfarm_qemu::Qmp;
use clawfarm_runtime::{Freeze, Runtime};
use rustix::process::{Pid, Signal, kill_process};

use crate::farm::{Farm, LIMIT, id, is_root, launch, lives, volume, wait_for};

/// A guest that counts as the other one does, and writes 32 KiB to its disk with each number, each
/// 128 KiB after the last:
///
/// ```text
///         ... as the other one up to its line feed
///         mov  %bp, 0x7c44            # the address's second byte
///         mov  $0x7c3b, %si ; mov $0x4300, %ax ; mov $0x80, %dl ; int $0x13
///         hlt ; jmp 1b
///         .byte 16, 0 ; .word 64 ; .word 0x7c00, 0 ; .quad 0
/// ```
#[rustfmt::skip]
const WRITER: [u8; 75] = [
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xfb, 0x31, 0xed, 0x45, 0xba, 0xf8, 0x03,
    0xb9, 0x04, 0x00, 0x89, 0xeb, 0xc1, 0xc3, 0x04, 0x88, 0xd8, 0x24, 0x0f, 0x04, 0x30, 0x3c, 0x39,
    0x76, 0x02, 0x04, 0x07, 0xee, 0xe2, 0xee, 0xb0, 0x0a, 0xee, 0x89, 0x2e, 0x44, 0x7c, 0xbe, 0x3b,
    0x7c, 0xb8, 0x00, 0x43, 0xb2, 0x80, 0xcd, 0x13, 0xf4, 0xeb, 0xd1, 0x10, 0x00, 0x40, 0x00, 0x00,
    0x7c, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
];

fn writer() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    disk[..WRITER.len()].copy_from_slice(&WRITER);
    disk[510..512].copy_from_slice(&[0x55, 0xAA]);
    disk
}

/// A file system of its own, gone with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(mebibytes: u32) -> Self {
        let folder = tempfile::Builder::new().prefix("cfm").tempdir_in("/tmp").unwrap().keep();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "clawfarm-test"])
            .arg(&folder)
            .status()
            .unwrap();
        assert!(mounted.success());
        Self(folder)
    }

    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What still has a file open on it keeps nobody else.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// Waits until an observation is as it should be.
async fn seen(farm: &Farm, id: &ClawId, what: &str, good: impl Fn(&Observation) -> bool) -> Observation {
    wait_for(what, || async {
        let seen = farm.rt.observe(id).await.map_err(|e| e.to_string())?;
        if good(&seen) { Ok(seen) } else { Err(format!("{:?} {:?}", seen.state, seen.trouble)) }
    })
    .await
}

/// QEMU's second monitor, which is the shim's.
async fn monitor(farm: &Farm, id: &ClawId) -> Qmp {
    Qmp::connect(&farm.claw(id).join("vm/power"), LIMIT).await.unwrap()
}

#[tokio::test]
async fn one_that_stands_still_though_nobody_wants_it_goes_on() {
    let farm = Farm::new().await;
    let id = id("alice-x7k2");
    farm.up(&id, |_| {}).await;
    monitor(&farm, &id).await.stop().await.unwrap();
    let at = farm.counted(&id).last().copied().unwrap();
    // Seen is enough: no server has to be opened, and nobody has to ask.
    assert_eq!(farm.rt.observe(&id).await.unwrap().state, ObservedState::Running);
    farm.counts_beyond(&id, at.saturating_add(2)).await;
    farm.counted_without_a_gap(&id);
    // One that is meant to is left as it is.
    Freeze::freeze(&farm.rt, &id).await.unwrap();
    for _ in 0..3 {
        assert_eq!(farm.rt.observe(&id).await.unwrap().state, ObservedState::Frozen);
    }
    let at = farm.counted(&id).last().copied();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(farm.counted(&id).last().copied(), at);
}

#[tokio::test]
async fn a_full_disk_stops_it_is_told_and_room_lets_it_go_on() {
    if !is_root() {
        eprintln!("skipped: only root can mount");
        return;
    }
    let disk = Mounted::tmpfs(96);
    let farm = Farm::of(&disk.0, &writer()).await;
    let id = id("bob-x7k2");
    farm.up(&id, |_| {}).await;
    let mut told = farm.rt.watch();
    // All but a little: the guest takes that.
    let filler = disk.0.join("filler");
    let left = usize::try_from(disk.free()).unwrap();
    std::fs::write(&filler, vec![1; left - (1 << 20)]).unwrap();
    let full = seen(&farm, &id, "the full disk to be told", |seen| seen.trouble.is_some()).await;
    let trouble = full.trouble.unwrap();
    assert_eq!((full.state, trouble.code), (ObservedState::Running, Code::Insufficient), "{trouble:?}");
    assert!(trouble.message.contains("no room left") && trouble.fix.unwrap().contains("goes on by itself"));
    let heard = tokio::time::timeout(LIMIT, told.recv()).await.expect("somebody tells").unwrap();
    assert_eq!(heard, id);
    // It can't be saved so, says why, and is not the worse for it.
    let error = clawfarm_runtime::Suspend::suspend(&farm.rt, &id).await.unwrap_err();
    assert_eq!(error.code(), Code::Conflict, "{error}");
    let at = farm.counted(&id).last().copied().unwrap();
    std::fs::remove_file(&filler).unwrap();
    farm.counts_beyond(&id, at.saturating_add(2)).await;
    seen(&farm, &id, "nothing to be in its way", |seen| seen.trouble.is_none()).await;
    assert_eq!(farm.beginnings(&id), 1, "it began anew");
}

#[tokio::test]
async fn what_serves_a_folder_and_has_ended_is_told() {
    let farm = Farm::new().await;
    let id = id("carol-x7k2");
    let up = farm.up(&id, |it| volume(it, "a:/srv/a")).await;
    assert_eq!(up.trouble, None);
    let mut told = farm.rt.watch();
    let virtiofsd = serving(&farm.claw(&id).join("volumes/a"));
    send(virtiofsd, Signal::KILL);
    let lost = seen(&farm, &id, "its end to be told", |seen| seen.trouble.is_some()).await;
    let trouble = lost.trouble.unwrap();
    assert_eq!((lost.state, trouble.code), (ObservedState::Running, Code::ClawFailed));
    assert!(trouble.message.contains("virtiofsd of '/srv/a' has ended"), "{trouble:?}");
    assert!(trouble.fix.unwrap().contains("clawfarm restart carol-x7k2"));
    tokio::time::timeout(LIMIT, told.recv()).await.expect("somebody tells").unwrap();
    // Started anew, it has another.
    farm.rt.kill(&id).await.unwrap();
    assert_eq!(farm.rt.start(&launch(&id, 2)).await.unwrap().trouble, None);
}

/// The process that serves a folder.
fn serving(folder: &Path) -> u32 {
    let wanted = format!("--shared-dir={}", folder.display());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes())
        })
        .expect("a virtiofsd serves it")
}

#[tokio::test]
async fn one_qemu_that_does_not_answer_keeps_nobody_from_another() {
    let mut farm = Farm::new().await;
    let (slow, quick) = (id("dave-x7k2"), id("erin-x7k2"));
    let pid = farm.up(&slow, |_| {}).await.pid.unwrap();
    farm.up(&quick, |_| {}).await;
    // A server that has not talked with either yet.
    farm.reopen().await;
    send(pid, Signal::STOP);
    let (farm, held) = (std::sync::Arc::new(farm), slow.clone());
    let asks = tokio::spawn({
        let farm = std::sync::Arc::clone(&farm);
        async move { farm.rt.observe(&held).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    Freeze::freeze(&farm.rt, &quick).await.unwrap();
    assert_eq!(farm.rt.observe(&quick).await.unwrap().state, ObservedState::Frozen);
    let took = begun.elapsed();
    assert!(!asks.is_finished() && took < Duration::from_secs(4), "{took:?}");
    // What can't be asked is not taken for anything else.
    assert_eq!(asks.await.unwrap().unwrap().state, ObservedState::Running);
    // Before long that is told.
    clawfarm_failpoint::hurry(30);
    let stuck = seen(&farm, &slow, "its silence to be told", |seen| seen.trouble.is_some()).await;
    let trouble = stuck.trouble.unwrap();
    assert_eq!((stuck.state, trouble.code), (ObservedState::Running, Code::Timeout), "{trouble:?}");
    assert!(trouble.message.contains("QEMU is stuck") && trouble.fix.unwrap().contains("clawfarm kill"));
    send(pid, Signal::CONT);
    seen(&farm, &slow, "it to answer again", |seen| seen.trouble.is_none()).await;
}

/// As when the whole machine shuts down and no server is there: every process is sent SIGTERM.
#[tokio::test]
async fn one_that_sleeps_warm_is_let_go_on_and_asked_when_the_machine_shuts_down() {
    let farm = Farm::new().await;
    let id = id("frank-x7k2");
    let pid = farm.up(&id, |it| volume(it, "a:/srv/a")).await.pid.unwrap();
    let virtiofsd = serving(&farm.claw(&id).join("volumes/a"));
    // To QEMU it would be a power cut.
    for pid in [pid, virtiofsd] {
        send(pid, Signal::TERM);
    }
    let at = farm.counted(&id).last().copied().unwrap();
    farm.counts_beyond(&id, at.saturating_add(3)).await;
    Freeze::freeze(&farm.rt, &id).await.unwrap();
    let at = farm.counted(&id).last().copied().unwrap();
    send(farm.shim_state(&id).shim_pid, Signal::TERM);
    farm.counts_beyond(&id, at.saturating_add(3)).await;
    assert!(lives(pid) && lives(virtiofsd), "it has the time that a system needs to shut down");
    farm.counted_without_a_gap(&id);
    let ended = farm.rt.stop(&id, StopOptions { grace: Duration::ZERO }).await.unwrap();
    assert!(ended.exit.unwrap().requested);
}
