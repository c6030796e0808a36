//! The place of one installation, and how it is put there: whole or not at all.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clawfarm_files::{Folder, NewFile, io_error, make_private, share_read_only};
use clawfarm_model::{Error, Result};
use serde::Serialize;

/// Written last into an installation: what has it is whole.
const MARKER: &str = "clawfarm-install.json";
/// The installation, in the work folder.
const TREE: &str = "tree";

/// A place among the installations.
#[derive(Clone, Debug)]
pub(super) struct Site {
    /// `<cache>/installs`.
    pub(super) installs: PathBuf,
    /// The installation's folder.
    pub(super) name: String,
}

impl Site {
    /// Where it is, or will be.
    pub(super) fn dir(&self) -> PathBuf {
        self.installs.join(&self.name)
    }

    /// Where it is made, with its logs.
    pub(super) fn work(&self) -> PathBuf {
        self.installs.join(self.work_name())
    }

    /// The installation while it is made.
    pub(super) fn tree(&self) -> PathBuf {
        self.work().join(TREE)
    }

    pub(super) fn lock_path(&self) -> PathBuf {
        self.installs.join(format!(".{}.lock", self.name))
    }

    fn work_name(&self) -> String {
        format!(".{}.work", self.name)
    }

    /// What says that it is there, whole.
    pub(super) fn marker(&self) -> Result<Option<Vec<u8>>> {
        let path = self.dir().join(MARKER);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error(format!("read '{}'", path.display()), e)),
        }
    }

    /// Makes the folder of all installations.
    pub(super) fn make_room(&self) -> Result<()> {
        make_private(&self.installs).map_err(|e| io_error(format!("make '{}'", self.installs.display()), e))
    }

    /// Empties the work folder of what an earlier attempt left.
    pub(super) fn begin(&self) -> Result<()> {
        let work = self.work();
        let failed = |e| io_error(format!("prepare '{}'", work.display()), e);
        let installs = Folder::open(&self.installs).map_err(failed)?;
        installs.remove(self.work_name().as_ref()).map_err(failed)?;
        make_private(&self.tree()).map_err(failed)
    }

    /// Marks, seals and puts in place what was made.
    pub(super) fn finish(&self, marker: &impl Serialize) -> Result<()> {
        let failed = |e| io_error(format!("finish the installation '{}'", self.dir().display()), e);
        let tree = self.tree();
        let folder = Folder::open(&tree).map_err(failed)?;
        let bytes = serde_json::to_vec(marker)
            .map_err(|e| Error::internal("the installation's marker could not be made", e))?;
        let new = NewFile { mode: 0o444, owner: None, folder_owner: None };
        folder.write(Path::new(MARKER), &bytes, new).map_err(failed)?;
        share_read_only(&folder).map_err(failed)?;
        folder.sync_file_system().map_err(failed)?;
        clawfarm_failpoint::point_blocking!(InstallMade);
        let installs = Folder::open(&self.installs).map_err(failed)?;
        // What stands there without a whole marker is of no use to anyone.
        installs.remove(self.name.as_ref()).map_err(failed)?;
        std::fs::rename(&tree, self.dir()).map_err(failed)?;
        // Only now: a folder that can't be written to can't be moved.
        std::fs::set_permissions(self.dir(), std::fs::Permissions::from_mode(0o555)).map_err(failed)?;
        installs.sync().map_err(failed)?;
        installs.remove(self.work_name().as_ref()).map_err(failed)
    }
}
