//! One server a home folder.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clawfarm_model::{Code, Error, Result};
use rustix::fs::{FlockOperation, flock};

/// The lock's file in the home folder.
const FILE: &str = "server.lock";

/// A home folder that belongs to this process until it is dropped. The kernel lets go of the
/// lock when the process ends, however it ends.
#[derive(Debug)]
pub struct HomeLock {
    path: PathBuf,
    /// Closed, and with it unlocked, on drop. Not inherited by what the server starts (the
    /// standard library opens files so), or a claw would hold the home after the server's end.
    _file: File,
}

impl HomeLock {
    /// Takes the folder, which has to exist.
    ///
    /// # Errors
    /// `Conflict`, naming the process, when another server has it; `Internal` when the lock's
    /// file can't be opened.
    pub fn take(home: &Path) -> Result<Self> {
        let path = home.join(FILE);
        let failed = |error: std::io::Error| {
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
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { path: home.to_owned(), _file: file })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn taken(home: &Path, file: &mut File) -> Error {
    let mut text = String::new();
    // Its owner may be about to write it; the lock is what counts.
    let _ = Read::by_ref(file).take(32).read_to_string(&mut text);
    let who = match text.trim().parse::<u32>() {
        Ok(pid) => format!("process {pid}"),
        Err(_) => "another process".to_owned(),
    };
    Error::new(Code::Conflict, format!("a server already works on {}: {who}", home.display()))
        .field("home")
        .fix("use that one, or stop it first: clawfarm down")
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
