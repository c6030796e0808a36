//! Datasets: an instance's data, which outlives it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clawid::ClawId;
use crate::name::{ClawType, ProjectName, TargetName, TenantName};
use crate::time::Timestamp;

/// The configuration and workspace of an instance that was removed without `--purge`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dataset {
    /// Its id: the CLAWID of the instance it came from.
    pub id: ClawId,
    /// The tenant it belongs to.
    pub tenant: TenantName,
    /// The project it belongs to.
    pub project: ProjectName,
    /// The claw type that can read it.
    pub claw_type: ClawType,
    /// The version of the claw that wrote it last.
    pub version: String,
    /// The target that holds it.
    pub target: TargetName,
    /// Its size on disk when it was set aside, in bytes.
    pub size_bytes: u64,
    /// When it was set aside.
    pub created_at: Timestamp,
}
