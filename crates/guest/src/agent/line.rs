//! Where the host is: a port of virtio-serial, or vsock.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, listen, socket};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::fd;

/// A descriptor whose other end is the host.
pub struct Line(AsyncFd<OwnedFd>);

/// Opens the port of virtio-serial. Only one program can have it open. Reading it ends while no
/// host is there, and goes on when one is.
///
/// # Errors
/// What opening it ended with.
pub fn open_port(path: &Path) -> io::Result<Line> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    Ok(Line(fd::registered(file.into())?))
}

/// Listens on vsock; each line is a connection of the host's.
///
/// # Errors
/// `Unsupported` where the machine has no vsock.
pub fn vsock(port: u32) -> io::Result<Vsock> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    bind(listener.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, port))?;
    listen(&listener, Backlog::new(4)?)?;
    Ok(Vsock(fd::registered(listener)?))
}

/// A vsock that is listened on.
pub struct Vsock(AsyncFd<OwnedFd>);

impl Vsock {
    /// The next connection of the host. Others, from within this machine, are turned away: they
    /// would be root.
    ///
    /// # Errors
    /// What accepting ended with.
    pub async fn accept(&self) -> io::Result<Line> {
        loop {
            let mut ready = self.0.readable().await?;
            let accepted = ready.try_io(|fd| {
                // SAFETY: the address is a `sockaddr_vm` that lives during the call, with its size.
                let (fd, cid) = unsafe {
                    let mut from: libc::sockaddr_vm = std::mem::zeroed();
                    let mut size = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
                    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
                    let at = (&raw mut from).cast::<libc::sockaddr>();
                    let fd = Errno::result(libc::accept4(fd.as_raw_fd(), at, &raw mut size, flags))?;
                    (OwnedFd::from_raw_fd(fd), from.svm_cid)
                };
                Ok((fd, cid))
            });
            match accepted {
                Ok(Ok((line, libc::VMADDR_CID_HOST))) => return Ok(Line(fd::registered(line)?)),
                Ok(Ok(_stranger)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_not_yet) => {}
            }
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        fd::read(&self.0, cx, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        fd::write(&self.0, cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
