//! What the Docker runtime is told.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clawfarm_model::name::TargetName;

/// Where Docker's daemon listens when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// Where gateways' ports are chosen from, as document 003 has it. Below 20000, where those of
/// local processes begin, so that the two never take each other's.
pub const PORTS: RangeInclusive<u16> = 10_000..=19_999;

/// How a [`crate::DockerRuntime`] is set up.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    /// The server's home (`CLAWFARM_HOME`): instances' data is kept in it.
    pub home: PathBuf,
    /// The name of its target: several may share the home.
    pub target: TargetName,
    /// The engine's socket.
    pub socket: PathBuf,
    /// What images are built on; the recipe's own base unless said.
    pub base_image: Option<String>,
    /// The port of the server's listener for claws, on loopback; 0 while it has none.
    pub claw_port: u16,
    /// The certificates that the build of an image may trust, as PEM; the first that exists of
    /// the places where Linux distributions keep theirs unless said.
    pub certificates: Option<PathBuf>,
}

impl DockerConfig {
    /// The usual set-up for a home.
    #[must_use]
    pub fn new(home: impl Into<PathBuf>, target: TargetName) -> Self {
        Self {
            home: home.into(),
            target,
            socket: PathBuf::from(DEFAULT_SOCKET),
            base_image: None,
            claw_port: 0,
            certificates: None,
        }
    }
}
