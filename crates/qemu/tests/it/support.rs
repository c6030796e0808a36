//! Machines that run for a test, and waiting for them.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clawfarm_qemu::machine::{Disk, Format, Serial};
use clawfarm_qemu::{Accelerator, Machine, Qemu, Qmp};
use tempfile::TempDir;

use crate::guest;

/// Longer than anything takes on a machine that does ten things at once.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// Waits until `look` says something.
pub(crate) async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A folder for a machine's files, with a disk that counts.
pub(crate) struct Home {
    pub(crate) folder: TempDir,
    pub(crate) qemu: Qemu,
}

impl Home {
    pub(crate) async fn new() -> Self {
        Self::with(Qemu::find().await.unwrap())
    }

    pub(crate) fn with(qemu: Qemu) -> Self {
        // Short, because a socket's path has an end.
        let folder = tempfile::Builder::new().prefix("cfq").tempdir_in("/tmp").unwrap();
        std::fs::write(folder.path().join("disk.img"), guest::disk()).unwrap();
        Self { folder, qemu }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A machine that boots the disk and counts on its serial port.
    pub(crate) fn machine(&self) -> Machine {
        let mut machine = Machine::new(&self.qemu, Accelerator::Tcg, self.path("qmp"));
        machine.memory_mib = 64;
        machine.disks = vec![Disk {
            id: "root".into(),
            path: self.path("disk.img"),
            format: Format::Raw,
            read_only: false,
        }];
        machine.serial = Serial::File(self.path("serial.log"));
        machine
    }

    /// The last number that the guest told.
    pub(crate) fn count(&self) -> Option<u16> {
        let text = std::fs::read_to_string(self.path("serial.log")).ok()?;
        let whole = &text[..=text.rfind('\n')?];
        u16::from_str_radix(whole.lines().last()?, 16).ok()
    }

    /// Waits until the guest counted beyond a number.
    pub(crate) async fn counts_beyond(&self, number: u16) -> u16 {
        wait_for(&format!("the guest to count beyond {number:X}"), || async {
            self.count().filter(|count| *count > number)
        })
        .await
    }

    /// Every number that was told, in order, is larger by one than the one before.
    pub(crate) fn counted_without_a_gap(&self) {
        let text = std::fs::read_to_string(self.path("serial.log")).unwrap();
        let whole = &text[..=text.rfind('\n').unwrap()];
        let numbers: Vec<u16> = whole.lines().map(|line| u16::from_str_radix(line, 16).unwrap()).collect();
        assert!(numbers.windows(2).all(|two| two[1] == two[0] + 1), "{numbers:X?}");
    }

    /// Starts a machine and connects.
    pub(crate) async fn start(&self, machine: &Machine) -> Running {
        let process = self.spawn(machine);
        let qmp = self.connect(machine).await;
        Running { qmp, process }
    }

    /// Starts what `describe` says with a free port of the host; with another one when somebody
    /// took that in between.
    pub(crate) async fn start_with_port(&self, describe: impl Fn(u16) -> Machine) -> (Running, u16) {
        for _ in 0..10 {
            let port = free_port();
            let machine = describe(port);
            let mut process = self.spawn(&machine);
            tokio::select! {
                qmp = Qmp::connect(&machine.qmp, LIMIT) => return (Running { qmp: qmp.unwrap(), process }, port),
                () = process.ended_sometime() => {}
            }
        }
        panic!("no machine starts: {}", std::fs::read_to_string(self.path("qemu.log")).unwrap());
    }

    pub(crate) fn spawn(&self, machine: &Machine) -> Process {
        Process::start(&machine.argv(&self.qemu).unwrap(), &self.path("qemu.log"))
    }

    pub(crate) async fn connect(&self, machine: &Machine) -> Qmp {
        match Qmp::connect(&machine.qmp, LIMIT).await {
            Ok(qmp) => qmp,
            Err(error) => panic!("{error}: {}", std::fs::read_to_string(self.path("qemu.log")).unwrap()),
        }
    }
}

/// A machine that runs, and the conversation with it.
pub(crate) struct Running {
    pub(crate) qmp: Qmp,
    pub(crate) process: Process,
}

/// A process that is ended with the test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Starts it as the shim does: its files are its user's alone.
    pub(crate) fn start(argv: &[String], log: &Path) -> Self {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
        let child = Command::new("/bin/sh")
            .args(["-c", "umask 077; exec \"$@\"", "sh"])
            .args(argv)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it ended, and says whether with success.
    pub(crate) async fn ended(&mut self) -> bool {
        let child = &mut self.0;
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.success();
            }
            assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} for process {} to end", child.id());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until it ended, without a limit.
    pub(crate) async fn ended_sometime(&mut self) {
        while self.runs() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already: nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port of 127.0.0.1 that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What scripts/test-setup made for tests on this machine.
pub(crate) fn cache() -> PathBuf {
    std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"),
        PathBuf::from,
    )
}
