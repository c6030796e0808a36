//! Files as the world needs them: replaced whole, locked, watched for change; and the clock.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clawfarm_model::{Code, Error, Result, Timestamp};

/// A file changed so shortly before it was read may change again without its time changing:
/// kernels keep times to about 10 ms.
const RACY_NANOS: i128 = 50_000_000;

/// What tells one state of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    modified: i128,
    size: u64,
}

impl Stamp {
    pub(crate) fn of(meta: &fs::Metadata) -> Self {
        let modified = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        Self { inode: meta.ino(), modified, size: meta.size() }
    }

    /// Whether the file can't have changed since without another stamp.
    pub(crate) fn is_settled(self) -> bool {
        i128::from(nanos()) - self.modified > RACY_NANOS
    }
}

/// Now, in milliseconds since the epoch.
pub(crate) fn now() -> i64 {
    Timestamp::now().as_millis()
}

/// Now, in nanoseconds since the epoch.
pub(crate) fn nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Keeps every other process, and thread, out until the guard is dropped.
pub(crate) fn lock_file(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|e| unreadable(path, e))?;
    file.lock().map_err(|e| unreadable(path, e))?;
    Ok(file)
}

/// Replaces a file whole: a reader, and whoever is left after a kill, sees the old or the new.
pub(crate) fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    if mode & 0o200 == 0 {
        // What a killed process of this id left can't be opened for writing.
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(contents)?;
    drop(file);
    fs::rename(&temporary, path)
}

/// Removes something that may be gone already.
pub(crate) fn remove(path: &Path, how: impl FnOnce(PathBuf) -> io::Result<()>) -> Result<()> {
    match how(path.to_owned()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(broken(path, "removed", e)),
        _ => Ok(()),
    }
}

/// The error of a world that can't be changed.
pub(crate) fn broken(path: &Path, what: &str, error: io::Error) -> Error {
    let code = if error.kind() == io::ErrorKind::StorageFull { Code::Insufficient } else { Code::Internal };
    Error::new(code, format!("{} of the simulated world can't be {what}: {error}", path.display()))
        .fix("look at the folder's disk and permissions")
        .source(error)
}

/// The error of a world that can't be seen: unknown, never absent.
pub(crate) fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::new(Code::Unavailable, format!("the simulated world does not answer: {error}"))
        .fix(format!("look at {}", path.display()))
        .source(error)
}
