//! The folder of all images: what is in it, and who may change what.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clawfarm_files::{blocking, io_error};
use clawfarm_model::vm_image::VmImageReference;
use clawfarm_model::{Code, Error, Result};
use clawfarm_runtime::Progress;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use crate::config::ImagesConfig;
use crate::fetch::Part;
use crate::lock::{For, Lock};
use crate::record::{Origin, Record};
use crate::supported::{find, supported};
use crate::warm::{Base, MAKING};

/// The image, in its folder.
pub(crate) const IMAGE: &str = "image.img";
/// What is known of it, in its folder; written last.
pub(crate) const RECORD: &str = "image.json";
/// What is known of a download that is on its way, beside it.
pub(crate) const PART: &str = "part.json";
/// Who has overlays of it, a file each, in its folder.
const PINS: &str = "pins";
const WORK: &str = ".work";
pub(crate) const GONE: &str = ".gone";
const LOCKS: &str = ".locks";

/// The images of this machine: cheap to clone, and any number of processes may use one folder.
#[derive(Clone, Debug)]
pub struct Images {
    pub(crate) config: Arc<ImagesConfig>,
}

/// An image that is here, or could be fetched.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What it is called.
    pub reference: VmImageReference,
    /// Whether it can be fetched; else it was imported.
    pub supported: bool,
    /// What it is, when it is here.
    pub record: Option<Record>,
    /// How much of it has come, in bytes, when it is on its way or was cut off.
    pub partial_bytes: Option<u64>,
    /// Whose disks are overlays of it, so that it can't be removed.
    pub pinned_by: Vec<String>,
    /// Its base snapshots, the newest first.
    pub bases: Vec<Base>,
}

/// A disk that is an overlay of an image, as the image's pin tells it.
#[derive(Debug, Serialize, Deserialize)]
struct Pin {
    /// Where the disk was made.
    disk: PathBuf,
    /// The base snapshot that it leans on, when it does on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<String>,
}

/// What is to be made was there, or is ours to make now.
pub(crate) enum Begun {
    /// Somebody has made it.
    There(Record),
    /// Nobody else makes it while this is held.
    Ours(Making),
}

/// An image that is being made, in a folder of its own.
pub(crate) struct Making {
    lock: Arc<Lock>,
    folder: PathBuf,
}

impl Making {
    /// Where it is made; what an attempt before left is still in it.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What was made whole by an attempt that was cut off just before it moved it into place.
    fn finished(&self, reference: &VmImageReference) -> Option<Record> {
        let record: Record = serde_json::from_slice(&std::fs::read(self.folder.join(RECORD)).ok()?).ok()?;
        let size = self.folder.join(IMAGE).metadata().ok()?.len();
        (record.reference == *reference && record.size_bytes == size).then_some(record)
    }

    /// Leaves nothing of what was not made to its end.
    fn whole(&self, made: Result<Record>) -> Result<Record> {
        if made.is_err()
            && let Err(error) = remove_tree(&self.folder)
        {
            tracing::warn!(%error, "what is left of an image that was not made takes up space");
        }
        made
    }

    /// What is held while it is made; also by what goes on when nobody waits any more.
    pub(crate) fn lock(&self) -> &Arc<Lock> {
        &self.lock
    }
}

impl Images {
    /// The images of a folder, which is made when it is missing.
    ///
    /// # Errors
    /// `InvalidInput` for a site that can't be one; what the disk says.
    pub fn open(config: ImagesConfig) -> Result<Self> {
        config.check()?;
        let folder = std::path::absolute(&config.folder)
            .map_err(|error| io_error(format!("find '{}'", config.folder.display()), error))?;
        for one in
            [folder.clone(), folder.join(WORK), folder.join(GONE), folder.join(LOCKS), folder.join(MAKING)]
        {
            make_private(&one)?;
        }
        // What a removal that was cut off left; whoever else takes it away meanwhile is welcome.
        for entry in std::fs::read_dir(folder.join(GONE)).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
        Ok(Self { config: Arc::new(ImagesConfig { folder, ..config }) })
    }

    /// Where an image's file is, once it is here.
    #[must_use]
    pub fn path_of(&self, reference: &VmImageReference) -> PathBuf {
        self.folder_of(reference).join(IMAGE)
    }

    pub(crate) fn folder_of(&self, reference: &VmImageReference) -> PathBuf {
        self.config.folder.join(reference.as_str())
    }

    fn work_of(&self, reference: &VmImageReference) -> PathBuf {
        self.config.folder.join(WORK).join(reference.as_str())
    }

    pub(crate) fn lock_of(&self, reference: &VmImageReference) -> PathBuf {
        self.lock_folder().join(reference.as_str())
    }

    pub(crate) fn lock_folder(&self) -> PathBuf {
        self.config.folder.join(LOCKS)
    }

    /// What an image is; `None` when it is not here.
    ///
    /// # Errors
    /// `Internal` when it is damaged.
    pub async fn get(&self, reference: &VmImageReference) -> Result<Option<Record>> {
        let (this, reference) = (self.clone(), reference.clone());
        blocking(move || this.read(&reference)).await
    }

    pub(crate) fn read(&self, reference: &VmImageReference) -> Result<Option<Record>> {
        let folder = self.folder_of(reference);
        let damaged = |why: &str| {
            Error::new(Code::Internal, format!("the image '{reference}' is damaged: {why}"))
                .field("image")
                .fix(format!("remove it (clawfarm image rm {reference}), and fetch or import it again"))
        };
        let text = match std::fs::read(folder.join(RECORD)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return if folder.exists() { Err(damaged("its image.json is missing")) } else { Ok(None) };
            }
            Err(error) => return Err(io_error(format!("read what '{reference}' is"), error)),
        };
        let record: Record =
            serde_json::from_slice(&text).map_err(|_| damaged("its image.json can't be read"))?;
        let size = std::fs::symlink_metadata(folder.join(IMAGE)).ok().filter(|it| it.is_file());
        if record.reference != *reference {
            return Err(damaged(&format!("its image.json is of '{}'", record.reference)));
        }
        match size.map(|it| it.len()) {
            None => Err(damaged("its file is missing")),
            Some(size) if size != record.size_bytes => {
                Err(damaged(&format!("its file has {size} bytes and should have {}", record.size_bytes)))
            }
            Some(_) => Ok(Some(record)),
        }
    }

    /// Every image that is here or can be fetched, those that can first.
    ///
    /// # Errors
    /// What the disk says. A damaged image is told as one that is not here.
    pub async fn list(&self) -> Result<Vec<Listed>> {
        let this = self.clone();
        blocking(move || {
            let mut all = BTreeMap::new();
            for folder in [this.config.folder.clone(), this.config.folder.join(WORK)] {
                let told = |error| io_error(format!("list '{}'", folder.display()), error);
                for entry in std::fs::read_dir(&folder).map_err(told)? {
                    let name = entry.map_err(told)?.file_name();
                    // Folders of ours begin with a dot, which no reference does.
                    if let Some(reference) = name.to_str().and_then(|it| VmImageReference::new(it).ok()) {
                        let one = this.one(reference.clone());
                        if one.record.is_some() || one.partial_bytes.is_some() {
                            all.insert(reference, one);
                        }
                    }
                }
            }
            let mut listed = Vec::new();
            for one in supported() {
                let reference = VmImageReference::new(one.reference)?;
                listed.push(all.remove(&reference).unwrap_or_else(|| this.one(reference)));
            }
            listed.extend(all.into_values());
            Ok(listed)
        })
        .await
    }

    pub(crate) fn one(&self, reference: VmImageReference) -> Listed {
        let work = self.work_of(&reference);
        Listed {
            supported: find(&reference).is_ok(),
            record: self.read(&reference).unwrap_or_else(|error| {
                tracing::warn!(%reference, %error, "an image can't be used");
                None
            }),
            partial_bytes: Part::read(&work).and_then(|_| Some(work.join(IMAGE).metadata().ok()?.len())),
            pinned_by: self.pins(&reference).unwrap_or_default(),
            bases: self.bases_now(&reference).unwrap_or_else(|error| {
                tracing::warn!(%reference, %error, "an image's base snapshots can't be told");
                Vec::new()
            }),
            reference,
        }
    }

    /// Fetches an image from its maker's site; one that is here is not asked for again. When
    /// another process fetches it, that one is waited for, and `progress` hears how far it is.
    ///
    /// Dropped before its end, it stops; the next call goes on where it ended.
    ///
    /// # Errors
    /// `NotFound` for what is neither here nor can be fetched, `Unavailable` and `Timeout` when
    /// the site does not answer, `Forbidden` for a signature that is not its maker's,
    /// `Insufficient` when there is no room.
    pub async fn fetch(&self, reference: &VmImageReference, progress: &dyn Progress) -> Result<Record> {
        if let Some(record) = self.get(reference).await? {
            return Ok(record);
        }
        let one = find(reference)?;
        match self.begin(reference, progress).await? {
            Begun::There(record) => Ok(record),
            Begun::Ours(making) => {
                let made = crate::fetch::fetch(&self.config, &one, reference, &making, progress).await;
                // What came is kept for the next attempt, where something did.
                let _ = std::fs::remove_dir(making.folder());
                self.publish(made?, making).await
            }
        }
    }

    /// Takes in a file of this machine, as `reference`, which may be one that can be fetched.
    /// The file is copied.
    ///
    /// # Errors
    /// `InvalidInput` on `file` for what is no image of a disk or names other files;
    /// `Conflict` when there is an image of that name; `Insufficient`.
    pub async fn import(
        &self,
        file: &Path,
        reference: &VmImageReference,
        progress: &dyn Progress,
    ) -> Result<Record> {
        let taken = || {
            Error::new(Code::Conflict, format!("there is an image named '{reference}' already"))
                .field("name")
                .fix(format!("choose another name, or remove it: clawfarm image rm {reference}"))
        };
        if self.get(reference).await?.is_some() {
            return Err(taken());
        }
        match self.begin(reference, progress).await? {
            Begun::There(_) => Err(taken()),
            Begun::Ours(making) => {
                let made = crate::import::import(&self.config, file, reference, &making, progress).await;
                self.publish(making.whole(made)?, making).await
            }
        }
    }

    /// Makes an image from its distribution's packages (`debian:12`); one that was made so
    /// before is not made again.
    ///
    /// # Errors
    /// `Unsupported` for one that can't be built here, and when programs are missing;
    /// `Conflict` when there is an image of that name that was not built, or by another recipe.
    pub async fn build(&self, reference: &VmImageReference, progress: &dyn Progress) -> Result<Record> {
        crate::build::check(reference)?;
        let recipe = crate::build::recipe_digest();
        let there = |record: Record| match &record.origin {
            Origin::Built { recipe: its } if *its == recipe => Ok(record),
            _ => Err(Error::new(
                Code::Conflict,
                format!("there is an image named '{reference}' already, which is not what would be built"),
            )
            .field("image")
            .fix(format!("use it as it is, or remove it first: clawfarm image rm {reference}"))),
        };
        if let Some(record) = self.get(reference).await? {
            return there(record);
        }
        match self.begin(reference, progress).await? {
            Begun::There(record) => there(record),
            Begun::Ours(making) => {
                let made = crate::build::build(&self.config, reference, &making, progress).await;
                self.publish(making.whole(made)?, making).await
            }
        }
    }

    /// Removes an image, and what came of one that was cut off.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while it is being made or read, and while disks are overlays of it.
    pub async fn remove(&self, reference: &VmImageReference) -> Result<()> {
        let (this, reference) = (self.clone(), reference.clone());
        blocking(move || {
            let Some(_lock) = Lock::try_take(&this.lock_of(&reference), For::Change)? else {
                return Err(Error::new(
                    Code::Conflict,
                    format!("the image '{reference}' is being made or used"),
                )
                .field("image")
                .fix("try again when that has ended"));
            };
            let pins = this.pins(&reference)?;
            if !pins.is_empty() {
                return Err(Error::new(
                    Code::Conflict,
                    format!("the image '{reference}' is what the disks of {} are made on", pins.join(", ")),
                )
                .field("image")
                .fix("remove those instances first"));
            }
            let (folder, work) = (this.folder_of(&reference), this.work_of(&reference));
            if !folder.exists() && !work.exists() {
                return Err(Error::not_found("image", &reference)
                    .field("image")
                    .fix("list them with 'clawfarm image ls'"));
            }
            let gone = this.config.folder.join(GONE).join(reference.as_str());
            remove_tree(&work)?;
            remove_tree(&gone)?;
            // Gone at once for everybody, then taken apart.
            match renameat_with(CWD, &folder, CWD, &gone, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(rustix::io::Errno::NOENT) => return Ok(()),
                Err(error) => return Err(io_error(format!("remove the image '{reference}'"), error.into())),
            }
            sync(&this.config.folder)?;
            remove_tree(&gone)
        })
        .await
    }

    /// Waits for whoever makes the image, then looks whether it is there.
    pub(crate) async fn begin(&self, reference: &VmImageReference, progress: &dyn Progress) -> Result<Begun> {
        let work = self.work_of(reference);
        let mut told = false;
        let lock = Lock::take(&self.lock_of(reference), For::Change, || {
            let total = Part::read(&work).and_then(|part| part.size);
            if !told {
                told = true;
                let message = format!("waiting for another one who makes or reads {reference}");
                progress.step("wait", &message, total, "bytes");
            }
            if let Ok(file) = work.join(IMAGE).metadata() {
                progress.advance(file.len());
            }
        })
        .await?;
        let (this, reference) = (self.clone(), reference.clone());
        blocking(move || {
            if let Some(record) = this.read(&reference)? {
                return Ok(Begun::There(record));
            }
            let folder = this.work_of(&reference);
            make_private(&folder)?;
            let making = Making { lock: Arc::new(lock), folder };
            if let Some(record) = making.finished(&reference) {
                return Ok(Begun::There(this.place(record, &making)?));
            }
            Ok(Begun::Ours(making))
        })
        .await
    }

    /// Moves what was made into place, whole.
    async fn publish(&self, record: Record, making: Making) -> Result<Record> {
        let this = self.clone();
        blocking(move || {
            let told = |error| io_error(format!("put the image '{}' in its place", record.reference), error);
            let text = serde_json::to_vec_pretty(&record)
                .map_err(|error| Error::internal("an image can't be described", error))?;
            // Disks are made of it: nobody is to write to it by mistake.
            let image = making.folder.join(IMAGE);
            std::fs::set_permissions(&image, Permissions::from_mode(0o400)).map_err(told)?;
            write_synced(&making.folder.join(RECORD), &text)?;
            this.place(record, &making)
        })
        .await
    }

    /// Moves what has its record into place.
    fn place(&self, record: Record, making: &Making) -> Result<Record> {
        make_private(&making.folder.join(PINS))?;
        sync(&making.folder)?;
        let folder = self.folder_of(&record.reference);
        renameat_with(CWD, &making.folder, CWD, &folder, RenameFlags::NOREPLACE).map_err(|error| {
            io_error(format!("put the image '{}' in its place", record.reference), error.into())
        })?;
        sync(&self.config.folder)?;
        Ok(record)
    }

    /// Writes down that the disk at `disk` is an overlay of the image, which is not removed
    /// until [`Self::unpin`]. Whoever calls holds the image's lock.
    pub(crate) fn pin(&self, reference: &VmImageReference, name: &str, disk: &Path) -> Result<()> {
        self.pin_to(reference, name, disk, None)
    }

    /// The same for a disk that leans on a base snapshot of the image.
    pub(crate) fn pin_to(
        &self,
        reference: &VmImageReference,
        name: &str,
        disk: &Path,
        base: Option<&str>,
    ) -> Result<()> {
        let text = serde_json::to_vec(&Pin { disk: disk.to_owned(), base: base.map(str::to_owned) })
            .map_err(|error| Error::internal("a pin can't be described", error))?;
        let pins = self.folder_of(reference).join(PINS);
        write_synced(&pins.join(pin_name(name)?), &text)?;
        sync(&pins)
    }

    /// The disk that `name` had of the image is gone. Gone already is a success.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn unpin(&self, reference: &VmImageReference, name: &str) -> Result<()> {
        let path = self.folder_of(reference).join(PINS).join(pin_name(name)?);
        blocking(move || match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error(format!("remove '{}'", path.display()), error))
            }
            _ => Ok(()),
        })
        .await
    }

    /// The base snapshots that disks lean on, each with whose disk it is. A pin that can't be read
    /// might be of any of them, so it is an error.
    pub(crate) fn pinned_bases(&self, reference: &VmImageReference) -> Result<Vec<(String, String)>> {
        let pins = self.folder_of(reference).join(PINS);
        let mut all = Vec::new();
        for owner in self.pins(reference)? {
            let text = match std::fs::read(pins.join(&owner)) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io_error(format!("read '{}'", pins.join(&owner).display()), error)),
            };
            let pin: Pin = serde_json::from_slice(&text)
                .map_err(|error| Error::internal(format!("the pin of '{owner}' can't be read"), error))?;
            all.extend(pin.base.map(|base| (base, owner)));
        }
        Ok(all)
    }

    /// Who has overlays of the image, sorted.
    ///
    /// # Errors
    /// What the disk says: who can't be seen may be there.
    pub fn pins(&self, reference: &VmImageReference) -> Result<Vec<String>> {
        let pins = self.folder_of(reference).join(PINS);
        let told = |error| io_error(format!("list '{}'", pins.display()), error);
        let entries = match std::fs::read_dir(&pins) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(told(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(told)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

/// A pin's name, which is a file's: an instance's or a dataset's id.
fn pin_name(name: &str) -> Result<&str> {
    let good = !name.is_empty()
        && name.len() <= 100
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if good { Ok(name) } else { Err(Error::invalid("owner", "a disk's owner can't be called so")) }
}

/// Makes a folder that is this user's alone, with those on the way to it.
pub(crate) fn make_private(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| io_error(format!("make '{}'", path.display()), error))
}

/// Writes a small file that is there, whole, also after a power cut.
pub(crate) fn write_synced(path: &Path, contents: &[u8]) -> Result<()> {
    let told = |error| io_error(format!("write '{}'", path.display()), error);
    let mut file = File::create(path).map_err(told)?;
    file.write_all(contents).map_err(told)?;
    file.sync_all().map_err(told)
}

/// Makes durable which names a folder has.
pub(crate) fn sync(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| io_error(format!("write '{}'", folder.display()), error))
}

/// Removes a folder with all that is in it; gone already is a success.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error(format!("remove '{}'", path.display()), error))
        }
        _ => Ok(()),
    }
}
