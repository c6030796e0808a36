//! The unix socket.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::{Extension, Router};
use clawfarm_model::{Code, Error, Result};
use tokio::net::UnixListener;
use tokio::time::{MissedTickBehavior, interval};

use crate::extract::OverSocket;

use super::connection::{API_MAX, Connections, Places, accept_error};
use super::home::HomeLock;

/// How often to look whether the socket's file is still there: well within the 20 s that a
/// command waits for a server, and one system call each time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A bound socket, which only its owner can open.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of its file. The listener holds the inode, so no other file gets them.
    file: (u64, u64),
    /// That it can't be mended was told.
    told: bool,
}

/// What is where the socket's file should be.
#[derive(Debug, PartialEq, Eq)]
enum There {
    Own,
    Nothing,
    /// Something else.
    Other,
}

impl Socket {
    /// Makes the socket at `path`, in place of one that a dead server left: whoever calls holds
    /// the home's lock. `bind` gives a socket the mode that the process's umask leaves, so it
    /// is made in a folder that nobody else can enter, and moved into place with its right
    /// mode. The folder is reached through `/proc/self/fd`, because a socket's address holds
    /// 107 bytes only.
    pub(super) fn bind(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::new(Code::Internal, format!("can't make the socket {}: {error}", path.display()))
                .fix("check the folder's owner and that the disk is not full")
                .source(error)
        };
        let parent = path.parent().ok_or_else(|| failed(ErrorKind::InvalidInput.into()))?;
        let private = parent.join(format!(".socket.{}", std::process::id()));
        let bound = make(&private, path);
        let removed = std::fs::remove_dir_all(&private);
        let (listener, file) = bound.map_err(failed)?;
        removed.map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), file, told: false })
    }

    /// Serves until the server ends. A file that somebody removed, or put something else in the
    /// place of, is made again; so is the home's lock.
    ///
    /// # Errors
    /// `Conflict` when another server has taken the home.
    pub(super) async fn accept(
        &mut self,
        home: &mut HomeLock,
        connections: &Connections,
        router: &Router,
    ) -> Result<()> {
        let places = Places::new(API_MAX);
        let router = router.clone().layer(Extension(OverSocket));
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while let Some(place) = connections.place(&places).await {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = connections.stopping() => return Ok(()),
                _ = looks.tick() => {
                    home.keep()?;
                    self.mend(home);
                    continue;
                }
            };
            match accepted {
                Ok((stream, _)) => connections.serve(stream, router.clone(), place),
                Err(error) => accept_error(&error).await,
            }
        }
        Ok(())
    }

    /// Makes the file again when it is gone. Not in a folder that is another server's: somebody
    /// may have moved the home away under this one.
    fn mend(&mut self, home: &HomeLock) {
        let there = match self.there() {
            Ok(There::Own) => {
                self.told = false;
                return;
            }
            Ok(there) => there,
            Err(error) => return self.tell(&format!("it can't be looked at: {error}")),
        };
        if !home.is_in_place() {
            return self.tell("the home folder was moved away or removed under this server");
        }
        match Self::bind(&self.path) {
            Ok(made) => {
                tracing::warn!(socket = %self.path.display(), ?there, "the socket's file was gone; it is made again");
                *self = made;
            }
            Err(error) => self.tell(error.message()),
        }
    }

    /// Says once why nobody can reach this server over its socket.
    fn tell(&mut self, why: &str) {
        if !self.told {
            self.told = true;
            tracing::error!(socket = %self.path.display(), why, "the server can't be reached over its socket; it tries to mend that every second. 'kill -TERM' ends it");
        }
    }

    fn there(&self) -> io::Result<There> {
        match std::fs::symlink_metadata(&self.path) {
            Ok(found) if identity(&found) == self.file => Ok(There::Own),
            Ok(_) => Ok(There::Other),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Ok(There::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the socket away, if it is this server's.
    pub(super) fn remove(&self) {
        let removed = match self.there() {
            Ok(There::Own) => std::fs::remove_file(&self.path),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, "the socket could not be removed");
        }
    }
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn make(private: &Path, path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    if private.exists() {
        std::fs::remove_dir_all(private)?;
    }
    std::fs::DirBuilder::new().mode(0o700).create(private)?;
    let folder = File::open(private)?;
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/s", folder.as_raw_fd()))?;
    let made = private.join("s");
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o600))?;
    let file = identity(&std::fs::symlink_metadata(&made)?);
    std::fs::rename(&made, path)?;
    Ok((listener, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_made_again_in_its_own_home_alone() {
        let outer = tempfile::tempdir().unwrap();
        let home = outer.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let (lock, path) = (HomeLock::take(&home).unwrap(), home.join("clawfarm.sock"));
        let mut socket = Socket::bind(&path).unwrap();
        let first = socket.file;
        socket.mend(&lock);
        assert_eq!(socket.file, first, "it is there");
        std::fs::remove_file(&path).unwrap();
        socket.mend(&lock);
        assert_eq!(socket.there().unwrap(), There::Own);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "something else").unwrap();
        socket.mend(&lock);
        assert_eq!(socket.there().unwrap(), There::Own);
        // What is a folder stays: it may hold somebody's files.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        socket.mend(&lock);
        assert!(path.is_dir() && socket.told);
        std::fs::remove_dir(&path).unwrap();
        socket.mend(&lock);
        assert_eq!(socket.there().unwrap(), There::Own);

        // The home is moved away, and another server has one in its place.
        std::fs::rename(&home, outer.path().join("away")).unwrap();
        socket.mend(&lock);
        assert!(!home.exists());
        std::fs::create_dir(&home).unwrap();
        let _other = (HomeLock::take(&home).unwrap(), Socket::bind(&path).unwrap());
        let theirs = identity(&std::fs::symlink_metadata(&path).unwrap());
        socket.mend(&lock);
        socket.remove();
        assert_eq!(identity(&std::fs::symlink_metadata(&path).unwrap()), theirs);
    }
}
