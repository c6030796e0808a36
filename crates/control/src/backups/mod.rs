//! Archives of instances: made of one, and one made of them.
//!
//! Both work in a folder of the server's own that the runtime names (`Backup::room`): a copy of
//! the data that is packed from, or what was unpacked until the new instance takes it in. Such a
//! folder goes with what it was made for; what a killed server left is removed by the next
//! ([`keep_tidy`]), unless an instance is still to begin with it.

mod make;
mod pipe;
mod restore;

use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clawfarm_files::{Folder, io_error};
use clawfarm_model::{ClawId, Code, Context, Desired, Error, Phase, Result};
use clawfarm_runtime::{Backup, Runtime};
use clawfarm_store::{InstanceFilter, PageRequest};
use rustix::fs::statvfs;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

pub use self::make::{Archive, ArchiveBytes};
pub use self::restore::NewRestore;
use crate::core::Core;
use crate::reconcile::reach::Reach;

/// Archives that are written or read at a time: each has a core and the disk to itself, or waits
/// for a slow line.
const AT_ONCE: usize = 4;
/// What is left free on the disk at least, in bytes: a full disk stops every claw.
const KEPT_FREE: u64 = 256 << 20;
/// How often what nobody needs any more is looked for.
const TIDY_EVERY: Duration = Duration::from_secs(600);

/// What is under way.
pub(crate) struct Backups {
    /// The copies under way.
    pub(crate) copies: TaskTracker,
    places: Arc<Semaphore>,
    /// The names of the folders that are in use.
    folders: Arc<Mutex<HashSet<String>>>,
    /// Something may be nobody's any more.
    look: Arc<Notify>,
}

impl Default for Backups {
    fn default() -> Self {
        Self {
            copies: TaskTracker::new(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            folders: Arc::default(),
            look: Arc::default(),
        }
    }
}

impl Backups {
    fn place(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            Error::new(Code::Overloaded, format!("{AT_ONCE} archives are being written or read already"))
                .fix("wait until one of them is done")
        })
    }

    /// An instance is gone that was to begin with an archive, and may never have.
    pub(crate) fn look(&self) {
        self.look.notify_one();
    }

    /// A new folder in a room; with the instance's id in its name when it is for a copy of one.
    fn folder(&self, room: &Path, copy_of: Option<&ClawId>) -> Result<Workplace> {
        let mut random = [0_u8; 16];
        getrandom::fill(&mut random).map_err(|e| Error::internal("no random bytes could be had", e))?;
        let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = copy_of.map_or_else(|| random.clone(), |id| format!("{id}.{random}"));
        lock(&self.folders).insert(name.clone());
        let (folders, look) = (Arc::clone(&self.folders), Arc::clone(&self.look));
        let made = Workplace { room: room.to_owned(), name, folders, look, stays: false };
        let failed = |e| io_error(format!("make a folder in '{}'", room.display()), e);
        clawfarm_files::make_private(room).map_err(failed)?;
        std::fs::DirBuilder::new().mode(0o700).create(made.path()).map_err(failed)?;
        Ok(made)
    }
}

fn lock(folders: &Mutex<HashSet<String>>) -> MutexGuard<'_, HashSet<String>> {
    folders.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder that goes with this value, unless it stays.
struct Workplace {
    room: PathBuf,
    name: String,
    folders: Arc<Mutex<HashSet<String>>>,
    look: Arc<Notify>,
    stays: bool,
}

impl Workplace {
    fn path(&self) -> PathBuf {
        self.room.join(&self.name)
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let (room, name, folders) = (self.room.clone(), self.name.clone(), Arc::clone(&self.folders));
        let (stays, look) = (self.stays, Arc::clone(&self.look));
        let clear = move || {
            if !stays {
                remove(&room, &name);
            }
            // Only now: what is in use is not tidied up by anybody else.
            lock(&folders).remove(&name);
            if stays {
                look.notify_one();
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(clear)),
            Err(_) => clear(),
        }
    }
}

fn remove(room: &Path, name: &str) {
    let removed = Folder::open(room).and_then(|folder| folder.remove(name.as_ref()));
    if let Err(error) =
        removed.or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
    {
        tracing::warn!(room = %room.display(), name, %error, "a copy of an instance's data can't be removed; it is tried again");
    }
}

/// The capability, or why it can't be done.
pub(crate) fn offered(runtime: &dyn Runtime) -> Result<&dyn Backup> {
    runtime.backup().ok_or_else(|| {
        Error::new(Code::Unsupported, format!("the runtime {} can't back instances up", runtime.kind()))
            .field("id")
            .fix("copy the data in the claw itself")
    })
}

/// Refuses to fill the disk.
fn check_room(folder: &Path) -> Result<()> {
    match statvfs(folder) {
        Ok(found) if found.f_bavail.saturating_mul(found.f_frsize) < KEPT_FREE => Err(Error::new(
            Code::Insufficient,
            format!("less than {} MiB are free on the server's disk ({})", KEPT_FREE >> 20, folder.display()),
        )
        .fix("free some disk space there, then try again: nothing was made")),
        _ => Ok(()),
    }
}

/// Removes what an earlier server left, now and then.
pub(crate) fn keep_tidy(core: &Arc<Core>) {
    let core = Arc::clone(core);
    tokio::spawn(async move {
        loop {
            if let Err(error) = tidy(&core).await {
                tracing::warn!(
                    ?error,
                    "what is left of archives could not be looked through; it is tried again"
                );
            }
            tokio::select! {
                () = core.stopping.cancelled() => return,
                () = core.backups.look.notified() => {}
                () = tokio::time::sleep(clawfarm_failpoint::wait(TIDY_EVERY)) => {}
            }
        }
    });
}

async fn tidy(core: &Core) -> Result<()> {
    let rooms: BTreeSet<PathBuf> =
        core.targets().iter().filter_map(|(_, runtime)| Some(runtime.backup()?.room())).collect();
    for room in rooms {
        // Before the store is read: what an instance begins with was there before the instance.
        let Ok(folder) = Folder::open(&room) else { continue };
        let names = folder.names().map_err(|e| io_error(format!("look into '{}'", room.display()), e))?;
        let idle = |name: &String| !lock(&core.backups.folders).contains(name);
        let names: Vec<String> =
            names.into_iter().filter_map(|n| n.into_string().ok()).filter(idle).collect();
        if names.is_empty() {
            continue;
        }
        let wanted = wanted(core).await?;
        for name in names.into_iter().filter(|name| !wanted.contains(name)).filter(idle) {
            if let Some((id, _)) = name.split_once('.') {
                go_on(core, id).await;
            }
            let room = room.clone();
            tracing::info!(room = %room.display(), name, "what an earlier server left of an archive is removed");
            let _ = tokio::task::spawn_blocking(move || remove(&room, &name)).await;
        }
    }
    Ok(())
}

/// A server that was killed while it copied may have left a claw drained. One that is frozen is
/// let go on by the reconciler; a drain ends by itself too, but takes its time.
async fn go_on(core: &Core, id: &str) {
    let Ok(id) = ClawId::new(id) else { return };
    let Ok(instance) = core.store.instance(&Context::system("backups"), &id).await else { return };
    if instance.intent.desired != Desired::Running {
        return;
    }
    let undrained = async {
        let reach = Reach::new(core, &instance).await?;
        reach.adapter().undrain(&reach.access()).await
    };
    if let Err(error) = undrained.await {
        tracing::debug!(%id, ?error, "the drain before a copy was not taken back");
    }
}

/// The unpacked archives that instances are still to begin with.
async fn wanted(core: &Core) -> Result<HashSet<String>> {
    let system = Context::system("backups");
    let (mut wanted, mut cursor) = (HashSet::new(), None);
    loop {
        let page = PageRequest::after(cursor, PageRequest::MAX);
        let page = core.store.instances(&system, &InstanceFilter::default(), &page).await?;
        let live = page.items.into_iter().filter(|it| it.phase != Phase::Destroyed);
        wanted.extend(live.filter_map(|it| it.spec.restore));
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(wanted),
        }
    }
}
