//! What a shim is told to keep, once, on its standard input.
//!
//! The spec is the only place where the claw's secrets cross between the server and the
//! shim: standard input is a pipe, so they are in no file and in no process's arguments.

mod beside;
mod files;

use std::fmt;
use std::path::{Component, Path, PathBuf};

use clawfarm_model::observed::Confinement;
use clawfarm_model::resources::Resources;
use clawfarm_model::{ClawId, Error, Result, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::protocol::Reply;
pub use beside::{AskSpec, HelperSpec, RunsAs, ServedSpec, WakeSpec};
pub use files::{Bind, LandlockSpec, MountSpec};

/// The newest version of [`ShimSpec`] this build writes and reads. A field added later is
/// optional and keeps the version; a change of meaning raises it.
pub const SPEC_VERSION: u32 = 1;

/// The longest spec that is read, in bytes. Environments hold configuration, not data; the
/// kernel takes at most 2 MiB for arguments and environment together (`execve(2)`).
pub const MAX_SPEC_BYTES: usize = 4 * 1024 * 1024;

/// Everything a shim needs to start and keep one claw, written as one JSON document to the
/// standard input of `clawfarm shim <instance-dir>`, which is then closed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShimSpec {
    /// [`SPEC_VERSION`] of the writer.
    pub version: u32,
    /// Which instance.
    pub id: ClawId,
    /// The launch this is, as the runtime counts them; reported back unchanged.
    pub run: i64,
    /// The program (an absolute path, or a name looked up in the `PATH` of `env`) and its
    /// arguments. Never a secret.
    pub argv: Vec<String>,
    /// The whole environment of the claw and of every command run beside it.
    pub env: Vec<EnvVar>,
    /// The folder the claw is started in, absolute.
    pub cwd: PathBuf,
    /// The folder that exec sessions start in, absolute; `cwd` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec_cwd: Option<PathBuf>,
    /// The user the claw gets; `None` leaves the server's own. Needs root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// Groups that the claw's main process has beside its user's, such as the one of a device that it
    /// uses; its helpers and what is run beside it have none. Only with `user`, and never 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<u32>,
    /// The files it and its helpers may use; `None` applies no Landlock rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landlock: Option<LandlockSpec>,
    /// Those of them that the claw itself may use, where its helpers need others; what is run
    /// beside it has the former.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claw_landlock: Option<LandlockSpec>,
    /// The mount namespace it gets; `None` leaves the server's. Needs `CAP_SYS_ADMIN`; where
    /// that is missing the claw starts without, and its confinement says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounts: Option<MountSpec>,
    /// Where its cgroups go; `None` uses none, and a watchdog limits its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<CgroupSpec>,
    /// Its share of the machine.
    pub resources: Resources,
    /// Most processes and threads it may have, where a cgroup can enforce it.
    #[serde(default = "ShimSpec::default_max_tasks")]
    pub max_tasks: u32,
    /// How its output is kept.
    #[serde(default)]
    pub logs: LogSpec,
    /// What every connection to `run/shim.sock` must present first. The shim writes it to
    /// `run/shim.token` (0600), so that a later server finds it.
    #[serde(with = "plain")]
    pub token: SecretString,
    /// How long the claw may take to end when the shim itself is asked to end by SIGTERM, as
    /// at a shutdown of the machine, in milliseconds.
    #[serde(default = "ShimSpec::default_term_grace_ms")]
    pub term_grace_ms: u64,
    /// Programs that the claw needs beside it, started before it in this order, in the same
    /// confinement and with the same environment, and ended with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub helpers: Vec<HelperSpec>,
    /// How the claw is asked to end, where not by SIGTERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask: Option<AskSpec>,
}

impl ShimSpec {
    /// Enough for a gateway with a browser and a few dozen helpers, few enough that a fork
    /// bomb leaves the machine alone.
    pub const DEFAULT_MAX_TASKS: u32 = 4096;

    const fn default_max_tasks() -> u32 {
        Self::DEFAULT_MAX_TASKS
    }

    /// systemd ends everything 90 s after a shutdown began; this leaves it a margin.
    const fn default_term_grace_ms() -> u64 {
        60_000
    }

    /// Checks what can be checked without looking at the machine.
    ///
    /// # Errors
    /// `InvalidInput`, naming the field.
    pub fn check(&self) -> Result<()> {
        if self.argv.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("argv", "names no program").fix("give at least the program to run"));
        }
        if self.argv.iter().any(|arg| arg.contains('\0')) {
            return Err(Error::invalid("argv", "an argument holds a NUL byte").fix("remove it"));
        }
        for var in &self.env {
            if var.name.is_empty() || var.name.contains(['=', '\0']) || var.expose().contains('\0') {
                return Err(Error::invalid("env", format!("'{}' can't be set", var.name))
                    .fix("use a name without '=' and a value without NUL bytes"));
            }
        }
        if self.token.expose_secret().len() < 16 {
            return Err(Error::invalid("token", "is too short").fix("give at least 16 characters"));
        }
        if self.groups.contains(&0) || (self.user.is_none() && !self.groups.is_empty()) {
            return Err(Error::invalid("groups", "a claw can't have these groups")
                .fix("give groups above 0, and a user to have them"));
        }
        absolute("cwd", &self.cwd)?;
        if let Some(cwd) = &self.exec_cwd {
            absolute("exec_cwd", cwd)?;
        }
        if let Some(mounts) = &self.mounts {
            mounts.check()?;
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.check()?;
        }
        for helper in &self.helpers {
            helper.check()?;
        }
        if let Some(ask) = &self.ask {
            ask.check()?;
        }
        self.logs.check()
    }
}

/// One variable of the claw's environment. Its `Debug` output hides the value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value, which may be a secret.
    #[serde(with = "plain")]
    pub value: SecretString,
}

impl EnvVar {
    /// A variable.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: SecretString::from(value.into()) }
    }

    /// The value in plain text.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.value.expose_secret()
    }
}

/// A user and group of the claw's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id, not 0.
    pub uid: u32,
    /// Group id, not 0.
    pub gid: u32,
}

/// Where the claw's cgroups are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupSpec {
    /// Its path below each hierarchy (or below `parent`): `clawfarm/<home-hash>/<id>`. Must
    /// belong to this instance alone: what is found in it at the start is killed.
    pub name: PathBuf,
    /// A delegated cgroup v2 folder, absolute, such as
    /// `/sys/fs/cgroup/user.slice/.../clawfarm.scope`. `None`: the root of each hierarchy,
    /// which needs root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<PathBuf>,
    /// The ports of this machine's own addresses (127.0.0.0/8, `::1`) that the claw may connect to,
    /// beside the DNS's; `None` for all of them. Needs root and cgroup v2; where that is missing the
    /// claw starts without, and its confinement says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loopback: Option<Vec<u16>>,
}

impl CgroupSpec {
    fn check(&self) -> Result<()> {
        let plain = self.name.components().all(|c| matches!(c, Component::Normal(_)));
        if !plain || self.name.components().count() < 2 {
            return Err(Error::invalid("cgroup.name", format!("'{}' can't be used", self.name.display()))
                .fix("give a relative path of at least two parts, such as clawfarm/1f2e/alice-x7k2"));
        }
        match &self.parent {
            Some(parent) => absolute("cgroup.parent", parent),
            None => Ok(()),
        }
    }
}

/// How much of the output is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSpec {
    /// The folder, absolute; `logs` in the instance's folder when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// `output.log` is set aside as `output.log.1` when it would grow over this, in bytes.
    pub max_bytes: u64,
    /// How many set-aside files are kept.
    pub keep: u32,
}

impl Default for LogSpec {
    fn default() -> Self {
        Self { dir: None, max_bytes: 8 * 1024 * 1024, keep: 5 }
    }
}

impl LogSpec {
    fn check(&self) -> Result<()> {
        if self.max_bytes < 1024 || self.keep > 1000 {
            return Err(Error::invalid("logs", "these sizes can't be used")
                .fix("give max_bytes of at least 1024 and keep of at most 1000"));
        }
        match &self.dir {
            Some(dir) => absolute("logs.dir", dir),
            None => Ok(()),
        }
    }
}

/// The one line `clawfarm shim` prints: `{"ok": Started}` or `{"error": ErrorReport}`. The
/// exit code is 0 or 1 accordingly.
pub type StartReply = Reply<Started>;

/// A claw that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its main process.
    pub pid: u32,
    /// Its shim.
    pub shim_pid: u32,
    /// When it was executed.
    pub started_at: Timestamp,
    /// What confines it.
    pub confinement: Confinement,
}

fn absolute(field: &str, path: &Path) -> Result<()> {
    let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if path.is_absolute() && plain {
        return Ok(());
    }
    Err(Error::invalid(field, format!("'{}' is no plain absolute path", path.display()))
        .fix("give a path that starts with '/' and has no '..'"))
}

/// Secrets as plain strings: only for a spec on its way through a pipe.
mod plain {
    use secrecy::{ExposeSecret, SecretString};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.expose_secret())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
        String::deserialize(deserializer).map(SecretString::from)
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ShimSpec {
        ShimSpec {
            version: SPEC_VERSION,
            id: "alice-x7k2".parse().unwrap(),
            run: 3,
            argv: vec!["/bin/true".into()],
            env: vec![EnvVar::new("KEY", "sk-very-secret")],
            cwd: "/".into(),
            exec_cwd: None,
            user: None,
            groups: Vec::new(),
            landlock: None,
            claw_landlock: None,
            mounts: None,
            cgroup: None,
            resources: Resources::default(),
            max_tasks: 100,
            logs: LogSpec::default(),
            token: SecretString::from("0123456789abcdef"),
            term_grace_ms: 1000,
            helpers: Vec::new(),
            ask: None,
        }
    }

    #[test]
    fn survives_json_and_hides_secrets_from_debug() {
        let json = serde_json::to_string(&spec()).unwrap();
        let back: ShimSpec = serde_json::from_str(&json).unwrap();
        assert_eq!(back.env[0].expose(), "sk-very-secret");
        assert_eq!(back.run, 3);
        // One of a server that did not know of groups is still read.
        assert!(!json.contains("groups") && back.groups.is_empty());
        let shown = format!("{back:?}");
        assert!(!shown.contains("very-secret") && !shown.contains("0123456789abcdef"), "{shown}");
    }

    #[test]
    fn refuses_what_can_not_work_and_names_the_field() {
        let field = |change: fn(&mut ShimSpec)| {
            let mut spec = spec();
            change(&mut spec);
            spec.check().unwrap_err().field_name().unwrap().to_owned()
        };
        assert!(spec().check().is_ok());
        assert_eq!(field(|s| s.argv.clear()), "argv");
        assert_eq!(field(|s| s.env.push(EnvVar::new("A=B", "x"))), "env");
        assert_eq!(field(|s| s.cwd = "relative".into()), "cwd");
        assert_eq!(field(|s| s.groups = vec![109]), "groups");
        let root = |s: &mut ShimSpec| (s.user, s.groups) = (Some(User { uid: 7, gid: 7 }), vec![109, 0]);
        assert_eq!(field(root), "groups");
        assert_eq!(field(|s| s.token = SecretString::from("short")), "token");
        assert_eq!(
            field(|s| s.cgroup = Some(CgroupSpec { name: "../x".into(), parent: None, loopback: None })),
            "cgroup.name"
        );
        assert_eq!(
            field(|s| s.mounts = Some(MountSpec { hide: vec!["/".into()], binds: vec![] })),
            "mounts.hide"
        );
        assert_eq!(
            field(|s| {
                let binds = vec![Bind { path: "/etc".into(), read_only: true }];
                s.mounts = Some(MountSpec { hide: vec!["/root".into()], binds });
            }),
            "mounts.binds"
        );
    }
}
