//! Messages with file descriptors over a stream between two halves of the same program.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, recv, recvmsg, send as send_bytes, sendmsg,
};

/// The longest message; the longest order holds one line of the protocol.
const MAX_BYTES: usize = 2 * crate::protocol::MAX_LINE_BYTES;
/// The most descriptors of one message.
pub(super) const MAX_FDS: usize = 5;

/// Sends a message: its length with the descriptors, then itself.
pub(super) fn send(socket: BorrowedFd<'_>, text: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let length = u32::try_from(text.len()).map_err(io::Error::other)?.to_be_bytes();
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let sent = again(|| {
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&length)], control, MsgFlags::MSG_NOSIGNAL, None)
    })?;
    if sent != length.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let mut rest = text;
    while !rest.is_empty() {
        let sent = again(|| send_bytes(socket.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL))?;
        rest = rest.get(sent..).unwrap_or_default();
    }
    Ok(())
}

/// Receives a message. The end of the stream is an error.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut length = [0u8; 4];
    let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut fds = Vec::new();
    let received = again(|| {
        let mut buffers = [IoSliceMut::new(&mut length)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_WAITALL;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut buffers, Some(&mut space), flags)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
                fds.extend(numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        Ok(message.bytes)
    })?;
    if received != length.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; length];
    let mut filled = 0;
    while let Some(rest) = text.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match again(|| recv(socket.as_raw_fd(), rest, MsgFlags::empty()))? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => filled += n,
        }
    }
    Ok((text, fds))
}

fn again<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other.map_err(Into::into),
        }
    }
}
