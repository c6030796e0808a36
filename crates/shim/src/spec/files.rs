//! Which files a claw may use, and which it may see.

use std::path::{Path, PathBuf};

use clawfarm_model::{Error, Result};
use serde::{Deserialize, Serialize};

use super::absolute;

/// The files a claw may use; everything else is refused by the kernel. Folders stand for all
/// that is in them. Paths that do not exist are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandlockSpec {
    /// What it may read.
    #[serde(default)]
    pub read: Vec<PathBuf>,
    /// What it may read, write, make and remove.
    #[serde(default)]
    pub write: Vec<PathBuf>,
    /// What it may read and execute.
    #[serde(default)]
    pub execute: Vec<PathBuf>,
}

impl LandlockSpec {
    /// What nearly every program of a Linux system needs: the system's own programs and
    /// libraries, its configuration, processor and memory figures, and the devices every
    /// process may use.
    ///
    /// `own_user` says that the claw runs under a user id of its own. Then `/dev/pts` is in it
    /// too, whose terminals are kept apart by their owner; under the server's id the claw could
    /// write to the terminals of its user. All of `/etc` is in it, because files that an
    /// ordinary user can read there are no secrets, and programs give up (OpenSSL does) when
    /// they can see a file that they may not read. Only for a claw that runs as root it is a
    /// list of files that hold no secrets.
    #[must_use]
    pub fn system(own_user: bool) -> Self {
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
        let as_root = !own_user && nix::unistd::geteuid().is_root();
        let mut write = paths(&DEVICES);
        if own_user {
            write.push("/dev/pts".into());
        }
        let mut read = paths(&SYSTEM_READ);
        read.extend(if as_root { paths(&ETC_READ) } else { paths(&["/etc"]) });
        Self { read, write, execute: paths(&SYSTEM_EXECUTE) }
    }

    /// This and `other` together.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.read.extend(other.read);
        self.write.extend(other.write);
        self.execute.extend(other.execute);
        self
    }
}

const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx"];

const SYSTEM_EXECUTE: [&str; 8] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/nix/store"];

const SYSTEM_READ: [&str; 8] = [
    "/proc",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/var/lib/ca-certificates",
    "/var/cache/fontconfig",
];

const ETC_READ: [&str; 38] = [
    "/etc/bash.bashrc",
    "/etc/bashrc",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/crypto-policies",
    "/etc/environment",
    "/etc/fonts",
    "/etc/gai.conf",
    "/etc/gitconfig",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/inputrc",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/profile",
    "/etc/profile.d",
    "/etc/protocols",
    "/etc/python3",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
];

/// The claw's own view of the file system: some folders covered by empty ones, in which only
/// the listed folders appear again, at their own places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// The folders to cover, none below another: on the way to the server's home and to the
    /// installed software the topmost one that other users can't pass (such as `/root`), or
    /// the home itself.
    pub hide: Vec<PathBuf>,
    /// What appears again below them.
    pub binds: Vec<Bind>,
}

impl MountSpec {
    pub(super) fn check(&self) -> Result<()> {
        for (n, hide) in self.hide.iter().enumerate() {
            absolute("mounts.hide", hide)?;
            if hide == Path::new("/") {
                return Err(Error::invalid("mounts.hide", "can't be the root folder")
                    .fix("name the topmost folder that other users can't pass"));
            }
            if self.hide.iter().enumerate().any(|(m, other)| m != n && hide.starts_with(other)) {
                return Err(Error::invalid("mounts.hide", format!("{} is covered twice", hide.display()))
                    .fix("list only the topmost ones"));
            }
        }
        for bind in &self.binds {
            absolute("mounts.binds", &bind.path)?;
            if !self.hide.iter().any(|hide| bind.path.starts_with(hide) && bind.path != *hide) {
                let path = bind.path.display();
                return Err(Error::invalid("mounts.binds", format!("{path} is not below a covered folder"))
                    .fix("list only folders below a covered one; others are visible anyway"));
            }
        }
        Ok(())
    }
}

/// A folder (or file) that stays visible in a covered one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Its absolute path, the same inside and outside.
    pub path: PathBuf,
    /// The claw can't write there, whatever the files' modes say.
    pub read_only: bool,
}
