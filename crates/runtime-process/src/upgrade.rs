//! Another version of a claw's software, and a copy of its data to go back to.
//!
//! The copy lies in the instance's folder, in a folder of the server's own that the claw is not
//! let into. It is made beside its place and renamed when it is whole. Putting it back moves
//! its parts, one rename each: what has been moved is gone from the copy, so doing it again goes
//! on where it was cut off.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use clawfarm_model::{ClawId, Code, Error, Result, Software};
use clawfarm_runtime::Progress;
use clawfarm_shim::lock;

use crate::dataset::PARTS;
use crate::files::{CallOff, TELL};
use crate::inner::{Inner, owner};
use crate::prepare::make_folders;
use crate::record::InstanceRecord;
use crate::uid;
use clawfarm_files::{Folder, Links, NewFile, copy_tree, give_to, size_on_disk};
use clawfarm_files::{blocking, io_error, join_error};

/// The copy, in the instance's folder.
const COPY: &str = "copy";
/// A copy that is being made.
const HALF: &str = "copy.partial";
/// Its number, in it.
const NUMBER: &str = "number";
/// A number is short.
const NUMBER_LIMIT: u64 = 32;

/// [`clawfarm_runtime::Upgrade::install`].
pub(crate) async fn install(inner: &Inner, software: &Software, progress: &dyn Progress) -> Result<()> {
    inner.install(software)?.ensure(&inner.npm(), progress).await?;
    Ok(())
}

/// [`clawfarm_runtime::Upgrade::software_file`].
pub(crate) async fn software_file(
    inner: &Arc<Inner>,
    software: &Software,
    path: &Path,
    limit: u64,
) -> Result<Option<Vec<u8>>> {
    let install = inner.install(software)?;
    if !install.is_ready()? {
        let name = format!("{} {}", software.claw_type, software.version);
        return Err(Error::not_found("installation", name).field("version").fix("install it first"));
    }
    let path = path.to_owned();
    blocking(move || {
        let package = install.package_dir();
        let failed = |e| io_error(format!("read '{}' of '{}'", path.display(), package.display()), e);
        Folder::open(&package).and_then(|folder| folder.read(&path, limit)).map_err(failed)
    })
    .await
}

/// [`clawfarm_runtime::Upgrade::copy_data`].
pub(crate) async fn copy_data(
    inner: &Arc<Inner>,
    id: &ClawId,
    number: i64,
    progress: &dyn Progress,
) -> Result<u64> {
    let verb = inner.lock(id).await;
    let (this, claw) = (Arc::clone(inner), id.clone());
    let copied = Arc::new(AtomicU64::new(0));
    let called_off = Arc::new(AtomicBool::new(false));
    // Dropping this future ends the copy.
    let _off = CallOff(Arc::clone(&called_off));
    progress.step("copy", &format!("copying the data of {id}"), None, "bytes");
    let told = Arc::clone(&copied);
    let mut copying = tokio::task::spawn_blocking(move || {
        // Also when nobody waits any more: the next verb finds no copy on its way.
        let _verb = verb;
        copy(&this, &claw, number, &mut |bytes| {
            told.store(bytes, Ordering::Relaxed);
            !called_off.load(Ordering::Relaxed)
        })
    });
    loop {
        match tokio::time::timeout(TELL, &mut copying).await {
            Ok(done) => return done.map_err(join_error)?,
            Err(_) => progress.advance(copied.load(Ordering::Relaxed)),
        }
    }
}

fn copy(inner: &Inner, id: &ClawId, number: i64, advance: &mut dyn FnMut(u64) -> bool) -> Result<u64> {
    let (dir, record) = down(inner, id)?;
    let failed = |e| io_error(format!("copy the data of '{id}'"), e);
    let claw = Folder::open(&dir).map_err(failed)?;
    if number_of(&claw).map_err(failed)? == Some(number) {
        return Ok(size_on_disk(&claw.folder(Path::new(COPY)).map_err(failed)?));
    }
    claw.remove(COPY.as_ref()).map_err(failed)?;
    claw.remove(HALF.as_ref()).map_err(failed)?;
    let half = claw.make_folder(Path::new(HALF), None).map_err(failed)?;
    let mut bytes = 0;
    let done = (|| {
        for part in PARTS {
            // A claw can lock its own folders, against a server that is not root too.
            claw.unlock(part.as_ref())?;
            let from = match claw.folder(Path::new(part)) {
                Ok(from) => from,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let to = half.make_folder(Path::new(part), None)?;
            // Links as they are: nobody follows them here, and they go back to their place.
            let before = bytes;
            bytes += copy_tree(&from, &to, Links::All, &mut |more| advance(before + more))?.bytes;
            if let Some(own) = owner(&record) {
                give_to(&to, own, uid::is_ours)?;
            }
        }
        let new = NewFile { mode: 0o600, owner: None, folder_owner: None };
        half.write(Path::new(NUMBER), number.to_string().as_bytes(), new)?;
        half.sync_file_system()?;
        claw.move_to(HALF.as_ref(), &claw, COPY.as_ref())
    })();
    if done.is_err()
        && let Err(error) = claw.remove(HALF.as_ref())
    {
        tracing::warn!(%id, %error, "half a copy is removed at the next attempt");
    }
    done.map_err(failed)?;
    clawfarm_failpoint::point_blocking!(DataCopied);
    Ok(bytes)
}

/// [`clawfarm_runtime::Upgrade::put_back`].
pub(crate) fn put_back(inner: &Inner, id: &ClawId, number: i64) -> Result<()> {
    let (dir, record) = down(inner, id)?;
    let failed = |e| io_error(format!("put the data of '{id}' back"), e);
    let claw = Folder::open(&dir).map_err(failed)?;
    if number_of(&claw).map_err(failed)? != Some(number) {
        return Err(Error::not_found("copy of the data", id)
            .field("copy")
            .fix("the data stays as the newer version left it; see what is in the instance's folder"));
    }
    let copy = claw.folder(Path::new(COPY)).map_err(failed)?;
    for part in PARTS {
        if copy.kind(part.as_ref()).map_err(failed)?.is_some() {
            claw.remove(part.as_ref()).map_err(failed)?;
            clawfarm_failpoint::point_blocking!(DataTakenOut);
            copy.move_to(part.as_ref(), &claw, part.as_ref()).map_err(failed)?;
        }
    }
    make_folders(&dir, &record)
}

/// [`clawfarm_runtime::Upgrade::remove_copy`].
pub(crate) fn remove_copy(inner: &Inner, id: &ClawId) -> Result<()> {
    let failed = |e| io_error(format!("remove the copy of the data of '{id}'"), e);
    let claw = match Folder::open(&inner.dir(id)) {
        Ok(claw) => claw,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    claw.remove(HALF.as_ref()).map_err(failed)?;
    claw.remove(COPY.as_ref()).map_err(failed)
}

/// The folder and record of an instance that must not run.
fn down(inner: &Inner, id: &ClawId) -> Result<(std::path::PathBuf, InstanceRecord)> {
    let dir = inner.dir(id);
    let record = inner.record(id)?;
    if lock::is_held(&dir)? {
        return Err(Error::new(Code::Conflict, format!("'{id}' is up: its data changes"))
            .field("id")
            .fix(format!("clawfarm stop {id}")));
    }
    Ok((dir, record))
}

/// The number of the whole copy that is there.
fn number_of(claw: &Folder) -> std::io::Result<Option<i64>> {
    let copy = match claw.folder(Path::new(COPY)) {
        Ok(copy) => copy,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let text = copy.read(Path::new(NUMBER), NUMBER_LIMIT)?;
    Ok(text.and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok()))
}
