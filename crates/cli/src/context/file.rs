//! The file of contexts: read whole, changed under a lock, replaced by rename.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clawfarm_model::{Code, Error};
use rustix::fs::{FlockOperation, flock};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Named;

/// The form of the file that this program writes.
const VERSION: u32 = 1;
/// The most that is read of the file: thousands of contexts.
const SIZE_MAX: u64 = 1 << 20;

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Contexts {
    version: u32,
    /// The one that is used where nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// By name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Named>,
}

impl Default for Contexts {
    fn default() -> Self {
        Self { version: VERSION, current: None, contexts: BTreeMap::new() }
    }
}

/// The file's path.
fn path() -> Result<PathBuf, Error> {
    Ok(config_folder()?.join("clawfarm").join("contexts.json"))
}

/// The folder of the user's configuration: `XDG_CONFIG_HOME`, or `~/.config`.
pub(crate) fn config_folder() -> Result<PathBuf, Error> {
    let given = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    given("XDG_CONFIG_HOME")
        .or_else(|| std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(".config")))
        .ok_or_else(|| {
            Error::invalid("HOME", "you have no home folder to keep your configuration in")
                .fix("set HOME or XDG_CONFIG_HOME to a folder of yours")
        })
}

/// The contexts; none when there is no file.
pub(crate) fn read() -> Result<Contexts, Error> {
    read_from(&path()?)
}

fn read_from(path: &Path) -> Result<Contexts, Error> {
    let failed = |e: io::Error| {
        Error::new(Code::InvalidInput, format!("the contexts can't be read from {}: {e}", path.display()))
            .field("context")
            .source(e)
    };
    let file = match OpenOptions::new().read(true).custom_flags(libc_nofollow()).open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Contexts::default());
        }
        Err(e) => return Err(failed(e).fix("make it a file that you can read")),
    };
    check_private(path, &file).map_err(|e| e.field("context"))?;
    let mut text = String::new();
    file.take(SIZE_MAX).read_to_string(&mut text).map_err(failed)?;
    let damaged = |why: String| {
        Error::new(Code::InvalidInput, format!("{} is damaged: {why}", path.display()))
            .field("context")
            .fix("mend it, or remove it and add the contexts anew")
    };
    // What serde says of a wrong value may quote it, and a value may be a token.
    let read: Contexts = serde_json::from_str(&text)
        .map_err(|e| damaged(format!("line {}, column {}", e.line(), e.column())))?;
    if read.version > VERSION {
        return Err(Error::new(
            Code::Unsupported,
            format!("{} was written by a newer clawfarm (form {})", path.display(), read.version),
        )
        .fix("use that version"));
    }
    if let Some(name) = read.contexts.keys().find(|name| super::name(name).is_err()) {
        return Err(damaged(format!("'{}' is no context's name", name.escape_debug())));
    }
    Ok(read)
}

/// `O_NOFOLLOW`: somebody else's link is not followed to a file of ours.
fn libc_nofollow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
}

fn check_private(path: &Path, file: &File) -> Result<(), Error> {
    let found =
        file.metadata().map_err(|e| Error::internal(format!("{} can't be looked at", path.display()), e))?;
    let me = rustix::process::geteuid().as_raw();
    if !found.is_file() || found.uid() != me {
        return Err(Error::new(
            Code::Forbidden,
            format!("{} is not a file of yours, so it is not trusted", path.display()),
        )
        .fix("remove it, and add the contexts anew"));
    }
    if found.mode() & 0o077 != 0 {
        return Err(Error::new(
            Code::Forbidden,
            format!(
                "others can read {}, which holds tokens (mode {:o})",
                path.display(),
                found.mode() & 0o777
            ),
        )
        .fix(format!(
            "chmod 600 '{}'; if others may have read it, give those servers new tokens",
            path.display()
        )));
    }
    Ok(())
}

/// The contexts while they are changed: whoever else changes them waits.
pub(crate) struct Changing {
    /// To be changed, and then kept.
    pub(crate) contexts: Contexts,
    path: PathBuf,
    _lock: File,
}

impl Changing {
    /// Reads them, and keeps others from changing them.
    pub(crate) fn begin() -> Result<Self, Error> {
        Self::begin_at(path()?)
    }

    fn begin_at(path: PathBuf) -> Result<Self, Error> {
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let failed = |e: io::Error| unwritable(&path, e);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(folder.join("contexts.lock"))
            .map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| unwritable(&path, e.into()))?;
        Ok(Self { contexts: read_from(&path)?, path, _lock: lock })
    }

    /// Replaces the file: it is the old one or the new one, whatever happens.
    pub(crate) fn keep(self) -> Result<(), Error> {
        let failed = |e: io::Error| unwritable(&self.path, e);
        let mut text = serde_json::to_vec_pretty(&self.contexts)
            .map_err(|e| Error::internal("the contexts can't be written as JSON", e))?;
        text.push(b'\n');
        let new = self.path.with_extension("json.new");
        // Left by a command that was cut off; it may have another mode.
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&new, &self.path).map_err(failed)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        Ok(())
    }
}

fn unwritable(path: &Path, error: io::Error) -> Error {
    Error::new(Code::Internal, format!("{} can't be written: {error}", path.display()))
        .fix("check the folder's owner, and that the disk is not full")
        .source(error)
}

pub(super) fn write_token<S: Serializer>(token: &SecretString, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(token.expose_secret())
}

pub(super) fn read_token<'de, D: Deserializer<'de>>(from: D) -> Result<SecretString, D::Error> {
    String::deserialize(from).map(SecretString::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn named(token: &str) -> Named {
        Named { server: "https://farm.example".into(), ca: None, token: SecretString::from(token.to_owned()) }
    }

    fn add(path: &Path, name: &str) {
        let mut changing = Changing::begin_at(path.to_owned()).expect("begun");
        changing.contexts.contexts.insert(name.to_owned(), named("sesame"));
        changing.keep().expect("kept");
    }

    #[test]
    fn what_is_kept_is_read_again_and_nobody_else_reads_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("clawfarm").join("contexts.json");
        assert!(read_from(&path).expect("none yet").contexts.is_empty());
        add(&path, "one");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().expect("a folder"))), (0o600, 0o700));
        let read = read_from(&path).expect("read");
        assert_eq!(read.contexts["one"].token.expose_secret(), "sesame");
        assert!(!format!("{read:?}").contains("sesame"));
    }

    #[test]
    fn changes_at_the_same_time_are_all_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("contexts.json");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = &path;
                scope.spawn(move || add(path, &format!("c{n}")));
            }
        });
        assert_eq!(read_from(&path).expect("read").contexts.len(), 8);
    }

    #[test]
    fn a_file_that_others_can_read_or_made_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("contexts.json");
        add(&path, "one");
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            let refused = read_from(&path).expect_err("refused");
            assert_eq!(refused.code(), Code::Forbidden, "{mode:o}");
            assert!(refused.fix_text().is_some_and(|fix| fix.contains("chmod 600")));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        let moved = folder.path().join("moved.json");
        fs::rename(&path, &moved).expect("moved");
        std::os::unix::fs::symlink(&moved, &path).expect("linked");
        assert!(read_from(&path).is_err(), "a link is not followed");
    }

    #[test]
    fn a_damaged_file_is_told_without_what_it_holds() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("contexts.json");
        let write = |text: &str| {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)
                .expect("opened");
            file.write_all(text.as_bytes()).expect("written");
            read_from(&path).expect_err("damaged")
        };
        let error = write(r#"{"version":1,"contexts":{"a":{"server":7,"token":"sesame"}}}"#);
        assert!(error.message().contains("line 1") && !error.message().contains("sesame"), "{error}");
        let error = write(r#"{"version":1,"contexts":"sesame"}"#);
        assert!(!error.message().contains("sesame"), "{error}");
        assert_eq!(write(r#"{"version":2}"#).code(), Code::Unsupported);
        write(r#"{"version":1,"contexts":{"../a":{"server":"/s","token":"t"}}}"#);
    }
}
