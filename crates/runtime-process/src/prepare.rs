//! Making an instance's folders, and the data it begins with.

use std::path::Path;

use clawfarm_model::{ClawId, Placement, Result, Timestamp};
use clawfarm_runtime::Progress;
use clawfarm_shim::lock;

use crate::dataset;
use crate::inner::{Inner, guard, owner};
use crate::paths::{CLAW_LOGS, STATE, TMP, VOLUMES, WORKSPACE};
use crate::record::{self, InstanceRecord};
use crate::uid;
use clawfarm_files::{Folder, Owner, give_to};
use clawfarm_files::{blocking, io_error};

/// [`clawfarm_runtime::Runtime::ensure`].
pub(crate) async fn ensure(
    inner: &std::sync::Arc<Inner>,
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<clawfarm_model::Place> {
    placement.resources.check()?;
    inner.host_url()?;
    let install = inner.install(&placement.software)?;
    let install_dir = install.ensure(&inner.npm(), progress).await?;
    let _verb = inner.lock(&placement.id).await;
    let (this, placement) = (std::sync::Arc::clone(inner), placement.clone());
    blocking(move || {
        let record = prepare(&this, &placement)?;
        this.place(&record, install_dir)
    })
    .await
}

fn prepare(inner: &Inner, placement: &Placement) -> Result<InstanceRecord> {
    let dir = inner.dir(&placement.id);
    dataset::finish_removal(inner, &placement.id)?;
    Folder::open_or_make(&dir).map_err(|e| io_error(format!("make '{}'", dir.display()), e))?;
    clawfarm_failpoint::point_blocking!(FolderMade);
    let record = write_record(inner, placement)?;
    // A running claw has all this, and a folder in use is not to be touched.
    if !lock::is_held(&dir)? {
        make_folders(&dir, &record)?;
        dataset::undo_partial(inner, &record)?;
        let record = dataset::move_in(inner, record)?;
        give_all(&dir, &record)?;
        return Ok(record);
    }
    Ok(record)
}

fn write_record(inner: &Inner, placement: &Placement) -> Result<InstanceRecord> {
    let dir = inner.dir(&placement.id);
    let _choosing = guard(&inner.choosing);
    let old = InstanceRecord::read(&dir)?;
    let uid = match old.as_ref().and_then(|record| record.uid) {
        Some(uid) => Some(uid),
        None if inner.config.own_users && !lock::is_held(&dir)? => {
            let taken = record::uids(&inner.paths, &placement.id)?;
            Some(uid::choose(&inner.paths.home, &placement.id, &taken)?)
        }
        None => None,
    };
    let fresh = InstanceRecord {
        version: 1,
        id: placement.id.clone(),
        tenant: placement.tenant.clone(),
        software: placement.software.clone(),
        resources: placement.resources,
        port: placement.port,
        uid,
        run: old.as_ref().map_or(0, |record| record.run),
        created_at: old.as_ref().map_or_else(Timestamp::now, |record| record.created_at),
        dataset: old.as_ref().and_then(|record| record.dataset.clone()),
        dataset_moving: old.as_ref().is_some_and(|record| record.dataset_moving),
        record: placement.record.clone(),
    };
    let fresh = dataset::begin(inner, fresh, placement.dataset.as_ref())?;
    if old.as_ref() != Some(&fresh) {
        fresh.write(&dir)?;
    }
    Ok(fresh)
}

/// Keeps what the store knows now beside an instance that has a folder.
pub(crate) fn keep_record(inner: &Inner, id: &ClawId, record: serde_json::Value) -> Result<()> {
    let dir = inner.dir(id);
    let _choosing = guard(&inner.choosing);
    match InstanceRecord::read(&dir)? {
        Some(old) if old.record != record => InstanceRecord { record, ..old }.write(&dir),
        _ => Ok(()),
    }
}

/// Makes the folders of a claw's own.
pub(crate) fn make_folders(dir: &Path, record: &InstanceRecord) -> Result<()> {
    let failed = |e| io_error(format!("make the folders of '{}'", record.id), e);
    let folder = Folder::open(dir).map_err(failed)?;
    let logs = folder.make_folder(Path::new("logs"), None).map_err(failed)?;
    let own = owner(record);
    // A claw can lock its own folders, against a server that is not root too.
    logs.unlock("claw".as_ref()).map_err(failed)?;
    for name in [STATE, VOLUMES, TMP] {
        folder.unlock(name.as_ref()).map_err(failed)?;
    }
    logs.make_folder(Path::new("claw"), own).map_err(failed)?;
    folder.make_folder(Path::new(VOLUMES), own).map_err(failed)?;
    folder.make_folder(Path::new(TMP), own).map_err(failed)?;
    let state = folder.make_folder(Path::new(STATE), own).map_err(failed)?;
    // What the claw has put in this place is its own business; nothing of ours relies on it.
    if state.kind(WORKSPACE.as_ref()).map_err(failed)?.is_none() {
        state.make_folder(Path::new(WORKSPACE), own).map_err(failed)?;
    }
    Ok(())
}

/// Gives the claw what is its own. A folder that belongs to it already is not walked again:
/// its owner is set after that of everything in it.
pub(crate) fn give_all(dir: &Path, record: &InstanceRecord) -> Result<()> {
    let Some(owner) = owner(record) else { return Ok(()) };
    for name in [STATE, VOLUMES, TMP, CLAW_LOGS] {
        give(&dir.join(name), owner)?;
    }
    Ok(())
}

fn give(path: &Path, owner: Owner) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let failed = |e| io_error(format!("give '{}' to user {}", path.display(), owner.uid), e);
    let folder = Folder::open(path).map_err(failed)?;
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.uid() == owner.uid) {
        return Ok(());
    }
    give_to(&folder, owner, uid::is_ours).map_err(failed)
}
