//! Walks over a whole tree: its names, its size, its owner, its permissions.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, fstat, openat, statat,
};
use rustix::io::Errno;

use super::{Folder, MAX_DEPTH, Owner, kind};

/// The names in a folder, without `.` and `..`.
pub(super) fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// Visits every entry below a folder, folders before what is in them. `visit` gets the
/// folder an entry lies in, its name, what it is and its depth; entries that vanish meanwhile are left out.
///
/// # Errors
/// Below [`MAX_DEPTH`] levels the walk ends with an error: it would hold too many folders open.
pub(super) fn walk(
    folder: BorrowedFd<'_>,
    visit: &mut dyn FnMut(BorrowedFd<'_>, &OsStr, &Stat) -> io::Result<()>,
) -> io::Result<()> {
    walk_level(folder, 0, visit)
}

fn walk_level(
    folder: BorrowedFd<'_>,
    depth: usize,
    visit: &mut dyn FnMut(BorrowedFd<'_>, &OsStr, &Stat) -> io::Result<()>,
) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("its folders are nested deeper than {MAX_DEPTH} levels"),
        ));
    }
    for name in names(folder)? {
        let stat = match statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(e.into()),
        };
        visit(folder, &name, &stat)?;
        if kind(&stat) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(folder, &name, flags, Mode::empty()) {
                Ok(inner) => walk_level(inner.as_fd(), depth + 1, visit)?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}

/// What the files below a folder take up on disk, in bytes. A tree that can't be walked to
/// its end counts as far as it could be.
pub fn size_on_disk(folder: &Folder) -> u64 {
    let mut bytes = 0_u64;
    let walked = walk(folder.fd(), &mut |_, _, stat| {
        // `st_blocks` counts 512-byte units whatever the file system's block size (stat(2)).
        bytes = bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512));
        Ok(())
    });
    if let Err(e) = walked {
        tracing::debug!(error = %e, "a tree could not be measured to its end");
    }
    bytes
}

/// Gives a folder and everything below it to `owner`, links themselves and not what they
/// lead to.
///
/// A file with several names is left alone unless it belongs to a user id of ours already:
/// its other name may lie outside.
pub fn give_to(folder: &Folder, owner: Owner, ours: impl Fn(u32) -> bool) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)));
    let me = rustix::process::geteuid().as_raw();
    walk(folder.fd(), &mut |at, name, stat| {
        if stat.st_uid == owner.uid && stat.st_gid == owner.gid {
            return Ok(());
        }
        let many_names = kind(stat) != FileType::Directory && stat.st_nlink > 1;
        if many_names && !ours(stat.st_uid) {
            return Ok(());
        }
        if stat.st_uid != me && !ours(stat.st_uid) {
            tracing::debug!(?name, uid = stat.st_uid, "a file of another user changes its owner");
        }
        match chownat(at, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    })?;
    owner.apply(folder.fd())
}

/// Makes a tree readable for everyone and writable for no one, itself apart: a folder that
/// nobody may write to could not be renamed into place any more.
pub fn share_read_only(folder: &Folder) -> io::Result<()> {
    walk(folder.fd(), &mut |at, name, stat| {
        let kind = kind(stat);
        if kind != FileType::Directory && kind != FileType::RegularFile {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = openat(at, name, flags, Mode::empty())?;
        let mode = fstat(&fd)?.st_mode;
        let run = if kind == FileType::Directory || mode & 0o111 != 0 { 0o111 } else { 0 };
        Ok(fchmod(&fd, Mode::from_raw_mode(0o444 | run))?)
    })
}
