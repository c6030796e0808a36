//! What `new` takes for a virtual machine.

use std::path::PathBuf;

use clap::Args;
use clawfarm_api::Accepted;
use clawfarm_model::Error;
use clawfarm_model::vm::{PublishedPort, VmSpec, VolumeMount};
use clawfarm_model::vm_image::VmImageReference;

use crate::app::App;
use crate::errors::Failure;
use crate::output::{Ui, clean_line, duration};

/// What only a virtual machine has.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "For virtual machines")]
pub(crate) struct MachineArgs {
    /// A command that sets the machine up, run once by root with 'bash -lc'; several are run in order. Everybody who may see the instance sees it: no place for a key
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    run: Vec<String>,
    /// A folder of its own on the host that the machine sees at a path of its own
    #[arg(long, value_name = "NAME:/PATH")]
    volume: Vec<VolumeMount>,
    /// A folder of the server's machine that the machine sees as /workspace
    #[arg(long, value_name = "FOLDER")]
    workspace: Option<PathBuf>,
    /// A port of this machine's 127.0.0.1 that leads to a port of the machine
    #[arg(long, value_name = "HOST:GUEST")]
    publish: Vec<PublishedPort>,
    /// The size of its disk [default: what its image has, or more]
    #[arg(long, value_name = "GIB", allow_negative_numbers = true)]
    disk_gib: Option<u32>,
    /// Restore it from a base snapshot of its image (see 'image warm') instead of booting it
    #[arg(long)]
    from_snapshot: bool,
}

impl MachineArgs {
    /// What is wanted of a machine of this image.
    pub(super) fn spec(&self, image: &str) -> Result<VmSpec, Error> {
        let spec = VmSpec {
            image: VmImageReference::new(image)?,
            disk_gib: self.disk_gib,
            volumes: self.volume.clone(),
            workspace: self.workspace()?,
            publish: self.publish.clone(),
            setup: self.run.clone(),
            from_snapshot: self.from_snapshot,
        };
        spec.check()?;
        Ok(spec)
    }

    /// Refuses what was said for a machine where none is made.
    pub(super) fn none(&self) -> Result<(), Error> {
        let said = [
            ("--run", !self.run.is_empty()),
            ("--volume", !self.volume.is_empty()),
            ("--workspace", self.workspace.is_some()),
            ("--publish", !self.publish.is_empty()),
            ("--disk-gib", self.disk_gib.is_some()),
            ("--from-snapshot", self.from_snapshot),
        ];
        match said.into_iter().find(|(_, said)| *said) {
            None => Ok(()),
            Some((option, _)) => Err(Error::invalid(option, "only a virtual machine has this").fix(format!(
                "name an image instead of a claw type: clawfarm new ubuntu:24.04 {option} ...; or put the claw into a machine: --runtime vm --image ubuntu:24.04"
            ))),
        }
    }

    /// The server does not know which folder this command was typed in.
    fn workspace(&self) -> Result<Option<String>, Error> {
        let Some(path) = &self.workspace else { return Ok(None) };
        let absolute = std::path::absolute(path)
            .map_err(|e| Error::invalid("--workspace", format!("{} can't be used: {e}", path.display())))?;
        match absolute.to_str() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(Error::invalid("--workspace", format!("{} is no UTF-8 path", path.display()))),
        }
    }
}

/// What a machine is, and what to type next.
pub(super) fn card(app: &App, accepted: &Accepted) -> Result<(), Failure> {
    let (ui, instance) = (&app.ui, &accepted.instance);
    let id = &instance.id;
    let operation = &accepted.operation;
    let took = operation.ended_at.unwrap_or(operation.updated_at).since(operation.created_at);
    let after = duration(took);
    ui.line(format_args!("{} is {} (after {after})", ui.out.bold(id), ui.out.phase(instance.phase)))?;
    if let Some(vm) = &instance.vm {
        described(ui, vm)?;
    }
    if let Some(gateway) = &instance.gateway {
        ui.line(format_args!("  gateway    {}", clean_line(gateway)))?;
    }
    ui.line("\nNext:")?;
    ui.line(format_args!("  clawfarm shell {id}"))?;
    ui.line(format_args!("  clawfarm suspend {id}"))?;
    ui.line(format_args!("  clawfarm rm {id}"))
}

/// What a machine is made of, a line each.
pub(super) fn described(ui: &Ui, vm: &VmSpec) -> Result<(), Failure> {
    ui.line(format_args!("  image      {}", vm.image))?;
    for volume in &vm.volumes {
        ui.line(format_args!("  volume     {} at {}", volume.name, volume.guest))?;
    }
    if let Some(folder) = &vm.workspace {
        ui.line(format_args!("  workspace  {} at {}", clean_line(folder), VmSpec::WORKSPACE))?;
    }
    for port in &vm.publish {
        ui.line(format_args!("  published  127.0.0.1:{} leads to port {}", port.host, port.guest))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_checked_before_anything_is_asked_of_a_server() {
        let args = MachineArgs {
            run: vec!["true".into()],
            volume: vec!["data:/srv/data".parse().expect("a volume")],
            publish: vec!["8080:80".parse().expect("a pair")],
            ..MachineArgs::default()
        };
        let spec = args.spec("ubuntu:24.04").expect("fine");
        assert_eq!((spec.setup.len(), spec.volumes.len(), spec.publish.len()), (1, 1, 1));
        assert_eq!(args.spec("Ubuntu:24.04").expect_err("no name").field_name(), Some("image"));
        assert_eq!(args.none().expect_err("said").field_name(), Some("--run"));
        let twice = MachineArgs { publish: vec![args.publish[0]; 2], ..MachineArgs::default() };
        assert_eq!(twice.spec("debian:12").expect_err("twice").field_name(), Some("vm.publish[1].host"));
        assert!(MachineArgs::default().none().is_ok());
        let snapshot = MachineArgs { from_snapshot: true, ..MachineArgs::default() };
        assert!(snapshot.spec("debian:12").expect("fine").from_snapshot);
        assert_eq!(snapshot.none().expect_err("said").field_name(), Some("--from-snapshot"));
        let relative = MachineArgs { workspace: Some(".".into()), ..MachineArgs::default() };
        assert!(
            relative.spec("debian:12").expect("fine").workspace.is_some_and(|path| path.starts_with('/'))
        );
    }
}
