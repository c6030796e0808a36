//! Where the host is: a port of virtio-serial, or vsock.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, listen, socket};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::fd::{self, Had};

/// How long a port's host may be away before that is its end.
///
/// A machine that was restored hears late, and in two steps, that its host of before is gone and another
/// one there: by then it may be talking with that one already, which would see it begin anew in the middle.
const AWAY: Duration = Duration::from_millis(if cfg!(test) { 2000 } else { 200 });

/// A descriptor whose other end is the host.
pub struct Line {
    fd: AsyncFd<OwnedFd>,
    end: End,
}

/// What it means that a read ends.
enum End {
    /// The end.
    Final,
    /// That the host is away; for how long, while it is.
    Away(Option<Pin<Box<Sleep>>>),
}

/// Opens the port of virtio-serial. Only one program can have it open. Reading it ends while no
/// host is there, and goes on when one is.
///
/// # Errors
/// What opening it ended with.
pub fn open_port(path: &Path) -> io::Result<Line> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    Line::port(file.into())
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
                Ok(Ok((line, libc::VMADDR_CID_HOST))) => {
                    return Ok(Line { fd: fd::registered(line)?, end: End::Final });
                }
                Ok(Ok(_stranger)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_not_yet) => {}
            }
        }
    }
}

impl Line {
    fn port(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { fd: fd::registered(fd)?, end: End::Away(None) })
    }

    /// Has the runtime look at the descriptor anew, see [`Had::Stale`].
    fn look_anew(&mut self, cx: &Context<'_>) -> io::Result<()> {
        let fd = self.fd.get_ref().try_clone()?;
        self.fd = fd::registered(fd)?;
        // Who waited for the old one to be ready to write is asked again.
        cx.waker().wake_by_ref();
        Ok(())
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        loop {
            if let End::Away(Some(away)) = &mut this.end {
                ready!(away.as_mut().poll(cx));
            }
            match (ready!(fd::read(&this.fd, cx, buffer)), &mut this.end) {
                // For the first time; a read of nothing but that is one into no buffer.
                (Had::Done(Ok(())), End::Away(away @ None)) if buffer.filled().len() == before => {
                    *away = Some(Box::pin(tokio::time::sleep(AWAY)));
                }
                (Had::Done(read), end) => {
                    end.forget();
                    return Poll::Ready(read);
                }
                (Had::Stale, end) => {
                    end.forget();
                    this.look_anew(cx)?;
                }
            }
        }
    }
}

impl End {
    /// What is read next is judged anew.
    fn forget(&mut self) {
        if let Self::Away(away) = self {
            *away = None;
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(fd::write(&self.fd, cx, bytes)) {
            Had::Done(written) => Poll::Ready(written),
            // Whoever reads finds out whether its host is there: it ends the line, or has it looked at
            // anew, and both wake who writes.
            Had::Stale => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// A pipe by name, which is as a port: its reader hears of an end, and goes on with the next writer.
    fn port(path: &Path) -> Line {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
        Line::port(file.into()).unwrap()
    }

    #[tokio::test]
    async fn a_host_that_is_back_at_once_was_not_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("port");
        let mut line = port(&path);
        let host = || OpenOptions::new().write(true).open(&path).unwrap();
        drop(host());
        let mut bytes = [0; 5];
        let read = tokio::time::timeout(AWAY / 4, line.read(&mut bytes)).await;
        assert!(read.is_err(), "it was said to be away: {read:?}");
        let mut next = host();
        next.write_all(b"hello").unwrap();
        assert_eq!(line.read(&mut bytes).await.unwrap(), 5);
        // It may be away again, and for good.
        drop(next);
        assert_eq!(line.read(&mut bytes).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_line_whose_host_was_away_costs_nothing_while_nothing_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("port");
        let mut line = port(&path);
        let host = || OpenOptions::new().write(true).open(&path).unwrap();
        drop(host());
        assert_eq!(line.read(&mut [0; 8]).await.unwrap(), 0, "it is away");
        let mut next = host();
        let mut polls = 0;
        let mut bytes = [0; 8];
        let waits = std::future::poll_fn(|cx| {
            polls += 1;
            Pin::new(&mut line).poll_read(cx, &mut ReadBuf::new(&mut bytes))
        });
        assert!(tokio::time::timeout(Duration::from_millis(200), waits).await.is_err());
        assert!(polls < 10, "asked {polls} times");
        next.write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        line.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"hello");
    }
}
