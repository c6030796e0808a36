//! One server a home folder.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clawfarm_model::{Code, Error, Result};
use rustix::fs::{FlockOperation, flock};

/// The lock's file in the home folder.
const FILE: &str = "server.lock";
/// How long to wait for the number of whoever has just taken the lock.
const OWNER_LIMIT: Duration = Duration::from_secs(5);

/// A home folder that belongs to this process until it is dropped. The kernel lets go of the
/// lock when the process ends, however it ends.
#[derive(Debug)]
pub struct HomeLock {
    path: PathBuf,
    /// The folder itself, by device and inode.
    folder: (u64, u64),
    /// Closed, and with it unlocked, on drop. Not inherited by what the server starts (the
    /// standard library opens files so), or a claw would hold the home after the server's end.
    file: File,
}

impl HomeLock {
    /// Takes the folder, which has to exist.
    ///
    /// # Errors
    /// `Conflict`, naming the process, when another server has it; `Unavailable` when the
    /// folder is on a read-only mount; `Internal` when the lock's file can't be opened.
    pub fn take(home: &Path) -> Result<Self> {
        let path = home.join(FILE);
        let failed = |error: std::io::Error| {
            if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem {
                return Error::new(
                    Code::Unavailable,
                    format!("a server has to write to its home, and {} is mounted read-only", home.display()),
                )
                .field("home")
                .fix("mount it writable again (the kernel's log says why it is not), or give another folder with --home or CLAWFARM_HOME")
                .source(error);
            }
            Error::new(Code::Internal, format!("can't lock {}: {error}", path.display()))
                .fix("check the folder's owner and that the disk is not full")
                .source(error)
        };
        let mut file = open(&path).map_err(failed)?;
        if !try_lock(&file).map_err(failed)? {
            return Err(taken(home, owner(&mut file)));
        }
        write_owner(&mut file).map_err(failed)?;
        let folder = std::fs::metadata(home).map(|found| identity(&found)).map_err(failed)?;
        Ok(Self { path: home.to_owned(), folder, file })
    }

    /// Makes sure that the lock is still what anybody else would try to take there: when its file
    /// was removed, it is taken anew. Not when the folder was moved away or removed: then it is no
    /// proof of anything any more ([`Self::is_in_place`]).
    ///
    /// # Errors
    /// `Conflict`, naming the process, when another server has taken the home meanwhile: this one
    /// must end.
    pub(crate) fn keep(&mut self) -> Result<()> {
        if self.is_in_place() || !self.same_folder() {
            return Ok(());
        }
        let path = self.path.join(FILE);
        let failed = |error| {
            tracing::warn!(%error, path = %path.display(), "the home's lock is gone, and can't be taken again; it is tried every second");
        };
        let Ok(mut file) = open(&path).map_err(failed) else { return Ok(()) };
        match try_lock(&file) {
            Ok(true) => {}
            Ok(false) => return Err(lost(&self.path, &mut file)),
            Err(error) => {
                failed(error);
                return Ok(());
            }
        }
        tracing::warn!(path = %path.display(), "the home's lock was removed; it is taken again");
        let _ = write_owner(&mut file).map_err(failed);
        self.file = file;
        Ok(())
    }

    fn same_folder(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|there| identity(&there) == self.folder)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the lock is still what anybody else would try to take there. It is not when the
    /// folder was moved away or removed.
    #[must_use]
    pub(crate) fn is_in_place(&self) -> bool {
        let there = std::fs::symlink_metadata(self.path.join(FILE));
        self.file.metadata().and_then(|own| Ok(identity(&own) == identity(&there?))).unwrap_or(false)
    }
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Whether the lock was had; not when somebody else has it.
fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Over what an earlier server wrote, which needs no room on a full disk.
fn write_owner(file: &mut File) -> io::Result<()> {
    let text = format!("{}\n", std::process::id());
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

fn taken(home: &Path, owner: Option<u32>) -> Error {
    let who = process(owner);
    Error::new(Code::Conflict, format!("a server already works on {}: {who}", home.display()))
        .field("home")
        .fix("use that one, or stop it first: clawfarm down")
}

fn lost(home: &Path, file: &mut File) -> Error {
    let path = home.join(FILE);
    let who = process(read_owner(file));
    Error::new(
        Code::Conflict,
        format!(
            "{} was removed while this server ran, and another one works on the home now: {who}",
            path.display()
        ),
    )
    .field("home")
    .fix("nothing to do: this server ends, and the other goes on; leave server.lock where it is")
}

fn process(owner: Option<u32>) -> String {
    owner.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

fn read_owner(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| Read::by_ref(file).take(32).read_to_string(&mut text));
    let pid = read.ok().and_then(|_| text.trim().parse::<u32>().ok());
    pid.filter(|pid| Path::new("/proc").join(pid.to_string()).exists())
}

/// The process that has the lock. It writes its number right after it took it: until then the
/// number of an earlier one may be there, which has ended.
#[expect(clippy::disallowed_methods, reason = "called before there is an async runtime to block")]
fn owner(file: &mut File) -> Option<u32> {
    let begun = Instant::now();
    loop {
        if let Some(pid) = read_owner(file) {
            return Some(pid);
        }
        if begun.elapsed() > OWNER_LIMIT {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_has_one_server_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let first = HomeLock::take(home.path()).unwrap();
        let error = HomeLock::take(home.path()).unwrap_err();
        assert_eq!(error.code(), Code::Conflict);
        assert!(error.message().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        HomeLock::take(home.path()).expect("free again");
    }

    #[test]
    fn a_lock_that_was_removed_is_taken_again_or_lost() {
        let outer = tempfile::tempdir().unwrap();
        let home = outer.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let mut first = HomeLock::take(&home).unwrap();
        std::fs::remove_file(home.join(FILE)).unwrap();
        first.keep().unwrap();
        assert!(first.is_in_place());
        assert_eq!(HomeLock::take(&home).unwrap_err().code(), Code::Conflict, "it is locked again");
        // Another server was faster.
        std::fs::remove_file(home.join(FILE)).unwrap();
        let mut second = HomeLock::take(&home).unwrap();
        let lost = first.keep().unwrap_err();
        assert_eq!(lost.code(), Code::Conflict);
        assert!(lost.message().contains(&format!("process {}", std::process::id())), "{lost}");
        second.keep().unwrap();
        // A folder that was put in the place of the home is another server's to take.
        std::fs::rename(&home, outer.path().join("away")).unwrap();
        second.keep().unwrap();
        std::fs::create_dir(&home).unwrap();
        second.keep().unwrap();
        assert_eq!(std::fs::read_dir(&home).unwrap().count(), 0);
    }
}
