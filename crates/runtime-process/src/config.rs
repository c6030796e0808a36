//! What the process runtime is told.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How a [`crate::ProcessRuntime`] is set up.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// The server's home (`CLAWFARM_HOME`): instances and datasets are kept in it.
    pub home: PathBuf,
    /// Where downloads and installations are kept (`CLAWFARM_CACHE_DIR`); several servers
    /// may share it. `<home>/cache` unless said.
    pub cache_dir: PathBuf,
    /// How a shim is started; the instance's folder is added as the last argument.
    /// `/proc/self/exe shim` unless said: the very file that runs now, also when a newer
    /// one has been put in its place meanwhile.
    pub shim_command: Vec<OsString>,
    /// The npm to install with: a path, or a name to be found in `PATH`.
    pub npm: OsString,
    /// How long one run of npm may take; 20 minutes unless said. An OpenClaw takes half a
    /// minute on a good line.
    pub npm_time_limit: Duration,
    /// The port of the server's listener for claws; 0 while it has none.
    pub claw_port: u16,
    /// Whether each instance gets a user id of its own. Needs root; `true` for root unless said.
    pub own_users: bool,
}

impl ProcessConfig {
    /// The usual set-up for a home.
    #[must_use]
    pub fn new(home: impl Into<PathBuf>) -> Self {
        let home = home.into();
        Self {
            cache_dir: home.join("cache"),
            home,
            shim_command: vec!["/proc/self/exe".into(), "shim".into()],
            npm: "npm".into(),
            npm_time_limit: Duration::from_secs(20 * 60),
            claw_port: 0,
            own_users: rustix::process::geteuid().is_root(),
        }
    }
}
