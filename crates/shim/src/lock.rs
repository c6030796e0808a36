//! The lock that says that a shim lives: `flock(2)` on `instance.flock`.
//!
//! The kernel drops it when the shim ends, however it ends, so it is never stale. It is held
//! by the open file, which is closed in every process the shim makes.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use clawfarm_model::{Code, Error, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::layout::LOCK_FILE;

/// How long a start waits for the lock: those who only ask whether it is held hold it for an
/// instant themselves.
const PATIENCE: Duration = Duration::from_millis(500);

/// Takes the lock of an instance's folder, for as long as the answer lives.
///
/// # Errors
/// `Conflict` when another shim holds it.
pub(crate) fn take(dir: &Path) -> Result<Flock<File>> {
    let deadline = Instant::now() + PATIENCE;
    let mut file = open(dir)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                file = again;
                nap(Duration::from_millis(20));
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(Error::new(Code::Conflict, "the instance already runs under another shim")
                    .field(LOCK_FILE)
                    .fix("stop it first with `clawfarm stop`, or look at it with `clawfarm status`"));
            }
            Err((_, error)) => return Err(unusable(dir, error.into())),
        }
    }
}

/// Whether a shim lives in this instance's folder. Does not wait.
///
/// # Errors
/// `Internal` when the lock's file can't be opened.
pub fn is_held(dir: &Path) -> Result<bool> {
    if !dir.join(LOCK_FILE).exists() {
        return Ok(false);
    }
    match Flock::lock(open(dir)?, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(false),
        Err((_, Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, error)) => Err(unusable(dir, error.into())),
    }
}

fn open(dir: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join(LOCK_FILE))
        .map_err(|error| unusable(dir, error))
}

fn unusable(dir: &Path, error: std::io::Error) -> Error {
    let path = dir.join(LOCK_FILE);
    Error::internal(format!("{} can't be locked: {error}", path.display()), error)
        .fix("check that the folder exists, belongs to the server's user and is on a local disk")
}

/// Sleeps; the shim has no async runtime whose thread this could block.
#[expect(clippy::disallowed_methods, reason = "there is no async runtime in a shim")]
pub(crate) fn nap(duration: Duration) {
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_holds_it_and_asking_does_not_take_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_held(dir.path()).unwrap());
        let lock = take(dir.path()).unwrap();
        assert!(is_held(dir.path()).unwrap());
        assert_eq!(take(dir.path()).unwrap_err().code(), Code::Conflict);
        drop(lock);
        assert!(!is_held(dir.path()).unwrap());
        take(dir.path()).unwrap();
    }
}
