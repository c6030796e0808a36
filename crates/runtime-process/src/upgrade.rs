//! Another version of a claw's software, and a copy of its data to go back to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clawfarm_files::{Folder, KeptCopy, give_to, told};
use clawfarm_model::{ClawId, Code, Error, Result, Software};
use clawfarm_runtime::Progress;
use clawfarm_shim::lock;

use crate::dataset::PARTS;
use crate::inner::{Inner, owner};
use crate::prepare::make_folders;
use crate::record::InstanceRecord;
use crate::uid;

/// [`clawfarm_runtime::Upgrade::install`].
pub(crate) async fn install(inner: &Inner, software: &Software, progress: &dyn Progress) -> Result<()> {
    inner.install(software)?.ensure(&inner.npm(), progress).await?;
    Ok(())
}

/// [`clawfarm_runtime::Upgrade::software_file`].
pub(crate) async fn software_file(
    inner: &Inner,
    software: &Software,
    path: &Path,
    limit: u64,
) -> Result<Option<Vec<u8>>> {
    inner.install(software)?.file(software, path, limit).await
}

/// [`clawfarm_runtime::Upgrade::copy_data`].
pub(crate) async fn copy_data(
    inner: &Arc<Inner>,
    id: &ClawId,
    number: i64,
    progress: &dyn Progress,
) -> Result<u64> {
    let verb = inner.lock(id).await;
    let (inner, id) = (Arc::clone(inner), id.clone());
    progress.step("copy", &format!("copying the data of {id}"), None, "bytes");
    told(
        |bytes| progress.advance(bytes),
        move |advance| {
            // Also when nobody waits any more: the next verb finds no copy on its way.
            let _verb = verb;
            let (dir, record) = down(&inner, &id)?;
            let give = |part: &Folder| match owner(&record) {
                Some(own) => give_to(part, own, uid::is_ours),
                None => Ok(()),
            };
            copy(&id, &dir).make(number, give, advance)
        },
    )
    .await
}

/// [`clawfarm_runtime::Upgrade::put_back`].
pub(crate) fn put_back(inner: &Inner, id: &ClawId, number: i64) -> Result<()> {
    let (dir, record) = down(inner, id)?;
    copy(id, &dir).put_back(number)?;
    make_folders(&dir, &record)
}

/// [`clawfarm_runtime::Upgrade::remove_copy`].
pub(crate) fn remove_copy(inner: &Inner, id: &ClawId) -> Result<()> {
    copy(id, &inner.dir(id)).remove()
}

fn copy<'a>(id: &'a ClawId, dir: &'a Path) -> KeptCopy<'a> {
    KeptCopy { id, dir, parts: &PARTS }
}

/// The folder and record of an instance that must not run.
fn down(inner: &Inner, id: &ClawId) -> Result<(PathBuf, InstanceRecord)> {
    let dir = inner.dir(id);
    let record = inner.record(id)?;
    if lock::is_held(&dir)? {
        return Err(Error::new(Code::Conflict, format!("'{id}' is up: its data changes"))
            .field("id")
            .fix(format!("clawfarm stop {id}")));
    }
    Ok((dir, record))
}
