//! A claw's files: its home is a folder here, whatever its machine does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clawfarm_files::blocking;
use clawfarm_local::import::{Importer, import as take_home};
use clawfarm_local::state::{self, new_file};
use clawfarm_local::{backup, keeper};
use clawfarm_model::{ClawId, Code, Error, ObservedState, Result};
use clawfarm_runtime::{ExecOutput, ExecRequest, Progress};

use crate::claw::home;
use crate::inner::Inner;
use crate::prepare::{make_folders, owner};
use crate::record::MachineRecord;
use crate::{exec, observe};

/// How long a claw may take to be told that a file is another one.
const TOLD: Duration = Duration::from_secs(20);

/// [`clawfarm_runtime::Files::read`]. A bare machine has none.
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
    let path_there = path.clone();
    let contents = zeroize::Zeroizing::new(contents.to_vec());
    let record = blocking(move || {
        let record = claw(&this, &id)?;
        let new = new_file(owner(&record), read_only);
        state::write(&this.dir(&id), &id, &path, &contents, new)?;
        Ok(record)
    })
    .await?;
    if !read_only && observe::observe(inner, &record.id).await?.state == ObservedState::Running {
        let touched = touch(inner, &record, path_there.clone());
        match tokio::time::timeout(TOLD, touched).await {
            Ok(Ok(())) => {}
            // It is told at its next start.
            told => tracing::debug!(id = %record.id, ?told, "a claw was not told of a file"),
        }
    }
    Ok(())
}

/// A watch on a file notices what is done in its machine, and nothing of what the host does.
async fn touch(inner: &Arc<Inner>, record: &MachineRecord, path: PathBuf) -> Result<()> {
    let there = Path::new(&home(record)).join(path);
    let argv = ["touch", "-c", "--", &there.to_string_lossy()].map(str::to_owned).to_vec();
    let mut session = exec::exec(inner, &record.id, ExecRequest { argv, tty: None, term: None }).await?;
    drop(session.input);
    while let Some(said) = session.output.recv().await {
        if let ExecOutput::Exit(code) = said
            && code != 0
        {
            tracing::debug!(id = %record.id, code, "a file could not be touched");
        }
    }
    Ok(())
}

/// [`clawfarm_runtime::Files::import`].
pub(crate) async fn import(
    inner: &Arc<Inner>,
    id: &ClawId,
    from: &Path,
    progress: &dyn Progress,
) -> Result<u64> {
    let _verb = inner.lock(id).await;
    let owner = owner(&claw(inner, id)?);
    let into = Importer { id: id.clone(), dir: inner.dir(id), owner, home: inner.paths.home.clone() };
    take_home(into, from, progress).await
}

/// [`clawfarm_runtime::Backup::copy_out`]: the home and the volumes. What else is on the disk of its
/// machine is made anew by its image and its set-up.
pub(crate) async fn copy_out(inner: &Arc<Inner>, id: &ClawId, to: &Path) -> Result<Vec<PathBuf>> {
    let verb = inner.lock(id).await;
    claw(inner, id)?;
    if observe::observe(inner, id).await?.state == ObservedState::Running
        || keeper::is_up(&inner.dir(id)).await?
            && !MachineRecord::read(&inner.dir(id))?.is_some_and(|it| it.frozen)
    {
        return Err(backup::is_up(id));
    }
    backup::copy_out(id, &inner.dir(id), to, verb).await
}

/// [`clawfarm_runtime::Backup::take_in`].
pub(crate) async fn take_in(inner: &Arc<Inner>, id: &ClawId, from: &Path) -> Result<()> {
    let _verb = inner.lock(id).await;
    let (inner, id, from) = (Arc::clone(inner), id.clone(), from.to_owned());
    blocking(move || {
        let record = claw(&inner, &id)?;
        backup::move_in(&id, &inner.dir(&id), owner(&record), &from)?;
        make_folders(&inner, &record)
    })
    .await
}

/// The record of one that is a claw.
fn claw(inner: &Inner, id: &ClawId) -> Result<MachineRecord> {
    let record = inner.record(id)?;
    if record.installed.is_some() {
        return Ok(record);
    }
    Err(Error::new(Code::Unsupported, format!("'{id}' is a bare machine: its files are on its own disk"))
        .fix(format!("use a volume, or look into it: clawfarm shell {id}")))
}
