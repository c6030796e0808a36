//! Images that virtual machines are made of.

use std::path::Path;

use async_trait::async_trait;
use clawfarm_model::Result;
use clawfarm_model::vm_image::{VmImage, VmImageReference};

use crate::Progress;

/// The images of virtual machines that a server keeps, for all its targets of that kind.
#[async_trait]
pub trait VmImages: Send + Sync {
    /// Every one that is here or can be fetched.
    ///
    /// # Errors
    /// What the disk says.
    async fn list(&self) -> Result<Vec<VmImage>>;

    /// Whether a machine can be made of it: it is here, or can be fetched.
    ///
    /// # Errors
    /// `NotFound` with what there is.
    async fn check(&self, reference: &VmImageReference) -> Result<()>;

    /// Fetches one from its maker; one that is here is left as it is. Many who ask at once get
    /// one download.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Timeout`, `Forbidden` for what is not its maker's,
    /// `Insufficient`.
    async fn fetch(&self, reference: &VmImageReference, progress: &dyn Progress) -> Result<VmImage>;

    /// Takes in a file of this machine.
    ///
    /// # Errors
    /// `InvalidInput` on `file`; `Conflict` when there is one of that name; `Insufficient`.
    async fn import(
        &self,
        file: &Path,
        reference: &VmImageReference,
        progress: &dyn Progress,
    ) -> Result<VmImage>;

    /// Makes one from its distribution's packages.
    ///
    /// # Errors
    /// `Unsupported` for one that can't be made here; `Conflict` when there is another of that
    /// name; `Unavailable` when a step fails.
    async fn build(&self, reference: &VmImageReference, progress: &dyn Progress) -> Result<VmImage>;

    /// Removes one that no disk is made on.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while it is used.
    async fn remove(&self, reference: &VmImageReference) -> Result<()>;
}
