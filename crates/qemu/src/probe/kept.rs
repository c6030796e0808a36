//! What was found, remembered for as long as it holds.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clawfarm_files::{Folder, NewFile, blocking, io_error};
use clawfarm_model::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Probed, RunAs};
use crate::found::Qemu;

/// A file of this kind has some hundred bytes.
const LIMIT: u64 = 16 * 1024;

/// What it was found for. Anything else here, and it is found out again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    /// A module may have been loaded, or the machine moved to another host, since the last boot.
    boot_id: String,
    qemu: PathBuf,
    version: String,
    /// Of the program's file: when it was changed, in seconds, and its size in bytes.
    changed: i64,
    size: u64,
    run_as: Option<RunAs>,
    /// Who may open the device changes with a group's members or a rule of udev: its owner,
    /// group and mode; `None` when it is not there.
    device: Option<(u32, u32, u32)>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    key: Key,
    probed: Probed,
}

impl Key {
    pub(super) async fn now(qemu: &Qemu, run_as: Option<RunAs>) -> Result<Self> {
        let (path, version) = (qemu.path.clone(), qemu.version.to_string());
        blocking(move || {
            let failed = |e| io_error(format!("look at '{}'", path.display()), e);
            let about = std::fs::metadata(&path).map_err(failed)?;
            let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(failed)?;
            let device = std::fs::metadata("/dev/kvm").ok().map(|kvm| (kvm.uid(), kvm.gid(), kvm.mode()));
            let boot_id = boot_id.trim().to_owned();
            Ok(Self {
                boot_id,
                version,
                changed: about.mtime(),
                size: about.size(),
                qemu: path,
                run_as,
                device,
            })
        })
        .await
    }
}

/// What is remembered, if it holds for `key`. What can't be read is not remembered.
pub(super) async fn read(file: &Path, key: &Key) -> Option<Probed> {
    let file = file.to_owned();
    let read = blocking(move || {
        let (folder, name) = parts(&file)?;
        let folder = match Folder::open(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| io_error("open a folder", e))?,
        };
        folder.read(Path::new(name), LIMIT).map_err(|e| io_error("read what was found", e))
    });
    let kept: Kept = match read.await {
        Ok(bytes) => serde_json::from_slice(&bytes?).ok()?,
        Err(error) => {
            tracing::debug!(%error, "what runs virtual machines here is found out again");
            return None;
        }
    };
    (kept.key == *key).then_some(kept.probed)
}

pub(super) async fn write(file: &Path, key: &Key, probed: &Probed) -> Result<()> {
    let kept = Kept { key: key.clone(), probed: probed.clone() };
    let text = serde_json::to_vec_pretty(&kept).map_err(|e| Error::internal("could not be written", e))?;
    let file = file.to_owned();
    blocking(move || {
        let (folder, name) = parts(&file)?;
        let failed = |e| io_error(format!("write '{}'", file.display()), e);
        clawfarm_files::make_private(folder).map_err(failed)?;
        let new = NewFile { mode: 0o600, owner: None, folder_owner: None };
        Folder::open(folder).and_then(|folder| folder.write(Path::new(name), &text, new)).map_err(failed)
    })
    .await
}

fn parts(file: &Path) -> Result<(&Path, &std::ffi::OsStr)> {
    match (file.parent(), file.file_name()) {
        (Some(folder), Some(name)) => Ok((folder, name)),
        _ => Err(Error::invalid("file", format!("'{}' is no path of a file", file.display()))),
    }
}
