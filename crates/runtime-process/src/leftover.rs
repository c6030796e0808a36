//! An instance whose shim was killed: its state is made true before anyone is told.
//!
//! A shim that ends in any way it can influence leaves nothing. One that was killed, or a
//! machine that went down, leaves `state.json` saying `active` and a lock that nobody holds.
//! Then whatever still carries the instance is ended first: a second claw on the same state
//! would damage it.

use std::path::Path;

use clawfarm_model::Result;
use clawfarm_shim::ShimState;

use crate::inner::{Inner, guard};

/// The state of an instance whose lock nobody holds. When it still says `active`, what is left
/// of it is ended, which may block for some seconds, and its end is recorded.
///
/// # Errors
/// `Conflict` when a shim has come up meanwhile.
pub(crate) fn settle(inner: &Inner, dir: &Path) -> Result<Option<ShimState>> {
    let seen = ShimState::read(dir)?;
    if !seen.as_ref().is_some_and(|state| state.active) {
        return Ok(seen);
    }
    // One at a time: a second sweep would find the first one's lock and take it for a shim.
    let _settling = guard(&inner.settling);
    clawfarm_shim::sweep(dir)
}
