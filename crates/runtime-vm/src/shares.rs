//! The folders of this machine that are shared into a virtual one, each by a virtiofsd.

use std::path::{Path, PathBuf};

use clawfarm_files::{Owner, io_error};
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{Code, Error, Result};
use clawfarm_qemu::machine::Share;
use clawfarm_qemu::{Sandbox, Virtiofsd, VirtiofsdProgram};
use clawfarm_shim::spec::{HelperSpec, LandlockSpec, RunsAs, ServedSpec, User};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, Stat, fstat, openat2};

use crate::claw;
use crate::paths::{SHARED, STATE, VOLUMES};
use crate::record::MachineRecord;

/// What the guest mounts the workspace by.
const WORKSPACE_TAG: &str = "workspace";
/// The same of a claw's state.
const STATE_TAG: &str = "state";
/// A group that nothing belongs to: for an owner whose group is root's.
const NOBODY: u32 = 65_534;

/// The system's folders: a guest that writes there writes programs that root runs.
const SYSTEM: &[&str] = &[
    "/bin", "/boot", "/dev", "/efi", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/run", "/sbin", "/sys",
    "/usr", "/var",
];
/// And those in them that are for people's files.
const PEOPLES: &[&str] = &["/var/tmp", "/var/www"];

/// A folder that is shared.
pub(crate) struct Shared {
    /// What the guest mounts it by.
    pub(crate) tag: String,
    /// Where the guest has it.
    pub(crate) guest: String,
    /// The folder here.
    pub(crate) folder: PathBuf,
    /// Where its virtiofsd listens.
    pub(crate) socket: PathBuf,
    /// As whom it is served.
    pub(crate) of: Of,
}

impl Shared {
    fn is_foreign(&self) -> bool {
        self.of == Of::Owner
    }
}

/// Whose a shared folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// The instance's own.
    Instance,
    /// Somebody's, who works in it, too.
    Owner,
}

/// The folders in the order in which they are mounted.
pub(crate) fn all(dir: &Path, record: &MachineRecord) -> Vec<Shared> {
    let vm = &record.vm;
    let own = |tag: String, guest: &str, folder: PathBuf, name: &str| Shared {
        tag,
        guest: guest.into(),
        folder,
        socket: dir.join(SHARED).join(name).join("s"),
        of: Of::Instance,
    };
    let mut all = Vec::new();
    if record.installed.is_some() {
        all.push(own(STATE_TAG.into(), &claw::home(record), dir.join(STATE), "home"));
    }
    all.extend(vm.workspace.iter().map(|folder| Shared {
        tag: WORKSPACE_TAG.into(),
        guest: VmSpec::WORKSPACE.into(),
        folder: folder.into(),
        socket: dir.join(SHARED).join("w/s"),
        of: Of::Owner,
    }));
    all.extend(vm.volumes.iter().enumerate().map(|(number, volume)| {
        let folder = dir.join(VOLUMES).join(volume.name.as_str());
        own(format!("volume{number}"), volume.guest.as_str(), folder, &number.to_string())
    }));
    all
}

/// How many there are.
pub(crate) fn count(record: &MachineRecord) -> usize {
    usize::from(record.installed.is_some())
        + record.vm.volumes.len()
        + usize::from(record.vm.workspace.is_some())
}

/// As devices of the machine: there from the start, or each in the slot it was plugged into.
pub(crate) fn devices(dir: &Path, record: &MachineRecord, plugged: bool) -> Vec<Share> {
    let slot = |number| plugged.then_some(number);
    let all = all(dir, record).into_iter().zip(0..);
    all.map(|(it, number)| Share { tag: it.tag, socket: it.socket, slot: slot(number) }).collect()
}

/// The virtiofsds as what runs beside QEMU.
///
/// Each runs as the user that the files belong to, without a capability, and everything is root's
/// in the guest: a virtiofsd that could give files to any user would have to be root, on the side
/// that a hostile guest speaks to. It does not check the names that a guest gives it (`..` is one),
/// so the kernel does: it may use its folder and its socket's, and nothing else.
pub(crate) fn helpers(
    dir: &Path,
    record: &MachineRecord,
    program: &VirtiofsdProgram,
) -> Result<Vec<HelperSpec>> {
    all(dir, record)
        .into_iter()
        .map(|share| {
            let about = look(&share)?;
            let (user, owner) = runs_as(record, share.is_foreign().then_some(&about));
            let landlock = LandlockSpec::system(record.uid.is_some()).with(LandlockSpec {
                read: Vec::new(),
                write: share.socket.parent().map(Path::to_owned).into_iter().collect(),
                execute: program.command.first().map(PathBuf::from).into_iter().collect(),
            });
            let serves = Virtiofsd {
                folder: share.folder.clone(),
                socket: share.socket.clone(),
                // The shim confines it, and its folder is all that it may write to.
                sandbox: Sandbox::None,
                read_only: false,
                squash: Some(owner),
            };
            Ok(HelperSpec {
                name: format!("virtiofsd of '{}'", share.guest),
                argv: serves.argv(program)?,
                user,
                listens: Some(share.socket),
                landlock: Some(landlock),
                serves: Some(ServedSpec {
                    folder: share.folder,
                    inode: (about.st_dev, about.st_ino),
                    read_only: false,
                }),
            })
        })
        .collect()
}

/// Looks at a folder that is to be served, by no link: whoever owns one on the way to it could put
/// another's in its place.
fn look(share: &Shared) -> Result<Stat> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = openat2(CWD, &share.folder, flags, Mode::empty(), resolve);
    opened.and_then(fstat).map_err(|e| {
        let error = io_error(format!("serve '{}'", share.folder.display()), e.into());
        error.field(if share.is_foreign() { "vm.workspace" } else { "vm.volumes" })
    })
}

/// As whom a folder is served, and to whom its files belong.
fn runs_as(record: &MachineRecord, foreign: Option<&Stat>) -> (RunsAs, (u32, u32)) {
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    match (record.uid, foreign) {
        (Some(uid), None) => (RunsAs::Claw, (uid, uid)),
        (None, _) => (RunsAs::Claw, own),
        (Some(_), Some(about)) if about.st_uid == 0 => (RunsAs::Server, (0, 0)),
        (Some(_), Some(about)) => {
            let (uid, gid) = (about.st_uid, if about.st_gid == 0 { NOBODY } else { about.st_gid });
            (RunsAs::User(User { uid, gid }), (uid, gid))
        }
    }
}

/// Who serves each folder, and so needs the one of its socket: `None` is the server.
pub(crate) fn servers(dir: &Path, record: &MachineRecord) -> Result<Vec<(PathBuf, Option<Owner>)>> {
    all(dir, record)
        .into_iter()
        .map(|share| {
            let foreign = share.is_foreign().then(|| look(&share)).transpose()?;
            let owner = match runs_as(record, foreign.as_ref()) {
                (RunsAs::Claw, (uid, gid)) => record.uid.map(|_| Owner { uid, gid }),
                (RunsAs::User(User { uid, gid }), _) => Some(Owner { uid, gid }),
                (RunsAs::Server, _) => None,
            };
            let name = share.socket.parent().and_then(Path::file_name).map(PathBuf::from);
            Ok((name.unwrap_or_default(), owner))
        })
        .collect()
}

/// Refuses a workspace that is no folder, or that has the server's own files in it.
pub(crate) fn check_workspace(home: &Path, vm: &VmSpec) -> Result<()> {
    let Some(given) = &vm.workspace else { return Ok(()) };
    let refuse = |why: String, fix: &str| Err(Error::invalid("vm.workspace", why).fix(fix));
    let folder = match Path::new(given).canonicalize() {
        Ok(folder) => folder,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return refuse(format!("there is no folder '{given}'"), "make it, or give another one");
        }
        Err(e) => return Err(io_error(format!("look at '{given}'"), e).field("vm.workspace")),
    };
    if !folder.is_dir() {
        return refuse(format!("'{given}' is no folder"), "give a folder of this machine");
    }
    // A link would lead out of what the machine's QEMU may see.
    if folder != Path::new(given) {
        return refuse(
            format!("'{given}' is not the folder's own path"),
            &format!("give it without links: {}", folder.display()),
        );
    }
    let within = |path: &&str| folder.starts_with(path);
    // `/var/lib`, `/var/spool` and the like have what root runs; people's files are in few of its
    // folders.
    let system = folder == Path::new("/") || SYSTEM.iter().any(within) && !PEOPLES.iter().any(within);
    if system {
        return refuse(format!("'{given}' is a part of this machine's system"), "give a folder of your own");
    }
    if folder.starts_with(home) || home.starts_with(&folder) {
        return refuse(
            format!("'{given}' has clawfarm's own files in it, or is in them"),
            "give a folder beside them",
        );
    }
    Ok(())
}

/// Refuses what can't be shared with this QEMU or virtiofsd over a suspension.
pub(crate) fn check_saves(record: &MachineRecord, qemu: clawfarm_qemu::Version, saves: bool) -> Result<()> {
    if count(record) == 0 || (qemu.saves_shares() && saves) {
        return Ok(());
    }
    Err(Error::new(Code::Unsupported, "a machine with mounted folders can't be suspended here")
        .field("vm.volumes")
        .fix("install QEMU 8.2 and virtiofsd 1.13 or newer (clawfarm doctor tells which there are); stop and start it meanwhile"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_that_would_give_the_host_away_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let home = root.join("home/farm");
        for name in ["home/farm/claws", "project", "home/other"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::write(root.join("file"), "x").unwrap();
        std::os::unix::fs::symlink(root.join("project"), root.join("link")).unwrap();
        let of = |folder: &Path| {
            let mut vm = VmSpec::new("debian:12".parse().unwrap());
            vm.workspace = Some(folder.to_str().unwrap().to_owned());
            check_workspace(&home, &vm)
        };
        of(&root.join("project")).unwrap();
        of(&root.join("home/other")).unwrap();
        for (folder, why) in [
            (root.join("nowhere"), "no folder"),
            (root.join("file"), "no folder"),
            (root.join("link"), "own path"),
            (root.join("home"), "own files"),
            (root.join("home/farm/claws"), "own files"),
            ("/".into(), "system"),
            ("/etc".into(), "system"),
            ("/etc/ssl".into(), "system"),
            ("/usr/bin".into(), "system"),
        ] {
            let error = of(&folder).unwrap_err();
            assert_eq!(error.field_name(), Some("vm.workspace"));
            assert!(error.message().contains(why) && error.fix_text().is_some(), "{error}");
        }
    }
}
