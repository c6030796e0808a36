//! A copy of an instance's data for an archive, and data from one.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use clawfarm_model::{ClawId, Result};

/// Copying an instance's data out at one moment, and taking such a copy in as a new instance's.
///
/// A copy is a tree that is the same for all runtimes, so that what comes out of one can go into
/// another: `state`, the claw's own folder with its `workspace` in it; `dot-config`, what its
/// programs keep in `~/.config`; `volumes`, what is shared into it. What is not there is missing.
#[async_trait]
pub trait Backup: Send + Sync {
    /// A folder of this machine that is the server's alone, where copies and archives may lie: on
    /// the disk of the instances' data, so that a copy shares its blocks where it can. It need not
    /// exist. What is in it from an earlier server is removed.
    fn room(&self) -> PathBuf;

    /// Copies all data of an instance into `to`, an empty folder in [`Backup::room`]. The
    /// instance must be down or frozen. Returns what was left out: sockets, pipes and devices.
    ///
    /// # Errors
    /// `Conflict` when it is up and not frozen; `Insufficient` when the disk is full.
    async fn copy_out(&self, id: &ClawId, to: &Path) -> Result<Vec<PathBuf>>;

    /// Moves a tree from `from`, a folder in [`Backup::room`], into an instance that has been
    /// prepared and has no data yet. Done again, it goes on where it was cut off; when
    /// all of it is there, that is a success.
    ///
    /// # Errors
    /// `Conflict` when the instance has data of its own; `Gone` when there is neither a tree nor
    /// data; `Unsupported` for data that this runtime
    /// has no place for.
    async fn take_in(&self, id: &ClawId, from: &Path) -> Result<()>;
}
