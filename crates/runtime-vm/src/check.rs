//! What of a new machine this host decides, looked at before anything is made or fetched.

use std::sync::Arc;

use clawfarm_files::blocking;
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{Error, InstanceSpec, Result};
use clawfarm_qemu::ssh::Ssh;
use clawfarm_vm::claw::SOFTWARE;

use crate::inner::{Inner, guard};
use crate::{claw, ports, shares};

/// [`clawfarm_runtime::Runtime::check_vm`].
pub(crate) async fn check(inner: &Arc<Inner>, spec: &InstanceSpec) -> Result<()> {
    let Some(vm) = &spec.vm else { return Ok(()) };
    let is_claw = claw::is_claw_type(&spec.claw_type);
    if is_claw {
        check_volumes(vm, &claw::home_of(&spec.claw_type))?;
    }
    inner.qemu().await?;
    Ssh::find()?;
    if is_claw || vm.workspace.is_some() || !vm.volumes.is_empty() {
        inner.virtiofsd().await?;
    }
    let (inner, vm, port) = (Arc::clone(inner), vm.clone(), spec.port);
    blocking(move || {
        shares::check_workspace(&inner.paths.home, &vm)?;
        let _choosing = guard(&inner.choosing);
        ports::check_new(&inner, None, &vm, port)
    })
    .await
}

/// Refuses volumes under which a claw would not find itself.
pub(crate) fn check_volumes(vm: &VmSpec, home: &str) -> Result<()> {
    for (at, volume) in vm.volumes.iter().enumerate() {
        let guest = volume.guest.as_str();
        for (path, what) in [(home, "home"), (SOFTWARE, "software")] {
            let hides = path.strip_prefix(guest).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            if hides {
                return Err(Error::invalid(
                    format!("vm.volumes[{at}].guest"),
                    format!("'{guest}' would hide the claw's {what} at '{path}'"),
                )
                .fix(
                    "leave it out (a claw's home is a folder of this machine already), or mount it elsewhere",
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_mounted_over_a_claw() {
        let hidden = |guest: &str| {
            let vm = serde_json::json!({"image": "debian:12", "volumes": [{"name": "a", "guest": "/srv"}, {"name": "b", "guest": guest}]});
            let error = check_volumes(&serde_json::from_value(vm).unwrap(), "/root/.openclaw").err();
            error.map(|error| error.field_name().unwrap().to_owned())
        };
        for guest in ["/root/.openclaw", "/opt/clawfarm", "/opt/clawfarm/software"] {
            assert_eq!(hidden(guest).as_deref(), Some("vm.volumes[1].guest"), "{guest}");
        }
        for guest in ["/root/.openclaw/workspace/data", "/root/.openclaw2", "/srv/data", "/opt/other"] {
            assert_eq!(hidden(guest), None, "{guest}");
        }
    }
}
