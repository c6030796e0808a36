//! Virtual machines of this machine: the target, and the virtiofsd that is in this program.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use clawfarm_model::{Error, Result};
use clawfarm_runtime_vm::{Accelerator, HostPorts, SERVES_FOLDERS, VmConfig, VmRuntime, serve_folder};
use clawfarm_vm_images::ImagesConfig;

use crate::background::own_program;

/// The word by which this program serves a folder to a virtual machine. It is started by shims,
/// not by people.
pub(crate) const VIRTIOFSD: &str = "virtiofsd";

/// What runs the processors of virtual machines: `auto`, `kvm` or `tcg`.
pub(crate) const ACCELERATOR: &str = "CLAWFARM_VM_ACCELERATOR";

/// Which ports of the host's 127.0.0.1 virtual machines reach: numbers apart by commas, or `all`.
pub(crate) const HOST_PORTS: &str = "CLAWFARM_VM_HOST_PORTS";

/// The agent that goes into virtual machines, where this program was built with it.
#[cfg(guest_agent)]
const AGENT: Option<&[u8]> = Some(include_bytes!(env!("CLAWFARM_GUEST_AGENT_FILE")));
#[cfg(not(guest_agent))]
const AGENT: Option<&[u8]> = None;

/// What the target is called, where the machine's own is called `own`.
pub(crate) fn target_name(own: Option<&str>) -> String {
    own.map_or_else(|| "vm".to_owned(), |own| format!("{own}-vm"))
}

/// Opens the virtual machines of a home. QEMU need not be there: `clawfarm doctor` tells, and so
/// does whatever needs it.
pub(crate) async fn open(
    home: &Path,
    cache: Option<&Path>,
    images: ImagesConfig,
    claw_port: u16,
) -> Result<VmRuntime> {
    let mut config = VmConfig { images, ..VmConfig::new(home, cache) };
    config.claw_port = claw_port;
    config.accelerator = accelerator(std::env::var_os(ACCELERATOR).as_deref())?;
    config.host_ports = host_ports(std::env::var_os(HOST_PORTS).as_deref())?;
    config.agent = AGENT.map(Bytes::from_static);
    if SERVES_FOLDERS {
        config.virtiofsd = Some(vec![program()?, VIRTIOFSD.to_owned()]);
    }
    VmRuntime::open(config).await
}

/// What was chosen; `None` for what turns out to work.
fn accelerator(chosen: Option<&OsStr>) -> Result<Option<Accelerator>> {
    match chosen.map(OsStr::to_string_lossy).as_deref() {
        None | Some("" | "auto") => Ok(None),
        Some("kvm") => Ok(Some(Accelerator::Kvm)),
        Some("tcg") => Ok(Some(Accelerator::Tcg)),
        Some(other) => Err(Error::invalid(ACCELERATOR, format!("'{}' is none", other.escape_default()))
            .fix("give auto, kvm or tcg, or leave it unset")),
    }
}

/// What was chosen; none unless said.
fn host_ports(chosen: Option<&OsStr>) -> Result<HostPorts> {
    /// More would be a list for another means.
    const MOST: usize = 256;
    let text = chosen.map(OsStr::to_string_lossy).unwrap_or_default();
    if text == "all" {
        return Ok(HostPorts::All);
    }
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let ports =
        words.map(|word| word.parse::<u16>().ok().filter(|port| *port > 0)).collect::<Option<Vec<u16>>>();
    match ports.filter(|ports| ports.len() <= MOST) {
        Some(ports) => Ok(HostPorts::Only(ports)),
        None => Err(Error::invalid(HOST_PORTS, format!("'{}' can't be used", text.escape_default())).fix(
            format!("give up to {MOST} ports apart by commas, such as 11434,8080, or all; or leave it unset"),
        )),
    }
}

/// This program's path, and not `/proc/self/exe`: confinement names it to the kernel, and another
/// process executes it.
fn program() -> Result<String> {
    let failed = |why: String| Error::internal("the path of this program can't be told", why);
    let path = own_program().map_err(|e| failed(e.to_string()))?;
    path.to_str().map(str::to_owned).ok_or_else(|| failed(format!("'{}' is no UTF-8", path.display())))
}

/// Serves a folder, before a thread or a runtime is made.
pub(crate) fn virtiofsd(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<String> = arguments.map(|it| it.to_string_lossy().into_owned()).collect();
    serve_folder(&arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accelerator_is_one_of_three_words() {
        let of = |text: &str| accelerator(Some(OsStr::new(text)));
        assert_eq!((accelerator(None).unwrap(), of("").unwrap(), of("auto").unwrap()), (None, None, None));
        assert_eq!(of("kvm").unwrap(), Some(Accelerator::Kvm));
        assert_eq!(of("tcg").unwrap(), Some(Accelerator::Tcg));
        let error = of("KVM\u{1b}").unwrap_err();
        assert_eq!(error.field_name(), Some(ACCELERATOR));
        assert!(!error.message().contains('\u{1b}') && error.fix_text().is_some(), "{error}");
    }

    #[test]
    fn ports_of_the_host_are_numbers_or_all() {
        let of = |text: &str| host_ports(Some(OsStr::new(text)));
        assert_eq!(host_ports(None).unwrap(), HostPorts::Only(vec![]));
        assert_eq!(of(" 11434, 8080,").unwrap(), HostPorts::Only(vec![11_434, 8080]));
        assert_eq!(of("all").unwrap(), HostPorts::All);
        for wrong in ["0", "65536", "8080-8090", "ALL", "1,\u{1b}"] {
            let error = of(wrong).unwrap_err();
            assert!(error.field_name() == Some(HOST_PORTS) && error.fix_text().is_some(), "{error}");
            assert!(!error.message().contains('\u{1b}'));
        }
    }

    #[test]
    fn its_name_goes_with_the_server_s_own() {
        assert_eq!((target_name(None), target_name(Some("a"))), ("vm".to_owned(), "a-vm".to_owned()));
    }
}
