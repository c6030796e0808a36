//! Data that outlives its instance: setting it aside, giving it to another, removing it.
//!
//! Every step is one rename, in an order that leaves the data in exactly one place whenever
//! it is cut off, and each step finds out by itself whether it was done already. So a
//! removal or a move that was killed half-way is finished by doing it again.

use std::io;
use std::path::Path;

use clawfarm_model::launch::Software;
use clawfarm_model::name::TenantName;
use clawfarm_model::{ClawId, Code, DataFate, Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::inner::Inner;
use crate::insisted;
use crate::paths::{STATE, VOLUMES, is_removing, partial, removing};
use crate::record::InstanceRecord;
use clawfarm_files::io_error;
use clawfarm_files::{Folder, NewFile, make_private, size_on_disk};
use clawfarm_local::state::has_data;

/// What a dataset consists of.
pub(crate) const PARTS: [&str; 2] = [STATE, VOLUMES];
/// Its description, in its folder.
pub(crate) const MANIFEST: &str = "dataset.json";
/// The description of what came out of a container, which has other parts: it is another target's.
const OF_CONTAINER: &str = "container-dataset.json";
/// The same of a virtual machine, which has its volumes alone.
const OF_MACHINE: &str = "vm-dataset.json";
const MANIFEST_LIMIT: u64 = 4 << 20;

/// What is known of a dataset without the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetRecord {
    /// The form of this file; 1.
    pub version: u32,
    /// Its id: that of the instance it came from.
    pub id: ClawId,
    /// Whose.
    pub tenant: TenantName,
    /// What wrote it.
    pub software: Software,
    /// Its size on disk, in bytes.
    pub size_bytes: u64,
    /// When it was set aside.
    pub created_at: Timestamp,
    /// What the store knew of the instance.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub record: serde_json::Value,
}

/// The ids of the datasets whose folders exist, in their order.
pub(crate) fn ids(inner: &Inner) -> Result<Vec<ClawId>> {
    let Some(folder) = open(&inner.paths.datasets())? else { return Ok(Vec::new()) };
    let names = folder.names().map_err(|e| io_error("list the datasets", e))?;
    let mut ids: Vec<_> = names.iter().filter_map(|name| ClawId::new(name.to_str()?).ok()).collect();
    let another = |id: &ClawId| {
        [OF_CONTAINER, OF_MACHINE].iter().any(|name| inner.paths.dataset(id).join(name).exists())
    };
    ids.retain(|id| !another(id));
    ids.sort();
    Ok(ids)
}

/// Every dataset here; one whose description is damaged is left out, with a warning in the log.
pub(crate) fn list(inner: &Inner) -> Result<Vec<DatasetRecord>> {
    Ok(ids(inner)?
        .into_iter()
        .filter_map(|id| match manifest(inner, &id) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%id, %error, "a dataset can't be read");
                None
            }
        })
        .collect())
}

pub(crate) fn manifest(inner: &Inner, id: &ClawId) -> Result<Option<DatasetRecord>> {
    let Some(folder) = open(&inner.paths.dataset(id))? else { return Ok(None) };
    let bytes = folder
        .read(Path::new(MANIFEST), MANIFEST_LIMIT)
        .map_err(|e| io_error(format!("read the description of dataset '{id}'"), e))?;
    bytes
        .map(|bytes| serde_json::from_slice(&bytes))
        .transpose()
        .map_err(|e| Error::internal(format!("the description of dataset '{id}' is damaged"), e))
}

/// Removes an instance that does not run, and keeps its data or not. Returns the size of
/// the dataset.
pub(crate) fn remove_instance(inner: &Inner, id: &ClawId, fate: DataFate) -> Result<u64> {
    finish_removal(inner, id)?;
    if let Some(record) = InstanceRecord::read(&inner.dir(id)).ok().flatten() {
        insisted::remove(&record)?;
        if fate == DataFate::Keep {
            // A dataset that is still on its way in would stay behind under a name that
            // nobody knows any more.
            move_in(inner, record)?;
        }
    }
    let size = match fate {
        DataFate::Keep => set_aside(inner, id)?,
        DataFate::Purge => purge_parts(inner, id)?,
    };
    clawfarm_failpoint::point_blocking!(DataMoved);
    let failed = |e| io_error(format!("remove the folder of '{id}'"), e);
    let Some(claws) = open(&inner.paths.claws())? else { return Ok(size) };
    match std::fs::rename(inner.dir(id), inner.paths.claws().join(removing(id))) {
        Ok(()) => claws.sync().map_err(failed)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    clawfarm_failpoint::point_blocking!(FolderRemoved);
    finish_removal(inner, id)?;
    Ok(size)
}

/// Finishes a removal that was cut off after its point of no return.
pub(crate) fn finish_removal(inner: &Inner, id: &ClawId) -> Result<()> {
    let Some(claws) = open(&inner.paths.claws())? else { return Ok(()) };
    claws.remove(&removing(id)).map_err(|e| io_error(format!("remove what is left of '{id}'"), e))
}

/// Removes all that was on its way out when an earlier server ended. Nobody asks for it again
/// where the instance's folder, and with it its name, was gone already.
///
/// # Errors
/// When a folder can't be listed. What can't be removed is told in the log.
pub(crate) fn finish_removals(inner: &Inner) -> Result<()> {
    for path in [inner.paths.claws(), inner.paths.datasets()] {
        let Some(folder) = open(&path)? else { continue };
        let names = folder.names().map_err(|e| io_error(format!("list '{}'", path.display()), e))?;
        for name in names.iter().filter(|name| is_removing(name)) {
            let name_shown = name.to_string_lossy();
            match folder.remove(name) {
                Ok(()) => tracing::info!(folder = %name_shown, "removed what an earlier server had begun to"),
                // A removal that was asked for again does the same at the same time.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(folder = %name_shown, %error, "can't be removed"),
            }
        }
    }
    Ok(())
}

fn set_aside(inner: &Inner, id: &ClawId) -> Result<u64> {
    let failed = |e| io_error(format!("set the data of '{id}' aside"), e);
    let Some(record) = InstanceRecord::read(&inner.dir(id))? else {
        return Ok(manifest(inner, id)?.map_or(0, |found| found.size_bytes));
    };
    let claw = Folder::open(&inner.dir(id)).map_err(failed)?;
    let datasets = Folder::open_or_make(&inner.paths.datasets()).map_err(failed)?;
    let half_name = partial(id);
    let (half_exists, whole_exists) = (
        datasets.kind(&half_name).map_err(failed)?.is_some(),
        datasets.kind(id.as_str().as_ref()).map_err(failed)?.is_some(),
    );
    let left = PARTS.iter().any(|part| matches!(claw.kind(part.as_ref()), Ok(Some(_)) | Err(_)));
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
    let found = DatasetRecord {
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

/// Removes what an earlier removal, which was to keep the data and was cut off, set aside.
fn purge_parts(inner: &Inner, id: &ClawId) -> Result<u64> {
    let Some(datasets) = open(&inner.paths.datasets())? else { return Ok(0) };
    let failed = |e| io_error(format!("remove the data of '{id}'"), e);
    datasets.remove(&partial(id)).map_err(failed)?;
    // Only while the instance is still there, so that a dataset which someone kept on
    // purpose is not removed by a verb that came late.
    if open(&inner.dir(id))?.is_some() {
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
pub(crate) fn undo_partial(inner: &Inner, record: &InstanceRecord) -> Result<()> {
    let Some(datasets) = open(&inner.paths.datasets())? else { return Ok(()) };
    let failed = |e| io_error(format!("put the data of '{}' back", record.id), e);
    let name = partial(&record.id);
    if datasets.kind(&name).map_err(failed)?.is_none() {
        return Ok(());
    }
    move_parts(inner, &inner.paths.datasets().join(&name), &record.id)?;
    datasets.remove(&name).map_err(failed)
}

/// Notes in a new instance's record the dataset it shall begin with.
pub(crate) fn begin(
    inner: &Inner,
    mut record: InstanceRecord,
    wanted: Option<&ClawId>,
) -> Result<InstanceRecord> {
    let Some(wanted) = wanted else { return Ok(record) };
    if record.dataset.as_ref() == Some(wanted) || has_data(&inner.dir(&record.id), &record.id)? {
        return Ok(record);
    }
    if open(&inner.paths.dataset(wanted))?.is_none() {
        return Err(Error::not_found("dataset", wanted)
            .field("dataset")
            .fix("choose one that `clawfarm dataset ls` shows"));
    }
    record.dataset = Some(wanted.clone());
    record.dataset_moving = true;
    Ok(record)
}

/// Moves the noted dataset in, or goes on with it.
pub(crate) fn move_in(inner: &Inner, mut record: InstanceRecord) -> Result<InstanceRecord> {
    let (true, Some(dataset)) = (record.dataset_moving, record.dataset.clone()) else { return Ok(record) };
    move_parts(inner, &inner.paths.dataset(&dataset), &record.id)?;
    remove(inner, &dataset)?;
    record.dataset_moving = false;
    record.write(&inner.dir(&record.id))?;
    crate::prepare::make_folders(&inner.dir(&record.id), &record)?;
    Ok(record)
}

/// Moves the parts that are still in `from` into an instance, in the place of its empty ones.
fn move_parts(inner: &Inner, from: &Path, id: &ClawId) -> Result<()> {
    let failed = |e| io_error(format!("move data into '{id}'"), e);
    let Some(from) = open(from)? else { return Ok(()) };
    let dir = inner.dir(id);
    let claw = Folder::open(&dir).map_err(failed)?;
    for part in PARTS {
        if from.kind(part.as_ref()).map_err(failed)?.is_none() {
            continue;
        }
        let empty = match part {
            STATE => !has_data(&dir, id)?,
            _ => claw.folder(Path::new(part)).and_then(|folder| folder.is_empty()).unwrap_or(true),
        };
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

fn open(path: &Path) -> Result<Option<Folder>> {
    match Folder::open(path) {
        Ok(folder) => Ok(Some(folder)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error(format!("open '{}'", path.display()), e)),
    }
}
