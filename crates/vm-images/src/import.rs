//! Taking in a file of this machine.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use clawfarm_files::{blocking, io_error, told};
use clawfarm_model::vm_image::VmImageReference;
use clawfarm_model::{Code, Error, Result, Timestamp};
use clawfarm_runtime::Progress;
use ring::digest::{Context, SHA256};

use crate::config::ImagesConfig;
use crate::disk::copy_sparse;
use crate::fetch::{free, hex};
use crate::format::shape_of;
use crate::record::{Origin, Record};
use crate::store::{IMAGE, Making, remove_tree};

/// Copies `file` into a folder that is ours alone, and looks at the copy: what is looked at is
/// what is kept, whatever happens to the file meanwhile.
pub(crate) async fn import(
    config: &ImagesConfig,
    file: &Path,
    reference: &VmImageReference,
    making: &Making,
    progress: &dyn Progress,
) -> Result<Record> {
    let (from, max) = (file.to_owned(), config.limits.image_max);
    // A file that is none is refused before gigabytes of it are copied.
    let (source, size) = blocking(move || {
        let source = open(&from)?;
        shape_of(&source, max)?;
        let size = source.metadata().map_err(|error| io_error("look at the image", error))?.len();
        Ok((source, size))
    })
    .await?;
    if size > max {
        return Err(Error::new(Code::InvalidInput, format!("the image has more than {} GiB", max >> 30))
            .field("file"));
    }
    let allocated = allocated(&source)?;
    let free = free(making.folder())?;
    if allocated > free {
        return Err(Error::new(
            Code::Insufficient,
            format!("the image takes {} MiB, and {} MiB are free for it", allocated >> 20, free >> 20),
        )
        .fix("free some disk space, or choose a folder on another disk with CLAWFARM_CACHE_DIR"));
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    progress.step("import", &format!("taking in {name} as {reference}"), Some(size), "bytes");
    let target = making.folder().join(IMAGE);
    // Of an attempt before, of whatever kind, nothing is used.
    let folder = making.folder().to_owned();
    blocking(move || {
        remove_tree(&folder)?;
        crate::store::make_private(&folder)
    })
    .await?;
    let (copied, lock) = (target.clone(), std::sync::Arc::clone(making.lock()));
    let digest = told(
        |far| progress.advance(far),
        move |tell| {
            let mut sha256 = Context::new(&SHA256);
            copy_sparse(&source, &copied, Some(&mut sha256), tell)?;
            // Held until nothing is written any more, also when nobody waits.
            drop(lock);
            Ok(hex(sha256))
        },
    )
    .await?;
    let (shape, size_bytes) = blocking(move || {
        let copy = File::open(&target).map_err(|error| io_error("open the copy", error))?;
        let size = copy.metadata().map_err(|error| io_error("look at the copy", error))?.len();
        Ok((shape_of(&copy, max)?, size))
    })
    .await?;
    Ok(Record {
        reference: reference.clone(),
        format: shape.format,
        size_bytes,
        disk_bytes: shape.disk_bytes,
        digest: format!("sha256:{digest}"),
        origin: Origin::Imported { file: name },
        made_at: Timestamp::now(),
    })
}

/// Opens what must be a plain file: a pipe or a device would be waited for, or read for ever.
fn open(path: &Path) -> Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => {
                Error::invalid("file", format!("'{}' can't be read: {}", path.display(), error.kind()))
                    .fix("give the path of a file that this user may read")
            }
            _ => io_error(format!("open '{}'", path.display()), error).field("file"),
        })?;
    let kind = file.metadata().map_err(|error| io_error("look at the file", error))?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    let what = if kind.is_dir() {
        "a folder"
    } else if kind.is_block_device() {
        "a disk"
    } else {
        "no plain file"
    };
    Err(Error::invalid("file", format!("'{}' is {what}", path.display()))
        .fix("give the path of an image's file; of a disk make one: qemu-img convert -O qcow2"))
}

/// What a file really takes up, in bytes.
fn allocated(file: &File) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(file.metadata().map_err(|error| io_error("look at the image", error))?.blocks() * 512)
}
