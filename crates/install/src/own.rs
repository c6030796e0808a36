//! Software that the machine's owner has put there.

use std::path::{Path, PathBuf};

use clawfarm_files::io_error;
use clawfarm_model::launch::{OwnSoftware, SYSTEM_FOLDER};
use clawfarm_model::{Code, Error, Result};

/// Where the system's programs are: what every claw has in its `PATH`.
const PROGRAMS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The folder of some software, without links on the way: confinement names it to the kernel.
///
/// # Errors
/// `ClawFailed` when there is no such folder; `InvalidInput` when claws would see more of the
/// server's home in it than their own.
pub(crate) fn folder(own: &OwnSoftware, home: &Path, installs: &Path) -> Result<PathBuf> {
    let fix = own.install.as_deref();
    if let (Some(built), Some(program)) = (&own.built, &own.program) {
        let folder = installs.join(built);
        if folder.join("bin").join(program).is_file() {
            return folder
                .canonicalize()
                .map_err(|e| io_error(format!("look at the software in '{}'", folder.display()), e));
        }
    }
    if let Some(program) = &own.program
        && !PROGRAMS.iter().any(|folder| Path::new(folder).join(program).is_file())
    {
        return Err(missing(
            &format!("there is no program '{program}' in /usr/local/bin or /usr/bin"),
            "version",
            fix,
        ));
    }
    let Some(folder) = &own.folder else { return Ok(SYSTEM_FOLDER.into()) };
    let shown = folder.display();
    let found = match folder.canonicalize() {
        Ok(found) if found.is_dir() => found,
        Ok(_) => return Err(missing(&format!("'{shown}' is no folder"), "folder", fix)),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Err(missing(&format!("there is no folder '{shown}'"), "folder", fix));
        }
        Err(e) => return Err(io_error(format!("look at the software in '{shown}'"), e)),
    };
    if home.starts_with(&found) || found.starts_with(home) {
        return Err(Error::invalid("folder", format!("'{shown}' and the server's home lie in one another"))
            .fix("put the software into a folder of its own, such as /opt/mine"));
    }
    Ok(found)
}

fn missing(what: &str, field: &str, fix: Option<&str>) -> Error {
    let usual = "put it there, or correct the type's file (clawfarm type ls tells where that is)";
    Error::new(Code::ClawFailed, format!("the claw's software is not there: {what}"))
        .field(field)
        .fix(fix.unwrap_or(usual))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_only_when_it_shows_nothing_of_the_home() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (home, software) = (root.join("home"), root.join("software"));
        std::fs::create_dir_all(home.join("claws")).unwrap();
        std::fs::create_dir(&software).unwrap();
        std::os::unix::fs::symlink(&software, root.join("link")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        let own = |path: Option<&Path>, program: Option<&str>| OwnSoftware {
            folder: path.map(Path::to_owned),
            program: program.map(str::to_owned),
            built: None,
            install: None,
        };
        let installs = root.join("installs");
        let of = |path: &Path| folder(&own(Some(path), None), &home, &installs);
        assert_eq!(of(&root.join("link")).unwrap(), software);
        for (path, code) in [
            (root.clone(), Code::InvalidInput),
            (home.clone(), Code::InvalidInput),
            (home.join("claws"), Code::InvalidInput),
            (root.join("nowhere"), Code::ClawFailed),
            (root.join("file"), Code::ClawFailed),
        ] {
            let error = of(&path).unwrap_err();
            assert_eq!((error.code(), error.field_name()), (code, Some("folder")), "{}", path.display());
        }
        assert_eq!(folder(&own(None, Some("sh")), &home, &installs).unwrap(), Path::new("/usr"));
        // What was built for clawfarm goes before the system's.
        let built = OwnSoftware { built: Some("sh-1".to_owned()), ..own(None, Some("sh")) };
        assert_eq!(folder(&built, &home, &installs).unwrap(), Path::new("/usr"));
        std::fs::create_dir_all(installs.join("sh-1/bin")).unwrap();
        std::fs::write(installs.join("sh-1/bin/sh"), "").unwrap();
        assert_eq!(folder(&built, &home, &installs).unwrap(), installs.join("sh-1"));
        let error = folder(&own(None, Some("no-such-claw")), &home, &installs).unwrap_err();
        assert_eq!((error.code(), error.field_name()), (Code::ClawFailed, Some("version")));
    }
}
