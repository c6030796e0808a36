//! Machines that are made from a base snapshot: restored instead of booted.
//!
//! Such a machine's disk leans on the base's, and its first start reads the base's memory. Until
//! its agent has made it a machine of its own ([`crate::identify`]) it is a copy of another, with
//! the same keys: nobody gets to it, and what is cut off is thrown away with its disk. Where it
//! can't be done, it is booted from a disk of its image, as any other, with the reason.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use clawfarm_files::{Folder, blocking, io_error};
use clawfarm_model::resources::Resources;
use clawfarm_model::vm::VmSpec;
use clawfarm_model::vm_image::VmImageReference;
use clawfarm_model::{Code, Error, Result};
use clawfarm_qemu::snapshot::{About, Limits};
use clawfarm_qemu::{Machine, Qemu, Qmp, Snapshot, qmp};
use clawfarm_runtime::{NoProgress, WantedSize};
use clawfarm_vm_images::{BASE_MEMORY, Base, Disk};
use sha2::{Digest, Sha256};

use crate::inner::Inner;
use crate::machine::{cpus, machine};
use crate::paths::DISK;
use crate::prepare::{disk_of_image, give_disk, owner};
use crate::record::{DiskRecord, MachineRecord, OnBase, Started};
use crate::start::{disk, launch, noted};
use crate::{end, identify, shares};

/// Slots into which folders are plugged: as many as a machine can have.
const SLOTS: u8 = 1 + VmSpec::VOLUMES_MAX as u8;
/// The one address of all machines from base snapshots, on networks of their own each: systems tell
/// their networks by it, and it was the base's.
const MAC: &str = "52:54:00:ba:5e:00";
/// The file with the memory, in its folder.
const MEMORY_FILE: &str = "memory";

/// What a machine from a base snapshot has beside others, at every start.
pub(crate) fn fit_out(machine: &mut Machine, qemu: &Qemu) {
    machine.hotplug_slots = SLOTS;
    if let Some(network) = &mut machine.network {
        MAC.clone_into(&mut network.mac);
    }
    if qemu.devices.contains("vmgenid") {
        machine.generation = generation();
    }
}

/// Another one at each start: the guest's kernel forgets its random numbers.
fn generation() -> Option<String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).ok()?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default().to_owned();
    Some([part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-"))
}

/// Whether it is a copy that was not told yet who it is.
pub(crate) fn is_half(record: &MachineRecord) -> bool {
    record.base.as_ref().is_some_and(|base| !base.identified)
}

/// Refuses as long as it is.
pub(crate) fn check(record: &MachineRecord) -> Result<()> {
    match is_half(record) {
        false => Ok(()),
        true => Err(Error::new(Code::Unavailable, format!("'{}' still boots", record.id))
            .fix("wait until it is ready")),
    }
}

/// What tells one agent from another.
pub(crate) fn agent_digest(agent: &[u8]) -> String {
    Sha256::digest(agent).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// [`clawfarm_runtime::Bases::size`].
pub(crate) async fn size(inner: &Inner, image: &VmImageReference, wanted: WantedSize) -> Result<Resources> {
    let bases = inner.images.bases(image).await?;
    let as_whole = |share: f64| cpus(&Resources { cpus: share, ..Resources::default() });
    let is_wanted = |base: &&Base| {
        wanted.cpus.is_none_or(|share| as_whole(share) == base.record.cpus)
            && wanted.memory_mib.is_none_or(|mib| mib == base.record.memory_mib)
    };
    let Some(base) = bases.iter().find(is_wanted) else { return Err(none(image, wanted, &bases)) };
    let of_base = Resources { cpus: f64::from(base.record.cpus), memory_mib: base.record.memory_mib };
    let resources = Resources { cpus: wanted.cpus.unwrap_or(of_base.cpus), ..of_base };
    choose(inner, image, resources).await?;
    Ok(resources)
}

/// The words by which one of a size is made.
fn command(image: &VmImageReference, cpus: Option<u32>, memory_mib: Option<u32>) -> String {
    let mut text = format!("clawfarm image warm {image}");
    text.extend(cpus.map(|cpus| format!(" --cpus {cpus}")));
    text.extend(memory_mib.map(|mib| format!(" --memory-mib {mib}")));
    text
}

fn none(image: &VmImageReference, wanted: WantedSize, bases: &[Base]) -> Error {
    let whole = wanted.cpus.map(|share| cpus(&Resources { cpus: share, ..Resources::default() }));
    let make = command(image, whole, wanted.memory_mib);
    let why = match bases {
        [] => format!("there is no base snapshot of '{image}'"),
        _ => {
            let mut sizes: Vec<String> = bases
                .iter()
                .map(|base| format!("{} x {} MiB", base.record.cpus, base.record.memory_mib))
                .collect();
            sizes.dedup();
            format!("there is no base snapshot of '{image}' of this size; there are: {}", sizes.join(", "))
        }
    };
    Error::invalid("vm.from_snapshot", why).fix(format!("make one ({make}), or leave --from-snapshot out"))
}

/// The base of a size that fits what is here now.
pub(crate) async fn choose(inner: &Inner, image: &VmImageReference, size: Resources) -> Result<Base> {
    let bases = inner.images.bases(image).await?;
    let of_size = |base: &&Base| (base.record.cpus, base.record.memory_mib) == (cpus(&size), size.memory_mib);
    let mut refused = None;
    for base in bases.iter().filter(of_size) {
        match fits(inner, image, base, size).await {
            Ok(_) => return Ok(base.clone()),
            Err(error) => drop(refused.get_or_insert(error)),
        }
    }
    let Some(why) = refused else {
        let wanted = WantedSize { cpus: Some(size.cpus), memory_mib: Some(size.memory_mib) };
        return Err(none(image, wanted, &bases));
    };
    let make = command(image, Some(cpus(&size)), Some(size.memory_mib));
    Err(Error::invalid(
        "vm.from_snapshot",
        format!("the base snapshot of '{image}' is of no use any more: {}", why.message()),
    )
    .fix(format!("make it again ({make}), or leave --from-snapshot out")))
}

/// Whether a base is of what is here now; what its memory says of itself.
pub(crate) async fn fits(
    inner: &Inner,
    image: &VmImageReference,
    base: &Base,
    size: Resources,
) -> Result<About> {
    let unfit = |why: &str| Error::new(Code::Unsupported, why.to_owned());
    let record = inner.images.get(image).await?;
    if record.is_none_or(|record| record.digest != base.record.digest) {
        return Err(unfit("the image is another one by now"));
    }
    let agent = inner.config.agent.as_ref().map(|agent| agent_digest(agent));
    if agent.as_ref() != Some(&base.record.agent) {
        return Err(unfit("the agent in it is another one than this server's"));
    }
    let about = Snapshot::at(&base.folder, BASE_MEMORY)?.about().await?;
    let about = about.ok_or_else(|| unfit("its memory is missing"))?;
    let qemu = inner.qemu().await?;
    let of = (&qemu, qemu.machine.as_str(), inner.accelerator(&qemu).await?);
    let now = waiting_machine(Path::new("/"), &crate::warm::described(image, size)?, of);
    about.fits(qemu.version, &now.shape())?;
    Ok(about)
}

/// A machine as its base was: with nothing plugged in.
fn waiting_machine(
    dir: &Path,
    record: &MachineRecord,
    of: (&Qemu, &str, clawfarm_qemu::Accelerator),
) -> Machine {
    let disk =
        DiskRecord { how: clawfarm_vm_images::How::Overlay, format: clawfarm_vm_images::Format::Qcow2 };
    let mut machine = machine(dir, record, disk, of, true);
    machine.shares.clear();
    machine
}

/// The disk of a machine that never ran, on a base that fits.
pub(crate) async fn first_disk(inner: &Arc<Inner>, record: MachineRecord) -> Result<MachineRecord> {
    let base = choose(inner, &record.vm.image, record.resources).await?;
    let made = disk_on(inner, &record, &base.name).await?;
    noted(inner, &record.id, move |record| {
        record.disk = Some(made);
        record.base = Some(OnBase { name: base.name, tried: false, identified: false });
    })
    .await
}

/// A new disk on a base, in place of whatever is there.
async fn disk_on(inner: &Arc<Inner>, record: &MachineRecord, base: &str) -> Result<DiskRecord> {
    let path = inner.dir(&record.id).join(DISK);
    remove(&path)?;
    let wanted = Disk { path: path.clone(), size_bytes: None, owner: record.id.to_string(), how: None };
    let made = inner.images.make_disk_on_base(&record.vm.image, base, &wanted).await?;
    let (this, vm, own) = (Arc::clone(inner), record.vm.clone(), owner(record));
    blocking(move || give_disk(&this, &path, &vm, own)).await?;
    Ok(DiskRecord { how: made.how, format: made.format })
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(io_error(format!("remove '{}'", path.display()), e))
        }
        _ => Ok(()),
    }
}

/// How a first start went.
pub(crate) enum First {
    /// It runs, and is a machine of its own.
    Runs,
    /// It has a disk of its image instead, to be booted from.
    Boots(Box<MachineRecord>),
}

/// Starts it from its base.
pub(crate) async fn first_start(inner: &Arc<Inner>, record: &MachineRecord) -> Result<First> {
    let id = &record.id;
    let why = match Box::pin(restored(inner, record)).await? {
        Ok(()) => return Ok(First::Runs),
        Err(error) => error.message().to_owned(),
    };
    tracing::warn!(%id, why, "it can't be made from its base snapshot: it is booted");
    end::kill(inner, id).await?;
    remove(&inner.dir(id).join(DISK))?;
    inner.images.unpin(&record.vm.image, id.as_str()).await?;
    // Its seed says all of it.
    identify::forget(inner, record).await;
    let record = noted(inner, id, |record| {
        (record.disk, record.base, record.started) = (None, None, None);
        record.base_lost = Some(why);
    })
    .await?;
    Ok(First::Boots(Box::new(disk_of_image(inner, record, &NoProgress).await?)))
}

/// The outer error is of a start that any machine could have had, and is tried again.
async fn restored(inner: &Arc<Inner>, record: &MachineRecord) -> Result<Result<()>> {
    let id = &record.id;
    let Some(on) = &record.base else { return Ok(Ok(())) };
    let image = &record.vm.image;
    let Some(base) = inner.images.base(image, &on.name).await? else {
        return Ok(Err(Error::new(Code::NotFound, "the base snapshot is gone")));
    };
    let about = match fits(inner, image, &base, record.resources).await {
        Ok(about) => about,
        Err(error) => return Ok(Err(error)),
    };
    if on.tried {
        // What a start that was cut off wrote to it is no machine's.
        disk_on(inner, record, &base.name).await?;
    }
    let qemu = inner.qemu().await?;
    let started = Started {
        machine: about.shape.machine.clone(),
        accelerator: about.shape.accelerator,
        resources: record.resources,
        installed: record.installed.clone(),
        plugged: true,
    };
    let record = noted(inner, id, move |record| {
        record.started = Some(started);
        if let Some(base) = &mut record.base {
            base.tried = true;
        }
    })
    .await?;
    let dir = inner.dir(id);
    let of = (&qemu, about.shape.machine.as_str(), about.shape.accelerator);
    let mut machine = machine(&dir, &record, disk(&record)?, of, true);
    machine.shares.clear();
    let qmp = launch(inner, &record, &machine, &qemu).await?;
    Ok(copied(inner, &record, &base, &about, &qmp).await)
}

/// Makes a machine of its own of a QEMU that waits for its memory.
async fn copied(
    inner: &Arc<Inner>,
    record: &MachineRecord,
    base: &Base,
    about: &About,
    qmp: &Qmp,
) -> Result<()> {
    let id = &record.id;
    let memory = base.folder.join(BASE_MEMORY);
    let bytes = about.bytes;
    let file = blocking(move || {
        let failed = |e| io_error(format!("read '{}'", memory.display()), e);
        let opened = Folder::open(&memory).and_then(|folder| folder.open_file(Path::new(MEMORY_FILE)));
        let file =
            opened.map_err(failed)?.ok_or_else(|| Error::new(Code::NotFound, "its memory is missing"))?;
        match file.metadata().map_err(failed)?.len() == bytes {
            true => Ok(OwnedFd::from(file)),
            false => Err(Error::new(Code::Internal, "its memory has another size than it was written with")),
        }
    })
    .await?;
    qmp.restore_memory(&file, about.stream, Limits::of(record.resources.memory_mib).restore).await?;
    clawfarm_failpoint::point!(BaseRestored);
    // Before it runs: it finds its folders when it looks for them.
    for (share, slot) in shares::all(&inner.dir(id), record).iter().zip(0..) {
        qmp.plug_share(&qmp::Share { tag: &share.tag, socket: &share.socket, slot }).await?;
    }
    qmp.cont().await?;
    identify::identify(inner, record).await?;
    clawfarm_failpoint::point!(BaseIdentified);
    let run = record.run;
    noted(inner, id, move |record| {
        if let Some(base) = &mut record.base {
            base.identified = true;
        }
        (record.memory_lost, record.base_lost) = (None, None);
        record.booted = Some(crate::record::Booted { run, failed: None, unmounted: false });
    })
    .await?;
    identify::forget(inner, record).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_a_uuid_and_no_two_are_the_same() {
        let (one, other) = (generation().unwrap(), generation().unwrap());
        let parts: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_ne!(one, other);
    }

    #[test]
    fn who_wants_a_size_that_there_is_not_is_told_which_there_are() {
        let image: VmImageReference = "debian:12".parse().unwrap();
        let wanted = WantedSize { cpus: Some(1.5), memory_mib: Some(512) };
        let error = none(&image, wanted, &[]);
        assert_eq!(error.field_name(), Some("vm.from_snapshot"));
        let fix = error.fix_text().unwrap();
        assert!(fix.contains("clawfarm image warm debian:12 --cpus 2 --memory-mib 512"), "{fix}");
        let record = clawfarm_vm_images::BaseRecord {
            version: 1,
            digest: String::new(),
            cpus: 1,
            memory_mib: 2048,
            disk_bytes: 0,
            agent: String::new(),
            made_at: clawfarm_model::Timestamp::now(),
        };
        let base = Base {
            name: String::new(),
            record,
            folder: std::path::PathBuf::new(),
            size_bytes: 0,
            used_by: Vec::new(),
        };
        let error = none(&image, wanted, &[base.clone(), base]);
        assert!(error.message().ends_with("there are: 1 x 2048 MiB"), "{error}");
    }

    #[test]
    fn a_copy_that_does_not_know_who_it_is_is_for_nobody() {
        let image: VmImageReference = "debian:12".parse().unwrap();
        let mut record = crate::warm::described(&image, Resources::default()).unwrap();
        check(&record).unwrap();
        record.base.as_mut().unwrap().identified = false;
        assert_eq!(check(&record).unwrap_err().code(), Code::Unavailable);
        record.base = None;
        check(&record).unwrap();
    }
}
