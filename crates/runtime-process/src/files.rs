//! A claw's files, and taking an existing home in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_runtime::Progress;
use clawfarm_shim::lock;

use crate::host;
use crate::inner::{Inner, owner};
use crate::paths::{IMPORTING, STATE, WORKSPACE};
use crate::prepare::has_data;
use crate::record::InstanceRecord;
use crate::start::{file_error, new_file};
use crate::uid;
use clawfarm_files::{Copied, Folder, Links, copy_tree, give_to, size_on_disk};
use clawfarm_files::{blocking, io_error, join_error};

/// How often an import tells how far it is.
const TELL: Duration = Duration::from_millis(100);
/// What is left free on the disk at least, in bytes: a full disk stops every claw.
const RESERVE: u64 = 256 << 20;

/// [`clawfarm_runtime::Files::read`].
pub(crate) async fn read(
    inner: &Arc<Inner>,
    id: &ClawId,
    path: &Path,
    limit: u64,
) -> Result<Option<Vec<u8>>> {
    let (this, id, path) = (Arc::clone(inner), id.clone(), path.to_owned());
    blocking(move || state(&this, &id)?.read(&path, limit).map_err(|e| file_error(&path, e))).await
}

/// [`clawfarm_runtime::Files::write`].
pub(crate) async fn write(
    inner: &Arc<Inner>,
    id: &ClawId,
    path: &Path,
    contents: &[u8],
    read_only: bool,
) -> Result<()> {
    let (this, id, path) = (Arc::clone(inner), id.clone(), path.to_owned());
    let contents = zeroize::Zeroizing::new(contents.to_vec());
    blocking(move || {
        let record = this.record(&id)?;
        state(&this, &id)?
            .write(&path, &contents, new_file(&record, read_only))
            .map_err(|e| file_error(&path, e))
    })
    .await
}

fn state(inner: &Inner, id: &ClawId) -> Result<Folder> {
    let path = inner.dir(id).join(STATE);
    Folder::open(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::not_found("instance", id),
        _ => io_error(format!("open '{}'", path.display()), e),
    })
}

/// [`clawfarm_runtime::Files::import`].
pub(crate) async fn import(
    inner: &Arc<Inner>,
    id: &ClawId,
    from: &Path,
    progress: &dyn Progress,
) -> Result<u64> {
    let _verb = inner.lock(id).await;
    let (record, dir) = (inner.record(id)?, inner.dir(id));
    // Before the source is looked for: its owner may have removed it since it was copied in.
    blocking({
        let (record, dir) = (record.clone(), dir.clone());
        move || check_empty(&dir, &record)
    })
    .await?;
    let job = Import {
        record,
        dir,
        from: source(inner, from)?,
        copied: Arc::default(),
        called_off: Arc::default(),
    };
    let measured = job.clone();
    let total = blocking(move || measured.measure()).await?;
    progress.step("copy", &format!("copying {} into {id}", from.display()), Some(total), "bytes");
    // Dropping this future ends the copy.
    let _off = CallOff(Arc::clone(&job.called_off));
    let copied = Arc::clone(&job.copied);
    let mut copying = tokio::task::spawn_blocking(move || job.run());
    let done = loop {
        match tokio::time::timeout(TELL, &mut copying).await {
            Ok(done) => break done.map_err(join_error)??,
            Err(_) => progress.advance(copied.load(Ordering::Relaxed)),
        }
    };
    progress.advance(total.max(done.bytes));
    if !done.left_out.is_empty() {
        let some: Vec<_> = done.left_out.iter().take(20).collect();
        tracing::warn!(%id, count = done.left_out.len(), ?some, "links that leave the folder, sockets and devices were not imported");
    }
    Ok(done.bytes)
}

/// The folder to import, with its links resolved once: its owner named it, not a claw.
fn source(inner: &Inner, from: &Path) -> Result<PathBuf> {
    let found = from.canonicalize().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(Code::NotFound, format!("there is no folder '{}'", from.display()))
                .field("import")
                .fix("give the folder of an existing claw, such as ~/.openclaw")
                .source(e)
        }
        _ => io_error(format!("open '{}'", from.display()), e).field("import"),
    })?;
    if !found.is_dir() {
        return Err(Error::new(Code::NotFound, format!("'{}' is no folder", from.display()))
            .field("import")
            .fix("give the folder of an existing claw, such as ~/.openclaw"));
    }
    if found.starts_with(&inner.paths.home) || inner.paths.home.starts_with(&found) {
        return Err(Error::invalid(
            "import",
            format!("'{}' is or holds clawfarm's own folder", from.display()),
        )
        .fix("give the folder of an existing claw, such as ~/.openclaw"));
    }
    Ok(found)
}

fn check_empty(dir: &Path, record: &InstanceRecord) -> Result<()> {
    if !has_data(dir, &record.id)? && !lock::is_held(dir)? {
        return Ok(());
    }
    Err(Error::new(Code::Conflict, format!("'{}' has state already", record.id))
        .field("import")
        .fix("import into a new instance: `clawfarm new openclaw --import <folder>`"))
}

#[derive(Clone)]
struct Import {
    record: InstanceRecord,
    dir: PathBuf,
    from: PathBuf,
    copied: Arc<AtomicU64>,
    called_off: Arc<AtomicBool>,
}

impl Import {
    fn measure(&self) -> Result<u64> {
        let from = Folder::open(&self.from).map_err(|e| self.failed(e))?;
        let total = size_on_disk(&from);
        let (free, _) = host::free_space(&self.dir).map_err(|e| self.failed(e))?;
        if total.saturating_add(RESERVE) > free {
            return Err(Error::new(
                Code::Insufficient,
                format!(
                    "'{}' takes {} MiB, and {} MiB are free",
                    self.from.display(),
                    total >> 20,
                    free >> 20
                ),
            )
            .field("import")
            .fix("free some disk space, or choose another CLAWFARM_HOME"));
        }
        Ok(total)
    }

    /// Copies beside the state, and puts the copy in its place when it is whole.
    fn run(&self) -> Result<Copied> {
        let failed = |e| self.failed(e);
        let claw = Folder::open(&self.dir).map_err(failed)?;
        claw.remove(IMPORTING.as_ref()).map_err(failed)?;
        let copy = claw.make_folder(Path::new(IMPORTING), None).map_err(failed)?;
        let from = Folder::open(&self.from).map_err(failed)?;
        let copied = copy_tree(&from, &copy, Links::Within, &mut |bytes| {
            self.copied.store(bytes, Ordering::Relaxed);
            !self.called_off.load(Ordering::Relaxed)
        });
        let done = copied.map_err(|e| {
            if let Err(error) = claw.remove(IMPORTING.as_ref()) {
                tracing::warn!(%error, "a broken-off import is removed at the next attempt");
            }
            self.failed(e)
        })?;
        let own = owner(&self.record);
        if copy.kind(WORKSPACE.as_ref()).map_err(failed)?.is_none() {
            copy.make_folder(Path::new(WORKSPACE), own).map_err(failed)?;
        }
        if let Some(own) = own {
            give_to(&copy, own, uid::is_ours).map_err(failed)?;
        }
        copy.set_mode(0o700).map_err(failed)?;
        copy.sync_file_system().map_err(failed)?;
        check_empty(&self.dir, &self.record)?;
        claw.remove(STATE.as_ref()).map_err(failed)?;
        claw.move_to(IMPORTING.as_ref(), &claw, STATE.as_ref()).map_err(failed)?;
        Ok(done)
    }

    fn failed(&self, error: std::io::Error) -> Error {
        let what = format!("import '{}'", self.from.display());
        match error.kind() {
            std::io::ErrorKind::InvalidInput => {
                Error::invalid("import", format!("could not {what}: {error}")).source(error)
            }
            _ => io_error(what, error).field("import"),
        }
    }
}

/// Ends a copy when nobody waits for it any more.
pub(crate) struct CallOff(pub(crate) Arc<AtomicBool>);

impl Drop for CallOff {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
