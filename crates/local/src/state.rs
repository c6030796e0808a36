//! A claw's state: the folder that it calls its home.

use std::path::Path;

use clawfarm_files::{Folder, NewFile, Owner, io_error};
use clawfarm_model::{ClawId, Code, Error, Result};
use rustix::fs::FileType;

/// The claw's home, in the instance's folder.
pub const STATE: &str = "state";
/// Where it works for its user, in its home: so that it goes with it.
pub const WORKSPACE: &str = "workspace";

/// The state of an instance whose folder is `dir`.
///
/// # Errors
/// `NotFound` when there is no such instance.
pub fn open(dir: &Path, id: &ClawId) -> Result<Folder> {
    let path = dir.join(STATE);
    Folder::open(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::not_found("instance", id),
        _ => io_error(format!("open '{}'", path.display()), e),
    })
}

/// Reads a file of it, of `limit` bytes at most; `None` where there is none.
///
/// # Errors
/// As [`file_error`] tells it.
pub fn read(dir: &Path, id: &ClawId, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    open(dir, id)?.read(path, limit).map_err(|e| file_error(path, e))
}

/// Writes a file of it as a whole.
///
/// # Errors
/// As [`file_error`] tells it.
pub fn write(dir: &Path, id: &ClawId, path: &Path, contents: &[u8], new: NewFile) -> Result<()> {
    open(dir, id)?.write(path, contents, new).map_err(|e| file_error(path, e))
}

/// The mode and owner of a claw's file.
///
/// A read-only one belongs to root where the claw has a user of its own, so that it can't be
/// changed in place. It lies in a folder of the claw's all the same: nothing keeps the claw
/// from renaming it and putting another in its place. That is drift, which the control plane
/// sees by comparing and mends by writing again.
#[must_use]
pub fn new_file(own: Option<Owner>, read_only: bool) -> NewFile {
    let (mode, owner) = match (read_only, own) {
        (true, Some(own)) => (0o440, Some(Owner { uid: 0, gid: own.gid })),
        (true, None) => (0o400, None),
        (false, own) => (0o600, own),
    };
    NewFile { mode, owner, folder_owner: own }
}

/// What went wrong with a file of a claw's state.
#[must_use]
pub fn file_error(path: &Path, error: std::io::Error) -> Error {
    let shown = path.display();
    match error.kind() {
        std::io::ErrorKind::InvalidInput => Error::invalid("path", error.to_string())
            .fix("give a path below the instance's state folder, without links and '..'")
            .source(error),
        std::io::ErrorKind::FileTooLarge => {
            Error::new(Code::Insufficient, error.to_string()).field("path").source(error)
        }
        _ => io_error(format!("use '{shown}' in the instance's state"), error).field("path"),
    }
}

/// Whether an instance has data: anything in its state but an empty workspace.
///
/// # Errors
/// When it can't be looked into.
pub fn has_data(dir: &Path, id: &ClawId) -> Result<bool> {
    let failed = |e| io_error(format!("look into the state of '{id}'"), e);
    let state = match Folder::open(&dir.join(STATE)) {
        Ok(state) => state,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(failed(e)),
    };
    let names = state.names().map_err(failed)?;
    if names.iter().any(|name| name != WORKSPACE) {
        return Ok(true);
    }
    match state.kind(WORKSPACE.as_ref()).map_err(failed)? {
        None => Ok(false),
        Some(FileType::Directory) => {
            let workspace = state.folder(Path::new(WORKSPACE)).map_err(failed)?;
            Ok(!workspace.is_empty().map_err(failed)?)
        }
        Some(_) => Ok(true),
    }
}
