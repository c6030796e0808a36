//! Where claws of a type can run.

use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{Error, InstanceSpec, Result};

/// Refuses a runtime that a type can't run on.
///
/// # Errors
/// `InvalidInput` on `runtime`.
pub(crate) fn only_processes(spec: &InstanceSpec, title: &str, on: &[RuntimeKind]) -> Result<()> {
    if on.contains(&spec.runtime) {
        return Ok(());
    }
    Err(Error::invalid("runtime", format!("{title} can't run on '{}'", spec.runtime))
        .fix("use a target whose runtime is 'process'; see: clawfarm target ls"))
}
