//! A guest that counts, saved and restored.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use clawfarm_failpoint::{Action, Plan, Point, arm, disarm};
use clawfarm_model::Code;
use clawfarm_qemu::qmp::{RunState, Stream};
use clawfarm_qemu::snapshot::{Limits, Settled};
use clawfarm_qemu::{Machine, Qemu, Snapshot, Version};

use crate::guest;
use crate::support::{Home, Running, cache, is_root, wait_for};

pub(crate) fn limits() -> Limits {
    Limits::of(64)
}

pub(crate) fn snapshot(home: &Home) -> Snapshot {
    Snapshot::at(home.folder.path(), "suspended").unwrap()
}

/// The machine, waiting for its memory.
pub(crate) fn waiting(machine: &Machine) -> Machine {
    Machine { incoming: true, ..machine.clone() }
}

async fn saved(home: &Home, machine: &Machine) -> u16 {
    let mut running = home.start(machine).await;
    home.counts_beyond(3).await;
    let mut told = (0, 0);
    let about = snapshot(home)
        .save(&running.qmp, &machine.shape(), limits(), |done, all| told = (done, all))
        .await
        .unwrap();
    assert!(running.process.ended().await);
    assert_eq!(about.qemu, home.qemu.version);
    assert!(told.1 >= 64 << 20 && told.0 == told.1, "{told:?}");
    home.count().unwrap()
}

async fn goes_on(home: &Home, machine: &Machine, from: u16) -> Running {
    let running = home.start(&waiting(machine)).await;
    snapshot(home).restore(&running.qmp, &machine.shape(), limits(), true).await.unwrap();
    assert_eq!(running.qmp.run_state().await.unwrap(), RunState::Running);
    home.counts_beyond(from).await;
    home.counted_without_a_gap();
    assert!(snapshot(home).about().await.unwrap().is_none());
    assert!(!home.path("suspended").exists() && !home.path("suspended.part").exists());
    running
}

#[tokio::test]
async fn a_guest_counts_on_where_it_was() {
    let home = Home::new().await;
    let machine = home.machine();
    let at = saved(&home, &machine).await;
    let about = snapshot(&home).about().await.unwrap().unwrap();
    assert_eq!((about.shape.clone(), about.host_cpu), (machine.shape(), None));
    let memory = std::fs::metadata(home.path("suspended/memory")).unwrap();
    assert_eq!((memory.permissions().mode() & 0o777, memory.len()), (0o600, about.bytes));
    // A guest of some bytes: hardly anything is not zero.
    assert!(memory.blocks() * 512 < 16 << 20, "{} bytes on disk", memory.blocks() * 512);
    let running = goes_on(&home, &machine, at).await;
    // And once more, which finds the memory of a machine that was restored.
    let before = home.count().unwrap();
    snapshot(&home).save(&running.qmp, &machine.shape(), limits(), |_, _| ()).await.unwrap();
    goes_on(&home, &machine, before).await;
}

/// A guest that writes a line with the number of files that it is handed in (whose names begin with an
/// `o`, as `opt/` does), each time that it is booted:
///
/// ```text
///         xor  %bx, %bx ; mov $0x510, %dx ; mov $0x19, %ax ; out %ax, %dx ; inc %dx
///         in   %dx, %al ; in %dx, %al ; in %dx, %al ; in %dx, %al ; movzx %al, %bp
/// 1:      mov  $8, %cx
/// 2:      in   %dx, %al ; loop 2b
///         in   %dx, %al ; cmp $'o', %al ; jne 3f ; inc %bx
/// 3:      mov  $55, %cx
/// 4:      in   %dx, %al ; loop 4b
///         dec  %bp ; jnz 1b
///         mov  $0x3f8, %dx ; mov %bl, %al ; add $'0', %al ; out %al, %dx ; mov $'\n', %al ; out %al, %dx
/// 5:      hlt ; jmp 5b
/// ```
#[rustfmt::skip]
const HANDED_IN: [u8; 52] = [
    0x31, 0xdb, 0xba, 0x10, 0x05, 0xb8, 0x19, 0x00, 0xef, 0x42, 0xec, 0xec, 0xec, 0xec, 0x0f, 0xb6,
    0xe8, 0xb9, 0x08, 0x00, 0xec, 0xe2, 0xfd, 0xec, 0x3c, 0x6f, 0x75, 0x01, 0x43, 0xb9, 0x37, 0x00,
    0xec, 0xe2, 0xfd, 0x4d, 0x75, 0xeb, 0xba, 0xf8, 0x03, 0x88, 0xd8, 0x04, 0x30, 0xee, 0xb0, 0x0a,
    0xee, 0xf4, 0xeb, 0xfd,
];

/// What a machine is handed in is its process's: one that was restored finds it when it is booted anew.
#[tokio::test]
async fn what_it_is_handed_in_is_there_after_a_restore_and_a_reboot() {
    let home = Home::new().await;
    std::fs::write(home.path("disk.img"), guest::on_disk(&HANDED_IN)).unwrap();
    let without = home.machine();
    let file = home.path("launch");
    let with = Machine { launch: Some(file.clone()), ..without.clone() };
    assert_eq!(with.shape(), without.shape());
    let told = async |lines: &str| {
        wait_for(&format!("the lines {lines:?}"), || async {
            (std::fs::read_to_string(home.path("serial.log")).ok()? == lines).then_some(())
        })
        .await;
    };
    let laid = async |machine: &Machine| {
        std::fs::write(&file, "what it runs with").unwrap();
        let running = home.start(machine).await;
        running.qmp.run_state().await.unwrap();
        // Who starts it takes it away as soon as it was read.
        std::fs::remove_file(&file).unwrap();
        running
    };
    let save = async |running: Running| {
        snapshot(&home).save(&running.qmp, &with.shape(), limits(), |_, _| ()).await.unwrap();
    };
    let reset = async |running: &Running, machine: &Machine| {
        snapshot(&home).restore(&running.qmp, &machine.shape(), limits(), true).await.unwrap();
        running.qmp.execute("system_reset", &serde_json::Value::Null).await.unwrap();
    };
    let running = laid(&with).await;
    told("1\n").await;
    save(running).await;
    let running = laid(&waiting(&with)).await;
    reset(&running, &with).await;
    told("1\n1\n").await;
    // Without it, it finds none.
    save(running).await;
    let running = home.start(&waiting(&without)).await;
    reset(&running, &without).await;
    told("1\n1\n0\n").await;
}

/// Debian 12's QEMU saves to an open file that it gets as a descriptor.
#[tokio::test]
async fn an_old_qemu_saves_and_restores_too() {
    let root = cache().join("clawfarm-test/qemu-7.2");
    let program = root.join("usr/bin/qemu-system-x86_64");
    if !program.exists() {
        let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        assert!(!system.contains("bookworm"), "{} is missing: run scripts/test-setup", program.display());
        return;
    }
    let firmware = ["qemu", "seabios"].map(|name| root.join("usr/share").join(name));
    let old = Qemu::at(&program, &firmware).await.unwrap();
    assert!(!old.version.saves_to_file() && old.lacks().len() == 1, "{old:?}");
    let home = Home::with(old);
    let machine = home.machine();
    let at = saved(&home, &machine).await;
    assert_eq!(snapshot(&home).about().await.unwrap().unwrap().stream, Stream::Plain);

    // A newer one does not take it.
    let new = Qemu::find().await.unwrap();
    if new.version > home.qemu.version {
        let mut other = machine.clone();
        other.incoming = true;
        let newer = Home::with(new);
        let running = newer.start(&Machine { qmp: newer.path("qmp"), ..other }).await;
        let error =
            snapshot(&home).restore(&running.qmp, &machine.shape(), limits(), true).await.unwrap_err();
        assert_eq!(error.code(), Code::Unsupported, "{error}");
    }
    goes_on(&home, &machine, at).await;
}

#[tokio::test]
async fn one_that_does_not_fit_is_refused_and_stays() {
    let home = Home::new().await;
    let machine = home.machine();
    let at = saved(&home, &machine).await;
    let mut other = machine.clone();
    other.memory_mib = 128;
    {
        let running = home.start(&waiting(&other)).await;
        let error = snapshot(&home).restore(&running.qmp, &other.shape(), limits(), true).await.unwrap_err();
        assert_eq!((error.code(), error.field_name()), (Code::Unsupported, Some("snapshot")), "{error}");
    }
    let second = snapshot(&home);
    {
        let running = home.start(&waiting(&machine)).await;
        let error = second.save(&running.qmp, &machine.shape(), limits(), |_, _| ()).await.unwrap_err();
        assert_eq!(error.code(), Code::Conflict, "{error}");
    }
    goes_on(&home, &machine, at).await;
}

#[tokio::test]
async fn a_damaged_one_is_refused_and_stays() {
    let home = Home::new().await;
    let machine = home.machine();
    saved(&home, &machine).await;
    let memory = home.path("suspended/memory");
    let whole = std::fs::read(&memory).unwrap();
    for damaged in [whole[..whole.len() - 1].to_vec(), vec![0; whole.len()], vec![b'x'; whole.len()]] {
        std::fs::write(&memory, damaged).unwrap();
        let running = home.start(&waiting(&machine)).await;
        let error =
            snapshot(&home).restore(&running.qmp, &machine.shape(), limits(), true).await.unwrap_err();
        assert!(matches!(error.code(), Code::Unavailable | Code::Internal | Code::Conflict), "{error:?}");
        assert!(snapshot(&home).about().await.unwrap().is_some());
    }
    std::fs::write(home.path("suspended/about.json"), "{").unwrap();
    let error = snapshot(&home).about().await.unwrap_err();
    assert!(error.fix_text().unwrap().contains("started anew"), "{error}");
    snapshot(&home).remove().await.unwrap();
    snapshot(&home).remove().await.unwrap();
    assert!(snapshot(&home).about().await.unwrap().is_none());
}

/// A disk that has no room for it, where we may mount one.
#[tokio::test]
async fn a_full_disk_leaves_the_guest_running() {
    if !is_root() {
        return;
    }
    let home = Home::new().await;
    let small = home.path("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = Mounted::tmpfs(&small, "size=200k");
    let machine = home.machine();
    let running = home.start(&machine).await;
    home.counts_beyond(1).await;
    let snapshot = Snapshot::at(&small, "suspended").unwrap();
    let error = snapshot.save(&running.qmp, &machine.shape(), limits(), |_, _| ()).await.unwrap_err();
    assert_eq!(error.code(), Code::Insufficient, "{error}");
    let at = home.count().unwrap();
    home.counts_beyond(at).await;
    assert_eq!(small.read_dir().unwrap().count(), 0);
    drop(running);
    drop(mounted);
}

struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(at: &std::path::Path, options: &str) -> Self {
        let options = std::ffi::CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", at, "tmpfs", flags, Some(options.as_c_str())).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// An error between two steps leaves the machine as it was, or the snapshot.
#[tokio::test]
async fn a_save_that_fails_at_any_step_can_be_settled() {
    let home = Home::new().await;
    let machine = home.machine();
    for point in [Point::GuestStopped, Point::MemoryWritten, Point::SnapshotDescribed, Point::SnapshotWhole] {
        let running = home.start(&machine).await;
        let before = home.count().unwrap_or(0);
        home.counts_beyond(before).await;
        arm(&[Plan::once(point, 1, Action::Fail(Code::Unavailable))]);
        let error =
            snapshot(&home).save(&running.qmp, &machine.shape(), limits(), |_, _| ()).await.unwrap_err();
        disarm();
        assert_eq!(error.code(), Code::Unavailable, "{point:?}");
        let settled = snapshot(&home).settle(&running.qmp).await.unwrap();
        let at = home.count().unwrap();
        if point == Point::SnapshotWhole {
            assert_eq!(settled, Settled::Snapshot, "{point:?}");
            drop(running);
            drop(goes_on(&home, &machine, at).await);
        } else {
            assert_eq!(settled, Settled::Process(RunState::Running), "{point:?}");
            home.counts_beyond(at).await;
        }
        home.counted_without_a_gap();
        std::fs::remove_file(home.path("serial.log")).unwrap();
    }
}

#[tokio::test]
async fn a_stopped_machine_stays_stopped_when_it_can_not_be_saved() {
    let home = Home::new().await;
    let mut machine = home.machine();
    machine.paused = true;
    let running = home.start(&machine).await;
    // Never let go: nothing there to save.
    let error = snapshot(&home).save(&running.qmp, &machine.shape(), limits(), |_, _| ()).await.unwrap_err();
    assert_eq!(error.code(), Code::Conflict, "{error}");
    running.qmp.cont().await.unwrap();
    home.counts_beyond(0).await;
    running.qmp.stop().await.unwrap();
    arm(&[Plan::once(Point::MemoryWritten, 1, Action::Fail(Code::Timeout))]);
    snapshot(&home).save(&running.qmp, &machine.shape(), limits(), |_, _| ()).await.unwrap_err();
    disarm();
    assert!(matches!(running.qmp.run_state().await.unwrap(), RunState::Postmigrate | RunState::Paused));
    // And can be saved from there.
    snapshot(&home).save(&running.qmp, &machine.shape(), limits(), |_, _| ()).await.unwrap();
    assert!(home.qemu.version >= Version::OLDEST);
}
