//! What this process does to itself.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Closes every descriptor from `first` up.
pub(crate) fn close_from(first: i32) {
    // SAFETY: callers are forked processes in which nothing uses these descriptors any more.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if closed == 0 {
        return;
    }
    // Kernels before 5.9.
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd >= first) {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
}

/// Gives every signal its default meaning back: ignored ones would stay ignored in the claw.
pub(crate) fn default_signals() {
    for each in Signal::iterator() {
        // SAFETY: sets no handler.
        let _ = unsafe { signal(each, SigHandler::SigDfl) };
    }
}

/// How many threads this process has.
pub(crate) fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// Takes the shim's own signals: SIGCHLD and SIGTERM arrive as events, and those that come
/// with a terminal or a broken connection are of no interest.
pub(crate) fn take_signals() -> io::Result<SignalFd> {
    for each in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        // SAFETY: sets no handler.
        unsafe { signal(each, SigHandler::SigIgn) }?;
    }
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.add(Signal::SIGTERM);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Lets go of the streams this process was started with.
pub(crate) fn leave_stdio() {
    if let (Ok(input), Ok(output)) = (dev_null(false), dev_null(true)) {
        replace(&input, 0);
        replace(&output, 1);
        replace(&output, 2);
    }
}

/// Sends what this process says of itself to a file. Without one it stays unsaid.
pub(crate) fn stderr_to(path: &Path) {
    let file = File::options().append(true).create(true).mode(0o600).open(path);
    if let Ok(file) = file {
        replace(&file.into(), 2);
    }
}

fn replace(fd: &OwnedFd, number: i32) {
    // SAFETY: the standard streams are owned by nobody in particular; both are open.
    unsafe { libc::dup2(fd.as_raw_fd(), number) };
}

/// Opens `/dev/null` for reading or writing.
pub(crate) fn dev_null(write: bool) -> io::Result<OwnedFd> {
    Ok(File::options().read(!write).write(write).open("/dev/null")?.into())
}

/// Makes reads and writes on a descriptor answer at once.
pub(crate) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open and the pointer is to a number, as the request wants it.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &raw const on) })?;
    Ok(())
}
