//! Where everything is.
//!
//! ```text
//! <home>/claws/<CLAWID>/       0700; what is in it beside the following is the shim's (`clawfarm_shim::layout`)
//!   instance.json              what is needed to find the instance again without the store
//!   instance.img               its disk, QEMU's user's
//!   seed.iso                   what its first boot is told, with its own host key: QEMU's user's
//!   keys/                      the server's: the key to log in with, and the guest's, pinned
//!   vm/                        QEMU's user's: its sockets
//!   fs/<n>/                    the socket of a virtiofsd; its own, in a folder of the server's
//!   volumes/<name>/            QEMU's user's: what is shared into the machine
//!   state/                     QEMU's user's: a claw's home, shared into its machine; a bare
//!                              machine's state is its disk, and this is empty
//!   suspended/                 its memory, while it is suspended
//!   serial.log, qemu.log       lead to logs/output.log, which the shim keeps and bounds: what the
//!                              guest wrote to its serial port, and what QEMU had to say
//! <home>/datasets/<CLAWID>/    what of a removed instance is kept: state/, volumes/, vm-dataset.json
//! ```

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clawfarm_model::ClawId;

pub(crate) use clawfarm_local::state::{STATE, WORKSPACE};

/// Its disk.
pub(crate) const DISK: &str = "instance.img";
/// What its first boot is told.
pub(crate) const SEED: &str = "seed.iso";
/// The keys to it, and its own.
pub(crate) const KEYS: &str = "keys";
/// What a claw is started with, in [`VM`]: until QEMU has read it.
pub(crate) const LAUNCH: &str = "launch";
/// QEMU's sockets, and the mark of a virtual machine's folder.
pub(crate) const VM: &str = "vm";
/// The sockets of its virtiofsds, each in a folder of its own: none of them, and not QEMU either,
/// can put something else in another's place.
pub(crate) const SHARED: &str = "fs";
/// What is shared into it.
pub(crate) const VOLUMES: &str = "volumes";
/// Its memory, while it is suspended; a name for [`clawfarm_qemu::Snapshot::at`].
pub(crate) const SUSPENDED: &str = "suspended";

/// The folders of one server.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) home: PathBuf,
}

impl Paths {
    pub(crate) fn claws(&self) -> PathBuf {
        self.home.join("claws")
    }

    pub(crate) fn claw(&self, id: &ClawId) -> PathBuf {
        self.claws().join(id.as_str())
    }

    pub(crate) fn datasets(&self) -> PathBuf {
        self.home.join("datasets")
    }

    pub(crate) fn dataset(&self, id: &ClawId) -> PathBuf {
        self.datasets().join(id.as_str())
    }

    /// What was found out about KVM here.
    pub(crate) fn accelerator(&self) -> PathBuf {
        self.home.join("vm-accelerator.json")
    }
}

const REMOVING: &str = ".removing-vm-";

/// The name of an instance's folder while it is being removed. No id begins with a dot.
pub(crate) fn removing(id: &ClawId) -> OsString {
    format!("{REMOVING}{id}").into()
}

/// Whether a name is one that [`removing`] gives.
pub(crate) fn is_removing(name: &OsStr) -> bool {
    name.to_str().and_then(|text| text.strip_prefix(REMOVING)).is_some_and(|id| ClawId::new(id).is_ok())
}

/// The name of a dataset while it is being set aside.
pub(crate) fn partial(id: &ClawId) -> OsString {
    format!(".{id}.partial").into()
}
