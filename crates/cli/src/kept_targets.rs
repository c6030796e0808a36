//! The targets that were added to a server, beside its database: without them nobody would know
//! which container engine to ask for the claws when the database is lost.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clawfarm_model::name::TargetName;
use clawfarm_model::target::Target;
use clawfarm_model::{Code, Error, Result};

/// Their folder in the home; made with the first.
const FOLDER: &str = "targets";

/// Keeps one, or what it is now.
pub(crate) fn keep(home: &Path, target: &Target) -> Result<()> {
    let path = path(home, &target.name);
    let text = serde_json::to_vec_pretty(target)
        .map_err(|e| Error::internal("a target could not be put into JSON", e))?;
    if fs::read(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let folder = home.join(FOLDER);
    let part = folder.join(format!(".{}.{}", target.name, std::process::id()));
    let write = || -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&part, &path)?;
        File::open(&folder)?.sync_all()
    };
    write().map_err(|e| {
        // Half of one is of no use.
        let _ = fs::remove_file(&part);
        failed("written", &path, e)
    })
}

/// Keeps one no longer.
pub(crate) fn forget(home: &Path, name: &TargetName) -> Result<()> {
    let path = path(home, name);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(failed("removed", &path, e)),
        _ => Ok(()),
    }
}

/// All that are kept; of one that can't be read, why.
pub(crate) fn all(home: &Path) -> Result<Vec<Result<Target>>> {
    let folder = home.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed("listed", &folder, e)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| failed("listed", &folder, e))?.path();
        // What was being written when its server died begins with a dot.
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths.iter().map(|path| read(path)).collect())
}

fn read(path: &Path) -> Result<Target> {
    let bytes = fs::read(path).map_err(|e| failed("read", path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| {
        Error::new(Code::InvalidInput, format!("'{}' is damaged: {e}", path.display()))
            .fix("put back the file from a backup, or add the target again: clawfarm target add NAME --socket PATH")
    })
}

fn path(home: &Path, name: &TargetName) -> PathBuf {
    home.join(FOLDER).join(format!("{name}.json"))
}

fn failed(verb: &str, path: &Path, error: io::Error) -> Error {
    Error::new(Code::Unavailable, format!("'{}' can't be {verb}: {error}", path.display()))
        .fix("check the folder's owner and that the disk is not full")
        .source(error)
}

#[cfg(test)]
mod tests {
    use clawfarm_model::target::RuntimeKind;

    use super::*;

    #[test]
    fn what_is_kept_is_found_until_it_is_forgotten() {
        let home = tempfile::tempdir().unwrap();
        assert!(all(home.path()).unwrap().is_empty());
        let mut target = Target {
            name: TargetName::new("podman").unwrap(),
            runtime: RuntimeKind::Docker,
            labels: Default::default(),
            reachable_from: None,
            settings: serde_json::json!({ "socket": "/run/podman/podman.sock" }),
        };
        keep(home.path(), &target).unwrap();
        target.settings["base_image"] = "debian:12-slim".into();
        keep(home.path(), &target).unwrap();
        fs::write(home.path().join("targets/bad.json"), "{").unwrap();
        fs::write(home.path().join("targets/.podman.7"), "{").unwrap();
        let found = all(home.path()).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        let bad = found[0].as_ref().unwrap_err();
        assert!(bad.message().contains("bad.json") && bad.fix_text().is_some(), "{bad}");
        assert_eq!(found[1].as_ref().unwrap(), &target);
        for _ in 0..2 {
            forget(home.path(), &target.name).unwrap();
        }
        assert_eq!(all(home.path()).unwrap().len(), 1);
    }
}
