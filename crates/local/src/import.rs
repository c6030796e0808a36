//! Taking an existing home of a claw in, as the state of a new instance.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_runtime::Progress;
use clawfarm_shim::lock;

use clawfarm_files::{Copied, Folder, Links, Owner, copy_tree, give_to, size_on_disk};
use clawfarm_files::{blocking, io_error, join_error};

use crate::state::{STATE, WORKSPACE, has_data};
use crate::{host, uid};

/// An import under way, in the instance's folder.
const IMPORTING: &str = "importing";
/// How often an import tells how far it is.
const TELL: Duration = Duration::from_millis(100);
/// What is left free on the disk at least, in bytes: a full disk stops every claw.
const RESERVE: u64 = 256 << 20;

/// An instance that takes a home in.
#[derive(Clone, Debug)]
pub struct Importer {
    /// Which.
    pub id: ClawId,
    /// Its folder.
    pub dir: PathBuf,
    /// Whom its files belong to, when it has a user of its own.
    pub owner: Option<Owner>,
    /// The server's home, which is no home of a claw's.
    pub home: PathBuf,
}

/// [`clawfarm_runtime::Files::import`], for an instance that nobody changes meanwhile.
///
/// # Errors
/// As for that.
pub async fn import(into: Importer, from: &Path, progress: &dyn Progress) -> Result<u64> {
    let id = into.id.clone();
    // Before the source is looked for: its owner may have removed it since it was copied in.
    blocking({
        let into = into.clone();
        move || check_empty(&into)
    })
    .await?;
    let from_there = source(&into.home, from)?;
    let job = Import { into, from: from_there, copied: Arc::default(), called_off: Arc::default() };
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
fn source(home: &Path, from: &Path) -> Result<PathBuf> {
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
    if found.starts_with(home) || home.starts_with(&found) {
        return Err(Error::invalid(
            "import",
            format!("'{}' is or holds clawfarm's own folder", from.display()),
        )
        .fix("give the folder of an existing claw, such as ~/.openclaw"));
    }
    Ok(found)
}

fn check_empty(into: &Importer) -> Result<()> {
    if !has_data(&into.dir, &into.id)? && !lock::is_held(&into.dir)? {
        return Ok(());
    }
    Err(Error::new(Code::Conflict, format!("'{}' has state already", into.id))
        .field("import")
        .fix("import into a new instance: `clawfarm new openclaw --import <folder>`"))
}

#[derive(Clone)]
struct Import {
    into: Importer,
    from: PathBuf,
    copied: Arc<AtomicU64>,
    called_off: Arc<AtomicBool>,
}

impl Import {
    fn measure(&self) -> Result<u64> {
        let from = Folder::open(&self.from).map_err(|e| self.failed(e))?;
        let total = size_on_disk(&from);
        let (free, _) = host::free_space(&self.into.dir).map_err(|e| self.failed(e))?;
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
        let claw = Folder::open(&self.into.dir).map_err(failed)?;
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
        let own = self.into.owner;
        if copy.kind(WORKSPACE.as_ref()).map_err(failed)?.is_none() {
            copy.make_folder(Path::new(WORKSPACE), own).map_err(failed)?;
        }
        if let Some(own) = own {
            give_to(&copy, own, uid::is_ours).map_err(failed)?;
        }
        copy.set_mode(0o700).map_err(failed)?;
        copy.sync_file_system().map_err(failed)?;
        check_empty(&self.into)?;
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
#[derive(Debug)]
pub struct CallOff(pub Arc<AtomicBool>);

impl Drop for CallOff {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
