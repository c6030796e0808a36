//! Targets of the runtime `docker`: a socket of Docker or Podman, and what images are built on.

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use clawfarm_api::DockerSettings;
use clawfarm_control::OpenTarget;
use clawfarm_model::name::TargetName;
use clawfarm_model::target::{RuntimeKind, Target};
use clawfarm_model::{Code, Error, Result};
use clawfarm_runtime::Runtime;
use clawfarm_runtime_docker::{DockerConfig, DockerRuntime};

use crate::kept_targets;

/// Opens them for a server.
pub(crate) struct DockerTargets {
    /// The server's home.
    pub(crate) home: PathBuf,
    /// The port of its listener for claws.
    pub(crate) claw_port: u16,
}

#[async_trait]
impl OpenTarget for DockerTargets {
    async fn open(&self, target: &Target) -> Result<Arc<dyn Runtime>> {
        let config = self.config(target)?;
        let is_socket = std::fs::metadata(&config.socket).is_ok_and(|meta| meta.file_type().is_socket());
        if !is_socket {
            return Err(Error::invalid(
                "settings.socket",
                format!("there is no socket '{}'", config.socket.display()),
            )
            .fix("start the container engine, or give the path of its socket with --socket"));
        }
        Ok(Arc::new(DockerRuntime::open(config).await?))
    }

    async fn keep(&self, target: &Target) -> Result<()> {
        kept_targets::keep(&self.home, target)
    }

    async fn forget(&self, name: &TargetName) -> Result<()> {
        kept_targets::forget(&self.home, name)
    }
}

impl DockerTargets {
    /// Opens a target that was added before: its engine may be started after the server.
    pub(crate) async fn open_again(&self, target: &Target) -> Result<Arc<dyn Runtime>> {
        Ok(Arc::new(DockerRuntime::open(self.config(target)?).await?))
    }

    fn config(&self, target: &Target) -> Result<DockerConfig> {
        if target.runtime != RuntimeKind::Docker {
            return Err(Error::new(
                Code::Unsupported,
                format!("targets of the runtime '{}' can't be added", target.runtime),
            )
            .field("runtime")
            .fix("add one of docker; processes run on the server's own target"));
        }
        let settings: DockerSettings = serde_json::from_value(target.settings.clone()).map_err(|e| {
            Error::invalid("settings", format!("the settings of target '{}' make no sense: {e}", target.name))
                .fix("remove the target and add it again")
        })?;
        let socket = PathBuf::from(&settings.socket);
        if !socket.is_absolute() {
            return Err(Error::invalid("settings.socket", format!("'{}' is no whole path", settings.socket))
                .fix("give the path of the engine's socket, such as /var/run/docker.sock"));
        }
        let mut config = DockerConfig::new(&self.home, target.name.clone());
        config.socket = socket;
        config.base_image = settings.base_image;
        config.claw_port = self.claw_port;
        Ok(config)
    }
}
