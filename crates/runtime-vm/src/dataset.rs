//! What outlives its instance, its volumes and a claw's home: setting it aside, giving it to
//! another, removing it.
//!
//! Every step is one rename, in an order that leaves the data in exactly one place whenever
//! it is cut off, and each step finds out by itself whether it was done already.

use std::io;
use std::path::Path;

use clawfarm_files::{Folder, NewFile, give_to, io_error, make_private, size_on_disk};
use clawfarm_local::uid;
use clawfarm_model::launch::Software;
use clawfarm_model::name::TenantName;
use clawfarm_model::{ClawId, Code, DataFate, Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::inner::Inner;
use crate::paths::{STATE, VOLUMES, is_removing, partial, removing};
use crate::prepare::owner;
use crate::record::{MachineRecord, is_machine};

/// Its description, in its folder. Not that of another runtime's dataset, which has other parts.
pub(crate) const MANIFEST: &str = "vm-dataset.json";
const MANIFEST_LIMIT: u64 = 4 << 20;

/// What a dataset consists of.
const PARTS: [&str; 2] = [STATE, VOLUMES];

/// What is known of a dataset without the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    pub(crate) id: ClawId,
    pub(crate) tenant: TenantName,
    software: Software,
    pub(crate) size_bytes: u64,
    pub(crate) created_at: Timestamp,
    #[serde(default)]
    pub(crate) record: serde_json::Value,
}

fn open(path: &Path) -> Result<Option<Folder>> {
    match Folder::open(path) {
        Ok(folder) => Ok(Some(folder)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error(format!("open '{}'", path.display()), e)),
    }
}

pub(crate) fn manifest(inner: &Inner, id: &ClawId) -> Result<Option<Manifest>> {
    let Some(folder) = open(&inner.paths.dataset(id))? else { return Ok(None) };
    let bytes = folder
        .read(Path::new(MANIFEST), MANIFEST_LIMIT)
        .map_err(|e| io_error(format!("read the description of dataset '{id}'"), e))?;
    bytes
        .map(|bytes| serde_json::from_slice(&bytes))
        .transpose()
        .map_err(|e| Error::internal(format!("the description of dataset '{id}' is damaged"), e))
}

/// The ids of the datasets of machines whose folders exist, in their order.
pub(crate) fn ids(inner: &Inner) -> Result<Vec<ClawId>> {
    let Some(folder) = open(&inner.paths.datasets())? else { return Ok(Vec::new()) };
    let names = folder.names().map_err(|e| io_error("list the datasets", e))?;
    let mut ids: Vec<_> = names.iter().filter_map(|name| ClawId::new(name.to_str()?).ok()).collect();
    ids.retain(|id| inner.paths.dataset(id).join(MANIFEST).exists());
    ids.sort();
    Ok(ids)
}

/// Sets the volumes of an instance that does not run aside, or leaves them to go with its folder.
/// Returns the size of the dataset.
pub(crate) fn keep_or_purge(inner: &Inner, id: &ClawId, fate: DataFate) -> Result<u64> {
    finish_removal(inner, id)?;
    match fate {
        DataFate::Purge => purge_parts(inner, id),
        DataFate::Keep => {
            if let Some(record) = MachineRecord::read(&inner.dir(id)).ok().flatten() {
                // A dataset that is still on its way in would stay behind under a name that
                // nobody knows any more.
                move_in(inner, &record)?;
            }
            set_aside(inner, id)
        }
    }
}

/// Removes the folder of an instance.
pub(crate) fn remove_folder(inner: &Inner, id: &ClawId) -> Result<()> {
    let failed = |e| io_error(format!("remove the folder of '{id}'"), e);
    let Some(claws) = open(&inner.paths.claws())? else { return Ok(()) };
    if is_machine(&inner.dir(id)) {
        claws.move_to(id.as_str().as_ref(), &claws, &removing(id)).map_err(failed)?;
    }
    clawfarm_failpoint::point_blocking!(FolderRemoved);
    finish_removal(inner, id)
}

/// Finishes a removal that was cut off after its point of no return.
pub(crate) fn finish_removal(inner: &Inner, id: &ClawId) -> Result<()> {
    let Some(claws) = open(&inner.paths.claws())? else { return Ok(()) };
    claws.remove(&removing(id)).map_err(|e| io_error(format!("remove what is left of '{id}'"), e))
}

/// Removes all that was on its way out when an earlier server ended. What can't be removed is
/// told in the log.
pub(crate) fn finish_removals(inner: &Inner) -> Result<()> {
    for path in [inner.paths.claws(), inner.paths.datasets()] {
        let Some(folder) = open(&path)? else { continue };
        let names = folder.names().map_err(|e| io_error(format!("list '{}'", path.display()), e))?;
        for name in names.iter().filter(|name| is_removing(name)) {
            match folder.remove(name) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(folder = %name.to_string_lossy(), error = %e, "can't be removed");
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn set_aside(inner: &Inner, id: &ClawId) -> Result<u64> {
    let failed = |e| io_error(format!("set the volumes of '{id}' aside"), e);
    let size_before = || Ok(manifest(inner, id)?.map_or(0, |found| found.size_bytes));
    let Some(record) = MachineRecord::read(&inner.dir(id))? else { return size_before() };
    let claw = Folder::open(&inner.dir(id)).map_err(failed)?;
    let datasets = Folder::open_or_make(&inner.paths.datasets()).map_err(failed)?;
    let half_name = partial(id);
    let half_exists = datasets.kind(&half_name).map_err(failed)?.is_some();
    let whole_exists = datasets.kind(id.as_str().as_ref()).map_err(failed)?.is_some();
    let left = has_data(&claw).map_err(failed)?;
    if !half_exists && !left {
        return size_before();
    }
    if whole_exists {
        return Err(Error::new(Code::Conflict, format!("there is already a dataset of '{id}'"))
            .field("dataset")
            .fix(format!("remove it with `clawfarm dataset rm {id}`, then try again")));
    }
    make_private(&inner.paths.datasets().join(&half_name)).map_err(failed)?;
    let half = datasets.folder(half_name.as_ref()).map_err(failed)?;
    for part in PARTS {
        if is_filled(&claw, part).map_err(failed)? {
            // Moving a folder writes to it, and its owner may have forbidden that.
            claw.unlock(part.as_ref()).map_err(failed)?;
            claw.move_to(part.as_ref(), &half, part.as_ref()).map_err(failed)?;
        }
    }
    let size_bytes = size_on_disk(&half);
    let found = Manifest {
        version: 1,
        id: id.clone(),
        tenant: record.tenant,
        software: record.software,
        size_bytes,
        created_at: Timestamp::now(),
        record: record.record,
    };
    let bytes = serde_json::to_vec_pretty(&found)
        .map_err(|e| Error::internal("a dataset could not be put into JSON", e))?;
    let new = NewFile { mode: 0o600, owner: None, folder_owner: None };
    half.write(Path::new(MANIFEST), &bytes, new).map_err(failed)?;
    datasets.move_to(&half_name, &datasets, id.as_str().as_ref()).map_err(failed)?;
    Ok(size_bytes)
}

/// Whether an instance has anything to keep: one without leaves no dataset.
fn has_data(claw: &Folder) -> io::Result<bool> {
    Ok(is_filled(claw, STATE)? || is_filled(claw, VOLUMES)?)
}

/// Whether there is something in a part.
fn is_filled(claw: &Folder, part: &str) -> io::Result<bool> {
    match claw.kind(part.as_ref())? {
        None => Ok(false),
        Some(_) => {
            claw.unlock(part.as_ref())?;
            Ok(!claw.folder(Path::new(part))?.is_empty()?)
        }
    }
}

/// Removes what an earlier removal, which was to keep the volumes and was cut off, set aside.
fn purge_parts(inner: &Inner, id: &ClawId) -> Result<u64> {
    let Some(datasets) = open(&inner.paths.datasets())? else { return Ok(0) };
    let failed = |e| io_error(format!("remove the volumes of '{id}'"), e);
    datasets.remove(&partial(id)).map_err(failed)?;
    // Only while the instance is still there, so that a dataset which someone kept on
    // purpose is not removed by a verb that came late.
    if is_machine(&inner.dir(id)) && manifest(inner, id)?.is_some() {
        datasets.remove(id.as_str().as_ref()).map_err(failed)?;
    }
    Ok(0)
}

/// Removes a dataset.
pub(crate) fn remove(inner: &Inner, id: &ClawId) -> Result<()> {
    let Some(datasets) = open(&inner.paths.datasets())? else { return Ok(()) };
    let failed = |e| io_error(format!("remove dataset '{id}'"), e);
    // Out of sight first: a dataset that is half removed must not be given to anyone.
    let doomed = removing(id);
    datasets.remove(&doomed).map_err(failed)?;
    match datasets.move_to(id.as_str().as_ref(), &datasets, &doomed) {
        Ok(()) => datasets.remove(&doomed).map_err(failed),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed(e)),
    }
}

/// Puts volumes back that a cut-off removal had begun to set aside, for an instance that is
/// wanted after all.
pub(crate) fn undo_partial(inner: &Inner, record: &MachineRecord) -> Result<()> {
    let Some(datasets) = open(&inner.paths.datasets())? else { return Ok(()) };
    let failed = |e| io_error(format!("put the volumes of '{}' back", record.id), e);
    let name = partial(&record.id);
    if datasets.kind(&name).map_err(failed)?.is_none() {
        return Ok(());
    }
    move_parts(inner, &inner.paths.datasets().join(&name), record)?;
    datasets.remove(&name).map_err(failed)
}

/// Moves the noted dataset in, or goes on with it.
pub(crate) fn move_in(inner: &Inner, record: &MachineRecord) -> Result<()> {
    let Some(dataset) = record.dataset.clone() else { return Ok(()) };
    let from = inner.paths.dataset(&dataset);
    let failed = |e| io_error(format!("move volumes into '{}'", record.id), e);
    let claw = Folder::open(&inner.dir(&record.id)).map_err(failed)?;
    if open(&from)?.is_none() && !has_data(&claw).map_err(failed)? {
        return Err(Error::not_found("dataset", &dataset)
            .field("dataset")
            .fix("choose one that `clawfarm dataset ls` shows"));
    }
    move_parts(inner, &from, record)?;
    remove(inner, &dataset)?;
    if let Some(own) = owner(record) {
        for part in PARTS {
            if claw.kind(part.as_ref()).map_err(failed)?.is_some() {
                // Its files belong to whoever served them before.
                give_to(&claw.folder(Path::new(part)).map_err(failed)?, own, uid::is_ours).map_err(failed)?;
            }
        }
    }
    inner.change(&record.id, |it| it.dataset = None).map(drop)
}

/// Moves the parts that are still in `from` into an instance, in the place of its empty ones.
fn move_parts(inner: &Inner, from: &Path, record: &MachineRecord) -> Result<()> {
    let id = &record.id;
    let failed = |e| io_error(format!("move data into '{id}'"), e);
    let Some(from) = open(from)? else { return Ok(()) };
    let claw = Folder::open(&inner.dir(id)).map_err(failed)?;
    for part in PARTS {
        if from.kind(part.as_ref()).map_err(failed)?.is_none() {
            continue;
        }
        let taken = match part {
            STATE => clawfarm_local::state::has_data(&inner.dir(id), id)?,
            _ => is_filled(&claw, part).map_err(failed)?,
        };
        if taken {
            return Err(Error::new(Code::Conflict, format!("'{id}' has data of its own"))
                .field("dataset")
                .fix("give the dataset to a new instance"));
        }
        claw.remove(part.as_ref()).map_err(failed)?;
        from.move_to(part.as_ref(), &claw, part.as_ref()).map_err(failed)?;
    }
    Ok(())
}
