//! Another version of an instance's software, with a way back until it has proven itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ErrorReport;
use crate::time::Timestamp;

/// An update of an instance's software. It is written down with each stage, so that a server
/// which is killed between any two of them leaves to the next one where to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SoftwareUpdate {
    /// The version that it ran before, and gets back when the other does not work.
    pub from: String,
    /// The version that it is to run.
    pub to: String,
    /// How far it is.
    pub stage: UpdateStage,
    /// Tells its copy of the data from those of other updates of the instance: the
    /// [`crate::Intent::generation`] that it was asked for with.
    pub copy: i64,
    /// It had failed before; when the update does not mend that, it has failed again.
    #[serde(default)]
    pub had_failed: bool,
    /// Attempts at this stage that failed in a row.
    #[serde(default)]
    pub attempts: u32,
    /// No attempt before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Why it is undone; `None` when somebody called it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// How far an update is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpdateStage {
    /// The new software is made available beside the old, which goes on.
    Installing,
    /// It is installed, and tried at the next start of an instance that was down.
    Pending,
    /// The old version is drained and stopped.
    Stopping,
    /// The data is copied, before the new version touches it.
    Copying,
    /// The new version is started, and has to pass its startup probe.
    Trying,
    /// It passed: the copy is removed.
    Keeping,
    /// It did not: the new version is ended, and the data put back.
    Undoing,
    /// The old version is back with its data, or was never left: the copy is removed.
    Undone,
}

impl SoftwareUpdate {
    /// Whether something is being done about it now, so that nothing else should be.
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        !matches!(self.stage, UpdateStage::Pending)
    }

    /// Whether it is being undone, or was.
    #[must_use]
    pub const fn is_undone(&self) -> bool {
        matches!(self.stage, UpdateStage::Undoing | UpdateStage::Undone)
    }

    /// Whether the instance may be down, or run the version that is not proven yet: what it does
    /// then is the update's business, and no crash of its own.
    #[must_use]
    pub const fn holds(&self) -> bool {
        matches!(
            self.stage,
            UpdateStage::Stopping
                | UpdateStage::Copying
                | UpdateStage::Trying
                | UpdateStage::Undoing
                | UpdateStage::Undone
        )
    }
}
