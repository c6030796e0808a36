//! Another version of a claw's software, and a copy of its data to go back to.

use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, RemoveContainerOptionsBuilder,
};
use clawfarm_files::{Folder, KeptCopy, blocking, give_to, io_error, told};
use clawfarm_model::{ClawId, Code, Error, Result, Software};
use clawfarm_runtime::Progress;
use futures::StreamExt;

use crate::engine::found;
use crate::fault::{failed, is_missing, is_state};
use crate::inner::Inner;
use crate::paths::{INSTALL_IN, PARTS};
use crate::prepare::{give_all, make_folders};
use crate::spec::SERVER;
use crate::{end, image, observe};

/// What an archive of one file has beside the file: two headers of 512 bytes, and its end.
const AROUND: u64 = 64 * 1024;

/// [`clawfarm_runtime::Upgrade::software_file`].
///
/// An engine hands out files of containers only, so one is made of the image, never started,
/// and removed.
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
    // One after another: each removes the container that the next would find.
    let _looking = inner.looking.lock().await;
    let container = open(inner, &image).await?;
    let read = read(inner, &container, &Path::new(INSTALL_IN).join(path), limit).await;
    let removed = close(inner, &container).await;
    let contents = read?;
    removed?;
    Ok(contents)
}

/// A container of an image that is there only to be looked into. Its name says of which
/// image, so that one which was left by a server that died is used by the next.
async fn open(inner: &Inner, image: &str) -> Result<String> {
    let digest = image.rsplit(':').next().unwrap_or(image);
    let name = format!("clawfarm-{}-look-{}", inner.server(), &digest[..digest.len().min(12)]);
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        // It is not run; an engine wants a program all the same.
        entrypoint: Some(Vec::new()),
        cmd: Some(vec!["true".to_owned()]),
        labels: Some([(SERVER.to_owned(), inner.server())].into()),
        host_config: Some(HostConfig { network_mode: Some("none".to_owned()), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    match inner.engine.docker().await?.create_container(Some(options), body).await {
        Ok(_) => Ok(name),
        Err(error) if is_state(&error) => Ok(name),
        Err(error) => Err(failed(format!("look into the image '{image}'"), error)),
    }
}

async fn close(inner: &Inner, container: &str) -> Result<()> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match inner.engine.docker().await?.remove_container(container, Some(options)).await {
        Ok(()) => Ok(()),
        Err(error) if is_missing(&error) => Ok(()),
        Err(error) => Err(failed(format!("remove the container '{container}'"), error)),
    }
}

/// A plain file of a container; `None` when it has none of this name.
async fn read(inner: &Inner, container: &str, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let what = || format!("read '{}' of the image", path.display());
    let client = inner.engine.docker().await?;
    let options = DownloadFromContainerOptionsBuilder::default().path(&path.to_string_lossy()).build();
    let mut pieces = client.download_from_container(container, Some(options));
    let mut archive = Vec::new();
    while let Some(piece) = pieces.next().await {
        match found(piece, what)? {
            Some(piece) => archive.extend_from_slice(&piece),
            // The same answer for a file and for the container: somebody may have removed that.
            None if inner.engine.inspect(container).await?.is_some() => return Ok(None),
            None => {
                return Err(Error::new(Code::Unavailable, format!("could not {}: it was removed", what()))
                    .fix("it is tried again by itself"));
            }
        }
        if archive.len() as u64 > limit.saturating_add(AROUND) {
            return Err(too_large(path, limit));
        }
    }
    let broken = |e| io_error(what(), e);
    let mut archive = tar::Archive::new(archive.as_slice());
    let Some(entry) = archive.entries().map_err(broken)?.next() else { return Ok(None) };
    let mut entry = entry.map_err(broken)?;
    if !entry.header().entry_type().is_file() {
        return Err(Error::invalid("path", format!("'{}' is no plain file", path.display())));
    }
    if entry.size() > limit {
        return Err(too_large(path, limit));
    }
    let mut contents = Vec::new();
    entry.read_to_end(&mut contents).map_err(broken)?;
    Ok(Some(contents))
}

fn too_large(path: &Path, limit: u64) -> Error {
    Error::new(Code::Insufficient, format!("'{}' is larger than {limit} bytes", path.display())).field("path")
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
