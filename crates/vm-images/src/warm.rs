//! Base snapshots: machines of an image that are booted, idle, and waiting to be copied.
//!
//! ```text
//! <images>/debian:12/warm/2x1024-<8 hex>/   one that is whole, and never changed
//!   disk.img                                 its disk, an overlay of the image
//!   memory/                                  its memory (`clawfarm_qemu::Snapshot`)
//!   base.json                                what it is; written last
//! <images>/.warm/<8 hex>/                    one that is being made, by image and size
//! ```
//!
//! A base is moved into place whole, under a name of its own, so that one that is made again stands
//! beside the one that disks lean on. A disk's pin names its base; a base that is of no use any
//! more goes when no pin does.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clawfarm_files::{blocking, io_error};
use clawfarm_model::vm_image::VmImageReference;
use clawfarm_model::{Code, Error, Result, Timestamp};
use clawfarm_runtime::Progress;
use ring::digest::{Context, SHA256};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, How, Made, make_whole, overlay_of};
use crate::fetch::hex;
use crate::format::Format;
use crate::lock::{For, Lock};
use crate::store::{GONE, Images, make_private, remove_tree, sync, write_synced};

/// A base's disk, in its folder.
pub const BASE_DISK: &str = "disk.img";
/// The folder with its memory, in its folder.
pub const BASE_MEMORY: &str = "memory";
const RECORD: &str = "base.json";
/// Where an image's bases are, in its folder.
const WARM: &str = "warm";
/// Where bases are made.
pub(crate) const MAKING: &str = ".warm";
/// What is put together in a folder in which a base is made.
const OUT: &str = "out";

/// What a base is, as its `base.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// The form of this file; 1.
    pub version: u32,
    /// The digest of the image that it is of.
    pub digest: String,
    /// Its processors.
    pub cpus: u32,
    /// Its memory, in MiB.
    pub memory_mib: u32,
    /// The size of its disk, in bytes.
    pub disk_bytes: u64,
    /// The digest of the agent in it, shortened.
    pub agent: String,
    /// When it was whole.
    pub made_at: Timestamp,
}

/// A base that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// What tells it from the image's others; a folder's name.
    pub name: String,
    /// What it is.
    pub record: BaseRecord,
    /// Its folder.
    pub folder: PathBuf,
    /// What it takes up on the disk, in bytes.
    pub size_bytes: u64,
    /// Whose disks lean on it.
    pub used_by: Vec<String>,
}

impl Base {
    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.folder.join(BASE_DISK)
    }
}

/// A base that is being made: nobody else makes one of this image and size while this is held, and
/// the image stays.
#[derive(Debug)]
pub struct BaseMaking {
    reference: VmImageReference,
    folder: PathBuf,
    _own: Lock,
    _image: Lock,
}

impl BaseMaking {
    /// Where it is made. What an attempt before left is still in it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes all that is in it.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn clear(&self) -> Result<()> {
        let folder = self.folder.clone();
        blocking(move || {
            remove_tree(&folder)?;
            make_private(&folder)
        })
        .await
    }
}

/// What a process left that was ended while it made a base.
#[derive(Debug)]
pub struct Abandoned {
    /// Where it made it: a shim may run there.
    pub folder: PathBuf,
    _own: Lock,
}

impl Abandoned {
    /// Removes it.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn remove(self) -> Result<()> {
        blocking(move || remove_tree(&self.folder)).await
    }
}

impl Images {
    /// Whether bases can be kept: not where people empty the folder of images.
    #[must_use]
    pub fn keeps_bases(&self) -> bool {
        self.config.kept
    }

    /// The bases of an image, the newest first. What is damaged is none.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn bases(&self, reference: &VmImageReference) -> Result<Vec<Base>> {
        let (this, reference) = (self.clone(), reference.clone());
        blocking(move || this.bases_now(&reference)).await
    }

    pub(crate) fn bases_now(&self, reference: &VmImageReference) -> Result<Vec<Base>> {
        let warm = self.folder_of(reference).join(WARM);
        let told = |error| io_error(format!("list '{}'", warm.display()), error);
        let entries = match std::fs::read_dir(&warm) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(told(error)),
        };
        let pins = self.pinned_bases(reference)?;
        let mut bases = Vec::new();
        for entry in entries {
            let name = entry.map_err(told)?.file_name();
            let Some(name) = name.to_str().map(str::to_owned) else { continue };
            let folder = warm.join(&name);
            let Some(record) = read(&folder) else { continue };
            let leans = |(base, owner): &(String, String)| (*base == name).then(|| owner.clone());
            let used_by = pins.iter().filter_map(leans).collect();
            bases.push(Base { size_bytes: on_disk(&folder), used_by, name, record, folder });
        }
        bases.sort_by(|a, b| b.record.made_at.cmp(&a.record.made_at).then_with(|| a.name.cmp(&b.name)));
        Ok(bases)
    }

    /// One of them by its name; `None` when it is gone.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn base(&self, reference: &VmImageReference, name: &str) -> Result<Option<Base>> {
        Ok(self.bases(reference).await?.into_iter().find(|base| base.name == name))
    }

    /// Where a base's disk is, or would be.
    #[must_use]
    pub fn base_disk_of(&self, reference: &VmImageReference, name: &str) -> PathBuf {
        self.folder_of(reference).join(WARM).join(name).join(BASE_DISK)
    }

    /// Waits for whoever makes one of this image and size, and keeps others from it.
    ///
    /// # Errors
    /// `NotFound` when the image is not here; what the disk says.
    pub async fn begin_base(
        &self,
        reference: &VmImageReference,
        (cpus, memory_mib): (u32, u32),
        progress: &dyn Progress,
    ) -> Result<BaseMaking> {
        let name = work_name(reference, cpus, memory_mib);
        let mut told = false;
        let own = Lock::take(&self.base_lock(&name), For::Change, || {
            if !std::mem::replace(&mut told, true) {
                let message = format!("waiting for another one who makes this base snapshot of {reference}");
                progress.step("wait", &message, None, "");
            }
        })
        .await?;
        let image = Lock::take(&self.lock_of(reference), For::Reading, || ()).await?;
        if self.get(reference).await?.is_none() {
            return Err(Error::new(Code::NotFound, format!("the image '{reference}' is not here"))
                .field("image")
                .fix(format!("fetch it first: clawfarm image fetch {reference}")));
        }
        let folder = self.config.folder.join(MAKING).join(&name);
        make_private(&folder)?;
        Ok(BaseMaking { reference: reference.clone(), folder, _own: own, _image: image })
    }

    /// Makes the disk of one that is being made: an overlay, in its folder.
    ///
    /// # Errors
    /// As for [`Self::make_disk`].
    pub async fn make_disk_of_base(&self, making: &BaseMaking, path: &Path, size_bytes: u64) -> Result<()> {
        let record = self.get(&making.reference).await?;
        let record = record.ok_or_else(|| Error::not_found("image", &making.reference))?;
        overlay_of(&self.path_of(&making.reference), record.format, path, size_bytes).await
    }

    /// Moves one into place, whole: its disk, and the folder with its memory, which are in the
    /// folder that it was made in.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn publish_base(
        &self,
        making: &BaseMaking,
        (disk, memory): (&Path, &Path),
        record: BaseRecord,
    ) -> Result<Base> {
        let (this, reference, folder) = (self.clone(), making.reference.clone(), making.folder.clone());
        let (disk, memory) = (disk.to_owned(), memory.to_owned());
        blocking(move || {
            let told = |error| io_error(format!("put a base snapshot of '{reference}' in its place"), error);
            let out = folder.join(OUT);
            make_private(&out)?;
            std::fs::rename(&disk, out.join(BASE_DISK)).map_err(told)?;
            std::fs::rename(&memory, out.join(BASE_MEMORY)).map_err(told)?;
            // Others' QEMUs read it, each as a user of its own; no one else gets into the folder. Nobody
            // is to write to it: what leans on it would be destroyed.
            let disk = out.join(BASE_DISK);
            std::os::unix::fs::chown(&disk, Some(rustix::process::geteuid().as_raw()), None).map_err(told)?;
            std::fs::set_permissions(&disk, std::fs::Permissions::from_mode(0o444)).map_err(told)?;
            std::fs::File::open(&disk).and_then(|file| file.sync_all()).map_err(told)?;
            let text = serde_json::to_vec_pretty(&record)
                .map_err(|error| Error::internal("a base snapshot can't be described", error))?;
            write_synced(&out.join(RECORD), &text)?;
            sync(&out)?;
            let warm = this.folder_of(&reference).join(WARM);
            make_private(&warm)?;
            let mut random = [0_u8; 4];
            getrandom::fill(&mut random).map_err(|e| Error::internal("no random numbers can be had", e))?;
            let name = format!("{}x{}-{:08x}", record.cpus, record.memory_mib, u32::from_le_bytes(random));
            let place = warm.join(&name);
            renameat_with(CWD, &out, CWD, &place, RenameFlags::NOREPLACE)
                .map_err(|error| told(error.into()))?;
            sync(&warm)?;
            Ok(Base { size_bytes: on_disk(&place), used_by: Vec::new(), name, record, folder: place })
        })
        .await
    }

    /// Makes a disk that leans on a base's, and pins both. It is whole when it is there at all.
    ///
    /// # Errors
    /// `NotFound` when the base is gone; `Conflict` when there is a file in its place; `Insufficient`.
    pub async fn make_disk_on_base(
        &self,
        reference: &VmImageReference,
        name: &str,
        disk: &Disk,
    ) -> Result<Made> {
        let _lock = Lock::take(&self.lock_of(reference), For::Reading, || ()).await?;
        let base = self.base(reference, name).await?.ok_or_else(|| {
            Error::new(Code::NotFound, format!("the base snapshot '{name}' of '{reference}' is gone"))
                .field("vm.from_snapshot")
                .fix(format!("make it again: clawfarm image warm {reference}"))
        })?;
        make_whole(&disk.path, async |part| {
            self.pin_to(reference, &disk.owner, &disk.path, Some(name))?;
            let made = overlay_of(&base.disk(), Format::Qcow2, part, base.record.disk_bytes).await;
            if made.is_err() {
                self.unpin(reference, &disk.owner).await?;
            }
            made?;
            Ok(Made { how: How::Overlay, format: Format::Qcow2, disk_bytes: base.record.disk_bytes })
        })
        .await
    }

    /// Removes the bases of an image that `keep` does not want and that nobody's disk leans on. Where
    /// the image is being read, they stay until the next time.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn sweep_bases(
        &self,
        reference: &VmImageReference,
        keep: impl Fn(&Base) -> bool + Send + 'static,
    ) -> Result<()> {
        let (this, reference) = (self.clone(), reference.clone());
        blocking(move || {
            let Some(_lock) = Lock::try_take(&this.lock_of(&reference), For::Change)? else {
                return Ok(());
            };
            for base in this.bases_now(&reference)? {
                if !keep(&base) && base.used_by.is_empty() {
                    this.remove_base(&base)?;
                }
            }
            Ok(())
        })
        .await
    }

    fn remove_base(&self, base: &Base) -> Result<()> {
        let gone = self.config.folder.join(GONE).join(&base.name);
        remove_tree(&gone)?;
        // Its name goes in one step; its gigabytes may take longer.
        std::fs::rename(&base.folder, &gone)
            .map_err(|error| io_error(format!("remove '{}'", base.folder.display()), error))?;
        remove_tree(&gone)
    }

    /// What was left of bases that nobody makes any more.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn abandoned_bases(&self) -> Result<Vec<Abandoned>> {
        let this = self.clone();
        blocking(move || {
            let folder = this.config.folder.join(MAKING);
            let mut all = Vec::new();
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
                if let Some(own) = Lock::try_take(&this.base_lock(&name), For::Change)? {
                    all.push(Abandoned { folder: folder.join(name), _own: own });
                }
            }
            Ok(all)
        })
        .await
    }

    /// A base's lock. No reference is without a `:`.
    fn base_lock(&self, name: &str) -> PathBuf {
        self.lock_folder().join(format!("warm-{name}"))
    }
}

/// Short, because the names of sockets below it have an end.
fn work_name(reference: &VmImageReference, cpus: u32, memory_mib: u32) -> String {
    let mut sha256 = Context::new(&SHA256);
    sha256.update(format!("{reference} {cpus}x{memory_mib}").as_bytes());
    let mut text = hex(sha256);
    text.truncate(8);
    text
}

fn read(folder: &Path) -> Option<BaseRecord> {
    let record: BaseRecord = serde_json::from_slice(&std::fs::read(folder.join(RECORD)).ok()?).ok()?;
    (record.version == 1 && folder.join(BASE_DISK).is_file() && folder.join(BASE_MEMORY).is_dir())
        .then_some(record)
}

/// What a base takes up, holes left out.
fn on_disk(folder: &Path) -> u64 {
    let sizes = |folder: &Path| -> u64 {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let files = entries.filter_map(|entry| entry.metadata().ok()).filter(|meta| meta.is_file());
        files.map(|meta| meta.blocks() * 512).sum()
    };
    sizes(folder) + sizes(&folder.join(OsStr::new(BASE_MEMORY)))
}
