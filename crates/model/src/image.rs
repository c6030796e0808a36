//! Images that targets have.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::name::{ClawType, TargetName};
use crate::time::Timestamp;

/// An image of a claw type, on one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// What it is called: `clawfarm/openclaw:2026.9.6`.
    pub reference: String,
    /// Its digest: `sha256:...`.
    pub digest: String,
    /// Where it is.
    pub target: TargetName,
    /// The claw type in it.
    pub claw_type: ClawType,
    /// The claw's version.
    pub version: String,
    /// What it takes up, in bytes; images share much of that.
    pub size_bytes: u64,
    /// When it was made.
    pub created_at: Timestamp,
}
