//! A terminal for a command.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::fd::{self, Had};
use crate::message::Size;

/// Both ends.
pub(super) struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

impl Terminal {
    pub(super) fn open(size: Size) -> io::Result<Self> {
        let pty = openpty(Some(&winsize(size)), None)?;
        for end in [&pty.master, &pty.slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        Ok(Self { master: pty.master, slave: pty.slave })
    }

    /// The command's end, once more.
    pub(super) fn command_s_end(&self) -> io::Result<OwnedFd> {
        self.slave.try_clone()
    }

    /// The host's end; the command's is closed here.
    pub(super) fn host_s_end(self) -> io::Result<Master> {
        fcntl(&self.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Master(Arc::new(fd::registered(self.master)?)))
    }
}

/// The host's end of a terminal.
#[derive(Clone)]
pub(super) struct Master(Arc<AsyncFd<OwnedFd>>);

impl Master {
    pub(super) fn resize(&self, size: Size) -> io::Result<()> {
        let size = winsize(size);
        // SAFETY: the descriptor is open, and the call reads one `winsize`.
        Errno::result(unsafe {
            libc::ioctl(self.0.get_ref().as_raw_fd(), libc::TIOCSWINSZ, &raw const size)
        })?;
        Ok(())
    }
}

impl AsyncRead for Master {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match ready!(fd::read(&self.0, cx, buffer)) {
            // What a terminal says when nobody has its other end any more.
            Had::Done(Err(error)) if error.raw_os_error() == Some(libc::EIO) => Poll::Ready(Ok(())),
            Had::Done(read) => Poll::Ready(read),
            // It had nobody at its other end once, which is the end of a command.
            Had::Stale => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Master {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(fd::write(&self.0, cx, bytes)) {
            Had::Done(written) => Poll::Ready(written),
            Had::Stale => Poll::Ready(Err(Errno::EIO.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

const fn winsize(size: Size) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 }
}
