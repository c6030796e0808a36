//! Copying an existing home in.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, SeekFrom, Timestamps, copy_file_range, fchmod, fstat, ftruncate,
    futimens, ioctl_ficlone, mkdirat, openat, readlinkat, seek, statat, symlinkat,
};
use rustix::io::Errno;

use super::walk::names;
use super::{Folder, MAX_DEPTH, kind};

/// What a copy did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of file contents that were copied.
    pub bytes: u64,
    /// What was left out: links that leave the folder, sockets, pipes and devices.
    pub left_out: Vec<PathBuf>,
}

/// Which symbolic links are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Those that lead to something within the folder: it is copied to another place.
    Within,
    /// All, as they are: the copy takes the folder's own place some day.
    All,
}

/// Copies everything in `from` into the empty folder `to`. Files share their blocks where
/// the file system can do that. Set-user-id bits are dropped. `advance` hears how many bytes are
/// copied so far, and ends the copy by returning `false`.
pub fn copy_tree(
    from: &Folder,
    to: &Folder,
    links: Links,
    advance: &mut dyn FnMut(u64) -> bool,
) -> io::Result<Copied> {
    let mut copy = Copy { root: from, links, done: Copied::default(), advance };
    copy.level(from.fd(), to.fd(), Path::new(""), 0)?;
    Ok(copy.done)
}

struct Copy<'a> {
    root: &'a Folder,
    links: Links,
    done: Copied,
    advance: &'a mut dyn FnMut(u64) -> bool,
}

impl Copy<'_> {
    fn level(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, at: &Path, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("its folders are nested deeper than {MAX_DEPTH} levels"),
            ));
        }
        for name in names(from)? {
            let path = at.join(&name);
            let stat = match statat(from, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e.into()),
            };
            match kind(&stat) {
                FileType::RegularFile => self.file(from, to, &name, &path)?,
                FileType::Directory => self.folder(from, to, &name, &path, depth)?,
                FileType::Symlink => self.link(from, to, &name, &path)?,
                _ => self.done.left_out.push(path),
            }
        }
        Ok(())
    }

    fn folder(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        depth: usize,
    ) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = openat(from, name, flags, Mode::empty())?;
        mkdirat(to, name, Mode::RWXU)?;
        let target = openat(to, name, flags, Mode::empty())?;
        self.level(source.as_fd(), target.as_fd(), path, depth + 1)?;
        let mode = fstat(&source)?.st_mode & 0o777;
        Ok(fchmod(&target, Mode::from_raw_mode(mode | 0o700))?)
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let source = File::from(openat(from, name, flags, Mode::empty())?);
        let stat = fstat(&source)?;
        if kind(&stat) != FileType::RegularFile {
            self.done.left_out.push(path.to_owned());
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = File::from(openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
        self.contents(&source, &target)?;
        let times = Timestamps {
            last_access: rustix::fs::Timespec {
                tv_sec: stat.st_atime,
                tv_nsec: i64::try_from(stat.st_atime_nsec).unwrap_or(0),
            },
            last_modification: rustix::fs::Timespec {
                tv_sec: stat.st_mtime,
                tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
            },
        };
        futimens(&target, &times)?;
        Ok(fchmod(&target, Mode::from_raw_mode(stat.st_mode & 0o777 | 0o600))?)
    }

    fn contents(&mut self, source: &File, target: &File) -> io::Result<()> {
        if ioctl_ficlone(target, source).is_ok() {
            return self.count(fstat(target)?.st_size.unsigned_abs());
        }
        // Where the file has holes, so has its copy: a claw must not fill the disk with a copy of
        // what takes no room itself.
        let mut at = 0;
        while let Some((begin, end)) = next_data(source, at)? {
            self.stretch(source, target, begin, end)?;
            at = end;
        }
        Ok(ftruncate(target, fstat(source)?.st_size.unsigned_abs())?)
    }

    fn stretch(&mut self, source: &File, target: &File, mut at: u64, end: u64) -> io::Result<()> {
        while at < end {
            let (mut from, mut to) = (at, at);
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 20);
            match copy_file_range(source, Some(&mut from), target, Some(&mut to), most) {
                // It became shorter.
                Ok(0) => return Ok(()),
                Ok(n) => {
                    self.count(n as u64)?;
                    at += n as u64;
                }
                Err(Errno::INTR) => {}
                // Across file systems, or on one that can't: by hand, from where it stopped.
                Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                    return self.by_hand(source, target, at, end);
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn by_hand(&mut self, source: &File, target: &File, mut at: u64, end: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let mut buffer = vec![0_u8; 1 << 16];
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let n = source.read_at(&mut buffer[..most], at)?;
            if n == 0 {
                return Ok(());
            }
            target.write_all_at(&buffer[..n], at)?;
            self.count(n as u64)?;
            at += n as u64;
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> io::Result<()> {
        self.done.bytes += bytes;
        if (self.advance)(self.done.bytes) {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::Interrupted, "the copy was called off"))
        }
    }

    fn link(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> io::Result<()> {
        if self.links == Links::All {
            return Ok(symlinkat(readlinkat(from, name, Vec::new())?.as_c_str(), to, name)?);
        }
        let target = PathBuf::from(OsStr::new(
            std::str::from_utf8(readlinkat(from, name, Vec::new())?.as_bytes()).unwrap_or("/"),
        ));
        let parent = path.parent().unwrap_or(Path::new(""));
        if !stays(parent, &target) || self.leaves(parent, &target) {
            self.done.left_out.push(path.to_owned());
            return Ok(());
        }
        Ok(symlinkat(&target, to, name)?)
    }

    /// Whether a link leaves the folder by way of other links, though its text does not say so.
    fn leaves(&self, parent: &Path, target: &Path) -> bool {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        self.root.leads_out(&parent.join(target))
    }
}

/// The next stretch of a file that is no hole, from `at` on; `None` behind the last.
fn next_data(source: &File, at: u64) -> io::Result<Option<(u64, u64)>> {
    let begin = match seek(source, SeekFrom::Data(at)) {
        Ok(begin) => begin,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that knows no holes: all of it is data.
        Err(Errno::INVAL) => {
            let size = fstat(source)?.st_size.unsigned_abs();
            return Ok((at < size).then_some((at, size)));
        }
        Err(e) => return Err(e.into()),
    };
    Ok(Some((begin, seek(source, SeekFrom::Hole(begin))?)))
}

/// Whether a relative link in the folder `parent` (itself relative) stays within by its text.
fn stays(parent: &Path, target: &Path) -> bool {
    let mut depth = parent.components().count();
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return false,
            },
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_text_tells_whether_it_stays() {
        for (parent, target, expected) in [
            ("", "a", true),
            ("", "../a", false),
            ("a/b", "../../c", true),
            ("a/b", "../../../c", false),
            ("a", "/etc/passwd", false),
            ("", "a/../b", true),
        ] {
            assert_eq!(stays(Path::new(parent), Path::new(target)), expected, "{parent} {target}");
        }
    }
}
