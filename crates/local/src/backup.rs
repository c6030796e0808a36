//! A copy of a claw's data for an archive, and data from one.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clawfarm_files::{Copied, Folder, Links, Owner, copy_tree, give_to, io_error, join_error};
use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_shim::lock;
use rustix::fs::FileType;

use crate::import::CallOff;
use crate::state::{STATE, has_data};
use crate::uid;

/// Where copies and archives lie, in the home.
pub const ROOM: &str = "backups";
/// What is shared into the claw, in its folder.
const VOLUMES: &str = "volumes";
/// What programs keep in `~/.config`, in a copy.
const DOT_CONFIG: &str = "dot-config";
/// The same in the state, which is the claw's home here.
const IN_STATE: &str = ".config";

/// Copies state and volumes of the instance whose folder is `dir`. `verb` keeps others from
/// changing it until the copy is whole. Returns what was left out.
///
/// # Errors
/// When it can't be read, or there is no room.
pub async fn copy_out(id: &ClawId, dir: &Path, to: &Path, verb: impl Send + 'static) -> Result<Vec<PathBuf>> {
    let (id, dir, to) = (id.clone(), dir.to_owned(), to.to_owned());
    let called_off = Arc::new(AtomicBool::new(false));
    // Dropping this future ends the copy.
    let _off = CallOff(Arc::clone(&called_off));
    let copying = tokio::task::spawn_blocking(move || {
        let _verb = verb;
        let copied = copy(&dir, &to, &mut |_| !called_off.load(Ordering::Relaxed));
        copied.map_err(|e| io_error(format!("copy the data of '{id}'"), e))
    });
    copying.await.map_err(join_error)?
}

/// Why nothing can be copied now.
#[must_use]
pub fn is_up(id: &ClawId) -> Error {
    Error::new(Code::Conflict, format!("'{id}' is up: its data changes"))
        .field("id")
        .fix(format!("clawfarm stop {id}"))
}

fn copy(dir: &Path, to: &Path, advance: &mut dyn FnMut(u64) -> bool) -> io::Result<Vec<PathBuf>> {
    let (claw, to) = (Folder::open(dir)?, Folder::open(to)?);
    let mut left_out = Vec::new();
    for part in [STATE, VOLUMES] {
        // A claw can lock its own folders, against a server that is not root too.
        claw.unlock(part.as_ref())?;
        let from = match claw.folder(Path::new(part)) {
            Ok(from) if part == STATE || !from.is_empty()? => from,
            Ok(_) => continue,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let into = to.make_folder(Path::new(part), None)?;
        let Copied { left_out: left, .. } = copy_tree(&from, &into, Links::All, advance)?;
        left_out.extend(left.into_iter().map(|path| Path::new(part).join(path)));
    }
    if let Ok(state) = to.folder(Path::new(STATE))
        && state.kind(IN_STATE.as_ref())? == Some(FileType::Directory)
    {
        state.move_to(IN_STATE.as_ref(), &to, DOT_CONFIG.as_ref())?;
    }
    Ok(left_out)
}

/// Moves a copy in as the data of the instance whose folder is `dir`, which has none and does not
/// run. Each step is one rename, the state last: so what is left tells what is still to be done.
///
/// # Errors
/// `Conflict` when it has data of its own; `Gone` when there is nothing to be moved.
pub fn move_in(id: &ClawId, dir: &Path, owner: Option<Owner>, from: &Path) -> Result<()> {
    let failed = |e| io_error(format!("take data into '{id}'"), e);
    let tree = match Folder::open(from) {
        Ok(tree) => tree,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return if has_data(dir, id)? { Ok(()) } else { Err(is_gone(id)) };
        }
        Err(e) => return Err(failed(e)),
    };
    let claw = Folder::open(dir).map_err(failed)?;
    if tree.kind(STATE.as_ref()).map_err(failed)?.is_some() {
        if lock::is_held(dir)? || has_data(dir, id)? {
            return Err(has_its_own(id));
        }
        let state = tree.folder(Path::new(STATE)).map_err(failed)?;
        if tree.kind(DOT_CONFIG.as_ref()).map_err(failed)?.is_some() {
            tree.move_to(DOT_CONFIG.as_ref(), &state, IN_STATE.as_ref()).map_err(failed)?;
        }
        if tree.kind(VOLUMES.as_ref()).map_err(failed)?.is_some() {
            let there = claw.folder(Path::new(VOLUMES)).and_then(|folder| folder.is_empty());
            if !there.map_err(failed)? {
                return Err(has_its_own(id));
            }
            replace(&tree, &claw, VOLUMES.as_ref(), owner).map_err(failed)?;
        }
        state.set_mode(0o700).map_err(failed)?;
        replace(&tree, &claw, STATE.as_ref(), owner).map_err(failed)?;
    }
    let (Some(room), Some(name)) = (from.parent(), from.file_name()) else { return Ok(()) };
    Folder::open(room).and_then(|room| room.remove(name)).map_err(failed)
}

fn replace(tree: &Folder, claw: &Folder, part: &OsStr, owner: Option<Owner>) -> io::Result<()> {
    if let Some(owner) = owner {
        give_to(&tree.folder(part.as_ref())?, owner, uid::is_ours)?;
    }
    claw.remove(part)?;
    tree.move_to(part, claw, part)
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
