//! Machines that are booted and wait to be copied.

use async_trait::async_trait;
use clawfarm_model::Result;
use clawfarm_model::resources::Resources;
use clawfarm_model::vm_image::VmImageReference;

use crate::Progress;

/// What is said of a machine's size; the rest is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WantedSize {
    /// Its share of the processors.
    pub cpus: Option<f64>,
    /// Its memory, in MiB.
    pub memory_mib: Option<u32>,
}

/// Base snapshots: machines of an image, each of one size, that are booted, idle and saved, so that
/// a new one is restored instead of booted.
#[async_trait]
pub trait Bases: Send + Sync {
    /// Makes one of an image that is here; one that fits is left as it is. Many who ask at once get
    /// one.
    ///
    /// # Errors
    /// `NotFound` without the image; `Unsupported` where the agent is missing or nothing is kept;
    /// `InvalidInput` for a size that no machine has; `ClawFailed` when it does not boot as it should.
    async fn warm(&self, image: &VmImageReference, wanted: WantedSize, progress: &dyn Progress)
    -> Result<()>;

    /// The size of a machine that is to be made from a base snapshot of the image.
    ///
    /// # Errors
    /// `InvalidInput` on `vm.from_snapshot` when there is none of that size, with those that there
    /// are, or when it does not fit any more.
    async fn size(&self, image: &VmImageReference, wanted: WantedSize) -> Result<Resources>;
}
