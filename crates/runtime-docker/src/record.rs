//! `container.json`: what a container can't tell of itself, and what is needed to find an
//! instance again without the store.

use std::io;
use std::path::Path;

use clawfarm_files::{Folder, NewFile, io_error};
use clawfarm_model::launch::Software;
use clawfarm_model::name::{TargetName, TenantName};
use clawfarm_model::observed::Exit;
use clawfarm_model::{ClawId, Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::paths::Paths;

/// The file's name, in the instance's folder.
pub(crate) const FILE: &str = "container.json";
/// Larger is no record of ours.
const LIMIT: u64 = 4 << 20;

/// What `container.json` holds: no secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// The form of this file; 1.
    pub(crate) version: u32,
    /// Which instance.
    pub(crate) id: ClawId,
    /// On which target.
    pub(crate) target: TargetName,
    /// Whose.
    pub(crate) tenant: TenantName,
    /// What it runs.
    pub(crate) software: Software,
    /// The port of this machine that its gateway is published on.
    pub(crate) port: u16,
    /// The last launch that was started; 0 when none was.
    #[serde(default)]
    pub(crate) run: i64,
    /// When the container had last been started, in the engine's words, before that launch: a
    /// container that still says so has not begun it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<String>,
    /// That launch was asked to end.
    #[serde(default)]
    pub(crate) asked: bool,
    /// How that launch ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<Exit>,
    /// The image it was last started with, by its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
    /// When it was made.
    pub(crate) created_at: Timestamp,
    /// The dataset it begins with, while that is still to be moved in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dataset: Option<ClawId>,
    /// What the store knew of it.
    #[serde(default)]
    pub(crate) record: serde_json::Value,
}

impl ContainerRecord {
    /// The record in a folder; `None` when there is none.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let bytes = match Folder::open(dir).and_then(|folder| folder.read(Path::new(FILE), LIMIT)) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error(format!("read '{}'", path.display()), e)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
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

/// The ids that there are folders of.
pub(crate) fn folders(paths: &Paths) -> Result<Vec<ClawId>> {
    let claws = paths.claws();
    let names = match Folder::open(&claws).and_then(|folder| folder.names()) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(io_error(format!("list '{}'", claws.display()), e)),
    };
    Ok(names.iter().filter_map(|name| ClawId::new(name.to_str()?).ok()).collect())
}

/// The ids of the target's instances whose records exist, in their order.
pub(crate) fn ids(paths: &Paths, target: &TargetName) -> Result<Vec<ClawId>> {
    let mut found = Vec::new();
    for id in folders(paths)? {
        match ContainerRecord::read(&paths.claw(&id)) {
            Ok(Some(record)) if record.target == *target => found.push(id),
            Ok(_) => {}
            Err(error) => tracing::warn!(%id, %error, "an instance's record can't be read"),
        }
    }
    Ok(found)
}
