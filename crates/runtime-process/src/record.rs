//! `instance.json`: what is needed to find an instance again without the store.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clawfarm_model::launch::Software;
use clawfarm_model::name::TenantName;
use clawfarm_model::resources::Resources;
use clawfarm_model::{ClawId, Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::paths::{Paths, STATE};
use clawfarm_files::io_error;
use clawfarm_files::{Folder, NewFile};

/// The file's name, in the instance's folder.
pub(crate) const FILE: &str = "instance.json";

/// What the folder of an instance has that runs in a container: it is another target's.
const CONTAINER: &str = "container.json";

/// What the folder of a virtual machine has.
const MACHINE: &str = "vm";

/// Larger is no record of ours.
const LIMIT: u64 = 4 << 20;

/// What `instance.json` holds: no secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// The form of this file; 1.
    pub version: u32,
    /// Which instance.
    pub id: ClawId,
    /// Whose.
    pub tenant: TenantName,
    /// What it runs.
    pub software: Software,
    /// Its share of the machine.
    pub resources: Resources,
    /// The port of its gateway.
    pub port: u16,
    /// The user id of its own, when it has one; its group id is the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The last launch that was started; 0 when none was.
    #[serde(default)]
    pub run: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// The dataset it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<ClawId>,
    /// That dataset is still on its way in: a crash between two of its folders is mended by
    /// going on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dataset_moving: bool,
    /// What the store knew of the instance ([`clawfarm_model::Placement::record`]).
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub record: serde_json::Value,
}

impl InstanceRecord {
    /// Reads the record in an instance's folder; `None` when there is none.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>> {
        let found = match Folder::open(dir) {
            Ok(folder) => folder.read(Path::new(FILE), LIMIT),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => Err(e),
        };
        let path = dir.join(FILE);
        let Some(bytes) = found.map_err(|e| io_error(format!("read '{}'", path.display()), e))? else {
            return Ok(None);
        };
        Self::parse(&bytes, &path).map(Some)
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| {
            Error::internal(format!("'{}' is damaged: {e}", path.display()), e).fix(
                "restore the file from a backup, or remove the instance with `clawfarm rm` (its data is kept)",
            )
        })
    }

    /// Replaces the record as a whole.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::internal("an instance could not be put into JSON", e))?;
        Folder::open(dir)
            .and_then(|folder| {
                let new = NewFile { mode: 0o600, owner: None, folder_owner: None };
                folder.write(Path::new(FILE), &bytes, new)
            })
            .map_err(|e| io_error(format!("write '{}'", path.display()), e))
    }
}

/// The ids of the instances whose folders exist.
pub(crate) fn ids(paths: &Paths) -> Result<Vec<ClawId>> {
    let claws = paths.claws();
    let names = match Folder::open(&claws).and_then(|folder| folder.names()) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(io_error(format!("list '{}'", claws.display()), e)),
    };
    let ids = names.iter().filter_map(|name| ClawId::new(name.to_str()?).ok());
    let another = |id: &ClawId| [CONTAINER, MACHINE].iter().any(|name| paths.claw(id).join(name).exists());
    Ok(ids.filter(|id| !another(id)).collect())
}

/// The user ids that instances have, `except` one's.
pub(crate) fn uids(paths: &Paths, except: &ClawId) -> Result<BTreeSet<u32>> {
    let mut taken = BTreeSet::new();
    for id in ids(paths)?.iter().filter(|id| *id != except) {
        let dir = paths.claw(id);
        // A damaged record must not give its id away: the owner of its folder tells it too.
        let recorded = InstanceRecord::read(&dir).ok().flatten().and_then(|record| record.uid);
        let owner = std::fs::symlink_metadata(dir.join(STATE)).map(|meta| meta.uid()).ok();
        taken.extend(recorded.into_iter().chain(owner));
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_other_runtimes_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { home: dir.path().to_owned(), cache: dir.path().join("cache") };
        for name in ["claws/alice-x7k2b/vm", "claws/bob-x7k2b", "claws/carol-x7k2b"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("claws/carol-x7k2b/container.json"), "{}").unwrap();
        assert_eq!(ids(&paths).unwrap(), [ClawId::new("bob-x7k2b").unwrap()]);
    }

    #[test]
    fn fuzz_instance_json() {
        let whole = r#"{"version":1,"id":"alice-x7k2b","tenant":"default","software":{"claw_type":"openclaw","version":"2026.9.6","npm":{"package":"openclaw","version":"2026.9.6","node":"24.21.0","about_packages":700},"image":null},"resources":{"cpus":1.0,"memory_mib":2048},"port":20001,"uid":100000,"run":3,"created_at":"2026-11-21T00:00:00Z","dataset":"bob-x7k2b","dataset_moving":true,"record":{"a":[1]}}"#;
        let path = Path::new("instance.json");
        InstanceRecord::parse(whole.as_bytes(), path).unwrap();
        clawfarm_fuzz::fuzz(&[whole.as_bytes(), b"{}"], |bytes| match InstanceRecord::parse(bytes, path) {
            Ok(record) => {
                // It becomes names of files and user ids: what was read is what is written.
                let again = InstanceRecord::parse(&serde_json::to_vec(&record).unwrap(), path).unwrap();
                assert_eq!(again, record);
                assert!(!record.id.as_str().contains(['/', '.']));
            }
            Err(error) => assert!(error.message().contains("damaged") && error.fix_text().is_some()),
        });
    }
}
