//! A claw's files, and taking an existing home in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clawfarm_files::{Folder, Links, blocking, copy_tree, give_to, io_error, join_error, size_on_disk};
use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_runtime::Progress;

use crate::inner::Inner;
use crate::paths::{CONFIG, WORKSPACE, part_of};
use crate::prepare::make_folders;
use crate::start::{file_error, folder, write_file};
use crate::{dataset, observe};

/// How often an import tells how far it is.
const TELL: Duration = Duration::from_millis(100);
/// An import under way, in the instance's folder.
const IMPORTING: &str = "importing";

/// [`clawfarm_runtime::Files::read`].
pub(crate) async fn read(
    inner: &Arc<Inner>,
    id: &ClawId,
    path: &Path,
    limit: u64,
) -> Result<Option<Vec<u8>>> {
    let (this, id, path) = (Arc::clone(inner), id.clone(), path.to_owned());
    blocking(move || {
        let (part, rest) = part_of(&path);
        folder(&this, &id, part)?.read(&rest, limit).map_err(|e| file_error(&path, e))
    })
    .await
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
        this.record(&id)?;
        write_file(&this, &id, &path, &contents, read_only)
    })
    .await
}

/// [`clawfarm_runtime::Files::import`].
pub(crate) async fn import(
    inner: &Arc<Inner>,
    id: &ClawId,
    from: &Path,
    progress: &dyn Progress,
) -> Result<u64> {
    let _verb = inner.lock(id).await;
    if observe::is_up(inner, id).await? {
        return Err(has_state(id));
    }
    let job = Job {
        inner: Arc::clone(inner),
        id: id.clone(),
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
    let bytes = loop {
        match tokio::time::timeout(TELL, &mut copying).await {
            Ok(done) => break done.map_err(join_error)??,
            Err(_) => progress.advance(copied.load(Ordering::Relaxed)),
        }
    };
    progress.advance(total.max(bytes));
    Ok(bytes)
}

/// The folder to import, with its links resolved once: its owner named it, not a claw.
fn source(inner: &Inner, from: &Path) -> Result<PathBuf> {
    let real = from.canonicalize().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::not_found("folder", from.display()).field("import"),
        _ => io_error(format!("import '{}'", from.display()), e).field("import"),
    })?;
    if real.starts_with(&inner.paths.home) || inner.paths.home.starts_with(&real) {
        return Err(Error::invalid("import", format!("'{}' is clawfarm's own folder", from.display()))
            .fix("give the home of a claw that clawfarm does not run"));
    }
    Ok(real)
}

fn has_state(id: &ClawId) -> Error {
    Error::new(Code::Conflict, format!("'{id}' has state already")).field("import")
}

#[derive(Clone)]
struct Job {
    inner: Arc<Inner>,
    id: ClawId,
    from: PathBuf,
    copied: Arc<AtomicU64>,
    called_off: Arc<AtomicBool>,
}

impl Job {
    fn measure(&self) -> Result<u64> {
        if dataset::has_data(&self.inner, &self.id)? {
            return Err(has_state(&self.id));
        }
        Ok(size_on_disk(&Folder::open(&self.from).map_err(|e| self.failed(e))?))
    }

    /// Copies beside the state, and puts the copy in its place when it is whole.
    fn run(&self) -> Result<u64> {
        let failed = |e| self.failed(e);
        let claw = Folder::open(&self.inner.dir(&self.id)).map_err(failed)?;
        claw.remove(IMPORTING.as_ref()).map_err(failed)?;
        let copy = claw.make_folder(Path::new(IMPORTING), None).map_err(failed)?;
        let from = Folder::open(&self.from).map_err(failed)?;
        let copied = copy_tree(&from, &copy, Links::Within, &mut |bytes| {
            self.copied.store(bytes, Ordering::Relaxed);
            !self.called_off.load(Ordering::Relaxed)
        })
        .map_err(failed)?;
        if !copied.left_out.is_empty() {
            tracing::warn!(id = %self.id, count = copied.left_out.len(), "links that leave the folder, sockets and devices were not imported");
        }
        let owner = self.inner.user();
        give_to(&copy, owner, |uid| uid == owner.uid).map_err(failed)?;
        copy.set_mode(0o700).map_err(failed)?;
        copy.sync_file_system().map_err(failed)?;
        if dataset::has_data(&self.inner, &self.id)? {
            return Err(has_state(&self.id));
        }
        // The workspace is mounted into the state, so it moves to its own place first.
        if copy.kind(WORKSPACE.as_ref()).map_err(failed)?.is_some() {
            claw.remove(WORKSPACE.as_ref()).map_err(failed)?;
            copy.move_to(WORKSPACE.as_ref(), &claw, WORKSPACE.as_ref()).map_err(failed)?;
        }
        claw.remove(CONFIG.as_ref()).map_err(failed)?;
        claw.move_to(IMPORTING.as_ref(), &claw, CONFIG.as_ref()).map_err(failed)?;
        make_folders(&self.inner, &self.id)?;
        Ok(copied.bytes)
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
