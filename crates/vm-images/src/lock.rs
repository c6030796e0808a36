//! Who may make, read and remove an image, also among processes.
//!
//! A lock is the kernel's on a file (flock), so it is gone with whoever held it.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use clawfarm_files::io_error;
use clawfarm_model::Result;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

/// How often is looked whether another one's lock is free.
const LOOK: Duration = Duration::from_millis(200);

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

/// What a lock is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// Making or removing: alone.
    Change,
    /// Reading: with others who read.
    Reading,
}

impl Lock {
    /// Takes it, or says that another one holds it.
    pub(crate) fn try_take(path: &Path, what: For) -> Result<Option<Self>> {
        let told = |error: Errno| io_error(format!("lock '{}'", path.display()), error.into());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(told)?);
        let operation = match what {
            For::Change => FlockOperation::NonBlockingLockExclusive,
            For::Reading => FlockOperation::NonBlockingLockShared,
        };
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Some(Self { file })),
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(told(error)),
            }
        }
    }

    /// Takes it when it is free; meanwhile `waiting` is called again and again.
    pub(crate) async fn take(path: &Path, what: For, mut waiting: impl FnMut()) -> Result<Self> {
        loop {
            if let Some(lock) = Self::try_take(path, what)? {
                return Ok(lock);
            }
            waiting();
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The open file: a program that is given it as its standard input keeps the lock held
    /// until it ends, should it outlive this process.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}
