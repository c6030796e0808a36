//! Reading an archive: whole, or refused.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, set_permissions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clawfarm_files::{Folder, io_error};
use clawfarm_model::{Code, Result};
use sha2::{Digest, Sha256};
use tar::EntryType;

use crate::closing::Closed;
use crate::manifest::{Entry, MANIFEST_MAX, Manifest, What, wrong};
use crate::write::{hex, leaves};
use crate::{MANIFEST, PIECE, refused};

/// The largest window that is given to the decompressor, as a power of two: 8 MiB. What this
/// program writes has 2 MiB.
const WINDOW_LOG: u32 = 23;
/// What follows the last entry: two blocks of zeros, and padding.
const PADDING_MAX: usize = 1 << 16;
/// The longest name, in bytes: as many levels as there may be, each with the longest name.
const NAME_MAX: u64 = 1 << 16;

/// Unpacks an archive. `begin` hears what it is of before anything is written, and answers with the
/// folder to unpack it into, a new and empty one of the server's own; or refuses it. `advance` hears
/// how many bytes of files are written so far, and may end it. Returns that folder, too.
///
/// After an error the folder holds anything, and is to be removed.
///
/// # Errors
/// `InvalidInput` on `archive`, naming the entry, when it is damaged, cut off or not one that
/// [`crate::pack`] would have written; `Insufficient` when the disk is full.
pub fn unpack(
    archive: impl Read,
    begin: &mut dyn FnMut(&Manifest) -> Result<PathBuf>,
    advance: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<(PathBuf, Manifest)> {
    let mut packed = zstd::Decoder::with_buffer(BufReader::with_capacity(PIECE, Closed::new(archive)))
        .map_err(unreadable)?
        .single_frame();
    packed.window_log_max(WINDOW_LOG).map_err(unreadable)?;
    let mut tar = tar::Archive::new(packed);
    let mut entries = tar.entries().map_err(unreadable)?.raw(true);
    let manifest = manifest(&mut entries)?;
    let tree = begin(&manifest)?;
    let mut unpacking =
        Unpacking { tree: &tree, top: manifest.origin.id.as_str().into(), written: 0, advance };
    for wanted in &manifest.entries {
        let Some(found) = next(&mut entries)? else {
            return Err(wrong(&wanted.path, "it is missing"));
        };
        unpacking.entry(wanted, found)?;
    }
    if let Some(more) = next(&mut entries)? {
        return Err(wrong(&more.path, "its manifest does not know it"));
    }
    let mut packed = tar.into_inner();
    padding(&mut packed)?;
    let rest = packed.finish();
    if !rest.buffer().is_empty() {
        return Err(refused("there is more in the archive than its contents"));
    }
    rest.into_inner().close()?;
    finish(&tree, &manifest)?;
    Ok((tree, manifest))
}

/// What can't be read: the bytes are not those of an archive, or they did not come.
#[expect(clippy::needless_pass_by_value, reason = "it is what errors are mapped with")]
fn unreadable(error: io::Error) -> clawfarm_model::Error {
    let known = error.get_ref().and_then(|inner| inner.downcast_ref::<clawfarm_model::Error>());
    match known {
        // Whoever hands the bytes in says why there are no more.
        Some(known) => clawfarm_model::Error::from(known.report()),
        None => refused(format!("the archive is cut off or damaged: {error}")),
    }
}

fn padding(packed: &mut impl Read) -> Result<()> {
    let (mut piece, mut all) = ([0; 4096], 0);
    loop {
        let read = packed.read(&mut piece).map_err(unreadable)?;
        all += read;
        if piece[..read].iter().any(|byte| *byte != 0) || all > PADDING_MAX {
            return Err(refused("there is more in the archive than its contents"));
        }
        if read == 0 {
            return Ok(());
        }
    }
}

/// An entry, with the names that may stand in entries before it.
struct Found<'a, R: Read> {
    path: PathBuf,
    link: Option<PathBuf>,
    kind: EntryType,
    size: u64,
    contents: tar::Entry<'a, R>,
}

/// The next entry. The library would read names of any length into memory, so that is done here.
fn next<'a, R: Read>(entries: &mut tar::Entries<'a, R>) -> Result<Option<Found<'a, R>>> {
    let (mut long_name, mut long_link) = (None, None);
    for entry in entries.by_ref() {
        let mut entry = entry.map_err(unreadable)?;
        let kind = entry.header().entry_type();
        let name = match kind {
            EntryType::GNULongName => &mut long_name,
            EntryType::GNULongLink => &mut long_link,
            _ => {
                let path = match long_name {
                    Some(path) => path,
                    None => entry.path().map_err(unreadable)?.into_owned(),
                };
                let link = match long_link {
                    Some(link) => Some(link),
                    None => entry.link_name().map_err(unreadable)?.map(std::borrow::Cow::into_owned),
                };
                // A folder's name ends with a slash.
                let path = path.components().collect();
                return Ok(Some(Found { path, link, kind, size: entry.size(), contents: entry }));
            }
        };
        if name.is_some() || entry.size() > NAME_MAX {
            return Err(refused("the archive has a name that is too long"));
        }
        let mut text = Vec::new();
        entry.read_to_end(&mut text).map_err(unreadable)?;
        if text.last() == Some(&0) {
            text.pop();
        }
        *name = Some(PathBuf::from(OsString::from_vec(text)));
    }
    if long_name.is_some() || long_link.is_some() {
        return Err(refused("the archive ends with a name of nothing"));
    }
    Ok(None)
}

fn manifest<R: Read>(entries: &mut tar::Entries<'_, R>) -> Result<Manifest> {
    let none = || refused("it is no archive of an instance: it does not begin with a manifest");
    let top = next(entries)?.filter(|top| top.kind == EntryType::Directory).ok_or_else(none)?.path;
    let is_it = |found: &Found<'_, R>| found.kind == EntryType::Regular && found.path == top.join(MANIFEST);
    let found = next(entries)?.filter(is_it).ok_or_else(none)?;
    if found.size > MANIFEST_MAX {
        return Err(refused(format!(
            "its manifest has {} MiB, and {} are read",
            found.size >> 20,
            MANIFEST_MAX >> 20
        )));
    }
    let mut text = Vec::new();
    found.contents.take(MANIFEST_MAX).read_to_end(&mut text).map_err(unreadable)?;
    // Of another form only the form can be known.
    #[derive(serde::Deserialize)]
    struct Form {
        format: u32,
    }
    let unread = |e: serde_json::Error| refused(format!("its manifest can't be read: {e}"));
    let Form { format } = serde_json::from_slice(&text).map_err(unread)?;
    if format != crate::FORMAT {
        return Err(refused(format!(
            "the archive has the form {format}, and this clawfarm reads {}",
            crate::FORMAT
        ))
        .fix("use the version of clawfarm that wrote it, or a newer one"));
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(unread)?;
    manifest.check()?;
    if top != Path::new(manifest.origin.id.as_str()) {
        return Err(refused("its manifest is of another instance than its top folder"));
    }
    Ok(manifest)
}

struct Unpacking<'a> {
    tree: &'a Path,
    top: PathBuf,
    written: u64,
    advance: &'a mut dyn FnMut(u64) -> Result<()>,
}

impl Unpacking<'_> {
    fn entry<R: Read>(&mut self, wanted: &Entry, mut found: Found<'_, R>) -> Result<()> {
        let path = &wanted.path;
        if found.path != self.top.join(path) {
            let other = found.path.strip_prefix(&self.top).unwrap_or(&found.path).to_string_lossy();
            let other: String = other.chars().take(200).flat_map(char::escape_default).collect();
            return Err(wrong(path, &format!("'{other}' stands in its place")));
        }
        let kind = found.kind;
        match &wanted.what {
            What::Folder { .. } if kind == EntryType::Directory => {
                // Its own bits come when everything is in it.
                let made = DirBuilder::new().mode(0o700).create(self.tree.join(path));
                made.map_err(|e| unwritten(path, e))
            }
            What::Link { target } if kind == EntryType::Symlink => {
                if found.link.as_ref() != Some(target) {
                    return Err(wrong(path, "the link leads elsewhere than its manifest says"));
                }
                symlink(target, self.tree.join(path)).map_err(|e| unwritten(path, e))
            }
            What::File { size, mode, mtime, sha256 } if kind == EntryType::Regular => {
                if found.size != *size {
                    let what = format!("it has {} bytes, and should have {size}", found.size);
                    return Err(wrong(path, &what));
                }
                let (file, hash) = self.contents(path, &mut found.contents)?;
                if hash != *sha256 {
                    return Err(wrong(path, "its contents are not what was backed up (its SHA-256 differs)"));
                }
                let written = u64::try_from(*mtime)
                    .ok()
                    .and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at)));
                // What the calendar can't say is no reason to refuse a file.
                let _ = written.map(|at| file.set_modified(at));
                file.set_permissions(Permissions::from_mode(mode & 0o777 | 0o600))
                    .map_err(|e| unwritten(path, e))
            }
            _ => Err(wrong(path, "it is of another kind than its manifest says")),
        }
    }

    fn contents(&mut self, path: &Path, found: &mut impl Read) -> Result<(File, String)> {
        let full = self.tree.join(path);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(full)
            .map_err(|e| unwritten(path, e))?;
        let (mut hash, mut piece, mut size) = (Sha256::new(), vec![0; PIECE], 0_u64);
        loop {
            let read = match found.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(unreadable(e)),
            };
            hash.update(&piece[..read]);
            size += read as u64;
            // Where nothing but zeros is, nothing is written: a large file with little in it
            // must not fill the disk.
            if piece[..read].iter().all(|byte| *byte == 0) {
                file.seek(SeekFrom::Current(i64::try_from(read).unwrap_or(0)))
            } else {
                file.write_all(&piece[..read]).map(|()| 0)
            }
            .map_err(|e| unwritten(path, e))?;
            self.written += read as u64;
            (self.advance)(self.written)?;
        }
        file.set_len(size).map_err(|e| unwritten(path, e))?;
        Ok((file, hex(&hash.finalize())))
    }
}

/// Looks where the links lead now that all is there, gives the folders their own permission bits,
/// innermost first, and makes all of it durable.
fn finish(tree: &Path, manifest: &Manifest) -> Result<()> {
    for entry in &manifest.entries {
        if let What::Link { .. } = &entry.what {
            let part: PathBuf = entry.path.components().take(1).collect();
            if leaves(&tree.join(part), &entry.path) {
                return Err(wrong(&entry.path, "the link leads out of its folder by way of others"));
            }
        }
    }
    for entry in manifest.entries.iter().rev() {
        if let What::Folder { mode } = &entry.what {
            let bits = Permissions::from_mode(mode & 0o777 | 0o700);
            set_permissions(tree.join(&entry.path), bits).map_err(|e| unwritten(&entry.path, e))?;
        }
    }
    let synced = Folder::open(tree).and_then(|folder| folder.sync_file_system());
    synced.map_err(|e| io_error("write the archive's files to the disk", e))
}

fn unwritten(path: &Path, error: io::Error) -> clawfarm_model::Error {
    let error = io_error(format!("write '{}' of the archive", path.to_string_lossy().escape_debug()), error);
    if error.code() == Code::Insufficient { error } else { error.field("archive") }
}
