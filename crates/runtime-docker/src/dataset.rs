//! Data that outlives its instance: setting it aside, giving it to another, removing it.
//!
//! Every step is one rename, in an order that leaves the data in exactly one place whenever
//! it is cut off, and each step finds out by itself whether it was done already.

use std::io;
use std::path::Path;

use clawfarm_files::{Folder, NewFile, give_to, io_error, make_private, size_on_disk};
use clawfarm_model::launch::Software;
use clawfarm_model::name::{TargetName, TenantName};
use clawfarm_model::{ClawId, Code, DataFate, Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::inner::Inner;
use crate::paths::{PARTS, partial, removing};
use crate::prepare::make_folders;
use crate::record::ContainerRecord;

/// Its description, in its folder. Not that of a local process's dataset, which has other parts.
pub(crate) const MANIFEST: &str = "container-dataset.json";
const MANIFEST_LIMIT: u64 = 4 << 20;

/// What is known of a dataset without the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    pub(crate) id: ClawId,
    pub(crate) target: TargetName,
    pub(crate) tenant: TenantName,
    software: Software,
    pub(crate) size_bytes: u64,
    pub(crate) created_at: Timestamp,
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

/// The ids of the datasets of containers whose folders exist, in their order.
pub(crate) fn ids(inner: &Inner) -> Result<Vec<ClawId>> {
    let Some(folder) = open(&inner.paths.datasets())? else { return Ok(Vec::new()) };
    let names = folder.names().map_err(|e| io_error("list the datasets", e))?;
    let mut ids: Vec<_> = names.iter().filter_map(|name| ClawId::new(name.to_str()?).ok()).collect();
    ids.retain(|id| inner.paths.dataset(id).join(MANIFEST).exists());
    ids.sort();
    Ok(ids)
}

/// Removes the folder of an instance that has no container any more, and keeps its data or
/// not. Returns the size of the dataset.
pub(crate) fn remove_instance(inner: &Inner, id: &ClawId, fate: DataFate) -> Result<u64> {
    finish_removal(inner, id)?;
    if fate == DataFate::Keep
        && let Some(record) = ContainerRecord::read(&inner.dir(id)).ok().flatten()
    {
        // A dataset that is still on its way in would stay behind under a name that nobody
        // knows any more.
        move_in(inner, &record)?;
    }
    let size = match fate {
        DataFate::Keep => set_aside(inner, id)?,
        DataFate::Purge => purge_parts(inner, id)?,
    };
    let failed = |e| io_error(format!("remove the folder of '{id}'"), e);
    let Some(claws) = open(&inner.paths.claws())? else { return Ok(size) };
    match claws.move_to(id.as_str().as_ref(), &claws, &removing(id)) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    finish_removal(inner, id)?;
    Ok(size)
}

/// Removes all that is the claw's, and leaves the record.
pub(crate) fn remove_parts(inner: &Inner, id: &ClawId) -> Result<()> {
    let Some(claw) = open(&inner.dir(id))? else { return Ok(()) };
    let failed = |e| io_error(format!("remove the folders of '{id}'"), e);
    PARTS.iter().try_for_each(|part| claw.remove(part.as_ref()).map_err(failed))
}

/// Finishes a removal that was cut off after its point of no return.
pub(crate) fn finish_removal(inner: &Inner, id: &ClawId) -> Result<()> {
    let Some(claws) = open(&inner.paths.claws())? else { return Ok(()) };
    claws.remove(&removing(id)).map_err(|e| io_error(format!("remove what is left of '{id}'"), e))
}

fn set_aside(inner: &Inner, id: &ClawId) -> Result<u64> {
    let failed = |e| io_error(format!("set the data of '{id}' aside"), e);
    let Some(record) = ContainerRecord::read(&inner.dir(id))? else {
        return Ok(manifest(inner, id)?.map_or(0, |found| found.size_bytes));
    };
    let claw = Folder::open(&inner.dir(id)).map_err(failed)?;
    let datasets = Folder::open_or_make(&inner.paths.datasets()).map_err(failed)?;
    let half_name = partial(id);
    let half_exists = datasets.kind(&half_name).map_err(failed)?.is_some();
    let whole_exists = datasets.kind(id.as_str().as_ref()).map_err(failed)?.is_some();
    let left = PARTS.iter().any(|part| !matches!(claw.kind(part.as_ref()), Ok(None)));
    if whole_exists && !half_exists && !left {
        return Ok(manifest(inner, id)?.map_or(0, |found| found.size_bytes));
    }
    if whole_exists {
        return Err(Error::new(Code::Conflict, format!("there is already a dataset of '{id}'"))
            .field("dataset")
            .fix(format!("remove it with `clawfarm dataset rm {id}`, then try again")));
    }
    make_private(&inner.paths.datasets().join(&half_name)).map_err(failed)?;
    let half = datasets.folder(half_name.as_ref()).map_err(failed)?;
    for part in PARTS {
        if claw.kind(part.as_ref()).map_err(failed)?.is_some() {
            // Moving a folder writes to it, and its claw may have forbidden that.
            claw.unlock(part.as_ref()).map_err(failed)?;
            claw.move_to(part.as_ref(), &half, part.as_ref()).map_err(failed)?;
        }
    }
    let size_bytes = size_on_disk(&half);
    let found = Manifest {
        version: 1,
        id: id.clone(),
        target: record.target,
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

/// Removes what an earlier removal, which was to keep the data and was cut off, set aside.
fn purge_parts(inner: &Inner, id: &ClawId) -> Result<u64> {
    let Some(datasets) = open(&inner.paths.datasets())? else { return Ok(0) };
    let failed = |e| io_error(format!("remove the data of '{id}'"), e);
    datasets.remove(&partial(id)).map_err(failed)?;
    // Only while the instance is still there, so that a dataset which someone kept on
    // purpose is not removed by a verb that came late.
    if open(&inner.dir(id))?.is_some() && manifest(inner, id)?.is_some() {
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

/// Puts data back that a cut-off removal had begun to set aside, for an instance that is
/// wanted after all.
pub(crate) fn undo_partial(inner: &Inner, record: &ContainerRecord) -> Result<()> {
    let Some(datasets) = open(&inner.paths.datasets())? else { return Ok(()) };
    let failed = |e| io_error(format!("put the data of '{}' back", record.id), e);
    let name = partial(&record.id);
    if datasets.kind(&name).map_err(failed)?.is_none() {
        return Ok(());
    }
    move_parts(inner, &inner.paths.datasets().join(&name), &record.id)?;
    datasets.remove(&name).map_err(failed)
}

/// Moves the noted dataset in, or goes on with it.
pub(crate) fn move_in(inner: &Inner, record: &ContainerRecord) -> Result<()> {
    let Some(dataset) = record.dataset.clone() else { return Ok(()) };
    let from = inner.paths.dataset(&dataset);
    if open(&from)?.is_none() && !has_data(inner, &record.id)? {
        return Err(Error::not_found("dataset", &dataset)
            .field("dataset")
            .fix("choose one that `clawfarm dataset ls` shows"));
    }
    move_parts(inner, &from, &record.id)?;
    remove(inner, &dataset)?;
    make_folders(inner, &record.id)?;
    // Its files belong to whoever ran them before.
    let owner = inner.user();
    let failed = |e| io_error(format!("give its data to '{}'", record.id), e);
    let claw = Folder::open(&inner.dir(&record.id)).map_err(failed)?;
    for part in PARTS {
        let part = claw.folder(part.as_ref()).map_err(failed)?;
        give_to(&part, owner, |uid| uid == owner.uid).map_err(failed)?;
    }
    inner.change_record(&record.id, |it| it.dataset = None).map(drop)
}

/// Whether an instance has data in any of its folders.
pub(crate) fn has_data(inner: &Inner, id: &ClawId) -> Result<bool> {
    let failed = |e| io_error(format!("look into the folders of '{id}'"), e);
    let Some(claw) = open(&inner.dir(id))? else { return Ok(false) };
    for part in PARTS {
        if claw.kind(part.as_ref()).map_err(failed)?.is_some()
            && !claw.folder(part.as_ref()).and_then(|folder| folder.is_empty()).map_err(failed)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Moves the parts that are still in `from` into an instance, in the place of its empty ones.
fn move_parts(inner: &Inner, from: &Path, id: &ClawId) -> Result<()> {
    let failed = |e| io_error(format!("move data into '{id}'"), e);
    let Some(from) = open(from)? else { return Ok(()) };
    let claw = Folder::open(&inner.dir(id)).map_err(failed)?;
    for part in PARTS {
        if from.kind(part.as_ref()).map_err(failed)?.is_none() {
            continue;
        }
        let empty = claw.kind(part.as_ref()).map_err(failed)?.is_none()
            || claw.folder(part.as_ref()).and_then(|folder| folder.is_empty()).map_err(failed)?;
        if !empty {
            return Err(Error::new(Code::Conflict, format!("'{id}' has data of its own in '{part}'"))
                .field("dataset")
                .fix("give the dataset to a new instance"));
        }
        claw.remove(part.as_ref()).map_err(failed)?;
        from.move_to(part.as_ref(), &claw, part.as_ref()).map_err(failed)?;
    }
    Ok(())
}
