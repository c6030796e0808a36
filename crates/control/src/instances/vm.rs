//! What of a new virtual machine is checked before anything is made.

use std::net::{Ipv4Addr, TcpListener};

use clawfarm_adapters::machine::MACHINE;
use clawfarm_model::name::{ClawType, InstanceName, TenantName};
use clawfarm_model::setup::Setup;
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{Code, Context, Error, Instance, InstanceSpec, Result};

use super::create::{Checked, NewInstance};
use crate::core::Core;

/// How long a virtual machine may take until it is up, in seconds: a large image boots emulated in
/// minutes where others work beside it, and an OpenClaw is installed after that.
const VM_READY_TIMEOUT_SECS: u32 = 900;

/// Whether it is a machine and nothing else: what runs in it is its person's business.
pub(crate) fn is_bare(spec: &InstanceSpec) -> bool {
    spec.claw_type.as_str() == MACHINE
}

/// Refuses what is done with a claw's software or data where there is no claw.
pub(crate) fn not_of_a_machine(instance: &Instance, what: &str, fix: String) -> Result<()> {
    if !is_bare(&instance.spec) {
        return Ok(());
    }
    let id = &instance.id;
    Err(Error::new(Code::Unsupported, format!("'{id}' is a bare machine, {what}")).field("id").fix(fix))
}

/// An image is run by a container engine, or is a virtual machine's, unless a target says otherwise.
pub(super) fn by_image(new: &NewInstance) -> Option<RuntimeKind> {
    match (&new.vm, &new.image) {
        _ if new.target.is_some() => None,
        (Some(_), _) => Some(RuntimeKind::Vm),
        (None, Some(_)) => Some(RuntimeKind::Docker),
        (None, None) => None,
    }
}

/// How long a start may take where nobody says it.
pub(super) const fn ready_timeout_secs(machine: bool) -> u32 {
    if machine { VM_READY_TIMEOUT_SECS } else { InstanceSpec::default_ready_timeout_secs() }
}

/// What a machine is called that nobody gave a name: as its image is, as far as that can be one.
pub(super) fn name(vm: Option<&VmSpec>, claw_type: &ClawType) -> Result<InstanceName> {
    let bare = claw_type.as_str() == MACHINE;
    let of_image = vm.filter(|_| bare).and_then(|vm| {
        let text = vm.image.name().replace(['.', '_'], "-");
        InstanceName::new(text).ok()
    });
    match of_image {
        Some(name) => Ok(name),
        None => InstanceName::new(claw_type.as_str()),
    }
}

/// The commands that set it up, none of them run.
pub(super) fn setup(checked: &Checked) -> Option<Setup> {
    let commands = checked.spec.vm.as_ref().map_or(0, |vm| vm.setup.len());
    (commands > 0).then(|| Setup::new(commands, checked.attended))
}

impl Core {
    /// Checks what of a virtual machine needs the host.
    pub(crate) async fn check_vm(&self, context: &Context, spec: &InstanceSpec) -> Result<()> {
        let Some(vm) = &spec.vm else { return Ok(()) };
        if let Some(folder) = &vm.workspace {
            // It could be any folder of the machine that everybody shares.
            if *context.tenant()? != TenantName::default_tenant() {
                return Err(Error::new(
                    Code::Forbidden,
                    "only the machine's own owner may share its folders",
                )
                .field("vm.workspace")
                .fix("use a volume, which is the instance's own"));
            }
            match tokio::fs::metadata(folder).await {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => {
                    return Err(Error::invalid("vm.workspace", "it is no folder").fix("give a folder"));
                }
                Err(error) => {
                    return Err(Error::invalid("vm.workspace", format!("it can't be read: {error}"))
                        .fix("give a folder that exists on the server's machine"));
                }
            }
        }
        // A target that is away can't say; then it is told when the machine is made.
        if let Ok(runtime) = self.runtime(&spec.target) {
            runtime.check_vm(spec).await?;
        }
        self.check_vm_image(spec).await?;
        for (at, port) in vm.publish.iter().enumerate() {
            let taken = |who: &str| {
                Error::new(Code::Conflict, format!("port {} is {who}", port.host))
                    .field(format!("vm.publish[{at}].host"))
                    .fix("give another port of the host")
            };
            if !self.store.port_is_free(&Context::system("ports"), &spec.target, port.host).await? {
                return Err(taken("another instance's"));
            }
            if self.is_bound(spec, port.host) {
                return Err(taken("in use on this machine, or not ours to use"));
            }
        }
        if let Some(port) = spec.port.filter(|port| self.is_bound(spec, *port)) {
            return Err(Error::new(Code::Conflict, format!("port {port} is in use on this machine"))
                .field("port")
                .fix("choose another port, or leave it out"));
        }
        Ok(())
    }

    /// Whether a port of this machine's loopback device is in use. It may be later; then the start
    /// tells it.
    fn is_bound(&self, spec: &InstanceSpec, port: u16) -> bool {
        spec.runtime == RuntimeKind::Vm
            && self.is_own(&spec.target)
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err()
    }
}

#[cfg(test)]
mod tests {
    use clawfarm_model::vm_image::VmImageReference;

    use super::*;

    #[test]
    fn a_machine_is_called_as_its_image() {
        let vm = |image: &str| VmSpec::new(VmImageReference::new(image).unwrap());
        let machine = ClawType::new("machine").unwrap();
        for (image, wanted) in
            [("ubuntu:24.04", "ubuntu"), ("my.lab_2:1", "my-lab-2"), ("9front:1", "machine")]
        {
            assert_eq!(name(Some(&vm(image)), &machine).unwrap().as_str(), wanted);
        }
        let claw = ClawType::new("openclaw").unwrap();
        assert_eq!(name(Some(&vm("ubuntu:24.04")), &claw).unwrap().as_str(), "openclaw");
    }
}
