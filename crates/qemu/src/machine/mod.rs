//! A virtual machine as QEMU's command line.
//!
//! There is no shell in between: an argument is a string of its own. Where QEMU takes JSON
//! (disks, devices, objects) it gets JSON, so that no path can become an option; the rest is its
//! own syntax, in which commas are doubled.
//!
//! What a machine has no matter what: no default devices, a versioned machine type, memory that
//! virtiofsd can share, QEMU's seccomp sandbox. What it never has: a display, a network that the
//! host's others see, ports on any address but 127.0.0.1.

mod argv;
mod check;
mod keyval;

pub(crate) use argv::SANDBOX;
pub(crate) use check::socket as check_socket;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::found::Qemu;
use crate::probe::Accelerator;

/// How many requests a share's queue holds: virtiofsd's own number.
pub(crate) const SHARE_QUEUE: u32 = 1024;

/// The fewest and most of what a machine can have; limits of QEMU's `q35` are higher.
const CPUS: std::ops::RangeInclusive<u32> = 1..=255;
const MEMORY_MIB: std::ops::RangeInclusive<u32> = 16..=4 * 1024 * 1024;
/// `sun_path` of `unix(7)`, without its closing NUL.
const MAX_SOCKET: usize = 107;

/// A virtual machine, described.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What the process is called in QEMU's messages.
    pub name: String,
    /// The versioned machine type, such as `pc-q35-10.0`: [`Qemu::machine`] for a new one, the
    /// snapshot's for one that is restored.
    pub machine: String,
    /// What runs its processors.
    pub accelerator: Accelerator,
    /// How many processors.
    pub cpus: u32,
    /// Its memory, in MiB.
    pub memory_mib: u32,
    /// Its disks, the one it boots from first.
    pub disks: Vec<Disk>,
    /// Its network; `None` for none.
    pub network: Option<Network>,
    /// Folders of the host, present from the start.
    pub shares: Vec<Share>,
    /// How many shares can be plugged in while it runs.
    pub hotplug_slots: u8,
    /// Byte channels to programs in the guest, such as the agent.
    pub channels: Vec<Channel>,
    /// Its number on the host's vsock (3 or more), where the host has `/dev/vhost-vsock`.
    pub vsock: Option<u32>,
    /// Its generation (a UUID): a new one tells a restored guest to forget its random numbers.
    pub generation: Option<String>,
    /// Memory that the guest frees goes back to the host.
    pub balloon: bool,
    /// Its system can say that it crashed (a kernel's panic), and QEMU ends with a failure then.
    pub tells_crash: bool,
    /// What it writes to its first serial port.
    pub serial: Serial,
    /// A file that gets what its firmware writes to port 0x402, for who looks for a fault.
    pub firmware_log: Option<PathBuf>,
    /// A kernel to start instead of what the disk would boot.
    pub kernel: Option<Kernel>,
    /// A file that the guest's root can read as `opt/clawfarm/launch` of QEMU's firmware
    /// configuration. QEMU reads it when it starts, so it may be removed afterwards; it is no part of
    /// the machine's shape.
    pub launch: Option<PathBuf>,
    /// Where QMP listens; the starter's umask must be 077, as the shim's is.
    pub qmp: PathBuf,
    /// Where QMP listens once more, for whoever only presses the power button.
    pub power: Option<PathBuf>,
    /// A file that gets QEMU's process id.
    pub pid_file: Option<PathBuf>,
    /// The processors wait for [`crate::Qmp::cont`].
    pub paused: bool,
    /// It waits for memory to restore ([`crate::Snapshot::restore`]).
    pub incoming: bool,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its name: letters, digits and `-`.
    pub id: String,
    /// The image.
    pub path: PathBuf,
    /// How bytes lie in it.
    pub format: Format,
    /// The guest can't write to it.
    pub read_only: bool,
}

/// How bytes lie in a disk's image. It is always said: a guest could write a header that QEMU
/// would take for another format's, and read any file of the host through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As they are.
    Raw,
    /// QEMU's own.
    Qcow2,
}

/// A network of its own behind QEMU: the guest is 10.0.2.15, the host 10.0.2.2.
///
/// What the host's programs listen on at 127.0.0.1 the guest reaches at 10.0.2.2: whoever
/// starts QEMU keeps it from what the guest must not reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The guest's address, six bytes as `52:54:00:…`.
    pub mac: String,
    /// Ports of the guest on 127.0.0.1.
    pub forwards: Vec<Forward>,
    /// No way out but the forwarded ports.
    pub closed: bool,
}

/// A port of the guest on the host's 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The host's, not 0.
    pub host: u16,
    /// The guest's.
    pub guest: u16,
}

/// A folder of the host: virtiofsd must listen before QEMU starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// What the guest mounts it by: letters, digits, `-`, `.` and `_`, at most 36.
    pub tag: String,
    /// Where its virtiofsd listens.
    pub socket: PathBuf,
    /// The slot it was plugged into while the machine ran ([`crate::qmp::Share::slot`]), for a
    /// machine that is restored with it.
    pub slot: Option<u8>,
}

/// A byte channel between a unix socket here and a device in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The guest's device is `/dev/virtio-ports/NAME`.
    pub name: String,
    /// Where QEMU listens.
    pub socket: PathBuf,
}

/// Where the first serial port goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serial {
    /// Nowhere.
    None,
    /// To QEMU's standard output: the shim bounds and rotates it.
    Output,
    /// To the end of a file. QEMU bounds it not; [`crate::bound_log`] does.
    File(PathBuf),
}

/// A kernel that QEMU starts by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its first file system.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub append: String,
}

/// What of a machine must be the same for its memory to fit: [`Machine::shape`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The versioned machine type.
    pub machine: String,
    /// What ran its processors.
    pub accelerator: Accelerator,
    /// The model of its processors.
    pub cpu: String,
    /// How many.
    pub cpus: u32,
    /// Its memory, in MiB.
    pub memory_mib: u32,
    /// A hash of its devices, with their names and places, without paths and ports of the host.
    pub devices: String,
}

/// Whether this machine has a vsock to give guests a place on, for us: the user that QEMU runs
/// as needs the same right.
#[must_use]
pub fn host_has_vsock() -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/vhost-vsock").is_ok()
}

impl Machine {
    /// A machine with nothing in it.
    #[must_use]
    pub fn new(qemu: &Qemu, accelerator: Accelerator, qmp: PathBuf) -> Self {
        Self {
            name: "clawfarm".into(),
            machine: qemu.machine.clone(),
            accelerator,
            cpus: 1,
            memory_mib: 512,
            disks: vec![],
            network: None,
            shares: vec![],
            hotplug_slots: 0,
            channels: vec![],
            vsock: None,
            generation: None,
            balloon: false,
            tells_crash: qemu.devices.contains("pvpanic-pci"),
            serial: Serial::None,
            firmware_log: None,
            kernel: None,
            launch: None,
            qmp,
            power: None,
            pid_file: None,
            paused: false,
            incoming: false,
        }
    }

    /// The model of its processors: all that the host has, or that the emulator can.
    #[must_use]
    pub const fn cpu(&self) -> &'static str {
        match self.accelerator {
            Accelerator::Kvm => "host",
            Accelerator::Tcg => "max",
        }
    }

    /// What a machine must have in common with a snapshot to be restored from it.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let mut hash = Sha256::new();
        for device in argv::devices(self) {
            hash.update(argv::shape_of(device).to_string());
            hash.update(b"\n");
        }
        let devices = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Shape {
            machine: self.machine.clone(),
            accelerator: self.accelerator,
            cpu: self.cpu().to_owned(),
            cpus: self.cpus,
            memory_mib: self.memory_mib,
            devices,
        }
    }
}
