//! An instance's own disk, made of an image.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clawfarm_files::{blocking, io_error, told};
use clawfarm_model::vm_image::VmImageReference;
use clawfarm_model::{Code, Error, Result};
use clawfarm_runtime::{NoProgress, Progress};
use ring::digest::Context;
use rustix::fs::{CWD, RenameFlags, ioctl_ficlone, renameat_with};
use serde::{Deserialize, Serialize};

use crate::fetch::free;
use crate::format::Format;
use crate::lock::{For, Lock};
use crate::record::Record;
use crate::run::{Program, is_absolute};
use crate::store::{Images, sync};

/// How long qemu-img may take: it writes a few KiB.
const LIMIT: Duration = Duration::from_mins(2);
/// In what pieces a file is copied, in bytes.
const PIECE: usize = 1 << 20;
/// What is left free beside a copy, in bytes.
const SPARE: u64 = 64 << 20;

/// A disk that is to be made.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Where; there must be nothing yet. An absolute path.
    pub path: PathBuf,
    /// Its size in bytes, at least the image's; the image's when absent.
    pub size_bytes: Option<u64>,
    /// Whose it is, by an id: what an overlay pins the image by.
    pub owner: String,
    /// How, instead of the first way of [`How`] that there is.
    pub how: Option<How>,
}

/// How a disk is made, the cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// A file that shares the image's blocks until either changes: btrfs, XFS, bcachefs. It
    /// does not need the image any more.
    Reflink,
    /// A qcow2 file with what differs from the image, which stays pinned until
    /// [`Images::unpin`]; only where nobody empties the folder of images behind our back.
    Overlay,
    /// A copy, holes left out.
    Copy,
}

/// A disk that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// How it was made.
    pub how: How,
    /// How its file is laid out: QEMU must be told, and must not guess from what a guest wrote.
    pub format: Format,
    /// Its size as the guest sees it, in bytes.
    pub disk_bytes: u64,
}

impl Images {
    /// Makes a disk of an image that is here. It is whole when it is there at all, and the
    /// image is not removed meanwhile.
    ///
    /// # Errors
    /// `NotFound` when the image is not here; `InvalidInput` on `disk_gib` for less than the
    /// image has; `Conflict` when there is a file in its place; `Insufficient`, `Unsupported`
    /// when qemu-img is needed and missing.
    pub async fn make_disk(
        &self,
        reference: &VmImageReference,
        disk: &Disk,
        progress: &dyn Progress,
    ) -> Result<Made> {
        is_absolute(&disk.path)?;
        let waiting = || progress.step("wait", &format!("waiting for the image {reference}"), None, "");
        let mut told = false;
        let lock = Lock::take(&self.lock_of(reference), For::Reading, || {
            if !std::mem::replace(&mut told, true) {
                waiting();
            }
        })
        .await?;
        let record = self.get(reference).await?.ok_or_else(|| {
            Error::new(Code::NotFound, format!("the image '{reference}' is not here"))
                .field("image")
                .fix(format!("fetch it first: clawfarm image fetch {reference}"))
        })?;
        let size = size(&record, disk.size_bytes, self.config.limits.image_max)?;
        let placed =
            make_whole(&disk.path, async |part| self.make(&record, disk, part, size, progress).await).await;
        drop(lock);
        placed
    }

    async fn make(
        &self,
        record: &Record,
        disk: &Disk,
        part: &Path,
        size: u64,
        progress: &dyn Progress,
    ) -> Result<Made> {
        let image = self.path_of(&record.reference);
        let same = |how| Made { how, format: record.format, disk_bytes: size };
        if matches!(disk.how, None | Some(How::Reflink)) {
            let (from, to) = (image.clone(), part.to_owned());
            match blocking(move || reflink(&from, &to)).await {
                Ok(()) => {
                    grow(part, record, size).await?;
                    return Ok(same(How::Reflink));
                }
                Err(error) if disk.how.is_some() || error.code() != Code::Unsupported => return Err(error),
                Err(_) => {}
            }
        }
        let overlay = match disk.how {
            None => self.config.kept,
            Some(how) => how == How::Overlay,
        };
        if overlay {
            self.pin(&record.reference, &disk.owner, &disk.path)?;
            let made = overlay_of(&image, record.format, part, size).await;
            if made.is_err() {
                self.unpin(&record.reference, &disk.owner).await?;
            }
            made?;
            return Ok(Made { how: How::Overlay, format: Format::Qcow2, disk_bytes: size });
        }
        copy(&image, part, record, progress).await?;
        grow(part, record, size).await?;
        Ok(same(How::Copy))
    }
}

/// Makes a file beside its place, and moves it there when it is whole.
pub(crate) async fn make_whole(path: &Path, make: impl AsyncFnOnce(&Path) -> Result<Made>) -> Result<Made> {
    is_absolute(path)?;
    if path.symlink_metadata().is_ok() {
        return Err(
            Error::new(Code::Conflict, format!("there is a file '{}' already", path.display())).field("disk")
        );
    }
    let part = part_of(path);
    remove(&part)?;
    let made = make(&part).await;
    let placed = made.and_then(|made| {
        File::open(&part)
            .and_then(|file| file.sync_all())
            .map_err(|error| io_error("write a disk", error))?;
        renameat_with(CWD, &part, CWD, path, RenameFlags::NOREPLACE)
            .map_err(|error| io_error(format!("make '{}'", path.display()), error.into()))?;
        sync(path.parent().unwrap_or(Path::new("/")))?;
        Ok(made)
    });
    if placed.is_err() {
        remove(&part)?;
    }
    placed
}

/// The size of a disk: what was asked for, in whole sectors.
fn size(record: &Record, wanted: Option<u64>, max: u64) -> Result<u64> {
    let Some(wanted) = wanted else { return Ok(record.disk_bytes) };
    let gib = |bytes: u64| bytes.div_ceil(1 << 30);
    if wanted < record.disk_bytes {
        return Err(Error::invalid(
            "disk_gib",
            format!(
                "the image '{}' has a disk of {} GiB, which can't be made smaller",
                record.reference,
                gib(record.disk_bytes)
            ),
        )
        .fix(format!("give at least {}", gib(record.disk_bytes))));
    }
    if wanted > max {
        return Err(Error::invalid("disk_gib", format!("a disk has at most {} GiB", gib(max)))
            .fix(format!("give at most {}", gib(max))));
    }
    Ok(wanted.next_multiple_of(512))
}

/// Where a disk is made before it is moved into place. One name a disk, so that what a kill
/// left behind is removed by the next attempt.
fn part_of(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".part");
    path.with_file_name(name)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error(format!("remove '{}'", path.display()), error))
        }
        _ => Ok(()),
    }
}

fn create(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| io_error(format!("make '{}'", path.display()), error))
}

/// `Unsupported` where the file system does not share blocks, or these are two of them.
fn reflink(image: &Path, disk: &Path) -> Result<()> {
    let from = File::open(image).map_err(|error| io_error("open the image", error))?;
    let to = create(disk)?;
    let Err(error) = ioctl_ficlone(&to, &from) else { return Ok(()) };
    remove(disk)?;
    match error {
        rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT | rustix::io::Errno::IO => {
            Err(io_error("make a disk", error.into()))
        }
        _ => {
            Err(Error::new(Code::Unsupported, "this file system shares no blocks between files")
                .source(error))
        }
    }
}

pub(crate) async fn overlay_of(image: &Path, format: Format, disk: &Path, size: u64) -> Result<()> {
    Program::new("qemu-img", "qemu-utils", LIMIT)
        .args(["create", "-q", "-f", "qcow2", "-F", format.as_str(), "-b"])
        .arg(is_absolute(image)?)
        .arg(is_absolute(disk)?)
        .arg(size.to_string())
        .run(None, &NoProgress)
        .await?;
    let disk = disk.to_owned();
    blocking(move || {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&disk, std::fs::Permissions::from_mode(0o600))
            .map_err(|error| io_error("make a disk", error))
    })
    .await
}

/// Grows a disk that is not an overlay; its file system grows in the guest.
async fn grow(disk: &Path, record: &Record, size: u64) -> Result<()> {
    if size == record.disk_bytes {
        return Ok(());
    }
    match record.format {
        Format::Raw => {
            let disk = disk.to_owned();
            blocking(move || {
                File::options()
                    .write(true)
                    .open(&disk)
                    .and_then(|file| file.set_len(size))
                    .map_err(|error| io_error("make a disk larger", error))
            })
            .await
        }
        Format::Qcow2 => {
            Program::new("qemu-img", "qemu-utils", LIMIT)
                .args(["resize", "-q", "-f", "qcow2"])
                .arg(is_absolute(disk)?)
                .arg(size.to_string())
                .run(None, &NoProgress)
                .await
        }
    }
}

async fn copy(image: &Path, disk: &Path, record: &Record, progress: &dyn Progress) -> Result<()> {
    let (from, to) = (image.to_owned(), disk.to_owned());
    let needed = {
        use std::os::unix::fs::MetadataExt;
        let metadata = image.metadata().map_err(|error| io_error("look at the image", error))?;
        metadata.blocks() * 512 + SPARE
    };
    let free = free(disk.parent().unwrap_or(Path::new("/")))?;
    if needed > free {
        return Err(Error::new(
            Code::Insufficient,
            format!(
                "a disk of '{}' takes {} MiB, and {} MiB are free for it",
                record.reference,
                needed >> 20,
                free >> 20
            ),
        )
        .fix("free some disk space (`df -h` shows what is full), then try again"));
    }
    progress.step("disk", &format!("copying {}", record.reference), Some(record.size_bytes), "bytes");
    told(
        |far| progress.advance(far),
        move |tell| {
            let source = File::open(&from).map_err(|error| io_error("open the image", error))?;
            copy_sparse(&source, &to, None, tell)
        },
    )
    .await
}

/// Copies a file, leaving out what has only zeros; `digest` takes in the whole of it.
pub(crate) fn copy_sparse(
    mut source: &File,
    to: &Path,
    mut digest: Option<&mut Context>,
    tell: &mut dyn FnMut(u64) -> bool,
) -> Result<()> {
    let told = |error: io::Error| io_error("copy an image", error);
    let size = source.metadata().map_err(told)?.len();
    let target = create(to)?;
    target.set_len(size).map_err(told)?;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    // Whoever needs the digest must read the holes, too.
    let skip = digest.is_none();
    while at < size {
        if skip {
            at = next_data(&mut source, at, size).map_err(told)?;
            if at >= size {
                break;
            }
        }
        let count = usize::try_from(size - at).unwrap_or(PIECE).min(PIECE);
        let piece = &mut piece[..count];
        source.read_exact_at(piece, at).map_err(told)?;
        if let Some(digest) = &mut digest {
            digest.update(piece);
        }
        if piece.iter().any(|byte| *byte != 0) {
            target.write_all_at(piece, at).map_err(told)?;
        }
        at += count as u64;
        if !tell(at) {
            return Err(Error::new(Code::Unavailable, "the copy was broken off: nobody waits for it"));
        }
    }
    target.sync_all().map_err(told)
}

/// Where the next bytes are that are no hole.
fn next_data(file: &mut &File, at: u64, size: u64) -> io::Result<u64> {
    match rustix::fs::seek(&**file, rustix::fs::SeekFrom::Data(at)) {
        Ok(next) => Ok(next),
        // Nothing more until the end.
        Err(rustix::io::Errno::NXIO) => Ok(size),
        // A file system that does not tell has no holes.
        Err(_) => file.seek(SeekFrom::Start(at)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn holes_stay_holes_and_every_byte_arrives() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let file = File::create(&from).unwrap();
        file.write_all_at(b"first", 3).unwrap();
        file.write_all_at(b"last", (64 << 20) + 5).unwrap();
        file.set_len(80 << 20).unwrap();
        for digest in [false, true] {
            let mut sha256 = Context::new(&ring::digest::SHA256);
            let source = File::open(&from).unwrap();
            copy_sparse(&source, &to, digest.then_some(&mut sha256), &mut |_| true).unwrap();
            assert_eq!(std::fs::read(&from).unwrap(), std::fs::read(&to).unwrap());
            assert!(to.metadata().unwrap().blocks() * 512 < 8 << 20, "holes were written");
            if digest {
                let whole = ring::digest::digest(&ring::digest::SHA256, &std::fs::read(&from).unwrap());
                assert_eq!(sha256.finish().as_ref(), whole.as_ref());
            }
            std::fs::remove_file(&to).unwrap();
        }
        let source = File::open(&from).unwrap();
        let dropped = copy_sparse(&source, &to, None, &mut |_| false);
        assert_eq!(dropped.unwrap_err().code(), Code::Unavailable);
    }

    #[test]
    fn a_disk_grows_and_never_shrinks() {
        let record = Record {
            reference: VmImageReference::new("a:1").unwrap(),
            format: Format::Raw,
            size_bytes: 3 << 30,
            disk_bytes: 3 << 30,
            digest: String::new(),
            origin: crate::record::Origin::Imported { file: "x".into() },
            made_at: clawfarm_model::Timestamp::from_millis(0),
        };
        let max = 1 << 40;
        assert_eq!(size(&record, None, max).unwrap(), 3 << 30);
        assert_eq!(size(&record, Some((3 << 30) + 1), max).unwrap(), (3 << 30) + 512);
        for wrong in [(3 << 30) - 1, max + 1] {
            let error = size(&record, Some(wrong), max).unwrap_err();
            assert_eq!(error.field_name(), Some("disk_gib"));
            assert!(error.fix_text().is_some());
        }
    }
}
