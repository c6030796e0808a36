//! Room that is kept on the disk of the home, so that on a full one there is still enough to
//! write down what makes room: a stop, a kill, a removal.
//!
//! It is a file. It is given back when such a change is asked for and little is free, and made
//! again when there is room. What others write (a claw, above all) may take what was given
//! back; a kill works even then, without being written down.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clawfarm_model::target::{Check, CheckLevel};
use clawfarm_model::{Code, Error, Result};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::Control;
use crate::core::Core;

/// The file in the home.
const FILE: &str = "disk-reserve";
/// How much is kept, in bytes: SQLite's log grows to 1000 pages of 4 KiB before it is written
/// back into the database, which may grow by as much then.
const SIZE: u64 = 8 << 20;
/// With less than this free, in bytes, the disk counts as full: a change needs its pages in the
/// log, a record beside the claw, a few lines of log; half of what is kept is plenty.
const LOW: u64 = SIZE / 2;
/// With so much free, in bytes, it is made again.
const AMPLE: u64 = 4 * SIZE;
/// How often to look whether it can be made again.
const EVERY: Duration = Duration::from_secs(5);

/// The room that is kept in a home.
#[derive(Clone, Debug)]
pub struct Reserve {
    home: PathBuf,
    path: PathBuf,
}

impl Reserve {
    /// The one of this home, whose lock the caller holds.
    #[must_use]
    pub fn of(home: &Path) -> Self {
        Self { home: home.to_owned(), path: home.join(FILE) }
    }

    /// What is free for who is not root, in bytes; `None` when that can't be said.
    fn free(&self) -> Option<u64> {
        statvfs(&self.home).ok().map(|found| found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn is_low(&self) -> bool {
        self.free().is_some_and(|free| free < LOW)
    }

    /// Gives it back when little is free. Says whether there is more room now.
    pub fn give_back_if_low(&self) -> bool {
        if !self.is_low() {
            return false;
        }
        match std::fs::remove_file(&self.path) {
            Ok(()) => {
                tracing::warn!(home = %self.home.display(), "the disk is full; the reserve was given back, for what makes room. Free some space");
                true
            }
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => {
                tracing::error!(%error, path = %self.path.display(), "the reserve can't be given back");
                false
            }
        }
    }

    /// Makes it when it is not there and there is ample room.
    fn keep(&self) {
        let there = std::fs::metadata(&self.path).is_ok_and(|found| found.len() == SIZE);
        if there || self.free().is_none_or(|free| free < AMPLE) {
            return;
        }
        match self.make() {
            Ok(()) => {
                tracing::info!(path = %self.path.display(), bytes = SIZE, "room is kept for a full disk");
            }
            Err(error) => {
                // Half of one would be taken for a whole one.
                let _ = std::fs::remove_file(&self.path);
                tracing::warn!(%error, path = %self.path.display(), "no room can be kept for a full disk");
            }
        }
    }

    fn make(&self) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, SIZE) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => fill(&mut file),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses what would need room, where there is none: before anything of it is begun.
    fn check(&self) -> Result<()> {
        match self.free().filter(|free| *free < LOW) {
            Some(free) => Err(Error::new(
                Code::Unavailable,
                format!("the disk of clawfarm's home is full: {} KiB are left in {}; nothing was made", free >> 10, self.home.display()),
            )
            .fix("free some space there: remove files, 'clawfarm rm --purge' what is not needed, 'clawfarm dataset ls' shows what removed ones left; what runs goes on")),
            None => Ok(()),
        }
    }

    /// What it says of itself in `clawfarm doctor`.
    fn look(&self) -> Check {
        let free = self.free().unwrap_or(0) >> 20;
        let kept = self.path.exists();
        let mib = SIZE >> 20;
        let (level, detail, fix) = match (self.is_low(), kept) {
            (true, _) => {
                (CheckLevel::Error, format!("full: {free} MiB are free in {}", self.home.display()), true)
            }
            (false, true) => {
                (CheckLevel::Ok, format!("{free} MiB free, {mib} MiB kept for when it is full"), false)
            }
            (false, false) => {
                (CheckLevel::Warning, format!("{free} MiB free, none kept for when it is full"), true)
            }
        };
        let fix = fix.then(|| format!("free some space: with {} MiB free, {mib} are kept", AMPLE >> 20));
        Check { name: "disk".into(), level, detail, fix }
    }
}

/// Where a file system can't be asked for room. Not with zeros, which some keep as nothing.
fn fill(file: &mut File) -> io::Result<()> {
    let mut piece = vec![0; 1 << 16];
    getrandom::fill(&mut piece).map_err(io::Error::other)?;
    for _ in 0..SIZE / (1 << 16) {
        file.write_all(&piece)?;
    }
    file.sync_all()
}

impl Control {
    /// Keeps room on the disk of a home until the server ends, and gives it back for what makes
    /// room. Asked for a second time it changes nothing.
    pub fn keep_reserve(&self, reserve: Reserve) {
        let core = Arc::clone(&self.core);
        if core.reserve.set(reserve.clone()).is_err() {
            return;
        }
        tokio::spawn(async move {
            loop {
                let reserve = reserve.clone();
                // It waits for a disk.
                let _ = tokio::task::spawn_blocking(move || reserve.keep()).await;
                tokio::select! {
                    () = core.stopping.cancelled() => return,
                    () = tokio::time::sleep(EVERY) => {}
                }
            }
        });
    }
}

/// A change that makes room.
pub(crate) struct MakingRoom<'a> {
    core: &'a Core,
    given: bool,
}

impl MakingRoom<'_> {
    /// Whether to try again after this error: somebody filled the disk since the change was
    /// begun, and what is kept was given back now.
    pub(crate) async fn again(&mut self, error: &Error) -> bool {
        if self.given || error.code() != Code::Unavailable {
            return false;
        }
        self.given = self.core.give_back_reserve().await;
        self.given
    }
}

impl Core {
    /// Begins a change that makes room: what is kept is given back when little is free.
    pub(crate) async fn making_room(&self) -> MakingRoom<'_> {
        MakingRoom { core: self, given: self.give_back_reserve().await }
    }

    /// Gives back what is kept when little is free.
    pub(crate) async fn give_back_reserve(&self) -> bool {
        let Some(reserve) = self.reserve.get().cloned() else { return false };
        tokio::task::spawn_blocking(move || reserve.give_back_if_low()).await.unwrap_or(false)
    }

    /// Refuses what needs room on a full disk.
    pub(crate) async fn check_disk(&self) -> Result<()> {
        let Some(reserve) = self.reserve.get().cloned() else { return Ok(()) };
        tokio::task::spawn_blocking(move || reserve.check()).await.unwrap_or(Ok(()))
    }

    /// What is to be said of the disk.
    pub(crate) fn disk(&self) -> Option<Check> {
        self.reserve.get().map(Reserve::look)
    }
}
