//! QEMU's program: where it is, which version, and what that version can do.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use crate::run::{SEARCH, run};
use crate::text::tame;

/// The program for this machine's processor.
const PROGRAM: &str = "qemu-system-x86_64";

/// What installs it, by the family of the system.
const INSTALL: &str = "install it (Debian, Ubuntu: sudo apt-get install qemu-system-x86; Fedora: sudo dnf \
                       install qemu-system-x86; Arch: sudo pacman -S qemu-base)";

/// How long it may take to say something about itself: 50 ms as a rule, and a machine may be
/// starting dozens of others.
const LIMIT: Duration = Duration::from_secs(30);

/// The devices a machine of ours is put together from.
const NEEDED: [&str; 5] =
    ["virtio-blk-pci", "virtio-net-pci", "virtio-serial-pci", "virtserialport", "pcie-root-port"];

/// A version of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// The third.
    pub micro: u32,
}

impl Version {
    /// A version.
    #[must_use]
    pub const fn new(major: u32, minor: u32, micro: u32) -> Self {
        Self { major, minor, micro }
    }

    /// The oldest that is used: Debian 12's.
    pub const OLDEST: Self = Self::new(7, 2, 0);

    /// Whether a machine with virtiofs shares can be saved. `vhost-user-fs` carries the daemon's
    /// state along since 8.2 (QEMU's change log of that version).
    #[must_use]
    pub fn saves_shares(self) -> bool {
        self >= Self::new(8, 2, 0)
    }

    /// Whether memory can be saved to a file by name or descriptor set; an older one gets the
    /// open file itself (the `file` transport came with 8.2).
    #[must_use]
    pub fn saves_to_file(self) -> bool {
        self >= Self::new(8, 2, 0)
    }

    /// Whether each page of memory has a fixed place in the file (`mapped-ram`, 9.0): a page
    /// that changes meanwhile is not written twice, and zero pages are holes.
    #[must_use]
    pub fn maps_ram(self) -> bool {
        self >= Self::new(9, 0, 0)
    }

    /// Reads a version out of a line such as `QEMU emulator version 7.2.22 (Debian 1:7.2…)`.
    fn of_line(line: &str) -> Option<Self> {
        let rest = line.split("version ").nth(1)?;
        let number: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let mut parts = number.split('.').map(str::parse::<u32>);
        let major = parts.next()?.ok()?;
        let minor = parts.next()?.ok()?;
        let micro = parts.next().transpose().ok()?.unwrap_or(0);
        Some(Self { major, minor, micro })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// QEMU as it is installed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    /// The program, absolute.
    pub path: PathBuf,
    /// Where it looks for firmware, when not where it was built to look.
    pub data: Vec<PathBuf>,
    /// Its version.
    pub version: Version,
    /// The versioned machine type behind `q35`, such as `pc-q35-10.0`: what a snapshot needs
    /// again after an update.
    pub machine: String,
    /// The names of the devices it has.
    pub devices: BTreeSet<String>,
}

impl Qemu {
    /// Looks for it in the usual folders.
    ///
    /// # Errors
    /// `Unsupported` when there is none, or one that can't be used, with the package that brings it.
    pub async fn find() -> Result<Self> {
        if !cfg!(target_arch = "x86_64") {
            return Err(Error::new(Code::Unsupported, "virtual machines run on x86-64 only, so far")
                .fix("use --runtime docker or --runtime process on this machine"));
        }
        let path =
            SEARCH.split(':').map(|folder| Path::new(folder).join(PROGRAM)).find(|path| path.is_file());
        match path {
            Some(path) => Self::at(&path, &[]).await,
            None => Err(Error::new(Code::Unsupported, format!("{PROGRAM} is not installed")).fix(INSTALL)),
        }
    }

    /// Looks at one program, which finds its firmware in `data` when that is not empty.
    ///
    /// # Errors
    /// As for [`Self::find`].
    pub async fn at(path: &Path, data: &[PathBuf]) -> Result<Self> {
        let firmware: Vec<&std::ffi::OsStr> =
            data.iter().flat_map(|folder| ["-L".as_ref(), folder.as_os_str()]).collect();
        let asked = async |question: &[&str]| {
            let arguments = firmware.iter().copied().chain(question.iter().map(AsRef::as_ref));
            let said = run(path, arguments, LIMIT).await?;
            if said.status.success() {
                return Ok(said.out);
            }
            Err(Error::new(
                Code::Unsupported,
                format!("{} {} failed: {}", path.display(), question.join(" "), tame(&said.err)),
            )
            .fix(format!("see whether '{} --version' works; else {INSTALL}", path.display())))
        };
        let said = asked(&["--version"]).await?;
        let version = Version::of_line(&said).ok_or_else(|| {
            Error::new(
                Code::Unsupported,
                format!("{} does not say a version of QEMU: {}", path.display(), tame(&said)),
            )
            .fix(INSTALL)
        })?;
        if version < Version::OLDEST {
            return Err(Error::new(
                Code::Unsupported,
                format!("QEMU {version} is too old: {} or newer is needed", Version::OLDEST),
            )
            .fix(INSTALL));
        }
        let machine = machine_type(&asked(&["-machine", "help"]).await?).ok_or_else(|| {
            Error::new(Code::Unsupported, format!("{} has no machine type q35", path.display())).fix(INSTALL)
        })?;
        let devices = device_names(&asked(&["-device", "help"]).await?);
        if let Some(missing) = NEEDED.iter().find(|name| !devices.contains(**name)) {
            return Err(Error::new(
                Code::Unsupported,
                format!("{} was built without the device {missing}", path.display()),
            )
            .fix(INSTALL));
        }
        Ok(Self { path: path.to_owned(), data: data.to_vec(), version, machine, devices })
    }

    /// What does not work with this version, and what would: for `clawfarm doctor`. Empty when
    /// everything does.
    #[must_use]
    pub fn lacks(&self) -> Vec<Error> {
        let mut lacks = Vec::new();
        if !self.version.saves_shares() {
            lacks.push(
                Error::new(
                    Code::Unsupported,
                    format!("QEMU {} can't suspend a machine with mounted volumes", self.version),
                )
                .fix(
                    "install QEMU 8.2 or newer (Debian 12: sudo apt-get install -t bookworm-backports \
                     qemu-system-x86); stop and start such machines meanwhile",
                ),
            );
        }
        if !self.devices.contains("vhost-user-fs-pci") {
            lacks.push(
                Error::new(Code::Unsupported, "this QEMU was built without vhost-user-fs: no volumes")
                    .fix(INSTALL),
            );
        }
        lacks
    }
}

/// The versioned machine type that `q35` stands for.
fn machine_type(help: &str) -> Option<String> {
    let line = help.lines().find(|line| line.split_whitespace().next() == Some("q35"))?;
    let name = line.split("alias of ").nth(1)?.trim_end_matches(')');
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    (plain && !name.is_empty()).then(|| name.to_owned())
}

/// The names in lines such as `name "virtio-blk-pci", bus PCI, alias "virtio-blk"`.
fn device_names(help: &str) -> BTreeSet<String> {
    help.lines()
        .filter_map(|line| line.strip_prefix("name \"")?.split('"').next())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        let of = Version::of_line;
        assert_eq!(of("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nC"), Some(Version::new(7, 2, 22)));
        assert_eq!(of("QEMU emulator version 9.0"), Some(Version::new(9, 0, 0)));
        assert_eq!(of("QEMU emulator version 99999999999.1"), None);
        assert_eq!(of("usage: something"), None);
        let can = |v: Version| (v.saves_shares(), v.saves_to_file(), v.maps_ram());
        assert_eq!(can(Version::new(7, 2, 22)), (false, false, false));
        assert_eq!(can(Version::new(8, 2, 0)), (true, true, false));
        assert_eq!(can(Version::new(10, 0, 2)), (true, true, true));
    }

    #[test]
    fn help_is_read() {
        let help = "Supported machines are:\npc-q35-9.0  Standard PC\n\
                    q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-10.0)\n";
        assert_eq!(machine_type(help).as_deref(), Some("pc-q35-10.0"));
        assert_eq!(machine_type("q35 (alias of a,b=c)"), None);
        let devices = device_names("name \"e1000\", bus PCI\nnonsense\nname \"nvme\", desc \"x\"\n");
        assert_eq!(devices.into_iter().collect::<Vec<_>>(), ["e1000", "nvme"]);
    }

    #[test]
    fn an_old_one_says_what_it_lacks() {
        let mut old = Qemu {
            path: "/usr/bin/x".into(),
            data: vec![],
            version: Version::new(7, 2, 0),
            machine: "pc-q35-7.2".into(),
            devices: BTreeSet::from(["vhost-user-fs-pci".to_owned()]),
        };
        let [lack] = &old.lacks()[..] else { panic!("one") };
        assert!(lack.fix_text().unwrap().contains("8.2"), "{lack}");
        old.version = Version::new(8, 2, 0);
        assert!(old.lacks().is_empty());
    }
}
