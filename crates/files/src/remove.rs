//! Removing what a claw made, however it is nested, locked away or linked.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::walk::names;

/// How deep the removal goes down with open folders; what lies deeper is moved up first.
const DEPTH: usize = 64;

/// Removes `name` from `folder`. Links are removed, never followed; a folder that forbids
/// access is opened up first; nesting of any depth needs at most [`DEPTH`] open folders.
pub(super) fn remove(folder: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> io::Result<()> {
    let name = name.as_ref();
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says EISDIR, POSIX says EPERM for a folder.
        Err(Errno::ISDIR | Errno::PERM) if is_folder(folder, name)? => {}
        Err(e) => return Err(e.into()),
    }
    let Some(top) = enter(folder, name)? else { return Ok(()) };
    let mut deep = Deep { top: &top, moved: 0 };
    // What was too deep now lies directly in `top`: it is emptied until nothing comes up.
    while !names(top.as_fd())?.is_empty() {
        deep.empty(top.as_fd(), 1)?;
    }
    gone(unlinkat(folder, name, AtFlags::REMOVEDIR))
}

struct Deep<'a> {
    top: &'a OwnedFd,
    moved: u64,
}

impl Deep<'_> {
    fn empty(&mut self, folder: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        for name in names(folder)? {
            match unlinkat(folder, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) if is_folder(folder, &name)? => {}
                Err(e) => return Err(e.into()),
            }
            if depth >= DEPTH {
                self.lift(folder, &name)?;
                continue;
            }
            let Some(inner) = enter(folder, &name)? else { continue };
            self.empty(inner.as_fd(), depth + 1)?;
            drop(inner);
            gone(unlinkat(folder, &name, AtFlags::REMOVEDIR))?;
        }
        Ok(())
    }

    /// Moves a folder that lies too deep up to the top.
    fn lift(&mut self, folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        // Moving a folder writes its `..`: without the right to write to it that is refused.
        drop(enter(folder, name)?);
        loop {
            self.moved += 1;
            let target = OsString::from(format!(".clawfarm-deep-{}", self.moved));
            match renameat(folder, name, self.top, &target) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Opens a folder to empty it; `None` when it is gone or no folder any more.
fn enter(folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = match openat(folder, name, flags, Mode::empty()) {
        Ok(held) => held,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    open_up(held.as_fd())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(Some(openat(&held, ".", flags, Mode::empty())?))
}

/// Gives the owner every right to a folder again.
pub(super) fn open_up(folder: BorrowedFd<'_>) -> io::Result<()> {
    // `fchmod` refuses an O_PATH descriptor; its name in /proc leads to the very same folder.
    let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
    match rustix::fs::chmod(path.as_str(), Mode::RWXU) {
        // Not ours to open up: the removal itself will say so if that is in its way.
        Ok(()) | Err(Errno::PERM | Errno::ROFS) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn is_folder(folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
        Err(Errno::NOENT) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

fn gone(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
