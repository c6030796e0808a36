//! Another version of a claw's software, and a copy of its data to go back to.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use clawfarm_files::{Folder, KeptCopy, blocking, give_to, told};
use clawfarm_model::{ClawId, Code, Error, Result, Software};
use clawfarm_runtime::Progress;

use crate::inner::Inner;
use crate::paths::{INSTALL_IN, PARTS};
use crate::prepare::{give_all, make_folders};
use crate::{end, image, observe};

/// [`clawfarm_runtime::Upgrade::software_file`].
pub(crate) async fn software_file(
    inner: &Inner,
    software: &Software,
    path: &Path,
    limit: u64,
) -> Result<Option<Vec<u8>>> {
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Error::invalid("path", format!("'{}' is no path within the software", path.display()))
            .fix("give one without '..'"));
    }
    let name = format!("{} {}", software.claw_type, software.version);
    let not_there = || Error::not_found("image", &name).field("version").fix("install it first");
    let reference = software.image.as_deref().ok_or_else(not_there)?;
    let image = image::inspect(inner, reference).await?.and_then(|image| image.id).ok_or_else(not_there)?;
    image::file(inner, &image, &Path::new(INSTALL_IN).join(path), limit).await
}

/// [`clawfarm_runtime::Upgrade::copy_data`].
pub(crate) async fn copy_data(
    inner: &Arc<Inner>,
    id: &ClawId,
    number: i64,
    progress: &dyn Progress,
) -> Result<u64> {
    let verb = inner.lock(id).await;
    let dir = down(inner, id).await?;
    let (owner, id) = (inner.user(), id.clone());
    progress.step("copy", &format!("copying the data of {id}"), None, "bytes");
    told(
        |bytes| progress.advance(bytes),
        move |advance| {
            // Also when nobody waits any more: the next verb finds no copy on its way.
            let _verb = verb;
            let give = |part: &Folder| give_to(part, owner, |uid| uid == owner.uid);
            copy(&id, &dir).make(number, give, advance)
        },
    )
    .await
}

/// [`clawfarm_runtime::Upgrade::put_back`].
pub(crate) async fn put_back(inner: &Arc<Inner>, id: &ClawId, number: i64) -> Result<()> {
    let _verb = inner.lock(id).await;
    let dir = down(inner, id).await?;
    let (inner, id) = (Arc::clone(inner), id.clone());
    blocking(move || {
        copy(&id, &dir).put_back(number)?;
        make_folders(&inner, &id)?;
        give_all(&inner, &id)
    })
    .await
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

/// The folder of an instance whose container does not run, and is not about to.
async fn down(inner: &Arc<Inner>, id: &ClawId) -> Result<PathBuf> {
    let (this, of) = (Arc::clone(inner), id.clone());
    blocking(move || this.record(&of)).await?;
    if observe::observe(inner, id).await?.state.is_up() {
        return Err(Error::new(Code::Conflict, format!("'{id}' is up: its data changes"))
            .field("id")
            .fix(format!("clawfarm stop {id}")));
    }
    // What the engine started again by itself belongs to a launch that has ended.
    if observe::is_up(inner, id).await? {
        end::end_now(inner, id).await?;
    }
    Ok(inner.dir(id))
}
