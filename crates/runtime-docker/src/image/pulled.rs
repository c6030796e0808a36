//! Which images were pulled: they have no label of ours, so that it is written down.

use std::io;
use std::path::Path;

use clawfarm_files::{Folder, NewFile, blocking, io_error};
use clawfarm_model::image::ImageReference;
use clawfarm_model::name::ClawType;
use clawfarm_model::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::inner::{Inner, guard};

/// Larger is no file of ours.
const LIMIT: u64 = 4 << 20;

/// An image that was pulled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pulled {
    pub(super) reference: ImageReference,
    pub(super) claw_type: ClawType,
    pub(super) version: String,
}

/// Those of this target.
pub(super) async fn all(inner: &Inner) -> Result<Vec<Pulled>> {
    let (folder, name) = place(inner);
    blocking(move || read(&folder, &name)).await
}

/// Writes one down.
pub(super) async fn add(inner: &Inner, new: Pulled) -> Result<()> {
    if all(inner).await?.contains(&new) {
        return Ok(());
    }
    change(inner, move |all| {
        all.retain(|known| known.reference != new.reference);
        all.push(new);
    })
    .await
}

/// Forgets one.
pub(super) async fn remove(inner: &Inner, reference: &ImageReference) -> Result<()> {
    let reference = reference.clone();
    change(inner, move |all| all.retain(|known| known.reference != reference)).await
}

fn place(inner: &Inner) -> (std::path::PathBuf, String) {
    (inner.paths.images(), format!("pulled-{}.json", inner.config.target))
}

async fn change(inner: &Inner, change: impl FnOnce(&mut Vec<Pulled>) + Send + 'static) -> Result<()> {
    let (folder, name) = place(inner);
    let lock = std::sync::Arc::clone(&inner.pulled);
    blocking(move || {
        let _one = guard(&lock);
        let mut all = read(&folder, &name)?;
        change(&mut all);
        let bytes = serde_json::to_vec_pretty(&all)
            .map_err(|e| Error::internal("the list of images could not be put into JSON", e))?;
        let new = NewFile { mode: 0o600, owner: None, folder_owner: None };
        Folder::open_or_make(&folder)
            .and_then(|folder| folder.write(Path::new(&name), &bytes, new))
            .map_err(|e| io_error(format!("write '{}'", folder.join(&name).display()), e))
    })
    .await
}

fn read(folder: &Path, name: &str) -> Result<Vec<Pulled>> {
    let path = folder.join(name);
    let bytes = match Folder::open(folder).and_then(|folder| folder.read(Path::new(name), LIMIT)) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Vec::new()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error(format!("read '{}'", path.display()), e)),
    };
    serde_json::from_slice(&bytes).map_err(|e| {
        Error::internal(format!("'{}' is damaged: {e}", path.display()), e)
            .fix("remove the file, and pull the images that it listed again")
    })
}
