//! What keeps a claw to itself. The order matters: mounts need privileges, Landlock forbids
//! mounts, and privileges go last.

pub(crate) mod files;
pub(crate) mod modes;
pub(crate) mod mounts;
pub(crate) mod privileges;

use serde::{Deserialize, Serialize};

/// What of it is in force, as the process that did it tells the shim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InForce {
    /// The version of the Landlock rules.
    pub(crate) landlock_abi: Option<u32>,
    /// The mount namespace hides what it should.
    pub(crate) private_mounts: bool,
    /// What is not in force, and why.
    pub(crate) missing: Vec<String>,
}
