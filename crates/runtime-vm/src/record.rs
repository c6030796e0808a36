//! `instance.json`: what is needed to find an instance again without the store.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use clawfarm_files::{Folder, NewFile, io_error};
use clawfarm_model::launch::Software;
use clawfarm_model::name::TenantName;
use clawfarm_model::resources::Resources;
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{ClawId, Error, Result, Timestamp};
use clawfarm_qemu::Accelerator;
use clawfarm_vm_images::{Format, How};
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use crate::paths::{Paths, VM};

/// The file's name, in the instance's folder.
pub(crate) const FILE: &str = "instance.json";
/// Its field that says that a machine is meant to stand still; the shim reads it, too.
pub(crate) const FROZEN: &str = "frozen";
/// Larger is no record of ours.
const LIMIT: u64 = 4 << 20;

/// What `instance.json` holds: no secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MachineRecord {
    /// The form of this file; 1.
    pub(crate) version: u32,
    /// Which instance.
    pub(crate) id: ClawId,
    /// Whose.
    pub(crate) tenant: TenantName,
    /// What the store calls it.
    pub(crate) software: Software,
    /// The disk with its software; a bare machine has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) installed: Option<PathBuf>,
    /// What it was asked to be.
    pub(crate) vm: VmSpec,
    /// Its share of the machine.
    pub(crate) resources: Resources,
    /// The port of its gateway, the same on both sides.
    pub(crate) port: u16,
    /// The port of this machine that leads to its SSH.
    pub(crate) ssh_port: u16,
    /// The user id of its own that QEMU has, when it has one; its group id is the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<u32>,
    /// How its disk was made, once it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) disk: Option<DiskRecord>,
    /// The last launch that was started; 0 when none was.
    #[serde(default)]
    pub(crate) run: i64,
    /// How that was started: what its memory needs again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) started: Option<Started>,
    /// Its processors were stopped on purpose.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) frozen: bool,
    /// How the last boot went, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) booted: Option<Booted>,
    /// The base snapshot that its disk leans on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<OnBase>,
    /// Why it could not be made from a base snapshot, and was booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base_lost: Option<String>,
    /// Why its saved memory could not be used at the last start, and it began anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_lost: Option<String>,
    /// What tells the launch that its memory is of from others: a SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) launched: Option<String>,
    /// When it was made.
    pub(crate) created_at: Timestamp,
    /// The dataset it begins with, while that is still to be moved in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dataset: Option<ClawId>,
    /// What the store knew of the instance ([`clawfarm_model::Placement::record`]).
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub(crate) record: serde_json::Value,
}

/// How a disk was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskRecord {
    /// In which way; an overlay needs its image.
    pub(crate) how: How,
    /// How bytes lie in it: QEMU must not guess.
    pub(crate) format: Format,
}

/// A base snapshot that a machine is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OnBase {
    /// Which of its image's.
    pub(crate) name: String,
    /// Its disk may have been written to by a start that was cut off.
    #[serde(default)]
    pub(crate) tried: bool,
    /// It is a machine of its own. Until then nothing of it is worth keeping.
    #[serde(default)]
    pub(crate) identified: bool,
}

/// How a machine was started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Started {
    /// QEMU's versioned machine type.
    pub(crate) machine: String,
    /// What runs its processors.
    pub(crate) accelerator: Accelerator,
    /// Its share of the machine.
    pub(crate) resources: Resources,
    /// The disk with its claw's software, which its memory goes with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) installed: Option<PathBuf>,
    /// Its folders were plugged in while it ran, as those of one that came from a base snapshot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) plugged: bool,
}

/// How a boot went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Booted {
    /// Of which launch.
    pub(crate) run: i64,
    /// What went wrong in its set-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
    /// That is a folder which is not mounted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unmounted: bool,
}

impl MachineRecord {
    /// Reads the record in an instance's folder; `None` when there is none.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let bytes = match Folder::open(dir).and_then(|folder| folder.read(Path::new(FILE), LIMIT)) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error(format!("read '{}'", path.display()), e)),
        };
        Self::parse(&bytes, &path).map(Some)
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| {
            Error::internal(format!("'{}' is damaged: {e}", path.display()), e).fix(
                "restore the file from a backup, or remove the instance with `clawfarm rm` (its volumes are kept)",
            )
        })
    }

    /// Replaces the record as a whole.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::internal("an instance could not be put into JSON", e))?;
        let new = NewFile { mode: 0o600, owner: None, folder_owner: None };
        Folder::open(dir)
            .and_then(|folder| folder.write(Path::new(FILE), &bytes, new))
            .map_err(|e| io_error(format!("write '{}'", path.display()), e))
    }
}

/// The ids of the virtual machines here, in their order: whose folders have QEMU's in them.
pub(crate) fn ids(paths: &Paths) -> Result<Vec<ClawId>> {
    let claws = paths.claws();
    let failed = |e| io_error(format!("list '{}'", claws.display()), e);
    let names = match Folder::open(&claws).and_then(|folder| folder.names()) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut ids: Vec<ClawId> = names.iter().filter_map(|name| ClawId::new(name.to_str()?).ok()).collect();
    ids.retain(|id| is_machine(&paths.claw(id)));
    ids.sort();
    Ok(ids)
}

/// Whether a folder is a virtual machine's.
pub(crate) fn is_machine(dir: &Path) -> bool {
    Folder::open(dir)
        .and_then(|folder| folder.kind(VM.as_ref()))
        .is_ok_and(|kind| kind == Some(FileType::Directory))
}

/// The user ids that machines have, `except` one's.
pub(crate) fn uids(paths: &Paths, except: &ClawId) -> Result<BTreeSet<u32>> {
    use std::os::unix::fs::MetadataExt;
    let mut taken = BTreeSet::new();
    for id in ids(paths)?.iter().filter(|id| *id != except) {
        let dir = paths.claw(id);
        // A damaged record must not give its id away: the owner of its folder tells it too.
        let recorded = MachineRecord::read(&dir).ok().flatten().and_then(|record| record.uid);
        let owner = std::fs::symlink_metadata(dir.join(VM)).map(|meta| meta.uid()).ok();
        taken.extend(recorded.into_iter().chain(owner));
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_instance_json() {
        let whole = r#"{"version":1,"id":"alice-x7k2b","tenant":"default","software":{"claw_type":"machine","version":"1","npm":null,"image":null},"vm":{"image":"debian:12","volumes":[{"name":"a","guest":"/srv/a"}]},"resources":{"cpus":1.0,"memory_mib":2048},"port":20001,"ssh_port":20002,"uid":100000,"disk":{"how":"overlay","format":"qcow2"},"run":3,"started":{"machine":"pc-q35-10.0","accelerator":"tcg","resources":{"cpus":1.0,"memory_mib":2048},"plugged":true},"frozen":true,"base":{"name":"1x2048-0a1b2c3d","tried":true,"identified":true},"base_lost":"y","booted":{"run":3,"failed":"x","unmounted":true},"created_at":"2026-11-21T00:00:00Z","dataset":"bob-x7k2b","record":{"a":[1]}}"#;
        let path = Path::new("instance.json");
        let read = MachineRecord::parse(whole.as_bytes(), path).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap()[FROZEN], true);
        clawfarm_fuzz::fuzz(&[whole.as_bytes(), b"{}"], |bytes| match MachineRecord::parse(bytes, path) {
            Ok(record) => {
                // It becomes names of files and user ids: what was read is what is written.
                let again = MachineRecord::parse(&serde_json::to_vec(&record).unwrap(), path).unwrap();
                assert_eq!(again, record);
                assert!(!record.id.as_str().contains(['/', '.']));
            }
            Err(error) => assert!(error.message().contains("damaged") && error.fix_text().is_some()),
        });
    }
}
