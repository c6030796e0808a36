//! Claws as hardened containers of Docker or Podman.
//!
//! [`DockerRuntime`] makes sure of the image, prepares each instance's folders on this
//! machine, makes its container and from then on only looks: by the container's name and
//! labels, and by the engine's events. It keeps nothing in memory that it could not find
//! again; what a container can't tell of itself (which launch it runs, how it ended before
//! the engine started it again) is in `container.json` beside the instance's data.
//!
//! `docs/design/0014-docker.md` has the decisions.

mod backup;
mod config;
mod dataset;
mod diagnose;
mod dial;
mod drift;
mod end;
mod engine;
mod exec;
mod fault;
mod files;
mod image;
mod inner;
mod logs;
mod network;
mod observe;
mod paths;
mod prepare;
mod record;
mod recover;
mod relay;
mod runtime;
mod spec;
mod start;
mod stats;
mod upgrade;
mod watch;

pub use config::{DEFAULT_SOCKET, DockerConfig, PORTS};
pub use runtime::DockerRuntime;
