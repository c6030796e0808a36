//! A copy of a claw's data for an archive, and data from one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clawfarm_files::{Copied, Folder, Links, blocking, copy_tree, give_to, io_error, join_error};
use clawfarm_model::{ClawId, Code, Error, ObservedState, Result};
use rustix::fs::FileType;

use crate::files::CallOff;
use crate::inner::Inner;
use crate::paths::{CONFIG, DOT_CONFIG, WORKSPACE};
use crate::prepare::make_folders;
use crate::{dataset, observe};

/// Where copies and archives lie, in the home.
pub(crate) const ROOM: &str = "backups";
/// The claw's own folder, in a copy; its workspace lies in it.
const STATE: &str = "state";
/// What only processes of this machine have.
const VOLUMES: &str = "volumes";

/// [`clawfarm_runtime::Backup::copy_out`].
pub(crate) async fn copy_out(inner: &Arc<Inner>, id: &ClawId, to: &Path) -> Result<Vec<PathBuf>> {
    // Nobody lets it go on meanwhile.
    let verb = inner.lock(id).await;
    if observe::observe(inner, id).await?.state == ObservedState::Running {
        return Err(Error::new(Code::Conflict, format!("'{id}' is up: its data changes"))
            .field("id")
            .fix(format!("clawfarm stop {id}")));
    }
    let (this, claw, to) = (Arc::clone(inner), id.clone(), to.to_owned());
    let called_off = Arc::new(AtomicBool::new(false));
    // Dropping this future ends the copy.
    let _off = CallOff(Arc::clone(&called_off));
    let copying = tokio::task::spawn_blocking(move || {
        let _verb = verb;
        let copied = copy(&this, &claw, &to, &mut |_| !called_off.load(Ordering::Relaxed));
        copied.map_err(|e| io_error(format!("copy the data of '{claw}'"), e))
    });
    copying.await.map_err(join_error)?
}

fn copy(
    inner: &Inner,
    id: &ClawId,
    to: &Path,
    advance: &mut dyn FnMut(u64) -> bool,
) -> io::Result<Vec<PathBuf>> {
    let (claw, to) = (Folder::open(&inner.dir(id))?, Folder::open(to)?);
    let state = to.make_folder(Path::new(STATE), None)?;
    let workspace = Path::new(STATE).join(WORKSPACE);
    let mut left_out = Vec::new();
    for (part, place) in
        [(CONFIG, Path::new(STATE)), (WORKSPACE, workspace.as_path()), (DOT_CONFIG, Path::new(DOT_CONFIG))]
    {
        // A claw can lock its own folders, against a server that is not root too.
        claw.unlock(part.as_ref())?;
        let from = match claw.folder(Path::new(part)) {
            Ok(from) => from,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        if part == DOT_CONFIG && from.is_empty()? {
            continue;
        }
        if part == WORKSPACE {
            // The engine mounts over whatever the claw's own folder has of that name.
            state.remove(WORKSPACE.as_ref())?;
        }
        let into = to.make_folder(place, None)?;
        let Copied { left_out: left, .. } = copy_tree(&from, &into, Links::All, advance)?;
        left_out.extend(left.into_iter().map(|path| place.join(path)));
    }
    Ok(left_out)
}

/// [`clawfarm_runtime::Backup::take_in`].
pub(crate) async fn take_in(inner: &Arc<Inner>, id: &ClawId, from: &Path) -> Result<()> {
    let _verb = inner.lock(id).await;
    if observe::is_up(inner, id).await? {
        return Err(has_its_own(id));
    }
    let (inner, id, from) = (Arc::clone(inner), id.clone(), from.to_owned());
    blocking(move || move_in(&inner, &id, &from)).await
}

/// Each step is one rename, the state last: so what is left tells what is still to be done.
fn move_in(inner: &Inner, id: &ClawId, from: &Path) -> Result<()> {
    let failed = |e| io_error(format!("take data into '{id}'"), e);
    let tree = match Folder::open(from) {
        Ok(tree) => tree,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return if dataset::has_data(inner, id)? { Ok(()) } else { Err(is_gone(id)) };
        }
        Err(e) => return Err(failed(e)),
    };
    inner.record(id)?;
    let claw = Folder::open(&inner.dir(id)).map_err(failed)?;
    if tree.kind(VOLUMES.as_ref()).map_err(failed)?.is_some() {
        return Err(Error::new(
            Code::Unsupported,
            "its data has shared volumes, which a container here has no place for",
        )
        .field("archive")
        .fix("restore it as a process: --runtime process"));
    }
    if tree.kind(STATE.as_ref()).map_err(failed)?.is_some() {
        let state = tree.folder(Path::new(STATE)).map_err(failed)?;
        match state.kind(WORKSPACE.as_ref()).map_err(failed)? {
            Some(FileType::Directory) => take(inner, id, (&state, WORKSPACE), (&claw, WORKSPACE))?,
            None => {}
            Some(_) => {
                return Err(Error::new(
                    Code::Unsupported,
                    "its workspace is no folder, and a container's is mounted as one",
                )
                .field("archive")
                .fix("restore it as a process: --runtime process"));
            }
        }
        if tree.kind(DOT_CONFIG.as_ref()).map_err(failed)?.is_some() {
            take(inner, id, (&tree, DOT_CONFIG), (&claw, DOT_CONFIG))?;
        }
        take(inner, id, (&tree, STATE), (&claw, CONFIG))?;
    }
    let (Some(room), Some(name)) = (from.parent(), from.file_name()) else { return Ok(()) };
    Folder::open(room).and_then(|room| room.remove(name)).map_err(failed)?;
    make_folders(inner, id)
}

/// Moves a folder into the place of an empty one.
fn take(inner: &Inner, id: &ClawId, from: (&Folder, &str), to: (&Folder, &str)) -> Result<()> {
    let failed = |e| io_error(format!("take data into '{id}'"), e);
    let there = to.0.kind(to.1.as_ref()).map_err(failed)?.is_some();
    if there && !to.0.folder(to.1.as_ref()).and_then(|folder| folder.is_empty()).map_err(failed)? {
        return Err(has_its_own(id));
    }
    let owner = inner.user();
    let part = from.0.folder(from.1.as_ref()).map_err(failed)?;
    part.set_mode(0o700).map_err(failed)?;
    give_to(&part, owner, |uid| uid == owner.uid).map_err(failed)?;
    to.0.remove(to.1.as_ref()).map_err(failed)?;
    from.0.move_to(from.1.as_ref(), to.0, to.1.as_ref()).map_err(failed)
}

fn is_gone(id: &ClawId) -> Error {
    Error::new(Code::Gone, format!("the data that '{id}' was to begin with is not there any more"))
        .field("archive")
        .fix(format!("remove it (clawfarm rm {id}), and restore its archive again"))
}

fn has_its_own(id: &ClawId) -> Error {
    Error::new(Code::Conflict, format!("'{id}' has data of its own"))
        .field("archive")
        .fix("restore into a new instance")
}
