//! Writing an archive.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions, read_dir, read_link, symlink_metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clawfarm_files::{Folder, io_error};
use clawfarm_model::{Code, Error, Result, Timestamp};
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::closing::Closing;
use crate::manifest::{
    ENTRIES_MAX, Entry, FORMAT, LeftOut, MANIFEST_MAX, Manifest, Origin, PARTS, What, stays,
};
use crate::{MANIFEST, PIECE};

/// Zstandard's own default: a tenth of the time of the next better third.
const LEVEL: i32 = 3;
/// The most that is told of what was left out; a claw could fill the manifest with it.
const LEFT_OUT_MAX: usize = 1_000;

/// Writes the archive of a tree that nobody changes meanwhile: a folder of the server's own with
/// some of [`PARTS`] in it. `left_out` is what was not even copied into it. `advance` hears how
/// many bytes of files are written so far, and ends it with an error.
///
/// # Errors
/// When a file can't be read, or the archive not be written; what was written then is no archive.
pub fn pack(
    tree: &Path,
    origin: Origin,
    mut left_out: Vec<LeftOut>,
    to: impl Write,
    advance: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Manifest> {
    let mut entries = Vec::new();
    for part in PARTS {
        let walk = Walk { tree, part: tree.join(part), entries: &mut entries, left_out: &mut left_out };
        walk.begin(Path::new(part), advance)?;
    }
    left_out.truncate(LEFT_OUT_MAX);
    let manifest = Manifest {
        format: FORMAT,
        clawfarm: env!("CARGO_PKG_VERSION").to_owned(),
        created_at: Timestamp::now(),
        origin,
        entries,
        left_out,
    };
    // What can't be read again is no backup: better told now than then.
    manifest.check().map_err(|e| {
        Error::new(Code::Unsupported, format!("its data can't be put into an archive: {}", e.message()))
    })?;
    let text = serde_json::to_vec(&manifest)
        .map_err(|e| Error::internal("the manifest could not be put into JSON", e))?;
    if text.len() as u64 > MANIFEST_MAX {
        return Err(too_many(&format!("its manifest has {} MiB", text.len() >> 20)));
    }
    let failed = |e| io_error("write the archive", e);
    let mut packed = zstd::Encoder::new(Closing::new(to), LEVEL).map_err(failed)?;
    packed.include_checksum(true).map_err(failed)?;
    let mut writing = Writing { tar: tar::Builder::new(packed), tree, written: 0, advance };
    writing.manifest(&manifest, &text)?;
    for entry in &manifest.entries {
        writing.entry(&manifest, entry)?;
    }
    let closing = writing.tar.into_inner().and_then(zstd::Encoder::finish).map_err(failed)?;
    closing.finish().map_err(failed)?;
    Ok(manifest)
}

fn too_many(what: &str) -> Error {
    Error::new(Code::Insufficient, format!("its data has too many files for an archive: {what}"))
        .fix("have the claw remove what it does not need (node_modules, caches), then try again")
}

/// A walk over one part, each folder before what is in it, by name.
struct Walk<'a> {
    tree: &'a Path,
    part: PathBuf,
    entries: &'a mut Vec<Entry>,
    left_out: &'a mut Vec<LeftOut>,
}

impl Walk<'_> {
    fn begin(mut self, part: &Path, advance: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        match symlink_metadata(&self.part) {
            Ok(found) if found.is_dir() => self.entry(part, &found, advance),
            Ok(_) => {
                Err(Error::internal("a part of the copied data is no folder", part.display().to_string()))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(unread(part, e)),
        }
    }

    fn entry(
        &mut self,
        path: &Path,
        found: &Metadata,
        advance: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        advance(0)?;
        if self.entries.len() >= ENTRIES_MAX {
            return Err(too_many(&format!("more than {ENTRIES_MAX}")));
        }
        let mode = found.mode() & 0o777;
        let kind = found.file_type();
        if kind.is_dir() {
            self.push(path, What::Folder { mode });
            return self.folder(path, advance);
        }
        if kind.is_file() {
            let (size, sha256) = self.hash(path, advance)?;
            self.push(path, What::File { size, mode, mtime: found.mtime(), sha256 });
        } else if kind.is_symlink() {
            let target = read_link(self.tree.join(path)).map_err(|e| unread(path, e))?;
            if stays(path, &target) && !leaves(&self.part, path) {
                self.push(path, What::Link { target });
            } else {
                self.leave_out(path, "a link that leads out of the claw's folder");
            }
        } else {
            self.leave_out(path, "a socket, pipe or device");
        }
        Ok(())
    }

    fn folder(&mut self, path: &Path, advance: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let mut names: Vec<OsString> = Vec::new();
        for entry in read_dir(self.tree.join(path)).map_err(|e| unread(path, e))? {
            names.push(entry.map_err(|e| unread(path, e))?.file_name());
        }
        names.sort();
        for name in names {
            let path = path.join(name);
            let found = symlink_metadata(self.tree.join(&path)).map_err(|e| unread(&path, e))?;
            self.entry(&path, &found, advance)?;
        }
        Ok(())
    }

    fn hash(&self, path: &Path, advance: &mut dyn FnMut(u64) -> Result<()>) -> Result<(u64, String)> {
        let mut file = open(&self.tree.join(path)).map_err(|e| unread(path, e))?;
        let (mut hash, mut size, mut piece) = (Sha256::new(), 0_u64, vec![0; PIECE]);
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok((size, hex(&hash.finalize()))),
                Ok(read) => {
                    hash.update(&piece[..read]);
                    size += read as u64;
                    advance(0)?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(unread(path, e)),
            }
        }
    }

    fn push(&mut self, path: &Path, what: What) {
        self.entries.push(Entry { path: path.to_owned(), what });
    }

    fn leave_out(&mut self, path: &Path, why: &str) {
        self.left_out.push(LeftOut { path: path.to_owned(), why: why.to_owned() });
    }
}

/// Whether a link leads out of its part by way of other links, though its text does not say so.
pub(crate) fn leaves(part: &Path, link: &Path) -> bool {
    let within: PathBuf = link.components().skip(1).collect();
    Folder::open(part).map_or(true, |folder| folder.leads_out(&within))
}

fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn unread(path: &Path, error: io::Error) -> Error {
    io_error(format!("read '{}' of the copied data", path.to_string_lossy().escape_debug()), error)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Writing<'a, W: Write> {
    tar: tar::Builder<W>,
    tree: &'a Path,
    written: u64,
    advance: &'a mut dyn FnMut(u64) -> Result<()>,
}

impl<W: Write> Writing<'_, W> {
    fn manifest(&mut self, manifest: &Manifest, text: &[u8]) -> Result<()> {
        let top = manifest.origin.id.as_str();
        let failed = |e| io_error("write the archive", e);
        let mut folder = header(EntryType::Directory, 0o700, 0, 0);
        self.tar.append_data(&mut folder, format!("{top}/"), io::empty()).map_err(failed)?;
        let mut header = header(EntryType::Regular, 0o600, text.len() as u64, 0);
        self.tar.append_data(&mut header, format!("{top}/{MANIFEST}"), text).map_err(failed)
    }

    fn entry(&mut self, manifest: &Manifest, entry: &Entry) -> Result<()> {
        let path = Path::new(manifest.origin.id.as_str()).join(&entry.path);
        let failed = |e| {
            io_error(format!("write '{}' into the archive", entry.path.to_string_lossy().escape_debug()), e)
        };
        match &entry.what {
            What::Folder { mode } => {
                let mut header = header(EntryType::Directory, *mode, 0, 0);
                self.tar.append_data(&mut header, path, io::empty()).map_err(failed)
            }
            What::Link { target } => {
                let mut header = header(EntryType::Symlink, 0o777, 0, 0);
                self.tar.append_link(&mut header, path, target).map_err(failed)
            }
            What::File { size, mode, mtime, .. } => {
                let mut header = header(EntryType::Regular, *mode, *size, u64::try_from(*mtime).unwrap_or(0));
                let file = open(&self.tree.join(&entry.path)).map_err(failed)?;
                let mut stopped = None;
                let counted = Counted {
                    inner: file.take(*size),
                    left: *size,
                    count: &mut |bytes| {
                        self.written += bytes;
                        (self.advance)(self.written).map_err(|e| {
                            let told = io::Error::other(e.message().to_owned());
                            stopped = Some(e);
                            told
                        })
                    },
                };
                let done = self.tar.append_data(&mut header, path, counted).map_err(failed);
                stopped.map_or(done, Err)
            }
        }
    }
}

/// Ends with an error where a file is shorter than it was.
struct Counted<'a, R> {
    inner: R,
    left: u64,
    count: &'a mut dyn FnMut(u64) -> io::Result<()>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(to)?;
        self.left -= read as u64;
        if read == 0 && self.left > 0 && !to.is_empty() {
            return Err(io::Error::other("it became shorter"));
        }
        (self.count)(read as u64)?;
        Ok(read)
    }
}

fn header(kind: EntryType, mode: u32, size: u64, mtime: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(mtime);
    header.set_uid(0);
    header.set_gid(0);
    header
}
