//! The unix socket.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use axum::{Extension, Router};
use clawfarm_model::{Code, Error, Result};
use tokio::net::UnixListener;

use crate::extract::OverSocket;

use super::connection::{API_MAX, Connections, Places, accept_error};

/// A bound socket, which only its owner can open.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Makes the socket at `path`, in place of one that a dead server left: whoever calls holds
    /// the home's lock. `bind` gives a socket the mode that the process's umask leaves, so it
    /// is made in a folder that nobody else can enter, and moved into place with its right
    /// mode. The folder is reached through `/proc/self/fd`, because a socket's address holds
    /// 107 bytes only.
    pub(super) fn bind(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::new(Code::Internal, format!("can't make the socket {}: {error}", path.display()))
                .fix("check the folder's owner and that the disk is not full")
                .source(error)
        };
        let parent = path.parent().ok_or_else(|| failed(std::io::ErrorKind::InvalidInput.into()))?;
        let private = parent.join(format!(".socket.{}", std::process::id()));
        let bound = make(&private, path);
        let removed = std::fs::remove_dir_all(&private);
        let listener = bound.map_err(failed)?;
        removed.map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until the server ends.
    pub(super) async fn accept(&self, connections: &Connections, router: &Router) {
        let places = Places::new(API_MAX);
        let router = router.clone().layer(Extension(OverSocket));
        while let Some(place) = connections.place(&places).await {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = connections.stopping() => return,
            };
            match accepted {
                Ok((stream, _)) => connections.serve(stream, router.clone(), place),
                Err(error) => accept_error(&error).await,
            }
        }
    }

    /// Takes the socket away. The home's lock is still held, so that it is ours.
    pub(super) fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, "the socket could not be removed");
        }
    }
}

fn make(private: &Path, path: &Path) -> std::io::Result<UnixListener> {
    if private.exists() {
        std::fs::remove_dir_all(private)?;
    }
    std::fs::DirBuilder::new().mode(0o700).create(private)?;
    let folder = File::open(private)?;
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/s", folder.as_raw_fd()))?;
    let made = private.join("s");
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&made, path)?;
    Ok(listener)
}
