//! Looking into an image without running it.

use std::io::Read;
use std::path::Path;

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, RemoveContainerOptionsBuilder,
};
use clawfarm_files::io_error;
use clawfarm_model::launch::ImageMark;
use clawfarm_model::{Code, Error, Result};
use futures::StreamExt;
use serde::Deserialize;

use crate::engine::found;
use crate::fault::{failed, is_missing, is_state};
use crate::inner::{Inner, guard};
use crate::spec::SERVER;

/// The largest `package.json` that is read.
const MOST: u64 = 4 << 20;
/// What an archive of one file has beside the file: its headers and its end.
const AROUND: u64 = 64 << 10;

/// What an image has in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// The version that its `package.json` says.
    pub(crate) version: String,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
}

/// Whether an image, by its digest, is one of a claw type; `None` when it is not. An image does
/// not change, so each is looked into once.
pub(super) async fn contents(inner: &Inner, image: &str, mark: &ImageMark) -> Result<Option<Contents>> {
    if let Some(known) = guard(&inner.known).get(image) {
        return Ok(Some(known.clone()));
    }
    let folder = Path::new(mark.folder);
    let program = file(inner, image, &folder.join(mark.program), MOST).await.or_else(no_file)?;
    let package = file(inner, image, &folder.join("package.json"), MOST).await.or_else(no_file)?;
    let found = program.and(package).and_then(|bytes| serde_json::from_slice::<Package>(&bytes).ok());
    let Some(package) = found.filter(|package| package.name == mark.package) else { return Ok(None) };
    let contents = Contents { version: package.version };
    guard(&inner.known).insert(image.to_owned(), contents.clone());
    Ok(Some(contents))
}

/// What is there but is no plain file of a sensible size is as good as nothing.
fn no_file(error: Error) -> Result<Option<Vec<u8>>> {
    if error.field_name() == Some("path") { Ok(None) } else { Err(error) }
}

/// A plain file of an image, by its digest; `None` when it has none of this name. An engine hands
/// out files of containers only, so one is made of the image, never started, and removed.
pub(crate) async fn file(inner: &Inner, image: &str, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    // One after another: each removes the container that the next would find.
    let _looking = inner.looking.lock().await;
    let container = open(inner, image).await?;
    let read = read(inner, &container, path, limit).await;
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
