//! Replacing what an instance runs, with a way back.

use std::path::Path;

use async_trait::async_trait;
use clawfarm_model::launch::ImageRecipe;
use clawfarm_model::{ClawId, Result, Software};

use crate::Progress;

/// Running another version of an instance's software, and going back to the data from before.
///
/// Data is never named by a path: where it lies (a folder, a volume, a disk) is the runtime's.
#[async_trait]
pub trait Upgrade: Send + Sync {
    /// Makes software available on the target beside what is there: installed, built or pulled,
    /// once for all that ask for it at the same time. `recipe` says how its image is made, for
    /// runtimes that run images. No instance is touched.
    ///
    /// # Errors
    /// As for [`Runtime::ensure`](crate::Runtime::ensure).
    async fn install(
        &self,
        software: &Software,
        recipe: Option<&ImageRecipe>,
        progress: &dyn Progress,
    ) -> Result<()>;

    /// A file that comes with software which has been installed, by its path within the claw's
    /// own package; `None` when it has none.
    ///
    /// # Errors
    /// `NotFound` when it is not installed; `Insufficient` above `limit` bytes.
    async fn software_file(&self, software: &Software, path: &Path, limit: u64) -> Result<Option<Vec<u8>>>;

    /// Keeps a copy of an instance's configuration and state, in as little room as its disk
    /// allows. The instance must be down. A whole copy of this number is kept as it is, so
    /// that what is copied is what was there before anything else touched it; one of another
    /// number is replaced. Returns the bytes of its files.
    ///
    /// # Errors
    /// `Conflict` when it is up; `Insufficient` when the disk is full: then there is no copy.
    async fn copy_data(&self, id: &ClawId, copy: i64, progress: &dyn Progress) -> Result<u64>;

    /// Puts a copy in the place of an instance's data. The instance must be down. Done again,
    /// it goes on where it was cut off, and changes nothing once it is done.
    ///
    /// # Errors
    /// `Conflict` when it is up; `NotFound` when there is no copy of this number.
    async fn put_back(&self, id: &ClawId, copy: i64) -> Result<()>;

    /// Removes the copy of an instance's data. Gone already is a success.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer.
    async fn remove_copy(&self, id: &ClawId) -> Result<()>;
}
