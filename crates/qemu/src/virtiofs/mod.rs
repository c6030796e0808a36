//! A folder of the host in the guest: virtiofsd, which serves one folder to one machine.
//!
//! It is a process of its own beside QEMU's. It listens on a unix socket (0600: it sets its
//! umask itself), takes one connection, and ends when QEMU hangs up; so whether it listens is
//! seen in the kernel's list of sockets and not by connecting.

#[cfg(feature = "virtiofsd")]
mod serve;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use serde::Deserialize;

#[cfg(feature = "virtiofsd")]
pub use serve::serve_folder;

/// Whether this program can serve a folder by itself: a question of how it was built.
pub const SERVES_FOLDERS: bool = cfg!(feature = "virtiofsd");

/// Says that it can't serve a folder: this program was built without.
#[cfg(not(feature = "virtiofsd"))]
#[must_use]
pub fn serve_folder(_arguments: &[String]) -> std::process::ExitCode {
    eprintln!("virtiofsd: this program was built without the feature 'virtiofsd'");
    std::process::ExitCode::FAILURE
}

use crate::machine::check_socket;
use crate::run::run;
use crate::text::tame;

/// Where distributions keep it; it is no command for users.
const PLACES: [&str; 5] = [
    "/usr/libexec/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/local/libexec/virtiofsd",
    "/usr/bin/virtiofsd",
];

/// How long it may take to say something about itself.
const LIMIT: Duration = Duration::from_secs(30);
/// How often the kernel's list is read.
const LOOK: Duration = Duration::from_millis(20);

const INSTALL: &str = "install virtiofsd 1.13 or newer (Debian 13, Ubuntu 26.04, Fedora: the package virtiofsd), or \
                       use a clawfarm that was built with --features virtiofsd";

/// What keeps all files one user's ([`Virtiofsd::squash`]): since 1.13.
const TRANSLATES: [&str; 2] = ["--translate-uid", "--translate-gid"];

/// virtiofsd as it is installed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtiofsdProgram {
    /// The program and what comes before its options: a path, or a path and a subcommand.
    pub command: Vec<String>,
    /// Whether it can save its state with a machine's memory: since 1.11.
    pub saves: bool,
}

/// The features it tells.
#[derive(Deserialize)]
struct Capabilities {
    #[serde(default)]
    features: Vec<String>,
}

impl Capabilities {
    fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|it| it == feature)
    }
}

fn unusable(program: &str, why: &str) -> Error {
    Error::new(Code::Unsupported, format!("{program} can't be used: {why}")).fix(INSTALL)
}

/// How a virtiofsd is kept to its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// Namespaces of its own, with the folder as the root: as root, or where users may make
    /// user namespaces.
    Namespace,
    /// Its root is the folder: as root only.
    Chroot,
    /// Nothing but its own care and seccomp: where whoever starts it confines it.
    None,
}

/// One virtiofsd, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Virtiofsd {
    /// The folder of the host.
    pub folder: PathBuf,
    /// Where it listens.
    pub socket: PathBuf,
    /// How it is kept to the folder.
    pub sandbox: Sandbox,
    /// The guest may not write.
    pub read_only: bool,
    /// Every file belongs to this user and group here and to root in the guest, whatever the
    /// guest says: for a virtiofsd that is not root, and could not give files away.
    pub squash: Option<(u32, u32)>,
}

impl VirtiofsdProgram {
    /// The distribution's.
    ///
    /// # Errors
    /// `Unsupported` when there is none that can be used.
    pub async fn find() -> Result<Self> {
        match PLACES.iter().find(|place| Path::new(place).is_file()) {
            Some(place) => Self::at(&[(*place).to_owned()]).await,
            None => Err(Error::new(Code::Unsupported, "virtiofsd is not installed: no volumes").fix(INSTALL)),
        }
    }

    /// Looks at one command.
    ///
    /// # Errors
    /// As for [`Self::find`].
    pub async fn at(command: &[String]) -> Result<Self> {
        let Some((program, before)) = command.split_first() else {
            return Err(Error::invalid("virtiofsd", "no program is given"));
        };
        let said =
            run(Path::new(program), before.iter().map(String::as_str).chain(["--print-capabilities"]), LIMIT)
                .await?;
        let told: Option<Capabilities> = serde_json::from_str(&said.out).ok();
        // QEMU's former one, which takes other options, tells no features.
        let told = told.filter(|told| said.status.success() && told.has("separate-options"));
        let Some(told) = told else {
            let why = format!("it is too old, or no virtiofsd ({})", tame(&said.err));
            return Err(unusable(program, &why));
        };
        // No feature of those says it, nor does every version say which it is.
        let help =
            run(Path::new(program), before.iter().map(String::as_str).chain(["--help"]), LIMIT).await?;
        if let Some(missing) = TRANSLATES.iter().find(|option| !help.out.contains(**option)) {
            let why = format!("it is older than 1.13, and does not know the option {missing}");
            return Err(unusable(program, &why));
        }
        Ok(Self { command: command.to_vec(), saves: told.has("migrate-precopy") })
    }
}

impl Virtiofsd {
    /// The program and its arguments.
    ///
    /// # Errors
    /// `InvalidInput` for paths that can't be given.
    pub fn argv(&self, program: &VirtiofsdProgram) -> Result<Vec<String>> {
        check_socket("socket", &self.socket)?;
        let folder = self.folder.to_str().filter(|_| self.folder.is_absolute()).ok_or_else(|| {
            Error::invalid("folder", format!("'{}' can't be shared", self.folder.display()))
                .fix("give an absolute path of valid UTF-8")
        })?;
        let sandbox = match self.sandbox {
            Sandbox::Namespace => "namespace",
            Sandbox::Chroot => "chroot",
            Sandbox::None => "none",
        };
        let mut argv = program.command.clone();
        // Joined to their options, so that a folder named like an option is none.
        argv.push(format!("--shared-dir={folder}"));
        argv.push(format!("--socket-path={}", self.socket.display()));
        argv.push(format!("--sandbox={sandbox}"));
        argv.extend(["--seccomp=kill", "--log-level=warn", "--cache=auto"].map(str::to_owned));
        // Handles need a capability that only root has; files are kept open instead.
        let handles = if self.squash.is_some() { "never" } else { "prefer" };
        argv.push(format!("--inode-file-handles={handles}"));
        if self.read_only {
            argv.push("--readonly".into());
        }
        if let Some((uid, gid)) = self.squash {
            // All but -1, which means "unchanged".
            let all = u32::MAX;
            for (option, id) in [("--translate-uid", uid), ("--translate-gid", gid)] {
                argv.push(format!("{option}=squash-guest:0:{id}:{all}"));
                argv.push(format!("{option}=host:{id}:0:1"));
            }
        }
        Ok(argv)
    }

    /// Waits until it listens.
    ///
    /// # Errors
    /// `Timeout` when it does not: its output says why.
    pub async fn listens(&self, limit: Duration) -> Result<()> {
        let path = self.socket.display().to_string();
        let waited = tokio::time::timeout(limit, async {
            loop {
                let sockets = tokio::fs::read_to_string("/proc/net/unix").await;
                if sockets.is_ok_and(|sockets| is_listening(&sockets, &path)) {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        waited.await.map_err(|_| {
            Error::new(Code::Timeout, format!("virtiofsd did not listen on {path} within {limit:?}"))
                .fix("see what it wrote to the instance's log")
        })
    }
}

/// Whether the kernel's list has a listening socket of this path. A line is `Num: RefCount
/// Protocol Flags Type St Inode Path`, and bit 16 of the flags is set for one that listens
/// (`__SO_ACCEPTCON`, `proc(5)`).
fn is_listening(sockets: &str, path: &str) -> bool {
    sockets.lines().any(|line| {
        let mut rest = line;
        let mut fields = Vec::new();
        for _ in 0..7 {
            let (field, after) = rest.trim_start().split_once(' ').unwrap_or((rest, ""));
            fields.push(field);
            rest = after;
        }
        let listens = fields.get(3).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        rest == path && listens.is_some_and(|flags| flags & 0x1_0000 != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Virtiofsd {
        Virtiofsd {
            folder: "/data/a b,c=d".into(),
            socket: "/run/s".into(),
            sandbox: Sandbox::Namespace,
            read_only: false,
            squash: None,
        }
    }

    #[test]
    fn a_folder_is_no_option() {
        let program = VirtiofsdProgram { command: vec!["clawfarm".into(), "virtiofsd".into()], saves: true };
        let argv = one().argv(&program).unwrap();
        assert_eq!(
            argv[..4],
            ["clawfarm", "virtiofsd", "--shared-dir=/data/a b,c=d", "--socket-path=/run/s"]
        );
        let mut other = one();
        other.folder = "relative".into();
        assert_eq!(other.argv(&program).unwrap_err().field_name(), Some("folder"));
        other = one();
        other.squash = Some((1000, 1000));
        other.read_only = true;
        let argv = other.argv(&program).unwrap().join(" ");
        assert!(argv.contains("--readonly") && argv.contains("squash-guest:0:1000:"), "{argv}");
    }

    /// As virtiofsd 1.11.1 to 1.12 answer, and 1.13; older ones do not tell that feature.
    #[tokio::test]
    async fn one_that_can_not_translate_users_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("virtiofsd");
        let asked = async |options: &str| {
            let told = r#"{"type": "fs", "features": ["migrate-precopy", "separate-options"]}"#;
            let text = format!(
                "#!/bin/sh\ncase $1 in --print-capabilities) echo '{told}' ;; --help) echo '{options}' ;; esac\n"
            );
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            VirtiofsdProgram::at(&[path.display().to_string()]).await
        };
        let error = asked("--shared-dir <SHARED_DIR> --uid-map <UID_MAP>").await.unwrap_err();
        assert_eq!(error.code(), Code::Unsupported);
        assert!(error.message().contains("older than 1.13"), "{error}");
        let fix = error.fix_text().unwrap();
        assert!(fix.contains("1.13 or newer") && fix.contains("--features virtiofsd"), "{fix}");
        let new = "--translate-uid <TRANSLATE_UID> --translate-gid <TRANSLATE_GID>";
        assert!(asked(new).await.unwrap().saves);
    }

    #[test]
    fn a_listening_socket_is_told_from_a_connected_one() {
        let sockets = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                       000000: 00000002 00000000 00010000 0001 01 12345 /run/a b\n\
                       000000: 00000003 00000000 00000000 0001 03 12346 /run/c\n\
                       000000: 00000003 00000000 00000000 0001 03 12347\n";
        assert!(is_listening(sockets, "/run/a b"));
        assert!(!is_listening(sockets, "/run/c"));
        assert!(!is_listening(sockets, "/run/a"));
        assert!(!is_listening(sockets, ""));
    }
}
