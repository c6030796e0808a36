//! One build of an image at a time, also among several servers on one engine.
//!
//! The lock is a socket without a file, in the kernel's own list of names: it is gone with the
//! server that held it, however that ended, and needs no folder that all of them may write to.
//! Servers in other network namespaces do not see it; then each makes the image, and the engine
//! keeps the last.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

use clawfarm_model::{Code, Error, Result};
use clawfarm_runtime::Progress;

use crate::inner::Inner;

/// A build of minutes; one that takes longer than this stands still.
const LIMIT: Duration = Duration::from_secs(60 * 60);
/// How often it is asked whether the other one has ended.
const AGAIN: Duration = Duration::from_millis(500);

/// The right to make one image on one engine.
pub(super) struct Building {
    _name: UnixListener,
}

/// Waits until nobody else makes what comes to `fingerprint` on this engine.
pub(super) async fn take(inner: &Inner, fingerprint: &str, progress: &dyn Progress) -> Result<Building> {
    let failed = |e: std::io::Error| {
        Error::new(Code::Internal, format!("the lock on the build of an image can't be taken: {e}")).source(e)
    };
    // The engine is known by its socket, whatever path leads to it.
    let engine = tokio::fs::metadata(inner.engine.socket())
        .await
        .map_or_else(|_| "none".to_owned(), |meta| format!("{:x}-{:x}", meta.dev(), meta.ino()));
    let name = format!("clawfarm-build-{engine}-{fingerprint}");
    let address = SocketAddr::from_abstract_name(name).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(name) => return Ok(Building { _name: name }),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(failed(error)),
        }
        if begun.elapsed() < AGAIN {
            progress.step("build", "another server makes this image; waiting for it", None, "");
        }
        if begun.elapsed() > LIMIT {
            return Err(Error::new(
                Code::Unavailable,
                format!("another server has been making this image for {} minutes", LIMIT.as_secs() / 60),
            )
            .fix("look at that server and its engine, then try again"));
        }
        tokio::time::sleep(AGAIN).await;
    }
}
