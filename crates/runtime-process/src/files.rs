//! A claw's files.

use std::path::Path;
use std::sync::Arc;

use clawfarm_files::blocking;
use clawfarm_local::import::{Importer, import as take_home};
use clawfarm_local::state::{self, new_file};
use clawfarm_model::{ClawId, Result};
use clawfarm_runtime::Progress;

use crate::inner::{Inner, owner};

/// [`clawfarm_runtime::Files::read`].
pub(crate) async fn read(
    inner: &Arc<Inner>,
    id: &ClawId,
    path: &Path,
    limit: u64,
) -> Result<Option<Vec<u8>>> {
    let (dir, id, path) = (inner.dir(id), id.clone(), path.to_owned());
    blocking(move || state::read(&dir, &id, &path, limit)).await
}

/// [`clawfarm_runtime::Files::write`].
pub(crate) async fn write(
    inner: &Arc<Inner>,
    id: &ClawId,
    path: &Path,
    contents: &[u8],
    read_only: bool,
) -> Result<()> {
    let (this, id, path) = (Arc::clone(inner), id.clone(), path.to_owned());
    let contents = zeroize::Zeroizing::new(contents.to_vec());
    blocking(move || {
        let new = new_file(owner(&this.record(&id)?), read_only);
        state::write(&this.dir(&id), &id, &path, &contents, new)
    })
    .await
}

/// [`clawfarm_runtime::Files::import`].
pub(crate) async fn import(
    inner: &Arc<Inner>,
    id: &ClawId,
    from: &Path,
    progress: &dyn Progress,
) -> Result<u64> {
    let _verb = inner.lock(id).await;
    let owner = owner(&inner.record(id)?);
    let into = Importer { id: id.clone(), dir: inner.dir(id), owner, home: inner.paths.home.clone() };
    take_home(into, from, progress).await
}
