//! What root's service runs must be root's: whoever may write to it is root as well.

use std::collections::HashSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clawfarm_model::{Code, Error};

use super::{Scope, Unit};

/// Symbolic links in a row that are followed: the kernel's own limit (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// What the service runs out of the folder that npm is in.
const FROM_NPM: [&str; 2] = ["npm", "node"];

/// Refuses a service that would have root run what somebody else can change: the program, and npm
/// and Node.js where they are not where systemd looks.
///
/// # Errors
/// `Forbidden`, naming the part of the path that is not root's alone.
pub(crate) fn check(unit: &Unit) -> Result<(), Error> {
    let as_root = match &unit.scope {
        Scope::User => false,
        Scope::System { run_as: None } => true,
        Scope::System { run_as: Some(name) } => {
            nix::unistd::User::from_name(name).ok().flatten().is_none_or(|user| user.uid.is_root())
        }
    };
    if !as_root {
        return Ok(());
    }
    let mut files = vec![unit.program.clone()];
    let path = unit.environment.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path);
    if let Some(folder) = path.and_then(|path| std::env::split_paths(path).next()) {
        files.extend(FROM_NPM.iter().map(|name| folder.join(name)).filter(|file| file.exists()));
        files.push(folder);
    }
    files.iter().try_for_each(|file| check_path(file, owners_of))
}

/// The owner, group and mode of something, links not followed; and where a link leads.
type Found = (u32, u32, u32, Option<PathBuf>);

fn owners_of(path: &Path) -> std::io::Result<Found> {
    let found: Metadata = path.symlink_metadata()?;
    let leads = found.is_symlink().then(|| path.read_link()).transpose()?;
    Ok((found.uid(), found.gid(), found.mode(), leads))
}

/// Looks at every folder and link on the way.
fn check_path(file: &Path, find: impl Fn(&Path) -> std::io::Result<Found>) -> Result<(), Error> {
    let mut ahead: Vec<PathBuf> = vec![file.to_owned()];
    let mut seen = HashSet::new();
    while let Some(path) = ahead.pop() {
        if seen.len() > LINKS_MAX {
            return Err(refused(file, &path, "is behind too many links"));
        }
        for part in path.ancestors().filter(|part| !part.as_os_str().is_empty()) {
            let (uid, gid, mode, leads) =
                find(part).map_err(|e| refused(file, part, "can't be looked at").source(e))?;
            if uid != 0 {
                return Err(refused(file, part, &format!("belongs to {}", user(uid))));
            }
            if let Some(leads) = leads {
                // A link's own mode says nothing; where it leads is looked at as well.
                let whole = part.parent().unwrap_or(Path::new("/")).join(leads);
                if seen.insert(whole.clone()) {
                    ahead.push(whole);
                }
                continue;
            }
            // In a sticky folder nobody else replaces what is root's.
            let others = mode & 0o002 != 0 || mode & 0o020 != 0 && gid != 0;
            if others && mode & 0o1000 == 0 {
                return Err(refused(
                    file,
                    part,
                    &format!("may be written by others (mode {:04o})", mode & 0o7777),
                ));
            }
        }
    }
    Ok(())
}

fn user(uid: u32) -> String {
    let known = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
    known.map_or_else(|| format!("user {uid}"), |user| format!("user '{}'", user.name.escape_debug()))
}

fn refused(file: &Path, part: &Path, why: &str) -> Error {
    Error::new(
        Code::Forbidden,
        format!("the machine's service would run {} as root, and {} {why}", file.display(), part.display()),
    )
    .field("--system")
    .fix("put it where only root writes (install -o root -m 755 FILE /usr/local/bin/), or give --run-as USER")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which all is root's but what is listed.
    fn refusal(file: &str, odd: &[(&str, Found)]) -> Option<String> {
        let find = |path: &Path| {
            let listed = odd.iter().find(|(name, _)| Path::new(name) == path);
            Ok(listed.map_or((0, 0, 0o40_755, None), |(_, found)| found.clone()))
        };
        check_path(Path::new(file), find).err().map(|error| {
            assert_eq!((error.code(), error.field_name()), (Code::Forbidden, Some("--system")));
            error.message().to_owned()
        })
    }

    #[test]
    fn what_somebody_else_can_change_root_does_not_run() {
        let file = "/opt/tools/clawfarm";
        assert_eq!(refusal(file, &[]), None);
        for (part, found, why) in [
            ("/opt/tools/clawfarm", (1000, 0, 0o100_755, None), "/opt/tools/clawfarm belongs to user"),
            ("/opt/tools", (1000, 0, 0o40_755, None), "/opt/tools belongs to user"),
            ("/opt", (0, 0, 0o40_777, None), "/opt may be written by others (mode 0777)"),
            ("/opt", (0, 50, 0o40_775, None), "/opt may be written by others (mode 0775)"),
        ] {
            let refused = refusal(file, &[(part, found)]).expect(why);
            assert!(refused.contains(why), "{refused}");
        }
        // Root's own group, and a folder such as /tmp.
        assert_eq!(refusal(file, &[("/opt", (0, 0, 0o40_775, None))]), None);
        assert_eq!(refusal(file, &[("/opt", (0, 0, 0o41_777, None))]), None);
    }

    #[test]
    fn links_are_followed() {
        let link = |to: &str| (0, 0, 0o120_777, Some(PathBuf::from(to)));
        let file = "/usr/local/bin/clawfarm";
        assert_eq!(refusal(file, &[(file, link("../lib/clawfarm"))]), None);
        let away = [(file, link("/home/alice/clawfarm")), ("/home/alice", (1000, 1000, 0o40_755, None))];
        assert!(refusal(file, &away).expect("it is alice's").contains("/home/alice belongs to"));
        let round = [(file, link(file))];
        assert_eq!(refusal(file, &round), None, "it ends");
        let mine = [(file, (1000, 0, 0o120_777, Some(PathBuf::from("/usr/bin/true"))))];
        assert!(refusal(file, &mine).is_some(), "its owner may lead it elsewhere");
    }
}
