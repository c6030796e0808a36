//! Files below a folder that a hostile claw can write to.
//!
//! A claw may plant a symbolic link, a named pipe, a socket or a hard link wherever it can
//! write, and move folders about while the server works on them. So nothing here takes a
//! path apart by name and hopes: every step is relative to an open folder, resolved by
//! `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`, and every file is looked at
//! after it was opened, not before.

mod copy;
mod fault;
mod kept;
mod owner;
mod remove;
mod socket;
mod walk;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Uid, fchmod, fchown, fstat, fsync,
    mkdirat, openat2, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

pub use copy::{Copied, Links, copy_tree};
pub use fault::{blocking, io_error, join_error, told};
pub use kept::KeptCopy;
pub use owner::check_owner;
pub use socket::connect_own;
pub use walk::{give_to, share_read_only, size_on_disk};

/// How deep a tree may be nested before its walk stops going down: each level holds a
/// file descriptor open, and a claw must not be able to use up the server's.
pub const MAX_DEPTH: usize = 200;

/// Who owns a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Owner {
    /// The user with this number, and the group of the same number.
    pub const fn alone(uid: u32) -> Self {
        Self { uid, gid: uid }
    }

    fn apply(self, fd: impl AsFd) -> io::Result<()> {
        Ok(fchown(fd, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?)
    }
}

/// An open folder.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
}

/// What a new file gets.
#[derive(Clone, Copy, Debug)]
pub struct NewFile {
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, when it is not the server's user.
    pub owner: Option<Owner>,
    /// The owner of folders that are made on the way to it, 0700.
    pub folder_owner: Option<Owner>,
}

impl Folder {
    /// Opens a folder by a path that only the server's user can change.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// Opens it, or makes it (0700) with the folders on the way to it.
    pub fn open_or_make(path: &Path) -> io::Result<Self> {
        make_private(path)?;
        Self::open(path)
    }

    /// Its open descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens a folder below this one; `.` is this one again.
    pub fn folder(&self, relative: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { fd: beneath(self.fd(), relative.as_os_str(), flags)? })
    }

    /// Opens a folder below this one, and makes what is missing on the way, 0700.
    pub fn make_folder(&self, relative: &Path, owner: Option<Owner>) -> io::Result<Self> {
        let mut at = self.folder(Path::new("."))?;
        for part in parts(relative)? {
            at = at.make_one(part, owner)?;
        }
        Ok(at)
    }

    fn make_one(&self, name: &OsStr, owner: Option<Owner>) -> io::Result<Self> {
        match self.folder(Path::new(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        match mkdirat(self.fd(), name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let made = self.folder(Path::new(name))?;
        if let Some(owner) = owner {
            owner.apply(made.fd())?;
        }
        Ok(made)
    }

    /// Opens a plain file below this folder for reading; `None` when there is none.
    ///
    /// A pipe does not block, a device is not opened for use, a link is not followed: each
    /// is an error of kind `InvalidInput`.
    pub fn open_file(&self, relative: &Path) -> io::Result<Option<File>> {
        parts(relative)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = match beneath(self.fd(), relative.as_os_str(), flags) {
            Ok(fd) => fd,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            // A socket can't be opened at all.
            Err(e) if e.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                return Err(not_plain(relative));
            }
            Err(e) if is_link_error(&e) => return Err(not_plain(relative)),
            Err(e) => return Err(e),
        };
        if kind(&fstat(&fd)?) != FileType::RegularFile {
            return Err(not_plain(relative));
        }
        Ok(Some(File::from(fd)))
    }

    /// The contents of a plain file; `None` when there is none. A file above `limit` bytes is
    /// an error of kind `FileTooLarge`.
    pub fn read(&self, relative: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.open_file(relative)? else { return Ok(None) };
        let mut contents = Vec::new();
        // One byte more than allowed tells a file that is too large, even while it grows.
        file.take(limit.saturating_add(1)).read_to_end(&mut contents)?;
        if contents.len() as u64 > limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("'{}' is larger than {limit} bytes", relative.display()),
            ));
        }
        Ok(Some(contents))
    }

    /// Makes a new file in this folder and opens it for writing; one in its place is an error.
    pub fn create(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(beneath_new(self.fd(), name, flags, mode)?))
    }

    /// Writes a file in one step: whoever reads it sees the old contents or the new, also
    /// after a power cut. A link in its place is replaced, not followed.
    pub fn write(&self, relative: &Path, contents: &[u8], new: NewFile) -> io::Result<()> {
        let (parent, name) = split(relative)?;
        let parent = self.make_folder(parent, new.folder_owner)?;
        let temporary = temporary_name(name);
        remove::remove(parent.fd(), &temporary)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent.fd(), temporary.as_os_str(), flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(fd);
        let written = (|| {
            file.write_all(contents)?;
            if let Some(owner) = new.owner {
                owner.apply(&file)?;
            }
            fchmod(&file, Mode::from_raw_mode(new.mode))?;
            file.sync_all()?;
            renameat(parent.fd(), temporary.as_os_str(), parent.fd(), name)?;
            Ok(fsync(parent.fd())?)
        })();
        if written.is_err() {
            let _ = unlinkat(parent.fd(), temporary.as_os_str(), AtFlags::empty());
        }
        written
    }

    /// Removes a file, or a folder with all that is in it, without following a link. Gone
    /// already is a success.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        remove::remove(self.fd(), name)
    }

    /// The names in this folder, sorted.
    pub fn names(&self) -> io::Result<Vec<std::ffi::OsString>> {
        let mut names = walk::names(self.fd())?;
        names.sort();
        Ok(names)
    }

    /// Moves an entry to another folder of the same file system; an entry in its place is an
    /// error.
    pub fn move_to(&self, name: &OsStr, to: &Self, new_name: &OsStr) -> io::Result<()> {
        renameat_with(self.fd(), name, to.fd(), new_name, RenameFlags::NOREPLACE)?;
        fsync(to.fd())?;
        Ok(fsync(self.fd())?)
    }

    /// What an entry is; `None` when there is none. A link is a link.
    pub fn kind(&self, name: &OsStr) -> io::Result<Option<FileType>> {
        match statat(self.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(kind(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether what a path below it leads to, over whatever links, lies outside of it. What is
    /// not there lies nowhere.
    pub fn leads_out(&self, relative: &Path) -> bool {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(self.fd(), relative.as_os_str(), flags, Mode::empty(), resolve) {
                Ok(_) | Err(Errno::NOENT) => return false,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return true,
            }
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(walk::names(self.fd())?.is_empty())
    }

    /// Gives the owner every right to a folder in this one again, should its owner have
    /// locked it; not for what is no folder.
    pub fn unlock(&self, name: &OsStr) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = match rustix::fs::openat(self.fd(), name, flags, Mode::empty()) {
            Ok(held) => held,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        if fstat(&held)?.st_mode & 0o700 == 0o700 { Ok(()) } else { remove::open_up(held.as_fd()) }
    }

    /// Its owner.
    pub fn uid(&self) -> io::Result<u32> {
        Ok(fstat(&self.fd)?.st_uid)
    }

    /// Gives it, and not what is in it, to `owner`.
    pub fn give(&self, owner: Owner) -> io::Result<()> {
        owner.apply(self.fd())
    }

    /// Sets its permission bits.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(fchmod(&self.fd, Mode::from_raw_mode(mode))?)
    }

    /// Makes everything that was written to it durable.
    pub fn sync(&self) -> io::Result<()> {
        Ok(fsync(&self.fd)?)
    }

    /// Makes everything of its file system durable: one call for a tree of many files.
    pub fn sync_file_system(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.fd)?)
    }
}

/// Makes a folder of the server's own, 0700, with the folders on the way to it.
pub fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Opens below `folder` without following any link and without leaving it.
fn beneath(folder: BorrowedFd<'_>, path: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(folder, path, flags, Mode::empty(), resolve) {
            // The kernel saw a rename on the way and could not be sure: it says to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Makes and opens an entry of `folder` itself.
fn beneath_new(folder: BorrowedFd<'_>, name: &OsStr, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
    let (parent, name) = split(Path::new(name))?;
    if !parent.as_os_str().is_empty() {
        return Err(leaves(Path::new(name)));
    }
    Ok(rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(mode))?)
}

/// The parts of a path that stays below its folder.
fn parts(path: &Path) -> io::Result<Vec<&OsStr>> {
    path.components()
        .map(|part| match part {
            Component::Normal(name) => Ok(name),
            _ => Err(leaves(path)),
        })
        .collect()
}

/// A path's folder and its last part.
fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    parts(path)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name)),
        _ => Err(leaves(path)),
    }
}

fn leaves(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("'{}' is no path below the instance's folder", path.display()),
    )
}

fn not_plain(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("'{}' is no plain file, or a link leads to it", path.display()),
    )
}

fn is_link_error(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::LOOP | Errno::XDEV | Errno::NOTDIR)
    )
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Where a file is written before it is renamed into place. One name a file, so that what a
/// kill left behind is overwritten by the next attempt instead of piling up.
fn temporary_name(name: &OsStr) -> PathBuf {
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".clawfarm-tmp");
    PathBuf::from(temporary)
}

#[cfg(test)]
mod tests;
