//! One server a home folder.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read, Seek, Write};
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
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(taken(home, &mut file)),
            Err(error) => return Err(failed(error.into())),
        }
        // Over what an earlier server wrote, which needs no room on a full disk.
        let text = format!("{}\n", std::process::id());
        file.write_all(text.as_bytes()).and_then(|()| file.set_len(text.len() as u64)).map_err(failed)?;
        Ok(Self { path: home.to_owned(), file })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the lock is still what anybody else would try to take there. It is not when the
    /// folder was moved away or removed: then it is no proof of anything any more.
    #[must_use]
    pub(crate) fn is_in_place(&self) -> bool {
        let same = |own: Metadata, there: Metadata| (own.dev(), own.ino()) == (there.dev(), there.ino());
        let there = std::fs::symlink_metadata(self.path.join(FILE));
        self.file.metadata().and_then(|own| Ok(same(own, there?))).unwrap_or(false)
    }
}

fn taken(home: &Path, file: &mut File) -> Error {
    let who = owner(file).map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    Error::new(Code::Conflict, format!("a server already works on {}: {who}", home.display()))
        .field("home")
        .fix("use that one, or stop it first: clawfarm down")
}

/// The process that has the lock. It writes its number right after it took it: until then the
/// number of an earlier one may be there, which has ended.
#[expect(clippy::disallowed_methods, reason = "called before there is an async runtime to block")]
fn owner(file: &mut File) -> Option<u32> {
    let begun = Instant::now();
    loop {
        let mut text = String::new();
        let read = file.rewind().and_then(|()| Read::by_ref(file).take(32).read_to_string(&mut text));
        let pid = read.ok().and_then(|_| text.trim().parse::<u32>().ok());
        if let Some(pid) = pid.filter(|pid| Path::new("/proc").join(pid.to_string()).exists()) {
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
}
