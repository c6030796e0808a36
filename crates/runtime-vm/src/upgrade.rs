//! Another version of a claw's software in its machine, and a copy of its data to go back to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clawfarm_files::{Folder, KeptCopy, blocking, give_to, told};
use clawfarm_local::uid;
use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_runtime::Progress;
use clawfarm_shim::lock;

use crate::inner::Inner;
use crate::paths::{STATE, VOLUMES};
use crate::prepare::{make_folders, owner};
use crate::record::MachineRecord;
use crate::start::noted;

/// What of an instance is copied: its disk is its system's, which no update of a claw changes.
const PARTS: [&str; 2] = [STATE, VOLUMES];

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

/// [`clawfarm_runtime::Upgrade::put_back`]. A memory that was saved meanwhile knows other files.
pub(crate) async fn put_back(inner: &Arc<Inner>, id: &ClawId, number: i64) -> Result<()> {
    let _verb = inner.lock(id).await;
    let (this, claw) = (Arc::clone(inner), id.clone());
    blocking(move || {
        let (dir, record) = down(&this, &claw)?;
        copy(&claw, &dir).put_back(number)?;
        make_folders(&this, &record)
    })
    .await?;
    let saved = inner.snapshot(id)?;
    if saved.about().await.is_ok_and(|about| about.is_none()) {
        return Ok(());
    }
    saved.remove().await?;
    let why = "its data was put back as it was before an update".to_owned();
    noted(inner, id, move |record| record.memory_lost = Some(why)).await.map(drop)
}

/// [`clawfarm_runtime::Upgrade::remove_copy`].
pub(crate) async fn remove_copy(inner: &Arc<Inner>, id: &ClawId) -> Result<()> {
    let _verb = inner.lock(id).await;
    let (dir, id) = (inner.dir(id), id.clone());
    blocking(move || copy(&id, &dir).remove()).await
}

fn copy<'a>(id: &'a ClawId, dir: &'a Path) -> KeptCopy<'a> {
    KeptCopy { id, dir, parts: &PARTS }
}

/// The folder and record of an instance that must not run.
fn down(inner: &Inner, id: &ClawId) -> Result<(PathBuf, MachineRecord)> {
    let dir = inner.dir(id);
    let record = inner.record(id)?;
    if lock::is_held(&dir)? {
        return Err(Error::new(Code::Conflict, format!("'{id}' is up: its data changes"))
            .field("id")
            .fix(format!("clawfarm stop {id}")));
    }
    Ok((dir, record))
}
