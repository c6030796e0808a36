//! What a machine's shim is told.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use clawfarm_local::folders::hidden;
use clawfarm_local::keeper;
use clawfarm_model::Result;
use clawfarm_qemu::probe::kvm_group;
use clawfarm_qemu::{Accelerator, Machine, Qemu, VirtiofsdProgram};
use clawfarm_shim::ShimSpec;
use clawfarm_shim::spec::{
    AskSpec, Bind, CgroupSpec, EnvVar, LandlockSpec, LogSpec, MountSpec, SPEC_VERSION, User, WakeSpec,
};

use crate::config::HostPorts;
use crate::inner::Inner;
use crate::machine::{limits, power_socket};
use crate::paths::{DISK, SEED, SHARED, STATE, VM, VOLUMES};
use crate::record::{self, MachineRecord};
use crate::shares;

/// What presses the power button, as QMP wants it said.
const POWER: &str = "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"system_powerdown\"}\n";
/// What lets one go on that sleeps warm: it would not see its power button.
const GO_ON: &str = "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"cont\"}\n";

/// How long a machine may take to shut down when this one does, in milliseconds: systemd ends
/// everything 90 s after it began.
const TERM_GRACE_MS: u64 = 75_000;

/// The shim's orders for a machine.
pub(crate) fn spec(
    inner: &Inner,
    dir: &Path,
    record: &MachineRecord,
    machine: &Machine,
    (qemu, virtiofsd): (&Qemu, Option<&VirtiofsdProgram>),
) -> Result<ShimSpec> {
    let helpers = match virtiofsd {
        Some(program) => shares::helpers(dir, record, program)?,
        None => Vec::new(),
    };
    let below = below(inner, record);
    let programs = programs(qemu, virtiofsd);
    let spec = ShimSpec {
        version: SPEC_VERSION,
        id: record.id.clone(),
        run: record.run,
        argv: machine.argv(qemu)?,
        env: vec![
            EnvVar::new("PATH", "/usr/local/bin:/usr/bin:/bin"),
            EnvVar::new("LC_ALL", "C"),
            EnvVar::new("HOME", dir.join(VM).to_string_lossy()),
        ],
        cwd: "/".into(),
        exec_cwd: None,
        user: record.uid.map(|uid| User { uid, gid: uid }),
        groups: groups(record, machine.accelerator),
        landlock: Some(landlock(dir, record, &below, &programs, machine.accelerator)),
        claw_landlock: Some(qemus(dir, record, &below, qemu, machine.accelerator)),
        mounts: record.uid.map(|_| mounts(inner, dir, record, &below, &programs)),
        cgroup: Some(CgroupSpec {
            name: Path::new("clawfarm").join(inner.home_hash()).join(record.id.as_str()),
            parent: None,
            loopback: open_ports(inner),
        }),
        resources: limits(record, machine.accelerator, !clawfarm_local::host::memory_cgroup()),
        max_tasks: ShimSpec::DEFAULT_MAX_TASKS,
        logs: LogSpec::default(),
        token: keeper::token()?,
        term_grace_ms: TERM_GRACE_MS,
        helpers,
        ask: Some(AskSpec {
            socket: power_socket(dir),
            text: POWER.into(),
            wake: Some(WakeSpec {
                file: dir.join(record::FILE),
                field: record::FROZEN.into(),
                text: GO_ON.into(),
            }),
        }),
    };
    spec.check()?;
    Ok(spec)
}

/// What QEMU's own user is let at `/dev/kvm` by, where its group may use it: what it was tried with.
fn groups(record: &MachineRecord, accelerator: Accelerator) -> Vec<u32> {
    let needs = accelerator == Accelerator::Kvm && record.uid.is_some();
    needs.then(kvm_group).flatten().into_iter().collect()
}

/// What a guest may connect to of this machine's own addresses: the server's listener for claws,
/// and what was chosen.
fn open_ports(inner: &Inner) -> Option<Vec<u16>> {
    let HostPorts::Only(chosen) = &inner.config.host_ports else { return None };
    let own = inner.claw_port.load(Ordering::Relaxed);
    Some(chosen.iter().copied().chain([own]).filter(|port| *port != 0).collect())
}

/// What the disk may lean on: the image, and a base snapshot's disk.
fn below(inner: &Inner, record: &MachineRecord) -> Vec<PathBuf> {
    let image = &record.vm.image;
    let mut all = vec![inner.images.path_of(image)];
    // A base that is being made leans on none.
    let base = record.base.iter().filter(|base| !base.name.is_empty());
    all.extend(base.map(|base| inner.images.base_disk_of(image, &base.name)));
    all
}

/// The programs that are not the system's: one may be anywhere.
fn programs(qemu: &Qemu, virtiofsd: Option<&VirtiofsdProgram>) -> Vec<PathBuf> {
    let mut all = vec![qemu.path.clone()];
    all.extend(virtiofsd.and_then(|it| it.command.first()).map(PathBuf::from));
    all
}

/// What QEMU and the virtiofsds may use: the machine's own files, its folders, and the image.
fn landlock(
    dir: &Path,
    record: &MachineRecord,
    below: &[PathBuf],
    programs: &[PathBuf],
    accelerator: Accelerator,
) -> LandlockSpec {
    let mut write: Vec<PathBuf> = [SHARED, VOLUMES].map(|name| dir.join(name)).to_vec();
    write.extend(record.vm.workspace.iter().map(PathBuf::from));
    write.extend(record.installed.iter().map(|_| dir.join(STATE)));
    let all = LandlockSpec { read: Vec::new(), write, execute: programs.to_vec() };
    own_files(dir, record, below, accelerator).with(all)
}

/// What QEMU may use of that: connecting to a virtiofsd needs no right to its files.
fn qemus(
    dir: &Path,
    record: &MachineRecord,
    below: &[PathBuf],
    qemu: &Qemu,
    accelerator: Accelerator,
) -> LandlockSpec {
    let program = LandlockSpec { execute: vec![qemu.path.clone()], ..LandlockSpec::default() };
    own_files(dir, record, below, accelerator).with(program)
}

fn own_files(
    dir: &Path,
    record: &MachineRecord,
    below: &[PathBuf],
    accelerator: Accelerator,
) -> LandlockSpec {
    let mut write: Vec<PathBuf> = [VM, DISK].map(|name| dir.join(name)).to_vec();
    if accelerator == Accelerator::Kvm {
        write.push("/dev/kvm".into());
    }
    let mut read = [&[dir.join(SEED)], below].concat();
    // The disk of a claw's software.
    read.extend(record.installed.clone());
    LandlockSpec::system(record.uid.is_some()).with(LandlockSpec { read, write, execute: Vec::new() })
}

/// QEMU's view: the machine's own files, nothing else of the home.
fn mounts(
    inner: &Inner,
    dir: &Path,
    record: &MachineRecord,
    below: &[PathBuf],
    programs: &[PathBuf],
) -> MountSpec {
    let mut needed: Vec<&Path> = below.iter().chain(programs).map(PathBuf::as_path).collect();
    needed.extend(record.installed.as_deref());
    let hide = hidden(&inner.paths.home, &needed);
    let read_only = |path: &Path| Bind { path: path.to_owned(), read_only: true };
    let mut binds: Vec<Bind> =
        [VM, SHARED, VOLUMES, DISK].map(|name| Bind { path: dir.join(name), read_only: false }).to_vec();
    binds.push(read_only(&dir.join(SEED)));
    binds.extend(below.iter().map(|path| read_only(path)));
    if let Some(software) = &record.installed {
        binds.push(read_only(software));
        binds.push(Bind { path: dir.join(STATE), read_only: false });
    }
    binds.extend(programs.iter().map(|program| read_only(program)));
    binds.extend(record.vm.workspace.iter().map(|path| Bind { path: path.into(), read_only: false }));
    // What is not below a hidden folder is seen anyway.
    binds.retain(|bind| hide.iter().any(|hide| bind.path.starts_with(hide) && bind.path != *hide));
    MountSpec { hide, binds }
}
