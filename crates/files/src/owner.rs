//! Whether a record may be believed.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clawfarm_model::{Code, Error, Result};

use crate::{Folder, io_error};

/// Refuses a file of a folder that another user than this process's owns or may write to: what
/// it says may be somebody else's words.
///
/// # Errors
/// `NotFound` when there is none; `Forbidden` when others may have written it.
pub fn check_owner(dir: &Path, name: &str) -> Result<()> {
    let path = dir.join(name);
    let failed = |e| io_error(format!("read '{}'", path.display()), e);
    let file = Folder::open(dir).and_then(|folder| folder.open_file(Path::new(name))).map_err(failed)?;
    let missing = || {
        Error::new(Code::NotFound, format!("there is no '{}'", path.display()))
            .fix("put back the file from a backup")
    };
    let meta = file.ok_or_else(missing)?.metadata().map_err(failed)?;
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() == own && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::new(
        Code::Forbidden,
        format!(
            "'{}' belongs to user {} with mode {:04o}: others than the server may have written it",
            path.display(),
            meta.uid(),
            meta.mode() & 0o7777
        ),
    )
    .fix(format!("read it; if it is as it should be: chown {own} and chmod 600, then recover again")))
}
