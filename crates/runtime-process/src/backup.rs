//! A copy of a claw's data for an archive, and data from one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clawfarm_files::blocking;
use clawfarm_local::backup;
use clawfarm_model::{ClawId, ObservedState, Result};

use crate::inner::{Inner, owner};
use crate::observe;
use crate::prepare::make_folders;

pub(crate) use backup::ROOM;

/// [`clawfarm_runtime::Backup::copy_out`].
pub(crate) async fn copy_out(inner: &Arc<Inner>, id: &ClawId, to: &Path) -> Result<Vec<PathBuf>> {
    // Nobody lets it go on meanwhile.
    let verb = inner.lock(id).await;
    if observe::observe(inner, id).await?.state == ObservedState::Running {
        return Err(backup::is_up(id));
    }
    backup::copy_out(id, &inner.dir(id), to, verb).await
}

/// [`clawfarm_runtime::Backup::take_in`].
pub(crate) async fn take_in(inner: &Arc<Inner>, id: &ClawId, from: &Path) -> Result<()> {
    let _verb = inner.lock(id).await;
    let (inner, id, from) = (Arc::clone(inner), id.clone(), from.to_owned());
    blocking(move || {
        let (dir, record) = (inner.dir(&id), inner.record(&id)?);
        backup::move_in(&id, &dir, owner(&record), &from)?;
        make_folders(&dir, &record)
    })
    .await
}
