//! Reading and writing descriptors that are neither sockets nor pipes of the runtime's own.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use tokio::io::unix::AsyncFd;

/// `fd`, known to the runtime.
pub(super) fn registered(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, stays so until it is dropped, and never is another one.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

pub(super) fn read(
    fd: &AsyncFd<OwnedFd>,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        let mut ready = ready!(fd.poll_read_ready(cx))?;
        let read =
            ready.try_io(|fd| Ok(nix::unistd::read(fd.get_ref().as_fd(), buffer.initialize_unfilled())?));
        match read {
            Ok(Ok(read)) => {
                buffer.advance(read);
                return Poll::Ready(Ok(()));
            }
            Ok(Err(error)) => return Poll::Ready(Err(error)),
            Err(_not_yet) => {}
        }
    }
}

pub(super) fn write(fd: &AsyncFd<OwnedFd>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        let mut ready = ready!(fd.poll_write_ready(cx))?;
        match ready.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), bytes)?)) {
            Ok(written) => return Poll::Ready(written),
            Err(_not_yet) => {}
        }
    }
}
