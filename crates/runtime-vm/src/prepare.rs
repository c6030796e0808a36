//! Making an instance's folders, keys, seed and disk.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clawfarm_files::{Folder, Owner, blocking, io_error};
use clawfarm_local::uid;
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{ClawId, Code, Error, Place, Placement, Result, Timestamp};
use clawfarm_runtime::Progress;
use clawfarm_shim::layout::LOG_DIR;
use clawfarm_shim::lock;
use clawfarm_vm_images::Disk;

use crate::inner::{Inner, guard};
use crate::machine::server_addresses;
use crate::paths::{DISK, SHARED, STATE, VM, VOLUMES, WORKSPACE};
use crate::record::{self, DiskRecord, MachineRecord};
use crate::{base, check, claw, dataset, ports, seed, shares};

/// [`clawfarm_runtime::Runtime::ensure`].
pub(crate) async fn ensure(
    inner: &Arc<Inner>,
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<Place> {
    placement.resources.check()?;
    let vm = placement.vm.as_ref().ok_or_else(|| {
        Error::invalid("vm.image", "a virtual machine needs an image")
            .fix("name one: clawfarm image ls shows which there are")
    })?;
    vm.check()?;
    inner.host_url()?;
    let known = MachineRecord::read(&inner.dir(&placement.id)).ok().flatten();
    if known.is_none_or(|record| record.disk.is_none()) {
        // Before anything is made, and without its lock: a download takes long, and the instance
        // can be removed meanwhile.
        here(inner, vm, progress).await?;
    }
    let installed = claw::install(inner, &placement.software, progress).await?;
    let _verb = inner.lock(&placement.id).await;
    let (this, it) = (Arc::clone(inner), placement.clone());
    let record = blocking(move || prepare(&this, &it, installed)).await?;
    let record = disk(inner, record, progress).await?;
    place(inner, &record)
}

/// Fetches an image that is not here, where somebody offers it.
async fn here(inner: &Inner, vm: &VmSpec, progress: &dyn Progress) -> Result<()> {
    match inner.images.fetch(&vm.image, progress).await {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.code(), Code::NotFound | Code::Unsupported) => {
            // "No such image" must not be mistaken for "no such instance".
            let refused = Error::invalid("vm.image", error.message().to_owned());
            Err(match error.fix_text() {
                Some(fix) => refused.fix(fix.to_owned()),
                None => refused,
            })
        }
        Err(error) => Err(error.field("vm.image")),
    }
}

fn prepare(inner: &Inner, placement: &Placement, installed: Option<PathBuf>) -> Result<MachineRecord> {
    let dir = inner.dir(&placement.id);
    dataset::finish_removal(inner, &placement.id)?;
    let vm = placement.vm.as_ref().ok_or_else(|| Error::new(Code::Internal, "no machine is described"))?;
    shares::check_workspace(&inner.paths.home, vm)?;
    if claw::is_claw(&placement.software) {
        check::check_volumes(vm, &claw::home_of(&placement.software.claw_type))?;
    }
    let failed = |e| io_error(format!("make '{}'", dir.display()), e);
    let folder = Folder::open_or_make(&dir).map_err(failed)?;
    // The mark of a virtual machine comes first, so that no other runtime takes the folder for its
    // own. It gets its owner with the others.
    folder.make_folder(Path::new(VM), None).map_err(failed)?;
    clawfarm_failpoint::point_blocking!(FolderMade);
    let record = write_record(inner, placement, vm, installed)?;
    // A machine that runs has all this, and a folder in use is not to be touched.
    if lock::is_held(&dir)? {
        return Ok(record);
    }
    make_folders(inner, &record)?;
    dataset::undo_partial(inner, &record)?;
    dataset::move_in(inner, &record)?;
    make_volumes(inner, &record)?;
    seed::make(inner, &record, owner(&record))?;
    links(&dir)?;
    clawfarm_failpoint::point_blocking!(FilesWritten);
    Ok(record)
}

fn write_record(
    inner: &Inner,
    placement: &Placement,
    vm: &VmSpec,
    installed: Option<PathBuf>,
) -> Result<MachineRecord> {
    let dir = inner.dir(&placement.id);
    let _choosing = guard(&inner.choosing);
    let old = MachineRecord::read(&dir)?;
    if let Some(old) = &old
        && old.vm != *vm
    {
        return Err(Error::new(Code::Conflict, "a virtual machine can't become another one")
            .field("vm")
            .fix("make a new instance, with the other's dataset if its volumes are wanted"));
    }
    // Not of one that exists: what it was made with is no news.
    if old.as_ref().is_none_or(|old| old.disk.is_none()) {
        ports::check_new(inner, Some(&placement.id), vm, Some(placement.port))?;
    }
    let fresh = match old.clone() {
        Some(old) => MachineRecord {
            software: placement.software.clone(),
            installed,
            resources: placement.resources,
            port: placement.port,
            record: placement.record.clone(),
            ..old
        },
        None => MachineRecord {
            version: 1,
            id: placement.id.clone(),
            tenant: placement.tenant.clone(),
            software: placement.software.clone(),
            installed,
            vm: vm.clone(),
            resources: placement.resources,
            port: placement.port,
            ssh_port: ports::pick_ssh(inner, &placement.id, &ports::chosen(vm, placement.port))?,
            uid: match inner.config.own_users {
                true => Some(uid::choose(
                    &inner.paths.home,
                    &placement.id,
                    &record::uids(&inner.paths, &placement.id)?,
                )?),
                false => None,
            },
            disk: None,
            run: 0,
            started: None,
            frozen: false,
            booted: None,
            base: None,
            base_lost: None,
            memory_lost: None,
            launched: None,
            created_at: Timestamp::now(),
            dataset: placement.dataset.clone(),
            record: placement.record.clone(),
        },
    };
    if old.as_ref() != Some(&fresh) {
        fresh.write(&dir)?;
    }
    Ok(fresh)
}

/// Keeps what the store knows now beside an instance that has a folder.
pub(crate) fn keep_record(inner: &Inner, id: &ClawId, new: serde_json::Value) -> Result<()> {
    if MachineRecord::read(&inner.dir(id))?.is_none() {
        return Ok(());
    }
    inner.change(id, |record| record.record = new).map(drop)
}

/// The owner of what is QEMU's, when it has a user of its own.
pub(crate) fn owner(record: &MachineRecord) -> Option<Owner> {
    record.uid.map(Owner::alone)
}

/// Makes the folders of a machine; those that are there get their owners again.
pub(crate) fn make_folders(inner: &Inner, record: &MachineRecord) -> Result<()> {
    let failed = |e| io_error(format!("make the folders of '{}'", record.id), e);
    let folder = Folder::open(&inner.dir(&record.id)).map_err(failed)?;
    let own = owner(record);
    for name in [VM, VOLUMES] {
        let made = folder.make_folder(Path::new(name), own).map_err(failed)?;
        if let Some(own) = own {
            made.give(own).map_err(failed)?;
        }
    }
    folder.make_folder(Path::new(LOG_DIR), None).map_err(failed)?;
    make_state(&folder, record)?;
    let sockets = folder.make_folder(Path::new(SHARED), None).map_err(failed)?;
    // QEMU's user passes through them to the sockets.
    let passed = |folder: &Folder| if own.is_some() { folder.set_mode(0o711) } else { Ok(()) };
    passed(&sockets).map_err(failed)?;
    for (name, owner) in shares::servers(&inner.dir(&record.id), record)? {
        let made = sockets.make_folder(&name, owner).map_err(failed)?;
        if let Some(owner) = owner {
            made.give(owner).map_err(failed)?;
        }
        passed(&made).map_err(failed)?;
    }
    Ok(())
}

/// Makes a claw's home; a bare machine's is on its disk.
fn make_state(claw: &Folder, record: &MachineRecord) -> Result<()> {
    let failed = |e| io_error(format!("make the home of '{}'", record.id), e);
    if record.installed.is_none() {
        return claw.make_folder(Path::new(STATE), None).map(drop).map_err(failed);
    }
    let own = owner(record);
    // Its root can lock its own folders, against a server that is not root too.
    claw.unlock(STATE.as_ref()).map_err(failed)?;
    let state = claw.make_folder(Path::new(STATE), own).map_err(failed)?;
    // What it has put in this place is its own business; nothing of ours relies on it.
    if state.kind(WORKSPACE.as_ref()).map_err(failed)?.is_none() {
        state.make_folder(Path::new(WORKSPACE), own).map_err(failed)?;
    }
    Ok(())
}

fn make_volumes(inner: &Inner, record: &MachineRecord) -> Result<()> {
    let failed = |e| io_error(format!("make the volumes of '{}'", record.id), e);
    let volumes =
        Folder::open(&inner.dir(&record.id)).and_then(|f| f.folder(Path::new(VOLUMES))).map_err(failed)?;
    for volume in &record.vm.volumes {
        volumes.make_folder(Path::new(volume.name.as_str()), owner(record)).map_err(failed)?;
    }
    Ok(())
}

/// Both logs under the names that people look for.
fn links(dir: &Path) -> Result<()> {
    for name in ["serial.log", "qemu.log"] {
        match std::os::unix::fs::symlink("logs/output.log", dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error(format!("make '{name}'"), e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the disk, once.
async fn disk(inner: &Arc<Inner>, record: MachineRecord, progress: &dyn Progress) -> Result<MachineRecord> {
    if record.disk.is_some() {
        return Ok(record);
    }
    let path = inner.dir(&record.id).join(DISK);
    match std::fs::remove_file(&path) {
        // Of an attempt that ended before it was written down how it was made: it never ran.
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(io_error(format!("remove '{}'", path.display()), e));
        }
        _ => {}
    }
    progress.step("disk", &format!("making its disk of {}", record.vm.image), None, "");
    if record.vm.from_snapshot && record.run == 0 {
        return base::first_disk(inner, record).await;
    }
    disk_of_image(inner, record, progress).await
}

/// Makes the disk of the image itself.
pub(crate) async fn disk_of_image(
    inner: &Arc<Inner>,
    record: MachineRecord,
    progress: &dyn Progress,
) -> Result<MachineRecord> {
    let path = inner.dir(&record.id).join(DISK);
    let wanted = Disk {
        path: path.clone(),
        size_bytes: Some(size(inner, &record.vm).await?),
        owner: record.id.to_string(),
        how: None,
    };
    let made = inner.images.make_disk(&record.vm.image, &wanted, progress).await?;
    let (this, own) = (Arc::clone(inner), owner(&record));
    blocking(move || {
        give_disk(&this, &path, &record.vm, own)?;
        this.change(&record.id, |record| {
            record.disk = Some(DiskRecord { how: made.how, format: made.format });
        })
    })
    .await
}

/// Gives a disk to QEMU's user, who reads what an overlay leans on, too; no one else gets into the
/// folder that the image is in.
pub(crate) fn give_disk(inner: &Inner, path: &Path, vm: &VmSpec, own: Option<Owner>) -> Result<()> {
    let Some(own) = own else { return Ok(()) };
    let failed = |e| io_error(format!("give '{}' to its machine", path.display()), e);
    std::os::unix::fs::chown(path, Some(own.uid), Some(own.gid)).map_err(failed)?;
    let image = inner.images.path_of(&vm.image);
    if std::fs::metadata(&image).map_err(failed)?.mode() & 0o044 != 0o044 {
        std::fs::set_permissions(&image, std::fs::Permissions::from_mode(0o444)).map_err(failed)?;
    }
    Ok(())
}

/// The least size of a disk whose size nobody said: an image's own is as large as what is in it.
const DISK_MIN: u64 = 10 << 30;

/// How large its disk is: a file with holes, so what is not written to takes no room.
pub(crate) async fn size(inner: &Inner, vm: &VmSpec) -> Result<u64> {
    if let Some(gib) = vm.disk_gib {
        return Ok(u64::from(gib) << 30);
    }
    let own = inner.images.get(&vm.image).await?.map_or(0, |record| record.disk_bytes);
    Ok(own.max(DISK_MIN))
}

fn place(inner: &Inner, record: &MachineRecord) -> Result<Place> {
    if record.installed.is_some() {
        return claw::place(inner, record);
    }
    Ok(Place {
        install_dir: "/usr/local".into(),
        layout: clawfarm_model::launch::Layout::Npm,
        state_dir: "/root".into(),
        workspace_dir: if record.vm.workspace.is_some() { VmSpec::WORKSPACE.into() } else { "/root".into() },
        log_dir: "/var/log".into(),
        tmp_dir: "/tmp".into(),
        port: record.port,
        listen_on_all: true,
        server_addresses: server_addresses(),
        host_url: inner.host_url()?,
        memory_enforced: true,
    })
}

/// [`clawfarm_runtime::Runtime::undo`]: of one that never ran nothing is kept but its record.
pub(crate) async fn undo(inner: &Arc<Inner>, id: &ClawId) -> Result<()> {
    let Some(record) = MachineRecord::read(&inner.dir(id))? else { return Ok(()) };
    if record.run > 0 || record.disk.is_none() {
        return Ok(());
    }
    remove_disk(inner, &record).await?;
    let (this, id) = (Arc::clone(inner), id.clone());
    blocking(move || this.change(&id, |record| record.disk = None).map(drop)).await
}

/// Removes the disk, and lets go of what it leaned on.
pub(crate) async fn remove_disk(inner: &Inner, record: &MachineRecord) -> Result<()> {
    let path = inner.dir(&record.id).join(DISK);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(io_error(format!("remove '{}'", path.display()), e));
        }
        _ => {}
    }
    inner.images.unpin(&record.vm.image, record.id.as_str()).await
}
