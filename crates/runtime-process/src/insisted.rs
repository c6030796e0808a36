//! Folders in `/tmp` that a claw type insists on, whatever `TMPDIR` says.
//!
//! OpenClaw keeps the locks of its databases in `/tmp/openclaw-state-locks-<uid>` and has no
//! setting for that (read in 2026.9.6; without it the gateway exits with code 78). `/tmp` as
//! a whole is not opened to claws: other programs of the same user have sockets and files in
//! it. So this one folder is made before the start, and the rules name it.
//!
//! Under a user id of its own nobody else can use a claw's folder, and it goes with the
//! instance. Under the server's id all claws of that user share it, as they would without
//! clawfarm; the files in it are empty, and named by the database they lock.

use std::io;
use std::path::{Path, PathBuf};

use clawfarm_model::{Code, Error, Result};

use crate::inner::owner;
use crate::record::InstanceRecord;
use clawfarm_files::Folder;
use clawfarm_files::io_error;

const TMP: &str = "/tmp";

/// Claw types, and what their folder's name begins with; the user id follows.
const INSISTED: [(&str, &str); 1] = [("openclaw", "openclaw-state-locks-")];

fn names(record: &InstanceRecord) -> impl Iterator<Item = String> {
    let uid = record.uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
    let claw_type = record.software.claw_type.as_str();
    INSISTED.iter().filter(move |(of, _)| *of == claw_type).map(move |(_, prefix)| format!("{prefix}{uid}"))
}

/// Makes them, and answers their paths.
///
/// # Errors
/// `Unavailable` when somebody else has put something in such a place.
pub(crate) fn make(record: &InstanceRecord) -> Result<Vec<PathBuf>> {
    names(record).map(|name| make_one(record, &name)).collect()
}

fn make_one(record: &InstanceRecord, name: &str) -> Result<PathBuf> {
    let path = Path::new(TMP).join(name);
    let failed = |e: io::Error| io_error(format!("make '{}'", path.display()), e);
    let tmp = Folder::open(Path::new(TMP)).map_err(failed)?;
    let folder = tmp.make_folder(Path::new(name), owner(record)).map_err(failed)?;
    let me = rustix::process::geteuid().as_raw();
    let (wanted, found) = (record.uid.unwrap_or(me), folder.uid().map_err(failed)?);
    // A kill between making it and giving it away leaves it the server's.
    if found == me && wanted != me {
        folder.give(clawfarm_files::Owner::alone(wanted)).map_err(failed)?;
    } else if found != wanted {
        return Err(Error::new(
            Code::Unavailable,
            format!(
                "'{}' belongs to user {found}, and '{}' needs it for user {wanted}",
                path.display(),
                record.id
            ),
        )
        .fix(format!("remove it: `sudo rm -rf '{}'`", path.display())));
    }
    Ok(path)
}

/// Removes those that only this instance used.
pub(crate) fn remove(record: &InstanceRecord) -> Result<()> {
    if record.uid.is_none() {
        return Ok(());
    }
    for name in names(record) {
        Folder::open(Path::new(TMP))
            .and_then(|tmp| tmp.remove(name.as_ref()))
            .map_err(|e| io_error(format!("remove '{TMP}/{name}'"), e))?;
    }
    Ok(())
}
