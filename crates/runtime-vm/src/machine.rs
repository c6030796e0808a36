//! An instance's machine, as QEMU is to have it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use clawfarm_model::ClawId;
use clawfarm_model::resources::Resources;
use clawfarm_qemu::machine::{Disk, Format, Forward, Network, Serial};
use clawfarm_qemu::{Accelerator, Machine, Qemu};
use clawfarm_vm_images::Format as ImageFormat;
use sha2::{Digest, Sha256};

use crate::paths::{DISK, SEED, VM};
use crate::record::{DiskRecord, MachineRecord};
use crate::{agent, base, claw, shares};

/// Where user-mode networking has the host, from inside.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The guest's port of SSH.
pub(crate) const SSH: u16 = 22;

/// What QEMU needs beside the guest's memory, in MiB: its own, its devices', and the emulator's
/// for translated code (a quarter of the guest's memory, 1 GiB at most; `accel/tcg/region.c`).
const QEMU_MIB: u32 = 512;
const TRANSLATED_MIB: u32 = 1024;

/// Where a machine reaches the server.
pub(crate) fn host_url(claw_port: u16) -> String {
    format!("http://{HOST}:{claw_port}")
}

/// Where the server's connections come from, as the guest sees them.
pub(crate) fn server_addresses() -> Vec<IpAddr> {
    vec![HOST.into()]
}

/// Where QEMU listens for us.
pub(crate) fn qmp_socket(dir: &Path) -> PathBuf {
    dir.join(VM).join("qmp")
}

/// Where it listens for the shim, which presses the power button.
pub(crate) fn power_socket(dir: &Path) -> PathBuf {
    dir.join(VM).join("power")
}

/// How many processors a share of the machine is: a part of one is one, which gets no more time
/// than that part.
pub(crate) fn cpus(resources: &Resources) -> u32 {
    // Checked to be between 0.05 and 1024.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    let whole = resources.cpus.ceil() as u32;
    whole.max(1)
}

/// What QEMU and all beside it may hold in memory. A watchdog counts what they share once for
/// each of them.
pub(crate) fn limits(record: &MachineRecord, accelerator: Accelerator, watched: bool) -> Resources {
    let guest = record.resources.memory_mib;
    let own = match accelerator {
        Accelerator::Kvm => QEMU_MIB,
        Accelerator::Tcg => QEMU_MIB + TRANSLATED_MIB.min(guest / 4),
    };
    let shares = u32::try_from(shares::count(record)).unwrap_or(u32::MAX);
    let counted = if watched { guest.saturating_mul(shares.saturating_add(1)) } else { guest };
    let memory_mib = counted.saturating_add(own).saturating_add(shares.saturating_mul(64));
    Resources { cpus: record.resources.cpus, memory_mib: memory_mib.min(Resources::MEMORY_MIB.1) }
}

/// The machine of an instance, of a type and with an accelerator; `incoming` for one that waits
/// for its memory.
pub(crate) fn machine(
    dir: &Path,
    record: &MachineRecord,
    disk: DiskRecord,
    (qemu, machine_type, accelerator): (&Qemu, &str, Accelerator),
    incoming: bool,
) -> Machine {
    let mut machine = Machine::new(qemu, accelerator, qmp_socket(dir));
    machine.power = Some(power_socket(dir));
    record.id.as_str().clone_into(&mut machine.name);
    machine_type.clone_into(&mut machine.machine);
    machine.cpus = cpus(&record.resources);
    machine.memory_mib = record.resources.memory_mib;
    let format = match disk.format {
        ImageFormat::Raw => Format::Raw,
        ImageFormat::Qcow2 => Format::Qcow2,
    };
    machine.disks = vec![
        Disk { id: "root".into(), path: dir.join(DISK), format, read_only: false },
        Disk { id: "seed".into(), path: dir.join(SEED), format: Format::Raw, read_only: true },
    ];
    machine.disks.extend(claw::disk(record));
    machine.network = Some(Network { mac: mac(&record.id), forwards: forwards(record), closed: false });
    let plugged = record.started.as_ref().is_some_and(|started| started.plugged);
    machine.shares = shares::devices(dir, record, plugged);
    machine.channels = vec![agent::channel(dir)];
    machine.serial = Serial::Output;
    machine.incoming = incoming;
    if record.base.is_some() {
        base::fit_out(&mut machine, qemu);
    }
    machine
}

/// The ports of this machine that lead to the guest's, each of this machine's once.
pub(crate) fn forwards(record: &MachineRecord) -> Vec<Forward> {
    let mut all = vec![Forward { host: record.ssh_port, guest: SSH }];
    all.extend(record.vm.publish.iter().map(|port| Forward { host: port.host, guest: port.guest }));
    if !all.iter().any(|forward| forward.host == record.port) {
        all.push(Forward { host: record.port, guest: record.port });
    }
    all
}

/// An address of its own, the same at each start: locally administered, as QEMU's own are.
fn mac(id: &ClawId) -> String {
    let digest = Sha256::digest(id.as_str());
    let tail: String = digest.iter().take(3).map(|byte| format!(":{byte:02x}")).collect();
    format!("52:54:00{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_processor_is_one() {
        for (share, whole) in [(0.05, 1), (1.0, 1), (1.5, 2), (4.0, 4), (1024.0, 1024)] {
            assert_eq!(cpus(&Resources { cpus: share, memory_mib: 64 }), whole);
        }
    }

    #[test]
    fn each_has_an_address_of_its_own() {
        let of = |id: &str| mac(&ClawId::new(id).unwrap());
        assert_eq!(of("alice-x7k2"), of("alice-x7k2"));
        assert_ne!(of("alice-x7k2"), of("alice-x7k3"));
        assert!(of("alice-x7k2").starts_with("52:54:00:") && of("alice-x7k2").len() == 17);
    }
}
