//! What the runtime is told.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clawfarm_qemu::Accelerator;
use clawfarm_vm_images::ImagesConfig;

/// Which ports of this machine's own addresses (127.0.0.1) its virtual machines may connect to, at
/// 10.0.2.2, beside the server's listener for claws and the DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPorts {
    /// All of them.
    All,
    /// These.
    Only(Vec<u16>),
}

/// How a [`crate::VmRuntime`] is set up.
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// The server's home (`CLAWFARM_HOME`): instances and datasets are kept in it.
    pub home: PathBuf,
    /// Where images are.
    pub images: ImagesConfig,
    /// Where claws' software is kept, shared with the machine's other runtimes
    /// (`CLAWFARM_CACHE_DIR`); `<home>/cache` unless said.
    pub cache_dir: PathBuf,
    /// The npm to install with: a path, or a name to be found in `PATH`.
    pub npm: OsString,
    /// How long one run of npm may take; 20 minutes unless said.
    pub npm_time_limit: Duration,
    /// How a shim is started; the instance's folder is added as the last argument.
    /// `/proc/self/exe shim` unless said.
    pub shim_command: Vec<OsString>,
    /// How a virtiofsd is started, where there is one of our own; the distribution's is used
    /// when absent. The program's path must be absolute.
    pub virtiofsd: Option<Vec<String>>,
    /// What runs the machines' processors; found out when absent.
    pub accelerator: Option<Accelerator>,
    /// The agent that goes into machines, as a program of its own; without one they have none, and
    /// commands go by SSH.
    pub agent: Option<Bytes>,
    /// The port of the server's listener for claws; 0 while it has none.
    pub claw_port: u16,
    /// What machines reach of this one's own services; needs root to be in force, and is said where
    /// it is not.
    pub host_ports: HostPorts,
    /// Whether each instance gets a user id of its own. Needs root; `true` for root unless said.
    pub own_users: bool,
}

impl VmConfig {
    /// The usual set-up for a home; `cache` is another folder for what may be fetched again.
    #[must_use]
    pub fn new(home: impl Into<PathBuf>, cache: Option<&Path>) -> Self {
        let home = home.into();
        Self {
            images: ImagesConfig::of(&home, cache),
            cache_dir: cache.map_or_else(|| home.join("cache"), Path::to_owned),
            npm: "npm".into(),
            npm_time_limit: Duration::from_secs(20 * 60),
            home,
            shim_command: vec!["/proc/self/exe".into(), "shim".into()],
            virtiofsd: None,
            agent: None,
            accelerator: None,
            claw_port: 0,
            host_ports: HostPorts::Only(Vec::new()),
            own_users: rustix::process::geteuid().is_root(),
        }
    }
}
