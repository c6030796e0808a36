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

/// What a descriptor that was ready had.
pub(super) enum Had<T> {
    Done(io::Result<T>),
    /// Nothing, although its other end went away once: the runtime takes that for final, and will say
    /// that it is ready for ever. Of a port of virtio-serial it is not, so it must be made known anew.
    Stale,
}

pub(super) fn read(fd: &AsyncFd<OwnedFd>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Had<()>> {
    loop {
        let mut ready = match ready!(fd.poll_read_ready(cx)) {
            Ok(ready) => ready,
            Err(error) => return Poll::Ready(Had::Done(Err(error))),
        };
        let closed = ready.ready().is_read_closed();
        let read =
            ready.try_io(|fd| Ok(nix::unistd::read(fd.get_ref().as_fd(), buffer.initialize_unfilled())?));
        match read {
            Ok(Ok(read)) => {
                buffer.advance(read);
                return Poll::Ready(Had::Done(Ok(())));
            }
            Ok(Err(error)) => return Poll::Ready(Had::Done(Err(error))),
            Err(_not_yet) if closed => return Poll::Ready(Had::Stale),
            Err(_not_yet) => {}
        }
    }
}

pub(super) fn write(fd: &AsyncFd<OwnedFd>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Had<usize>> {
    loop {
        let mut ready = match ready!(fd.poll_write_ready(cx)) {
            Ok(ready) => ready,
            Err(error) => return Poll::Ready(Had::Done(Err(error))),
        };
        let closed = ready.ready().is_write_closed();
        match ready.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), bytes)?)) {
            Ok(written) => return Poll::Ready(Had::Done(written)),
            Err(_not_yet) if closed => return Poll::Ready(Had::Stale),
            Err(_not_yet) => {}
        }
    }
}
